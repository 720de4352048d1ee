//! What goes over the control socket of the resources.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    resources::{Metric, Missing},
    series::keeper::Kept,
};

/// What is asked of `/resources`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResourcesRequest {
    /// Application.
    pub app: String,
    /// Seconds back.
    pub since: u64,
}

/// Answer of `/resources`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResourcesAnswer {
    /// The application's name.
    pub name: String,
    /// Seconds back, as they were asked for.
    pub since: u64,
    /// The primary, then the shadow.
    pub sides: Vec<SideResources>,
    /// How keeping goes.
    pub kept: Kept,
    /// Steps of the system's clock since the daemon started.
    pub clock_steps: u64,
}

/// One side in [`ResourcesAnswer`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideResources {
    /// `primary` or `shadow`.
    pub side: String,
    /// What the policy names, if it names anything.
    pub source: Option<String>,
    /// Seconds since 1970 of what is said of now; none before the first second.
    pub at: Option<u64>,
    /// By metric.
    pub metrics: Vec<MetricValues>,
    /// Values that were missing since the daemon started, by reason.
    pub missing: BTreeMap<Missing, u64>,
}

/// One metric of a side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MetricValues {
    /// Which.
    pub metric: Metric,
    /// Its unit.
    pub unit: String,
    /// The last second's value.
    pub now: Option<f64>,
    /// Why that isn't known.
    pub missing: Option<Missing>,
    /// Mean of what is known of the time asked for.
    pub mean: Option<f64>,
    /// The largest second of it.
    pub max: Option<f64>,
    /// Begin of the first cell of `series`, in seconds since 1970.
    pub from: u64,
    /// Seconds of a cell.
    pub step: u64,
    /// Means; `null`: nothing is known. Empty when nothing is kept.
    pub series: Vec<Option<f64>>,
}
