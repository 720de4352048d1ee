//! The lists, in memory and, if wanted, in a file that is only ever appended to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::spoil::{Spoil, Spoiler};

/// Lists by key, each in the order of its appends.
pub type Lists = BTreeMap<String, Vec<String>>;

/// The longest key or id, in bytes.
const LONGEST: usize = 200;

/// Why an append or a load was refused.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A key or an id with a character that isn't allowed, an empty one, or one that is too long.
    #[error("{what} {word:?} is not 1 to {LONGEST} of the characters A-Z a-z 0-9 . _ ~ : -")]
    Word {
        /// Which of the two.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// A line of a dump that isn't a key, a space and an id.
    #[error("line {line} is not `KEY ID`: {text:?}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Its text.
        text: String,
    },
    /// The file.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
}

/// The lists of one server.
#[derive(Debug)]
pub struct Store {
    lists: Lists,
    log: Option<(PathBuf, File)>,
    spoiler: Option<Spoiler>,
}

impl Store {
    /// Lists that a restart loses.
    pub fn volatile() -> Self {
        Self { lists: Lists::new(), log: None, spoiler: None }
    }

    /// Lists whose appends are in the file before they are answered. The file is read first; a last line that a crash
    /// cut short was never answered, and is cut off.
    ///
    /// # Errors
    /// If the file can't be read or written, or isn't a log of lists.
    pub fn durable(path: &Path) -> Result<Self, StoreError> {
        let fail = |error| StoreError::File { path: path.to_owned(), error };
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(fail)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(fail)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64).map_err(fail)?;
            file.seek(SeekFrom::End(0)).map_err(fail)?;
        }
        let lists = parse_dump(&text[..whole])?;
        Ok(Self { lists, log: Some((path.to_owned(), file)), spoiler: None })
    }

    /// Lets one append go wrong: the one of this number, counted from 1.
    pub fn spoil(&mut self, spoil: Spoil, at: u64) {
        self.spoiler = Some(Spoiler::new(spoil, at));
    }

    /// Appends `id` to the list of `key` and returns the list's new length.
    ///
    /// # Errors
    /// If key or id hold characters that aren't allowed, or the file can't be written; then the list is as it was.
    pub fn append(&mut self, key: &str, id: &str) -> Result<usize, StoreError> {
        check_word("key", key)?;
        check_word("id", id)?;
        let Some(spoiler) = &mut self.spoiler else { return self.append_word(key, id) };
        for id in spoiler.instead(key, id) {
            self.append_word(key, &id)?;
        }
        Ok(self.list(key).len())
    }

    fn append_word(&mut self, key: &str, id: &str) -> Result<usize, StoreError> {
        if let Some((path, file)) = &mut self.log {
            file.write_all(format!("{key} {id}\n").as_bytes())
                .map_err(|error| StoreError::File { path: path.clone(), error })?;
        }
        let list = match self.lists.get_mut(key) {
            Some(list) => list,
            None => self.lists.entry(key.to_owned()).or_default(),
        };
        list.push(id.to_owned());
        Ok(list.len())
    }

    /// The list of `key`; empty if nothing was appended yet.
    pub fn list(&self, key: &str) -> &[String] {
        self.lists.get(key).map_or(&[], Vec::as_slice)
    }

    /// All lists as canonical text: a line `KEY ID` for each append, keys sorted, ids in their order. Equal lists give
    /// equal text.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for (key, list) in &self.lists {
            for id in list {
                // Writing to a string can't fail.
                let _ = writeln!(text, "{key} {id}");
            }
        }
        text
    }

    /// Replaces all lists by those of a dump; with a file, in one step.
    ///
    /// # Errors
    /// If the text isn't a dump or the file can't be written; then all is as it was.
    pub fn load(&mut self, text: &str) -> Result<usize, StoreError> {
        let lists = parse_dump(text)?;
        let count = lists.values().map(Vec::len).sum();
        if let Some((path, file)) = &mut self.log {
            *file = replace(path, text).map_err(|error| StoreError::File { path: path.clone(), error })?;
        }
        self.lists = lists;
        Ok(count)
    }
}

/// Writes `text` beside `path` and moves it there, so that a crash leaves the one or the other.
fn replace(path: &Path, text: &str) -> io::Result<File> {
    let beside = path.with_extension("load");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)?;
    OpenOptions::new().append(true).open(path)
}

/// Reads lines `KEY ID`: a dump, or a log (the order of the ids of one key is what counts).
///
/// # Errors
/// If a line is something else; a last line without its end is one.
pub fn parse_dump(text: &str) -> Result<Lists, StoreError> {
    let mut lists = Lists::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let words = line.strip_suffix('\n').and_then(|line| line.split_once(' '));
        let Some((key, id)) = words.filter(|(key, id)| is_word(key) && is_word(id)) else {
            return Err(StoreError::Line { line: index + 1, text: line.to_owned() });
        };
        match lists.get_mut(key) {
            Some(list) => list.push(id.to_owned()),
            None => drop(lists.insert(key.to_owned(), vec![id.to_owned()])),
        }
    }
    Ok(lists)
}

fn is_word(word: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~:-".contains(&byte);
    !word.is_empty() && word.len() <= LONGEST && word.bytes().all(allowed)
}

fn check_word(what: &'static str, word: &str) -> Result<(), StoreError> {
    if is_word(word) { Ok(()) } else { Err(StoreError::Word { what, word: word.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_finds_what_was_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lists");
        let mut store = Store::durable(&path).unwrap();
        assert_eq!(store.append("b", "1").unwrap(), 1);
        assert_eq!(store.append("a", "2").unwrap(), 1);
        assert_eq!(store.append("b", "3").unwrap(), 2);
        let dump = store.dump();
        assert_eq!(dump, "a 2\nb 1\nb 3\n");
        drop(store);
        assert_eq!(Store::durable(&path).unwrap().dump(), dump);
    }

    #[test]
    fn a_line_that_a_crash_cut_short_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lists");
        std::fs::write(&path, "a 1\na 2\na 33").unwrap();
        let mut store = Store::durable(&path).unwrap();
        assert_eq!(store.list("a"), ["1", "2"]);
        store.append("a", "3").unwrap();
        assert_eq!(Store::durable(&path).unwrap().list("a"), ["1", "2", "3"]);
    }

    #[test]
    fn a_load_replaces_everything_and_appends_go_on_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lists");
        let mut store = Store::durable(&path).unwrap();
        store.append("old", "1").unwrap();
        assert_eq!(store.load("k 1\nk 2\n").unwrap(), 2);
        store.append("k", "3").unwrap();
        assert_eq!(Store::durable(&path).unwrap().dump(), "k 1\nk 2\nk 3\n");
    }

    #[test]
    fn a_refused_load_changes_nothing() {
        let mut store = Store::volatile();
        store.append("k", "1").unwrap();
        for text in ["k", "k 1", "k 1 2\n", " 1\n", "k \n", "k 1\r\n"] {
            assert!(store.load(text).is_err(), "{text:?}");
        }
        assert_eq!(store.dump(), "k 1\n");
    }

    #[test]
    fn words_that_would_break_the_format_are_refused() {
        let mut store = Store::volatile();
        for word in ["", "a b", "a\n", "a/b", "ä", &"x".repeat(201)] {
            assert!(store.append(word, "1").is_err(), "{word:?}");
            assert!(store.append("k", word).is_err(), "{word:?}");
        }
    }
}
