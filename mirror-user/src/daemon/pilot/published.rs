//! What others are told of decisions: events, and counts for the metrics.

use mirror_control::{
    evidence::Verdict,
    executor::Decision,
    journal::What,
    migration::{Action, Stage},
    moves::Move,
};

use super::{BY_ITSELF, Thread};
use crate::{
    events::{Kind, Told},
    metrics::decisions::verdict_name,
};

impl Thread {
    /// Tells of a decision, and of the stage where it is another one.
    pub(super) fn publish(&self, was: Stage, decision: &Decision) {
        let Some(running) = &self.running else { return };
        let Decision { what, why, state, actions, .. } = decision;
        let who = if let What::Asked(_, who) = what { who.as_str() } else { BY_ITSELF };
        let told = Told {
            cause: Some(why.name()),
            who: Some(who.into()),
            stage: Some(state.stage.name().into()),
            weight: Some(f64::from(state.weight.weight(&running.plan().weight)) / 100.0),
            actions: actions.iter().map(|action| format!("{action:?}")).collect(),
            grounds: why.grounds(),
            ..Told::reason(why.to_string())
        };
        if state.stage != was {
            let events = &self.shared.events;
            events.tell(Kind::Phase, Told { actions: Vec::new(), grounds: None, ..told.clone() });
        }
        self.shared.events.tell(Kind::Decision, told);
        let Ok(mut decided) = self.shared.pilot.decided.lock() else { return };
        *decided.decisions.entry(why.name()).or_default() += 1;
        let back = |action: &Action| matches!(action, Action::Make(Move::Rollback) | Action::Rescue);
        let asked_again = was == Stage::RollingBack;
        if actions.iter().any(back) && !asked_again {
            let reason = if state.aborting { "aborted".into() } else { why.name() };
            *decided.rollbacks.entry(reason).or_default() += 1;
        }
    }

    /// Counts what the judge says at a tick.
    pub(super) fn count(&self, verdict: Option<&Verdict>) {
        let Ok(mut decided) = self.shared.pilot.decided.lock() else { return };
        let name = verdict_name(verdict);
        decided.verdict = name;
        *decided.verdicts.entry(name).or_default() += 1;
        decided.findings = self.judge.as_ref().map(|judge| judge.findings().to_vec()).unwrap_or_default();
    }
}
