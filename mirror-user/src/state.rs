//! What the daemon knows beyond the words: since when each side is in sync or not, and why.

mod backends;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use mirror_common::{
    abi::{App, Event, EventKind},
    flow::LossReason,
    switch_word::{Side, SwitchWord},
};
use mirror_control::{
    breaker::{Breaker, BreakerPolicy},
    connections::NotTaken,
    moves::{Move, Refusal},
    precondition::Refused,
    restart::Loss,
};

use crate::{
    events::{Events, Kind, Told},
    words::monotonic_ns,
};

pub use backends::{Backend, Backends, FoundLimit, Served};

/// Notices that are kept.
const NOTICES: usize = 256;

/// A new connection is refused.
const TABLE_FULL: &str = "no free slot or port for a new connection";

/// Why a side fell out of sync, until the event comes that tells.
const UNKNOWN: &str = "a write is owed";

/// A side's standing.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Gets every write, and may get reads.
    pub in_sync: bool,
    /// Since when, in nanoseconds of the monotonic clock.
    pub since_ns: u64,
    /// Why.
    pub reason: String,
}

/// Why a side is about to fall out of sync.
struct Pending {
    reason: String,
    /// Nobody expects it back by itself.
    on_purpose: bool,
}

impl Pending {
    fn found(reason: String) -> Option<Self> {
        Some(Self { reason, on_purpose: false })
    }

    fn on_purpose(reason: &str) -> Option<Self> {
        Some(Self { reason: reason.into(), on_purpose: true })
    }
}

/// The state of the application.
pub struct State {
    /// By side.
    pub sides: [Standing; 2],
    /// Legs lost, by side.
    pub legs_lost: [u64; 2],
    /// What a person may want to read, the newest last.
    pub notices: VecDeque<String>,
    /// Flows and legs as the last sweep found them.
    pub swept: crate::datapath::Swept,
    /// Sweeps so far.
    pub sweeps: u64,
    /// The time that they took.
    pub sweep_time: Duration,
    /// Moves and rehearsals so far: which, and how it ended.
    pub moves: BTreeMap<(&'static str, &'static str), u64>,
    /// The circuit breakers, by side.
    pub breakers: [Breaker; 2],
    /// The services, in the policy's order; one at least.
    pub served: Vec<Served>,
    /// How often lost legs opened them.
    pub trips: [u64; 2],
    /// How often they asked, by side: in vain, and not.
    pub probes: [[u64; 2]; 2],
    /// The share of the reads that is the shadow's, in basis points, and since when (nanoseconds of the monotonic clock).
    pub weight: (u32, u64),
    policy: BreakerPolicy,
    pending: Option<Pending>,
    limits_found: Vec<FoundLimit>,
    not_taken: [NotTaken; 2],
    events: Events,
}

impl State {
    /// From the word as it is found, and when (nanoseconds) and why a side fell out of sync the last time.
    pub fn new(word: SwitchWord, (at, reason): (u64, u64), policy: BreakerPolicy) -> Self {
        let now = monotonic_ns();
        let standing = |side: Side| match (word.member(side), at) {
            (true, _) => Standing { in_sync: true, since_ns: now, reason: "found in sync".into() },
            (false, 0) => Standing { in_sync: false, since_ns: now, reason: "has not joined".into() },
            (false, at) => Standing { in_sync: false, since_ns: at, reason: why(reason).into() },
        };
        let breaker = |side: Side| {
            let mut breaker = Breaker::new(policy.clone());
            // It fell out while another daemon looked on, or none.
            if !word.member(side) && at > 0 && !on_purpose(reason) {
                breaker.fell(now);
            }
            breaker
        };
        Self {
            breakers: Side::BOTH.map(breaker),
            served: vec![Served::default()],
            trips: [0; 2],
            probes: [[0; 2]; 2],
            weight: (word.weight(), now),
            policy,
            sides: [standing(Side::Primary), standing(Side::Shadow)],
            legs_lost: [0; 2],
            limits_found: Vec::new(),
            not_taken: Default::default(),
            notices: VecDeque::new(),
            swept: crate::datapath::Swept::default(),
            sweeps: 0,
            sweep_time: Duration::ZERO,
            moves: BTreeMap::new(),
            pending: None,
            events: Events::default(),
        }
    }

    /// The application has these services.
    pub fn serves(&mut self, served: Vec<Served>) {
        self.served = served;
    }

    /// The circuit breakers go by another policy.
    pub fn breakers_go_by(&mut self, policy: &BreakerPolicy) {
        self.policy = policy.clone();
        self.breakers.iter_mut().for_each(|breaker| breaker.goes_by(policy.clone()));
    }

    /// Tells from now on who falls out of sync, and who comes in.
    pub fn tell_to(&mut self, events: Events) {
        self.events = events;
    }

    /// Keeps a line for people.
    pub fn say(&mut self, line: String) {
        tracing::info!("{line}");
        if self.notices.len() == NOTICES {
            self.notices.pop_front();
        }
        self.notices.push_back(line);
    }

