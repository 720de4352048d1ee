//! An application of two services at two addresses, each with its own servers: joined, shifted and moved as one, and out of sync
//! as one. One of them may be of datagrams.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    checker::{Config, read_journals},
    gateway::{APP, Gateway},
    http_client,
    lists::parse_dump,
    names::{
        self, Mark, NameServer,
        load::{Load, Plan},
    },
    net::{Host, Lab, SERVICE_PORT, VIP},
    programs::{ListsServer, binary},
    proof::prove,
};
use netns_tests::{Running, Scene, all_answered, hook, lab_builder, share};

/// What clients of the second service talk to.
const VIP2: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
/// The ports of the second service: its clients', and both sides'.
const PORT: u16 = 9_000;
const SIDES: [Host; 2] = [Host::Primary, Host::Shadow];
/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);

/// The second service's server of a side: on another address of the first one's host.
fn second(host: Host) -> SocketAddr {
    let [a, b, c, d] = host.address().octets();
    SocketAddr::from((Ipv4Addr::new(a, b, c, d + 1), PORT))
}

/// A service as a policy names it, with the same gateway's address towards a side as any other.
fn service(name: &str, vip: SocketAddr, servers: [SocketAddr; 2]) -> String {
    let side = |host: Host, at: SocketAddr| {
        format!("[services.{host}]\naddress = \"{at}\"\nnat = \"{}\"\n", host.nat_pool()[0])
    };
    let [primary, shadow] = [0, 1].map(|n| side(SIDES[n], servers[n]));
    format!("[[services]]\nname = \"{name}\"\nvip = \"{vip}\"\n{primary}{shadow}")
}

fn web() -> String {
    service("web", SocketAddr::from((VIP, SERVICE_PORT)), SIDES.map(|host| host.service().into()))
}

fn api() -> String {
    service("api", SocketAddr::from((VIP2, PORT)), SIDES.map(second))
}

/// A policy of these services, whose join hook copies the lists of each that is named.
fn policy(named: &[&str], services: &str) -> Result<String> {
    let lists = binary("lists")?;
    let copy = |end: &str| {
        format!("{} copy --from http://$MIRROR_FROM{end} --to http://$MIRROR_TO{end}", lists.display())
    };
    let copies: Vec<String> = named.iter().map(|end| copy(end)).collect();
    Ok(format!(
        "name = \"{APP}\"\nhook = \"{}\"\njoin_hook = [\"sh\", \"-c\", \"{}\"]\n{services}",
        hook()?,
        copies.join(" && ")
    ))
}

/// A lab whose gateway has both services' addresses, and whose servers' hosts have a second one.
fn lab() -> Result<Lab> {
    let lab = lab_builder()?.up()?;
    let add = |host: Host, address: String, device: &str| {
        lab.host(host).check(Command::new("ip").args(["addr", "add", &address, "dev", device]))
    };
    add(Host::Gateway, format!("{VIP2}/32"), Host::Client.gateway_device())?;
    for host in SIDES {
        add(host, format!("{}/24", second(host).ip()), "eth0")?;
    }
    Ok(lab)
}

/// A scene whose first service's servers are its own.
struct Services {
    second: [Option<ListsServer>; 2],
    scene: Scene,
}

impl Services {
    fn under(policy: &str) -> Result<Self> {
        let lab = lab()?;
        let first = |host: Host| ListsServer::on(&lab, host, &["--volatile"]).map(Some);
        let servers = [first(Host::Primary)?, first(Host::Shadow)?];
        let second = [Self::start(&lab, Host::Primary)?, Self::start(&lab, Host::Shadow)?].map(Some);
        let gateway = Gateway::start(&lab, policy)?;
        Ok(Self { second, scene: Scene { gateway, servers, lab } })
    }

    fn joined() -> Result<Self> {
        let services = Self::under(&policy(&["_WEB", "_API"], &(web() + &api()))?)?;
        services.scene.ctl(&["join", APP])?;
        Ok(services)
    }

