//! A move from its planning to its line in the status, whoever asked for it.

use anyhow::{Result, anyhow};
use mirror_control::moves::Move;

use super::Shared;
use crate::moves::Phases;

impl Shared {
    /// Makes a move, counts it, and says how it went. One at a time.
    ///
    /// # Errors
    /// When it is refused or aborted.
    pub(super) fn make(&self, wanted: Move) -> Result<Phases> {
        let _one = self.moving.try_lock().map_err(|_| anyhow!("another move is under way; wait for it"))?;
        let result = self.mover.carry_out(wanted);
        let mut state = self.state.lock().map_err(|_| anyhow!("poisoned"))?;
        state.moved(wanted, &result);
        if let Ok(phases) = &result {
            state.follow(self.mover.words.load(0));
            state.say(format!(
                "{wanted:?}: frozen for {:.0} µs, drained in {:.0} µs",
                phases.frozen_us, phases.drain_us
            ));
        }
        result
    }
}
