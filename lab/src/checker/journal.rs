//! A connection's journal: a line for each request. The proof is made from it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Whether a request reads or appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It reads the connection's list.
    Read,
    /// It appends its own id to the connection's list.
    Write,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it did.
    pub kind: Kind,
    /// Its id, which is also what a write appends.
    pub id: String,
    /// When it was sent: microseconds of the machine's monotonic clock.
    pub start_us: u64,
    /// Until the last byte of its answer, or until it failed: microseconds.
    pub latency_us: u64,
    /// The server that answered; `-` if none did.
    pub server: String,
    /// The window in which it began.
    pub window: String,
    /// Why it failed, and whether its answer had begun.
    pub failed: Option<(String, bool)>,
}

/// All requests of one connection, in the order in which they were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// The key of the connection's list.
    pub key: String,
    /// Its source address.
    pub source: String,
    /// The requests.
    pub entries: Vec<Entry>,
}

/// Why a journal can't be read.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file or directory.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// A line that isn't one of a journal.
    #[error("{}:{line}: not a line of a journal: {text:?}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// Its text.
        text: String,
    },
}

/// Writes a journal.
#[derive(Debug)]
pub(super) struct Writer {
    file: BufWriter<File>,
}

impl Writer {
    pub(super) fn create(directory: &Path, key: &str, source: SocketAddr) -> io::Result<Self> {
        let file = File::create(directory.join(format!("{key}.journal")))?;
        let mut file = BufWriter::with_capacity(16 << 10, file);
        writeln!(file, "connection {key} {source}")?;
        Ok(Self { file })
    }

    pub(super) fn add(&mut self, entry: &Entry) -> io::Result<()> {
        let kind = match entry.kind {
            Kind::Read => "r",
            Kind::Write => "w",
        };
        let (reason, mid) = match &entry.failed {
            None => ("ok", ""),
            Some((reason, mid)) => (reason.as_str(), if *mid { "+mid-answer" } else { "" }),
        };
        let Entry { id, start_us, latency_us, server, window, .. } = entry;
        writeln!(self.file, "{kind} {id} {start_us} {latency_us} {server} {window} {reason}{mid}")
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads all journals of a directory, sorted by key.
///
/// # Errors
/// [`JournalError`]
pub fn read_journals(directory: &Path) -> Result<Vec<Journal>, JournalError> {
    let fail = |error| JournalError::File { path: directory.to_owned(), error };
    let mut journals = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|extension| extension == "journal") {
            journals.push(read_journal(&path)?);
        }
    }
    journals.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(journals)
}

/// Reads one journal.
///
/// # Errors
/// [`JournalError`]; a last line that was cut off is an error too.
pub fn read_journal(path: &Path) -> Result<Journal, JournalError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| JournalError::File { path: path.to_owned(), error })?;
    let wrong =
        |line: usize, text: &str| JournalError::Line { path: path.to_owned(), line, text: text.to_owned() };
    let mut lines = text.split_inclusive('\n').enumerate();
    let first = lines.next().map_or("", |(_, line)| line);
    let words: Vec<&str> = first.split_whitespace().collect();
    let ["connection", key, source] = words.as_slice() else { return Err(wrong(1, first)) };
    let mut journal = Journal { key: (*key).to_owned(), source: (*source).to_owned(), entries: Vec::new() };
    for (index, line) in lines {
        let whole = line.strip_suffix('\n');
        journal.entries.push(whole.and_then(parse_entry).ok_or_else(|| wrong(index + 1, line))?);
    }
    Ok(journal)
}

fn parse_entry(line: &str) -> Option<Entry> {
    let words: Vec<&str> = line.split(' ').collect();
    let [kind, id, start, latency, server, window, outcome] = words.as_slice() else { return None };
    Some(Entry {
        kind: match *kind {
            "r" => Kind::Read,
            "w" => Kind::Write,
            _ => return None,
        },
        id: (*id).to_owned(),
        start_us: start.parse().ok()?,
        latency_us: latency.parse().ok()?,
        server: (*server).to_owned(),
        window: (*window).to_owned(),
        failed: match (*outcome, outcome.strip_suffix("+mid-answer")) {
            ("ok", _) => None,
            (_, Some(reason)) => Some((reason.to_owned(), true)),
            (reason, None) => Some((reason.to_owned(), false)),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let entry = |kind, id: &str, failed| Entry {
            kind,
            id: id.into(),
            start_us: 5,
            latency_us: 70,
            server: "primary".into(),
            window: "w25".into(),
            failed,
        };
        let entries = vec![
            entry(Kind::Write, "c1-1", None),
            entry(Kind::Read, "c1-2", Some(("reset".to_owned(), true))),
            entry(Kind::Read, "c1-3", Some(("timeout".to_owned(), false))),
        ];
        let source = "10.0.1.2:4000".parse().unwrap();
        let mut writer = Writer::create(dir.path(), "c1", source).unwrap();
        entries.iter().for_each(|entry| writer.add(entry).unwrap());
        writer.finish().unwrap();
        let expected = Journal { key: "c1".into(), source: "10.0.1.2:4000".into(), entries };
        assert_eq!(read_journals(dir.path()).unwrap(), [expected]);
    }

    #[test]
    fn a_journal_that_was_cut_off_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c1.journal");
        std::fs::write(&path, "connection c1 1.2.3.4:5\nw c1-1 5 70 primary start ok\nw c1-2 5").unwrap();
        assert!(matches!(read_journal(&path), Err(JournalError::Line { line: 3, .. })));
    }
}