    fn start(lab: &Lab, host: Host) -> Result<ListsServer> {
        ListsServer::start(&lab.host(host), second(host), host.name(), &["--volatile"])
    }

    fn journals(&self) -> PathBuf {
        self.scene.gateway.folder().join("second")
    }

    /// Clients of both services, until they are stopped.
    fn clients(&self, connections: [usize; 2]) -> [Config; 2] {
        let [mut first, mut second] = connections.map(|connections| self.scene.client(connections));
        (first.duration, second.duration) = (Some(LONG), Some(LONG));
        (first.think, second.think) = (PAUSE, PAUSE);
        second.target = SocketAddr::from((VIP2, PORT));
        second.log = Some(self.journals());
        second.control = Some(self.scene.gateway.folder().join("second.sock"));
        second.run = "second".into();
        [first, second]
    }

    fn start_clients(&self, configs: [Config; 2]) -> Result<[Running; 2]> {
        let [first, second] = configs;
        Ok([self.scene.start_client(first)?, self.scene.start_client(second)?])
    }

    /// Compares both services' clients' journals with their servers.
    fn proven(&self) -> Result<()> {
        self.scene.proven()?;
        let mut sides = Vec::new();
        for host in SIDES {
            let dump =
                self.scene.lab.host(Host::Gateway).run(|| http_client::get(second(host), "/dump"))??;
            sides.push((host.name().to_owned(), parse_dump(&String::from_utf8(dump)?).context("a dump")?));
        }
        let proof = prove(&read_journals(&self.journals())?, &sides);
        ensure!(proof.is_ok() && proof.writes > 0, "{proof:#?}");
        Ok(())
    }
}

#[test]
fn services_at_two_addresses_are_joined_shifted_and_moved_as_one() -> Result<()> {
    let services = Services::joined()?;
    let scene = &services.scene;
    let clients = services.start_clients(services.clients([8, 8]))?;
    let mark = |name: &str| clients.iter().try_for_each(|client| client.mark(name));
    let tick = || clients.iter().try_for_each(|client| client.tick().map(drop));
    tick()?;
    scene.wait_status("two legs", |status| status["two_legs"] == 16)?;
    for (command, window) in [
        (["weight", APP, "50"].as_slice(), "half"),
        (&["cutover", APP], "moved"),
        (&["rollback", APP], "back"),
    ] {
        scene.ctl(command)?;
        mark(window)?;
        tick()?;
        // The first may have begun before the move.
        tick()?;
    }
    let status = scene.gateway.status()?;
    for (n, (name, listens)) in
        [("web", "10.77.1.1:8080/tcp"), ("api", "10.77.1.2:9000/tcp")].iter().enumerate()
    {
        let service = &status["services"][n];
        ensure!(service["name"] == *name && service["listens"][0] == *listens, "{status:#}");
        ensure!(service["legs"][0] == 8 && service["legs"][1] == 8, "{status:#}");
    }
    let flows = scene.ctl(&["flows"])?;
    let flows = flows["flows"].as_array().context("flows")?;
    let of = |name: &str| flows.iter().filter(|flow| flow["service_name"] == name).count();
    ensure!((of("web"), of("api")) == (8, 8), "{flows:#?}");
    for client in clients {
        let summary = client.stop()?;
        all_answered(&summary)?;
        let shares = ["half", "moved", "back"].map(|window| share(&summary, window));
        let [half, moved, back] = shares.map(|share| share.unwrap_or(f64::NAN));
        ensure!((0.3..=0.7).contains(&half), "{half}: {summary:#?}");
        // Most: one that isn't settled yet is answered as the last one was.
        ensure!(moved > 0.5 && back < 0.5, "{moved} {back}: {summary:#?}");
    }
    services.proven()
}

