//! Whatever packets come, from all three sides at once: built near what the flows expect, so that states are reached, and wrong
//! in every field. Bytes say what happens: a fuzzer's, or a seed's.
//!
//! Nothing panics; what a client was shown never goes back, and is never more than each leg has acknowledged; its SACK blocks lie
//! beyond that; what a packet brings goes to the ends of its flow; the count of open writes is that of the flows that have one;
//! and when all is over, no slot is left in use.

mod bytes;

use std::collections::VecDeque;

use mirror_common::{
    abi::Tuple,
    flow::{Flow, Segment, flow_state, leg_state, tcp},
    seq,
    switch_word::Side,
    verdict::COUNTERS,
};

use crate::world::{
    config::Settings,
    gateway::{Gateway, Outcome, Read},
    packet::{CLIENTS, NAT, PORT, Packet, SERVERS, VIP, leg_tuple, reversed},
};
use bytes::Bytes;

/// Ports of the one client: few, so that connections meet.
const PORTS: [u16; 3] = [4_000, 4_001, 4_002];
/// Held packets that are kept to be let go.
const HELD: usize = 8;
/// Lines that an error has of what came before it.
const TOLD: usize = 12;

/// Pieces of what both ends say: whole, cut, several, odd.
const TEXTS: &[&[u8]] = &[
    b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n",
    b"HEAD /a HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST /a HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
    b"POST /a HTTP/1.1\r\ncontent-length: 3000\r\n\r\nab",
    b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
    b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\n",
    b"GET /a HT",
    b"TP/1.1\r\nhost: a\r\n\r\n",
    b"abc",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

/// Flags that mean something, and some that don't.
const FLAGS: [u8; 12] = [
    tcp::ACK,
    tcp::ACK,
    tcp::ACK | tcp::PSH,
    tcp::ACK | tcp::PSH,
    tcp::SYN,
    tcp::SYN | tcp::ACK,
    tcp::FIN | tcp::ACK,
    tcp::RST,
    tcp::RST | tcp::ACK,
    tcp::ACK | tcp::URG,
    tcp::SYN | tcp::FIN,
    0,
];

/// Pauses, in microseconds: within a stall, beyond it, beyond a handshake, a half-closed connection's time, an idle one's.
const PAUSES: [u64; 6] = [100, 30_000, 600_000, 11_000_000, 70_000_000, 7_300_000_000];

/// A gateway, and what is on its way to it.
struct Stage<'a> {
    bytes: Bytes<'a>,
    gateway: Gateway,
    now_us: u64,
    held: Vec<Packet>,
    /// Read, and overtaken by others before it is decided on.
    late: Option<Read>,
    /// What happened last, a line each.
    told: VecDeque<String>,
}

/// Plays what the bytes say. Returns how often each verdict came, by its number.
///
/// # Errors
/// The rule that was broken.
pub fn play(bytes: &[u8]) -> Result<[u64; COUNTERS], String> {
    let settings = Settings::of(&mut fastrand::Rng::with_seed(0));
    let mut stage = Stage {
        bytes: Bytes::new(bytes),
        gateway: Gateway::new(&settings, 1),
        now_us: 1_000_000,
        held: Vec::new(),
        late: None,
        told: VecDeque::new(),
    };
    if stage.bytes.next() & 1 == 1 {
        stage.gateway.service.endpoints[1].max_requests = 3;
    }
    let played = stage.run();
    let told: Vec<String> = stage.told.into();
    let hits = stage.gateway.hits;
    let counted = |()| std::array::from_fn(|verdict| hits.iter().map(|source| source[verdict]).sum());
    played.map(counted).map_err(|rule| format!("{rule}\nbehind\n{}", told.join("\n")))
}

