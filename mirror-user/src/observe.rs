//! The harmless first step: reads a service's traffic where it passes by, touches none of it, and says what share of the requests
//! a shadow could answer, and what keeps the rest.
//!
//! It listens on a packet socket and needs neither policy nor daemon. What it says of a request is what the datapath would: the
//! parser is the same, and a request counts as one that could be shifted where a flow would be settled.

mod connection;
mod questions;
mod socket;
mod spec;
mod tally;

use std::{
    collections::HashMap,
    io::{ErrorKind, IsTerminal as _},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use mirror_common::protocol::http1::Walk;
use serde::Serialize;

use self::{
    connection::{Connection, Segment},
    questions::Questions,
    socket::PacketSocket,
};
pub use spec::{Spec, Target, of_policy};
pub use tally::{Connections, Kept, Observed, Unread};

/// Connections that are followed at once: about 300 bytes each, and what came early.
const MAX_CONNECTIONS: usize = 65_536;
/// A connection that was silent for longer makes room for another when there is none.
const SILENT: Duration = Duration::from_secs(60);
/// Packets that are read before anything else is looked at.
const BATCH: usize = 256;
/// Longest packet: what the kernel merges on receiving is up to 64 KiB.
const MAX_PACKET: usize = 65_536;

/// Observes until the time is over, or the operator has seen enough (an interrupt).
///
/// # Errors
/// Without `CAP_NET_RAW`, or when a device isn't there.
///
/// `alone`: nothing else is observed beside it, so that it may say how far it is.
pub async fn run(spec: &Spec, alone: bool) -> Result<Observed> {
    let socket = PacketSocket::open(spec)?;
    let begun = Instant::now();
    let time = humantime::format_duration(spec.time);
    eprintln!("observing {} for {time}; Ctrl-C ends it earlier", spec.target);
    let mut observer = Observer::new(spec);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let end = tokio::time::sleep(spec.time);
    tokio::pin!(end);
    let progress = alone && std::io::stderr().is_terminal();
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        tokio::select! {
            biased;
            () = &mut end => break,
            interrupt = tokio::signal::ctrl_c() => {
                interrupt.context("can't wait for an interrupt")?;
                break;
            }
            _ = second.tick() => {
                observer.lapse();
                if progress {
                    eprint!("\r{}\x1b[K", observer.seen.progress(begun.elapsed()));
                }
            }
            ready = socket.readable() => {
                let mut ready = ready?;
                if observer.read(socket.get_ref(), &mut buffer)? {
                    ready.clear_ready();
                }
            }
        }
    }
    // What has passed by then counts.
    observer.read(socket.get_ref(), &mut buffer)?;
    if progress {
        eprint!("\r\x1b[K");
    }
    let mut seen = observer.seen;
    seen.seconds = begun.elapsed().as_secs_f64();
    seen.missed = socket.get_ref().missed()?;
    Ok(seen)
}

/// What was seen of several services.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Services(pub Vec<Observed>);

/// All that was seen so far.
struct Observer {
    service: SocketAddr,
    connections: HashMap<SocketAddr, Connection>,
    /// Where it has datagrams.
    questions: Option<Questions>,
    walk: Walk,
    seen: Observed,
}

impl Observer {
    fn new(spec: &Spec) -> Self {
        let Target { service, datagrams, name } = spec.target.clone();
        let protocol = if datagrams.is_some() { "udp" } else { "tcp" };
        let devices = spec.devices.clone();
        let seen = Observed { service, name, protocol, devices, sample: spec.sample, ..Observed::default() };
        let questions = datagrams.map(Questions::new);
        Self { service, connections: HashMap::new(), questions, walk: Walk::new(), seen }
    }

    /// Forgets questions that nobody answers any more.
    fn lapse(&mut self) {
        if let Some(questions) = &mut self.questions {
            questions.lapse(Instant::now(), &mut self.seen);
        }
    }

