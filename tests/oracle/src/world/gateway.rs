//! The gateway around the pure transition functions, as the kernel's programs drive them: find the flow, read the payload,
//! decide, claim ports for dials, send what leaves, hold what waits.

use std::collections::{HashMap, VecDeque};

use mirror_common::{
    abi::{Endpoint, Entry, Service, Tuple, nat},
    checksum,
    flow::{
        Dialled, Due, Emit, Flow, Group, Opening, Parse, Reading, Segment, Step, Terms, emit, flow_state,
        on_client, on_client_syn, on_dialled, on_leg, on_sweep, open, sweep, tcp, to_sum,
    },
    protocol::{Kind, http1::Walk},
    seq,
    switch_word::Side,
    verdict::{Action, COUNTERS, Verdict},
    weight,
};

use super::config::Settings;
use super::packet::{NAT, PORT, Packet, SERVERS, VIP, reversed};
use super::words::{Application, Words};

/// Flow slots.
const SLOTS: u32 = 64;
/// Ports of each side's legs: few, so that they are used again.
const PORTS: u16 = 48;
/// Whose packet a verdict was for: a side's server, the client, nobody (the sweep).
pub const SOURCES: [&str; 4] = ["primary", "shadow", "client", "sweep"];
/// See [`SOURCES`].
pub const SWEEP: usize = 3;

/// A packet that has been read, and not yet decided on.
pub struct Read {
    pub(super) packet: Packet,
    seg: Segment,
    entry: Option<Entry>,
}

/// What became of a packet.
pub struct Outcome {
    /// Its verdict.
    pub verdict: Verdict,
    /// What leaves: to whom (a side's server, 2 the client), and the packet.
    pub out: Vec<(usize, Packet)>,
    /// Kept by the holder: this very packet, or a copy.
    pub held: Option<Packet>,
    /// The flow whose held packets may go on.
    pub wake: Option<Tuple>,
    /// No connection lags any more: whatever is held may go on.
    pub caught_up: bool,
    /// The flow's slot, where there is one.
    pub slot: Option<u32>,
    /// The side that the client heard before the packet.
    pub heard: Option<Side>,
    /// A new flow was opened in the slot.
    pub opened: bool,
    /// The side that fell out of sync by it.
    pub fell_out: Option<Side>,
}

/// The gateway.
pub struct Gateway {
    /// The flows.
    pub flows: Vec<Flow>,
    slots: VecDeque<u32>,
    ports: [VecDeque<u32>; 2],
    tuples: HashMap<Tuple, Entry>,
    /// The service.
    pub service: Service,
    /// The application's words.
    pub application: Application,
    walk: Box<Walk>,
    secret: u64,
    /// How often each verdict came, by source.
    pub hits: [[u64; COUNTERS]; 4],
}

fn clear(step: &mut Step) {
    *step = Step { verdict: Verdict::StaleSlot as u8, ..Step::default() };
}

impl Gateway {
    /// A gateway that has just been started.
    pub fn new(settings: &Settings, secret: u64) -> Gateway {
        let end = |side: usize| Endpoint {
            addr: SERVERS[side],
            nat: NAT[side],
            port: PORT,
            mss: 0,
            max_requests: if side == 1 && settings.limit_known { settings.shadow_closes } else { 0 },
        };
        let service = Service {
            flags: Service::SHADOWED | Service::DURABLE | if settings.ordered { Service::ORDERED } else { 0 },
            endpoints: [end(0), end(1)],
            stall_ms: 500,
            idle_ms: 60_000,
            pressure_ms: [0, 300, 1_000, 0][(secret % 4) as usize],
            ..Service::default()
        };
        let range = || (1_024..1_024 + PORTS).map(u32::from).collect();
        Gateway {
            flows: vec![Flow::default(); SLOTS as usize],
            slots: (0..SLOTS).collect(),
            ports: [range(), range()],
            tuples: HashMap::new(),
            service,
            application: Application::new(),
            walk: Box::new(Walk::new()),
            secret,
            hits: [[0; COUNTERS]; 4],
        }
    }

