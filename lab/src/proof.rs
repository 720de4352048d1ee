//! The proof: what the clients' journals say against what the servers have.
//!
//! It trusts neither the gateway nor the checker's own counts: it reads journals and states and counts again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checker::{Journal, Kind};
use crate::lists::Lists;

mod settled;
mod side;

pub use settled::{Settled, Trace, TraceError, WindowReads, parse_trace, settled_reads};
pub use side::SideReport;

/// Faults that are named one by one.
const NAMED: usize = 20;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Requests in the journals.
    pub requests: u64,
    /// Of those, the ones without the right answer.
    pub failed_requests: u64,
    /// Of those, the ones whose answer had begun.
    pub failed_mid_answer: u64,
    /// Writes that were answered.
    pub writes: u64,
    /// Writes that were sent and not answered: they may be in the lists or not, but once, and on both sides.
    pub unanswered_writes: u64,
    /// Answered writes that a side doesn't have, over both sides.
    pub lost_writes: u64,
    /// Writes that a side has more than once: the ones too many, over both sides.
    pub doubled_writes: u64,
    /// Writes that stand in another place than where the client wrote them: the fewest that must move to put a list in
    /// order, over both sides.
    pub misordered_writes: u64,
    /// Ids in a client's list that it never wrote, over both sides.
    pub foreign_writes: u64,
    /// Whether both sides have the same lists, of other clients too; `None` if only one side was looked at.
    pub states_equal: Option<bool>,
    /// Each side's part.
    pub sides: BTreeMap<String, SideReport>,
    /// Reads by window, and which of them began on a settled connection; only with the servers' traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Settled>,
    /// The first faults, in words.
    pub faults: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong. Failed requests are wrong too.
    pub fn is_ok(&self) -> bool {
        self.requests > 0 && self.failed_requests == 0 && self.state_is_ok()
    }

    /// Whether every list is right, whatever requests have failed.
    pub fn state_is_ok(&self) -> bool {
        self.lost_writes + self.doubled_writes + self.misordered_writes + self.foreign_writes == 0
            && self.states_equal != Some(false)
    }

    /// The result in one line.
    pub fn line(&self) -> String {
        let equal = match self.states_equal {
            Some(true) => "; both states equal",
            Some(false) => "; states DIFFER",
            None => "",
        };
        format!(
            "proof: {} requests, {} failed; {} writes: {} lost, {} doubled, {} out of order, {} foreign on {}{equal}",
            self.requests,
            self.failed_requests,
            self.writes,
            self.lost_writes,
            self.doubled_writes,
            self.misordered_writes,
            self.foreign_writes,
            self.sides.keys().cloned().collect::<Vec<_>>().join(" and "),
        )
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < NAMED {
            self.faults.push(fault);
        }
    }
}

/// Compares journals with the lists of one or more sides, each with its name.
pub fn prove(journals: &[Journal], sides: &[(String, Lists)]) -> Report {
    let mut report = Report::default();
    for (name, lists) in sides {
        let mut side = SideReport::default();
        for journal in journals {
            let list = lists.get(&journal.key).map_or(&[][..], Vec::as_slice);
            side.add(name, journal, list, &mut |fault| report.fault(fault));
        }
        report.lost_writes += side.lost_writes;
        report.doubled_writes += side.doubled_writes;
        report.misordered_writes += side.misordered_writes;
        report.foreign_writes += side.foreign_writes;
        report.sides.insert(name.clone(), side);
    }
    if let [(first, first_lists), rest @ ..] = sides
        && !rest.is_empty()
    {
        report.states_equal = Some(true);
        for (other, other_lists) in rest {
            if let Some(difference) = difference(first, first_lists, other, other_lists) {
                report.states_equal = Some(false);
                report.fault(difference);
            }
        }
    }
    // Behind what is wrong with the lists: one lost write makes every later read of its list a failed one.
    for journal in journals {
        count_requests(journal, &mut report);
    }
    report
}

fn count_requests(journal: &Journal, report: &mut Report) {
    report.requests += journal.entries.len() as u64;
    for entry in &journal.entries {
        match (&entry.failed, entry.kind) {
            (None, Kind::Write) => report.writes += 1,
            (None, Kind::Read) => {}
            (Some((reason, mid_answer)), kind) => {
                report.failed_requests += 1;
                report.failed_mid_answer += u64::from(*mid_answer);
                report.unanswered_writes += u64::from(kind == Kind::Write);
                let mid = if *mid_answer { ", in the middle of its answer" } else { "" };
                report.fault(format!("failed: {} from {}: {reason}{mid}", entry.id, journal.source));
            }
        }
    }
}

/// The first place where two states differ, in words.
fn difference(one: &str, one_lists: &Lists, other: &str, other_lists: &Lists) -> Option<String> {
    let keys = one_lists.keys().chain(other_lists.keys().filter(|key| !one_lists.contains_key(*key)));
    for key in keys {
        let ids = |lists: &Lists| lists.get(key).cloned().unwrap_or_default();
        let (ones, others) = (ids(one_lists), ids(other_lists));
        if ones == others {
            continue;
        }
        let place = ones.iter().zip(&others).take_while(|(one, other)| one == other).count();
        let at = |ids: &[String]| ids.get(place).map_or_else(|| "its end".to_owned(), Clone::clone);
        return Some(format!(
            "states differ: list {key}, place {place}: {one} has {}, {other} has {}",
            at(&ones),
            at(&others)
        ));
    }
    None
}

#[cfg(test)]
mod tests;
