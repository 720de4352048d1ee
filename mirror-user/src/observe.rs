//! The harmless first step: reads a service's traffic where it passes by, touches none of it, and says what share of the requests
//! a shadow could answer, and what keeps the rest.
//!
//! It listens on a packet socket and needs neither policy nor daemon. What it says of a request is what the datapath would: the
//! parser is the same, and a request counts as one that could be shifted where a flow would be settled.

mod connection;
mod socket;
mod tally;

use std::{
    collections::HashMap,
    io::{ErrorKind, IsTerminal as _},
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use mirror_common::protocol::http1::Walk;

use self::{
    connection::{Connection, Segment},
    socket::PacketSocket,
};
pub use tally::{Connections, Kept, Observed, Unread};

/// Connections that are followed at once: about 300 bytes each, and what came early.
const MAX_CONNECTIONS: usize = 65_536;
/// A connection that was silent for longer makes room for another when there is none.
const SILENT: Duration = Duration::from_secs(60);
/// Packets that are read before anything else is looked at.
const BATCH: usize = 256;
/// Longest packet: what the kernel merges on receiving is up to 64 KiB.
const MAX_PACKET: usize = 65_536;

/// What is to be observed.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The service as it appears on the wire here.
    pub service: SocketAddrV4,
    /// Devices; none: all.
    pub devices: Vec<String>,
    /// For how long.
    pub time: Duration,
    /// One of so many connections, chosen by their clients' ports; a power of two.
    pub sample: u16,
}

/// Observes until the time is over, or the operator has seen enough (an interrupt).
///
/// # Errors
/// Without `CAP_NET_RAW`, or when a device isn't there.
pub async fn run(spec: &Spec) -> Result<Observed> {
    let socket = PacketSocket::open(spec)?;
    let begun = Instant::now();
    let time = humantime::format_duration(spec.time);
    eprintln!("observing {} for {time}; Ctrl-C ends it earlier", spec.service);
    let mut observer = Observer::new(spec);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let end = tokio::time::sleep(spec.time);
    tokio::pin!(end);
    let progress = std::io::stderr().is_terminal();
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

/// All that was seen so far.
struct Observer {
    service: SocketAddrV4,
    connections: HashMap<SocketAddrV4, Connection>,
    walk: Walk,
    seen: Observed,
}

impl Observer {
    fn new(spec: &Spec) -> Self {
        let seen = Observed {
            service: spec.service,
            devices: spec.devices.clone(),
            sample: spec.sample,
            ..Observed::default()
        };
        Self { service: spec.service, connections: HashMap::new(), walk: Walk::new(), seen }
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

    /// The client and what it is about; `None`: not this service's.
    fn segment<'a>(&self, bytes: &'a [u8]) -> Option<(SocketAddrV4, Segment<'a>)> {
        let packet = LaxSlicedPacket::from_ip(bytes).ok()?;
        let (Some(LaxNetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport)
        else {
            return None;
        };
        let ip = ip.header();
        let from = SocketAddrV4::new(ip.source_addr(), tcp.source_port());
        let to = SocketAddrV4::new(ip.destination_addr(), tcp.destination_port());
        let from_client = to == self.service;
        if !from_client && from != self.service {
            return None;
        }
        Some((if from_client { from } else { to }, Segment::new(from_client, &tcp)))
    }

    fn open(&mut self, client: SocketAddrV4, segment: &Segment<'_>, now: Instant) {
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

#[cfg(test)]
mod tests;
