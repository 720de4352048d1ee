//! How much capacity: recorded series replayed as load, beside Kubernetes' rule, fixed peak and an oracle.

mod load;
mod method;
mod replay;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use crate::series::{self, Series};
use load::Load;
use method::Method;
use replay::Score;
use report::{Report, SeriesReport};

/// Lead times that are replayed, in seconds.
const LEADS: [u32; 2] = [60, 600];
/// Seconds of a tick.
const TICK: u32 = 15;
/// Units that the series' peak takes.
const PEAK_UNITS: f64 = 40.0;
/// Seconds for which nothing less may be wanted before capacity goes.
const HOLD: u32 = 300;
/// Where scoring begins, as a share of the series: a file's, and of a generated one, which are many.
const FIRST: f64 = 0.55;
const FIRST_GENERATED: f64 = 0.9;

/// Replays series as load and scores policies by time under-provisioned and capacity.
///
/// Ticks of 15 s, values interpolated; a unit carries a fortieth of the peak; capacity comes a lead time after it is
/// wanted and goes when no more was wanted for 300 s. The oracle has just the units that each tick needs.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask bench scaling --data series/ --json scaling.json")]
pub(crate) struct Args {
    /// A folder of `timestamp,value` CSV files: all are replayed. Without it the generated series are
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Forecasts are made each so many values; the scaler sees the last one
    #[arg(long, value_name = "VALUES", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=72))]
    every: u16,
    /// Writes the figures to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs it and prints the tables.
///
/// # Errors
/// If a series can't be read or is too short, or the file can't be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (all, first) = match &args.data {
        Some(directory) => (series::read_directory(directory)?, FIRST),
        None => (series::generated(), FIRST_GENERATED),
    };
    let progress = ProgressBar::new(all.iter().map(|series| series.values.len() as u64).sum())
        .with_style(ProgressStyle::with_template("{elapsed} {wide_bar} {pos}/{len} values")?);
    let evaluate = |series: &Series| evaluate(series, first, usize::from(args.every), &progress);
    let reports = all.par_iter().map(evaluate).collect::<Result<Vec<_>>>()?;
    progress.finish_and_clear();
    let report = Report::new(reports);
    print!("{}", report.to_markdown());
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report.to_json())?;
        std::fs::write(path, json + "\n").with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(())
}

/// Every method's scores on one series, by lead time.
fn evaluate(series: &Series, first: f64, every: usize, progress: &ProgressBar) -> Result<SeriesReport> {
    let step = series.step.as_secs();
    ensure!(
        step.is_multiple_of(u64::from(TICK)),
        "{}: a step of {step} s isn't a multiple of {TICK} s",
        series.name
    );
    let first = (series.values.len() as f64 * first) as usize;
    ensure!(first > 2 * series.day(), "{}: too few values: three days at least", series.name);
    let load = Load::new(series, first, every, progress)?;
    let score = |lead: u32| -> Result<Vec<Score>> {
        Method::ALL.iter().map(|method| replay::replay(&load, *method, lead)).collect()
    };
    let rows = LEADS.map(score);
    let [short, long] = rows;
    Ok(SeriesReport { name: series.name.clone(), leads: [short?, long?] })
}
