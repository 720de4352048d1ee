//! The models of two crates, each behind what it needs in order not to fail inside.
//!
//! What comes in is finite, not constant, at least [`FEWEST`] points and scaled to about one: the crates assume
//! it (a decomposition in `f32`, tolerances of 1e-8) and don't check it everywhere.

use anofox_forecast::{
    core::TimeSeries,
    models::{Forecaster as _, mfles::MFLES, theta::AutoTheta},
};
use augurs::{Fit as _, Predict as _, ets::AutoETS, mstl::MSTLModel};
use chrono::{DateTime, TimeDelta};

/// Points that a library model wants. The crates' own minimum is lower, their parameters are noise by then.
pub(super) const FEWEST: usize = 16;
/// Cycles of its season that a seasonal model wants.
const CYCLES: usize = 2;

/// Exponential smoothing without a season; error and trend are chosen by AICc.
pub(super) fn ets(history: &[f64], horizon: usize) -> Option<Vec<f64>> {
    let fitted = AutoETS::non_seasonal().fit(history).ok()?;
    Some(fitted.predict(horizon, None).ok()?.point)
}

/// Seasons taken out by repeated loess, the rest by [`ets`].
pub(super) fn mstl(history: &[f64], season: usize, horizon: usize) -> Option<Vec<f64>> {
    if season < 2 || history.len() < CYCLES * season + 2 {
        return None;
    }
    let fitted =
        MSTLModel::new(vec![season], AutoETS::non_seasonal().into_trend_model()).fit(history).ok()?;
    Some(fitted.predict(horizon, None).ok()?.point)
}

/// [`mstl`] of the logarithm: a season that grows with the level. For what is never negative.
pub(super) fn log_mstl(history: &[f64], season: usize, horizon: usize) -> Option<Vec<f64>> {
    if history.iter().any(|value| *value < 0.0) {
        return None;
    }
    let logs: Vec<f64> = history.iter().map(|value| (value + LOG_OFFSET).ln()).collect();
    let most = logs.iter().copied().fold(f64::MIN, f64::max) + LOG_RISE;
    let forecast = mstl(&logs, season, horizon)?;
    Some(forecast.iter().map(|log| log.min(most).exp() - LOG_OFFSET).collect())
}

/// Keeps the logarithm of nothing finite: a hundredth of the series' mean.
const LOG_OFFSET: f64 = 0.01;
/// What a forecast may rise above the history's largest logarithm: to about three times.
const LOG_RISE: f64 = 1.1;

/// The best of four theta models, after the season was divided out (or without one).
pub(super) fn theta(history: &[f64], season: Option<usize>, horizon: usize) -> Option<Vec<f64>> {
    let mut model = match season {
        Some(season) if season < 2 || history.len() < CYCLES * season + 2 => return None,
        Some(season) => AutoTheta::seasonal(season),
        None => AutoTheta::new(),
    };
    Some(model.fit_predict(&series(history)?, horizon).ok()?.primary().to_vec())
}

/// Boosted median, Fourier season, trend and smoothing.
pub(super) fn mfles(history: &[f64], season: usize, horizon: usize) -> Option<Vec<f64>> {
    if season < 2 || history.len() < CYCLES * season {
        return None;
    }
    Some(MFLES::new(vec![season]).fit_predict(&series(history)?, horizon).ok()?.primary().to_vec())
}

/// anofox wants timestamps; its models read only their order.
fn series(history: &[f64]) -> Option<TimeSeries> {
    let seconds = (0..history.len()).map(|index| TimeDelta::seconds(index as i64));
    let timestamps = seconds.map(|offset| DateTime::UNIX_EPOCH + offset).collect();
    TimeSeries::univariate(timestamps, history.to_vec()).ok()
}
