//! An append that goes wrong on purpose: what a server has whose clone of one write was dropped, doubled or swapped.
//!
//! On the way it can't be done: TCP sends a dropped segment again, and throws a doubled one away. So the server does it,
//! and answers as if nothing had happened.

use serde::{Deserialize, Serialize};

/// What happens to one append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Spoil {
    /// It isn't done.
    Drop,
    /// It is done twice.
    Double,
    /// It is done behind the list's next one.
    Swap,
}

/// Counts appends and spoils one.
#[derive(Debug)]
pub(super) struct Spoiler {
    spoil: Spoil,
    /// Appends before the one that is spoiled.
    left: u64,
    /// Key and id of the append that waits for its list's next one.
    late: Option<(String, String)>,
}

impl Spoiler {
    /// Spoils the append number `at`, counted from 1.
    pub(super) fn new(spoil: Spoil, at: u64) -> Self {
        Self { spoil, left: at.max(1), late: None }
    }

    /// What is appended to the list of `key` when `id` should be.
    pub(super) fn instead(&mut self, key: &str, id: &str) -> Vec<String> {
        if let Some((_, late)) = self.late.take_if(|(list, _)| list == key) {
            return vec![id.to_owned(), late];
        }
        self.left = self.left.saturating_sub(1);
        if self.left > 0 || self.late.is_some() {
            return vec![id.to_owned()];
        }
        // Once only.
        self.left = u64::MAX;
        match self.spoil {
            Spoil::Drop => Vec::new(),
            Spoil::Double => vec![id.to_owned(), id.to_owned()],
            Spoil::Swap => {
                self.late = Some((key.to_owned(), id.to_owned()));
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoiled(spoil: Spoil) -> Vec<String> {
        let mut spoiler = Spoiler::new(spoil, 2);
        let appends = [("a", "1"), ("a", "2"), ("b", "x"), ("a", "3"), ("a", "4")];
        appends
            .iter()
            .flat_map(|(key, id)| spoiler.instead(key, id).into_iter().map(move |id| format!("{key}{id}")))
            .collect()
    }

    #[test]
    fn one_append_is_spoiled_and_no_other() {
        assert_eq!(spoiled(Spoil::Drop), ["a1", "bx", "a3", "a4"]);
        assert_eq!(spoiled(Spoil::Double), ["a1", "a2", "a2", "bx", "a3", "a4"]);
        assert_eq!(spoiled(Spoil::Swap), ["a1", "bx", "a3", "a2", "a4"]);
    }
}
