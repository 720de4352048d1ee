//! Several servers a side: one that is lost takes its own connections with it and no other's, gets no new ones, and has its
//! share again when it is back. Their content is read only: servers of a side share what they store.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    gateway::{Gateway, policy},
    net::{Host, Lab, SERVICE_PORT, VIP},
    programs::ListsServer,
};
use netns_tests::{Scene, all_answered, connect, hook, lab_builder, rounds};
use serde_json::Value;

/// Servers of each side.
const SERVERS: u8 = 3;
/// So many that a server without one is no chance (3 · (2/3)^48).
const CONNECTIONS: usize = 48;
const SIDES: [Host; 2] = [Host::Primary, Host::Shadow];

/// A scene whose sides have [`SERVERS`] each.
struct Balanced {
    scene: Scene,
    servers: [Vec<Option<ListsServer>>; 2],
}

fn address(host: Host, n: u8) -> SocketAddr {
    let [a, b, c, d] = host.address().octets();
    SocketAddr::from((Ipv4Addr::new(a, b, c, d + n), SERVICE_PORT))
}

fn name(host: Host, n: u8) -> String {
    format!("{host}-{n}")
}

fn start(lab: &Lab, host: Host, n: u8) -> Result<ListsServer> {
    ListsServer::start(&lab.host(host), address(host, n), &name(host, n), &["--volatile"])
}

impl Balanced {
    fn new() -> Result<Self> {
        let lab = lab_builder()?.up()?;
        let mut servers = [Vec::new(), Vec::new()];
        let mut text = policy(&format!("hook = \"{}\"", hook()?), "[migration]\nhealth = \"/ping\"")?;
        for (servers, host) in servers.iter_mut().zip(SIDES) {
            for n in 0..SERVERS {
                if n > 0 {
                    let own = format!("{}/24", address(host, n).ip());
                    lab.host(host).check(Command::new("ip").args(["addr", "add", &own, "dev", "eth0"]))?;
                }
                servers.push(Some(start(&lab, host, n)?));
            }
            let all: Vec<String> = (0..SERVERS).map(|n| format!("\"{}\"", address(host, n))).collect();
            let one = format!("address = \"{}\"", host.service());
            ensure!(text.contains(&one), "{text}");
            text = text.replace(&one, &format!("addresses = [{}]", all.join(", ")));
        }
        let gateway = Gateway::start(&lab, &text)?;
        let scene = Scene { gateway, servers: [None, None], lab };
        scene.ctl(&["join", "shop"])?;
        Ok(Self { scene, servers })
    }

    fn kill(&mut self, host: Host, n: u8) {
        self.servers[usize::from(host == Host::Shadow)][usize::from(n)] = None;
    }

    fn restart(&mut self, host: Host, n: u8) -> Result<()> {
        let server = start(&self.scene.lab, host, n)?;
        self.servers[usize::from(host == Host::Shadow)][usize::from(n)] = Some(server);
        self.wait_well(host, n, true)
    }

    /// Waits until the health checks say so of a server.
    fn wait_well(&self, host: Host, n: u8, well: bool) -> Result<()> {
        let what = format!("{} {}", name(host, n), if well { "well" } else { "not well" });
        self.scene.wait_status(&what, |status| {
            let server = &status[host.name()]["servers"][usize::from(n)];
            server["well"] == well && server["takes"] == well
        })
    }

    /// Connections to the service that are kept open, with the server that answered each.
    fn open(&self) -> Result<Vec<(TcpStream, String)>> {
        let one = || {
            let mut stream = connect(&self.scene.lab, Host::Client, SocketAddr::from((VIP, SERVICE_PORT)))?;
            let server = ask(&mut stream)?;
            Ok((stream, server))
        };
        (0..CONNECTIONS).map(|_| one()).collect()
    }

