//! Forecasts by rolling origins, beside the last value, the season of a day ago, ETS and MSTL+ETS.

mod method;
mod report;
mod score;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use method::Method;
use report::{Report, SeriesReport};
use score::Scores;

use crate::series::{self, Series};

/// Origins that are scored, and earlier ones that a method may learn from.
const ORIGINS: usize = 50;
const WARM_UP: usize = 30;
/// Where the scored ones begin, as a share of the series.
const FIRST: f64 = 0.55;
/// Steps ahead that are reported; the last one is the horizon.
const HORIZONS: [usize; 3] = [1, 12, 72];
const HORIZON: usize = HORIZONS[2];
/// What the whole forecast is timed with.
const TIMED_POINTS: usize = 20_000;
const TIMED_HORIZON: usize = 288;

/// Scores forecasts by rolling origins, beside simple methods and ETS.
///
/// 50 origins from 55 % of each series on, 30 earlier ones to warm up. MASE and pinball loss are scaled by the
/// error of the value a day ago in the history; errors are averaged over the steps to 1, 12 and 72.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask bench forecast --data series/ --json forecast.json")]
pub(crate) struct Args {
    /// A folder of `timestamp,value` CSV files: all are forecast. Without it the generated series are
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The generated series too
    #[arg(long)]
    generated: bool,
    /// Writes the figures to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs it and prints the tables.
///
/// # Errors
/// If a series can't be read or is too short, or the file can't be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut all = match &args.data {
        Some(directory) => series::read_directory(directory)?,
        None => Vec::new(),
    };
    if args.generated || args.data.is_none() {
        all.extend(series::generated());
    }
    let progress = ProgressBar::new((all.len() * Method::ALL.len()) as u64)
        .with_style(ProgressStyle::with_template("{elapsed} {wide_bar} {pos}/{len} {msg}")?);
    let mut reports = Vec::new();
    for series in &all {
        progress.set_message(series.name.clone());
        reports.push(evaluate(series, &progress)?);
    }
    progress.finish_and_clear();
    let (seconds_20000, seconds_20000_warm_up) = time_forecast()?;
    let report = Report::new(reports, seconds_20000, seconds_20000_warm_up);
    print!("{}", report.to_markdown());
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report.to_json())?;
        std::fs::write(path, json + "\n").with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(())
}

/// Every method's scores on one series.
fn evaluate(series: &Series, progress: &ProgressBar) -> Result<SeriesReport> {
    let origins = origins(series)?;
    let mut rows = Vec::new();
    for method in Method::ALL {
        let forecasts = method.forecasts(series, &origins, WARM_UP, HORIZON)?;
        let scored = origins[WARM_UP..].iter().zip(&forecasts);
        rows.push(Scores::of(series, scored, HORIZONS));
        progress.inc(1);
    }
    Ok(SeriesReport { name: series.name.clone(), rows })
}

/// Where forecasts begin: the index of the first value forecast, those of the warm-up first.
fn origins(series: &Series) -> Result<Vec<usize>> {
    let length = series.values.len();
    let first = length as f64 * FIRST;
    let stride = (length as f64 - HORIZON as f64 - first) / (ORIGINS - 1) as f64;
    let earliest = first - WARM_UP as f64 * stride;
    ensure!(
        stride >= 1.0 && earliest >= 2.0 * series.day() as f64,
        "{}: {length} values are too few for {WARM_UP} + {ORIGINS} origins",
        series.name
    );
    Ok((0..WARM_UP + ORIGINS).map(|origin| (earliest + origin as f64 * stride) as usize).collect())
}

/// Seconds of one forecast of a day from 20,000 values, and of the warm-up before the first one.
///
/// The core's own time, so that what else the machine does doesn't count: there is one thread.
fn time_forecast() -> Result<(f64, f64)> {
    let series = series::timed(TIMED_POINTS);
    let begin = cpu_seconds();
    let mut forecaster = mirror_forecast::Forecaster::fit(series.step, &series.values)?;
    let warm_up = cpu_seconds() - begin;
    let begin = cpu_seconds();
    let forecast = forecaster.forecast(TIMED_HORIZON)?;
    let seconds = cpu_seconds() - begin;
    ensure!(forecast.mean().iter().all(|value| value.is_finite()), "a forecast that isn't finite");
    Ok((seconds, warm_up))
}

/// Time that this process has had on a core.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
