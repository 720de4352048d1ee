//! The next value as a weighted sum of the last ones and the season's profile: an autoregression with a seasonal
//! regressor, fitted robustly and run forwards.
//!
//! Loads have noise that the last value repeats, which smoothing averages out; and a way back to their season, which
//! smoothing doesn't know. Both are linear, and cheap. Fitted by Huber's M-estimator (1964), reweighted least squares
//! with a ridge: single spikes of many times the load would rule plain least squares.

use nalgebra::{DMatrix, DVector};

use super::{REPLAYED, Said, latest, profile};

/// What is fitted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Values before the one that is explained.
    pub(super) lags: usize,
    /// Newest values that are explained, at most.
    pub(super) rows: usize,
}

/// Values explained for each weight, at least.
const ROWS_A_WEIGHT: usize = 6;
/// Fits, each weighted by the errors of the one before it.
const FITS: usize = 4;
/// Errors count by their square up to this share of the median one, and linearly beyond: nearly least absolute deviations.
const QUADRATIC: f64 = 0.5;
/// The ridge, as a share of the regressors' mean square. It pulls towards the last value.
const RIDGE: f64 = 1e-4;
/// Added to what the logarithm is taken of: a twentieth of the series' mean.
const LOG_OFFSET: f64 = 0.05;
/// How far beyond what was seen it may go, in ranges of it.
const BEYOND: f64 = 0.5;

/// `horizon` steps ahead; on logarithms where nothing is negative. `None` where there are too few values, or they
/// don't tell the weights apart.
pub(super) fn forecast(history: &[f64], season: Option<usize>, shape: Shape, horizon: usize) -> Option<Said> {
    let is_load = history.iter().all(|value| *value >= 0.0);
    if !is_load {
        return run(history.to_vec(), season, shape, horizon);
    }
    let logs = history.iter().map(|value| (value + LOG_OFFSET).ln()).collect();
    let Said { ahead, replay } = run(logs, season, shape, horizon)?;
    let loads = |logs: Vec<f64>| logs.iter().map(|log| log.exp() - LOG_OFFSET).collect();
    Some(Said { ahead: loads(ahead), replay: loads(replay) })
}

fn run(mut values: Vec<f64>, season: Option<usize>, shape: Shape, horizon: usize) -> Option<Said> {
    let length = values.len();
    let season = season.filter(|season| length > *season);
    let regressors = Regressors::of(&values, season, shape, horizon);
    let rows = length.checked_sub(regressors.start)?;
    if rows < ROWS_A_WEIGHT * regressors.columns() {
        return None;
    }
    let Fit { weights, fitted } = regressors.fit(&values)?;
    let (least, most) = values[regressors.start..]
        .iter()
        .fold((f64::MAX, f64::MIN), |(least, most), value| (value.min(least), value.max(most)));
    let beyond = BEYOND * (most - least);
    let bounded = |value: f64| value.clamp(least - beyond, most + beyond);
    for index in length..length + horizon {
        let value: f64 =
            regressors.row(&values, index)?.iter().zip(&weights).map(|(value, weight)| value * weight).sum();
        values.push(bounded(value));
    }
    let replay = latest(&fitted, REPLAYED).iter().map(|value| bounded(*value)).collect();
    Some(Said { ahead: values.split_off(length), replay })
}

/// The weights, a column each, and what they come to, a row each.
struct Fit {
    weights: Vec<f64>,
    fitted: Vec<f64>,
}

/// What a value is explained by.
struct Regressors {
    lags: usize,
    /// The first value explained.
    start: usize,
    /// The season's profile from the value before `start` on; empty without one.
    profile: Vec<f64>,
}

impl Regressors {
    fn of(values: &[f64], season: Option<usize>, shape: Shape, horizon: usize) -> Self {
        let least = season.map_or(0, |season| season + 1).max(shape.lags);
        let start = values.len().saturating_sub(shape.rows).max(least);
        let at = |season| {
            (start - 1..=values.len() + horizon).map_while(move |index| {
                // A phase that lies a season ahead is that of a season before.
                let back = index.saturating_sub(values.len()) / season * season;
                profile::phase_mean(values, season, index - back)
            })
        };
        let profile = season.map(|season| at(season).collect()).unwrap_or_default();
        Self { lags: shape.lags, start, profile }
    }

