//! The series that are forecast: files, or generated.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use chrono::NaiveDateTime;
use mirror_forecast::generate;

/// Values on a time grid, NaN where none was measured.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) step: Duration,
    pub(crate) values: Vec<f64>,
}

/// Grid points of a file, at most: a wrong timestamp must not fill the memory.
const MAX_POINTS: usize = 1_000_000;

impl Series {
    /// Steps of a day.
    pub(crate) fn day(&self) -> usize {
        (86_400 / self.step.as_secs().max(1)).max(1) as usize
    }

    /// The values before `end`, each gap with the value before it: for methods that know no gaps.
    pub(crate) fn filled(&self, end: usize) -> Vec<f64> {
        let mut last = self.values.iter().copied().find(|value| value.is_finite()).unwrap_or(0.0);
        let fill = |value: &f64| {
            if value.is_finite() {
                last = *value;
            }
            last
        };
        self.values[..end].iter().map(fill).collect()
    }
}

/// All `*.csv` of a folder, by name.
///
/// # Errors
/// If there is none, or one can't be read.
pub(crate) fn read_directory(directory: &Path) -> Result<Vec<Series>> {
    let entries = fs::read_dir(directory).with_context(|| format!("can't list {}", directory.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "csv"));
    paths.sort();
    ensure!(!paths.is_empty(), "no CSV file in {}", directory.display());
    paths.iter().map(|path| read(path).with_context(|| format!("in {}", path.display()))).collect()
}

/// One file. The grid's step is the median distance of its timestamps.
fn read(path: &Path) -> Result<Series> {
    let text = fs::read_to_string(path)?;
    let mut points = Vec::new();
    for (number, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        points.push(parse(line).with_context(|| format!("line {}: {line:?}", number + 1))?);
    }
    points.sort_by_key(|(time, _)| *time);
    let mut distances: Vec<i64> = points.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    distances.sort_unstable();
    let step = *distances.get(distances.len() / 2).context("fewer than two values")?;
    ensure!(step > 0, "most timestamps are doubled");
    let (first, last) = (points[0].0, points[points.len() - 1].0);
    let index = |time: i64| usize::try_from((time - first + step / 2) / step);
    let length = index(last)? + 1;
    ensure!(length <= MAX_POINTS, "{length} steps between the first and the last timestamp");
    let mut values = vec![f64::NAN; length];
    for (time, value) in points {
        values[index(time)?] = value;
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Series { name, step: Duration::from_secs(step.unsigned_abs()), values })
}

/// Seconds and value of a line.
fn parse(line: &str) -> Result<(i64, f64)> {
    let (timestamp, value) = line.split_once(',').context("no comma")?;
    let timestamp = timestamp.trim().replace('T', " ");
    let time = NaiveDateTime::parse_from_str(timestamp.trim_end_matches('Z'), "%Y-%m-%d %H:%M:%S")?;
    let value = value.trim();
    let value = if value.is_empty() { f64::NAN } else { value.parse()? };
    Ok((time.and_utc().timestamp(), value))
}

/// Seed, length (three weeks) and step of the generated series.
const SEED: u64 = 1;
const LENGTH: usize = 6_048;
const STEP: Duration = Duration::from_secs(300);
const DAY: usize = 288;

/// One a property of load.
pub(crate) fn generated() -> Vec<Series> {
    let named = |series: generate::Generated| Series {
        name: format!("generated-{}", series.name),
        step: STEP,
        values: series.values,
    };
    generate::all(SEED, LENGTH, DAY).into_iter().map(named).collect()
}

/// What the forecast is timed with: the one with day, week and noise.
pub(crate) fn timed(points: usize) -> Series {
    let values = generate::named("week", SEED, points, DAY).map(|series| series.values).unwrap_or_default();
    Series { name: "timed".to_owned(), step: STEP, values }
}
