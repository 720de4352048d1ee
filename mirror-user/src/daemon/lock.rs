//! One daemon for what is pinned: a lock on the folder itself, which goes with the process.

use std::{
    fs::{self, File},
    os::linux::fs::MetadataExt,
    path::Path,
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock, major, minor};

/// Held as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _folder: File,
}

impl Lock {
    /// Locks a folder. A bpf file system holds no lock file, but its folders can be locked like any other.
    ///
    /// # Errors
    /// When another daemon has it: the error names that.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let file = File::open(folder).with_context(|| format!("can't open {}", folder.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _folder: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!(
                    "{} holds {} already: end it first (what is pinned goes on), or use other --pins",
                    holder(&file).unwrap_or_else(|| "another daemon".into()),
                    folder.display()
                )
            }
            Err(error) => Err(error).with_context(|| format!("can't lock {}", folder.display())),
        }
    }
}

/// Who has locked the file, as `/proc/locks` knows it.
fn holder(file: &File) -> Option<String> {
    let status = file.metadata().ok()?;
    let device = (major(status.st_dev()), minor(status.st_dev()));
    let pid = pid_in(&fs::read_to_string("/proc/locks").ok()?, device, status.st_ino())?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    Some(format!("process {pid} ({})", words.join(" ").trim()))
}

/// The process that holds a `flock` on an inode, in the text of `/proc/locks`.
fn pid_in(locks: &str, device: (u32, u32), inode: u64) -> Option<u32> {
    let wanted = format!("{:02x}:{:02x}:{inode}", device.0, device.1);
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == wanted)?;
        (words.contains(&"FLOCK") && !words.contains(&"->")).then(|| words[at - 1].parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_among_other_locks_and_waiters() {
        let locks = "1: POSIX  ADVISORY  WRITE 411 00:1a:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 512 00:1a:770 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 613 00:1a:77 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 714 00:1a:77 0 EOF\n";
        assert_eq!(pid_in(locks, (0, 0x1a), 77), Some(613));
        assert_eq!(pid_in(locks, (0, 0x1a), 78), None);
        assert_eq!(pid_in(locks, (1, 0x1a), 77), None);
    }

    #[test]
    fn the_second_to_come_is_told_who_was_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).unwrap();
        let error = format!("{:#}", Lock::take(folder.path()).unwrap_err());
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Lock::take(folder.path()).unwrap();
    }
}
