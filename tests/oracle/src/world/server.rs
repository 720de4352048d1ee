//! One side's server: its lists, its connections, and how it can misbehave.

use std::collections::BTreeMap;

use fastrand::Rng;
use mirror_common::{abi::Tuple, flow::tcp, switch_word::Side};

use super::config::Settings;
use super::http::{Answer, Dress, Kind, ListState, Request, take_request};
use super::packet::{Packet, reversed};
use super::socket::{State, Tcp};

/// How a server treats its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mood {
    /// Nothing comes in, nothing goes out.
    pub silent: bool,
    /// The process is stopped: its kernel goes on.
    pub stopped: bool,
    /// New connections are refused.
    pub refuses: bool,
    /// Each request takes so much longer, in microseconds.
    pub slow: u64,
    /// Connections end after so many requests; 0: they don't.
    pub closes: u32,
    /// Connections end when idle for so long, in microseconds; 0: they don't.
    pub idle: u64,
}

struct Connection {
    tcp: Tcp,
    input: Vec<u8>,
    /// The request at work, and when it is done.
    work: Option<(Request, u64)>,
    served: u32,
    last: u64,
    over_since: Option<u64>,
    /// Closed for being idle.
    idled: bool,
}

impl Connection {
    /// When its server waits no more for the rest of a request.
    fn tires(&self, side: Side, settings: &Settings) -> Option<u64> {
        let within = self.work.is_none() && !self.input.is_empty() && !self.tcp.closing();
        (within && self.tcp.state == State::Open).then_some(self.last + settings.patience[side as usize])
    }
}

/// How long the kernel remembers a closed connection, in microseconds.
const TIME_WAIT: u64 = 5_000_000;

/// One side's server.
pub struct Server {
    /// Which.
    pub side: Side,
    /// How it behaves now.
    pub mood: Mood,
    /// What it has written: ids by list, in order.
    pub lists: BTreeMap<u64, (ListState, Vec<u64>)>,
    /// The same in the order over all lists: list and id.
    pub log: Vec<(u64, u64)>,
    connections: BTreeMap<(u32, u16), Connection>,
    /// The first request that no server should ever have got.
    pub wrong: Option<String>,
}

impl Server {
    /// A server that has nothing yet.
    pub fn new(side: Side) -> Server {
        let mood = Mood::default();
        let (lists, connections) = (BTreeMap::new(), BTreeMap::new());
        Server { side, mood, lists, log: Vec::new(), connections, wrong: None }
    }

    /// When it wants to be called next.
    pub fn deadline(&self, settings: &Settings) -> Option<u64> {
        if self.mood.silent {
            return None;
        }
        let of = |connection: &Connection| {
            let work = connection.work.as_ref().map(|(_, at)| *at).filter(|_| !self.mood.stopped);
            let idles =
                self.mood.idle > 0 && !connection.tcp.closing() && connection.tcp.state == State::Open;
            let idle = idles.then_some(connection.last + self.mood.idle);
            let gone = connection.over_since.map(|at| at + TIME_WAIT);
            let tired = connection.tires(self.side, settings).filter(|_| !self.mood.stopped);
            [connection.tcp.deadline(), work, idle, tired, gone].into_iter().flatten().min()
        };
        self.connections.values().filter_map(of).min()
    }

    /// Whether a leg's connection lives: neither end has begun to close it.
    pub fn lives(&self, from: &Tuple) -> bool {
        self.connections.get(&(from.saddr, from.sport)).is_some_and(|connection| {
            matches!(connection.tcp.state, State::Open | State::SynReceived)
                && !connection.tcp.closing()
                && !connection.tcp.peer_fin
        })
    }

    /// Whether it has closed a leg's connection for being idle.
    pub fn idled(&self, from: &Tuple) -> bool {
        self.connections.get(&(from.saddr, from.sport)).is_some_and(|connection| connection.idled)
    }

    /// The process is killed and started again: connections end by RST, lists stay. `silently`: nobody is told.
    pub fn restart(&mut self, silently: bool, to: &mut Vec<Packet>) {
        for connection in self.connections.values_mut() {
            if !silently {
                connection.tcp.abort(to);
            }
        }
        self.connections.clear();
    }

    /// A segment has come.
    pub fn arrive(
        &mut self,
        packet: &Packet,
        now: u64,
        settings: &Settings,
        rng: &mut Rng,
        to: &mut Vec<Packet>,
    ) {
        if self.mood.silent {
            return;
        }
        let key = (packet.tuple.saddr, packet.tuple.sport);
        let fresh = packet.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
        let known = self.connections.get(&key);
        let reusable = known.is_none_or(|connection| connection.tcp.over());
        if fresh && reusable {
            if self.mood.refuses {
                self.connections.remove(&key);
                to.push(refusal(packet));
                return;
            }
            let made = super::client::socket_settings(settings, 1 + self.side as usize, rng);
            let tcp = Tcp::accept(reversed(&packet.tuple), made, packet, now, to);
            let connection = Connection {
                tcp,
                input: Vec::new(),
                work: None,
                served: 0,
                last: now,
                over_since: None,
                idled: false,
            };
            self.connections.insert(key, connection);
            return;
        }
        let Some(connection) = self.connections.get_mut(&key) else {
            if !packet.is(tcp::RST) {
                to.push(refusal(packet));
            }
            return;
        };
        connection.tcp.arrive(packet, now, to);
        if connection.tcp.broken.is_some() {
            self.connections.remove(&key);
            return;
        }
        self.serve(key, now, settings, rng, to);
    }

