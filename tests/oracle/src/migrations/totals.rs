//! Many migrations, summed up.

use std::{collections::BTreeMap, fmt};

use super::Report;

/// Many migrations, summed up.
#[derive(Debug, Default)]
pub struct Totals {
    migrations: u64,
    steps: u64,
    deaths: u64,
    lines: u64,
    most_ticks: u32,
    seen: [u64; 5],
    /// By the stage that they ended in.
    pub ends: BTreeMap<&'static str, u64>,
}

impl Totals {
    /// Counts one in.
    pub fn add(&mut self, report: &Report) {
        self.migrations += 1;
        self.steps += report.steps;
        self.deaths += u64::from(report.deaths);
        self.lines += report.lines as u64;
        self.most_ticks = self.most_ticks.max(report.ticks);
        let seen = &report.seen;
        let counts = [seen.flips, seen.held, seen.ended, seen.put_out, seen.doubtful];
        for (sum, count) in self.seen.iter_mut().zip(counts) {
            *sum += count;
        }
        *self.ends.entry(report.stage.name()).or_default() += 1;
    }

    /// Flips, writes held, freezes that a packet ended, sides put out, flips away from a side in doubt.
    pub const fn seen(&self) -> [u64; 5] {
        self.seen
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [flips, held, ended, put_out, doubtful] = self.seen;
        writeln!(
            f,
            "{} migrations, {} steps, {} crashes, {} lines of the journal; at most {} ticks from the last trouble to the end",
            self.migrations, self.steps, self.deaths, self.lines, self.most_ticks
        )?;
        writeln!(
            f,
            "{flips} flips ({doubtful} from a side in doubt), {held} writes held, {ended} freezes ended by a packet, \
             {put_out} times a side put out of sync"
        )?;
        write!(f, "ends: {:?}", self.ends)
    }
}
