//! A forecast with its intervals: split conformal on the residuals of earlier origins, corrected by what it missed.

use std::time::Duration;

use crate::{
    model::Model,
    weight::{BUCKETS, bucket_of},
};

/// What the stretch learns from a value outside: about 0.2 of log-odds at 0.95.
const RATE: f64 = 0.07;
/// Bounds of the stretch.
const STRETCH: std::ops::RangeInclusive<f64> = 0.5..=1.5;
/// Share of the values that should lie beyond each end of the 90 % interval.
const TAIL: f64 = 0.05;
/// Levels are cut off this far from 0 and 1: nobody has seen the quantiles beyond.
const UTMOST: f64 = 1e-4;
/// What the largest residual grows by for each unit of log-odds beyond it.
const TAIL_GROWTH: f64 = 0.25;

/// A past error (value minus forecast) and the forecast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Residual {
    pub(crate) error: f64,
    pub(crate) mean: f64,
}

/// How errors depend on what is forecast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Spread {
    /// They don't.
    Even,
    /// They grow with its square root, from this least value on.
    Root { least: f64 },
}

impl Spread {
    fn of(self, mean: f64) -> f64 {
        match self {
            Self::Even => 1.0,
            Self::Root { least } => mean.max(least).sqrt(),
        }
    }
}

/// How far quantiles are pushed outwards, in log-odds, below and above the median: adaptive conformal inference
/// (Gibbs and Candès 2021), both tails apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stretch {
    below: f64,
    above: f64,
}

impl Default for Stretch {
    fn default() -> Self {
        Self { below: 1.0, above: 1.0 }
    }
}

impl Stretch {
    /// From the shares of values below and above the interval; `fresh` is how much of that is news (0 to 1).
    pub(crate) fn learn(&mut self, missed: (f64, f64), fresh: f64) {
        let learn = |stretch: f64, missed: f64| {
            (stretch + RATE * fresh * (missed - TAIL)).clamp(*STRETCH.start(), *STRETCH.end())
        };
        *self = Self { below: learn(self.below, missed.0), above: learn(self.above, missed.1) };
    }
}

/// What the quantiles of a bucket of horizons are made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pool {
    /// Errors by their spread, ascending.
    errors: Vec<f64>,
    spread: Spread,
    stretch: Stretch,
}

impl Pool {
    pub(crate) fn new(residuals: &[Residual], spread: Spread, stretch: Stretch) -> Self {
        let mut errors: Vec<f64> =
            residuals.iter().map(|residual| residual.error / spread.of(residual.mean)).collect();
        errors.retain(|error| error.is_finite());
        errors.sort_by(f64::total_cmp);
        Self { errors, spread, stretch }
    }

    /// The error not exceeded with that probability where `mean` is forecast. Never falls with the level.
    ///
    /// The rank is that of split conformal prediction (Vovk; Lei and others 2018): of `n + 1`, not of `n`.
    fn quantile(&self, mean: f64, level: f64) -> f64 {
        let Some(last) = self.errors.len().checked_sub(1) else { return 0.0 };
        let level = if level.is_nan() { 0.5 } else { level.clamp(UTMOST, 1.0 - UTMOST) };
        let log_odds = (level / (1.0 - level)).ln();
        let log_odds = log_odds * if log_odds < 0.0 { self.stretch.below } else { self.stretch.above };
        let count = self.errors.len() as f64;
        let rank = (count + 1.0) / (1.0 + (-log_odds).exp()) - 1.0;
        let at = rank.clamp(0.0, last as f64);
        let (below, above) = (self.errors[at.floor() as usize], self.errors[at.ceil() as usize]);
        // Not by their difference, which may be infinite.
        let within = (1.0 - at.fract()) * below + at.fract() * above;
        // The outermost of n errors stands for odds of n to 1. Farther out it grows, away from the median.
        let beyond = (log_odds.abs() - count.ln()).max(0.0);
        let is_outward = within * log_odds > 0.0;
        self.spread.of(mean) * if is_outward { within * (1.0 + TAIL_GROWTH * beyond) } else { within }
    }
}

/// What is expected of the steps ahead. Step 0 is the next one.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    step: Duration,
    mean: Vec<f64>,
    /// By bucket of horizons, in order.
    pools: [Pool; BUCKETS],
    /// Nothing below it can be: 0 for a series that never was negative.
    floor: f64,
    /// The simple model that it fell back on, by bucket of horizons.
    fallen_back: [Option<Model>; BUCKETS],
}

impl Forecast {
    pub(crate) fn new(
        step: Duration,
        mean: Vec<f64>,
        pools: [Pool; BUCKETS],
        floor: f64,
        fallen_back: [Option<Model>; BUCKETS],
    ) -> Self {
        Self { step, mean, pools, floor, fallen_back }
    }

    /// The simple model that did better than all together so far, where that step was left to it; `None`: it is all of
    /// them, weighted.
    #[must_use]
    pub fn fallen_back(&self, step: usize) -> Option<&'static str> {
        self.fallen_back[bucket_of(step)].map(Model::name)
    }

    /// Steps ahead that it tells of.
    #[must_use]
    pub fn horizon(&self) -> usize {
        self.mean.len()
    }

    /// The expected value a step.
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The step that ends at least `lead` from now, or the last one.
    #[must_use]
    pub fn step_at(&self, lead: Duration) -> usize {
        let steps = lead.as_nanos().div_ceil(self.step.as_nanos().max(1)).max(1);
        usize::try_from(steps).unwrap_or(usize::MAX).min(self.mean.len()) - 1
    }

    /// The value that isn't exceeded with probability `level` (0 to 1) at that step; `None` behind the horizon.
    #[must_use]
    pub fn quantile(&self, step: usize, level: f64) -> Option<f64> {
        let mean = self.mean.get(step)?;
        let error = self.pools[bucket_of(step)].quantile(*mean, level);
        Some((mean + error).clamp(self.floor, f64::MAX))
    }

    /// The interval that holds the value with probability 0.9; `None` behind the horizon.
    #[must_use]
    pub fn interval90(&self, step: usize) -> Option<(f64, f64)> {
        Some((self.quantile(step, TAIL)?, self.quantile(step, 1.0 - TAIL)?))
    }
}
