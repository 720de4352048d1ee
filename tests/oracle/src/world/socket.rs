//! A small TCP: sliding window, go-back-N on a timer with exponential backoff, fast retransmission, window probes; every
//! segment with data is acknowledged at once; SACK where both permit it. What it must be is strict: it believes nothing outside
//! its window.

mod receive;
mod scoreboard;

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use mirror_common::{
    abi::Tuple,
    flow::{Segment, tcp},
    seq,
};

use super::packet::Packet;
use receive::Report;
use scoreboard::Scoreboard;

/// The first retransmission of a SYN, in microseconds.
const SYN_RTO: u64 = 1_000_000;
/// Longest retransmission timeout, in microseconds.
pub const MAX_RTO: u64 = 8_000_000;
/// Retransmissions without an answer before it gives up.
const TRIES: u32 = 14;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Dialling.
    SynSent,
    /// Dialled.
    SynReceived,
    /// Established, or on its way to the end.
    Open,
    /// Over.
    Closed,
}

/// Why a connection ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// By the peer's RST.
    Reset,
    /// The peer is silent.
    TimedOut,
}

/// What a socket is made with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// First sequence number.
    pub iss: u32,
    /// Largest segment, in bytes.
    pub mss: u16,
    /// Window scale; [`Segment::NO_SCALE`]: none offered.
    pub scale: u8,
    /// SACK is permitted.
    pub sack: bool,
    /// Receive buffer, in bytes.
    pub room: u32,
    /// Congestion window at the beginning, in bytes.
    pub first_window: u32,
    /// Retransmission timeout, in microseconds.
    pub rto: u64,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Tcp {
    /// Addresses of what it sends.
    pub out: Tuple,
    /// Where it stands.
    pub state: State,
    /// Why it ended, if early.
    pub broken: Option<Broken>,
    settings: Settings,
    una: u32,
    next: u32,
    top: u32,
    edge: u32,
    queue: VecDeque<u8>,
    fin: bool,
    fin_acked: bool,
    window: u32,
    dup: u32,
    rto: u64,
    timer: Option<u64>,
    tries: u32,
    rcv: u32,
    /// Sequence and acknowledgement number of the segment that the window is from.
    told_at: (u32, u32),
    early: BTreeMap<u32, Rc<[u8]>>,
    early_fin: Option<u32>,
    report: Report,
    /// Both ends permit SACK, as far as is known.
    sack: bool,
    scoreboard: Scoreboard,
    ready: Vec<u8>,
    told_edge: u32,
    /// The peer's FIN has come, and all before it.
    pub peer_fin: bool,
    mss: u16,
    scales: bool,
    peer_scale: u8,
}

impl Tcp {
    fn new(out: Tuple, settings: Settings, state: State) -> Tcp {
        let first = settings.iss;
        Tcp {
            out,
            state,
            broken: None,
            settings,
            una: first,
            next: first.wrapping_add(1),
            top: first.wrapping_add(1),
            edge: first.wrapping_add(1),
            queue: VecDeque::new(),
            fin: false,
            fin_acked: false,
            window: settings.first_window,
            dup: 0,
            rto: SYN_RTO,
            timer: None,
            tries: 0,
            rcv: 0,
            told_at: (0, 0),
            early: BTreeMap::new(),
            early_fin: None,
            report: Report::default(),
            sack: settings.sack,
            scoreboard: Scoreboard::default(),
            ready: Vec::new(),
            told_edge: 0,
            peer_fin: false,
            mss: settings.mss,
            scales: settings.scale != Segment::NO_SCALE,
            peer_scale: 0,
        }
    }

    /// Dials.
    pub fn dial(out: Tuple, settings: Settings, now: u64, to: &mut Vec<Packet>) -> Tcp {
        let mut tcp = Tcp::new(out, settings, State::SynSent);
        tcp.send_syn(to);
        tcp.timer = Some(now + tcp.rto);
        tcp
    }

    /// Answers a SYN.
    pub fn accept(out: Tuple, settings: Settings, syn: &Packet, now: u64, to: &mut Vec<Packet>) -> Tcp {
        let mut tcp = Tcp::new(out, settings, State::SynReceived);
        tcp.take_syn(syn);
        tcp.send_syn(to);
        tcp.timer = Some(now + tcp.rto);
        tcp
    }

