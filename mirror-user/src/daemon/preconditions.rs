//! What a cutover asks for, as the daemon sees it: the figures for [`mirror_control::precondition`].

use anyhow::Result;
use mirror_control::{
    moves::{Move, plan},
    precondition::{Check, Differing, Facts, Held, Precondition, Refused, Unsettled},
};

use super::Shared;
use crate::{
    flows,
    moves::Phases,
    policy::{self, Policy},
    words::monotonic_ns,
};

impl Shared {
    /// The connections that a cutover would wait for in vain, or why they can't be read: a look at every slot in use, where a
    /// write is open at all.
    pub(super) fn unsettled(&self, policy: &Policy) -> Result<Unsettled, String> {
        let resets = policy.unsettled == policy::Unsettled::Reset;
        if self.mover.words.open_writes(0) <= 0 {
            return Ok(Unsettled { resets, ..Unsettled::default() });
        }
        flows::unsettled(&self.pins, policy.freeze, resets).map_err(|error| format!("{error:#}"))
    }

    /// How the sides' answers differ; nothing where the counts can't be read.
    pub(super) fn differing(&self, policy: &Policy) -> Option<Differing> {
        self.compared.differing(&self.turns()?, policy.migration.judge().divergence_margin).ok()
    }

    /// For how long the shadow has had its share of the reads, beside what the policy's last step asks for.
    fn held(&self, policy: &Policy) -> Held {
        let since = self.state.lock().map_or_else(|_| monotonic_ns(), |state| state.weight.1);
        let seconds = monotonic_ns().saturating_sub(since) as f64 / 1e9 * self.board.rate;
        // The policy was checked when it was read.
        let weight = policy.migration.plan().map(|plan| plan.weight).unwrap_or_default();
        let least = weight.steps.last().copied().unwrap_or_default();
        Held { least, seconds, dwell_seconds: weight.dwell_seconds }
    }

    /// How each precondition of a cutover stands now.
    pub(super) fn preconditions(&self) -> Vec<Check> {
        let policy = self.mover.policy();
        let facts = Facts {
            word: self.mover.words.load(0),
            unsettled: Some(&self.unsettled(&policy)),
            held: self.held(&policy),
            capacity: &self.board.scaling().capacity,
            divergence: self.differing(&policy),
        };
        facts.checks()
    }

    /// Refuses a cutover by hand where a precondition isn't met that counts and isn't waived.
    ///
    /// # Errors
    /// With what isn't met, and the command that goes on all the same.
    pub(super) fn grant(&self, checks: &[Check], waived: &[Precondition]) -> Result<(), Refused> {
        let under_way = self.pilot.status().is_some_and(|migration| !migration.over);
        Refused::of(self.mover.name.as_str(), checks, under_way, waived).map_or(Ok(()), Err)
    }

    /// A cutover by hand, its preconditions as they stand; `who` asked.
    ///
    /// # Errors
    /// When it is refused or aborted.
    pub(super) fn cut_over(&self, who: &str, checks: &[Check], waived: &[Precondition]) -> Result<Phases> {
        let names: Vec<_> = waived.iter().map(|waived| waived.name()).collect();
        let who =
            if names.is_empty() { who.to_owned() } else { format!("{who}, despite {}", names.join(", ")) };
        self.one(Move::Cutover, &who, false, |mover| {
            // Safety first: it can't be waived.
            plan(mover.words.load(0), Move::Cutover)?;
            self.grant(checks, waived)?;
            mover.carry_out(Move::Cutover, false, &mut |which| self.end(which))
        })
    }
}
