//! Is the shadow no worse than the primary? Evidence that may be looked at all the time.
//!
//! [`History`] keeps the primary's past; [`Judge`] takes a [`Tick`] of counts at a time and has a [`Verdict`] after each.
//! docs/STATISTICS.md explains the choice and its sources.

use std::fmt;

use serde::{Deserialize, Serialize};

mod allowance;
mod boost;
mod clear;
mod histogram;
mod history;
mod noise;
mod run;
mod scale;

pub use clear::Progress;
pub use histogram::Histogram;
pub use history::History;

use clear::Step;
use noise::{Block, Noise};
use run::{Run, Weighing};
use scale::Scale;

/// Answers of one side in a tick.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests answered.
    pub requests: u64,
    /// Of these, with an error.
    pub errors: u64,
    /// How long they took.
    pub latency: Histogram,
}

/// Turns that both legs answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs {
    /// All of them.
    pub compared: u64,
    /// Of these, the ones of which a difference of any kind would have been seen.
    pub known: u64,
    /// The primary's answer was an error, the shadow's wasn't.
    pub errors_primary_only: u64,
    /// The other way round.
    pub errors_shadow_only: u64,
    /// The shadow took longer. Ties aren't counted.
    pub shadow_slower: u64,
    /// The primary took longer.
    pub primary_slower: u64,
    /// Answers that differ, learned noise left out.
    pub diverged: u64,
}

/// What was counted in a short time. 5 s is usual, any length will do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tick {
    /// Its length.
    pub seconds: f64,
    /// Whether the shadow answers some reads. If not, the shadow's counts are those of compared turns.
    pub moved: bool,
    /// What the primary answered.
    pub primary: Counts,
    /// What the shadow answered.
    pub shadow: Counts,
    /// Compared turns.
    pub pairs: Pairs,
}

impl Tick {
    /// Takes in new connections that a side's server didn't take, by side: each is a request that it answered with an error.
    ///
    /// What the other side did with them isn't known. It is no good news of the shadow; of the primary it is taken to be:
    /// behind the cutover, where nobody gets in, there would be nothing else to compare with. Where the primary doesn't take
    /// all either, its past has them.
    pub fn add_not_taken(&mut self, [by_primary, by_shadow]: [u64; 2]) {
        self.primary.requests += by_primary + by_shadow;
        self.primary.errors += by_primary;
        self.shadow.requests += by_shadow;
        self.shadow.errors += by_shadow;
        self.pairs.compared += by_shadow;
        self.pairs.errors_shadow_only += by_shadow;
    }
}

/// What the shadow can be worse in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of answers with an error.
    Errors,
    /// The whole distribution of latencies; its p99 is what is shown.
    Latency,
    /// Share of compared answers that differ.
    Divergence,
}

impl Metric {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Errors, Self::Latency, Self::Divergence];

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Errors => "errors",
            Self::Latency => "latency",
            Self::Divergence => "divergence",
        }
    }
}

/// What is allowed, and how sure one must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgePolicy {
    /// Probability that an honest shadow is ever called worse in a migration, over all metrics.
    pub alpha: f64,
    /// Parts of `alpha`: errors, latency, divergence. They sum to 1.
    pub alpha_parts: [f64; 3],
    /// Probability that a step is cleared though the shadow is worse by more than a margin below, a step and margin each.
    pub clear_alpha: f64,
    /// Share of errors beyond the allowance: it has to be shown that there are fewer (0.001 is 0.1 points).
    pub error_margin: f64,
    /// Times the primary's share of requests beyond its usual p99, the allowance taken off: below this has to be shown.
    pub p99_margin: f64,
    /// The same for its median.
    pub p50_margin: f64,
    /// Share of errors that the shadow may make beyond the primary's and still be as good (0.001 is 0.1 points).
    pub error_allowance: f64,
    /// Times the primary's latency that the shadow may take and still be as good: slower machines.
    pub latency_allowance_factor: f64,
    /// Microseconds that it may take on top of that: a longer way.
    pub latency_allowance_us: f64,
    /// Share of compared answers that may differ.
    pub divergence_allowance: f64,
    /// Share of compared answers that must not differ: below this has to be shown.
    pub divergence_margin: f64,
    /// Errors beyond what is allowed that count as gross.
    pub gross_errors: f64,
    /// Times the p99 exceedances, the allowance taken off, that count as gross.
    pub gross_p99: f64,
    /// Requests of the primary that must have been seen before anything is judged.
    pub history_requests: u64,
    /// Minutes of the primary, likewise.
    pub history_minutes: u64,
}

impl Default for JudgePolicy {
    fn default() -> Self {
        Self {
            alpha: 0.001,
            alpha_parts: [0.5, 0.45, 0.05],
            clear_alpha: 0.01,
            error_margin: 0.001,
            p99_margin: 1.25,
            p50_margin: 1.1,
            error_allowance: 0.000_01,
            latency_allowance_factor: 1.0,
            latency_allowance_us: 200.0,
            divergence_allowance: 0.0002,
            divergence_margin: 0.001,
            gross_errors: 0.003,
            gross_p99: 1.6,
            history_requests: 1_000,
            history_minutes: 10,
        }
    }
}