/// P1, P2: the other service's writes would reach a side that isn't whole any more; its reads would be answered from there.
#[test]
fn a_killed_shadow_of_one_service_puts_the_application_out_of_sync() -> Result<()> {
    let mut services = Services::joined()?;
    let [mut first, second] = services.clients([8, 8]);
    first.write_fraction = 0.0;
    let clients = services.start_clients([first, second])?;
    clients.iter().try_for_each(|client| client.tick().map(drop))?;
    services.second[1] = None;
    services.scene.wait_status("out of sync", |status| status["shadow"]["in_sync"] == false)?;
    let status = services.scene.gateway.status()?;
    let reason = status["shadow"]["reason"].as_str().context("a reason")?;
    ensure!(reason.contains("of api"), "{reason}");
    services.scene.wait_status("the dead server is named", |status| {
        let servers = status["shadow"]["servers"].as_array();
        servers
            .is_some_and(|servers| servers.iter().any(|one| one["service"] == "api" && one["well"] == false))
    })?;
    clients.iter().try_for_each(|client| client.mark("alone"))?;
    clients.iter().try_for_each(|client| client.tick().map(drop))?;
    services.second[1] = Some(Services::start(&services.scene.lab, Host::Shadow)?);
    services.scene.ctl(&["join", APP])?;
    services.scene.wait_status("two legs", |status| status["two_legs"] == 16)?;
    for client in clients {
        client.tick()?;
        let summary = client.stop()?;
        all_answered(&summary)?;
        ensure!(share(&summary, "alone")? == 0.0, "{summary:#?}");
    }
    services.proven()
}

/// T31: a service's few connections aren't lost among another's many.
#[test]
fn a_lost_shadow_of_one_service_is_found_among_anothers_connections() -> Result<()> {
    let mut services = Services::joined()?;
    let mut configs = services.clients([24, 3]);
    for config in &mut configs {
        config.write_fraction = 0.0;
        config.think = Duration::from_millis(100);
    }
    let clients = services.start_clients(configs)?;
    services.scene.wait_status("two legs", |status| status["two_legs"] == 27)?;
    // It stays away: one that listens again before a leg is dialled is as one that closes idle connections.
    services.second[1] = None;
    services.scene.wait_status("out of sync", |status| status["shadow"]["in_sync"] == false)?;
    let reason = services.scene.gateway.status()?["shadow"]["reason"].to_string();
    ensure!(reason.contains("legs of api were lost at once"), "{reason}");
    for client in clients {
        all_answered(&client.stop()?)?;
    }
    Ok(())
}

/// A server knows no service: its legs come from one address of the gateway, whichever address their clients talk to.
#[test]
fn two_services_may_share_their_servers() -> Result<()> {
    let both = SIDES.map(|host| host.service().into());
    let of = |name: &str, vip: Ipv4Addr, port: u16| service(name, SocketAddr::from((vip, port)), both);
    let text = of("web", VIP, SERVICE_PORT) + &of("api", VIP2, PORT);
    let services = Services::under(&policy(&["_API"], &text)?)?;
    services.scene.ctl(&["join", APP])?;
    // One journal: what both have written is in the same servers.
    let [first, mut second] = services.clients([8, 8]);
    second.log.clone_from(&first.log);
    let clients = services.start_clients([first, second])?;
    clients.iter().try_for_each(|client| client.tick().map(drop))?;
    services.scene.ctl(&["weight", APP, "50"])?;
    services.scene.ctl(&["cutover", APP])?;
    clients.iter().try_for_each(|client| client.tick().map(drop))?;
    for client in clients {
        all_answered(&client.stop()?)?;
    }
    services.scene.proven().map(drop)
}

