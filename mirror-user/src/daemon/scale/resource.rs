//! One resource of the shadow that is scaled: what the scaler sees of it, and what becomes of its decisions. Pure.

use std::time::Duration;

use anyhow::Result;
use mirror_common::switch_word::Side;
use mirror_control::{
    driver::Limits,
    scaler::{Cause, Decision, Scaler, Seen},
};
use mirror_forecast::demand::Rates;

use super::{lead, scaler_error};
use crate::{
    demand::Learner,
    outlook::Told,
    policy::scale::{CPU_STEP, MEMORY_STEP, Scale},
    resources::{Metric, Sample},
};

/// A size that is nearer than this to what is wanted stays: up, and down.
const NEAR_UP: f64 = 1.05;
const NEAR_DOWN: f64 = 0.9;
/// What the expected rates cost isn't exceeded with this probability. That is little known at first, and no surprise
/// tells of it before they come; how far the rates themselves err, the scaler's margin learns.
const SURE_OF_COST: f64 = 0.9;

/// A resource that is scaled.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    /// Its name, for people.
    pub(super) name: &'static str,
    /// The last decision, and in words.
    pub(super) last: Option<Decision>,
    pub(super) words: String,
    metric: Metric,
    /// What is added and taken away at once, in the metric's unit.
    step: f64,
    utilisation: f64,
    quantile: f64,
    lead: f64,
    scaler: Scaler,
    /// What was last told to the journal: wanted, and whether it is because nothing is measured.
    told: Option<(u32, bool)>,
}

/// A decision, and what follows.
pub(super) struct Decided {
    /// It.
    pub(super) decision: Decision,
    /// Whether it is another one than before: for the journal.
    pub(super) is_news: bool,
    /// The limits to be set.
    pub(super) to_do: Option<Limits>,
}

impl Resource {
    /// Processor time and memory, for a shadow that is provisioned with `limits` by a driver of that lead time.
    ///
    /// # Errors
    /// When the policy makes no sense.
    pub(super) fn both(scale: &Scale, limits: Limits, driver: Duration) -> Result<[Self; 2]> {
        let lead = lead(scale, driver);
        let of = |name, metric, step, policy| -> Result<Self> {
            Ok(Self {
                name,
                last: None,
                words: String::new(),
                metric,
                step,
                utilisation: scale.utilisation,
                quantile: scale.quantile,
                lead: lead.as_secs_f64(),
                scaler: Scaler::new(policy, lead).map_err(scaler_error)?,
                told: None,
            })
        };
        Ok([
            of("cpu", Metric::Cpu, f64::from(CPU_STEP) / 1e3, scale.cpu(limits))?,
            of("memory", Metric::Memory, MEMORY_STEP as f64, scale.memory(limits))?,
        ])
    }

    /// Decides. `sample`: the shadow's resources; `rates`: what the whole application is asked; `told`: the forecasts and
    /// their age.
    pub(super) fn decide(
        &mut self,
        at: f64,
        limits: Limits,
        sample: Option<&Sample>,
        rates: Option<Rates>,
        told: Option<(&Told, f64)>,
        learner: &Learner,
    ) -> Decided {
        let cost = |rates: Rates| learner.cost(Side::Shadow, self.metric, rates).ok();
        let measured = sample.and_then(|sample| sample.get(self.metric).ok());
        let needed = rates.and_then(cost).map(|cost| cost.mean());
        // At its limit it can't use more, and before it is a member it needs nothing yet: what is asked of the whole
        // application tells of both. But where its own use isn't measured nothing is known for sure.
        let load = measured.map(|measured| needed.map_or(measured, |needed| needed.max(measured)));
        let ahead = told.and_then(|(told, age)| told.rates(age, self.lead, self.quantile));
        let forecast = ahead.and_then(cost).map(|cost| cost.quantile(SURE_OF_COST));
        let seen = Seen {
            at,
            load,
            forecast,
            unit: Some(self.step * self.utilisation),
            current: self.steps(limits),
        };
        let decision = self.scaler.decide(&seen);
        self.words = self.in_words(&decision);
        let acts = is_far(&decision);
        let blind = decision.cause == Cause::NoLoad;
        let news = (decision.wanted, blind);
        // Near enough is as if nothing were wanted; that nothing is measured is said once, and so is its end.
        let was_blind = self.told.is_some_and(|(_, blind)| blind);
        let is_news = self.told != Some(news) && (acts || blind != was_blind);
        if is_news {
            self.told = Some(news);
        }
        let to_do = decision.to_do().filter(|_| acts).map(|wanted| self.limits(limits, wanted));
        self.last = Some(decision.clone());
        Decided { decision, is_news, to_do }
    }

    /// Steps that a size has, rounded up.
    fn steps(&self, limits: Limits) -> u32 {
        match self.metric {
            Metric::Memory => u32::try_from(limits.memory_bytes.div_ceil(MEMORY_STEP)).unwrap_or(u32::MAX),
            _ => limits.cpu_millicores.div_ceil(CPU_STEP),
        }
    }

    /// A size of so many steps.
    fn limits(&self, limits: Limits, steps: u32) -> Limits {
        match self.metric {
            Metric::Memory => Limits { memory_bytes: u64::from(steps) * MEMORY_STEP, ..limits },
            _ => Limits { cpu_millicores: steps.saturating_mul(CPU_STEP), ..limits },
        }
    }

