//! A world on a virtual clock: clients, two servers, links and the gateway. A seed says all that happens; a step is a
//! delivered packet.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, VecDeque},
};

use fastrand::Rng;
use mirror_common::{
    flow::{Flow, tcp},
    switch_word::Side,
    verdict::Verdict,
};

pub mod admin;
pub mod client;
pub mod config;
pub mod gateway;
pub mod hold;
pub mod http;
pub mod judge;
mod lines;
mod order;
mod owed;
pub mod packet;
pub mod report;
pub mod server;
pub mod socket;
mod verdicts;
pub mod words;

use admin::Admin;
use client::{Client, Told};
use config::Settings;
use gateway::{Gateway, Outcome, Read};
use hold::Holder;
use judge::Judge;
use packet::{CLIENTS, Packet, SERVERS, VIP, leg_tuple};
pub use report::{Report, Totals};
use server::Server;

/// The daemon's sweep, in microseconds.
const SWEEP: u64 = 50_000;
/// From when on nothing is lost or broken any more, the next byte of an answer must come within this, in microseconds.
const PATIENCE: u64 = 120_000_000;
/// What is on its way when the last answer has come must end within this, in microseconds.
const QUIET: u64 = 20_000_000;
/// A world that has delivered so many packets answers itself for ever.
const TOO_MANY: u64 = 3_000_000;

enum Event {
    AtGateway(Packet),
    Decide(Box<Read>),
    AtServer(usize, Packet),
    AtClient(usize, Packet),
    TickServer(usize),
    TickClient(usize),
    Sweep,
    Hold,
    Admin,
    Move,
    Calm,
}

struct Item {
    at: u64,
    n: u64,
    event: Event,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.n) == (other.at, other.n)
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.n).cmp(&(other.at, other.n))
    }
}

/// A world.
pub struct World {
    settings: Settings,
    rng: Rng,
    now: u64,
    n: u64,
    events: BinaryHeap<Reverse<Item>>,
    clients: Vec<Client>,
    servers: [Server; 2],
    gateway: Gateway,
    holder: Holder,
    judge: Judge,
    admin: Admin,
    /// When each client's and server's next tick is due: clients first.
    ticks: Vec<Option<u64>>,
    hold_due: Option<u64>,
    calm: bool,
    steps: u64,
    mid_answer: BTreeSet<(u32, u16)>,
    /// Connections that their authority has closed for being idle.
    idled: BTreeSet<(u32, u16)>,
    failed_mid_answer: u64,
    /// Appends that were answered, in the order of their answers.
    writes: Vec<order::Write>,
    violation: Option<(u64, String)>,
    /// So many last lines are kept; 0: none.
    lines: usize,
    trace: VecDeque<String>,
}

/// Runs the world of a seed to its end, or to the first rule that is broken; keeps so many `lines` of its trace.
pub fn run(seed: u64, lines: usize) -> Report {
    let mut world = World::new(seed, lines);
    world.run();
    Report {
        seed,
        steps: world.steps,
        hits: world.gateway.hits,
        answered: world.clients.iter().map(|client| u64::from(client.answered)).sum(),
        failed_mid_answer: world.failed_mid_answer,
        counts: world.admin.counts,
        violation: world.violation,
        trace: Vec::from(world.trace),
    }
}

impl World {
    fn new(seed: u64, lines: usize) -> World {
        let mut rng = Rng::with_seed(seed);
        let settings = Settings::of(&mut rng);
        let gateway = Gateway::new(&settings, rng.u64(..));
        let clients: Vec<Client> = (0..settings.clients).map(Client::new).collect();
        let ticks = vec![None; clients.len() + 2];
        let mut world = World {
            rng,
            now: 1_000_000,
            n: 0,
            events: BinaryHeap::new(),
            servers: [Server::new(Side::Primary), Server::new(Side::Shadow)],
            gateway,
            holder: Holder::default(),
            judge: Judge::default(),
            admin: Admin::default(),
            ticks,
            hold_due: None,
            calm: false,
            steps: 0,
            mid_answer: BTreeSet::new(),
            idled: BTreeSet::new(),
            failed_mid_answer: 0,
            writes: Vec::new(),
            violation: None,
            lines,
            trace: VecDeque::new(),
            clients,
            settings,
        };
        world.note(|world| format!("{:?}", world.settings));
        world.begin();
        world
    }