    /// Reads what waits, up to a batch; whether that was all.
    fn read(&mut self, socket: &PacketSocket, buffer: &mut [u8]) -> Result<bool> {
        let now = Instant::now();
        for _ in 0..BATCH {
            match socket.receive(buffer) {
                Ok(length) => self.packet(buffer.get(..length).unwrap_or_default(), now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                // A device went down: others go on.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(error) => return Err(error).context("can't read from the packet socket"),
            }
        }
        Ok(false)
    }

    /// A packet from its IP header on. The same one may be seen again on another device: it brings nothing new then.
    fn packet(&mut self, bytes: &[u8], now: Instant) {
        if self.questions.is_some() {
            return self.datagram(bytes, now);
        }
        let Some((client, segment)) = self.segment(bytes) else { return };
        self.seen.packets += 1;
        if segment.opens() {
            self.open(client, &segment, now);
            return;
        }
        let Some(connection) = self.connections.get_mut(&client) else {
            // Its beginning wasn't seen, so that what is a request's first byte isn't known.
            if !segment.payload.is_empty() && self.make_room(now) {
                self.connections.insert(client, Connection::unread(now));
                self.seen.connections.unread(Unread::Before);
            }
            return;
        };
        connection.take(&segment, now, &mut self.walk, &mut self.seen);
        if connection.ended() {
            self.connections.remove(&client);
        }
    }

    /// A datagram. Of one in fragments only the first is heard.
    fn datagram(&mut self, bytes: &[u8], now: Instant) {
        let Some(questions) = &mut self.questions else { return };
        let Ok(packet) = LaxSlicedPacket::from_ip(bytes) else { return };
        let (Some([from, to]), Some(ip)) = (addresses(&packet), packet.ip_payload()) else { return };
        let ports = |bytes: &[u8]| match bytes {
            [a, b, c, d, ..] => Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))),
            _ => None,
        };
        let (ports, payload) = match &packet.transport {
            Some(TransportSlice::Udp(udp)) => {
                (Some((udp.source_port(), udp.destination_port())), Some(udp.payload()))
            }
            _ if ip.ip_number == IpNumber::UDP => (ports(ip.payload), None),
            _ => return,
        };
        let Some((source, destination)) = ports else { return };
        let (from, to) = (SocketAddr::new(from, source), SocketAddr::new(to, destination));
        if to == self.service {
            self.seen.packets += 1;
            questions.ask(from, payload, now, &mut self.seen);
        } else if from == self.service {
            self.seen.packets += 1;
            // Its first fragment has what tells whose answer it is.
            questions.answer(to, payload.unwrap_or_else(|| ip.payload.get(8..).unwrap_or_default()));
        }
    }

    /// The client and what it is about; `None`: not this service's.
    fn segment<'a>(&self, bytes: &'a [u8]) -> Option<(SocketAddr, Segment<'a>)> {
        let packet = LaxSlicedPacket::from_ip(bytes).ok()?;
        let [from, to] = addresses(&packet)?;
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
        let (from, to) =
            (SocketAddr::new(from, tcp.source_port()), SocketAddr::new(to, tcp.destination_port()));
        let from_client = to == self.service;
        if !from_client && from != self.service {
            return None;
        }
        Some((if from_client { from } else { to }, Segment::new(from_client, &tcp)))
    }

    fn open(&mut self, client: SocketAddr, segment: &Segment<'_>, now: Instant) {
        if self.connections.get(&client).is_some_and(|known| known.is_opened_by(segment)) {
            return;
        }
        self.connections.remove(&client);
        if !self.make_room(now) {
            self.seen.connections.not_followed += 1;
            return;
        }
        self.seen.connections.opened += 1;
        self.connections.insert(client, Connection::new(segment, now));
    }

    /// Whether one more can be followed.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.connections.len() >= MAX_CONNECTIONS {
            self.connections.retain(|_, connection| !connection.silent(now, SILENT));
        }
        self.connections.len() < MAX_CONNECTIONS
    }
}

/// Source and destination.
fn addresses(packet: &LaxSlicedPacket<'_>) -> Option<[IpAddr; 2]> {
    match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            Some([ip.header().source_addr().into(), ip.header().destination_addr().into()])
        }
        LaxNetSlice::Ipv6(ip) => {
            Some([ip.header().source_addr().into(), ip.header().destination_addr().into()])
        }
        LaxNetSlice::Arp(_) => None,
    }
}

#[cfg(test)]
mod tests;