    /// Waits until the status has so many connections to each of a side's servers.
    fn wait_connections(&self, host: Host, each: &[usize]) -> Result<()> {
        let of = |server: &Value| server["connections"].as_u64().and_then(|n| usize::try_from(n).ok());
        self.scene.wait_status(&format!("connections {each:?}"), |status| {
            let servers = status[host.name()]["servers"].as_array();
            servers.is_some_and(|servers| servers.iter().map(of).eq(each.iter().copied().map(Some)))
        })
    }

    /// Starts the daemon again under another policy.
    fn run_with(&mut self, policy: &str) -> Result<()> {
        std::fs::write(self.scene.gateway.folder().join("policy.toml"), policy)?;
        self.scene.gateway.stop()?;
        self.scene.gateway.run(&[])
    }

    fn status(&self) -> Result<Value> {
        self.scene.gateway.status()
    }
}

/// A read over a kept connection: the name of the server that answered it.
fn ask(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(b"GET /ping HTTP/1.1\r\nHost: shop\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 1_024];
    loop {
        let bytes = stream.read(&mut piece)?;
        ensure!(bytes > 0, "closed after {} bytes", answer.len());
        answer.extend(&piece[..bytes]);
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length: usize = field("content-length:").context("no length")?.parse()?;
        if body.len() < length {
            continue;
        }
        ensure!(head.starts_with("http/1.1 200"), "{head}");
        return Ok(field("x-server:").context("no server")?.to_owned());
    }
}

/// How many of these connections each of a side's servers has; every one has some.
fn shares(connections: &[(TcpStream, String)], host: Host, without: Option<u8>) -> Result<Vec<usize>> {
    let of = |n: u8| connections.iter().filter(|(_, server)| *server == name(host, n)).count();
    let shares: Vec<usize> = (0..SERVERS).map(of).collect();
    ensure!(shares.iter().sum::<usize>() == connections.len(), "{shares:?} of {}", connections.len());
    for (n, share) in (0..SERVERS).zip(&shares) {
        ensure!((*share > 0) == (Some(n) != without), "{shares:?} without {without:?}");
    }
    Ok(shares)
}

/// Asks over each connection once more: each is answered by its server still, but for those of the one that was lost.
fn only_its_own_are_hurt(connections: Vec<(TcpStream, String)>, lost: &str) -> Result<()> {
    let (mut own, mut hurt) = (0, 0);
    for (mut stream, server) in connections {
        let again = ask(&mut stream);
        if server == lost {
            own += 1;
            hurt += usize::from(again.is_err());
            continue;
        }
        let again = again.with_context(|| format!("a connection to {server}, which lives"))?;
        ensure!(again == server, "{server}'s connection was answered by {again}");
    }
    ensure!(own > 0 && hurt == own, "{hurt} of {own} connections to {lost}, which is dead");
    Ok(())
}

#[test]
fn a_lost_server_of_the_authority_takes_its_own_connections_with_it_alone() -> Result<()> {
    let mut balanced = Balanced::new()?;
    let open = balanced.open()?;
    balanced.wait_connections(Host::Primary, &shares(&open, Host::Primary, None)?)?;
    drop(open);
    for (host, order) in [(Host::Primary, "cutover"), (Host::Shadow, "rollback")] {
        let open = balanced.open()?;
        shares(&open, host, None)?;
        balanced.kill(host, 1);
        only_its_own_are_hurt(open, &name(host, 1))?;
        balanced.wait_well(host, 1, false)?;
        let others = balanced.open()?;
        shares(&others, host, Some(1))?;
        let status = balanced.status()?;
        ensure!(status["primary"]["in_sync"] == true && status["shadow"]["in_sync"] == true, "{status}");
        balanced.restart(host, 1)?;
        shares(&balanced.open()?, host, None)?;
        // Whoever was there before it came back stays where it is.
        only_moves(others, order, &balanced)?;
    }
    Ok(())
}

/// Connections that are open go over to the other side by an order, without an error.
fn only_moves(connections: Vec<(TcpStream, String)>, order: &str, balanced: &Balanced) -> Result<()> {
    balanced.scene.ctl(&[order, "shop"])?;
    let to = if order == "cutover" { Host::Shadow } else { Host::Primary };
    for (mut stream, server) in connections {
        ensure!(ask(&mut stream).with_context(|| format!("{order}: {server}'s"))?.starts_with(to.name()));
    }
    Ok(())
}

/// It keeps what it has and gets no more, though the others have moved up in the list.
#[test]
fn a_server_that_is_left_out_of_the_policy_is_drained_and_may_come_back() -> Result<()> {
    let mut balanced = Balanced::new()?;
    let text = std::fs::read_to_string(balanced.scene.gateway.folder().join("policy.toml"))?;
    let first = format!("\"{}\", ", address(Host::Primary, 0));
    ensure!(text.contains(&first), "{text}");
    let open = balanced.open()?;
    shares(&open, Host::Primary, None)?;
    balanced.run_with(&text.replacen(&first, "", 1))?;
    shares(&balanced.open()?, Host::Primary, Some(0))?;
    let mut still = Vec::new();
    for (mut stream, server) in open {
        let again = ask(&mut stream).with_context(|| format!("a connection to {server}"))?;
        ensure!(again == server, "{server}'s connection was answered by {again}");
        still.push((stream, server));
    }
    balanced.run_with(&text)?;
    balanced.wait_well(Host::Primary, 0, true)?;
    shares(&balanced.open()?, Host::Primary, None)?;
    shares(&still, Host::Primary, None)?;
    Ok(())
}

/// A mirror's server may go at any weight, and no client notices: its legs are dialled anew, to the others.
#[test]
fn a_lost_server_of_the_mirror_costs_no_request_and_no_sync_at_any_weight() -> Result<()> {
    let mut balanced = Balanced::new()?;
    let mut config = balanced.scene.client(CONNECTIONS);
    config.think = Duration::from_millis(20);
    config.write_fraction = 0.0;
    config.duration = Some(Duration::from_secs(300));
    let client = balanced.scene.start_client(config)?;
    let rounds = rounds(1, 20);
    for round in 1..=rounds {
        for (n, weight) in [(0, "0"), (1, "50"), (2, "100")] {
            if n == 2 {
                // All legs go to it by now. Those two come back, and take over from it.
                balanced.restart(Host::Shadow, 0)?;
                balanced.restart(Host::Shadow, 1)?;
            }
            balanced.scene.ctl(&["weight", "shop", weight])?;
            client.mark(&format!("{weight}-{round}"))?;
            balanced.scene.wait_status("two legs", |status| status["two_legs"] == CONNECTIONS)?;
            client.tick()?;
            let lost = balanced.status()?["shadow"]["legs_lost"].as_u64().context("legs lost")?;
            // None is under way: what it has begun to answer no packet could cure.
            client.pause()?;
            balanced.kill(Host::Shadow, n);
            client.resume()?;
            balanced.wait_well(Host::Shadow, n, false)?;
            balanced.scene.wait_status("two legs again", |status| status["two_legs"] == CONNECTIONS)?;
            let status = balanced.status()?;
            ensure!(status["shadow"]["in_sync"] == true, "{status}");
            let hurt = status["shadow"]["legs_lost"].as_u64().context("legs lost")? - lost;
            ensure!(hurt > 0, "at {weight} the server that died had no leg: {status}");
        }
        if round < rounds {
            balanced.restart(Host::Shadow, 2)?;
        }
    }
    let summary = client.stop()?;
    all_answered(&summary)?;
    let Some(last) = summary.windows.iter().find(|window| window.name.starts_with("100-")) else {
        bail!("no window: {summary:#?}")
    };
    for n in 0..SERVERS {
        ensure!(last.servers.contains_key(&name(Host::Shadow, n)), "{n} answered nothing: {last:#?}");
    }
    Ok(())
}
