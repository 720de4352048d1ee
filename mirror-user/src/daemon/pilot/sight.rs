//! What the pilot sees: compared turns become ticks for the judge, and the primary's past is kept over a restart.

use std::{fs, path::Path, path::PathBuf, time::Instant};

use anyhow::{Result, anyhow};
use mirror_common::{
    hist::RATIOS,
    switch_word::{Side, SwitchWord},
};
use mirror_control::{
    evidence::{Counts, Histogram, Judge, JudgePolicy, Pairs, Tick},
    executor::Executor,
    migration::Stage,
    precondition::{Differing, Unsettled},
    throughput::Answered,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Look, Thread};
use crate::{
    api::migration::{MigrationStatus, OrderStatus},
    datapath::{self, Answers, Turns},
};

/// A side's answers to compared turns, of both classes.
fn counts(answers: &[Answers; 2]) -> Counts {
    let mut latency = Histogram::default();
    for class in answers {
        latency.merge(&Histogram::from_buckets(&class.latency));
    }
    let [reads, writes] = answers;
    Counts { requests: latency.total(), errors: reads.errors() + writes.errors(), latency }
}

/// Of the digests' differences so many count.
fn pairs(turns: &Turns, digests: u64, policy: &JudgePolicy, primary: &Counts) -> Pairs {
    let mut all = Pairs { diverged: digests, ..Pairs::default() };
    let mut ratios = vec![0; RATIOS];
    for class in &turns.pairs {
        ratios.iter_mut().zip(&class.ratios).for_each(|(sum, count)| *sum += count);
        all.compared += class.compared;
        all.known += class.known();
        all.errors_primary_only += class.primary_erred;
        all.errors_shadow_only += class.shadow_erred;
        all.diverged += class.status_differs + class.length_differs;
    }
    (all.shadow_slower, all.primary_slower) = policy.order(&ratios, &primary.latency);
    all
}

impl Thread {
    /// Takes in what was counted since the last look. Returns the seconds that have passed.
    pub(super) fn look(&mut self) -> Result<f64> {
        let now = Instant::now();
        let turns = self.shared.datapath.lock().map_err(|_| anyhow!("poisoned"))?.turns()?;
        let not_taken = self.shared.state.lock().map_err(|_| anyhow!("poisoned"))?.not_taken();
        let (before, seen, refused) =
            match self.last.replace(Look { at: now, turns: turns.clone(), not_taken }) {
                Some(last) => {
                    let refused = [0, 1].map(|side| not_taken[side] - last.not_taken[side]);
                    (last.at, turns.since(&last.turns), refused)
                }
                None => {
                    self.shared.compared.divergence.lock().map_err(|_| anyhow!("poisoned"))?.begin();
                    (now, Turns::default(), [0; 2])
                }
            };
        let digests = self.digests(&seen)?;
        let seconds = (now - before).as_secs_f64() * self.rate;
        let stage = self.running.as_ref().map(|running| running.state().stage);
        let word = self.shared.mover.words.load(0);
        let moved = word.weight() > 0;
        let [primary, shadow] = [counts(&seen.compared[0]), counts(&seen.compared[1])];
        let policy = self.running.as_ref().map(|running| &running.plan().judge);
        let pairs = policy.map(|policy| pairs(&seen, digests, policy, &primary)).unwrap_or_default();
        let mut tick = Tick { seconds, moved, primary, shadow, pairs };
        tick.add_not_taken(refused);
        // What a fallen-out shadow answers isn't compared, and behind the cutover the primary isn't the measure any more.
        if matches!(stage, Some(Stage::Mirroring | Stage::Shifting | Stage::Ready)) {
            let minutes = self.history.minutes();
            self.history.observe(seconds, &tick.primary);
            if self.history.minutes() > minutes {
                self.keep_past("history", &self.history);
                self.keep_past("throughput", &self.throughput);
            }
        }
        self.look_at_throughput(seconds, &seen, word)?;
        if word.member(Side::Primary) && word.member(Side::Shadow) {
            match (&mut self.judge, &self.running) {
                (Some(judge), Some(_)) => judge.observe(&tick),
                (None, Some(running)) => {
                    // Until the primary's past is long enough there is none.
                    self.judge = Judge::new(running.plan().judge.clone(), &self.history).ok();
                }
                (_, None) => {}
            }
        }
        Ok(seconds)
    }