    /// Takes an event of the datapath in.
    pub fn note(&mut self, event: &Event) {
        let side = Side::from_bit(event.side);
        let flow = (event.slot, event.generation);
        if event.kind == EventKind::LegLost as u32 {
            self.legs_lost[side as usize] += 1;
            tracing::debug!(side = side.name(), slot = event.slot, reason = event.reason, "leg lost");
            // What was lost before the side joined says nothing about what it knows now.
            let Standing { since_ns, in_sync, .. } = self.sides[side as usize];
            let counts = event.at >= since_ns;
            match LossReason::number(event.reason) {
                r if r == LossReason::NotTaken as u32 => self.not_taken[side as usize].lost(),
                r if r == LossReason::Refused as u32 => self.not_taken[side as usize].refused(flow),
                _ if event.reason & u32::from(LossReason::NEVER_OPEN) != 0 => {
                    self.not_taken[side as usize].refused(flow);
                }
                r if r == LossReason::Pressed as u32 && in_sync => {
                    self.say(format!(
                        "{}: a leg held a request back for all of `pressure_budget`: lost",
                        side.name()
                    ));
                }
                _ => {}
            }
            self.note_limit(event, side);
            let loss = loss_of(event.reason).filter(|_| counts);
            // An older daemon's policy may have had more of them.
            if let Some((loss, served)) = loss.zip(self.served.get_mut(event.service() as usize)) {
                served.losses[side as usize].lost(flow, event.backend(), loss, event.at);
            }
            if counts && in_sync && event.reason & u32::from(LossReason::FAILED) != 0 {
                self.breakers[side as usize].lost(event.service(), event.backend(), event.at);
            }
        } else if event.kind == EventKind::LegOpen as u32 {
            // A flow is one service's alone.
            self.served.iter_mut().for_each(|served| served.losses[side as usize].opened(flow));
            self.not_taken[side as usize].opened(flow);
        } else if event.kind == EventKind::OutOfSync as u32 {
            let of = self.served.get(event.service() as usize).map(Served::of).unwrap_or_default();
            let reason = format!("{}{of}", why(LossReason::number(event.reason).into()));
            let standing = &mut self.sides[side as usize];
            if standing.reason == UNKNOWN {
                // The word was seen before the event that tells why.
                standing.reason = reason.clone();
                self.say(format!("{}: {reason}", side.name()));
            } else {
                self.pending = Pending::found(reason);
            }
        } else if event.kind == EventKind::TableFull as u32 {
            self.events.tell(Kind::Fault, Told::reason(TABLE_FULL));
            self.say(TABLE_FULL.into());
        }
    }

    /// New connections so far that a side's server didn't take, by side.
    pub fn not_taken(&self) -> [u64; 2] {
        self.not_taken.each_ref().map(NotTaken::count)
    }

