//! A forecast with its intervals: split conformal on the residuals of earlier origins, corrected by what it missed.

use std::time::Duration;

use crate::{
    model::Model,
    weight::{BUCKETS, bucket_of},
};

/// What the stretch learns from a value outside, as a share of the pool's own width: about two fifths.
const RATE: f64 = 0.45;
/// Bounds of the stretch.
const STRETCH: std::ops::RangeInclusive<f64> = 0.5..=2.0;
/// Share of the values that should lie beyond each end of the 90 % interval.
const TAIL: f64 = 0.05;
/// Levels are cut off this far from 0 and 1: nobody has seen the quantiles beyond.
const UTMOST: f64 = 1e-4;
/// What the largest residual grows by for each unit of log-odds beyond it.
const TAIL_GROWTH: f64 = 0.25;

/// Steps whose changes are those of late, and the usual ones.
const LATELY: usize = 24;
const USUALLY: usize = 2_016;
/// Share of the usual movement that is there however quiet it is.
const QUIET: f64 = 0.1;

/// How much a series moves from step to step, in its unit: what errors are measured by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Movement {
    /// The mean absolute change of late and the usual one, geometrically between them: wild times last, but few
    /// steps tell little of them.
    lately: f64,
    usually: f64,
}

impl Movement {
    pub(crate) fn of(filled: &[f64]) -> Self {
        let mean = |steps: usize| {
            let newest = &filled[filled.len().saturating_sub(steps + 1)..];
            let count = newest.len().saturating_sub(1) as f64;
            // Divided before it is summed: the sum of large changes isn't finite.
            newest.windows(2).map(|pair| (pair[1] - pair[0]).abs() / count).sum::<f64>()
        };
        let usually = mean(USUALLY);
        let lately = usually.sqrt() * (mean(LATELY) + QUIET * usually).sqrt();
        let or_one = |size: f64| if size.is_normal() { size } else { 1.0 };
        Self { lately: or_one(lately), usually: or_one(usually) }
    }

    /// What errors of that many steps ahead go by: wild times don't last for ever.
    pub(crate) fn for_step(self, step: usize) -> f64 {
        if step < LATELY { self.lately } else { self.usually }
    }
}

/// A past error (value minus forecast), and how much the series moved when it was forecast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Residual {
    pub(crate) error: f64,
    pub(crate) movement: f64,
}

/// How far quantiles lie from the median, against those of the pool, below and above it. A value outside pushes that side
/// out, one inside lets it back: adaptive conformal inference (Gibbs and Candès 2021), by steps in the errors' own scale as
/// quantile tracking has them (Angelopoulos, Candès and Tibshirani 2023), both tails apart.
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
    /// Errors over the movement, ascending.
    errors: Vec<f64>,
    /// How much the series moves now.
    movement: f64,
    stretch: Stretch,
}

impl Pool {
    pub(crate) fn new(residuals: &[Residual], movement: f64, stretch: Stretch) -> Self {
        let mut errors: Vec<f64> =
            residuals.iter().map(|residual| residual.error / residual.movement).collect();
        errors.retain(|error| error.is_finite());
        errors.sort_by(f64::total_cmp);
        Self { errors, movement, stretch }
    }

    /// The error not exceeded with that probability. Never falls with the level.
    ///
    /// The rank is that of split conformal prediction (Vovk; Lei and others 2018): of `n + 1`, not of `n`.
    fn quantile(&self, level: f64) -> f64 {
        let level = if level.is_nan() { 0.5 } else { level.clamp(UTMOST, 1.0 - UTMOST) };
        let log_odds = (level / (1.0 - level)).ln();
        let (Some(median), Some(within)) = (self.of_rank(0.0), self.of_rank(log_odds)) else { return 0.0 };
        // The outermost of n errors stands for odds of n to 1. Farther out it grows, away from the median.
        let beyond = (log_odds.abs() - (self.errors.len() as f64).ln()).max(0.0);
        let side = if log_odds < 0.0 { self.stretch.below } else { self.stretch.above };
        let stretch = side * (1.0 + TAIL_GROWTH * beyond);
        // Not by their difference, which may be infinite.
        self.movement * (median * (1.0 - stretch) + within * stretch)
    }

    /// The error of the rank that those log-odds stand for, between two of them if need be; `None` without any.
    fn of_rank(&self, log_odds: f64) -> Option<f64> {
        let last = self.errors.len().checked_sub(1)?;
        let rank = (last as f64 + 2.0) / (1.0 + (-log_odds).exp()) - 1.0;
        let at = rank.clamp(0.0, last as f64);
        let (below, above) = (self.errors[at.floor() as usize], self.errors[at.ceil() as usize]);
        Some((1.0 - at.fract()) * below + at.fract() * above)
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

    /// The expected value a step: what absolute errors are least of, so rather the median than the mean.
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
        let error = self.pools[bucket_of(step)].quantile(level);
        Some((mean + error).clamp(self.floor, f64::MAX))
    }

    /// The interval that holds the value with probability 0.9; `None` behind the horizon.
    #[must_use]
    pub fn interval90(&self, step: usize) -> Option<(f64, f64)> {
        Some((self.quantile(step, TAIL)?, self.quantile(step, 1.0 - TAIL)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors of −30 to 30.
    fn pool(stretch: Stretch) -> Pool {
        let residuals: Vec<Residual> =
            (-30..=30).map(|error| Residual { error: f64::from(error), movement: 1.0 }).collect();
        Pool::new(&residuals, 2.0, stretch)
    }

    #[test]
    fn a_value_above_pushes_the_upper_end_out_and_the_lower_one_back() {
        let mut stretch = Stretch::default();
        stretch.learn((0.0, 1.0), 1.0);
        let (before, after) = (pool(Stretch::default()), pool(stretch));
        let ends = |pool: &Pool| [TAIL, 0.5, 1.0 - TAIL].map(|level| pool.quantile(level));
        let ([low, middle, high], [low_after, middle_after, high_after]) = (ends(&before), ends(&after));
        assert!(
            high_after > 1.4 * high && low_after > low && low_after < 0.9 * low,
            "{low_after} {high_after}"
        );
        assert!(middle.abs() < 1e-9 && middle_after.abs() < 1e-9);
    }

    #[test]
    fn the_stretch_is_bounded_and_quantiles_never_fall_with_the_level() {
        for missed in [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)] {
            let mut stretch = Stretch::default();
            (0..1_000).for_each(|_| stretch.learn(missed, 1.0));
            let pool = pool(stretch);
            let quantiles: Vec<f64> =
                (0..=100).map(|percent| pool.quantile(f64::from(percent) / 100.0)).collect();
            assert!(quantiles.is_sorted(), "{missed:?}: {quantiles:?}");
            assert!(pool.quantile(1.0 - TAIL) <= 120.0);
        }
    }

    #[test]
    fn wild_times_count_for_the_next_steps_alone() {
        let series = |wild: usize| -> Vec<f64> {
            (0..600)
                .map(|index| {
                    if index % 2 == 0 {
                        100.0
                    } else if index >= wild {
                        200.0
                    } else {
                        101.0
                    }
                })
                .collect()
        };
        let (calm, wild) = (Movement::of(&series(600)), Movement::of(&series(570)));
        let far = wild.for_step(LATELY) / calm.for_step(LATELY);
        let near = wild.for_step(0) / calm.for_step(0);
        assert!(near > 2.0 * far && far > 4.0, "{near} {far}");
        assert_eq!(Movement::of(&[3.0; 50]).for_step(0).to_bits(), 1.0_f64.to_bits());
    }
}
