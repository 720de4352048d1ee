//! Values in, forecasts out.

use std::{panic, time::Duration};

use crate::{
    history::{self, History},
    interval::{Forecast, Movement, Pool, Residual},
    model::{MODELS, Model, Said},
    replay,
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
        let said = run_models(&filled, possible, horizon, bounds);
        let present: Vec<bool> = said.iter().map(Option::is_some).collect();
        let fallen_back = std::array::from_fn(|bucket| self.scores.fall_back(bucket, &present));
        let mut weights: [Vec<f64>; BUCKETS] =
            std::array::from_fn(|bucket| self.scores.weights(bucket, &present));
        if let Some(first) = replay::weights(&said, &values) {
            weights[0] = first;
        }
        let models: Vec<Option<Vec<f64>>> =
            said.into_iter().map(|said| said.map(|said| said.ahead)).collect();
        let (blend, mean) = combine(&models, &weights, &fallen_back, horizon);
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

/// The models' weighted median, by the weights of each step's bucket, and the same but for the buckets where a simple model
/// did better.
fn combine(
    models: &[Option<Vec<f64>>],
    weights: &[Vec<f64>; BUCKETS],
    fallen_back: &[Option<usize>; BUCKETS],
    horizon: usize,
) -> (Vec<f64>, Vec<f64>) {
    let of_step = |step: usize| {
        let bucket = bucket_of(step);
        let weighted = |(model, weight): (&Option<Vec<f64>>, &f64)| Some((model.as_ref()?[step], *weight));
        let said: Vec<(f64, f64)> = models.iter().zip(&weights[bucket]).filter_map(weighted).collect();
        let together = weighted_median(said);
        let simpler = fallen_back[bucket].and_then(|model| models[model].as_ref());
        (together, simpler.map_or(together, |model| model[step]))
    };
    (0..horizon).map(of_step).unzip()
}

/// The value that half of the weight lies at or below; 0 for none. `values` have their weights beside them.
///
/// Not their mean: absolute errors are least at the median, and a model that strays pulls a mean with it.
fn weighted_median(mut values: Vec<(f64, f64)>) -> f64 {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = values.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut so_far = 0.0;
    let reaches_half = |(_, weight): &&(f64, f64)| {
        so_far += weight;
        so_far >= half
    };
    values.iter().find(reaches_half).or(values.last()).map_or(0.0, |(value, _)| *value)
}

/// What every model says, within the bounds; `None` for one that doesn't fit or isn't finite.
fn run_models(filled: &[f64], seasons: Seasons, horizon: usize, bounds: Bounds) -> Vec<Option<Said>> {
    let scaled: Vec<f64> = filled.iter().map(|value| value / bounds.magnitude).collect();
    let run = |model: &Model| {
        // The last resort: the models see finite, scaled, long enough input, but their crates don't promise not to
        // panic, and a model that does is one that doesn't fit the series.
        let said = panic::catch_unwind(|| model.forecast(&scaled, seasons, horizon)).ok().flatten()?;
        let is_usable = said.ahead.len() == horizon
            && said.ahead.iter().chain(&said.replay).all(|value| value.is_finite());
        let bounded =
            |values: Vec<f64>| values.iter().map(|value| bounds.clamp(value * bounds.magnitude)).collect();
        is_usable.then(|| Said { ahead: bounded(said.ahead), replay: bounded(said.replay) })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate;

    #[test]
    fn half_of_the_weight_decides_whatever_strays() {
        assert_eq!(weighted_median(vec![(9e9, 0.4), (2.0, 0.3), (1.0, 0.3)]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(weighted_median(vec![(5.0, 0.6), (1.0, 0.4)]).to_bits(), 5.0_f64.to_bits());
        assert_eq!(weighted_median(Vec::new()).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn the_first_step_knows_the_best_model_without_an_earlier_forecast() {
        // A wave without noise: the last value errs by its slope, the regression by nothing.
        let values: Vec<f64> = (0..900).map(|index| 200.0 + 100.0 * (f64::from(index) * 0.2).sin()).collect();
        let mut forecaster = Forecaster::new(Duration::from_secs(300)).expect("a step");
        values[..899].iter().for_each(|value| forecaster.observe(*value));
        let next = forecaster.forecast(1).expect("a forecast").mean()[0];
        assert!((next - values[899]).abs() < 0.1 * (values[898] - values[899]).abs(), "{next}");
    }

    #[test]
    fn what_a_model_replays_is_what_it_would_have_said() {
        let values = generate::named("week", 3, 5_000, 288).expect("a known name").values;
        let seasons = Seasons::possible(values.len(), Duration::from_secs(300));
        for model in [Model::LastValue, Model::SeasonalNaive, Model::ProfileAdded, Model::WeekProfile] {
            let said = model.forecast(&values, seasons, 1).expect("a forecast");
            let back = said.replay.len();
            assert!(back > 0, "{model:?}");
            for index in [0, back / 2, back - 1] {
                let before = &values[..values.len() - back + index];
                let then = model.forecast(before, seasons, 1).expect("a forecast").ahead[0];
                assert_eq!(said.replay[index].to_bits(), then.to_bits(), "{model:?}");
            }
        }
        // Those that are fitted have seen the value by then, which tells them little.
        for model in [Model::RegressionShort, Model::RegressionLong, Model::Ets] {
            let said = model.forecast(&values, seasons, 1).expect("a forecast");
            let then = model.forecast(&values[..4_999], seasons, 1).expect("a forecast").ahead[0];
            let last = *said.replay.last().expect("a replay");
            assert!((last - then).abs() < 0.02 * then, "{model:?}: {last} {then}");
        }
    }
}
