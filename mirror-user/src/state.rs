//! What the daemon knows beyond the words: since when each side is in sync or not, and why.

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
    moves::{Move, Refusal},
    restart::{Loss, Losses},
};

use crate::{
    events::{Events, Kind, Told},
    words::monotonic_ns,
};

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
    pending: Option<String>,
    losses: [Losses; 2],
    events: Events,
}

impl State {
    /// From the word as it is found, and when (nanoseconds) and why a side fell out of sync the last time.
    pub fn new(word: SwitchWord, (at, reason): (u64, u64)) -> Self {
        let now = monotonic_ns();
        let standing = |side: Side| match (word.member(side), at) {
            (true, _) => Standing { in_sync: true, since_ns: now, reason: "found in sync".into() },
            (false, 0) => Standing { in_sync: false, since_ns: now, reason: "has not joined".into() },
            (false, at) => Standing { in_sync: false, since_ns: at, reason: why(reason).into() },
        };
        Self {
            sides: [standing(Side::Primary), standing(Side::Shadow)],
            legs_lost: [0; 2],
            notices: VecDeque::new(),
            swept: crate::datapath::Swept::default(),
            sweeps: 0,
            sweep_time: Duration::ZERO,
            moves: BTreeMap::new(),
            pending: None,
            losses: Default::default(),
            events: Events::default(),
        }
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
            let since = self.sides[side as usize].since_ns;
            if let Some(loss) = loss_of(event.reason).filter(|_| event.at >= since) {
                self.losses[side as usize].lost(flow, loss, event.at);
            }
        } else if event.kind == EventKind::LegOpen as u32 {
            self.losses[side as usize].opened(flow);
        } else if event.kind == EventKind::OutOfSync as u32 {
            let reason = why(event.reason.into());
            let standing = &mut self.sides[side as usize];
            if standing.reason == UNKNOWN {
                // The word was seen before the event that tells why.
                standing.reason = reason.into();
                self.say(format!("{}: {reason}", side.name()));
            } else {
                self.pending = Some(reason.into());
            }
        } else if event.kind == EventKind::TableFull as u32 {
            self.events.tell(Kind::Fault, Told::reason(TABLE_FULL));
            self.say(TABLE_FULL.into());
        }
    }

    /// A move has ended, or, where nothing was to be moved, its rehearsal: `done`, `refused` or `aborted`.
    pub fn moved<T>(&mut self, wanted: Move, rehearsed: bool, result: &anyhow::Result<T>) -> &'static str {
        let result = match result {
            Ok(_) => "done",
            Err(error) if error.is::<Refusal>() => "refused",
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
        for losses in &mut self.losses {
            losses.counted(swept.two_legs, monotonic_ns());
        }
    }

    /// The word that puts out a side whose server was restarted and may have lost what was written to it, if there is such
    /// a side. Why is said when [`State::follow`] sees it swapped in.
    pub fn restarted(&mut self, word: SwitchWord) -> Option<SwitchWord> {
        let side = word.authority().other();
        let next = word.out_of_sync(side)?;
        let (lost, legs) = self.losses[side as usize].restarted(monotonic_ns())?;
        self.pending = Some(format!(
            "{lost} of {legs} legs were lost at once: {} (`durable = true` in the policy says that it doesn't)",
            why(App::RESTARTED)
        ));
        Some(next)
    }

    /// Compares with the word: who fell out of sync is said at once.
    pub fn follow(&mut self, word: SwitchWord) {
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
            self.losses[side as usize].clear();
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
        4 => "a leg that owed a write fell silent for longer than the stall budget",
        _ => "a client's connection ended while a write was owed",
    }
}

fn loss_of(reason: u32) -> Option<Loss> {
    match reason {
        r if r == LossReason::Closed as u32 => Some(Loss::Closed),
        r if r == LossReason::Reset as u32 => Some(Loss::Reset),
        r if r == LossReason::Refused as u32 => Some(Loss::Refused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(slot: u32, reason: LossReason) -> Event {
        let kind = EventKind::LegLost as u32;
        Event { at: monotonic_ns(), kind, slot, side: 1, reason: reason as u32, ..Event::default() }
    }

    fn mirrored() -> (State, SwitchWord) {
        let word = SwitchWord::initial().with_member(Side::Shadow, true);
        (State::new(word, (0, 0)), word)
    }

    #[test]
    fn many_refusals_at_once_put_the_shadow_out_and_say_why() {
        let (mut state, word) = mirrored();
        for slot in 0..4 {
            state.note(&lost(slot, LossReason::Refused));
        }
        let next = state.restarted(word).unwrap();
        assert!(!next.member(Side::Shadow) && next.member(Side::Primary));
        state.follow(next);
        assert!(state.sides[1].reason.contains("4 of 4 legs"), "{}", state.sides[1].reason);
        state.follow(next.with_member(Side::Shadow, true));
        assert_eq!(state.restarted(word), None, "a side that has joined again starts anew");
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
        assert_eq!(state.restarted(word), None);
        for slot in 0..100 {
            state.note(&lost(slot, LossReason::Refused));
        }
        assert_eq!(state.restarted(word.with_authority(Side::Shadow)), None);
    }
}