impl Stage<'_> {
    fn run(&mut self) -> Result<(), String> {
        while !self.bytes.over() {
            let before = self.gateway.flows.clone();
            self.act()?;
            self.check(&before)?;
        }
        self.end()
    }

    fn tell(&mut self, line: String) {
        if self.told.len() >= TOLD {
            self.told.pop_front();
        }
        self.told.push_back(line);
    }

    fn act(&mut self) -> Result<(), String> {
        match self.bytes.next() % 20 {
            0 => {
                let pause = self.bytes.one_of(&PAUSES);
                self.now_us += pause;
                self.tell(format!("{pause} µs later"));
            }
            1 => self.sweep()?,
            2 => self.change_word(),
            3 => {
                if let Some(packet) = self.held.pop() {
                    self.put(packet)?;
                }
            }
            4 => {
                let packet = self.packet();
                let late = self.gateway.read(packet, self.now_us);
                if let Some(read) = self.late.replace(late) {
                    self.decide(read)?;
                }
            }
            _ => {
                let packet = self.packet();
                self.put(packet)?;
            }
        }
        self.now_us += 50;
        Ok(())
    }

    fn put(&mut self, packet: Packet) -> Result<(), String> {
        let read = self.gateway.read(packet, self.now_us);
        self.decide(read)
    }

    fn decide(&mut self, read: Read) -> Result<(), String> {
        let packet = read.packet().to_string();
        let outcome = self.gateway.decide(read, self.now_us);
        self.tell(format!("{packet}: {:?}", outcome.verdict));
        self.take(outcome)
    }

    fn sweep(&mut self) -> Result<(), String> {
        for outcome in self.gateway.sweep(0, self.now_us) {
            self.tell(format!("sweep: {:?}", outcome.verdict));
            self.take(outcome)?;
        }
        Ok(())
    }

    /// What comes of a packet goes nowhere but to an end of its flow.
    fn take(&mut self, outcome: Outcome) -> Result<(), String> {
        for (to, packet) in &outcome.out {
            let right = match to {
                2 => packet.tuple.saddr == VIP && packet.tuple.daddr == CLIENTS,
                side => packet.tuple.saddr == NAT[*side] && packet.tuple.daddr == SERVERS[*side],
            };
            if !right {
                return Err(format!("{:?} to a stranger: {packet}", outcome.verdict));
            }
            // A duplicate's, or beyond a hole.
            let contradicts = |[begin, end]: &[u32; 2]| {
                !seq::lt(*begin, *end) || (!seq::le(*end, packet.ack) && !seq::lt(packet.ack, *begin))
            };
            if *to == 2 && packet.sack.iter().any(contradicts) {
                return Err(format!(
                    "{:?} with blocks at its own acknowledgement: {packet}",
                    outcome.verdict
                ));
            }
        }
        if let Some(packet) = outcome.held
            && self.held.len() < HELD
        {
            self.held.push(packet);
        }
        Ok(())
    }

    /// What the daemon may do to the word: weights, members, and a flip behind a freeze without an open write.
    fn change_word(&mut self) {
        let (word, now) = (self.gateway.application.word, self.now_us);
        let other = word.authority().other();
        let next = match self.bytes.next() % 6 {
            0 => word.with_member(other, true),
            1 => word.with_member(other, false).with_weight(0),
            2 if word.member(other) => word.with_weight(10_000),
            3 => word.with_weight(0),
            4 if !word.frozen() => {
                let app = &mut self.gateway.application.app;
                app.freeze_deadline = (now + 100_000) * 1_000;
                app.freeze_epoch = word.epoch().wrapping_add(1);
                app.thaw_state = word.state();
                word.with_frozen(true)
            }
            5 if word.frozen() && word.member(other) && self.gateway.application.app.open_writes == 0 => {
                word.with_authority(other).with_frozen(false)
            }
            _ => return,
        };
        self.gateway.application.swap(word, next, now);
        self.tell(format!("{:?}", self.gateway.application.word));
    }

    /// A packet of one of the flows, or of none, near the numbers that are expected there.
    fn packet(&mut self) -> Packet {
        let port = self.bytes.one_of(&PORTS);
        let client = Tuple { saddr: CLIENTS, daddr: VIP, sport: port.to_be(), dport: PORT };
        let live = |flow: &&Flow| flow.tuple == client && flow.state != flow_state::FREE;
        let flow = self.gateway.flows.iter().find(live).copied().unwrap_or_default();
        let (tuple, numbers) = match self.bytes.next() % 5 {
            0 => (reversed(&leg_tuple(Side::Primary, flow.legs[0].port)), of_server(&flow, Side::Primary)),
            1 => (reversed(&leg_tuple(Side::Shadow, flow.legs[1].port)), of_server(&flow, Side::Shadow)),
            _ => (client, of_client(&flow)),
        };
        let seq = self.near(numbers[0]);
        let ack = self.near(numbers[1]);
        let flags = self.bytes.one_of(&FLAGS);
        let payload: &[u8] = if flags & (tcp::SYN | tcp::RST) != 0 || self.bytes.next().is_multiple_of(3) {
            &[]
        } else {
            self.bytes.one_of(TEXTS)
        };
        Packet {
            tuple,
            seq,
            ack,
            flags,
            window: u16::from(self.bytes.next()) << 8,
            mss: 1_460,
            scale: self.bytes.one_of(&[Segment::NO_SCALE, 0, 7]),
            permits_sack: self.bytes.next().is_multiple_of(2),
            sack: self.blocks(ack),
            payload: payload.into(),
        }
    }

    /// Blocks of a SACK option, mostly beyond the acknowledgement.
    fn blocks(&mut self, ack: u32) -> Vec<[u32; 2]> {
        let count = self.bytes.next() % 8;
        let block = |n: u8| {
            let begin = self.near([ack, ack.wrapping_add(1), ack.wrapping_add(u32::from(n))]);
            [begin, begin.wrapping_add(u32::from(self.bytes.next()))]
        };
        (0..count.min(4)).map(block).collect()
    }

    /// Mostly one of the numbers, at times beside it, rarely anywhere.
    fn near(&mut self, numbers: [u32; 3]) -> u32 {
        let number = self.bytes.one_of(&numbers);
        match self.bytes.next() % 12 {
            0 => number.wrapping_add(u32::from(self.bytes.next())),
            1 => number.wrapping_sub(u32::from(self.bytes.next())),
            2 => number.wrapping_add(u32::from(self.bytes.next()) << 24),
            _ => number,
        }
    }

    fn check(&self, before: &[Flow]) -> Result<(), String> {
        for (old, new) in before.iter().zip(&self.gateway.flows) {
            if new.state == flow_state::FREE {
                continue;
            }
            let same = old.state == flow_state::OPEN && old.generation == new.generation;
            if same && new.state == flow_state::OPEN {
                for (name, was, is) in [
                    ("acknowledgement", old.shown, new.shown),
                    ("right edge", old.shown_edge, new.shown_edge),
                    ("client's next byte", old.client_next, new.client_next),
                ] {
                    if seq::lt(is, was) {
                        return Err(format!("the {name} went back from {was} to {is}: {new:#?}"));
                    }
                }
            }
            for side in Side::BOTH {
                let leg = new.leg(side);
                let owes = new.state == flow_state::OPEN && leg.state != leg_state::NONE;
                if owes && seq::lt(leg.acked, new.shown) {
                    return Err(format!("the client was shown what the {} lacks: {new:#?}", side.name()));
                }
            }
        }
        self.check_words()
    }

    fn check_words(&self) -> Result<(), String> {
        let application = &self.gateway.application;
        let word = application.word;
        if !word.member(word.authority()) {
            return Err("the authority is no member".into());
        }
        let counted = self.gateway.flows.iter().filter(|flow| flow.has(Flow::COUNTED)).count() as u64;
        if counted != application.app.open_writes {
            return Err(format!("{} open writes, {counted} flows with one", application.app.open_writes));
        }
        Ok(())
    }

    /// Everybody is silent from here on: the sweep frees every slot.
    fn end(&mut self) -> Result<(), String> {
        for _ in 0..4 {
            self.now_us += PAUSES[5];
            self.sweep()?;
        }
        let left = self.gateway.flows.iter().filter(|flow| flow.state != flow_state::FREE).count();
        if left > 0 || self.gateway.application.app.open_writes != 0 {
            return Err(format!(
                "{left} flows and {} writes are left",
                self.gateway.application.app.open_writes
            ));
        }
        Ok(())
    }
}

/// Sequence and acknowledgement numbers of which a client's packet may have one.
fn of_client(flow: &Flow) -> [[u32; 3]; 2] {
    [[flow.client_next, flow.shown, flow.parse.at], [flow.view_next, flow.client_acked, flow.view_next]]
}

/// The same of a side's server.
fn of_server(flow: &Flow, side: Side) -> [[u32; 3]; 2] {
    let leg = flow.leg(side);
    let all = flow.client_next.wrapping_add(leg.offset);
    [[leg.sent_max, leg.rcv_nxt, leg.parse.at], [all, leg.acked.wrapping_add(leg.offset), all]]
}
