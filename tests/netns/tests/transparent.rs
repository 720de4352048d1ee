//! The gateway as a router on the way: clients talk to the primary's own address, servers see the clients'; with IPv4 and IPv6.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    checker::Config,
    gateway::{Gateway, policy_between},
    net::{Host, Lab, SERVICE_PORT},
    programs::ListsServer,
};
use netns_tests::{SOON, Scene, all_answered, connect, hook, lab_builder, mostly_answered_by};

/// A connection that asks one thing after the other.
struct Asker(TcpStream);

impl Asker {
    fn connect(lab: &Lab, to: SocketAddr) -> Result<Self> {
        let stream = connect(lab, Host::Client, to)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(Self(stream))
    }

    /// Asks once more, and wants an answer.
    fn asks(&mut self) -> Result<()> {
        self.0.write_all(b"GET /ping HTTP/1.1\r\nHost: shop\r\n\r\n")?;
        let mut answer = [0; 512];
        let bytes = self.0.read(&mut answer)?;
        let text = String::from_utf8_lossy(&answer[..bytes]);
        ensure!(text.starts_with("HTTP/1.1 200 "), "{text:?}");
        Ok(())
    }
}

/// A host's address.
fn address(host: Host, six: bool) -> IpAddr {
    if six { host.address6().into() } else { host.address().into() }
}

/// Where a host's server is.
fn server(host: Host, six: bool) -> SocketAddr {
    SocketAddr::new(address(host, six), SERVICE_PORT)
}

/// How many connections a host has from the client's own address.
fn from_the_client(scene: &Scene, host: Host, six: bool) -> Result<usize> {
    let seen = scene.lab.host(host).sh("ss -Htn state established '( sport = :8080 )'")?;
    let client = match address(Host::Client, six) {
        IpAddr::V4(four) => format!("{four}:"),
        IpAddr::V6(six) => format!("[{six}]:"),
    };
    Ok(seen.lines().filter(|line| line.contains(&client)).count())
}

/// `policy`, with clients' addresses kept on both sides.
fn kept(six: bool) -> Result<String> {
    let nat = |host: Host| if six { host.nat6().into() } else { IpAddr::from(host.nat_pool()[0]) };
    let side = |host: Host| (server(host, six), nat(host));
    let vip = format!("vip = \"{}\"", server(Host::Primary, six));
    let more = format!("hook = \"{}\"", hook()?);
    let mut text = policy_between(&more, &vip, [side(Host::Primary), side(Host::Shadow)], "")?;
    for host in [Host::Primary, Host::Shadow] {
        text = text.replace(&format!("nat = \"{}\"", nat(host)), "nat = \"keep\"");
    }
    Ok(text)
}

/// T13, T25 where the numbers are the client's own; and that the gateway's coming and going is noticed by nobody.
#[test]
fn an_application_is_moved_from_under_its_own_address() -> Result<()> {
    moved_from_under_its_own_address(false)
}

/// The same over IPv6.
#[test]
fn an_application_is_moved_from_under_its_own_ipv6_address() -> Result<()> {
    moved_from_under_its_own_address(true)
}

fn moved_from_under_its_own_address(six: bool) -> Result<()> {
    let vip = server(Host::Primary, six);
    let lab = lab_builder()?.six(six).forwarding(true).up()?;
    let start = |host: Host| {
        // What they have is asked for over IPv4.
        let listen = if six { SocketAddr::new("::".parse()?, SERVICE_PORT) } else { server(host, false) };
        ListsServer::start(&lab.host(host), listen, host.name(), &["--volatile"])
    };
    let servers = [Some(start(Host::Primary)?), Some(start(Host::Shadow)?)];
    let mut old = Asker::connect(&lab, vip)?;
    old.asks()?;
    let gateway = Gateway::start(&lab, &kept(six)?)?;
    old.asks().context("a connection that is older than the gateway")?;
    let mut young = Asker::connect(&lab, vip)?;
    young.asks()?;
    ensure!(gateway.count("Older")? > 0, "nothing was left to the kernel");
    drop(old);
    let scene = Scene { gateway, servers, lab }.joined()?;
    moved(&scene, six)?;
    young.asks().context("a connection from before the join")?;
    scene.ctl(&["weight", "shop", "0"])?;
    removed(scene, young, vip)
}

fn moved(scene: &Scene, six: bool) -> Result<()> {
    let config =
        Config { target: server(Host::Primary, six), think: Duration::from_millis(2), ..scene.client(8) };
    let client = scene.start_client(Config { duration: Some(Duration::from_secs(60)), ..config })?;
    scene.wait_status("two legs", |status| status["two_legs"].as_u64() >= Some(8))?;
    for host in [Host::Primary, Host::Shadow] {
        let seen = from_the_client(scene, host, six)?;
        ensure!(seen >= 8, "{host} sees {seen} connections from the client");
    }
    scene.ctl(&["weight", "shop", "100"])?;
    client.mark("shifted")?;
    client.tick()?;
    scene.ctl(&["cutover", "shop"])?;
    client.mark("moved")?;
    client.tick()?;
    scene.ctl(&["rollback", "shop"])?;
    client.mark("back")?;
    client.tick()?;
    let summary = client.stop()?;
    all_answered(&summary)?;
    let mostly = [("shifted", Host::Shadow), ("moved", Host::Shadow), ("back", Host::Primary)];
    mostly_answered_by(&summary, &mostly)?;
    scene.proven().map(drop)
}

/// The primary's legs have their clients' numbers: without the datapath they go on.
fn removed(mut scene: Scene, mut open: Asker, vip: SocketAddr) -> Result<()> {
    scene.gateway.stop()?;
    let mut unload = scene.gateway.command(&["unload"]);
    scene.lab.host(Host::Gateway).check(&mut unload)?;
    open.asks().context("a connection from before `mirror unload`")?;
    Asker::connect(&scene.lab, vip)?.asks().context("by the kernel alone")
}
