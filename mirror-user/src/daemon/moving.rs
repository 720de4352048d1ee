//! A move from its planning to its line in the status, whoever asked for it.

use std::time::Duration;

use anyhow::{Result, anyhow};
use mirror_control::moves::Move;

use super::Shared;
use crate::{
    datapath::Turns,
    events::{Kind, Told},
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
        self.one(wanted, who, false, |mover| mover.carry_out(wanted))
    }

    /// Gives the authority to the other side though the one that has it is dead: connections that wait for a write's answer from
    /// it are ended, and those writes are in doubt.
    ///
    /// # Errors
    /// As [`Shared::make`].
    pub(super) fn rescue(&self, wanted: Move, who: &str) -> Result<Phases> {
        let mut give_up = || {
            let swept =
                self.datapath.lock().map_err(|_| anyhow!("poisoned")).and_then(|mut all| all.sweep(true));
            if let Err(error) = swept {
                tracing::error!("what waits for a dead authority can't be ended: {error:#}");
            }
        };
        self.one(wanted, who, false, |mover| mover.carry_out_without(wanted, &mut give_up))
    }

    /// Freezes and drains for a cutover, and doesn't flip.
    ///
    /// # Errors
    /// As [`Shared::make`].
    pub(super) fn rehearse(&self, who: &str) -> Result<Phases> {
        self.one(Move::Cutover, who, true, |mover| mover.rehearse(Move::Cutover))
    }

    fn one(
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
        let result = carry_out(&self.mover).map(|phases| self.with_slowest(phases, before));
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

    fn turns(&self) -> Option<Turns> {
        self.datapath.lock().ok()?.turns().ok()
    }

    /// With the slowest requests since then. Where they can't be read, a move is none the worse for it.
    fn with_slowest(&self, phases: Phases, before: Option<Turns>) -> Phases {
        std::thread::sleep(ANSWERED);
        let slowest = before.zip(self.turns()).map(|(before, now)| now.since(&before).slowest_us());
        Phases { slowest_us: slowest.unwrap_or_default(), ..phases }
    }
}
