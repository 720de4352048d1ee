//! What clears a step: evidence that the shadow is no worse than a margin allows.
//!
//! For each margin the roles are changed: that the shadow is worse by the margin is what has to be refuted. The e-process is
//! the likelihood ratio of "as the primary" to "worse by the margin"; a shadow that is worse still makes it smaller still.

use serde::{Deserialize, Serialize};

use super::{
    Counts, Finding, Histogram, JudgePolicy, Metric, Pairs, Tick,
    noise::{Block, Noise},
    run::{conditional, log_ratio_of_counts},
    scale::Scale,
};

/// Requests that the primary's usual rate of errors counts as, beside those of the step.
const USUAL_WEIGHT: f64 = 20_000.0;

/// How far a step is from being cleared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Requests of the shadow in this step (compared turns, while none has moved).
    pub have: u64,
    /// As many as an equal shadow takes, on average.
    pub need: u64,
    /// Natural logarithm of the evidence against "worse by the margin": errors, p99, p50, divergence. The last is missing
    /// where nothing was compared.
    pub evidence: [Option<f64>; 4],
    /// Each has to pass this.
    pub threshold: f64,
}

impl Progress {
    /// What the evidence is in the order of [`Progress::evidence`].
    const NAMES: [&str; 4] = ["errors", "p99", "p50", "divergence"];

    /// What is farthest from being cleared, and its evidence.
    pub fn least(&self) -> (&'static str, f64) {
        let known = Self::NAMES.into_iter().zip(self.evidence).filter_map(|(name, e)| Some((name, e?)));
        known.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((Self::NAMES[0], 0.0))
    }

    /// Whether every margin is refuted.
    pub fn cleared(&self) -> bool {
        self.have > 0 && self.evidence.iter().flatten().all(|&evidence| evidence >= self.threshold)
    }
}

/// Sums since a step began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Step {
    usual_errors: f64,
    beyond_p99: Vec<f64>,
    beyond_p50: Vec<f64>,
    primary: Counts,
    shadow: Counts,
    pairs: Pairs,
    p99: f64,
    p50: f64,
    hits: [f64; 2],
    seconds: f64,
}

impl Step {
    pub(super) fn new(scale: &Scale, usual_errors: f64) -> Self {
        Self {
            usual_errors,
            beyond_p99: scale.beyond(0.99),
            beyond_p50: scale.beyond(0.5),
            primary: Counts::default(),
            shadow: Counts::default(),
            pairs: Pairs::default(),
            p99: 0.0,
            p50: 0.0,
            hits: [0.0; 2],
            seconds: 0.0,
        }
    }

    pub(super) fn observe(&mut self, policy: &JudgePolicy, scale: &Scale, tick: &Tick, shadow: &Block) {
        self.seconds += shadow.seconds;
        for (sum, counts) in [(&mut self.primary, &tick.primary), (&mut self.shadow, &tick.shadow)] {
            sum.requests += counts.requests;
            sum.errors += counts.errors;
            sum.latency.merge(&counts.latency);
        }
        self.pairs.compared += tick.pairs.compared;
        self.pairs.known += tick.pairs.known;
        self.pairs.diverged += tick.pairs.diverged;
        let theirs = scale.bin(&tick.primary.latency);
        let timed: f64 = theirs.iter().sum();
        if shadow.timed <= 0.0 || timed <= 0.0 {
            return;
        }
        let share = shadow.timed / (shadow.timed + timed);
        let among = |bins: &[f64], beyond: &[f64]| bins.iter().zip(beyond).map(|(n, b)| n * b).sum::<f64>();
        let against = |beyond: &[f64], margin: f64| {
            let hits = among(&shadow.bins, beyond);
            let all = hits + among(&theirs, beyond);
            // Normalised, so that it compares shares of requests and not their numbers.
            let usual = among(&scale.share, beyond);
            let rest = shadow.timed + timed - all;
            let others = ((1.0 - usual * margin) / (1.0 - usual)).max(1e-3).ln();
            -conditional(hits, all, share, margin.ln())
                - conditional(shadow.timed - hits, rest, share, others)
        };
        self.p99 += against(&self.beyond_p99, policy.p99_margin);
        self.p50 += against(&self.beyond_p50, policy.p50_margin);
        self.hits[0] += among(&theirs, &self.beyond_p99);
        self.hits[1] += among(&shadow.bins, &self.beyond_p99);
    }