    fn begin(&mut self) {
        for n in 0..self.clients.len() {
            let at = self.now + self.rng.u64(..5_000);
            self.ticks[n] = Some(at);
            self.push(at, Event::TickClient(n));
        }
        self.push(self.now + SWEEP, Event::Sweep);
        admin::begin(self);
        let calm = self.now + self.rng.u64(500_000..15_000_000);
        self.push(calm, Event::Calm);
    }

    fn push(&mut self, at: u64, event: Event) {
        self.n += 1;
        self.events.push(Reverse(Item { at, n: self.n, event }));
    }

    fn note(&mut self, line: impl FnOnce(&World) -> String) {
        if self.lines == 0 {
            return;
        }
        let line = format!("{:11.6} {}", self.now as f64 / 1e6, line(self));
        if self.trace.len() >= self.lines {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    fn violate(&mut self, rule: String) {
        self.note(|_| format!("BROKEN: {rule}"));
        self.violation.get_or_insert((self.now, rule));
    }

    fn run(&mut self) {
        let mut calm_since = None;
        let mut heard = 0;
        let mut done_since = None;
        while let Some(Reverse(item)) = self.events.pop() {
            self.now = item.at;
            self.handle(item.event);
            if self.steps > TOO_MANY {
                self.violate(format!("no rest after {TOO_MANY} packets"));
            }
            if self.violation.is_some() {
                return;
            }
            let so_far = self.clients.iter().map(|client| client.heard).sum();
            if self.calm && (calm_since.is_none() || heard != so_far) {
                // As long as answers come, it only takes its time: a long one, of small chunks, in small segments that
                // overtake one another, is repaired by one timeout after the other.
                calm_since = Some(self.now);
                heard = so_far;
            }
            let done = self.clients.iter().all(|client| client.done(&self.settings));
            if done && done_since.is_none() {
                done_since = Some(self.now);
                self.calm_down();
            }
            if let Some(since) = done_since
                && self.now > since + QUIET
            {
                self.settle();
                return;
            }
            if let Some(since) = calm_since
                && done_since.is_none()
                && self.now > since + PATIENCE
            {
                let waiting: Vec<_> = self.clients.iter().map(Client::state).collect();
                self.violate(format!("nothing was lost any more, and yet: {}", waiting.join("; ")));
                return;
            }
        }
    }

    /// Nothing is lost and nobody misbehaves from here on.
    fn calm_down(&mut self) {
        self.calm = true;
        admin::end_fault(self);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::AtGateway(packet) => {
                self.steps += 1;
                let raced = !self.calm && self.rng.u32(..10_000) < self.settings.raced;
                let side = usize::from(packet.tuple.saddr == SERVERS[1]);
                let read = self.gateway.read(packet, self.now);
                if let Some((packet, slot)) = read.leg() {
                    self.judge.server_said(packet, side, slot);
                    let seen = self.gateway.flows[slot as usize].legs[side].sent_max;
                    if seen.wrapping_sub(packet.seq).wrapping_add(1 << 19) < 1 << 20 {
                        let packet = packet.clone();
                        self.forge(&packet);
                    }
                }
                if raced {
                    let at = self.now + self.rng.u64(1..3_000);
                    self.push(at, Event::Decide(Box::new(read)));
                } else {
                    self.decide(read, "");
                }
            }
            Event::Decide(read) => self.decide(*read, "late: "),
            Event::AtServer(side, packet) => {
                self.steps += 1;
                let mut to = Vec::new();
                let server = &mut self.servers[side];
                server.arrive(&packet, self.now, &self.settings, &mut self.rng, &mut to);
                self.after_server(side, to);
            }
            Event::AtClient(n, packet) => {
                self.steps += 1;
                let (mut to, mut told) = (Vec::new(), Vec::new());
                let client = &mut self.clients[n];
                client.arrive(&packet, self.now, &self.settings, &mut self.rng, &mut to, &mut told);
                self.after_client(n, to, told);
            }
            Event::TickServer(side) => {
                let place = self.clients.len() + side;
                self.ticks[place] = self.ticks[place].filter(|at| *at > self.now);
                let mut to = Vec::new();
                self.servers[side].tick(self.now, &self.settings, &mut self.rng, &mut to);
                self.after_server(side, to);
            }
            Event::TickClient(n) => {
                self.ticks[n] = self.ticks[n].filter(|at| *at > self.now);
                let (mut to, mut told) = (Vec::new(), Vec::new());
                self.clients[n].tick(self.now, &self.settings, &mut self.rng, &mut to, &mut told);
                self.after_client(n, to, told);
            }
            Event::Sweep => {
                self.sweep(0);
                self.push(self.now + SWEEP, Event::Sweep);
            }
            Event::Hold => self.let_go(),
            Event::Admin => admin::act(self),
            Event::Move => admin::go_on(self),
            Event::Calm => self.calm_down(),
        }
    }

    fn sweep(&mut self, how: u32) {
        for outcome in self.gateway.sweep(how, self.now) {
            self.carry(outcome, "sweep: ");
        }
    }

    /// Somebody who has guessed a connection's addresses, but not its numbers, sends a RST.
    fn forge(&mut self, packet: &Packet) {
        if self.calm || self.rng.u32(..10_000) >= self.settings.forged || packet.is(tcp::SYN) {
            return;
        }
        let far = self.rng.u32(1 << 21..1 << 24);
        let seq = if self.rng.bool() { packet.seq.wrapping_add(far) } else { packet.seq.wrapping_sub(far) };
        let forged = Packet { seq, flags: tcp::RST, payload: [].into(), sack: Vec::new(), ..packet.clone() };
        let at = self.now + self.rng.u64(1..1_000);
        self.push(at, Event::AtGateway(forged));
    }

    fn decide(&mut self, read: Read, how: &str) {
        if self.lines > 0 {
            let text = read.to_string();
            self.note(|_| format!("{how}{text}"));
        }
        let outcome = self.gateway.decide(read, self.now);
        self.carry(outcome, "");
    }

    /// Sends what leaves, and keeps what is held.
    fn carry(&mut self, outcome: Outcome, how: &str) {
        if self.lines > 0 {
            let flow = outcome.slot.map(|slot| self.gateway.flow_line(slot)).unwrap_or_default();
            self.note(|_| format!("      {how}{} {flow}", outcome.verdict.name()));
            for (_, packet) in &outcome.out {
                self.note(|_| format!("      -> {packet}"));
            }
        }
        if let Err(rule) = self.judge.look(&outcome, &self.gateway) {
            self.violate(rule);
        }
        let counted =
            self.gateway.flows.iter().filter(|flow| flow.state != 0 && flow.has(Flow::COUNTED)).count();
        let open = self.gateway.application.app.open_writes;
        if open != counted as u64 {
            self.violate(format!("{open} writes are counted as open, and {counted} flows have one"));
        }
        if outcome.slot.is_some_and(|slot| self.judge.in_vain(slot, &self.gateway.flows[slot as usize])) {
            self.violate("a write is counted as open that nobody has got whole".into());
        }
        let lags = self.gateway.flows.iter().filter(|flow| flow.state != 0 && flow.has(Flow::LAGS)).count();
        let lagging = self.gateway.application.lags[0].lagging;
        if lagging != lags as u64 {
            self.violate(format!("{lagging} connections are counted as lagging, and {lags} are"));
        }
        if matches!(outcome.verdict, Verdict::FailedMidAnswer | Verdict::BrokenOff)
            && let Some(slot) = outcome.slot
        {
            let tuple = self.gateway.flows[slot as usize].tuple;
            self.mid_answer.insert((tuple.saddr, tuple.sport));
        }
        if let Some(slot) = outcome.slot
            && outcome.out.iter().any(|(to, packet)| *to == 2 && packet.is(tcp::FIN))
        {
            let flow = &self.gateway.flows[slot as usize];
            let side = flow.authority();
            if self.servers[side as usize].idled(&leg_tuple(side, flow.leg(side).port)) {
                self.idled.insert((flow.tuple.saddr, flow.tuple.sport));
            }
        }
        if let Some(side) = outcome.fell_out {
            admin::fell_out(self, side, outcome.slot);
        }
        if let Some(packet) = outcome.held
            && (self.calm || self.rng.u32(..10_000) >= self.settings.hold_loss)
        {
            self.holder.keep(packet, self.now);
            self.schedule_hold(self.now + hold::AGAIN);
        }
        if let Some(flow) = outcome.wake {
            self.holder.wake(&flow);
            let at = self.now + self.rng.u64(20..300);
            self.schedule_hold(at);
        }
        if outcome.caught_up {
            self.holder.thaw();
            let at = self.now + self.rng.u64(20..300);
            self.schedule_hold(at);
        }
        for (_, packet) in outcome.out {
            self.send(packet);
        }
    }

    fn schedule_hold(&mut self, at: u64) {
        if self.hold_due.is_none_or(|due| at < due) {
            self.hold_due = Some(at);
            self.push(at, Event::Hold);
        }
    }

    fn let_go(&mut self) {
        self.hold_due = self.hold_due.filter(|at| *at > self.now);
        for packet in self.holder.let_go(self.now) {
            let read = self.gateway.read(packet, self.now);
            self.decide(read, "let go: ");
            if self.violation.is_some() {
                return;
            }
        }
        if self.holder.holds() {
            self.schedule_hold(self.now + hold::AGAIN / 4);
        }
    }

    /// Puts a packet on its link.
    fn send(&mut self, packet: Packet) {
        let to = packet.tuple.daddr;
        let link = match (packet.tuple.saddr, to) {
            (a, b) if a == SERVERS[0] || b == SERVERS[0] => 1,
            (a, b) if a == SERVERS[1] || b == SERVERS[1] => 2,
            _ => 0,
        };
        let settings = self.settings.links[link];
        let copies = match self.rng.u32(..10_000) {
            // Nobody would send it again: a client whose RST is lost waits for its own patience to end; so does one whose
            // question is lost whether it was meant (RFC 5961, 3.2).
            _ if self.calm
                || (link == 0 && (packet.is(tcp::RST) || self.gateway.has_ended(&packet.tuple))) =>
            {
                1
            }
            n if n < settings.loss => 0,
            n if n < settings.loss + settings.double => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let at = self.now + settings.delay + self.rng.u64(..=settings.jitter);
            let packet = packet.clone();
            let event = match to {
                to if to == SERVERS[0] => Event::AtServer(0, packet),
                to if to == SERVERS[1] => Event::AtServer(1, packet),
                to if to == VIP || to >= packet::NAT[0] => Event::AtGateway(packet),
                to => Event::AtClient((to - CLIENTS) as usize, packet),
            };
            self.push(at, event);
        }
    }

    fn after_server(&mut self, side: usize, to: Vec<Packet>) {
        for packet in to {
            self.send(packet);
        }
        if let Some(wrong) = self.servers[side].wrong.take() {
            let name = Side::from_bit(side as u32).name();
            self.violate(format!("the {name} got what no client said: {wrong}"));
        }
        let place = self.clients.len() + side;
        if let Some(at) = self.servers[side].deadline(&self.settings) {
            self.tick_at(place, at, Event::TickServer(side));
        }
    }

    fn tick_at(&mut self, place: usize, at: u64, event: Event) {
        let at = at.max(self.now);
        if self.ticks[place].is_none_or(|known| at < known) {
            self.ticks[place] = Some(at);
            self.push(at, event);
        }
    }

    fn after_client(&mut self, n: usize, to: Vec<Packet>, told: Vec<Told>) {
        for packet in to {
            self.send(packet);
        }
        for told in told {
            self.hear(told);
        }
        if let Some(at) = self.clients[n].deadline(&self.settings) {
            self.tick_at(n, at, Event::TickClient(n));
        }
    }
}