    /// Whether a client's connection has been ended by a reset.
    pub fn has_ended(&self, client: &Tuple) -> bool {
        let entry = self.tuples.get(client);
        entry.is_some_and(|entry| self.flows[entry.slot() as usize].state == flow_state::ENDED)
    }

    fn leg_tuple(&self, side: usize, port: u32) -> Tuple {
        let end = &self.service.endpoints[side];
        Tuple { saddr: end.addr, daddr: end.nat, sport: end.port, dport: nat::port(port).to_be() }
    }

    fn release(&mut self, side: usize, port: u32) {
        if port != 0 {
            let tuple = self.leg_tuple(side, port);
            self.tuples.remove(&tuple);
            self.ports[side].push_back(port);
        }
    }

    fn claim(&mut self, side: usize, entry: Entry) -> u32 {
        for _ in 0..3 {
            let Some(port) = self.ports[side].pop_front() else { return 0 };
            let tuple = self.leg_tuple(side, port);
            if let std::collections::hash_map::Entry::Vacant(place) = self.tuples.entry(tuple) {
                place.insert(entry);
                return port;
            }
            self.ports[side].push_back(port);
        }
        0
    }

    /// Above the port's last one, as with a clock of 4 µs.
    fn first_number(&self, side: usize, port: u32, now_us: u64) -> u32 {
        let key = (u64::from(SERVERS[side]) << 32) | u64::from(port);
        (weight::mix(key ^ self.secret) as u32).wrapping_add(((now_us * 1_000) >> 12) as u32)
    }

    /// Reads a packet, as it is done before the lock is taken.
    pub fn read(&mut self, packet: Packet, now_us: u64) -> Read {
        let mut seg = packet.segment(now_us);
        let entry = self.tuples.get(&packet.tuple).copied();
        if let Some(entry) = entry
            && seg.payload > 0
            && seg.flags & (tcp::SYN | tcp::RST) == 0
        {
            let flow = &self.flows[entry.slot() as usize];
            if !flow.has(Flow::OPAQUE) {
                let (kind, parse, heads, base) = if entry.from() == 2 {
                    (Kind::Request, flow.parse, 0, flow.completed)
                } else {
                    let leg = &flow.legs[entry.from() as usize & 1];
                    (Kind::Response, leg.parse, flow.heads.rotate_right(leg.answered & 63), leg.answered)
                };
                seg.reading = self.classify(&packet, kind, &parse, heads, base);
                if kind == Kind::Response {
                    let flow = &self.flows[entry.slot() as usize];
                    let (from, bytes) = to_sum(flow, Side::from_bit(entry.from()), &seg);
                    let at = from.wrapping_sub(seg.seq) as usize;
                    let summed = if bytes == 0 { &[][..] } else { &packet.payload[at..][..bytes as usize] };
                    (seg.reading.sum_at, seg.reading.summed) = (from, bytes);
                    seg.reading.sum = checksum::sum(summed);
                }
            }
        }
        Read { packet, seg, entry }
    }

