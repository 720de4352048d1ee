//! A client: appends to a list of its own, reads it back, and knows what each answer must say.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use mirror_common::{abi::Tuple, flow::tcp, switch_word::Side};

use super::config::Settings;
use super::http::{self, Kind, ListState, Request, take_answer};
use super::packet::{CLIENTS, PORT, Packet, VIP};
use super::socket::{self, State, Tcp};
use broken_off::{BreakOff, plan};

mod broken_off;
mod waits;

/// How long a closed connection is remembered, in microseconds.
const TIME_WAIT: u64 = 5_000_000;

/// With all its answers a client waits so long for the server's FIN, in microseconds, as Linux does for a socket that was closed
/// (`tcp_fin_timeout`): a server whose machine has died never says it.
const FIN_TIMEOUT: u64 = 60_000_000;

/// How often a client that waits for nothing but the connection's end looks whether its server is still there, in microseconds.
const KEEP_ALIVE: u64 = 10_000_000;

/// A request that waits for its answer.
struct Waiting {
    request: Request,
    /// What its answer must say.
    expected: ListState,
    since: u64,
}

/// What a client has to tell the judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A request was answered as it had to be.
    Answered {
        /// By whom.
        side: Side,
        /// List and id, where it was an append.
        append: Option<(u64, u64)>,
        /// Since when it waited.
        since: u64,
    },
    /// A connection ended with requests unanswered.
    Failed {
        /// The connection, as it comes to the gateway.
        tuple: Tuple,
        /// How.
        how: &'static str,
        /// Requests that it has to send again.
        lost: usize,
        /// The appends among them.
        writes: Vec<u64>,
        /// When the last request was asked that was answered.
        asked: u64,
    },
    /// Something that no network can excuse.
    Wrong(String),
}

/// How a connection is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    AtIdle,
    WithLastRequest,
    /// The server's: the last request asks for it.
    Asked,
    Reset,
}

/// A client.
pub struct Client {
    addr: u32,
    port: u16,
    /// The list of its connection: each has its own, for writes of several connections have no common order.
    key: u64,
    tcp: Option<Tcp>,
    old: Vec<(Tcp, u64)>,
    /// The last number of the port's last connection.
    last: Option<u32>,
    input: Vec<u8>,
    waiting: VecDeque<Waiting>,
    /// Must be sent again, on the next connection.
    again: VecDeque<Waiting>,
    /// Pieces of a request that follow.
    later: VecDeque<(u64, Vec<u8>)>,
    issued: u32,
    on_connection: u32,
    ending: Ending,
    /// When it looks whether a server is still there that was asked to end the connection.
    probe_at: u64,
    list: ListState,
    /// The last request is going to be broken off.
    broken_off: Option<BreakOff>,
    /// Ports of connections of which its machine knows nothing any more, and says nothing.
    vanished: Vec<u16>,
    /// The last answer said that its server would close.
    announced: bool,
    /// When the last request was asked that was answered.
    asked: u64,
    next_at: u64,
    /// The appends that were answered, in order, by list.
    pub appended: BTreeMap<u64, Vec<u64>>,
    /// The appends whose connection ended before their answers, in order, by list; none where that end was announced.
    pub unsure: BTreeMap<u64, Vec<u64>>,
    /// Requests that were answered.
    pub answered: u32,
    /// Bytes that have come.
    pub heard: u64,
}

/// The settings of a socket. `whose`: 0 a client's, 1 the primary's, 2 the shadow's.
pub fn socket_settings(settings: &Settings, whose: usize, rng: &mut Rng) -> socket::Settings {
    let near_wrap = rng.bool();
    let iss = if near_wrap { u32::MAX - rng.u32(..20_000) } else { rng.u32(..) };
    socket::Settings {
        iss,
        mss: settings.mss[whose],
        scale: settings.scales[whose],
        sack: settings.sack[whose],
        room: rng.u32(settings.room.0..=settings.room.1),
        first_window: 10 * u32::from(settings.mss[whose]),
        rto: settings.rto,
    }
}

impl Client {
    /// The n-th client.
    pub fn new(n: usize) -> Client {
        Client {
            addr: CLIENTS + n as u32,
            port: 5_000,
            key: (n as u64) << 16,
            tcp: None,
            old: Vec::new(),
            last: None,
            input: Vec::new(),
            waiting: VecDeque::new(),
            again: VecDeque::new(),
            later: VecDeque::new(),
            issued: 0,
            on_connection: 0,
            ending: Ending::AtIdle,
            probe_at: 0,
            list: ListState::default(),
            broken_off: None,
            vanished: Vec::new(),
            announced: false,
            asked: 0,
            next_at: 0,
            appended: BTreeMap::new(),
            unsure: BTreeMap::new(),
            answered: 0,
            heard: 0,
        }
    }