    /// What it expects next of its peer.
    pub fn expects(&self) -> u32 {
        self.rcv
    }

    /// Behind all that it has sent.
    pub fn sent(&self) -> u32 {
        self.top
    }

    /// The number of the next new byte that the application writes.
    pub fn write_end(&self) -> u32 {
        let first = if self.una == self.settings.iss { 1 } else { 0 };
        self.una.wrapping_add(first).wrapping_add(self.queue.len() as u32)
    }

    /// When it wants to be called next, in microseconds.
    pub fn deadline(&self) -> Option<u64> {
        if self.state == State::Closed { None } else { self.timer }
    }

    /// Both directions have ended.
    pub fn over(&self) -> bool {
        self.state == State::Closed || (self.fin_acked && self.peer_fin)
    }

    /// Whether it has said FIN.
    pub fn closing(&self) -> bool {
        self.fin
    }

    /// Everything that was written has been acknowledged.
    pub fn flushed(&self) -> bool {
        self.queue.is_empty()
    }

    fn take_syn(&mut self, syn: &Packet) {
        self.rcv = syn.seq.wrapping_add(1);
        self.told_edge = self.rcv.wrapping_add(self.settings.room.min(0xffff));
        self.mss = self.settings.mss.min(if syn.mss == 0 { 536 } else { syn.mss });
        self.sack &= syn.permits_sack;
        self.scales &= syn.scale != Segment::NO_SCALE;
        self.peer_scale = if self.scales { syn.scale } else { 0 };
        self.edge = self.settings.iss.wrapping_add(1).wrapping_add(u32::from(syn.window));
        self.told_at = (syn.seq, syn.ack);
    }

    fn packet(&self, seq: u32, flags: u8, window: u16, payload: Rc<[u8]>) -> Packet {
        let ack = if flags & tcp::ACK != 0 { self.rcv } else { 0 };
        let sack = if flags == tcp::ACK || flags & tcp::PSH != 0 { self.blocks() } else { Vec::new() };
        Packet {
            tuple: self.out,
            seq,
            ack,
            flags,
            window,
            mss: 0,
            scale: Segment::NO_SCALE,
            permits_sack: false,
            sack,
            payload,
        }
    }

    fn send_syn(&self, to: &mut Vec<Packet>) {
        let flags = if self.state == State::SynSent { tcp::SYN } else { tcp::SYN | tcp::ACK };
        let window = self.settings.room.min(0xffff) as u16;
        let mut packet = self.packet(self.settings.iss, flags, window, Rc::from([]));
        packet.mss = self.settings.mss;
        packet.permits_sack = self.sack;
        packet.scale = if self.scales { self.settings.scale } else { Segment::NO_SCALE };
        to.push(packet);
    }

    /// The window field, and its right edge: which never moves back.
    fn told(&mut self) -> u16 {
        let used = self.ready.len() as u32;
        let edge = self.rcv.wrapping_add(self.settings.room.saturating_sub(used));
        self.told_edge = seq::max(self.told_edge, edge);
        let scale = if self.scales { self.settings.scale } else { 0 };
        (self.told_edge.wrapping_sub(self.rcv) >> scale).min(0xffff) as u16
    }

    /// Acknowledges.
    pub fn acknowledge(&mut self, to: &mut Vec<Packet>) {
        let window = self.told();
        // Behind all that was ever sent, or the peer would take it for a retransmission, and answer.
        to.push(self.packet(self.top, tcp::ACK, window, Rc::from([])));
        self.report.duplicate = None;
    }

    /// Takes the application's bytes.
    pub fn write(&mut self, bytes: &[u8], now: u64, to: &mut Vec<Packet>) {
        self.queue.extend(bytes);
        self.pump(now, to);
    }

