//! IPv6, with IPv4 beside it: clients of either family before servers of either, mirrored, shared and moved.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    checker::Config,
    gateway::{Gateway, policy_between},
    net::{Host, SERVICE_PORT, VIP, VIP6},
    programs::ListsServer,
    transfer::{download, upload},
    wait::wait_for,
};
use netns_tests::{Running, SOON, Scene, all_answered, hook, lab_builder, mostly_answered_by, share};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);
/// Bytes of a body: thousands of segments, in super-packets where the devices make them.
const BODY: u64 = 5_000_000;
const BOTH: [SocketAddr; 2] = [FOUR, SIX];
const FOUR: SocketAddr = SocketAddr::new(IpAddr::V4(VIP), SERVICE_PORT);
const SIX: SocketAddr = SocketAddr::new(IpAddr::V6(VIP6), SERVICE_PORT);

/// A family of addresses.
#[derive(Clone, Copy)]
enum Family {
    Four,
    Six,
}

/// A scene with a service at these addresses, and servers of these families.
fn scene(vips: &[SocketAddr], servers: [Family; 2]) -> Result<Scene> {
    scene_with(vips, servers, "")
}

/// The same with settings of the application.
fn scene_with(vips: &[SocketAddr], servers: [Family; 2], more: &str) -> Result<Scene> {
    let lab = lab_builder()?.six(true).up()?;
    let hosts = [Host::Primary, Host::Shadow];
    // They listen at all addresses: what they have is asked for over IPv4.
    let listen = SocketAddr::new("::".parse()?, SERVICE_PORT);
    let start = |host: Host| ListsServer::start(&lab.host(host), listen, host.name(), &["--volatile"]);
    let running = [Some(start(Host::Primary)?), Some(start(Host::Shadow)?)];
    let side = |at: usize| match servers[at] {
        Family::Four => (hosts[at].service().into(), hosts[at].nat_pool()[0].into()),
        Family::Six => ((hosts[at].address6(), SERVICE_PORT).into(), hosts[at].nat6().into()),
    };
    let service = match vips {
        [vip] => format!("vip = \"{vip}\""),
        _ => format!("vip = \"{FOUR}\"\nvip6 = \"{VIP6}\""),
    };
    let policy =
        policy_between(&format!("hook = \"{}\"\n{more}", hook()?), &service, [side(0), side(1)], "")?;
    let gateway = Gateway::start(&lab, &policy)?;
    Scene { gateway, servers: running, lab }.joined()
}

/// A client of each address, with journals beside each other's and those of other runs.
fn clients(scene: &Scene, vips: &[SocketAddr], run: &str) -> Result<Vec<Running>> {
    let start = |vip: &SocketAddr| {
        let run = format!("{run}-{}", if vip.is_ipv4() { "four" } else { "six" });
        let control = scene.gateway.folder().join(format!("{run}.sock"));
        let config = Config { target: *vip, run, control: Some(control), ..scene.client(8) };
        scene.start_client(Config { think: Duration::from_millis(2), duration: Some(LONG), ..config })
    };
    vips.iter().map(start).collect()
}

/// A body each way, to and from each address.
fn bodies_are_whole(scene: &Scene, vips: &[SocketAddr]) -> Result<()> {
    for vip in vips {
        scene.lab.host(Host::Client).run(|| -> Result<()> {
            let (up, down) = (upload(*vip, BODY, LONG)?, download(*vip, BODY, LONG)?);
            ensure!(up.whole && down.whole, "{vip}: {} bytes up, {} down", up.bytes, down.bytes);
            Ok(())
        })??;
    }
    Ok(())
}

/// Shifted, moved and moved back under the load of all clients, and nothing lost.
fn migrates(scene: &Scene, vips: &[SocketAddr]) -> Result<()> {
    let running = clients(scene, vips, "first")?;
    let mark = |name: &str| running.iter().try_for_each(|client| client.mark(name));
    let tick = || running.iter().try_for_each(|client| client.tick().map(drop));
    let two_legs = running.len() * 8;
    scene.wait_status("two legs", |status| status["two_legs"] == two_legs)?;
    flows_name_the_clients(scene, vips)?;
    scene.ctl(&["weight", "shop", "50"])?;
    tick()?;
    scene.ctl(&["weight", "shop", "100"])?;
    mark("shifted")?;
    bodies_are_whole(scene, vips)?;
    scene.ctl(&["cutover", "shop"])?;
    mark("moved")?;
    bodies_are_whole(scene, vips)?;
    mark("moving")?;
    scene.ctl(&["rollback", "shop"])?;
    mark("back")?;
    tick()?;
    for client in running {
        let summary = client.stop()?;
        all_answered(&summary)?;
        let mostly = [("shifted", Host::Shadow), ("moved", Host::Shadow), ("back", Host::Primary)];
        mostly_answered_by(&summary, &mostly)?;
    }
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    scene.proven().map(drop)
}

