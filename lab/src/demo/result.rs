//! What came of the play: one object for programs, a table for people.

use std::fmt;

use indicatif::HumanCount;
use serde::Serialize;
use serde_json::Value;

use crate::checker::{Summary, WindowSummary};
use crate::proof::Report;

/// A number for each side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BySide {
    /// The primary's; nothing if it answered no read.
    pub primary: Option<u64>,
    /// The shadow's, likewise.
    pub shadow: Option<u64>,
}

/// What one weight came to, counted from the clients' journals and the servers' traces.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Percent of the reads that the shadow was to answer.
    pub weight: u32,
    /// Share of all reads that it answered, 0 to 1.
    pub shadow_read_share: f64,
    /// Share of all reads that began before both servers had finished the connection's last request, 0 to 1.
    pub unsettled_share: f64,
    /// Median latency of the reads, in microseconds, as the client saw it.
    pub p50_us: BySide,
    /// 99th percentile of the same.
    pub p99_us: BySide,
}

/// How long a move took, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moved {
    /// The freezing swap.
    pub freeze_us: f64,
    /// Until every begun write was finished on both sides.
    pub drain_us: f64,
    /// The swap of the authority.
    pub flip_us: f64,
    /// The slowest request of the second that began with the move.
    pub slowest_request_us: u64,
    /// The slowest request of the second before it.
    #[serde(skip)]
    pub slowest_before_us: u64,
}

/// Everything that the play came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Requests in the clients' journals.
    pub requests: u64,
    /// Of those, the ones without the right answer.
    pub failed_requests: u64,
    /// Of those, the ones whose answer had begun.
    pub failed_mid_answer: u64,
    /// Writes that were answered.
    pub writes: u64,
    /// Answered writes that a side doesn't have.
    pub lost_writes: u64,
    /// Writes that a side has more than once.
    pub doubled_writes: u64,
    /// Writes in another place than where the client wrote them.
    pub misordered_writes: u64,
    /// Whether both sides have the same lists.
    pub states_equal: bool,
    /// By weight, in the order in which they were set.
    pub steps: Vec<Step>,
    /// The cutover.
    pub cutover: Option<Moved>,
    /// The rollback.
    pub rollback: Option<Moved>,
    /// What is wrong, in words.
    #[serde(skip)]
    pub faults: Vec<String>,
}

impl Outcome {
    /// Whether the proof holds and nothing else went wrong.
    pub fn is_ok(&self) -> bool {
        self.faults.is_empty() && self.requests > 0 && self.states_equal
    }

    /// Takes a proof in.
    pub(super) fn take(&mut self, report: &Report) {
        self.requests = report.requests;
        self.failed_requests = report.failed_requests;
        self.failed_mid_answer = report.failed_mid_answer;
        self.writes = report.writes;
        self.lost_writes = report.lost_writes;
        self.doubled_writes = report.doubled_writes;
        self.misordered_writes = report.misordered_writes;
        self.states_equal = report.states_equal == Some(true);
        self.faults.clone_from(&report.faults);
        if !report.is_ok() && self.faults.is_empty() {
            self.faults.push("the proof doesn't hold".into());
        }
    }

    /// Puts a step together for each weight: shares from the proof, latencies from the client.
    pub(super) fn take_steps(&mut self, weights: &[u32], report: &Report, summary: &Summary) {
        for weight in weights {
            let name = window_of(*weight);
            let seen = report.settled.as_ref().and_then(|settled| settled.windows.get(&name));
            let window = summary.windows.iter().find(|window| window.name == name);
            let (Some(seen), Some(window)) = (seen, window) else { continue };
            let all: u64 = seen.reads.values().sum();
            self.steps.push(Step {
                weight: *weight,
                shadow_read_share: crate::proof::WindowReads::share(&seen.reads, "shadow"),
                unsettled_share: seen.unsettled as f64 / all.max(1) as f64,
                p50_us: by_side(window, |reads| reads.p50_us),
                p99_us: by_side(window, |reads| reads.p99_us),
            });
        }
    }
}

/// The name of a weight's window in the client's journals.
pub(super) fn window_of(weight: u32) -> String {
    format!("w{weight}")
}

fn by_side(window: &WindowSummary, of: impl Fn(&crate::checker::Latency) -> u64) -> BySide {
    let side =
        |name| window.servers.get(name).map(|side| &side.reads).filter(|reads| reads.count > 0).map(&of);
    BySide { primary: side("primary"), shadow: side("shadow") }
}

impl Moved {
    /// From the daemon's answer.
    pub(super) fn of(answer: &Value, slowest_request_us: u64, slowest_before_us: u64) -> Self {
        let us = |name| answer["phases"][name].as_f64().unwrap_or_default();
        Self {
            freeze_us: us("freeze_us"),
            drain_us: us("drain_us"),
            flip_us: us("flip_us"),
            slowest_request_us,
            slowest_before_us,
        }
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "freeze {:.2} µs, drain {:.0} µs, flip {:.2} µs; slowest request {:.1} ms (in the second before: {:.1} ms)",
            self.freeze_us,
            self.drain_us,
            self.flip_us,
            self.slowest_request_us as f64 / 1e3,
            self.slowest_before_us as f64 / 1e3,
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.steps.is_empty() {
            writeln!(f, "weight   of the reads   began unsettled   primary p50 / p99    shadow p50 / p99")?;
        }
        for step in &self.steps {
            let ms = |us: Option<u64>| us.map_or("    –".into(), |us| format!("{:5.2}", us as f64 / 1e3));
            writeln!(
                f,
                "{:4} %        {:6.2} %          {:6.2} %   {} / {} ms     {} / {} ms",
                step.weight,
                step.shadow_read_share * 100.0,
                step.unsettled_share * 100.0,
                ms(step.p50_us.primary),
                ms(step.p99_us.primary),
                ms(step.p50_us.shadow),
                ms(step.p99_us.shadow),
            )?;
        }
        for fault in &self.faults {
            writeln!(f, "{fault}")?;
        }
        let sides = if self.states_equal { "both states equal" } else { "states DIFFER" };
        write!(
            f,
            "proof: {} requests, {} failed; {} writes: {} lost, {} doubled, {} out of order on either side; {sides}",
            HumanCount(self.requests),
            HumanCount(self.failed_requests),
            HumanCount(self.writes),
            HumanCount(self.lost_writes),
            HumanCount(self.doubled_writes),
            HumanCount(self.misordered_writes),
        )
    }
}
