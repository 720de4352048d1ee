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

pub use backends::{Backend, Backends, Served};

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
    pending: Option<String>,
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
            if !word.member(side) && at > 0 && reason != App::RELEASED {
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
                self.pending = Some(reason);
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
            self.pending = Some(format!(
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
        self.pending = Some(format!("{}: {lost_legs} within {seconds} s", why(App::TRIPPED)));
        Some((next, App::TRIPPED))
    }

    /// What [`State::unfit`] found was swapped in.
    pub fn put_out(&mut self, side: Side, reason: u64) {
        self.trips[side as usize] += u64::from(reason == App::TRIPPED);
    }

    /// A side was put out on purpose, by this word.
    pub fn released(&mut self, side: Side, word: SwitchWord) {
        self.pending = Some(why(App::RELEASED).into());
        self.follow(word);
        self.breakers[side as usize].released();
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
            let reason =
                if member { "joined".to_owned() } else { self.pending.take().unwrap_or(UNKNOWN.into()) };
            self.say(format!("{} {}: {reason}", side.name(), if member { "in sync" } else { "OUT OF SYNC" }));
            let kind = if member { Kind::InSync } else { Kind::OutOfSync };
            self.events.tell(kind, Told { side: Some(side.name().into()), ..Told::reason(&reason) });
            self.served.iter_mut().for_each(|served| served.losses[side as usize].clear());
            let breaker = &mut self.breakers[side as usize];
            if member {
                breaker.joined(monotonic_ns())
            } else {
                breaker.fell(monotonic_ns())
            }
            self.sides[side as usize] = Standing { in_sync: member, since_ns: monotonic_ns(), reason };
        }
    }
}

/// Why a side fell out of sync: [`App::out_of_sync_reason`].
fn why(reason: u64) -> &'static str {
    match reason {
        1 => "a leg that owed a write was closed by its server",
        2 => "a leg that owed a write was reset by its server",
        3 => "a server that owed a write refused to be dialled",
        App::RESTARTED => "its server was restarted, and may have lost its memory",
        App::TRIPPED => "it lost leg after leg",
        App::RELEASED => "it is mirrored no more",
        App::UNJOINED => "the policy names servers there that have never joined",
        4 => "a leg that owed a write fell silent for longer than the stall budget",
        5 => "a leg was lost in the middle of a request, and its client sent the rest",
        7 => "a leg held a client's request back for longer than `pressure_budget`",
        8 => "it didn't answer a datagram that may have changed something, and the authority did",
        _ => "a client's connection ended while a write was owed",
    }
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
mod tests {
    use super::*;
    use mirror_control::breaker::Standing;

    fn lost(slot: u32, reason: LossReason) -> Event {
        let kind = EventKind::LegLost as u32;
        Event { at: monotonic_ns(), kind, slot, side: 1, reason: reason as u32, ..Event::default() }
    }

    fn twenty() -> BreakerPolicy {
        BreakerPolicy { lost_legs: 20, ..BreakerPolicy::default() }
    }

    fn mirrored() -> (State, SwitchWord) {
        let word = SwitchWord::initial().with_member(Side::Shadow, true);
        (State::new(word, (0, 0), twenty()), word)
    }

    #[test]
    fn many_refusals_at_once_put_the_shadow_out_and_say_why() {
        let (mut state, word) = mirrored();
        for slot in 0..4 {
            state.note(&lost(slot, LossReason::Refused));
        }
        let (next, why) = state.unfit(word, false).unwrap();
        assert_eq!(why, App::RESTARTED);
        assert!(!next.member(Side::Shadow) && next.member(Side::Primary));
        state.follow(next);
        assert!(state.sides[1].reason.contains("4 of 4 legs"), "{}", state.sides[1].reason);
        state.follow(next.with_member(Side::Shadow, true));
        assert_eq!(state.unfit(word, false), None, "a side that has joined again starts anew");
    }

    #[test]
    fn connections_that_are_not_taken_are_counted_and_are_no_restart() {
        let (mut state, word) = mirrored();
        for slot in 0..4 {
            state.note(&Event { side: 0, ..lost(slot, LossReason::NotTaken) });
        }
        (0..3).for_each(|_| state.note(&lost(9, LossReason::Refused)));
        let mut silent = lost(8, LossReason::Stalled);
        state.note(&silent);
        assert_eq!(state.not_taken(), [4, 1], "an open leg fell silent");
        silent.reason |= u32::from(LossReason::NEVER_OPEN);
        (0..3).for_each(|_| state.note(&silent));
        state.note(&Event { kind: EventKind::LegOpen as u32, ..lost(9, LossReason::Closed) });
        state.note(&lost(9, LossReason::Refused));
        assert_eq!(state.not_taken(), [4, 3]);
        assert_eq!(state.unfit(word.with_authority(Side::Shadow), false), None, "it has lost no leg");
    }

    #[test]
    fn questions_that_a_side_leaves_unanswered_open_its_breaker_and_are_no_restart() {
        let (mut state, word) = mirrored();
        let unanswered = Event {
            reason: LossReason::Unanswered as u32 | u32::from(LossReason::FAILED),
            ..lost(0, LossReason::Unanswered)
        };
        for n in 0..20 {
            assert_eq!(state.unfit(word, false), None, "after {n}");
            state.note(&unanswered);
        }
        assert_eq!(state.unfit(word, false).map(|(_, why)| why), Some(App::TRIPPED));
        assert_eq!(state.legs_lost, [0, 20]);
    }

