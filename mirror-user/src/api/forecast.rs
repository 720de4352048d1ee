//! What goes over the control socket of forecasts, of what the sides need, and of how the shadow is scaled.

use mirror_control::{driver::Limits, migration::Capacity, scaler::Decision};
use serde::{Deserialize, Serialize};

use crate::resources::Metric;

/// What is asked of `/forecast`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForecastRequest {
    /// Application.
    pub app: String,
}

/// Answer of `/forecast`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForecastAnswer {
    /// The application's name.
    pub name: String,
    /// Seconds since the forecasts were made; nothing before the first.
    pub age_seconds: Option<f64>,
    /// Seconds that making them took.
    pub took_seconds: Option<f64>,
    /// Begin of the first minute that is forecast, in seconds since 1970.
    pub from: Option<u64>,
    /// Reads, then writes; empty before the first forecast.
    pub classes: Vec<ClassForecast>,
    /// What the sides need for it.
    pub demand: Vec<SideDemand>,
    /// How the shadow is scaled.
    pub scaling: Scaling,
}

/// The rate of one class, in requests a second.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClassForecast {
    /// `reads` or `writes`.
    pub class: String,
    /// Minutes of history that are missing before anything is forecast.
    pub missing_minutes: Option<usize>,
    /// The last minutes, the newest last; `null`: nothing is known.
    pub history: Vec<Option<f64>>,
    /// What had been expected of each of them ten minutes before its end: as in `path`; `null`: nothing.
    #[serde(default)]
    pub expected: Vec<Option<[f64; 3]>>,
    /// The next minutes, from the next one on: expected value, and the ends of the 90 % interval.
    pub path: Vec<[f64; 3]>,
    /// By horizon.
    pub horizons: Vec<HorizonForecast>,
}

/// What is expected at a horizon, and how such forecasts did so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HorizonForecast {
    /// Seconds ahead.
    pub seconds: u64,
    /// Expected; nothing where there is too little history for it.
    pub mean: Option<f64>,
    /// Ends of the 90 % interval.
    pub interval90: Option<[f64; 2]>,
    /// The simple model that it fell back on; nothing: all models, weighted.
    pub fell_back_on: Option<String>,
    /// Forecasts whose time has come.
    pub scored: u64,
    /// Their mean absolute scaled error.
    pub mase: Option<f64>,
    /// Their scaled pinball losses at 0.5, 0.9 and 0.95.
    pub pinball: Option<[f64; 3]>,
    /// Share within the 90 % interval.
    pub coverage90: Option<f64>,
}

/// What a side needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideDemand {
    /// `primary` or `shadow`.
    pub side: String,
    /// By metric.
    pub needs: Vec<Need>,
}

/// What is needed of a resource, in the metric's unit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Need {
    /// Which.
    pub metric: Metric,
    /// Minutes with requests that are missing before anything is known.
    pub missing_samples: Option<u32>,
    /// At the present rate of the whole application: expected, and not exceeded with probability 0.95.
    pub now: Option<[f64; 2]>,
    /// The most within the next hour, as far as it is forecast: likewise.
    pub hour: Option<[f64; 2]>,
    /// The most within the next day: likewise; nothing where there is no day of history.
    pub day: Option<[f64; 2]>,
}

/// How the shadow is scaled, and whether both sides are large enough.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// Whether decisions are carried out; nothing: the policy has no `[scale]`.
    pub armed: Option<bool>,
    /// The shadow's size, read back.
    pub limits: Option<Limits>,
    /// The last decision of each resource: its name, in steps, and in words.
    pub decisions: Vec<(String, Decision, String)>,
    /// Why nothing can be scaled, or wasn't.
    pub failure: Option<String>,
    /// Whether each side carries what is forecast; nothing where its size isn't known.
    pub capacity: [Option<Capacity>; 2],
}
