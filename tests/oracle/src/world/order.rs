//! The order of writes over all connections, from the outside: by when clients asked and were answered, and by what a server
//! did when.

use std::collections::BTreeMap;

/// An append that its client was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// List and id.
    pub append: (u64, u64),
    /// When its client began to send it, in microseconds.
    pub asked: u64,
    /// When its client had the whole answer, in microseconds.
    pub answered: u64,
}

/// Two writes of which the first was answered before the second was asked, and that a server did the other way round. What it
/// hasn't done at all is another rule's.
pub(super) fn overtaken(writes: &[Write], log: &[(u64, u64)]) -> Option<(Write, Write)> {
    let places: BTreeMap<_, _> = log.iter().enumerate().map(|(at, append)| (*append, at)).collect();
    // By when they were done: none may have been asked behind the answer of one that comes later.
    let mut done: Vec<_> = writes.iter().filter_map(|w| Some((*places.get(&w.append)?, *w))).collect();
    done.sort_by_key(|(at, _)| *at);
    let mut latest: Option<Write> = None;
    for (_, write) in done {
        if let Some(before) = latest.filter(|before| write.answered < before.asked) {
            return Some((write, before));
        }
        latest = latest.filter(|latest| latest.asked >= write.asked).or(Some(write));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_asked_behind_an_answer_overtakes() {
        let write = |id, asked, answered| Write { append: (0, id), asked, answered };
        let (first, second) = (write(1, 10, 20), write(2, 21, 30));
        assert_eq!(overtaken(&[first, second], &[(0, 1), (0, 2)]), None);
        assert_eq!(overtaken(&[first, second], &[(0, 2), (7, 9), (0, 1)]), Some((first, second)));
        let beside = write(2, 20, 30);
        assert_eq!(overtaken(&[first, beside], &[(0, 2), (0, 1)]), None);
        assert_eq!(overtaken(&[first, second], &[(0, 2)]), None);
    }
}
