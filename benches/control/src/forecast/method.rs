//! The methods compared.

use anyhow::{Context, Result};
use augurs::{Fit as _, Predict as _, ets::AutoETS, mstl::MSTLModel};
use mirror_forecast::Forecaster;

use crate::series::Series;

/// Levels of the quantiles scored.
pub(crate) const LEVELS: [f64; 3] = [0.5, 0.9, 0.95];
/// Levels of the intervals that end at the last two.
const WIDE: f64 = 0.9;
const NARROW: f64 = 0.8;

/// A forecast as it is scored: values a step.
pub(crate) struct Prediction {
    pub(crate) mean: Vec<f64>,
    /// By [`LEVELS`].
    pub(crate) quantiles: [Vec<f64>; 3],
    /// The lower end of the 90 % interval; its upper end is the last quantile.
    pub(crate) lower: Vec<f64>,
}

/// A way to forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    LastValue,
    SeasonalNaive,
    Ets,
    MstlEts,
    Ours,
}

impl Method {
    /// All, ours last.
    pub(crate) const ALL: [Self; 5] =
        [Self::LastValue, Self::SeasonalNaive, Self::Ets, Self::MstlEts, Self::Ours];
    /// Those whose best ours is measured against on each series.
    pub(crate) const BASELINES: usize = 3;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LastValue => "last value",
            Self::SeasonalNaive => "seasonal naive, day",
            Self::Ets => "augurs ETS",
            Self::MstlEts => "augurs MSTL+ETS",
            Self::Ours => "**ours**",
        }
    }

    /// A prediction an origin, without the first `warm_up`. Each sees the values before its origin alone.
    pub(crate) fn forecasts(
        self,
        series: &Series,
        origins: &[usize],
        warm_up: usize,
        horizon: usize,
    ) -> Result<Vec<Prediction>> {
        if self == Self::Ours {
            return Ok(ours(series, origins, horizon)?.split_off(warm_up));
        }
        origins[warm_up..]
            .iter()
            .map(|origin| {
                let history = series.filled(*origin);
                match self {
                    Self::LastValue => Ok(naive(&history, 1, horizon)),
                    Self::SeasonalNaive => Ok(naive(&history, series.day(), horizon)),
                    _ => library(self, &history, series.day(), horizon),
                }
            })
            .collect()
    }
}

/// The one forecaster, fed value by value.
fn ours(series: &Series, origins: &[usize], horizon: usize) -> Result<Vec<Prediction>> {
    let mut forecaster = Forecaster::new(series.step)?;
    let mut fed = 0;
    origins
        .iter()
        .map(|origin| {
            for value in &series.values[fed..*origin] {
                forecaster.observe(*value);
            }
            fed = *origin;
            let forecast = forecaster.forecast(horizon)?;
            let quantile =
                |level| (0..horizon).map(|step| forecast.quantile(step, level).unwrap_or(f64::NAN)).collect();
            Ok(Prediction {
                mean: forecast.mean().to_vec(),
                quantiles: LEVELS.map(quantile),
                lower: quantile(0.05),
            })
        })
        .collect()
}

/// The value `lag` steps ago, with the quantiles of its errors in the history, a number of cycles ahead each.
fn naive(history: &[f64], lag: usize, horizon: usize) -> Prediction {
    let start = history.len() - lag;
    let mean: Vec<f64> = (0..horizon).map(|step| history[start + step % lag]).collect();
    let mut prediction = Prediction { lower: mean.clone(), quantiles: [(); 3].map(|()| mean.clone()), mean };
    let mut errors = Vec::new();
    for step in 0..horizon {
        if step % lag == 0 {
            let ahead = (step / lag + 1) * lag;
            errors = history.iter().zip(&history[ahead.min(history.len())..]).map(|(a, b)| b - a).collect();
            errors.sort_by(f64::total_cmp);
        }
        let at = |level: f64| errors.get((level * errors.len() as f64) as usize).copied().unwrap_or(0.0);
        prediction.lower[step] += at(0.05);
        for (quantile, level) in prediction.quantiles.iter_mut().zip(LEVELS) {
            quantile[step] += at(level);
        }
    }
    prediction
}

/// A model of augurs on the whole history, with its own intervals.
fn library(method: Method, history: &[f64], day: usize, horizon: usize) -> Result<Prediction> {
    let ends = |forecast: augurs::Forecast| -> Result<_> {
        Ok((forecast.point, forecast.intervals.context("a model without intervals")?))
    };
    let ets = AutoETS::non_seasonal();
    let (wide, narrow) = if method == Method::MstlEts {
        let fitted = MSTLModel::new(vec![day], ets.into_trend_model()).fit(history)?;
        (fitted.predict(horizon, WIDE)?, fitted.predict(horizon, NARROW)?)
    } else {
        let fitted = ets.fit(history)?;
        (fitted.predict(horizon, WIDE)?, fitted.predict(horizon, NARROW)?)
    };
    let ((point, outer), (_, inner)) = (ends(wide)?, ends(narrow)?);
    Ok(Prediction { quantiles: [point.clone(), inner.upper, outer.upper], lower: outer.lower, mean: point })
}
