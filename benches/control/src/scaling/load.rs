//! A series as load at each tick, and the forecasts that were made of it.

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use mirror_forecast::{Forecast, Forecaster};

use super::{LEADS, PEAK_UNITS, TICK};
use crate::series::Series;

/// Days before scoring begins that methods may learn from: with forecasts of their own time, not of hindsight.
const WARM_UP_DAYS: f64 = 0.5;

/// A load to replay.
pub(crate) struct Load {
    values: Vec<f64>,
    /// Ticks of a value.
    ticks_a_value: usize,
    /// The load that a unit carries.
    pub(crate) unit: f64,
    /// Values at which replaying and scoring begin.
    begin: usize,
    first: usize,
    /// A forecast each `every` values from `begin` on.
    forecasts: Vec<Forecast>,
    every: usize,
}

impl Load {
    /// Makes the forecasts: each from the values up to then.
    ///
    /// # Errors
    /// If nothing was measured before the first one.
    pub(crate) fn new(series: &Series, first: usize, every: usize, progress: &ProgressBar) -> Result<Self> {
        let begin = first - (WARM_UP_DAYS * series.day() as f64) as usize;
        let peak = series.values.iter().copied().filter(|value| value.is_finite()).reduce(f64::max);
        let peak = peak.filter(|peak| *peak > 0.0).context("a series without load")?;
        let ahead = LEADS[1].div_ceil(u32::try_from(series.step.as_secs())?) as usize;
        let horizon = every + ahead + 1;
        let mut forecaster = Forecaster::fit(series.step, &series.values[..begin])?;
        progress.inc(begin as u64);
        let mut forecasts = Vec::new();
        for (index, value) in series.values.iter().enumerate().skip(begin) {
            forecaster.observe(*value);
            if (index - begin).is_multiple_of(every) {
                forecasts.push(forecaster.forecast(horizon)?);
            }
            progress.inc(1);
        }
        let ticks_a_value = usize::try_from(series.step.as_secs())? / TICK as usize;
        let unit = peak / PEAK_UNITS;
        Ok(Self { values: series.values.clone(), ticks_a_value, unit, begin, first, forecasts, every })
    }

    /// Ticks, from the first one that is replayed on.
    pub(crate) fn ticks(&self) -> usize {
        (self.values.len() - 1 - self.begin) * self.ticks_a_value
    }

    /// The tick that is scored first.
    pub(crate) fn first_scored(&self) -> usize {
        (self.first - self.begin) * self.ticks_a_value
    }

    /// The load at a tick; `None` beside a gap.
    pub(crate) fn at(&self, tick: usize) -> Option<f64> {
        let (index, share) = self.place(tick);
        let (before, after) = (self.values[index], self.values[index + 1]);
        let load = if share == 0.0 { before } else { between(before, after, share) };
        load.is_finite().then_some(load)
    }

    /// Units that a load needs.
    pub(crate) fn units(&self, load: f64) -> u32 {
        (load / self.unit - 1e-9).ceil().max(1.0) as u32
    }

    /// The largest load before scoring begins.
    pub(crate) fn peak_so_far(&self) -> f64 {
        let so_far = self.values[..self.first].iter().copied();
        so_far.filter(|value| value.is_finite()).fold(0.0, f64::max)
    }

    /// What the newest forecast of that tick says of `ahead` ticks later.
    pub(crate) fn forecast(&self, tick: usize, ahead: usize, level: f64) -> Option<f64> {
        let made = tick / self.ticks_a_value / self.every;
        let forecast = self.forecasts.get(made)?;
        let origin = made * self.every;
        let at = |value: usize| {
            let step = (value - origin).checked_sub(1);
            step.map_or_else(
                || Some(self.values[self.begin + origin]).filter(|value| value.is_finite()),
                |step| forecast.quantile(step, level),
            )
        };
        let (index, share) = self.place(tick + ahead);
        let value = index - self.begin;
        if share == 0.0 {
            return at(value);
        }
        // The value that it was made at may be a gap.
        let after = at(value + 1)?;
        Some(at(value).map_or(after, |before| between(before, after, share)))
    }

    /// The value at or before a tick, and how far the next one has come.
    fn place(&self, tick: usize) -> (usize, f64) {
        let share = (tick % self.ticks_a_value) as f64 / self.ticks_a_value as f64;
        (self.begin + tick / self.ticks_a_value, share)
    }
}

fn between(before: f64, after: f64, share: f64) -> f64 {
    before + share * (after - before)
}
