//! Errors, scaled so that series compare.

use super::method::{LEVELS, Prediction};
use crate::series::Series;

/// What a method did on a series, a horizon each.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Score {
    /// Mean absolute scaled error (Hyndman and Koehler 2006), by the error of the value a day ago.
    pub(crate) mase: f64,
    /// Pinball loss by [`LEVELS`], scaled likewise.
    pub(crate) pinball: [f64; 3],
    /// Share of the values within the 90 % interval, over steps and origins.
    pub(crate) coverage90: f64,
}

/// By horizon.
pub(crate) struct Scores(pub(crate) Vec<Score>);

impl Scores {
    /// Averages over the origins: each is scaled by its own history.
    pub(crate) fn of<'a>(
        series: &Series,
        scored: impl Iterator<Item = (&'a usize, &'a Prediction)> + Clone,
        horizons: [usize; 3],
    ) -> Self {
        Self(horizons.iter().map(|steps| score(series, scored.clone(), *steps)).collect())
    }
}

fn score<'a>(
    series: &Series,
    scored: impl Iterator<Item = (&'a usize, &'a Prediction)>,
    steps: usize,
) -> Score {
    let mut sum = Score::default();
    let (mut origins, mut values, mut covered) = (0.0, 0.0, 0.0);
    for (origin, prediction) in scored {
        let scale = seasonal_error(&series.values[..*origin], series.day());
        let known: Vec<usize> = (0..steps).filter(|step| series.values[origin + step].is_finite()).collect();
        if known.is_empty() {
            continue;
        }
        let mean = |loss: &dyn Fn(usize, f64) -> f64| {
            let losses = known.iter().map(|step| loss(*step, series.values[origin + step]));
            losses.sum::<f64>() / known.len() as f64 / scale
        };
        sum.mase += mean(&|step, value| (value - prediction.mean[step]).abs());
        for (level, (total, quantile)) in LEVELS.iter().zip(sum.pinball.iter_mut().zip(&prediction.quantiles))
        {
            *total += mean(&|step, value| pinball(value - quantile[step], *level));
        }
        for step in &known {
            let value = series.values[origin + step];
            let inside = prediction.lower[*step] <= value && value <= prediction.quantiles[2][*step];
            covered += f64::from(u8::from(inside));
        }
        values += known.len() as f64;
        origins += 1.0;
    }
    Score {
        mase: sum.mase / origins,
        pinball: sum.pinball.map(|loss| loss / origins),
        coverage90: covered / values,
    }
}

/// The loss whose expectation is least at the quantile (Koenker and Bassett 1978).
fn pinball(above: f64, level: f64) -> f64 {
    if above >= 0.0 { level * above } else { (level - 1.0) * above }
}

/// Mean absolute error of the value a day ago within the history.
fn seasonal_error(history: &[f64], day: usize) -> f64 {
    let errors: Vec<f64> = history
        .iter()
        .zip(&history[day..])
        .map(|(before, now)| (now - before).abs())
        .filter(|error| error.is_finite())
        .collect();
    errors.iter().sum::<f64>() / errors.len() as f64
}