    fn classify(&mut self, packet: &Packet, kind: Kind, parse: &Parse, heads: u64, base: u32) -> Reading {
        let skip = parse.at.wrapping_sub(packet.seq);
        if seq::lt(parse.at, packet.seq) || skip >= packet.len() {
            return Reading::default();
        }
        let walk = &mut self.walk;
        walk.read(kind, &parse.scanner, skip, &packet.payload, heads);
        let at = packet.seq.wrapping_add(packet.len()).wrapping_add(walk.rest());
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        Reading {
            before: *parse,
            after: Parse { scanner: walk.scanner(), at },
            heads: walk.heads,
            base,
            begun: walk.begun,
            completed: walk.completed,
            answered: walk.answered,
            ends: walk.ends.map(|end| packet.seq.wrapping_add(end)),
            statuses: walk.statuses,
            class: walk.class_number(),
            flags: Reading::DONE
                | flag(walk.lost(), Reading::OPAQUE)
                | flag(walk.until_close(), Reading::UNTIL_CLOSE)
                | flag(walk.close != 0, Reading::CLOSE)
                | flag(walk.in_head(), Reading::IN_HEAD)
                | flag(walk.behind_close != 0, Reading::BEHIND_CLOSE)
                | flag(walk.offers(), Reading::UPGRADE),
            status: walk.last_status,
            first_status: walk.first_status,
            body_at: packet.seq.wrapping_add(walk.first_body),
            body_length: walk.first_length,
            ..Reading::default()
        }
    }

    /// Decides on a packet that was read, and says what comes of it.
    pub fn decide(&mut self, read: Read, now_us: u64) -> Outcome {
        let Read { packet, mut seg, entry } = read;
        seg.now_ms = ((now_us / 1_000) as u32).max(1);
        seg.now_us = now_us as u32;
        let mut step = Step::default();
        clear(&mut step);
        let Some(entry) = entry else { return self.stranger(packet, &seg, now_us, step) };
        let (from, slot) = (entry.from() as usize, entry.slot());
        let heard = self.flows[slot as usize].authority();
        let tuple = self.flows[slot as usize].tuple;
        let ours = {
            let flow = &self.flows[slot as usize];
            let same = if from == 2 {
                flow.tuple == packet.tuple
            } else {
                nat::port(flow.legs[from & 1].port).to_be() == packet.tuple.dport
            };
            flow.generation == entry.generation() && same
        };
        let syn = seg.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
        if ours {
            self.with_terms(slot, now_us, |flow, terms| {
                if from != 2 {
                    on_leg(flow, Side::from_bit(from as u32), &seg, terms, &mut step);
                } else if syn {
                    on_client_syn(flow, &seg, terms, &mut step);
                } else {
                    on_client(flow, &seg, terms, &mut step);
                }
            });
        }
        if step.dial == 0xff {
            self.forget(slot, now_us);
            return self.stranger(packet, &seg, now_us, step);
        }
        if step.dial != 0 {
            self.dial(slot, &seg, &mut step, now_us);
        }
        let outcome = self.finish(from, slot, tuple, Some(packet), &step);
        Outcome { heard: Some(heard), ..outcome }
    }

    fn with_terms<T>(
        &mut self,
        slot: u32,
        now_us: u64,
        act: impl FnOnce(&mut Flow, &mut Terms<'_, Words<'_>>) -> T,
    ) -> T {
        let mut terms = Terms {
            switch: Words { application: &mut self.application, now_us },
            service: &self.service,
            now_ms: ((now_us / 1_000) as u32).max(1),
        };
        act(&mut self.flows[slot as usize], &mut terms)
    }

    /// A leg is dialled: a port is claimed before, and the one that isn't needed goes back.
    fn dial(&mut self, slot: u32, seg: &Segment, step: &mut Step, now_us: u64) {
        let side = usize::from(step.dial.wrapping_sub(1) & 1);
        step.dial = 0;
        let generation = self.flows[slot as usize].generation;
        let port = self.claim(side, Entry::new(slot, generation, side as u32));
        if port == 0 {
            return;
        }
        let dialled = Dialled { side: side as u32, port, iss: self.first_number(side, port, now_us) };
        let last = self.flows[slot as usize].legs[side].port;
        self.with_terms(slot, now_us, |flow, terms| on_dialled(flow, &dialled, seg, terms, step));
        let taken = self.flows[slot as usize].legs[side].port == port;
        self.release(side, if taken { last } else { port });
    }