    fn columns(&self) -> usize {
        self.lags + 1 + if self.profile.is_empty() { 0 } else { 3 }
    }

    /// The values before it, newest first; the profile before, at and after it; and one.
    fn row(&self, values: &[f64], index: usize) -> Option<Vec<f64>> {
        let mut row: Vec<f64> = values.get(index - self.lags..index)?.iter().rev().copied().collect();
        if !self.profile.is_empty() {
            let at = index - self.start;
            row.extend(self.profile.get(at..at + 3)?);
        }
        row.push(1.0);
        Some(row)
    }

    fn fit(&self, values: &[f64]) -> Option<Fit> {
        let (rows, columns) = (values.len() - self.start, self.columns());
        let table: Option<Vec<Vec<f64>>> =
            (self.start..values.len()).map(|index| self.row(values, index)).collect();
        let regressors = DMatrix::from_row_iterator(rows, columns, table?.into_iter().flatten());
        let explained = DVector::from_column_slice(&values[self.start..]);
        let mut prior = DVector::zeros(columns);
        prior[0] = 1.0;
        let surprise = &explained - &regressors * &prior;
        let mut of_rows = vec![1.0; rows];
        let (mut weights, mut fitted) = (prior.clone(), DVector::zeros(rows));
        for _ in 0..FITS {
            let mut weighted = regressors.clone();
            for mut column in weighted.column_iter_mut() {
                column.iter_mut().zip(&of_rows).for_each(|(value, of_row)| *value *= of_row);
            }
            let mut normal = regressors.tr_mul(&weighted);
            let ridge = RIDGE * normal.trace() / columns as f64;
            (0..columns).for_each(|column| normal[(column, column)] += ridge);
            weights = normal.cholesky()?.solve(&weighted.tr_mul(&surprise)) + &prior;
            fitted = &regressors * &weights;
            of_rows = huber((&explained - &fitted).as_slice());
        }
        Some(Fit { weights: weights.as_slice().to_vec(), fitted: fitted.as_slice().to_vec() })
    }
}

/// What each row counts by its error.
fn huber(errors: &[f64]) -> Vec<f64> {
    let mut sizes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let quadratic = (QUADRATIC * sizes[sizes.len() / 2]).max(1e-9);
    errors.iter().map(|error| quadratic / error.abs().max(quadratic)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { lags: 4, rows: 500 };

    /// A wave of 24 steps about 2, with every so many values a spike.
    fn wave(length: usize, spikes: usize) -> Vec<f64> {
        let value = |index: usize| 2.0 + (index as f64 * std::f64::consts::TAU / 24.0).sin();
        (0..length).map(|index| if index % spikes == spikes - 1 { 60.0 } else { value(index) }).collect()
    }

    #[test]
    fn what_follows_from_the_last_values_is_continued_with_and_without_a_season() {
        let expected = &wave(448, 1_000)[400..];
        for (season, steps) in [(None, 6), (Some(24), 48)] {
            let forecast = forecast(&wave(400, 1_000), season, SHAPE, steps).expect("a forecast").ahead;
            for (expected, forecast) in expected.iter().zip(&forecast) {
                assert!((expected - forecast).abs() < 0.2, "{season:?}: {forecast} for {expected}");
            }
        }
    }

    #[test]
    fn spikes_do_not_rule() {
        let expected = &wave(412, 1_000)[400..];
        let forecast = forecast(&wave(400, 53), Some(24), SHAPE, 12).expect("a forecast").ahead;
        for (expected, forecast) in expected.iter().zip(&forecast) {
            assert!((expected - forecast).abs() < 0.3, "{forecast} for {expected}");
        }
    }

    #[test]
    fn too_few_values_have_none_and_a_growing_one_is_bounded() {
        assert_eq!(forecast(&wave(50, 1_000), Some(24), SHAPE, 3), None);
        let doubling: Vec<f64> = (0..40).map(|index| 2.0_f64.powi(index) - 3.0).collect();
        let forecast = forecast(&doubling, None, SHAPE, 30).expect("a forecast").ahead;
        assert!(forecast.iter().all(|value| *value <= 1.5 * doubling[39] + 3.0), "{forecast:?}");
    }
}
