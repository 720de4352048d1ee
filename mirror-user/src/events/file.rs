//! Events in a file, a line each.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};
use tokio::sync::mpsc::Receiver;

use super::{Line, Outcome, Tally};

/// A file that somebody else may move away.
struct Appended {
    path: PathBuf,
    file: Option<File>,
}

impl Appended {
    fn open(path: &Path) -> std::io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)
    }

    /// Appends a line; opens the file anew where it isn't what the path names any more.
    fn write(&mut self, line: &str, reopen: bool) -> std::io::Result<()> {
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let stands = self.file.as_ref().is_some_and(
            |file| matches!((file.metadata(), std::fs::metadata(&self.path)), (Ok(a), Ok(b)) if same(&a, &b)),
        );
        if reopen || !stands {
            self.file = None;
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(Self::open(&self.path)?),
        };
        file.write_all(line.as_bytes())
    }
}

/// Begins to append. `reopen`: set by whoever moved the file.
///
/// # Errors
/// When the file can't be opened, or there is no thread.
pub(super) fn start(
    path: &Path,
    reopen: Arc<AtomicBool>,
    mut from: Receiver<Line>,
    tally: Arc<Tally>,
) -> Result<()> {
    let file = Appended::open(path)
        .with_context(|| format!("can't append events to {} (`[events]` in the policy)", path.display()))?;
    let mut appended = Appended { path: path.to_owned(), file: Some(file) };
    std::thread::Builder::new().name("events-file".into()).spawn(move || {
        let mut failing = false;
        while let Some(line) = from.blocking_recv() {
            let written = appended.write(&line, reopen.swap(false, Ordering::SeqCst));
            // Said when it begins and when it ends, not for each line.
            match (&written, failing) {
                (Err(error), false) => {
                    tracing::error!("{}: events are lost: {error}", appended.path.display());
                }
                (Ok(()), true) => tracing::info!("{}: events are kept again", appended.path.display()),
                _ => {}
            }
            failing = written.is_err();
            tally.ended(if failing { Outcome::Failed } else { Outcome::Delivered });
        }
    })?;
    Ok(())
}
