//! One side's lists against the journals.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::checker::{Journal, Kind};

/// What is wrong on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideReport {
    /// Ids in the clients' lists.
    pub ids: u64,
    /// Answered writes that aren't there.
    pub lost_writes: u64,
    /// Copies too many.
    pub doubled_writes: u64,
    /// The fewest that must move to put the lists in order.
    pub misordered_writes: u64,
    /// Ids that the list's owner never wrote.
    pub foreign_writes: u64,
}

/// A write of the journal.
struct Written {
    /// Its place among the client's writes.
    rank: usize,
    answered: bool,
    /// How often the list has it.
    seen: u64,
}

impl SideReport {
    /// Adds the list of one journal's connection, and tells `fault` what is wrong.
    pub(super) fn add(
        &mut self,
        side: &str,
        journal: &Journal,
        list: &[String],
        fault: &mut impl FnMut(String),
    ) {
        let key = &journal.key;
        let writes = journal.entries.iter().filter(|entry| entry.kind == Kind::Write);
        let mut written: HashMap<&str, Written> = writes
            .enumerate()
            .map(|(rank, entry)| {
                (entry.id.as_str(), Written { rank, answered: entry.failed.is_none(), seen: 0 })
            })
            .collect();
        self.ids += list.len() as u64;
        let mut ranks = Vec::with_capacity(list.len());
        for (place, id) in list.iter().enumerate() {
            let Some(write) = written.get_mut(id.as_str()) else {
                self.foreign_writes += 1;
                fault(format!(
                    "foreign: {side} has {id} at place {place} of list {key}, whose owner never wrote it"
                ));
                continue;
            };
            write.seen += 1;
            if write.seen > 1 {
                self.doubled_writes += 1;
                fault(format!("doubled: {side} has {id} again at place {place} of list {key}"));
            } else {
                if let Some(before) = ranks.last().filter(|before| **before > write.rank) {
                    fault(format!(
                        "misordered: {side} has {id}, write {} of list {key}, behind write {before}",
                        write.rank
                    ));
                }
                ranks.push(write.rank);
            }
        }
        self.misordered_writes += (ranks.len() - longest_increasing(&ranks)) as u64;
        let mut lost: Vec<(&usize, &str)> = written
            .iter()
            .filter(|(_, write)| write.answered && write.seen == 0)
            .map(|(id, write)| (&write.rank, *id))
            .collect();
        lost.sort_unstable();
        self.lost_writes += lost.len() as u64;
        for (rank, id) in lost {
            fault(format!("lost: {side} doesn't have {id}, write {rank} of list {key}, which was answered"));
        }
    }
}

/// Length of the longest increasing subsequence, by patience sorting: what needn't move.
fn longest_increasing(ranks: &[usize]) -> usize {
    let mut piles: Vec<usize> = Vec::new();
    for rank in ranks {
        let pile = piles.partition_point(|top| top < rank);
        match piles.get_mut(pile) {
            Some(top) => *top = *rank,
            None => piles.push(*rank),
        }
    }
    piles.len()
}

#[cfg(test)]
mod tests {
    use super::longest_increasing;

    #[test]
    fn the_fewest_moves_are_counted() {
        for (ranks, longest) in [
            (&[][..], 0),
            (&[0, 1, 2, 3], 4),
            (&[1, 0, 2, 3], 3),
            (&[3, 0, 1, 2], 3),
            (&[1, 2, 3, 0], 3),
            (&[3, 2, 1, 0], 1),
            (&[0, 5, 9], 3),
        ] {
            assert_eq!(longest_increasing(ranks), longest, "{ranks:?}");
        }
    }
}
