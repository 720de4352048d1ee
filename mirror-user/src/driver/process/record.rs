//! What is remembered of an instance, on disk before each step: a crash leaves nothing that isn't written down here.
//!
//! ```text
//! STATE/APP/record.json    the plan, how far it is carried out, the process
//! STATE/APP/pid            the process' number, for whoever watches it
//! STATE/APP/log            what the instance says
//! STATE/APP/files/N        its own files
//! ```

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use mirror_control::driver::Plan;
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

use crate::moves::fault;

/// The name of the file with the process' number.
pub(super) const PID_FILE: &str = "pid";

/// A process that can't be mistaken for a later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the host's start.
    start: u64,
    /// Which start of the host that was.
    boot: String,
}

impl Mark {
    /// Of a process that is there.
    ///
    /// # Errors
    /// When there is none of this number.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let start = started(pid).with_context(|| format!("there is no process {pid}"))?;
        Ok(Self { pid, start, boot: boot()? })
    }

    /// Whether it still runs; one that has ended and wasn't waited for doesn't.
    pub(crate) fn runs(&self) -> bool {
        started(self.pid) == Some(self.start) && boot().is_ok_and(|boot| boot == self.boot)
    }

    /// Kills it, if it runs.
    pub(crate) fn kill(&self) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return };
        // The handle first, then whether it is the one: a number that was used again is never killed.
        if let (Ok(handle), true) = (pidfd_open(pid, PidfdFlags::empty()), self.runs()) {
            // It may have ended by itself.
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
    }
}

/// When a process started, unless it has ended.
fn started(pid: u32) -> Option<u64> {
    let stat = procfs::process::Process::new(pid.try_into().ok()?).ok()?.stat().ok()?;
    (!matches!(stat.state, 'Z' | 'X')).then_some(stat.starttime)
}

fn boot() -> Result<String> {
    let id =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").context("can't read the host's boot id")?;
    Ok(id.trim().to_owned())
}

/// The application of which a folder remembers an instance.
pub(super) fn app_of(folder: &Path) -> Option<String> {
    let name = folder.join("record.json").exists().then(|| folder.file_name())??;
    name.to_str().map(Into::into)
}

/// What is remembered of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The plan.
    pub plan: Plan,
    /// Steps of it that were done.
    pub done: usize,
    /// All were done once, and it isn't being removed: its files may be the application's truth.
    pub complete: bool,
    /// Its first process.
    pub process: Option<Mark>,
}

/// An application's folder, locked: one at a time works on it.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Locks the folder of an application, which may not be there yet.
    ///
    /// # Errors
    /// When another process has it.
    pub(super) fn lock(state: &Path, app: &str) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .with_context(|| format!("can't make {}", state.display()))?;
        let lock = File::open(state).with_context(|| format!("can't open {}", state.display()))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("another `mirror` works in {} now", state.display()))?;
        Ok(Self { path: state.join(app), _lock: lock })
    }

    /// What is remembered, if anything is.
    ///
    /// # Errors
    /// When the record can't be read.
    pub(super) fn read(&self) -> Result<Option<Record>> {
        read(&self.path)
    }

    /// Replaces what is remembered, at once and for good.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn write(&self, record: &Record) -> Result<()> {
        let written = || -> std::io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
            let new = self.path.join("record.new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            file.sync_all()?;
            fault("record-new");
            fs::rename(&new, self.path.join("record.json"))?;
            if let Some(process) = &record.process {
                fs::write(self.path.join(PID_FILE), process.pid.to_string())?;
            }
            File::open(&self.path)?.sync_all()
        };
        written().with_context(|| format!("can't write to {}", self.path.display()))
    }

    /// Lets a group read the folder: what is in it keeps its own modes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn show_to(&self, group: u32) -> Result<()> {
        let mode = fs::Permissions::from_mode(0o750);
        std::os::unix::fs::chown(&self.path, None, Some(group))
            .and_then(|()| fs::set_permissions(&self.path, mode))
            .with_context(|| format!("can't show {}", self.path.display()))
    }

    /// Removes all but the record.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn remove_files(&self) -> Result<()> {
        ["files", "log", PID_FILE, "record.new"]
            .iter()
            .try_for_each(|name| super::files::remove(&self.path.join(name)))
    }

    /// Removes the folder, the record last. False: there was none.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn remove(&self) -> Result<bool> {
        let found = self.path.exists();
        self.remove_files()?;
        super::files::remove(&self.path.join("record.json"))?;
        super::files::remove(&self.path)?;
        Ok(found)
    }
}

/// What is remembered in an application's folder, if anything is.
///
/// # Errors
/// When the record can't be read.
pub(super) fn read(folder: &Path) -> Result<Option<Record>> {
    let path = folder.join("record.json");
    match fs::read(&path) {
        Ok(text) => {
            let record = serde_json::from_slice(&text);
            record.map(Some).with_context(|| format!("{} isn't what this version writes", path.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn record() -> Record {
        let address = "10.0.9.2:80".parse().unwrap();
        let plan = Plan { app: "shop".into(), driver: "process".into(), address, steps: vec![] };
        Record { plan, done: 3, complete: false, process: None }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_one_works_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::lock(state.path(), "shop").unwrap();
        assert_eq!(folder.read().unwrap(), None);
        folder.write(&record()).unwrap();
        assert_eq!(folder.read().unwrap(), Some(record()));
        assert!(Folder::lock(state.path(), "shop").is_err());
        assert!(folder.remove().unwrap());
        assert!(!folder.remove().unwrap());
        drop(folder);
        // A child that another test starts just now has the lock's descriptor until it executes its program.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while Folder::lock(state.path(), "shop").is_err() {
            assert!(std::time::Instant::now() < deadline, "still locked");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_torn_record_is_an_error_and_not_nothing() {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::lock(state.path(), "shop").unwrap();
        folder.write(&record()).unwrap();
        fs::write(state.path().join("shop/record.json"), "{\"plan\":").unwrap();
        assert!(folder.read().unwrap_err().to_string().contains("isn't what this version writes"));
    }

    #[test]
    fn a_number_that_was_used_again_is_another_process() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mark = Mark::of(child.id()).unwrap();
        assert!(mark.runs());
        let other = Mark { start: mark.start + 1, ..mark.clone() };
        other.kill();
        let earlier = Mark { boot: "another".into(), ..mark.clone() };
        earlier.kill();
        assert!(child.try_wait().unwrap().is_none() && mark.runs(), "neither was it");
        mark.kill();
        assert!(!child.wait().unwrap().success());
        assert!(!mark.runs());
    }
}
