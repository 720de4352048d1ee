//! Order across connections: a client writes on one, is answered, and asks on another, where it is faster on the shadow.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    gateway::{Gateway, policy_between},
    net::{Host, LinkSpec, SERVICE_PORT, VIP, VIP6},
    programs::ListsServer,
    wire::{Direction, Fate, Impairment},
};
use netns_tests::{SOON, Scene, all_answered, hook, lab_builder, rounds};

/// The first write's way to the shadow takes so much longer, on the first connection: less than its client waits before it
/// sends it again.
const LATE: Duration = Duration::from_millis(100);

/// One request on an open connection, and its answer's body.
fn ask(stream: &mut TcpStream, method: &str, body: &str) -> Result<String> {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let text = format!("{method} /lists/k HTTP/1.1\r\nHost: shop\r\n{length}\r\n{body}");
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    let mut bytes = [0; 4_096];
    loop {
        let n = stream.read(&mut bytes)?;
        ensure!(n > 0, "closed behind {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&bytes[..n]);
        let text = std::str::from_utf8(&answer)?;
        let Some((head, rest)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        if rest.len() >= length.context("an answer without a length")? {
            ensure!(head.starts_with("HTTP/1.1 200"), "{text}");
            return Ok(rest.to_owned());
        }
    }
}

/// A shadow 20 ms away, and two connections to an address of the service, with two legs. A write of `first` takes [`LATE`] longer
/// to get there.
fn two_connections(vip: IpAddr, more: &str) -> Result<(Scene, [TcpStream; 2])> {
    let far = LinkSpec::wire(Impairment::round_trip(20_000));
    let lab = lab_builder()?.six(vip.is_ipv6()).link(Host::Shadow, far).up()?;
    // Room for the late one, and for a busy machine.
    let more = format!("hook = \"{}\"\nstall = \"3s\"\n{more}", hook()?);
    let service = format!("vip = \"{}\"", SocketAddr::from((vip, SERVICE_PORT)));
    let servers = [Host::Primary, Host::Shadow];
    let sides = servers.map(|host| (host.service().into(), host.nat_pool()[0].into()));
    let policy = policy_between(&more, &service, sides, "")?;
    let start = |host| ListsServer::on(&lab, host, &["--volatile"]).map(Some);
    let running = [start(Host::Primary)?, start(Host::Shadow)?];
    let scene = Scene { gateway: Gateway::start(&lab, &policy)?, servers: running, lab }.joined()?;
    let connections = scene.lab.host(Host::Client).run(|| {
        let open = || -> Result<TcpStream> {
            let mut stream = TcpStream::connect(SocketAddr::from((vip, SERVICE_PORT)))?;
            stream.set_read_timeout(Some(SOON))?;
            ask(&mut stream, "GET", "")?;
            Ok(stream)
        };
        anyhow::Ok([open()?, open()?])
    })??;
    scene.wait_status("both have two legs", |status| status["two_legs"] == 2)?;
    scene.lab.wire(Host::Shadow)?.set_filter(|direction, frame| {
        let first = direction == Direction::ToHost && frame.windows(5).any(|bytes| bytes == b"first");
        if first { Fate::Late(LATE) } else { Fate::Dice }
    });
    Ok((scene, connections))
}

/// `first` on one connection, `second` on another as soon as that is answered. Returns the list on each side.
fn write_on_two(more: &str) -> Result<([Vec<String>; 2], Scene)> {
    let (scene, [mut one, mut other]) = two_connections(VIP.into(), more)?;
    ask(&mut one, "POST", "first")?;
    ask(&mut other, "POST", "second")?;
    scene
        .wait_status("nothing is under way", |status| status["open_writes"] == 0 && status["lagging"] == 0)?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    let list = |host| -> Result<Vec<String>> { Ok(scene.lists(host)?.remove("k").unwrap_or_default()) };
    Ok(([list(Host::Primary)?, list(Host::Shadow)?], scene))
}

/// `first` on one connection, and what a read on another finds as soon as that is answered, though every read is the shadow's.
fn read_on_another(vip: IpAddr, more: &str) -> Result<(String, Scene)> {
    let (scene, [mut one, mut other]) = two_connections(vip, more)?;
    scene.ctl(&["weight", "shop", "100"])?;
    ask(&mut one, "POST", "first")?;
    let found = ask(&mut other, "GET", "")?;
    scene.wait_status("nothing lags", |status| status["lagging"] == 0)?;
    let later = ask(&mut other, "GET", "")?;
    ensure!(later.contains("first"), "{later}");
    Ok((found, scene))
}

/// H8: a client reads what it wrote, on whichever of its connections.
#[test]
fn where_the_clients_order_is_kept_a_read_finds_what_it_wrote() -> Result<()> {
    for (vip, order) in [(VIP.into(), "service"), (VIP6.into(), "client")] {
        let (found, scene) = read_on_another(vip, &format!("order = \"{order}\""))?;
        ensure!(found.contains("first"), "{vip}, {order}: {found}");
        let kept = scene.gateway.count("KeptOrder")?;
        ensure!(kept >= 1, "{vip}, {order}: {found:?} {:?}", scene.ctl(&["counters"])?);
    }
    let (found, scene) = read_on_another(VIP.into(), "")?;
    ensure!(!found.contains("first"), "the shadow had it already: {found}");
    ensure!(scene.gateway.count("KeptOrder")? == 0, "nobody asked for that");
    Ok(())
}

#[test]
fn by_default_a_write_may_overtake_another_connections_and_is_counted() -> Result<()> {
    let (lists, scene) = write_on_two("")?;
    ensure!(lists == [["first", "second"], ["second", "first"]], "{lists:?}");
    let status = scene.gateway.status()?;
    ensure!(status["overtaking"] == 1 && scene.gateway.count("HeldOrder")? == 0, "{status}");
    Ok(())
}

/// H9: both sides do the two writes in the order in which they were answered.
#[test]
fn where_the_service_is_ordered_it_waits() -> Result<()> {
    let (lists, scene) = write_on_two("order = \"service\"")?;
    ensure!(lists == [["first", "second"], ["first", "second"]], "{lists:?}");
    let status = scene.gateway.status()?;
    ensure!(status["overtaking"] == 0 && scene.gateway.count("HeldOrder")? >= 1, "{status}");
    // Everyone gets a turn, of many that write without a pause.
    scene.lab.wire(Host::Shadow)?.clear_filter();
    let mut config = scene.client(50);
    config.requests = Some(u64::from(rounds(2_000, 100_000)));
    let summary = scene.run_client(config)?;
    all_answered(&summary)?;
    scene
        .wait_status("nothing is under way", |status| status["open_writes"] == 0 && status["lagging"] == 0)?;
    let status = scene.gateway.status()?;
    ensure!(status["overtaking"] == 0 && status["shadow"]["in_sync"] == true, "{status}");
    ensure!(scene.states_equal()?, "the states differ");
    println!(
        "{} requests, {:.0}/s, {} retransmissions, {} frames held",
        summary.requests, summary.requests_per_second, summary.retransmissions, status["held"][1]
    );
    Ok(())
}