    /// The clock has reached the deadline.
    pub fn tick(&mut self, now: u64, settings: &Settings, rng: &mut Rng, to: &mut Vec<Packet>) {
        if self.mood.silent {
            return;
        }
        let keys: Vec<_> = self.connections.keys().copied().collect();
        for key in keys {
            if let Some(connection) = self.connections.get_mut(&key) {
                connection.tcp.tick(now, to);
                let gone = connection.over_since.is_some_and(|at| at + TIME_WAIT <= now);
                if connection.tcp.broken.is_some() || gone {
                    self.connections.remove(&key);
                    continue;
                }
                if !self.mood.stopped && connection.tires(self.side, settings).is_some_and(|at| at <= now) {
                    connection.idled = true;
                    connection.tcp.close(now, to);
                }
                let idle = self.mood.idle > 0 && now >= connection.last + self.mood.idle;
                if idle {
                    connection.last = now;
                    let busy = connection.work.is_some() || !connection.input.is_empty() || self.mood.stopped;
                    if !busy && !connection.tcp.closing() {
                        connection.idled = true;
                        connection.tcp.close(now, to);
                    }
                }
            }
            self.serve(key, now, settings, rng, to);
        }
    }

    /// Reads, works and answers on one connection.
    fn serve(&mut self, key: (u32, u16), now: u64, settings: &Settings, rng: &mut Rng, to: &mut Vec<Packet>) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if connection.tcp.over() && connection.over_since.is_none() {
            connection.over_since = Some(now);
        }
        if self.mood.stopped {
            return;
        }
        loop {
            let bytes = connection.tcp.read(to);
            if !bytes.is_empty() {
                connection.last = now;
                connection.input.extend(bytes);
            }
            if connection.tcp.closing() {
                return;
            }
            if connection.work.is_none() {
                match take_request(&mut connection.input) {
                    Ok(Some(request)) => {
                        let work = rng.u64(..=settings.work[self.side as usize]) + self.mood.slow;
                        connection.work = Some((request, now + work));
                    }
                    Ok(None) => {
                        if connection.tcp.peer_fin {
                            connection.tcp.close(now, to);
                        }
                        return;
                    }
                    Err(wrong) => {
                        self.wrong.get_or_insert(wrong);
                        return;
                    }
                }
            }
            let offered = connection.work.as_ref().is_some_and(|(request, _)| request.offers);
            if offered && !connection.input.is_empty() {
                // There are servers that drop it.
                self.wrong.get_or_insert("bytes behind an offer that isn't answered".into());
            }
            let Some((request, _)) = connection.work.take_if(|(_, at)| *at <= now) else { return };
            connection.served += 1;
            connection.last = now;
            let close = self.mood.closes > 0 && connection.served >= self.mood.closes;
            let mut list = self.lists.get(&request.key).map(|(list, _)| *list).unwrap_or_default();
            if request.kind == Kind::Append {
                list = list.append(request.id);
                let (known, ids) = self.lists.entry(request.key).or_default();
                *known = list;
                ids.push(request.id);
                self.log.push((request.key, request.id));
            }
            // A server that was asked to close needn't say that it does.
            let says = close || (request.last && rng.bool());
            let close = close || request.last;
            let answer = Answer { id: request.id, side: self.side, list, close: says };
            let dress = Dress {
                length: if settings.body == 0 { 0 } else { rng.usize(..settings.body) },
                chunk: (rng.u32(..4) == 0).then(|| rng.usize(1..2_000)),
                head: request.kind == Kind::Head,
            };
            let bytes = answer.bytes(dress);
            if close && rng.bool() {
                // The FIN goes with the answer's last segment; else behind it, by itself.
                connection.tcp.write_later(&bytes);
            } else {
                connection.tcp.write(&bytes, now, to);
            }
            if close {
                connection.tcp.close(now, to);
                return;
            }
        }
    }
}

/// RFC 9293, 3.10.7.1: the reset for a segment of no connection.
fn refusal(packet: &Packet) -> Packet {
    let phantom = u32::from(packet.is(tcp::SYN)) + u32::from(packet.is(tcp::FIN));
    let acks = packet.is(tcp::ACK);
    Packet {
        tuple: reversed(&packet.tuple),
        seq: if acks { packet.ack } else { 0 },
        ack: if acks { 0 } else { packet.seq.wrapping_add(packet.len()).wrapping_add(phantom) },
        flags: if acks { tcp::RST } else { tcp::RST | tcp::ACK },
        window: 0,
        mss: 0,
        scale: 0xff,
        permits_sack: false,
        sack: Vec::new(),
        payload: [].into(),
    }
}
