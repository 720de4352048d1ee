//! Values in, forecasts out.

use std::{panic, time::Duration};

use crate::{
    history::{self, History},
    interval::{Forecast, Movement, Pool, Residual},
    model::{MODELS, Model},
    season::Seasons,
    weight::{BUCKETS, Origin, Scores, bucket_of, typical_step},
};

/// Steps ahead, at most: a day of minutes.
pub const MAX_HORIZON: usize = 1_440;
/// Values that are kept. Two weeks of minutes, ten weeks of five minutes.
pub const MAX_HISTORY: usize = 20_160;
/// Earlier origins that [`Forecaster::fit`] forecasts from, to weigh and to calibrate.
pub const WARM_UP: usize = 30;

/// Origins of the warm-up lie in this newest share of the history.
const WARM_UP_SHARE: f64 = 0.5;
/// Residuals under which those of the last value, taken from the history, stand in.
const FEWEST_RESIDUALS: usize = 10;
/// How far beyond the history's range a forecast may go, in ranges.
const MOST_BEYOND: f64 = 1.0;

/// Why there is no forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The step is no time.
    #[error("a series has a step of more than 0 s")]
    NoStep,
    /// Nothing was measured yet.
    #[error("nothing was measured yet: there is nothing to forecast from")]
    NoValue,
    /// Too near or too far.
    #[error("a horizon of {0} steps: from 1 to {MAX_HORIZON} are possible")]
    Horizon(usize),
}

/// Forecasts one series, and learns from how its forecasts did.
#[derive(Debug, Clone)]
pub struct Forecaster {
    step: Duration,
    history: History,
    scores: Scores,
}

impl Forecaster {
    /// For a series with a value a `step`.
    ///
    /// # Errors
    /// If the step is 0.
    pub fn new(step: Duration) -> Result<Self, Error> {
        if step.is_zero() {
            return Err(Error::NoStep);
        }
        Ok(Self { step, history: History::new(MAX_HISTORY), scores: Scores::new() })
    }

    /// For a series with a history: warmed up by [`WARM_UP`] forecasts of a day from earlier origins.
    ///
    /// # Errors
    /// If the step is 0.
    pub fn fit(step: Duration, values: &[f64]) -> Result<Self, Error> {
        let mut forecaster = Self::new(step)?;
        let first = (values.len() as f64 * (1.0 - WARM_UP_SHARE)) as usize;
        let stride = (values.len() - first).div_ceil(WARM_UP).max(1);
        let horizon = forecaster.day();
        for (index, value) in values.iter().enumerate() {
            if index >= first && (index - first).is_multiple_of(stride) {
                // Only what was never measured has no forecast, and nothing to warm up with.
                let _ = forecaster.forecast(horizon);
            }
            forecaster.observe(*value);
        }
        Ok(forecaster)
    }

    /// The next value. What isn't finite says that nothing was measured.
    pub fn observe(&mut self, value: f64) {
        self.history.push(value);
        self.scores.settle(&self.history);
    }

    /// The seasons that the series shows by now.
    #[must_use]
    pub fn seasons(&self) -> Seasons {
        Seasons::find(&self.history.to_vec(), self.step)
    }

    /// The next `horizon` steps. Remembered, and scored as the values come.
    ///
    /// # Errors
    /// If nothing was ever measured, or for a horizon of 0 or beyond [`MAX_HORIZON`].
    pub fn forecast(&mut self, horizon: usize) -> Result<Forecast, Error> {
        if horizon == 0 || horizon > MAX_HORIZON {
            return Err(Error::Horizon(horizon));
        }
        let values = self.history.to_vec();
        let seasons = Seasons::find(&values, self.step);
        let filled = history::fill_gaps(&values, seasons.shortest());
        let bounds = Bounds::of(&filled).ok_or(Error::NoValue)?;
        let possible = Seasons::possible(filled.len(), self.step);
        let models = run_models(&filled, possible, horizon, bounds);
        let present: Vec<bool> = models.iter().map(Option::is_some).collect();
        let fallen_back = std::array::from_fn(|bucket| self.scores.fall_back(bucket, &present));
        let (blend, mean) = self.combine(&models, &present, &fallen_back, horizon);
        let movement = Movement::of(&filled);
        let pools = std::array::from_fn(|bucket| self.pool(bucket, &filled, movement));
        let simpler = fallen_back.map(|model| model.map(|model| MODELS[model]));
        let forecast = Forecast::new(self.step, mean.clone(), pools, bounds.floor, simpler);
        let intervals = (0..horizon).filter_map(|step| forecast.interval90(step)).collect();
        self.scores.remember(Origin {
            at: self.history.next_index(),
            models,
            blend,
            mean,
            intervals,
            movement,
            scored: 0,
        });
        Ok(forecast)
    }