    #[test]
    fn an_event_behind_the_word_still_tells_why() {
        let (mut state, word) = mirrored();
        state.follow(word.with_member(Side::Shadow, false));
        let kind = EventKind::OutOfSync as u32;
        state.note(&Event { kind, side: 1, reason: LossReason::Stalled as u32, ..Event::default() });
        assert!(state.sides[1].reason.contains("fell silent"), "{}", state.sides[1].reason);
    }

    #[test]
    fn moves_are_counted_by_how_they_ended() {
        let (mut state, _) = mirrored();
        state.moved(Move::Join, false, &Ok(()));
        state.moved::<()>(Move::Join, false, &Err(Refusal::UnderWay.into()));
        state.moved::<()>(Move::Cutover, false, &Err(anyhow::anyhow!("too late")));
        state.moved::<()>(Move::Cutover, false, &Err(anyhow::anyhow!("too late")));
        let moves: Vec<_> = state.moves.clone().into_iter().collect();
        assert_eq!(moves, [(("cutover", "aborted"), 2), (("join", "done"), 1), (("join", "refused"), 1)]);
        state.moved(Move::Cutover, true, &Ok(()));
        assert_eq!(state.moves.get(&("rehearsal", "done")), Some(&1));
        assert_eq!(state.moves.get(&("cutover", "done")), None, "a rehearsal is no cutover");
    }

    #[test]
    fn closes_at_idle_are_no_restart_and_the_authority_never_falls_out() {
        let (mut state, word) = mirrored();
        for slot in 0..100 {
            state.note(&lost(slot, LossReason::Closed));
            state.note(&lost(slot, LossReason::Stalled));
        }
        assert_eq!(state.unfit(word, false), None);
        for slot in 0..100 {
            state.note(&lost(slot, LossReason::Refused));
        }
        assert_eq!(state.unfit(word.with_authority(Side::Shadow), false), None);
    }

    fn failed(slot: u32, side: Side) -> Event {
        let event = lost(slot, LossReason::Reset);
        Event { side: side as u32, reason: event.reason | u32::from(LossReason::FAILED), ..event }
    }

    #[test]
    fn a_mirror_that_loses_leg_after_leg_is_put_out_on_either_side_and_says_why() {
        for mirror in Side::BOTH {
            let word = SwitchWord::initial().with_member(Side::Shadow, true).with_authority(mirror.other());
            let mut state = State::new(word, (0, 0), twenty());
            for _ in 0..19 {
                state.note(&failed(7, mirror));
            }
            assert_eq!(state.unfit(word, true), None, "19 of 20");
            state.note(&failed(7, mirror));
            let (next, reason) = state.unfit(word, true).unwrap();
            assert_eq!(
                (next.member(mirror), next.authority(), reason),
                (false, mirror.other(), App::TRIPPED)
            );
            state.put_out(mirror, reason);
            state.follow(next);
            let standing = &state.sides[mirror as usize];
            assert!(standing.reason.contains("20 within 10 s"), "{}", standing.reason);
            assert_eq!(state.trips[mirror as usize], 1);
            assert_eq!(state.breakers[mirror as usize].standing(), Standing::Open);
            assert_eq!(state.breakers[mirror.other() as usize].standing(), Standing::Closed);
            // What comes of its last legs counts for nothing.
            state.note(&failed(7, mirror));
            state.probed(mirror, true);
            assert_eq!(state.breakers[mirror as usize].standing(), Standing::HalfOpen);
            state.follow(next.with_member(mirror, true));
            assert_eq!(state.unfit(word, true), None);
        }
    }

    #[test]
    fn legs_that_end_well_open_no_breaker_and_nor_does_the_authority() {
        let (mut state, word) = mirrored();
        for slot in 0..100 {
            state.note(&lost(slot, LossReason::Closed));
            state.note(&failed(slot, Side::Primary));
        }
        assert_eq!(state.unfit(word, true), None);
    }

    #[test]
    fn a_daemon_that_comes_back_knows_who_fell_out_and_who_was_let_go() {
        let alone = SwitchWord::initial();
        let found = |at, reason| State::new(alone, (at, reason), twenty()).breakers;
        assert_eq!(found(5, App::TRIPPED)[1].standing(), Standing::Open);
        assert_eq!(found(5, App::RELEASED)[1].standing(), Standing::Closed);
        assert_eq!(found(0, 0)[1].standing(), Standing::Closed, "it has never joined");
        assert_eq!(found(5, App::TRIPPED)[0].standing(), Standing::Closed);
        let (mut state, word) = mirrored();
        let over = word.with_authority(Side::Shadow);
        state.released(Side::Primary, over.out_of_sync(Side::Primary).unwrap());
        assert_eq!(state.breakers[0].standing(), Standing::Closed);
        assert!(state.sides[0].reason.contains("no more"), "{}", state.sides[0].reason);
    }
}
