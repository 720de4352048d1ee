//! What was measured, kept on disk in bounded space: each second for two hours, each minute's mean and maximum for 14 days.
//!
//! One file (redb). Seconds are written without waiting for the disk, which is waited for once a minute: a machine that
//! loses power loses a minute at most, and a daemon that is killed likewise. What is missing has no row.

pub mod keeper;

use std::{ops::Range, path::Path, sync::Arc};

use mirror_common::switch_word::Side;
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::resources::{Metric, Sample};

/// Side, metric, seconds since 1970.
type Key = (u8, u8, u64);
/// The number in a table's name is its layout's.
const SECONDS: TableDefinition<'_, Key, f64> = TableDefinition::new("seconds.1");
/// Mean and maximum of a minute's known seconds.
const MINUTES: TableDefinition<'_, Key, (f64, f64)> = TableDefinition::new("minutes.1");

const MINUTE: u64 = 60;
/// Seconds that single seconds are kept.
pub const KEEP_SECONDS: u64 = 2 * 3_600;
/// Seconds that minutes are kept.
pub const KEEP_MINUTES: u64 = 14 * 86_400;
/// Seconds that a row may lie ahead of the clock: one that does is of a clock that was set back since.
const AHEAD: u64 = 120;
/// Seconds whose rows are removed in one minute at most: ten times what comes in, and a clock that stood wrong for a moment
/// costs ten minutes, not all.
const REMOVED: u64 = 600;
/// Cells of a grid.
pub const MOST_CELLS: usize = 20_160;
/// Bytes of the file that are kept in memory.
const CACHE: usize = 4 << 20;

/// What became of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The folder can't be made, or the file can't be opened: permissions.
    Denied,
    /// Another process has the file.
    InUse,
    /// The disk, or the quota, is full.
    Full,
    /// The file isn't what was written: it is put aside, and a new one begun.
    Corrupt,
    /// Any other error of the disk.
    Disk,
    /// The disk is slower than the seconds: some weren't kept.
    Behind,
}

impl Failure {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::Denied, Self::InUse, Self::Full, Self::Corrupt, Self::Disk, Self::Behind];

    /// Its name, as in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::InUse => "in_use",
            Self::Full => "full",
            Self::Corrupt => "corrupt",
            Self::Disk => "disk",
            Self::Behind => "behind",
        }
    }

    /// What it means, for people.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Denied => "the state folder can't be made or written: name another one by --state DIR",
            Self::InUse => "another process has the file: give each daemon a --state DIR of its own",
            Self::Full => "the disk is full: make room; it is tried again every minute",
            Self::Corrupt => "the file was damaged: it lies beside the new one, its name ends in .corrupt",
            Self::Disk => "the disk fails: look at the kernel's log; it is tried again every minute",
            Self::Behind => "the disk is slower than the seconds: some weren't kept",
        }
    }

    fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::Full,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem | Kind::NotADirectory | Kind::AlreadyExists => {
                Self::Denied
            }
            Kind::InvalidData | Kind::UnexpectedEof => Self::Corrupt,
            _ => Self::Disk,
        }
    }

    fn of(error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            redb::Error::Io(error) => Self::of_io(&error),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => Self::Disk,
            // Whatever else a file can make redb say, it didn't write it so.
            _ => Self::Corrupt,
        }
    }
}

/// Which rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Single seconds, of the last two hours.
    Second,
    /// Minutes, of the last 14 days; the running one isn't among them yet.
    Minute,
}

/// What a cell of a grid says of the rows in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Their mean.
    Mean,
    /// The largest value.
    Max,
}

/// Cells of `step` seconds from `from` (seconds since 1970) on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Begin of the first cell.
    pub from: u64,
    /// Seconds of a cell, from 1.
    pub step: u64,
    /// Cells, [`MOST_CELLS`] at most.
    pub cells: usize,
}

/// The file, open. Clones share it.
#[derive(Clone, Debug)]
pub struct Series {
    file: Arc<Database>,
    /// The minute (since 1970) that runs.
    running: Option<u64>,
}

impl Series {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it can't be had; a damaged one is [`Failure::Corrupt`].
    pub fn open(path: &Path) -> Result<Self, Failure> {
        guarded(|| {
            let file = redb::Builder::new().set_cache_size(CACHE).create(path).map_err(Failure::of)?;
            Self::on(file)
        })
    }

    fn on(file: Database) -> Result<Self, Failure> {
        let write = file.begin_write().map_err(Failure::of)?;
        write.open_table(SECONDS).map_err(Failure::of)?;
        write.open_table(MINUTES).map_err(Failure::of)?;
        write.commit().map_err(Failure::of)?;
        Ok(Self { file: Arc::new(file), running: None })
    }

    /// Keeps samples, in their order. When a minute has ended, its mean and maximum are kept too, what is too old is
    /// removed, and the disk is waited for.
    ///
    /// # Errors
    /// When the disk fails; the samples aren't kept then.
    pub fn keep(&mut self, samples: &[(Side, Sample)]) -> Result<(), Failure> {
        let Some(now) = samples.iter().map(|(_, sample)| sample.at).max() else { return Ok(()) };
        let minute = now / MINUTE;
        let ended = self.running.is_none_or(|running| running != minute);
        // At the first one, what a last daemon may have left undone: its whole seconds.
        let oldest = minute.saturating_sub(KEEP_SECONDS / MINUTE - 1);
        let first = self.running.map_or(oldest, |running| running.max(oldest));
        guarded(|| {
            let mut write = self.file.begin_write().map_err(Failure::of)?;
            let durability = if ended { Durability::Immediate } else { Durability::None };
            write.set_durability(durability).map_err(|_| Failure::Disk)?;
            insert(&write, samples).map_err(Failure::of)?;
            if ended {
                fold_minutes(&write, first..minute).map_err(Failure::of)?;
                remove_old(&write, now).map_err(Failure::of)?;
            }
            write.commit().map_err(Failure::of)
        })?;
        self.running = Some(minute);
        Ok(())
    }

