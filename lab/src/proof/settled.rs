//! Which reads began on a settled connection, from the servers' own traces.
//!
//! The gateway may only move a read when both servers have finished the connection's last request. A client can't see
//! that; but client and servers share a clock in the lab, so that their notes can be laid side by side.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::checker::{Journal, Kind};

/// An answer must have been written this long before the next request, in microseconds, so that it and its
/// acknowledgement have passed the gateway. What is closer counts as unclear.
const MARGIN_US: u64 = 300;

/// A server's trace: when it had answered each request, in microseconds of the monotonic clock.
pub type Trace = HashMap<String, u64>;

/// A line of a trace that can't be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line} is not `ID RECEIVED ANSWERED`: {text:?}")]
pub struct TraceError {
    /// Its number, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// The reads of all windows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// By the window's name.
    pub windows: BTreeMap<String, WindowReads>,
}

/// The answered reads of one window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowReads {
    /// Reads by the server that answered.
    pub reads: BTreeMap<String, u64>,
    /// Of those, the ones that began after both servers had finished the connection's last request.
    pub settled: BTreeMap<String, u64>,
    /// Those that began before.
    pub unsettled: u64,
    /// Those too close to tell, and each connection's first.
    pub unclear: u64,
}

impl WindowReads {
    /// A server's share of all reads, or of the settled ones.
    pub fn share(reads: &BTreeMap<String, u64>, server: &str) -> f64 {
        let all: u64 = reads.values().sum();
        if all == 0 { 0.0 } else { reads.get(server).copied().unwrap_or(0) as f64 / all as f64 }
    }
}

/// Reads the lines of a trace that `lists --trace` wrote. A last line that was cut off is left out.
///
/// # Errors
/// [`TraceError`]
pub fn parse_trace(text: &str) -> Result<Trace, TraceError> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [id, received, answered] = words.as_slice() else { return None };
        received.parse::<u64>().ok()?;
        Some(((*id).to_owned(), answered.parse().ok()?))
    };
    whole
        .lines()
        .enumerate()
        .map(|(index, line)| parse(line).ok_or_else(|| TraceError { line: index + 1, text: line.to_owned() }))
        .collect()
}

/// Sorts all answered reads by whether their connection was settled.
pub fn settled_reads(journals: &[Journal], traces: &[Trace]) -> Settled {
    let mut settled = Settled::default();
    for journal in journals {
        let mut before: Option<&str> = None;
        for entry in &journal.entries {
            let last = before.replace(&entry.id);
            if entry.kind != Kind::Read || entry.failed.is_some() {
                continue;
            }
            let window = settled.windows.entry(entry.window.clone()).or_default();
            *window.reads.entry(entry.server.clone()).or_default() += 1;
            let finished = last.and_then(|id| {
                traces
                    .iter()
                    .map(|trace| trace.get(id).copied())
                    .collect::<Option<Vec<_>>>()?
                    .into_iter()
                    .max()
            });
            match finished {
                Some(at) if at + MARGIN_US <= entry.start_us => {
                    *window.settled.entry(entry.server.clone()).or_default() += 1;
                }
                Some(at) if at > entry.start_us => window.unsettled += 1,
                _ => window.unclear += 1,
            }
        }
    }
    settled
}