    /// Whether every request has been answered.
    pub fn done(&self, settings: &Settings) -> bool {
        self.issued >= settings.requests && self.waiting.is_empty() && self.again.is_empty()
    }

    /// What it waits for, for a report.
    pub fn state(&self) -> String {
        format!(
            "client{}: {} answered, waits for {:?}, {:?}",
            self.addr,
            self.answered,
            self.waiting.iter().map(|w| (w.request.id, w.request.kind)).collect::<Vec<_>>(),
            self.tcp.as_ref().map(|tcp| (tcp.state, tcp.out.sport.to_be(), tcp.deadline()))
        )
    }

    /// When it wants to be called next.
    pub fn deadline(&self, settings: &Settings) -> Option<u64> {
        let tcp = self.tcp.as_ref().and_then(Tcp::deadline);
        let old = self.old.iter().flat_map(|(tcp, gone)| [tcp.deadline(), Some(*gone)]).flatten().min();
        let later = self.later.front().map(|(at, _)| *at);
        let ready = self.tcp.as_ref().is_none_or(|tcp| tcp.state == State::Open && !tcp.closing());
        let full = settings.client_closes > 0 && self.on_connection >= settings.client_closes;
        let more = (self.issued < settings.requests || !self.again.is_empty())
            && self.has_room(settings)
            && (self.tcp.is_none() || !full);
        let breaks = self.broken_off.map(|broken| broken.at);
        let next = (ready && later.is_none() && breaks.is_none() && more).then_some(self.next_at);
        let probe = self.awaits_end(settings).then_some(self.probe_at);
        [tcp, old, later, next, breaks, probe, self.gives_up()].into_iter().flatten().min()
    }

    /// A segment has come.
    pub fn arrive(
        &mut self,
        packet: &Packet,
        now: u64,
        settings: &Settings,
        rng: &mut Rng,
        to: &mut Vec<Packet>,
        told: &mut Vec<Told>,
    ) {
        let current = self.tcp.as_mut().filter(|tcp| tcp.out.sport == packet.tuple.dport);
        match current {
            Some(tcp) => {
                tcp.arrive(packet, now, to);
                self.look(now, settings, rng, to, told);
            }
            None => {
                let mine = |tcp: &Tcp| tcp.out.sport == packet.tuple.dport && tcp.state != State::Closed;
                let old = self.old.iter_mut().rev().find(|(tcp, _)| mine(tcp));
                if let Some((tcp, _)) = old {
                    tcp.arrive(packet, now, to);
                    tcp.read(to);
                } else if packet.flags & (tcp::RST | tcp::ACK) == tcp::ACK
                    && !self.has_vanished(packet.tuple.dport)
                {
                    let mut reset = packet.clone();
                    reset.tuple = super::packet::reversed(&packet.tuple);
                    (reset.seq, reset.ack, reset.flags) = (packet.ack, 0, tcp::RST);
                    (reset.payload, reset.sack) = ([].into(), Vec::new());
                    to.push(reset);
                }
            }
        }
    }

    /// The clock has reached the deadline.
    pub fn tick(
        &mut self,
        now: u64,
        settings: &Settings,
        rng: &mut Rng,
        to: &mut Vec<Packet>,
        told: &mut Vec<Told>,
    ) {
        for (tcp, _) in &mut self.old {
            tcp.tick(now, to);
        }
        self.old.retain(|(tcp, gone)| tcp.state != State::Closed && now < *gone);
        if let Some(tcp) = &mut self.tcp {
            tcp.tick(now, to);
        }
        self.look(now, settings, rng, to, told);
    }

