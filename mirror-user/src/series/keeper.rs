//! Keeps samples in a thread of its own: a disk that is full, slow or gone costs the history alone.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use mirror_common::switch_word::Side;
use serde::{Deserialize, Serialize};

use super::{Failure, Series};
use crate::resources::Sample;

/// Seconds that wait for the disk.
const WAITING: usize = 30;
/// Seconds until a file that couldn't be had is tried again.
const AGAIN: u32 = 60;

/// A daemon that ends waits this long for the disk.
const CLOSING: Duration = Duration::from_secs(2);

/// One second's samples.
type Second = Vec<(Side, Sample)>;

/// What the keeping thread is told.
#[derive(Debug)]
enum Order {
    Keep(Second),
    /// Close the file; then answer.
    Close(SyncSender<()>),
}

/// Where samples go.
#[derive(Debug)]
pub struct Keeper {
    to: SyncSender<Order>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    series: Option<Series>,
    failure: Option<Failure>,
    failures: BTreeMap<Failure, u64>,
}

/// How keeping goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The file.
    pub path: PathBuf,
    /// Why nothing is kept now.
    pub failure: Option<Failure>,
    /// Failures so far.
    pub failures: BTreeMap<Failure, u64>,
}

impl Keeper {
    /// Keeps in `folder`, which is made (for its owner alone) where it isn't there, in a file of the application's name.
    /// What can't be had is said, and tried again.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(folder: &Path, app: &str) -> std::io::Result<Self> {
        let path = folder.join(format!("{app}.series"));
        let shared = Arc::new(Shared { path, state: Mutex::new(State::default()) });
        let (to, from) = sync_channel(WAITING);
        let own = Arc::clone(&shared);
        std::thread::Builder::new().name("series".into()).spawn(move || own.keep(&from))?;
        Ok(Self { to, shared })
    }

    /// Hands a second's samples over; never waits.
    pub fn keep(&self, samples: Second) {
        if self.to.try_send(Order::Keep(samples)).is_err() {
            self.shared.count(Failure::Behind);
        }
    }

    /// Closes the file, so that the running minute isn't lost. Nothing is kept from then on.
    pub fn close(&self) {
        let (done, closed) = sync_channel(1);
        if self.to.try_send(Order::Close(done)).is_ok() {
            // A disk that hangs doesn't keep the daemon from ending.
            let _ = closed.recv_timeout(CLOSING);
        }
    }

    /// The file, to be read; `None`: nothing is kept.
    pub fn series(&self) -> Option<Series> {
        self.shared.lock().series.clone()
    }

    /// How it goes.
    pub fn kept(&self) -> Kept {
        let state = self.shared.lock();
        Kept { path: self.shared.path.clone(), failure: state.failure, failures: state.failures.clone() }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What is behind it is whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, failure: Failure) {
        *self.lock().failures.entry(failure).or_default() += 1;
    }

    fn failed(&self, failure: Failure) {
        self.count(failure);
        let mut state = self.lock();
        if state.failure.replace(failure) != Some(failure) {
            tracing::warn!("{}: nothing is kept: {}", self.path.display(), failure.help());
        }
        state.series = None;
    }

    fn keep(&self, from: &Receiver<Order>) {
        let mut series = self.open();
        let mut until_again = AGAIN;
        while let Ok(order) = from.recv() {
            let samples = match order {
                Order::Keep(samples) => samples,
                Order::Close(done) => {
                    self.lock().series = None;
                    drop(series);
                    let _ = done.send(());
                    return;
                }
            };
            match &mut series {
                Some(open) => {
                    if let Err(failure) = open.keep(&samples) {
                        // After an error of the disk redb wants to be opened again.
                        series = None;
                        self.failed(failure);
                        until_again = AGAIN;
                    }
                }
                None => {
                    until_again -= 1;
                    if until_again == 0 {
                        until_again = AGAIN;
                        series = self.open();
                    }
                }
            }
        }
    }

    /// Opens the file; a damaged one is put aside, in place of the last such one.
    fn open(&self) -> Option<Series> {
        let opened = self.make_folder().and_then(|()| match Series::open(&self.path) {
            Err(Failure::Corrupt) => {
                self.count(Failure::Corrupt);
                let aside = self.path.with_extension("series.corrupt");
                tracing::warn!("{}: {}", self.path.display(), Failure::Corrupt.help());
                fs::rename(&self.path, aside).map_err(|error| Failure::of_io(&error))?;
                Series::open(&self.path)
            }
            opened => opened,
        });
        match opened {
            Ok(series) => {
                let mut state = self.lock();
                if state.failure.take().is_some() {
                    tracing::info!("{}: samples are kept again", self.path.display());
                }
                state.series = Some(series.clone());
                Some(series)
            }
            Err(failure) => {
                self.failed(failure);
                None
            }
        }
    }

    fn make_folder(&self) -> Result<(), Failure> {
        let Some(folder) = self.path.parent() else { return Ok(()) };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| Failure::of_io(&error))
    }
}
