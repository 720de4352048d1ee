//! Forecasts of a load series: many cheap models, weighted by what each has been worth, with calibrated intervals.
//!
//! ```
//! use std::time::Duration;
//!
//! let history: Vec<f64> = (0..2_000).map(|i| 100.0 + f64::from(i % 288)).collect();
//! let mut forecaster = mirror_forecast::Forecaster::fit(Duration::from_secs(300), &history)?;
//! forecaster.observe(372.0);
//! let forecast = forecaster.forecast(12)?;
//! let need = forecast.quantile(forecast.step_at(Duration::from_secs(600)), 0.95);
//! assert!(need.is_some_and(|need| need > 0.0));
//! # Ok::<(), mirror_forecast::Error>(())
//! ```
//!
//! Fed: one value a step, NaN (or anything not finite) where nothing was measured. Out: a mean, a 90 % interval
//! and any other quantile for each step ahead. Pure: no clock, no randomness, no I/O. docs/STATISTICS.md says why
//! these models and these intervals.

#![forbid(unsafe_code)]

pub mod demand;
mod forecaster;
pub mod generate;
mod history;
mod interval;
mod model;
mod replay;
mod season;
pub mod tracker;
mod weight;

pub use forecaster::{Error, Forecaster, MAX_HISTORY, MAX_HORIZON, WARM_UP};
pub use interval::Forecast;
pub use season::Seasons;
