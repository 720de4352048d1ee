//! The file under real load, and what becomes of it when the disk is full, slow, foreign or torn.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
};

use redb::{StorageBackend, backends::InMemoryBackend};

use super::{keeper::Keeper, *};
use crate::resources::Missing;

const SHADOW_CPU: (Side, Metric) = (Side::Shadow, Metric::Cpu);
/// A whole minute, since 1970.
const START: u64 = 1_800_000_000;

/// A second in which the shadow's CPU is known, or isn't.
fn second(at: u64, cpu: Option<f64>) -> Vec<(Side, Sample)> {
    let mut values = [Err(Missing::TooSlow); Metric::ALL.len()];
    if let Some(cpu) = cpu {
        values[Metric::Cpu as usize] = Ok(cpu);
    }
    vec![(Side::Shadow, Sample { at, values })]
}

/// A second in which all of both sides is known.
fn whole(at: u64) -> Vec<(Side, Sample)> {
    let sample = Sample { at, values: [Ok(at as f64); Metric::ALL.len()] };
    vec![(Side::Primary, sample.clone()), (Side::Shadow, sample)]
}

fn in_memory() -> Series {
    Series::on(redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap()).unwrap()
}

fn seconds(series: &Series, from: u64, cells: usize) -> Vec<Option<f64>> {
    let grid = Grid { from, step: 1, cells };
    series.read(SHADOW_CPU, Resolution::Second, Fold::Mean, grid).unwrap()
}

#[test]
fn what_is_missing_stays_a_gap() {
    let mut series = in_memory();
    for (at, cpu) in [(0, Some(1.0)), (1, None), (2, Some(3.0)), (4, Some(0.0))] {
        series.keep(&second(START + at, cpu)).unwrap();
    }
    assert_eq!(seconds(&series, START, 5), [Some(1.0), None, Some(3.0), None, Some(0.0)]);
    let pairs = Grid { from: START - 2, step: 2, cells: 4 };
    let read = |fold| series.read(SHADOW_CPU, Resolution::Second, fold, pairs).unwrap();
    assert_eq!(read(Fold::Mean), [None, Some(1.0), Some(3.0), Some(0.0)]);
    let all = Grid { from: START, step: 10, cells: 1 };
    assert_eq!(series.read(SHADOW_CPU, Resolution::Second, Fold::Max, all).unwrap(), [Some(3.0)]);
    let other = series.read((Side::Primary, Metric::Cpu), Resolution::Second, Fold::Mean, all).unwrap();
    assert_eq!(other, [None], "another side's series is another one");
}

#[test]
fn a_minute_is_the_mean_and_the_maximum_of_its_known_seconds() {
    let mut series = in_memory();
    for at in 0..120 {
        let known = (at < 60).then_some(if at == 7 { 61.0 } else { 1.0 });
        series.keep(&second(START + at, known)).unwrap();
    }
    series.keep(&second(START + 120, Some(9.0))).unwrap();
    let grid = Grid { from: START, step: 60, cells: 3 };
    let read = |fold| series.read(SHADOW_CPU, Resolution::Minute, fold, grid).unwrap();
    assert_eq!(read(Fold::Mean), [Some(2.0), None, None], "a minute without a known second is a gap");
    assert_eq!(read(Fold::Max), [Some(61.0), None, None]);
}

#[test]
fn the_minute_in_which_a_daemon_ended_is_made_by_the_next_one() {
    let mut series = in_memory();
    series.keep(&second(START + 30, Some(4.0))).unwrap();
    let mut next = Series { file: Arc::clone(&series.file), running: None };
    next.keep(&second(START + 600, Some(1.0))).unwrap();
    let grid = Grid { from: START, step: 60, cells: 2 };
    assert_eq!(next.read(SHADOW_CPU, Resolution::Minute, Fold::Mean, grid).unwrap(), [Some(4.0), None]);
}

fn rows(series: &Series) -> (u64, u64) {
    let read = series.file.begin_read().unwrap();
    let len = |result: Result<u64, redb::StorageError>| result.unwrap();
    use redb::ReadableTableMetadata as _;
    (len(read.open_table(SECONDS).unwrap().len()), len(read.open_table(MINUTES).unwrap().len()))
}

#[test]
fn what_is_too_old_goes_and_space_is_bounded() {
    let mut series = in_memory();
    // A second of each hour for 15 days.
    for at in (START..=START + 15 * 86_400).step_by(3_600) {
        series.keep(&second(at, Some(1.0))).unwrap();
    }
    let (seconds, minutes) = rows(&series);
    assert!((2..=3).contains(&seconds), "{seconds}");
    assert!((14 * 24 - 1..=14 * 24 + 1).contains(&minutes), "{minutes}");
}