    /// What a cutover is asked for besides, where one may be made at this tick.
    pub(super) fn before_cutover(&self) -> (Option<Result<Unsettled, String>>, Option<Differing>) {
        let ready = |running: &Executor| {
            let (state, plan) = (running.state(), running.plan());
            state.stage == Stage::Ready && (plan.cutover_by_itself || state.cutover_asked)
        };
        if !self.running.as_ref().is_some_and(ready) {
            return (None, None);
        }
        let policy = self.shared.mover.policy();
        (Some(self.shared.unsettled(&policy)), self.shared.differing(&policy))
    }

    /// Digests' differences that count, of those since the last look.
    fn digests(&self, seen: &Turns) -> Result<u64> {
        let mut divergence = self.shared.compared.divergence.lock().map_err(|_| anyhow!("poisoned"))?;
        let sum = |count: fn(&datapath::Pairs) -> u64| seen.pairs.iter().map(count).sum::<u64>();
        Ok(divergence.tick(sum(|pairs| pairs.digest_differs), sum(|pairs| pairs.records_lost)))
    }

    /// What clients were answered, and what they wait for; whoever has the authority.
    fn look_at_throughput(&mut self, seconds: f64, seen: &Turns, word: SwitchWord) -> Result<()> {
        let unanswered = self.shared.state.lock().map_err(|_| anyhow!("poisoned"))?.swept.unanswered;
        let Some(running) = &self.running else { return Ok(()) };
        let answered = seen.shown.iter().flatten().map(Answers::count).sum();
        let tick = Answered { seconds, authority: word.authority(), answered, unanswered };
        self.throughput.observe(&running.plan().throughput, &tick);
        Ok(())
    }

    pub(super) fn file(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{}.{what}.json", self.shared.mover.name.as_str()))
    }

    /// Losing it costs the time of learning, no more.
    fn keep_past(&self, what: &str, past: &impl Serialize) {
        let path = self.file(what);
        let new = path.with_extension("new");
        let kept = serde_json::to_vec(past)
            .map_err(std::io::Error::from)
            .and_then(|bytes| fs::write(&new, bytes))
            .and_then(|()| fs::rename(&new, &path));
        if let Err(error) = kept {
            tracing::warn!("the primary's past isn't kept: {}: {error}", path.display());
        }
    }

    /// Publishes how the migration stands.
    pub(super) fn tell(&self) {
        if let Ok(mut told) = self.shared.pilot.ordered.lock() {
            *told = self
                .appointment
                .as_ref()
                .map(|pending| OrderStatus { order: pending.order.clone(), open: pending.is_open() });
        }
        let Some(running) = &self.running else { return };
        let (state, plan) = (running.state(), running.plan());
        let findings =
            self.judge.as_ref().map(|judge| judge.findings().iter().map(ToString::to_string).collect());
        let status = MigrationStatus {
            stage: state.stage.name().into(),
            why: running.why().map(ToString::to_string).unwrap_or_default(),
            over: state.stage.is_over(),
            weight: f64::from(state.weight.weight(&plan.weight)) / 100.0,
            steps: plan.weight.steps.iter().map(|step| f64::from(*step) / 100.0).collect(),
            steps_back: state.weight.attempts,
            paused_by: state.weight.paused_by.clone(),
            evidence: findings.unwrap_or_default(),
            standby_seconds: (state.stage == Stage::Standby).then_some(state.standby_seconds),
        };
        if let Ok(mut told) = self.shared.pilot.status.lock() {
            *told = Some(status);
        }
    }
}

/// The past as a daemon before this one kept it; nothing where it can't be read.
pub(super) fn read<T: DeserializeOwned + Default>(path: &Path) -> T {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}