/// Why nothing can be judged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum JudgeError {
    /// A number of the policy makes no sense.
    #[error("{name} is {value}: it must be {must}")]
    Policy {
        /// The field.
        name: &'static str,
        /// What it is.
        value: f64,
        /// What it has to be.
        must: &'static str,
    },
    /// The primary hasn't been seen long enough.
    #[error(
        "the primary was seen for {minutes} minutes and {requests} requests; {need_minutes} and {need_requests} are needed"
    )]
    History {
        /// Minutes seen.
        minutes: u64,
        /// Requests seen.
        requests: u64,
        /// Minutes needed.
        need_minutes: u64,
        /// Requests needed.
        need_requests: u64,
    },
}

impl JudgePolicy {
    /// Checks every number.
    ///
    /// # Errors
    /// The first one that makes no sense.
    pub fn validate(&self) -> Result<(), JudgeError> {
        let share = |name, value: f64| check(name, value, value > 0.0 && value < 1.0, "between 0 and 1");
        share("alpha", self.alpha)?;
        share("clear_alpha", self.clear_alpha)?;
        share("error_margin", self.error_margin)?;
        share("gross_errors", self.gross_errors)?;
        share("divergence_allowance", self.divergence_allowance)?;
        share("divergence_margin", self.divergence_margin)?;
        let (errors, factor, us) =
            (self.error_allowance, self.latency_allowance_factor, self.latency_allowance_us);
        check("error_allowance", errors, (0.0..=0.5).contains(&errors), "from 0 to 0.5")?;
        check("latency_allowance_factor", factor, (1.0..=100.0).contains(&factor), "from 1 to 100")?;
        check("latency_allowance_us", us, (0.0..=1e7).contains(&us), "from 0 to 10,000,000")?;
        let ratio = |name, value: f64| check(name, value, value > 1.0 && value < 1e3, "between 1 and 1,000");
        ratio("p99_margin", self.p99_margin)?;
        ratio("p50_margin", self.p50_margin)?;
        ratio("gross_p99", self.gross_p99)?;
        let sum: f64 = self.alpha_parts.iter().sum();
        let parts = self.alpha_parts.iter().all(|&part| part > 0.0);
        check("alpha_parts", sum, parts && (sum - 1.0).abs() < 1e-6, "three positive parts that sum to 1")?;
        let above = self.divergence_margin > self.divergence_allowance;
        check("divergence_margin", self.divergence_margin, above, "above divergence_allowance")?;
        check("history_minutes", self.history_minutes as f64, self.history_minutes > 0, "1 or more")?;
        check("history_requests", self.history_requests as f64, self.history_requests >= 100, "100 or more")
    }

    /// Log evidence from which on a metric is called worse.
    pub fn threshold(&self, metric: Metric) -> f64 {
        -(self.alpha * self.alpha_parts[metric as usize]).ln()
    }
}

fn check(name: &'static str, value: f64, holds: bool, must: &'static str) -> Result<(), JudgeError> {
    if holds { Ok(()) } else { Err(JudgeError::Policy { name, value, must }) }
}

/// A metric, as a person reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Which.
    pub metric: Metric,
    /// Natural logarithm of the evidence that the shadow is worse.
    pub evidence: f64,
    /// From here on it is called worse.
    pub threshold: f64,
    /// The primary's number since the step began: a share of errors, the p99 in ms. 0 for differences.
    pub primary: f64,
    /// What is allowed beside that, in the same unit.
    pub allowed: f64,
    /// The shadow's.
    pub shadow: f64,
    /// Requests of the shadow (compared turns, for divergence) since the step began.
    pub samples: u64,
    /// Whether the difference is beyond the policy's gross margins.
    pub gross: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let odds = 10_f64.powf((self.evidence / std::f64::consts::LN_10).min(99.0));
        let (bound, allowed) = (self.threshold.exp(), self.allowed);
        match self.metric {
            Metric::Latency => {
                write!(
                    f,
                    "p99 {:.1} ms beside {:.1} ms, {allowed:.1} ms allowed",
                    self.shadow, self.primary
                )?;
            }
            Metric::Errors => {
                let [shadow, primary, allowed] =
                    [self.shadow, self.primary, allowed].map(|share| share * 100.0);
                write!(f, "errors {shadow:.3} % beside {primary:.3} %, {allowed:.3} % allowed")?;
            }
            Metric::Divergence => {
                write!(f, "{:.3} % differ, {:.3} % allowed", self.shadow * 100.0, allowed * 100.0)?;
            }
        }
        write!(f, " ({} requests; evidence {odds:.3e} : 1, bound {bound:.0})", self.samples)
    }
}