    /// Reads answers, and does what is due.
    fn look(
        &mut self,
        now: u64,
        settings: &Settings,
        rng: &mut Rng,
        to: &mut Vec<Packet>,
        told: &mut Vec<Told>,
    ) {
        self.read_answers(now, settings, rng, to, told);
        self.break_off(now, to);
        if let Some(tcp) = &mut self.tcp {
            let how = match tcp.broken {
                Some(socket::Broken::Reset) => Some("reset"),
                Some(socket::Broken::TimedOut) => Some("timed out"),
                // RFC 9112, 9.6: it asks no more, and closes; what it sent ahead was done by nobody.
                None if self.announced => Some("closed as announced"),
                None if tcp.peer_fin => Some("closed"),
                None => None,
            };
            if let Some(how) = how {
                let tuple = tcp.out;
                if tcp.state == State::Open && !tcp.closing() {
                    tcp.close(now, to);
                }
                self.leave(now);
                if !self.waiting.is_empty() || !self.later.is_empty() {
                    let appends = self.waiting.iter().filter(|w| w.request.kind == Kind::Append);
                    let writes: Vec<u64> = appends.map(|w| w.request.id).collect();
                    if !self.announced {
                        self.unsure.insert(self.key, writes.clone());
                    }
                    let (lost, asked) = (self.waiting.len(), self.asked);
                    told.push(Told::Failed { tuple, how, lost, writes, asked });
                    self.later.clear();
                    self.broken_off = None;
                    self.again.append(&mut self.waiting);
                }
            }
        }
        self.act(now, settings, rng, to);
    }

    /// The connection is history.
    fn leave(&mut self, now: u64) {
        if let Some(tcp) = self.tcp.take() {
            self.old.push((tcp, now + TIME_WAIT));
        }
        self.input.clear();
    }

    fn read_answers(
        &mut self,
        now: u64,
        settings: &Settings,
        rng: &mut Rng,
        to: &mut Vec<Packet>,
        told: &mut Vec<Told>,
    ) {
        let Some(tcp) = &mut self.tcp else { return };
        let bytes = tcp.read(to);
        self.heard += bytes.len() as u64;
        self.input.extend(bytes);
        while !self.input.is_empty() && !self.announced {
            let Some(first) = self.waiting.front() else {
                let text = String::from_utf8_lossy(&self.input[..self.input.len().min(40)]).into_owned();
                told.push(Told::Wrong(format!("bytes that nobody asked for: {text:?}")));
                self.input.clear();
                return;
            };
            match take_answer(&mut self.input, first.request.kind == Kind::Head) {
                Ok(None) => return,
                Err(wrong) => {
                    told.push(Told::Wrong(wrong));
                    return;
                }
                Ok(Some(answer)) => {
                    let Some(first) = self.waiting.pop_front() else { return };
                    if answer.id != first.request.id || answer.list != first.expected {
                        told.push(Told::Wrong(format!(
                            "{:?} {} wants {:?}, the answer is {answer:?}",
                            first.request.kind, first.request.id, first.expected
                        )));
                        return;
                    }
                    let write = first.request.kind == Kind::Append;
                    if write {
                        self.appended.entry(first.request.key).or_default().push(first.request.id);
                    }
                    self.answered += 1;
                    (self.announced, self.asked) = (answer.close, first.since);
                    let append = write.then_some((first.request.key, first.request.id));
                    told.push(Told::Answered { side: answer.side, append, since: first.since });
                    self.next_at = now + if settings.think == 0 { 0 } else { rng.u64(..settings.think) };
                }
            }
        }
    }

