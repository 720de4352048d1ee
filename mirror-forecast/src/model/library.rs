//! The models of two crates, each behind what it needs in order not to fail inside.
//!
//! What comes in is finite, not constant, at least `FEWEST` points and scaled to about one: the crates assume
//! it (a decomposition in `f32`, tolerances of 1e-8) and don't check it everywhere.

use std::{borrow::Cow, error::Error};

use anofox_forecast::{
    core::TimeSeries,
    models::{Forecaster as _, mfles::MFLES, theta::Theta},
};
use augurs::{
    Fit as _, Predict as _,
    ets::model::{ErrorComponent, Model, ModelType, SeasonalComponent, TrendComponent, Unfit},
    mstl::{FittedTrendModel, MSTLModel, TrendModel},
};
use chrono::{DateTime, TimeDelta};

use super::{REPLAYED, Said, latest};

/// Cycles of its season that a seasonal model wants.
const CYCLES: usize = 2;

/// Points of the deseasonalised series that its level and trend are taken from: the season needs cycles, they don't.
const TREND_POINTS: usize = 576;
/// Steps of the search for an ETS' parameters. Its own tolerance takes three times as long, and errs as much.
const ETS_STEPS: usize = 60;

/// Exponential smoothing without a season; the trend (none, added, damped) is chosen by AICc.
///
/// Errors are additive: multiplicative ones give other intervals, which aren't used, and hardly other means.
pub(super) fn ets(history: &[f64], horizon: usize) -> Option<Said> {
    let fitted = fit_ets(history)?;
    let replay = latest(&fitted.predict_in_sample(None).ok()?.point, REPLAYED).to_vec();
    Some(Said { ahead: fitted.predict(horizon, None).ok()?.point, replay })
}

fn fit_ets(history: &[f64]) -> Option<Model> {
    let error = ErrorComponent::Additive;
    let season = SeasonalComponent::None;
    let trends =
        [(TrendComponent::None, false), (TrendComponent::Additive, false), (TrendComponent::Additive, true)];
    trends
        .into_iter()
        .filter_map(|(trend, damped)| {
            let unfit = Unfit::new(ModelType { error, trend, season }).damped(damped);
            // Errors of more than one step ahead aren't looked at.
            unfit.nmse(1).max_iterations(ETS_STEPS).fit(history).ok()
        })
        .filter(|model| model.aicc().is_finite())
        .min_by(|a, b| a.aicc().total_cmp(&b.aicc()))
}

/// Seasons taken out by repeated loess, the rest by [`ets`].
pub(super) fn mstl(history: &[f64], season: usize, horizon: usize) -> Option<Vec<f64>> {
    if season < 2 || history.len() < CYCLES * season + 2 {
        return None;
    }
    let fitted = MSTLModel::new(vec![season], NewestEts).fit(history).ok()?;
    Some(fitted.predict(horizon, None).ok()?.point)
}

type Failure = Box<dyn Error + Send + Sync>;

/// [`ets`] of the newest points, as what is left without a season is forecast.
#[derive(Debug)]
struct NewestEts;

/// What it came to.
#[derive(Debug)]
struct Fitted(Model);

impl TrendModel for NewestEts {
    fn name(&self) -> Cow<'_, str> {
        "ETS of the newest points".into()
    }

    fn fit(&self, rest: &[f64]) -> Result<Box<dyn FittedTrendModel + Sync + Send>, Failure> {
        Ok(Box::new(Fitted(fit_ets(latest(rest, TREND_POINTS)).ok_or("no ETS fits")?)))
    }
}

impl FittedTrendModel for Fitted {
    fn predict_inplace(
        &self,
        horizon: usize,
        level: Option<f64>,
        forecast: &mut augurs::Forecast,
    ) -> Result<(), Failure> {
        Ok(self.0.predict_inplace(horizon, level, forecast)?)
    }

    fn predict_in_sample_inplace(
        &self,
        level: Option<f64>,
        forecast: &mut augurs::Forecast,
    ) -> Result<(), Failure> {
        Ok(self.0.predict_in_sample_inplace(level, forecast)?)
    }

    fn training_data_size(&self) -> Option<usize> {
        Some(self.0.training_data_size())
    }
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

/// The standard theta model, after the season was divided out (or without one).
pub(super) fn theta(history: &[f64], season: Option<usize>, horizon: usize) -> Option<Vec<f64>> {
    let mut model = match season {
        Some(season) if season < 2 || history.len() < CYCLES * season + 2 => return None,
        Some(season) => Theta::seasonal(season),
        None => Theta::new(),
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
