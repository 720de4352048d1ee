//! Another policy: a migration under way is decided by its plan from here on, once the journal has that.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use mirror_control::{executor::Executor, journal::What, migration::Plan};

use super::Thread;
use crate::{
    events::{Kind, Told},
    policy::Policy,
};

impl Thread {
    /// Goes by another policy.
    ///
    /// # Errors
    /// When the migration under way can't, or its journal doesn't take the new plan: then all is as before.
    pub(super) fn reload(&mut self, policy: Arc<Policy>, who: String) -> Result<()> {
        let plan = policy.migration.plan().map_err(|what| anyhow!("[migration]: {what}"))?;
        if self.under_way() {
            self.replan(plan, who)?;
        }
        self.shared.mover.current.set(policy);
        Ok(())
    }

    fn replan(&mut self, plan: Plan, who: String) -> Result<()> {
        let running = self.running.as_mut().context("a migration is under way")?;
        if *running.plan() == plan {
            return Ok(());
        }
        // The journal counts steps: among others the same number would be another weight.
        ensure!(
            running.plan().weight.steps == plan.weight.steps,
            "`steps` of [migration] can't change while a migration is under way: end it first, or leave them as they are"
        );
        let journal = self.journal.as_mut().context("the journal is open")?;
        journal.append(What::Replanned(Box::new(plan.clone()), who.clone()), None, running.state())?;
        if running.plan().judge != plan.judge {
            // Evidence by other bounds is other evidence.
            self.judge = None;
        }
        running.replan(plan);
        let stage = self.running.as_ref().map(Executor::state).map(|state| state.stage.name().into());
        let told = Told { who: Some(who), stage, ..Told::reason("by another policy from here on") };
        self.shared.events.tell(Kind::Decision, told);
        Ok(())
    }
}