    /// The primary's rate of errors: that of the step, steadied by the usual one.
    fn errors_expected(&self) -> f64 {
        let usual = self.usual_errors * USUAL_WEIGHT;
        ((self.primary.errors as f64 + usual) / (self.primary.requests as f64 + USUAL_WEIGHT))
            .clamp(1e-9, 0.9)
    }

    pub(super) fn progress(&self, policy: &JudgePolicy, scale: &Scale, noise: &Noise) -> Progress {
        let threshold = -policy.clear_alpha.ln();
        let (base, shadow) = (self.errors_expected() + policy.error_allowance, &self.shadow);
        let limit = (base + policy.error_margin).min(0.99);
        let (hits, all) = (shadow.errors as f64, shadow.requests as f64);
        // A quiet time of the shadow's own is no good news either, where errors are known to come in bursts.
        let burst = noise.lasting(self.seconds).sure_bursts();
        let errors = against_rate(hits, all, base, limit).min(-log_ratio_of_counts(
            hits,
            all * base,
            limit / base,
            burst,
        ));
        let timed = shadow.latency.total();
        let divergence = (self.pairs.compared > 0).then(|| {
            let (rate, limit) = (policy.divergence_allowance, policy.divergence_margin);
            // All of them, or an application whose bodies can't be compared would never be cleared.
            against_rate(self.pairs.diverged as f64, self.pairs.compared as f64, rate, limit)
        });
        let beyond: f64 = scale.share.iter().zip(&self.beyond_p99).map(|(p, b)| p * b).sum();
        let known = timed as f64 / (timed + self.primary.latency.total()).max(1) as f64;
        let mut each = against_rate(base, 1.0, base, limit);
        if beyond > 0.0 {
            let margin = policy.p99_margin;
            let all = beyond / known.max(1e-6);
            each = each.min(-conditional(beyond, all, known, margin.ln()).min(-1e-9));
        }
        let need = (threshold / each).ceil() as u64;
        let latency = |log: f64| Some(if timed > 0 { log } else { 0.0 });
        Progress {
            have: shadow.requests,
            need,
            evidence: [Some(errors), latency(self.p99), latency(self.p50), divergence],
            threshold,
        }
    }

    pub(super) fn finding(&self, policy: &JudgePolicy, metric: Metric, evidence: f64) -> Finding {
        let rate = |hits: u64, all: u64| hits as f64 / all.max(1) as f64;
        let (primary, allowed, shadow, samples, gross) = match metric {
            Metric::Errors => {
                let shadow = rate(self.shadow.errors, self.shadow.requests);
                let primary = self.errors_expected();
                let allowed = primary + policy.error_allowance;
                (primary, allowed, shadow, self.shadow.requests, shadow - allowed > policy.gross_errors)
            }
            Metric::Latency => {
                let beyond = |k: usize, latency: &Histogram| self.hits[k] / latency.total().max(1) as f64;
                let (theirs, mine) = (beyond(0, &self.primary.latency), beyond(1, &self.shadow.latency));
                let p99 = |latency: &Histogram| latency.quantile_us(0.99).unwrap_or(0) as f64;
                let primary = p99(&self.primary.latency);
                (
                    primary / 1e3,
                    policy.allowed_us(primary) / 1e3,
                    p99(&self.shadow.latency) / 1e3,
                    self.shadow.latency.total(),
                    mine > theirs * policy.gross_p99,
                )
            }
            Metric::Divergence => {
                let share = rate(self.pairs.diverged, self.pairs.known);
                let allowed = policy.divergence_allowance;
                (0.0, allowed, share, self.pairs.known, share > policy.divergence_margin)
            }
        };
        let threshold = policy.threshold(metric);
        Finding { metric, evidence, threshold, primary, allowed, shadow, samples, gross }
    }
}

/// Log evidence for a rate of `base` against one of `limit` or more, from hits among all.
fn against_rate(hits: f64, all: f64, base: f64, limit: f64) -> f64 {
    hits * (base / limit).ln() + (all - hits) * ((1.0 - base) / (1.0 - limit)).ln()
}