    /// Takes bytes that wait for the next call of [`Tcp::write`] or [`Tcp::close`].
    pub fn write_later(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes);
    }

    /// The application has no more to say.
    pub fn close(&mut self, now: u64, to: &mut Vec<Packet>) {
        self.fin = true;
        self.pump(now, to);
    }

    /// Ends at once, by a RST.
    pub fn abort(&mut self, to: &mut Vec<Packet>) {
        if self.state == State::Open {
            to.push(self.packet(self.top, tcp::RST | tcp::ACK, 0, Rc::from([])));
        }
        self.state = State::Closed;
    }

    /// Sends what may be sent.
    fn pump(&mut self, now: u64, to: &mut Vec<Packet>) {
        if self.state != State::Open || self.fin_acked {
            return;
        }
        let limit = seq::min(self.edge, self.una.wrapping_add(self.window.max(u32::from(self.mss))));
        loop {
            self.next = seq::min(self.scoreboard.behind(self.next), self.top);
            let offset = self.next.wrapping_sub(self.una) as usize;
            if offset > self.queue.len() {
                break;
            }
            let left = self.queue.len() - offset;
            let room = if seq::lt(self.next, limit) { limit.wrapping_sub(self.next) as usize } else { 0 };
            let hole = self.scoreboard.hole(self.next);
            let n = left.min(usize::from(self.mss)).min(room).min(hole);
            let last = self.fin && n == left;
            if n == 0 && !last {
                break;
            }
            self.send(offset, n, last, to);
            self.next = self.next.wrapping_add(n as u32 + u32::from(last));
            self.top = seq::max(self.top, self.next);
        }
        let waits = self.next != self.una || !self.queue.is_empty();
        if waits && self.timer.is_none() {
            self.timer = Some(now + self.rto);
        }
    }

    fn send(&mut self, offset: usize, n: usize, fin: bool, to: &mut Vec<Packet>) {
        let payload: Rc<[u8]> = self.queue.range(offset..offset + n).copied().collect();
        let flags = tcp::ACK | if n > 0 { tcp::PSH } else { 0 } | if fin { tcp::FIN } else { 0 };
        let window = self.told();
        to.push(self.packet(self.una.wrapping_add(offset as u32), flags, window, payload));
    }

    /// The clock has reached the deadline.
    pub fn tick(&mut self, now: u64, to: &mut Vec<Packet>) {
        if self.timer.is_none_or(|at| at > now) || self.state == State::Closed {
            return;
        }
        self.timer = None;
        self.tries += 1;
        if self.tries > TRIES {
            self.broken = Some(Broken::TimedOut);
            self.state = State::Closed;
            return;
        }
        self.rto = (self.rto * 2).min(MAX_RTO);
        match self.state {
            State::SynSent | State::SynReceived => {
                self.send_syn(to);
                self.timer = Some(now + self.rto);
            }
            State::Open if self.next != self.una => {
                // The peer may have thrown away what it reported (RFC 2018, 8).
                self.scoreboard = Scoreboard::default();
                self.next = self.una;
                self.window = u32::from(self.mss);
                self.dup = 0;
                self.pump(now, to);
            }
            State::Open if !self.queue.is_empty() => {
                self.probe(to);
                self.timer = Some(now + self.rto);
            }
            State::Open | State::Closed => {}
        }
    }

    /// A keep-alive or window probe (RFC 9293, 3.8.4 and 3.8.6.1).
    pub fn probe(&mut self, to: &mut Vec<Packet>) {
        let window = self.told();
        to.push(self.packet(self.una.wrapping_sub(1), tcp::ACK, window, Rc::from([])));
    }

    /// A segment has come.
    pub fn arrive(&mut self, packet: &Packet, now: u64, to: &mut Vec<Packet>) {
        match self.state {
            State::SynSent => self.dialled(packet, now, to),
            State::SynReceived => self.received(packet, now, to),
            State::Open => self.established(packet, now, to),
            State::Closed => {}
        }
    }

    fn dialled(&mut self, packet: &Packet, now: u64, to: &mut Vec<Packet>) {
        let hit = packet.is(tcp::ACK) && packet.ack == self.next;
        if packet.is(tcp::RST) {
            if hit {
                self.broken = Some(Broken::Reset);
                self.state = State::Closed;
            }
        } else if packet.is(tcp::SYN) && hit {
            self.take_syn(packet);
            self.open();
            self.acknowledge(to);
            self.pump(now, to);
        } else if packet.is(tcp::ACK) && !hit {
            to.push(self.packet(packet.ack, tcp::RST, 0, Rc::from([])));
        }
    }

    fn open(&mut self) {
        self.una = self.settings.iss.wrapping_add(1);
        self.state = State::Open;
        self.rto = self.settings.rto;
        self.timer = None;
        self.tries = 0;
    }

    fn received(&mut self, packet: &Packet, now: u64, to: &mut Vec<Packet>) {
        if packet.is(tcp::RST) {
            if packet.seq == self.rcv {
                self.broken = Some(Broken::Reset);
                self.state = State::Closed;
            }
        } else if packet.is(tcp::SYN) {
            self.send_syn(to);
        } else if packet.is(tcp::ACK) && packet.ack == self.next {
            self.open();
            self.edge =
                seq::max(self.edge, packet.ack.wrapping_add(u32::from(packet.window) << self.peer_scale));
            self.established(packet, now, to);
        } else if packet.is(tcp::ACK) {
            to.push(self.packet(packet.ack, tcp::RST, 0, Rc::from([])));
        }
    }

    fn established(&mut self, packet: &Packet, now: u64, to: &mut Vec<Packet>) {
        let window = self.told_edge.wrapping_sub(self.rcv);
        if packet.is(tcp::RST) {
            if packet.seq == self.rcv {
                self.broken = Some(Broken::Reset);
                self.state = State::Closed;
            } else if packet.seq.wrapping_sub(self.rcv) <= window {
                self.acknowledge(to);
            }
            return;
        }
        let phantom = u32::from(packet.is(tcp::FIN));
        let end = packet.seq.wrapping_add(packet.len()).wrapping_add(phantom);
        let stale = if end == packet.seq { seq::lt(packet.seq, self.rcv) } else { seq::le(end, self.rcv) };
        let beyond = seq::lt(self.told_edge, packet.seq);
        if packet.is(tcp::SYN) || stale || beyond {
            if stale && !packet.is_empty() {
                self.report.duplicate = Some([packet.seq, packet.seq.wrapping_add(packet.len())]);
            }
            self.acknowledge(to);
            return;
        }
        if !packet.is(tcp::ACK) {
            return;
        }
        if seq::lt(self.top, packet.ack) {
            self.acknowledge(to);
            return;
        }
        self.take_ack(packet, end == packet.seq, now, to);
        if end != packet.seq {
            self.take_data(packet);
            self.acknowledge(to);
        }
        self.pump(now, to);
    }

    fn take_ack(&mut self, packet: &Packet, pure: bool, now: u64, to: &mut Vec<Packet>) {
        let ack = packet.ack;
        if seq::lt(ack, self.una) {
            return;
        }
        let edge = ack.wrapping_add(u32::from(packet.window) << self.peer_scale);
        let same = edge == self.edge;
        // The latest word counts, also when it takes window back (RFC 9293, 3.10.7.4).
        let newer = seq::lt(self.told_at.0, packet.seq)
            || (self.told_at.0 == packet.seq && seq::le(self.told_at.1, ack));
        if newer || seq::lt(self.una, ack) {
            self.edge = edge;
            self.told_at = (packet.seq, ack);
        }
        self.tries = 0;
        let sacked = self.sack && self.scoreboard.note(ack, self.top, &packet.sack);
        if ack == self.una {
            if sacked {
                self.fill_holes(to);
            } else if pure && !self.sack && same && self.next != self.una {
                self.dup += 1;
                if self.dup == 3 {
                    self.window = (self.window / 2).max(2 * u32::from(self.mss));
                    let flight = self.top.wrapping_sub(self.una) as usize;
                    let n = self.queue.len().min(usize::from(self.mss)).min(flight);
                    self.send(0, n, self.fin && n == self.queue.len() && n < flight, to);
                }
            }
            return;
        }
        let passed = ack.wrapping_sub(self.una) as usize;
        let bytes = passed.min(self.queue.len());
        self.queue.drain(..bytes);
        self.fin_acked |= passed > bytes;
        self.una = ack;
        self.next = seq::max(self.next, ack);
        self.dup = 0;
        self.scoreboard.pass(ack);
        if sacked {
            self.fill_holes(to);
        }
        self.window = (self.window + u32::from(self.mss)).min(256 * 1024);
        self.rto = self.settings.rto;
        self.timer = (self.next != self.una).then(|| now + self.rto);
    }
}
