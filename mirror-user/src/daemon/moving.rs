//! A move from its planning to its line in the status, whoever asked for it.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use mirror_control::moves::{Failed, Move};

use super::Shared;
use crate::{
    datapath::Turns,
    events::{Kind, Told},
    flows,
    moves::{Mover, Phases},
};

/// What was held is answered within so long behind a move, as a rule.
const ANSWERED: Duration = Duration::from_millis(100);

impl Shared {
    /// Makes a move, counts it, and says how it went; `who` asked. One at a time.
    ///
    /// # Errors
    /// When it is refused or aborted.
    pub(super) fn make(&self, wanted: Move, who: &str) -> Result<Phases> {
        self.one(wanted, who, false, |mover| mover.carry_out(wanted, false, &mut |which| self.end(which)))
    }

    /// Gives the authority to the other side though the one that has it is dead: connections that wait for a write's answer from
    /// it are ended, and those writes are in doubt.
    ///
    /// # Errors
    /// As [`Shared::make`].
    pub(super) fn rescue(&self, wanted: Move, who: &str) -> Result<Phases> {
        self.one(wanted, who, false, |mover| mover.carry_out(wanted, true, &mut |which| self.end(which)))
    }

    /// Takes the primary in without a hook, though a dead authority has writes that it lacks: connections that wait for that one
    /// are ended.
    ///
    /// # Errors
    /// As [`Shared::make`].
    pub(super) fn take_in(&self, who: &str) -> Result<Phases> {
        self.one(Move::Join, who, false, |mover| mover.take_in(&mut |which| self.end(which)))
    }

    /// Ends connections that a move waits for: a bit of [`mirror_common::flow::sweep`].
    pub(super) fn end(&self, which: u32) {
        let swept =
            self.datapath.lock().map_err(|_| anyhow!("poisoned")).and_then(|mut all| all.sweep(which));
        if let Err(error) = swept {
            tracing::error!("what a move waits for can't be ended: {error:#}");
        }
    }

    /// An aborted move's error, with the connections that it waited for, where they are still there.
    pub(super) fn explained(&self, error: anyhow::Error, within: Duration) -> anyhow::Error {
        if !matches!(error.downcast_ref::<Failed>(), Some(Failed::Open(_))) {
            return error;
        }
        match flows::unsettled(&self.pins, within, false).map(|seen| seen.named) {
            Ok(waiting) if !waiting.is_empty() => anyhow!("{error:#}; it waited for {}", waiting.join(", ")),
            Ok(_) => error,
            Err(unread) => anyhow!("{error:#}; what it waited for can't be read: {unread:#}"),
        }
    }

    /// Freezes and drains for a cutover, and doesn't flip.
    ///
    /// # Errors
    /// As [`Shared::make`].
    pub(super) fn rehearse(&self, who: &str) -> Result<Phases> {
        self.one(Move::Cutover, who, true, |mover| mover.rehearse(Move::Cutover))
    }

    /// Carries a move out, alone, and says how it ended.
    pub(super) fn one(
        &self,
        wanted: Move,
        who: &str,
        rehearsed: bool,
        carry_out: impl FnOnce(&Mover) -> Result<Phases>,
    ) -> Result<Phases> {
        let kind = match wanted {
            _ if rehearsed => Kind::Rehearsal,
            Move::Join => Kind::Join,
            Move::Cutover => Kind::Cutover,
            Move::Rollback => Kind::Rollback,
        };
        let _one = self.moving.try_lock().map_err(|_| anyhow!("another move is under way; wait for it"))?;
        // Milliseconds, before anything is frozen.
        let before = self.turns();
        let begun = Instant::now();
        let result = carry_out(&self.mover)
            .map(|phases| self.with_slowest(phases, before))
            .map_err(|error| self.explained(error, begun.elapsed()));
        if wanted == Move::Join && result.is_ok() {
            // What a copy of before answered is none of this one's doing.
            self.compared.begin(self.turns().as_ref());
        }
        let mut state = self.state.lock().map_err(|_| anyhow!("poisoned"))?;
        let ended = state.moved(wanted, rehearsed, &result);
        let told = Told {
            result: Some(ended.into()),
            who: Some(who.into()),
            phases: result.as_ref().ok().copied(),
            ..Told::reason(result.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default())
        };
        self.events.tell(kind, told);
        if let Ok(phases) = &result {
            state.follow(self.mover.words.load(0));
            let what = if rehearsed {
                format!("{} rehearsed, nothing moved", wanted.name())
            } else {
                format!("{} done", wanted.name())
            };
            state.say(format!("{what}: {phases}"));
        }
        result
    }

    /// What was measured of turns so far; nothing where it can't be read.
    pub(super) fn turns(&self) -> Option<Turns> {
        self.datapath.lock().ok()?.turns().ok()
    }

    /// With the slowest requests since then. Where they can't be read, a move is none the worse for it.
    fn with_slowest(&self, phases: Phases, before: Option<Turns>) -> Phases {
        std::thread::sleep(ANSWERED);
        let slowest = before.zip(self.turns()).map(|(before, now)| now.since(&before).slowest_us());
        Phases { slowest_us: slowest.unwrap_or_default(), ..phases }
    }
}