    /// A packet without an entry.
    fn stranger(&mut self, packet: Packet, seg: &Segment, now_us: u64, mut step: Step) -> Outcome {
        let from = if packet.tuple.daddr == VIP { 2 } else { usize::from(packet.tuple.saddr == SERVERS[1]) };
        let rst = seg.is(tcp::RST);
        let verdict = match (from, rst) {
            (2, _) if seg.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN => {
                clear(&mut step);
                return match self.create(&packet, seg, now_us, &mut step) {
                    Ok(slot) => {
                        let tuple = packet.tuple;
                        let outcome = self.finish(2, slot, tuple, Some(packet), &step);
                        Outcome { opened: true, ..outcome }
                    }
                    Err(verdict) => self.without_flow(from, verdict, Vec::new()),
                };
            }
            (_, true) => Verdict::StaleSlot,
            (2, false) => Verdict::NoFlow,
            (_, false) => Verdict::ResetUnknownLeg,
        };
        let mut out = Vec::new();
        if verdict.action() == Action::Emit {
            let acks = seg.is(tcp::ACK);
            let e = Emit {
                kind: emit::BARE,
                flags: if acks { tcp::RST } else { tcp::RST | tcp::ACK },
                seq: if acks { seg.ack } else { 0 },
                ack: if acks { 0 } else { seg.end() },
                ..Emit::default()
            };
            out.push((from, Packet::made(&e, reversed(&packet.tuple), None, &[])));
        }
        self.without_flow(from, verdict, out)
    }

    fn without_flow(&mut self, from: usize, verdict: Verdict, out: Vec<(usize, Packet)>) -> Outcome {
        self.hits[from][verdict as usize] += 1;
        let fell_out = self.application.fell_out.take();
        Outcome {
            verdict,
            out,
            held: None,
            wake: None,
            caught_up: false,
            slot: None,
            heard: None,
            opened: false,
            fell_out,
        }
    }

    fn create(
        &mut self,
        packet: &Packet,
        seg: &Segment,
        now_us: u64,
        step: &mut Step,
    ) -> Result<u32, Verdict> {
        let mut words = Words { application: &mut self.application, now_us };
        let word = mirror_common::flow::Switch::word(&mut words);
        let me = word.authority();
        let second = word.member(me.other());
        let slot = self.slots.pop_front().ok_or(Verdict::TableFull)?;
        let generation = self.flows[slot as usize].generation;
        if self.tuples.contains_key(&packet.tuple) {
            self.slots.push_back(slot);
            return Err(Verdict::PortCollision);
        }
        self.tuples.insert(packet.tuple, Entry::new(slot, generation, 2));
        let mut opening = Opening { tuple: packet.tuple, who: packet.tuple.saddr, ..Opening::default() };
        for side in Side::BOTH {
            let n = side as usize;
            let port =
                if second || side == me { self.claim(n, Entry::new(slot, generation, n as u32)) } else { 0 };
            if port == 0 && side == me {
                self.release(0, opening.ports[0]);
                self.tuples.remove(&packet.tuple);
                self.slots.push_back(slot);
                return Err(Verdict::PortsFull);
            }
            opening.ports[n] = port;
            opening.iss[n] = self.first_number(n, port, now_us);
        }
        self.with_terms(slot, now_us, |flow, terms| open(flow, seg, &opening, terms, step));
        Ok(slot)
    }

    /// Makes a slot free whose connection is over.
    fn forget(&mut self, slot: u32, now_us: u64) {
        let flow = &mut self.flows[slot as usize];
        let (counted, lags) = (flow.has(Flow::COUNTED), flow.has(Flow::LAGS));
        let (tuple, ports) = (flow.tuple, [flow.legs[0].port, flow.legs[1].port]);
        let generation = flow.generation.wrapping_add(1);
        *flow = Flow { generation, ..Flow::default() };
        if counted {
            let mut words = Words { application: &mut self.application, now_us };
            mirror_common::flow::Switch::end_write(&mut words);
            if lags {
                let client = Group::client(tuple.saddr);
                mirror_common::flow::Switch::end_lag(&mut words, client, Group::ALL);
            }
        }
        self.tuples.remove(&tuple);
        self.release(0, ports[0]);
        self.release(1, ports[1]);
        self.slots.push_back(slot);
    }