#[test]
fn a_clock_that_jumped_costs_minutes_and_not_the_history() {
    let mut series = in_memory();
    let hour: Vec<_> = (0..3_600).flat_map(|at| second(START + at, Some(1.0))).collect();
    series.keep(&hour).unwrap();
    // A year ahead for a moment, then back.
    series.keep(&second(START + 365 * 86_400, Some(1.0))).unwrap();
    series.keep(&second(START + 3_600, Some(1.0))).unwrap();
    let known = seconds(&series, START, 3_600).into_iter().flatten().count();
    assert!(known >= 3_000, "{known}");
    let ahead = seconds(&series, START + 365 * 86_400, 1);
    assert_eq!(ahead, [None], "a time that hasn't come yet isn't kept");
}

/// A disk that has room for so many bytes.
#[derive(Debug)]
struct Small {
    inner: InMemoryBackend,
    room: Arc<AtomicU64>,
}

impl StorageBackend for Small {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        if len > self.room.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.inner.write(offset, data)
    }
}

#[test]
fn a_full_disk_is_named_and_what_was_kept_can_be_read() {
    let room = Arc::new(AtomicU64::new(4 << 20));
    let disk = Small { inner: InMemoryBackend::new(), room: Arc::clone(&room) };
    let file = redb::Builder::new().create_with_backend(disk).unwrap();
    let mut series = Series::on(file).unwrap();
    let mut at = START;
    let failure = loop {
        let batch: Vec<_> = (at..at + 600).flat_map(whole).collect();
        match series.keep(&batch) {
            Ok(()) => at += 600,
            Err(failure) => break failure,
        }
        assert!(at < START + 1_000_000, "the disk doesn't get full");
    };
    assert_eq!(failure, Failure::Full);
    assert!(at > START, "nothing was kept before");
}

#[test]
fn a_torn_file_is_put_aside_and_the_daemon_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let whole_file = folder.path().join("whole.series");
    let mut series = Series::open(&whole_file).unwrap();
    series.keep(&(0..300).flat_map(|at| whole(START + at)).collect::<Vec<_>>()).unwrap();
    drop(series);
    let bytes = fs::read(&whole_file).unwrap();
    let mut aside = 0;
    for cut in [0, 1, 9, 64, 511, 4_096, 70_000, bytes.len() / 2, bytes.len() - 1] {
        let state = folder.path().join(format!("cut-{cut}"));
        fs::create_dir(&state).unwrap();
        fs::write(state.join("shop.series"), &bytes[..cut]).unwrap();
        aside += u32::from(goes_on(&state));
    }
    for at in [0, 12, 100, 4_100, 70_000] {
        let state = folder.path().join(format!("spoilt-{at}"));
        fs::create_dir(&state).unwrap();
        let mut spoilt = bytes.clone();
        spoilt[at..at + 64].fill(0xa5);
        fs::write(state.join("shop.series"), spoilt).unwrap();
        aside += u32::from(goes_on(&state));
    }
    assert!(aside > 0, "nothing was found damaged");
}

/// Keeps something in a state folder, and says whether a damaged file was put aside.
fn goes_on(state: &Path) -> bool {
    let keeper = Keeper::start(state, "shop").unwrap();
    keeper.keep(second(START + 900, Some(5.0)));
    keeper.close();
    let kept = keeper.kept();
    assert_eq!(kept.failure, None, "{}: {kept:?}", state.display());
    let series = Series::open(&kept.path).unwrap();
    assert_eq!(seconds(&series, START + 900, 1), [Some(5.0)], "{}", state.display());
    let aside = state.join("shop.series.corrupt").exists();
    assert_eq!(aside, kept.failures.contains_key(&Failure::Corrupt), "{}", state.display());
    aside
}

#[test]
fn a_file_of_a_daemon_that_was_killed_has_all_but_the_last_minute() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.series");
    let mut series = Series::open(&path).unwrap();
    for at in 0..90 {
        series.keep(&second(START + at, Some(1.0))).unwrap();
    }
    // Killed: the file as it lies there, never closed.
    let left = folder.path().join("left.series");
    fs::copy(&path, &left).unwrap();
    let left = Series::open(&left).unwrap();
    assert!(seconds(&left, START, 60).iter().all(Option::is_some));
}

#[test]
fn what_another_one_has_or_nobody_may_write_is_said_and_nothing_else_fails() {
    let folder = tempfile::tempdir().unwrap();
    let first = Keeper::start(folder.path(), "shop").unwrap();
    first.keep(second(START, Some(1.0)));
    while first.series().is_none() {
        std::thread::yield_now();
    }
    let second_daemon = Keeper::start(folder.path(), "shop").unwrap();
    second_daemon.close();
    assert_eq!(second_daemon.kept().failure, Some(Failure::InUse));
    assert_eq!(first.kept().failure, None);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let nowhere = Keeper::start(&file.join("state"), "shop").unwrap();
    nowhere.keep(second(START, Some(1.0)));
    nowhere.close();
    assert_eq!(nowhere.kept().failure, Some(Failure::Denied));
    assert!(nowhere.series().is_none());
}

#[test]
fn the_state_folder_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("lib/mirror");
    Keeper::start(&state, "shop").unwrap().close();
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
}
