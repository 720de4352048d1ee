//! A connection as one host saw it.

use std::{collections::BTreeMap, net::SocketAddrV4, time::Duration};

use mirror_common::flow::tcp;

use super::{Findings, Packet, opens, stream::Stream};

/// What a client was shown by one segment, in bytes from its first one on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) at: Duration,
    pub(super) ack: usize,
    pub(super) edge: usize,
}

/// Up is towards the server.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) name: String,
    pub(super) up: Stream,
    pub(super) down: Stream,
    /// Acknowledgements of the server's side, in the order in which they were seen.
    pub(super) shown: Vec<Shown>,
    /// When it was reset, or the server closed it.
    pub(super) ended: Option<Duration>,
    /// Segments upwards with bytes that had been sent before.
    pub(super) sent_again: u64,
    /// Acknowledgements downwards that say nothing new while bytes are on their way (RFC 5681, 2).
    pub(super) duplicate_acks: u64,
    /// Resets downwards.
    pub(super) resets: u64,
    iss: u32,
    irs: Option<u32>,
    scales: [Option<u8>; 2],
    sent: usize,
    last_window: Option<(usize, u16)>,
}

impl Connection {
    /// What the server's side had acknowledged at a time.
    pub(super) fn acked_at(&self, at: Duration) -> usize {
        self.shown.iter().take_while(|shown| shown.at <= at).map(|shown| shown.ack).max().unwrap_or(0)
    }

    /// The scale of the windows that it was shown.
    fn scale(&self) -> u8 {
        if self.scales.iter().all(Option::is_some) { self.scales[1].unwrap_or(0) } else { 0 }
    }

    /// Bytes of a window that can be told apart (RFC 7323, 2.3).
    pub(super) fn unit(&self) -> usize {
        1 << self.scale()
    }

    fn upwards(&mut self, packet: &Packet, findings: &mut Findings) {
        if packet.is(tcp::RST) {
            self.ended.get_or_insert(packet.at);
            return;
        }
        if packet.payload.is_empty() || packet.is(tcp::SYN) {
            return;
        }
        let at = packet.seq.wrapping_sub(self.iss.wrapping_add(1));
        if at as i32 == -1 {
            // A keep-alive probe with a byte.
            return;
        }
        match self.up.put(at, &packet.payload) {
            Ok(again) => self.sent_again += u64::from(again),
            Err(place) => findings.violations.push(format!("{}: two contents at byte {place}", self.name)),
        }
        self.sent = self.sent.max(at as usize + packet.payload.len());
    }

    fn downwards(&mut self, packet: &Packet, findings: &mut Findings) {
        if packet.is(tcp::RST) {
            self.ended.get_or_insert(packet.at);
            self.resets += 1;
            return;
        }
        if packet.is(tcp::SYN) {
            self.irs = Some(packet.seq);
            self.scales[1] = packet.scale;
            return;
        }
        if packet.is(tcp::FIN) {
            self.ended.get_or_insert(packet.at);
        }
        let Some(irs) = self.irs else { return };
        let at = packet.seq.wrapping_sub(irs.wrapping_add(1));
        if !packet.payload.is_empty()
            && at as i32 != -1
            && let Err(place) = self.down.put(at, &packet.payload)
        {
            findings.violations.push(format!("{}: two contents at the answers' byte {place}", self.name));
        }
        // The FIN's number counts as a byte here: only comparisons matter.
        let ack = packet.ack.wrapping_sub(self.iss.wrapping_add(1)) as usize;
        let edge = ack + (usize::from(packet.window) << self.scale());
        let bare = packet.payload.is_empty() && !packet.is(tcp::FIN);
        if bare && self.last_window == Some((ack, packet.window)) && ack < self.sent {
            self.duplicate_acks += 1;
        }
        self.last_window = Some((ack, packet.window));
        self.shown.push(Shown { at: packet.at, ack, edge });
    }
}

/// All connections of a capture; `up` tells the client's segments from the server's.
pub(super) fn all(
    packets: &[Packet],
    up: impl Fn(&Packet) -> bool,
    findings: &mut Findings,
) -> Vec<Connection> {
    let mut connections: Vec<Connection> = Vec::new();
    let mut by_client: BTreeMap<(SocketAddrV4, SocketAddrV4), usize> = BTreeMap::new();
    for packet in packets {
        let upwards = up(packet);
        let key = if upwards { (packet.from, packet.to) } else { (packet.to, packet.from) };
        if upwards && opens(packet) {
            let again = by_client.get(&key).is_some_and(|index| connections[*index].iss == packet.seq);
            if !again {
                by_client.insert(key, connections.len());
                connections.push(Connection {
                    name: format!("{} to {}", packet.from, packet.to),
                    iss: packet.seq,
                    scales: [packet.scale, None],
                    ..Connection::default()
                });
            }
            continue;
        }
        let Some(index) = by_client.get(&key) else { continue };
        if upwards {
            connections[*index].upwards(packet, findings);
        } else {
            connections[*index].downwards(packet, findings);
        }
    }
    connections
}