    fn in_words(&self, decision: &Decision) -> String {
        let amount = |steps: f64| match self.metric {
            Metric::Memory => format!("{:.0} MiB", steps * self.step / f64::from(1 << 20)),
            _ => format!("{:.2} cores", steps * self.step),
        };
        let would = if decision.armed { "" } else { "dry run, " };
        let size = if decision.wanted == decision.current {
            format!("{} stays", amount(f64::from(decision.current)))
        } else {
            format!("{} to {}", amount(f64::from(decision.current)), amount(f64::from(decision.wanted)))
        };
        let expected = decision.expected.map(|expected| {
            format!("; {} needed in {:.0} s", amount(expected / self.step), decision.lead_seconds)
        });
        format!("{}: {would}{size}: {}{}", self.name, decision.cause.help(), expected.unwrap_or_default())
    }
}

/// Whether what is wanted is far enough from what there is to be done.
fn is_far(decision: &Decision) -> bool {
    let (wanted, current) = (f64::from(decision.wanted), f64::from(decision.current));
    wanted > NEAR_UP * current || wanted < NEAR_DOWN * current
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::Policy, resources::Missing};

    const LIMITS: Limits = Limits { cpu_millicores: 1_500, memory_bytes: 512 << 20 };

    fn cpu(armed: bool) -> Resource {
        let table = format!(
            "\n[scale]\narmed = {armed}\ncpu_least = 0.5\ncpu_most = 4\nmemory_most = \"2GiB\"\nahead = \"30s\""
        );
        let text = include_str!("../../../../policies/provisioned.toml").to_owned() + &table;
        let policy = Policy::parse("x.toml", &text).unwrap();
        let [cpu, _] =
            Resource::both(policy.scale.as_ref().unwrap(), LIMITS, Duration::from_secs(1)).unwrap();
        cpu
    }

    fn sample(cpu: Option<f64>) -> Sample {
        let mut values = [Err(Missing::NoSource); Metric::ALL.len()];
        values[Metric::Cpu as usize] = cpu.ok_or(Missing::Gone);
        Sample { at: 0, values }
    }

    /// Half a core idle, 10 ms a read.
    fn learner() -> Learner {
        let mut learner = Learner::default();
        for minute in 0..60 {
            let reads = f64::from(minute);
            let rates = Some(Rates { reads, writes: 0.0 });
            learner.look(Side::Shadow, 60.0, rates, &sample(Some(0.5 + 0.01 * reads)));
        }
        learner
    }

    #[test]
    fn a_server_at_its_limit_gets_what_the_rates_ask_for() {
        let (mut cpu, learner) = (cpu(true), learner());
        let rates = Some(Rates { reads: 150.0, writes: 0.0 });
        let decided = cpu.decide(1.0, LIMITS, Some(&sample(Some(1.5))), rates, None, &learner);
        // 2 cores needed, half as much again before expectations are compared, filled to 0.8.
        assert!((3_700..=3_800).contains(&decided.to_do.unwrap().cpu_millicores), "{}", cpu.words);
        assert_eq!(decided.to_do.unwrap().memory_bytes, LIMITS.memory_bytes);
        assert!(decided.is_news);
    }

    #[test]
    fn a_dead_source_takes_nothing_away_and_is_said_once() {
        let mut cpu = cpu(true);
        let mut said = 0;
        for second in 1..2_000 {
            let alive = second < 10;
            let sample = sample(alive.then_some(0.8));
            let decided =
                cpu.decide(f64::from(second), LIMITS, Some(&sample), None, None, &Learner::default());
            assert_eq!(decided.to_do, None, "{}", cpu.words);
            said += u32::from(decided.is_news);
        }
        assert_eq!(said, 1, "{}", cpu.words);
        assert!(cpu.words.contains("isn't measured"), "{}", cpu.words);
        // Alive again, and idle: smaller, in its time.
        let idle = |second: i32, cpu: &mut Resource| {
            cpu.decide(f64::from(second), LIMITS, Some(&sample(Some(0.1))), None, None, &Learner::default())
        };
        let first = idle(2_000, &mut cpu);
        let last = (2_001..3_000).map(|second| idle(second, &mut cpu)).last().unwrap();
        assert!(first.is_news && first.to_do.is_none(), "not at once");
        assert_eq!(last.to_do.map(|limits| limits.cpu_millicores), Some(500));
    }

    /// The decision is in the journal before it is done: who comes after a crash finds the old size, or the new one.
    #[test]
    fn who_comes_after_a_crash_arrives_at_the_same_size() {
        let (learner, rates) = (learner(), Some(Rates { reads: 150.0, writes: 0.0 }));
        let busy = sample(Some(1.5));
        let decide = |limits| cpu(true).decide(1.0, limits, Some(&busy), rates, None, &learner);
        let then = decide(LIMITS).to_do.unwrap();
        let (undone, done) = (decide(LIMITS), decide(then));
        assert_eq!((undone.to_do, undone.is_news), (Some(then), true));
        assert_eq!((done.to_do, done.is_news), (None, false), "neither again nor back");
    }

    #[test]
    fn a_dry_run_says_what_it_would_do_and_does_nothing() {
        let mut cpu = cpu(false);
        let decided = cpu.decide(1.0, LIMITS, Some(&sample(Some(1.5))), None, None, &Learner::default());
        assert!(decided.is_news && decided.to_do.is_none());
        assert!(cpu.words.starts_with("cpu: dry run, 1.50 cores to 2.85 cores: "), "{}", cpu.words);
        let again = cpu.decide(2.0, LIMITS, Some(&sample(Some(1.5))), None, None, &Learner::default());
        assert!(!again.is_news, "said once");
    }
}