/// Each client is shown by the address that it has.
fn flows_name_the_clients(scene: &Scene, vips: &[SocketAddr]) -> Result<()> {
    let flows = scene.ctl(&["flows"])?;
    let text = flows.to_string();
    for vip in vips {
        let client = if vip.is_ipv4() { "10.0.1.2:" } else { "[2001:db8:1::2]:" };
        ensure!(text.contains(client) && text.contains(&vip.to_string()), "no flow of {client}: {text}");
    }
    ensure!(!text.contains("\"24"), "an alias is shown: {text}");
    Ok(())
}

#[test]
fn clients_of_both_families_before_servers_of_ipv4() -> Result<()> {
    let scene = scene(&BOTH, [Family::Four, Family::Four])?;
    migrates(&scene, &BOTH)?;
    a_ports_next_connection_is_another(&scene)
}

#[test]
fn a_primary_of_ipv4_and_a_shadow_of_ipv6() -> Result<()> {
    migrates(&scene(&BOTH, [Family::Four, Family::Six])?, &BOTH)
}

/// By its address, not by its connection's port or alias: each family's client has one.
#[test]
fn by_client_all_connections_of_an_address_read_at_one_side() -> Result<()> {
    let scene = scene_with(&BOTH, [Family::Four, Family::Six], "weight_by = \"client\"")?;
    let running = clients(&scene, &BOTH, "sticky")?;
    scene.wait_status("two legs", |status| status["two_legs"] == 16)?;
    scene.ctl(&["weight", "shop", "50"])?;
    for client in &running {
        client.mark("half")?;
        client.tick()?;
    }
    for client in running {
        let summary = client.stop()?;
        all_answered(&summary)?;
        let share = share(&summary, "half")?;
        // Reads that were under way when it was marked, or whose flow wasn't settled, are the primary's.
        ensure!(
            share == 0.0 || share > 0.8,
            "the shadow answered {share} of one address's reads: {summary:#?}"
        );
    }
    scene.proven().map(drop)
}

#[test]
fn all_of_ipv6() -> Result<()> {
    let mut scene = scene(&[SIX], [Family::Six, Family::Six])?;
    migrates(&scene, &[SIX])?;
    the_doctor_is_content(&scene)?;
    // Its next life knows the open connections by the same aliases.
    let running = clients(&scene, &[SIX], "second")?;
    scene.gateway.kill();
    running.iter().try_for_each(|client| client.tick().map(drop))?;
    scene.gateway.run(&[])?;
    scene.ctl(&["cutover", "shop"])?;
    for client in running {
        client.tick()?;
        all_answered(&client.stop()?)?;
    }
    scene.proven().map(drop)
}

/// By a reset, which leaves nothing of it at the client.
fn a_ports_next_connection_is_another(scene: &Scene) -> Result<()> {
    for n in 0..4 {
        let answer = scene.lab.host(Host::Client).run(|| -> Result<String> {
            let mut stream = connect_from(40_404)?;
            stream.write_all(b"GET /ping HTTP/1.1\r\nHost: shop\r\n\r\n")?;
            let mut answer = [0; 512];
            let bytes = stream.read(&mut answer)?;
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            Ok(String::from_utf8_lossy(&answer[..bytes]).into_owned())
        })??;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "connection {n}: {answer:?}");
    }
    Ok(())
}

fn connect_from(port: u16) -> Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    let socket = socket(AddressFamily::INET6, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::from((Host::Client.address6(), port)))?;
    connect(&socket, &SIX)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

fn the_doctor_is_content(scene: &Scene) -> Result<()> {
    let policy = scene.gateway.folder().join("policy.toml");
    let doctor = || {
        let mut command = scene.gateway.command(&["--json", "doctor"]);
        scene.lab.host(Host::Gateway).check(command.arg(&policy))
    };
    wait_for("a content doctor", SOON, || doctor().is_ok()).with_context(|| format!("{:?}", doctor()))?;
    let said = doctor()?;
    for found in
        ["IPv6 forwarding of client0", "IPv6 forwarding of mirror0", "2001:db8:2::2 is resolved, and kept so"]
    {
        ensure!(said.contains(found), "{found}: {said}");
    }
    ensure!(!said.contains("failure") && !said.contains("ip addr"), "{said}");
    Ok(())
}
