//! What came of worlds.

use mirror_common::verdict::{COUNTERS, Verdict};

use super::admin::Counts;

/// What came of a world.
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Packets that were delivered.
    pub steps: u64,
    /// How often each verdict came, by source ([`super::gateway::SOURCES`]).
    pub hits: [[u64; COUNTERS]; 4],
    /// Requests that were answered.
    pub answered: u64,
    /// Answers that ended in the middle, as they may.
    pub failed_mid_answer: u64,
    /// What was counted besides, by name.
    pub counts: Counts,
    /// The rule that was broken, and when (microseconds).
    pub violation: Option<(u64, String)>,
    /// The last lines of the trace, if one was wanted.
    pub trace: Vec<String>,
}

/// What came of many worlds.
#[derive(Default)]
pub struct Totals {
    /// Packets that were delivered.
    pub steps: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Answers that ended in the middle, as they may.
    pub failed_mid_answer: u64,
    /// Verdicts by number, a column a source.
    pub hits: Vec<[u64; 4]>,
    /// What happened besides.
    pub counts: Counts,
}

impl Totals {
    /// Takes a world's figures in.
    pub fn add(&mut self, report: &Report) {
        self.steps += report.steps;
        self.answered += report.answered;
        self.failed_mid_answer += report.failed_mid_answer;
        self.hits.resize(COUNTERS, [0; 4]);
        for (source, row) in report.hits.iter().enumerate() {
            for (number, count) in row.iter().enumerate() {
                self.hits[number][source] += count;
            }
        }
        self.counts.add(&report.counts);
    }

    /// How often a verdict came.
    pub fn of(&self, verdict: Verdict) -> u64 {
        self.hits.get(verdict as usize).map_or(0, |row| row.iter().sum())
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:20}{:>12}{:>12}{:>12}{:>12}", "verdict", "primary", "shadow", "client", "sweep")?;
        for verdict in Verdict::ALL {
            if self.of(*verdict) > 0 {
                let row = self.hits[*verdict as usize];
                writeln!(f, "{:20}{:>12}{:>12}{:>12}{:>12}", verdict.name(), row[0], row[1], row[2], row[3])?;
            }
        }
        write!(
            f,
            "{} steps, {} answered, {} failed in the middle of an answer; {:?}",
            self.steps, self.answered, self.failed_mid_answer, self.counts
        )
    }
}