    /// A day in steps, within what is possible.
    fn day(&self) -> usize {
        let steps = Duration::from_secs(86_400).as_nanos() / self.step.as_nanos();
        usize::try_from(steps).unwrap_or(MAX_HORIZON).clamp(1, MAX_HORIZON)
    }

    /// The models' weighted mean, by the weights of each step's bucket, and the same but for the buckets where a
    /// simple model did better.
    fn combine(
        &self,
        models: &[Option<Vec<f64>>],
        present: &[bool],
        fallen_back: &[Option<usize>; BUCKETS],
        horizon: usize,
    ) -> (Vec<f64>, Vec<f64>) {
        let (mut blend, mut mean) = (Vec::new(), Vec::new());
        for (bucket, simpler) in fallen_back.iter().enumerate().take(bucket_of(horizon - 1) + 1) {
            let weights = self.scores.weights(bucket, present);
            let fall_back = simpler.and_then(|model| models[model].as_ref());
            for step in (0..horizon).filter(|step| bucket_of(*step) == bucket) {
                let weighted =
                    |(model, weight): (&Option<Vec<f64>>, &f64)| Some(weight * model.as_ref()?[step]);
                let together: f64 = models.iter().zip(&weights).filter_map(weighted).sum();
                let together = together.clamp(f64::MIN, f64::MAX);
                blend.push(together);
                mean.push(fall_back.map_or(together, |model| model[step]));
            }
        }
        (blend, mean)
    }

    /// What the interval of a bucket is made of: our own residuals, or before there are enough those that the last
    /// value would have had.
    fn pool(&self, bucket: usize, filled: &[f64], movement: Movement) -> Pool {
        let mut residuals = self.scores.residuals(bucket);
        let movement = movement.for_step(typical_step(bucket) - 1);
        if residuals.len() < FEWEST_RESIDUALS {
            let lag = typical_step(bucket).min(filled.len().saturating_sub(1)).max(1);
            let pairs = filled.iter().zip(filled.get(lag..).unwrap_or_default());
            residuals.extend(pairs.map(|(mean, value)| Residual { error: value - mean, movement }));
        }
        Pool::new(&residuals, movement, self.scores.stretch(bucket))
    }
}

/// Every model's forecast within the bounds; `None` for one that doesn't fit or isn't finite.
fn run_models(filled: &[f64], seasons: Seasons, horizon: usize, bounds: Bounds) -> Vec<Option<Vec<f64>>> {
    let scaled: Vec<f64> = filled.iter().map(|value| value / bounds.magnitude).collect();
    let run = |model: &Model| {
        // The last resort: the models see finite, scaled, long enough input, but their crates don't promise not to
        // panic, and a model that does is one that doesn't fit the series.
        let forecast = panic::catch_unwind(|| model.forecast(&scaled, seasons, horizon)).ok().flatten()?;
        (forecast.len() == horizon && forecast.iter().all(|value| value.is_finite()))
            .then(|| forecast.iter().map(|value| bounds.clamp(value * bounds.magnitude)).collect())
    };
    MODELS.iter().map(run).collect()
}

/// What a forecast of the series may be.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    least: f64,
    most: f64,
    /// The mean absolute value, by which the models' input is scaled; 1 for zeroes.
    magnitude: f64,
    /// 0 if the series was never negative.
    floor: f64,
}

impl Bounds {
    /// `None` for no values.
    fn of(filled: &[f64]) -> Option<Self> {
        let least = filled.iter().copied().reduce(f64::min)?;
        let most = filled.iter().copied().reduce(f64::max)?;
        let count = filled.len() as f64;
        // Divided before it is summed: the sum of large values isn't finite.
        let magnitude = filled.iter().map(|value| value.abs() / count).sum::<f64>();
        let magnitude = if magnitude.is_normal() { magnitude } else { 1.0 };
        let floor = if least >= 0.0 { 0.0 } else { f64::MIN };
        let beyond = (most / 2.0 - least / 2.0).min(f64::MAX / 8.0) * 2.0 * MOST_BEYOND;
        let bound = |value: f64| value.clamp(f64::MIN, f64::MAX);
        Some(Self { least: bound(least - beyond).max(floor), most: bound(most + beyond), magnitude, floor })
    }

    fn clamp(&self, value: f64) -> f64 {
        value.clamp(self.least, self.most)
    }
}