/// A service that comes to an application at a restart of the daemon has a shadow that has never joined.
#[test]
fn an_added_service_leaves_connections_open_and_the_shadow_is_to_join_again() -> Result<()> {
    let mut services = Services::under(&policy(&["_WEB"], &web())?)?;
    services.scene.ctl(&["join", APP])?;
    let [first, second] = services.clients([8, 8]);
    let first = services.scene.start_client(first)?;
    first.tick()?;
    let opened = services.scene.active_opens(Host::Client)?;
    let file = services.scene.gateway.folder().join("policy.toml");
    std::fs::write(&file, policy(&["_WEB", "_API"], &(api() + &web()))?)?;
    services.scene.gateway.stop()?;
    services.scene.gateway.run(&[])?;
    let status = services.scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == false, "{status:#}");
    let reason = status["shadow"]["reason"].as_str().context("a reason")?;
    ensure!(reason.contains("never joined"), "{reason}");
    ensure!(services.scene.active_opens(Host::Client)? == opened, "the client had to connect again");
    let second = services.scene.start_client(second)?;
    services.scene.ctl(&["join", APP])?;
    services.scene.wait_status("two legs", |status| status["two_legs"] == 16)?;
    // The same policy again: nothing is new.
    services.scene.gateway.stop()?;
    services.scene.gateway.run(&[])?;
    ensure!(services.scene.gateway.status()?["shadow"]["in_sync"] == true, "the same policy");
    for client in [first, second] {
        client.tick()?;
        all_answered(&client.stop()?)?;
    }
    services.proven()
}

const PRIMARY: Mark = 1;
const SHADOW: Mark = 2;
/// Rounds of questions of each client of the name server in a window.
const ROUNDS: usize = 60;

#[test]
fn a_service_of_datagrams_and_one_of_connections_are_moved_as_one() -> Result<()> {
    let at = |host: Host| SocketAddr::from((host.address(), names::PORT));
    let dns = service("dns", SocketAddr::from((VIP, names::PORT)), SIDES.map(at));
    let dns = dns.replace("name = \"dns\"\n", "name = \"dns\"\nprotocol = \"udp\"\n");
    let services = Services::under(&policy(&["_API"], &(dns + &api()))?)?;
    let (scene, lab) = (&services.scene, &services.scene.lab);
    for host in Host::ENDS {
        lab.host(Host::Gateway).sh(&format!("ethtool -K {} tx off", host.gateway_device()))?;
    }
    let start = |host: Host, mark| NameServer::start(&lab.host(host), host.address(), mark);
    let (_primary, shadow) = (start(Host::Primary, PRIMARY)?, start(Host::Shadow, SHADOW)?);
    scene.ctl(&["join", APP])?;
    let [_, config] = services.clients([1, 8]);
    let client = scene.start_client(config)?;
    let target = SocketAddr::from((VIP, names::PORT));
    let patience = Duration::from_secs(3);
    let load = Load::start(&lab.host(Host::Client), Plan { target, clients: 4, updates: true, patience })?;
    let mut windows = Vec::new();
    for (command, window) in [
        (["weight", APP, "100"].as_slice(), "shifted"),
        (&["cutover", APP], "moved"),
        (&["rollback", APP], "back"),
    ] {
        // What is asked while it is carried out is in a window of its own.
        load.turn();
        scene.ctl(command)?;
        client.mark(window)?;
        windows.push(load.next_window(ROUNDS)?);
        client.tick()?;
        client.tick()?;
    }
    shadow.fall_silent();
    scene.wait_status("out of sync", |status| status["shadow"]["in_sync"] == false)?;
    let reason = scene.gateway.status()?["shadow"]["reason"].to_string();
    ensure!(reason.contains("didn't answer a datagram") && reason.contains("of dns"), "{reason}");
    client.mark("alone")?;
    client.tick()?;
    let seen = load.stop()?;
    ensure!(seen.windows.iter().all(|window| window.lost == 0), "{seen:#?}");
    let summary = client.stop()?;
    all_answered(&summary)?;
    for ((name, window), (reads, updates)) in
        ["shifted", "moved", "back"].iter().zip(windows).zip([(1.0, PRIMARY), (1.0, SHADOW), (0.0, PRIMARY)])
    {
        let dns = &seen.windows[window];
        ensure!(dns.share(SHADOW) == reads, "{name}: {dns:?}");
        ensure!(dns.updates.len() == 1 && dns.updates.contains_key(&updates), "{name}: {dns:?}");
        let tcp = share(&summary, name)?;
        ensure!((tcp - reads).abs() < 0.5, "{name}: {tcp}: {summary:#?}");
    }
    ensure!(share(&summary, "alone")? == 0.0, "{summary:#?}");
    Ok(())
}