    /// Sends what is due.
    fn act(&mut self, now: u64, settings: &Settings, rng: &mut Rng, to: &mut Vec<Packet>) {
        if self.tcp.is_none() {
            let more = self.issued < settings.requests || !self.again.is_empty();
            if !more || now < self.next_at {
                return;
            }
            self.dial(now, settings, rng, to);
            return;
        }
        let Some(tcp) = &mut self.tcp else { return };
        if tcp.state != State::Open || tcp.closing() {
            if self.gives_up().is_some_and(|at| at <= now) {
                self.leave(now);
            }
            return;
        }
        while self.later.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, piece)) = self.later.pop_front() {
                tcp.write(&piece, now, to);
            }
        }
        while self.later.is_empty()
            && self.broken_off.is_none()
            && now >= self.next_at
            && self.has_room(settings)
            && (self.issued < settings.requests || !self.again.is_empty())
        {
            let last = settings.client_closes > 0 && self.on_connection + 1 >= settings.client_closes;
            if settings.client_closes > 0 && self.on_connection >= settings.client_closes {
                break;
            }
            self.ask(last, now, settings, rng, to);
        }
        if self.awaits_end(settings) {
            if let Some(tcp) = self.tcp.as_mut().filter(|_| now >= self.probe_at) {
                tcp.probe(to);
                self.probe_at = now + KEEP_ALIVE;
            }
            return;
        }
        let full = settings.client_closes > 0 && self.on_connection >= settings.client_closes;
        if full && self.waiting.is_empty() && self.later.is_empty() {
            let Some(tcp) = &mut self.tcp else { return };
            match self.ending {
                Ending::Reset => tcp.abort(to),
                _ if !tcp.closing() => tcp.close(now, to),
                _ => {}
            }
            self.leave(now);
            self.next_at = self.next_at.max(now + 1_000);
        }
    }

    /// Writes the next request.
    fn ask(&mut self, last: bool, now: u64, settings: &Settings, rng: &mut Rng, to: &mut Vec<Packet>) {
        let mut waiting = self.again.pop_front().unwrap_or_else(|| self.invent(now, settings, rng));
        if waiting.request.kind == Kind::Append {
            self.list = self.list.append(waiting.request.id);
        }
        (waiting.request.key, waiting.expected) = (self.key, self.list);
        waiting.request.last = last && self.ending == Ending::Asked;
        self.probe_at = now + KEEP_ALIVE;
        let (bytes, kind) = (waiting.request.bytes(), waiting.request.kind);
        self.waiting.push_back(Waiting { since: now, ..waiting });
        self.on_connection += 1;
        let Some(tcp) = &mut self.tcp else { return };
        let broken_off = if kind == Kind::Append {
            plan(bytes.len(), self.waiting.len() == 1, now, settings, rng)
        } else {
            None
        };
        if let Some((sent, broken)) = broken_off {
            tcp.write(&bytes[..sent], now, to);
            self.broken_off = Some(broken);
            return;
        }
        let pieces = rng.usize(1..=settings.pieces).min(bytes.len());
        let mut rest = &bytes[..];
        let mut at = now;
        for left in (0..pieces).rev() {
            let n = if left == 0 { rest.len() } else { rng.usize(1..=rest.len() - left) };
            let (piece, tail) = rest.split_at(n);
            rest = tail;
            if at == now && last && left == 0 && self.ending == Ending::WithLastRequest {
                tcp.write_later(piece);
                tcp.close(now, to);
            } else if at == now {
                tcp.write(piece, now, to);
            } else {
                self.later.push_back((at, piece.to_vec()));
            }
            if rng.u32(..3) == 0 {
                at += rng.u64(1..30_000);
            }
        }
    }

    fn invent(&mut self, now: u64, settings: &Settings, rng: &mut Rng) -> Waiting {
        let kind = if rng.u32(..100) < settings.writes {
            Kind::Append
        } else if rng.u32(..8) == 0 {
            Kind::Head
        } else {
            Kind::Get
        };
        let id = u64::from(self.addr) << 32 | u64::from(self.issued);
        self.issued += 1;
        let body = if kind == Kind::Append { http::body(settings.body, rng) } else { Vec::new() };
        // Whoever asks ahead doesn't offer another protocol for what is on the way.
        let offers = settings.pipeline == 1 && rng.u32(..8) < settings.offers;
        let request = Request { id, key: self.key, kind, body, last: false, offers };
        Waiting { request, expected: self.list, since: now }
    }

    fn dial(&mut self, now: u64, settings: &Settings, rng: &mut Rng, to: &mut Vec<Packet>) {
        let port = u16::from_be(self.port.to_be());
        let taken = self.old.iter().any(|(tcp, _)| tcp.out.sport == port.to_be() && !tcp.over());
        if !settings.same_port || taken {
            self.port += 1;
        }
        let sport = self.port.to_be();
        let last = self.old.iter().rev().find(|(tcp, _)| tcp.out.sport == sport).map(|(tcp, _)| tcp.sent());
        self.last = last.or(self.last.filter(|_| settings.same_port));
        self.old.retain(|(tcp, _)| tcp.out.sport != sport);
        let out = Tuple { saddr: self.addr, daddr: VIP, sport, dport: PORT };
        let mut made = socket_settings(settings, 0, rng);
        if let Some(last) = self.last {
            // Above the port's last connection, whose segments may still be on their way (RFC 9293, 3.4.1).
            made.iss = last.wrapping_add(rng.u32(100_000..200_000));
        }
        self.tcp = Some(Tcp::dial(out, made, now, to));
        self.on_connection = 0;
        self.key += 1;
        self.list = ListState::default();
        self.announced = false;
        self.ending = match rng.u32(..4) {
            0 => Ending::AtIdle,
            1 => Ending::WithLastRequest,
            2 => Ending::Asked,
            _ => Ending::Reset,
        };
    }
}