    /// A metric's cells: `None` where nothing is known.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read(
        &self,
        (side, metric): (Side, Metric),
        resolution: Resolution,
        fold: Fold,
        grid: Grid,
    ) -> Result<Vec<Option<f64>>, Failure> {
        let cells = grid.cells.min(MOST_CELLS);
        let step = grid.step.max(1);
        let to = grid.from.saturating_add(step.saturating_mul(cells as u64));
        let rows = guarded(|| self.rows(side, metric, resolution, fold, grid.from..to).map_err(Failure::of))?;
        let mut sums = vec![(0.0, 0_u32); cells];
        for (at, value) in rows {
            let (sum, count) = &mut sums[((at - grid.from) / step) as usize];
            *sum = match fold {
                Fold::Max if *count > 0 => f64::max(*sum, value),
                Fold::Mean if *count > 0 => *sum + value,
                Fold::Max | Fold::Mean => value,
            };
            *count += 1;
        }
        let cell = |(sum, count): (f64, u32)| match (count, fold) {
            (0, _) => None,
            (_, Fold::Max) => Some(sum),
            (count, Fold::Mean) => Some(sum / f64::from(count)),
        };
        Ok(sums.into_iter().map(cell).collect())
    }

    fn rows(
        &self,
        side: Side,
        metric: Metric,
        resolution: Resolution,
        fold: Fold,
        times: Range<u64>,
    ) -> Result<Vec<(u64, f64)>, redb::Error> {
        let read = self.file.begin_read()?;
        let keys = keys(side, metric, times);
        let mut rows = Vec::new();
        match resolution {
            Resolution::Second => {
                for row in read.open_table(SECONDS)?.range(keys)? {
                    let (key, value) = row?;
                    rows.push((key.value().2, value.value()));
                }
            }
            Resolution::Minute => {
                for row in read.open_table(MINUTES)?.range(keys)? {
                    let (key, value) = row?;
                    let (mean, max) = value.value();
                    rows.push((key.value().2, if fold == Fold::Mean { mean } else { max }));
                }
            }
        }
        Ok(rows)
    }
}

/// The rows of a side's metric in a time.
fn keys(side: Side, metric: Metric, times: Range<u64>) -> Range<Key> {
    (side as u8, metric as u8, times.start)..(side as u8, metric as u8, times.end)
}

fn all_series() -> impl Iterator<Item = (Side, Metric)> {
    Side::BOTH.into_iter().flat_map(|side| Metric::ALL.into_iter().map(move |metric| (side, metric)))
}

fn insert(write: &WriteTransaction, samples: &[(Side, Sample)]) -> Result<(), redb::Error> {
    let mut seconds = write.open_table(SECONDS)?;
    for (side, sample) in samples {
        for metric in Metric::ALL {
            if let Ok(value) = sample.get(metric) {
                seconds.insert((*side as u8, metric as u8, sample.at), value)?;
            }
        }
    }
    Ok(())
}

/// Mean and maximum of the known seconds of each of these minutes.
fn fold_minutes(write: &WriteTransaction, minutes: Range<u64>) -> Result<(), redb::Error> {
    let seconds = write.open_table(SECONDS)?;
    let mut folded = write.open_table(MINUTES)?;
    for (side, metric) in all_series() {
        let mut minute: Option<(u64, f64, f64, u32)> = None;
        let mut put = |minute: Option<(u64, f64, f64, u32)>| -> Result<(), redb::Error> {
            if let Some((minute, sum, max, count)) = minute {
                folded.insert((side as u8, metric as u8, minute * MINUTE), (sum / f64::from(count), max))?;
            }
            Ok(())
        };
        for row in seconds.range(keys(side, metric, minutes.start * MINUTE..minutes.end * MINUTE))? {
            let (key, value) = row?;
            let (of, value) = (key.value().2 / MINUTE, value.value());
            minute = match minute {
                Some((running, sum, max, count)) if running == of => {
                    Some((of, sum + value, f64::max(max, value), count + 1))
                }
                ended => {
                    put(ended)?;
                    Some((of, value, value, 1))
                }
            };
        }
        put(minute)?;
    }
    Ok(())
}

/// Removes what is too old, or of a time that hasn't come yet.
fn remove_old(write: &WriteTransaction, now: u64) -> Result<(), redb::Error> {
    let mut seconds = write.open_table(SECONDS)?;
    let mut minutes = write.open_table(MINUTES)?;
    for (side, metric) in all_series() {
        let ahead = now.saturating_add(AHEAD)..u64::MAX;
        for times in [0..now.saturating_sub(KEEP_SECONDS), ahead.clone()] {
            let removed = seconds.extract_from_if(keys(side, metric, times), |_, _| true)?;
            removed.take(REMOVED as usize).try_for_each(|row| row.map(drop))?;
        }
        for times in [0..now.saturating_sub(KEEP_MINUTES), ahead] {
            let removed = minutes.extract_from_if(keys(side, metric, times), |_, _| true)?;
            removed.take((REMOVED / MINUTE) as usize).try_for_each(|row| row.map(drop))?;
        }
    }
    Ok(())
}

/// redb may panic over a file that was damaged outside of it.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(Err(Failure::Corrupt))
}

#[cfg(test)]
mod tests;