    /// A move has ended, or, where nothing was to be moved, its rehearsal: `done`, `refused` or `aborted`.
    pub fn moved<T>(&mut self, wanted: Move, rehearsed: bool, result: &anyhow::Result<T>) -> &'static str {
        let result = match result {
            Ok(_) => "done",
            Err(error) if error.is::<Refusal>() || error.is::<Refused>() => "refused",
            Err(_) => "aborted",
        };
        let what = if rehearsed { "rehearsal" } else { wanted.name() };
        *self.moves.entry((what, result)).or_default() += 1;
        result
    }

    /// A server has closed a leg: perhaps behind as many requests as it ever answers.
    fn note_limit(&mut self, event: &Event, side: Side) {
        let Some(served) = self.served.get_mut(event.service() as usize) else { return };
        let limit = served.limits[side as usize].as_mut().filter(|_| event.answered() > 0);
        let Some(requests) = limit.and_then(|limit| limit.closed_behind(event.answered())) else { return };
        self.limits_found.push(FoundLimit { service: event.service(), side, requests });
    }

    /// Limits of requests that were found since the last call.
    pub fn limits_found(&mut self) -> Vec<FoundLimit> {
        std::mem::take(&mut self.limits_found)
    }

    /// The datapath keeps to such a limit from now on.
    pub fn limited(&mut self, found: &FoundLimit) {
        let FoundLimit { service, side, requests } = found;
        let of = self.served.get(*service as usize).map(Served::of).unwrap_or_default();
        self.say(format!(
            "the {}{of} closes connections behind {requests} requests: it gets no more on one \
             (`max_requests = {requests}` in the policy says so from the start)",
            side.name()
        ));
    }

    /// Takes in what a sweep found, and how long it took.
    pub fn swept(&mut self, swept: crate::datapath::Swept, took: Duration) {
        self.swept = swept;
        self.sweeps += 1;
        self.sweep_time += took;
        for (served, legs) in self.served.iter_mut().zip(&swept.legs) {
            for (losses, legs) in served.losses.iter_mut().zip(legs) {
                losses.counted(legs.iter().sum(), monotonic_ns());
            }
        }
    }

    /// The word that puts out the side without authority, and why ([`App::RESTARTED`] and its like): its server was restarted
    /// and may have lost what was written to it (unless it is `durable`), or it loses leg after leg. The reason is said when
    /// [`State::follow`] sees the word swapped in.
    pub fn unfit(&mut self, word: SwitchWord, durable: bool) -> Option<(SwitchWord, u64)> {
        let side = word.authority().other();
        let next = word.out_of_sync(side)?;
        let now = monotonic_ns();
        let takes = self.takes(side);
        let restarted = self.served.iter_mut().zip(&takes).find_map(|(served, takes)| {
            let (lost, legs) = served.losses[side as usize].restarted(*takes, now)?;
            Some((lost, legs, served.of()))
        });
        if let Some((lost, legs, of)) = restarted.filter(|_| !durable) {
            self.pending = Pending::found(format!(
                "{lost} of {legs} legs{of} were lost at once: {} (`durable = true` in the policy says that it doesn't)",
                why(App::RESTARTED)
            ));
            return Some((next, App::RESTARTED));
        }
        if !self.breakers[side as usize].trips(&takes, now) {
            return None;
        }
        let BreakerPolicy { lost_legs, window, .. } = &self.policy;
        let seconds = window.as_secs_f64();
        self.pending = Pending::found(format!("{}: {lost_legs} within {seconds} s", why(App::TRIPPED)));
        Some((next, App::TRIPPED))
    }

    /// What [`State::unfit`] found was swapped in.
    pub fn put_out(&mut self, side: Side, reason: u64) {
        self.trips[side as usize] += u64::from(reason == App::TRIPPED);
    }

    /// A side was put out on purpose, by this word.
    pub fn released(&mut self, word: SwitchWord) {
        self.puts_out(App::RELEASED);
        self.follow(word);
    }

    /// A side is about to be put out on purpose: [`App::RELEASED`] or [`App::REJOINING`].
    pub fn puts_out(&mut self, reason: u64) {
        self.pending = Pending::on_purpose(why(reason));
    }

    /// It wasn't.
    pub fn keeps(&mut self) {
        self.pending.take_if(|pending| pending.on_purpose);
    }

    /// A side that fell out was asked whether it is well.
    pub fn probed(&mut self, side: Side, well: bool) {
        self.probes[side as usize][usize::from(well)] += 1;
        self.breakers[side as usize].probed(well, monotonic_ns());
    }

    /// Compares with the word: who fell out of sync is said at once.
    pub fn follow(&mut self, word: SwitchWord) {
        if self.weight.0 != word.weight() {
            self.weight = (word.weight(), monotonic_ns());
        }
        for side in Side::BOTH {
            let member = word.member(side);
            if self.sides[side as usize].in_sync == member {
                continue;
            }
            let pending = if member { None } else { self.pending.take() };
            let on_purpose = pending.as_ref().is_some_and(|pending| pending.on_purpose);
            let reason = match (member, pending) {
                (true, _) => "joined".to_owned(),
                (false, pending) => pending.map_or(UNKNOWN.into(), |pending| pending.reason),
            };
            self.say(format!("{} {}: {reason}", side.name(), if member { "in sync" } else { "OUT OF SYNC" }));
            let kind = if member { Kind::InSync } else { Kind::OutOfSync };
            self.events.tell(kind, Told { side: Some(side.name().into()), ..Told::reason(&reason) });
            self.served.iter_mut().for_each(|served| served.losses[side as usize].clear());
            let breaker = &mut self.breakers[side as usize];
            match (member, on_purpose) {
                (true, _) => breaker.joined(monotonic_ns()),
                (false, true) => breaker.released(),
                (false, false) => breaker.fell(monotonic_ns()),
            }
            self.sides[side as usize] = Standing { in_sync: member, since_ns: monotonic_ns(), reason };
        }
    }
}

/// Why a side fell out of sync: [`App::out_of_sync_reason`].
pub fn why(reason: u64) -> &'static str {
    match reason {
        1 => "a leg that owed a write was closed by its server",
        2 => "a leg that owed a write was reset by its server",
        3 => "a server that owed a write refused to be dialled",
        App::RESTARTED => "its server was restarted, and may have lost its memory",
        App::TRIPPED => "it lost leg after leg",
        App::RELEASED => "it is mirrored no more",
        App::REJOINING => "put out to be joined again",
        App::UNJOINED => "the policy names servers there that have never joined",
        4 => "a leg that owed a write fell silent for longer than the stall budget",
        5 => "a leg was lost in the middle of a request, and its client sent the rest",
        7 => "a leg held a client's request back for longer than `pressure_budget`",
        8 => "it didn't answer a datagram that may have changed something, and the authority did",
        _ => "a client's connection ended while a write was owed",
    }
}

/// Whether a side that fell out for this reason was put out by whoever asked for it.
fn on_purpose(reason: u64) -> bool {
    matches!(reason, App::RELEASED | App::REJOINING)
}

fn loss_of(reason: u32) -> Option<Loss> {
    match LossReason::number(reason) {
        r if r == LossReason::Closed as u32 => Some(Loss::Closed),
        r if r == LossReason::Reset as u32 => Some(Loss::Reset),
        r if r == LossReason::Refused as u32 => Some(Loss::Refused),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