/// What the judge says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// Shown to be worse.
    Worse(Finding),
    /// Shown to be no worse than the margins allow, in this step.
    NoWorse(Progress),
    /// Too few requests in this step to show anything. No good news.
    LowTraffic(Progress),
    /// Requests enough, and neither is shown yet.
    Undecided(Progress),
}

/// Starts of evidence that are kept: the first, and the latest.
const MAX_RUNS: usize = 16;
/// The weight of the evidence since the very beginning; the later starts share the rest.
const FIRST_WEIGHT: f64 = 0.95;

/// Weighs what is counted. One for each migration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Judge {
    policy: JudgePolicy,
    scale: Scale,
    noise: Noise,
    /// Logarithm of the weight, and the evidence: a mixture over the time at which the shadow got worse.
    runs: Vec<(f64, Run)>,
    begun: u32,
    step: Step,
}

impl Judge {
    /// A judge that has the primary's past to compare with.
    ///
    /// # Errors
    /// When the policy makes no sense, or the past is too short.
    pub fn new(policy: JudgePolicy, history: &History) -> Result<Self, JudgeError> {
        policy.validate()?;
        let (minutes, requests) = (history.minutes(), history.requests());
        if minutes < policy.history_minutes || requests < policy.history_requests {
            return Err(JudgeError::History {
                minutes,
                requests,
                need_minutes: policy.history_minutes,
                need_requests: policy.history_requests,
            });
        }
        let scale = Scale::new(&history.latency(), &policy);
        let noise = Noise::learn(&scale, &history.blocks(&scale));
        let step = Step::new(&scale, noise.error_rate);
        let runs = vec![(FIRST_WEIGHT.ln(), Run::new(&scale))];
        Ok(Self { policy, scale, noise, runs, begun: 0, step })
    }

    /// A step of the weight begins: what clears it is counted anew, and evidence that it is worse also from here on.
    pub fn begin_step(&mut self) {
        self.step = Step::new(&self.scale, self.noise.error_rate);
        self.begun += 1;
        if self.runs.len() == MAX_RUNS {
            self.runs.remove(1);
        }
        let begun = f64::from(self.begun);
        let weight = (1.0 - FIRST_WEIGHT) / (begun * (begun + 1.0));
        self.runs.push((weight.ln(), Run::new(&self.scale)));
    }

    /// Takes a tick in. A length that is no length counts as 0, one of over an hour as an hour.
    pub fn observe(&mut self, tick: &Tick) {
        let logs = run::by_tick(&self.scale, &self.policy, tick);
        let seconds = if tick.seconds.is_nan() { 0.0 } else { tick.seconds.clamp(0.0, 3_600.0) };
        let mut block = Block::of(self.scale.bin_allowed(&tick.shadow.latency), seconds, &tick.shadow);
        block.known = tick.pairs.known as f64;
        block.diverged = tick.pairs.diverged as f64;
        let by = weighing(&self.scale, &self.noise, &self.policy);
        for (weight, run) in &mut self.runs {
            // A run calls it by itself once its part does.
            let enough = by.enough.map(|enough| enough - *weight);
            run.observe(Weighing { enough, ..by }, tick, &logs, &block);
        }
        self.step.observe(&self.policy, &self.scale, tick, &block);
    }

    /// Log evidence that the shadow is worse, a metric each. Below its threshold it is an upper bound: noise isn't asked
    /// before chance alone is ruled out.
    pub fn evidence(&self) -> [f64; 3] {
        let by = weighing(&self.scale, &self.noise, &self.policy);
        let least = by.enough.into_iter().fold(f64::MAX, f64::min);
        let runs = self.runs.iter();
        let each: Vec<(f64, [f64; 3])> =
            runs.map(|(weight, run)| (*weight, run.evidence(by, least))).collect();
        Metric::ALL.map(|metric| run::log_sum_exp(each.iter().map(|(weight, e)| weight + e[metric as usize])))
    }

    /// Every metric, as a person reads it.
    pub fn findings(&self) -> [Finding; 3] {
        let evidence = self.evidence();
        Metric::ALL.map(|metric| self.step.finding(&self.policy, metric, evidence[metric as usize]))
    }

    /// What is shown so far.
    pub fn verdict(&self) -> Verdict {
        let worst = self
            .findings()
            .into_iter()
            .filter(|finding| finding.evidence >= finding.threshold)
            .max_by(|a, b| (a.evidence - a.threshold).total_cmp(&(b.evidence - b.threshold)));
        if let Some(finding) = worst {
            return Verdict::Worse(finding);
        }
        let progress = self.step.progress(&self.policy, &self.scale, &self.noise);
        if progress.cleared() {
            Verdict::NoWorse(progress)
        } else if progress.have < progress.need {
            Verdict::LowTraffic(progress)
        } else {
            Verdict::Undecided(progress)
        }
    }
}

fn weighing<'a>(scale: &'a Scale, noise: &'a Noise, policy: &'a JudgePolicy) -> Weighing<'a> {
    Weighing { scale, noise, policy, enough: Metric::ALL.map(|metric| policy.threshold(metric)) }
}

#[cfg(test)]
mod tests;