    /// The sweep visits every slot; `how`: bits of [`sweep`].
    pub fn sweep(&mut self, how: u32, now_us: u64) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for slot in 0..SLOTS {
            if self.flows[slot as usize].state == 0 {
                continue;
            }
            let mut step = Step::default();
            clear(&mut step);
            let tuple = self.flows[slot as usize].tuple;
            let heard = self.flows[slot as usize].authority();
            let mut due = self.with_terms(slot, now_us, |flow, terms| on_sweep(flow, how, terms, &mut step));
            if due == Due::Emit {
                clear(&mut step);
                due = self.with_terms(slot, now_us, |flow, terms| {
                    on_sweep(flow, how | sweep::ACT, terms, &mut step)
                });
            }
            if due == Due::Free {
                self.flows[slot as usize].set(Flow::COUNTED, false);
                self.forget(slot, now_us);
                let outcome = self.without_flow(SWEEP, Verdict::NoneDue, Vec::new());
                let caught_up = step.events & Step::CAUGHT_UP != 0;
                outcomes.push(Outcome { slot: Some(slot), caught_up, ..outcome });
            } else if due == Due::Emit {
                let outcome = self.finish(SWEEP, slot, tuple, None, &step);
                outcomes.push(Outcome { heard: Some(heard), ..outcome });
            }
        }
        outcomes
    }

    /// Counts the verdict and makes the packets.
    fn finish(
        &mut self,
        from: usize,
        slot: u32,
        client: Tuple,
        packet: Option<Packet>,
        step: &Step,
    ) -> Outcome {
        let verdict = Verdict::from_number(step.verdict).unwrap_or(Verdict::StaleSlot);
        self.hits[from][verdict as usize] += 1;
        let wake = (step.events & (Step::WAKE | Step::LEG_OPEN | Step::LEG_LOST) != 0).then_some(client);
        let mut out = Vec::new();
        let mut held = None;
        if verdict.action() == Action::Hold {
            held = packet;
        } else {
            for side in 0..2 {
                let e = &step.to_leg[side];
                if e.kind != emit::NONE {
                    let tuple = reversed(&self.leg_tuple(side, e.port));
                    out.push((side, Packet::made(e, tuple, packet.as_ref(), blocks(step, side))));
                }
            }
            if step.to_client.kind != emit::NONE {
                let shown =
                    Packet::made(&step.to_client, reversed(&client), packet.as_ref(), blocks(step, 2));
                out.push((2, shown));
            }
            if step.hold_copy != 0 {
                held = packet;
            }
        }
        let fell_out = self.application.fell_out.take();
        let caught_up = step.events & Step::CAUGHT_UP != 0;
        Outcome {
            verdict,
            out,
            held,
            wake,
            caught_up,
            slot: Some(slot),
            heard: None,
            opened: false,
            fell_out,
        }
    }
}

/// What a receiver (0, 1 a side's server, 2 the client) is shown in the packet's SACK option.
fn blocks(step: &Step, to: usize) -> &[[u32; 2]] {
    let count = if usize::from(step.sack.to) == to { usize::from(step.sack.count) } else { 0 };
    assert!(count <= usize::from(step.sack.room), "more blocks than the option has room for");
    &step.sack.blocks[..count]
}

impl Read {
    /// The packet.
    pub fn packet(&self) -> &Packet {
        &self.packet
    }

    /// A server's packet for a leg, and its flow's slot.
    pub fn leg(&self) -> Option<(&Packet, u32)> {
        self.entry.filter(|entry| entry.from() != 2).map(|entry| (&self.packet, entry.slot()))
    }
}
