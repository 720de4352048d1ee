//! A forecast with its intervals: split conformal on the residuals of earlier origins.

use std::time::Duration;

use crate::weight::{BUCKETS, bucket_of};

/// What is expected of the steps ahead. Step 0 is the next one.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    step: Duration,
    mean: Vec<f64>,
    /// By bucket of horizons, in order.
    residuals: [Vec<f64>; BUCKETS],
    /// No value below it was ever seen, if that is a bound of the series (0).
    floor: f64,
}

impl Forecast {
    pub(crate) fn new(
        step: Duration,
        mean: Vec<f64>,
        mut residuals: [Vec<f64>; BUCKETS],
        floor: f64,
    ) -> Self {
        for pool in &mut residuals {
            pool.sort_by(f64::total_cmp);
        }
        Self { step, mean, residuals, floor }
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
        Some((mean + conformal_quantile(&self.residuals[bucket_of(step)], level)).max(self.floor))
    }

    /// The interval that holds the value with probability 0.9; `None` behind the horizon.
    #[must_use]
    pub fn interval90(&self, step: usize) -> Option<(f64, f64)> {
        Some((self.quantile(step, 0.05)?, self.quantile(step, 0.95)?))
    }
}

/// The quantile of a sorted pool with the finite-sample correction of split conformal prediction; interpolated.
fn conformal_quantile(sorted: &[f64], level: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let level = if level.is_nan() { 0.5 } else { level.clamp(0.0, 1.0) };
    let rank = (level * (sorted.len() + 1) as f64 - 1.0).clamp(0.0, last as f64);
    let low = rank.floor();
    let (below, above) = (sorted[low as usize], sorted[rank.ceil() as usize]);
    below + (rank - low) * (above - below)
}
