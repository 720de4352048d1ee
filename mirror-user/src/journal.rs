//! The journal on disk: one file an application, appended to and synced before anything that it says is done.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use mirror_control::{
    journal::{Entry, Journal, What},
    migration::{State, Why},
    moves::Phases,
};

/// A journal that has grown beyond this is put aside when the next migration begins, or while none is under way.
const LARGE: u64 = 16 << 20;

/// An application's journal, open for appending.
pub struct JournalFile {
    app: String,
    path: PathBuf,
    file: File,
    size: u64,
    next: u64,
}

/// Where an application's journal lies in a folder.
pub fn path_of(folder: &Path, app: &str) -> PathBuf {
    folder.join(format!("{app}.journal"))
}

/// The application whose journal a file is.
pub fn app_of(path: &Path) -> Option<String> {
    let stem = path.file_stem().filter(|_| path.extension().is_some_and(|kind| kind == "journal"))?;
    stem.to_str().map(Into::into)
}

impl JournalFile {
    /// Opens or makes `APP.journal` in a folder; a last line that a crash cut short is cut off. Returns what it says, too.
    ///
    /// # Errors
    /// When the folder or the file can't be had, or is damaged; the message says what to do.
    pub fn open(folder: &Path, app: &str) -> Result<(Self, Journal)> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("can't make {}: give another folder by --state", folder.display()))?;
        let path = path_of(folder, app);
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.with_context(|| format!("can't open {}", path.display()))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("can't read {}", path.display()))?;
        let journal = Journal::read(&bytes).with_context(|| path.display().to_string())?;
        let size = journal.sound as u64;
        file.set_len(size).with_context(|| format!("can't shorten {}", path.display()))?;
        let next = journal.entries.last().map_or(0, |entry| entry.number + 1);
        Ok((Self { app: app.into(), path, file, size, next }, journal))
    }

    /// Appends a line, and returns once it is on the disk. A line that couldn't be written whole is cut off again.
    ///
    /// # Errors
    /// When the disk is full, or fails.
    pub fn append(&mut self, what: What, why: Option<&Why>, state: &State) -> Result<()> {
        self.append_move(what, why, state, None)
    }

    /// The same where a move was made, and took so long.
    ///
    /// # Errors
    /// As [`JournalFile::append`].
    pub fn append_move(
        &mut self,
        what: What,
        why: Option<&Why>,
        state: &State,
        phases: Option<Phases>,
    ) -> Result<()> {
        if matches!(what, What::Begun(..)) {
            self.make_room()?;
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry = Entry {
            number: self.next,
            at_ms: at.as_millis() as u64,
            app: self.app.clone(),
            what,
            why: why.cloned(),
            words: why.map(ToString::to_string).unwrap_or_default(),
            phases,
            state: state.clone(),
        };
        let line = entry.line()?;
        self.file.seek(SeekFrom::Start(self.size))?;
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What stands there of it is no line; where this fails too, the next opening cuts it off.
            let _ = self.file.set_len(self.size);
            return Err(error).with_context(|| format!("can't write {}", self.path.display()));
        }
        self.size += line.len() as u64;
        self.next += 1;
        Ok(())
    }

    /// The last entries, the newest last.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn tail(&mut self, limit: usize) -> Result<Vec<Entry>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut bytes)?;
        let mut entries = Journal::read(&bytes)?.entries;
        Ok(entries.split_off(entries.len().saturating_sub(limit)))
    }

    /// Puts a large journal aside: for whoever knows that no migration is under way.
    ///
    /// # Errors
    /// When it can't be renamed.
    pub fn make_room(&mut self) -> Result<()> {
        if self.size > LARGE { self.put_aside() } else { Ok(()) }
    }

    fn put_aside(&mut self) -> Result<()> {
        let aside = self.path.with_extension("journal.1");
        fs::rename(&self.path, &aside).with_context(|| format!("can't rename {}", self.path.display()))?;
        let folder = self.path.parent().context("a journal lies in a folder")?.to_owned();
        let next = self.next;
        let app = self.app.clone();
        *self = Self::open(&folder, &app)?.0;
        self.next = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_control::migration::Plan;

    /// C9: what a crash tore is no line.
    #[test]
    fn a_torn_line_is_cut_off_and_the_next_one_follows_the_last_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let (plan, state) = (Plan::default(), State::new(&Plan::default()));
        let begun = || What::Begun(Box::new(plan.clone()), "ann".into());
        {
            let (mut file, journal) = JournalFile::open(folder.path(), "shop").unwrap();
            assert!(journal.entries.is_empty());
            file.append(begun(), None, &state).unwrap();
            file.append(What::Moved, Some(&Why::InSync), &state).unwrap();
        }
        let path = folder.path().join("shop.journal");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let (mut file, journal) = JournalFile::open(folder.path(), "shop").unwrap();
        assert_eq!((journal.entries.len(), journal.last().is_some()), (1, true));
        file.append(What::Moved, Some(&Why::InSync), &state).unwrap();
        let numbers: Vec<u64> = file.tail(9).unwrap().iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, [0, 1]);
    }

    /// C9: it stops moves, not traffic.
    #[test]
    fn a_full_disk_is_an_error_and_leaves_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let (mut file, _) = JournalFile::open(folder.path(), "shop").unwrap();
        let state = State::new(&Plan::default());
        file.append(What::Moved, None, &state).unwrap();
        let real =
            std::mem::replace(&mut file.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        let error = file.append(What::Moved, None, &state).unwrap_err();
        assert!(format!("{error:#}").contains("shop.journal"), "{error:#}");
        file.file = real;
        file.append(What::Moved, None, &state).unwrap();
        assert_eq!(file.tail(9).unwrap().len(), 2);
    }
}
