//! What strangers send: floods of SYNs, and segments that pretend to be of other people's connections.

use std::{
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{LaxNetSlice, LaxSlicedPacket, PacketBuilder, TcpHeader, TransportSlice};
use lab::{
    checker::Config,
    net::{Host, SERVICE_PORT, VIP},
    packet_socket::PacketSocket,
    wait::wait_for,
};
use netns_tests::{SOON, Scene, all_answered};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);
/// Connections that there is room for in the flood.
const FLOWS: u16 = 1_024;
/// Forged segments from each host.
const FORGED: usize = 2_000;
const SERVICE: SocketAddrV4 = SocketAddrV4::new(VIP, SERVICE_PORT);

/// A frame from `host` to the gateway.
fn frame(host: Host, from: Ipv4Addr, to: Ipv4Addr, tcp: TcpHeader, payload: &[u8]) -> Result<Vec<u8>> {
    let (own, gateway) = (host.mac_octets(false), host.mac_octets(true));
    let builder = PacketBuilder::ethernet2(own, gateway).ipv4(from.octets(), to.octets(), 64).tcp_header(tcp);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload)?;
    Ok(frame)
}

/// Puts frames on a host's link.
fn send(socket: &PacketSocket, frames: impl IntoIterator<Item = Result<Vec<u8>>>) -> Result<()> {
    for frame in frames {
        let frame = frame?;
        wait_for("room on the link", SOON, || socket.send(&frame).is_ok_and(|sent| sent))?;
    }
    Ok(())
}

/// T26: a table that is full of half-open connections has room again soon, and nobody who is connected notices.
#[test]
fn a_flood_of_syns_ends_and_open_connections_go_on() -> Result<()> {
    let scene = Scene::with(&format!("flows = {FLOWS}"), "", &[])?.joined()?;
    let config = Config { think: Duration::from_millis(2), duration: Some(LONG), ..scene.client(8) };
    let client = scene.start_client(config)?;
    client.tick()?;
    let stranger = Ipv4Addr::new(10, 0, 1, 66);
    let syn = |port: u16| {
        let mut tcp = TcpHeader::new(10_000 + port, SERVICE_PORT, u32::from(port) << 16, 64_000);
        tcp.syn = true;
        frame(Host::Client, stranger, VIP, tcp, &[])
    };
    scene.lab.host(Host::Client).run(|| send(&PacketSocket::open("eth0")?, (0..4 * FLOWS).map(syn)))??;
    ensure!(scene.gateway.count("TableFull")? > 0, "there was room for the flood");
    client.tick()?;
    // A client's kernel tries again after 1 and 3 s; without a crowd the flood's connections would be there for 10.
    let connected =
        scene.lab.host(Host::Client).run(|| TcpStream::connect_timeout(&SERVICE.into(), SOON).map(drop))?;
    connected.context("a new connection behind the flood")?;
    ensure!(scene.gateway.count("HalfOpen")? > 0, "nothing made room");
    scene.end_proven(client)
}

/// A segment as it came to a host.
struct Seen {
    from: SocketAddrV4,
    to: SocketAddrV4,
    seq: u32,
    ack: u32,
}

fn parse(frame: &[u8]) -> Option<Seen> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let (Some(LaxNetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport) else {
        return None;
    };
    let ip = ip.header();
    let end = |address, port| SocketAddrV4::new(address, port);
    Some(Seen {
        from: end(ip.source_addr(), tcp.source_port()),
        to: end(ip.destination_addr(), tcp.destination_port()),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
    })
}

/// What somebody sends who knows a connection's addresses, but not where it is: numbers that lie half their space away, resets
/// near by, acknowledgements of what was never sent, and what opens connections.
fn forgeries(host: Host, seen: &Seen) -> [Result<Vec<u8>>; 6] {
    const FAR: u32 = 1 << 31;
    const AHEAD: u32 = 1 << 30;
    let forged = |seq, ack, set: fn(&mut TcpHeader), payload: &[u8]| {
        let mut tcp = TcpHeader::new(seen.to.port(), seen.from.port(), seq, 64_000);
        (tcp.ack, tcp.acknowledgment_number) = (true, ack);
        set(&mut tcp);
        frame(host, *seen.to.ip(), *seen.from.ip(), tcp, payload)
    };
    let known = host == Host::Client;
    [
        forged(seen.ack.wrapping_add(FAR), seen.seq, |tcp| tcp.rst = true, &[]),
        forged(
            seen.ack.wrapping_add(if known { 50_000 } else { AHEAD }),
            seen.seq,
            |tcp| tcp.rst = true,
            &[],
        ),
        forged(seen.ack.wrapping_add(FAR), seen.seq, |tcp| tcp.fin = true, &[]),
        forged(seen.ack.wrapping_add(FAR), seen.seq, |tcp| tcp.psh = true, b"DELETE / HTTP/1.1\r\n\r\n"),
        forged(seen.ack, seen.seq.wrapping_add(AHEAD), |tcp| tcp.psh = true, b"HTTP/1.1 500 Forged\r\n\r\n"),
        forged(seen.ack.wrapping_add(AHEAD), 0, |tcp| (tcp.syn, tcp.ack) = (true, false), &[]),
    ]
}

/// Sends forgeries about what comes to a host.
fn forge(scene: &Scene, host: Host) -> Result<()> {
    scene.lab.host(host).run(|| -> Result<()> {
        let socket = PacketSocket::open("eth0")?;
        let (mut sent, began, mut buffer) = (0, Instant::now(), [0; 65_536]);
        while sent < FORGED {
            if began.elapsed() > SOON {
                bail!("only {sent} forged segments: too little comes to {host}");
            }
            let Some(length) = socket.receive(&mut buffer)? else { continue };
            let Some(seen) = parse(&buffer[..length]) else { continue };
            if seen.from.port() != SERVICE_PORT && seen.to.port() != SERVICE_PORT {
                continue;
            }
            let forged = forgeries(host, &seen);
            sent += forged.len();
            send(&socket, forged)?;
        }
        Ok(())
    })?
}

/// T25, T12: segments into other people's connections, under load, from each side of them.
#[test]
fn forged_segments_change_nothing() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let config = Config { think: Duration::from_millis(1), duration: Some(LONG), ..scene.client(8) };
    let client = scene.start_client(config)?;
    scene.wait_status("two legs", |status| status["two_legs"] == 8)?;
    for weight in ["0", "50"] {
        scene.ctl(&["weight", "shop", weight])?;
        let before = scene.gateway.count("OutOfWindow")?;
        Host::ENDS.into_iter().try_for_each(|host| forge(&scene, host))?;
        client.tick()?;
        let ignored = scene.gateway.count("OutOfWindow")? - before;
        ensure!(ignored >= 3 * FORGED as u64 / 2, "of {} only {ignored} fitted no flow", 3 * FORGED);
    }
    let summary = client.stop()?;
    all_answered(&summary)?;
    let (lost, status) = (scene.gateway.count("LegLost")?, scene.gateway.status()?);
    ensure!(lost == 0 && status["two_legs"] == 8 && status["shadow"]["in_sync"] == true, "{lost}: {status}");
    scene.proven().map(drop)
}
