//! The primary's past, a minute at a time, in bounded space.

use std::collections::VecDeque;

use mirror_common::hist::BUCKETS;
use serde::{Deserialize, Serialize};

use super::{Counts, Histogram, noise::Block, scale::Scale};

/// Minutes that are kept: a day.
const MAX_MINUTES: usize = 1_440;

/// A minute; of the latencies only the buckets that hold some.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Minute {
    requests: u64,
    errors: u64,
    latency: Vec<(u16, u64)>,
}

/// What the primary did before anything is judged: what is usual, and how much it wanders.
///
/// At most a day, at about a kilobyte a minute.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    past: VecDeque<Minute>,
    seconds: f64,
    current: Counts,
}

impl History {
    /// Takes in what the primary answered in the next so many seconds.
    pub fn observe(&mut self, seconds: f64, primary: &Counts) {
        self.seconds += seconds;
        self.current.requests += primary.requests;
        self.current.errors += primary.errors;
        self.current.latency.merge(&primary.latency);
        if self.seconds + 1e-6 < 60.0 {
            return;
        }
        self.seconds = 0.0;
        let counts = std::mem::take(&mut self.current);
        let filled = counts.latency.buckets().iter().enumerate().filter(|(_, count)| **count > 0);
        let latency = filled.map(|(bucket, &count)| (bucket as u16, count)).collect();
        self.past.push_back(Minute { requests: counts.requests, errors: counts.errors, latency });
        if self.past.len() > MAX_MINUTES {
            self.past.pop_front();
        }
    }

    /// Minutes kept.
    pub fn minutes(&self) -> u64 {
        self.past.len() as u64
    }

    /// Requests in them whose latency is known.
    pub fn requests(&self) -> u64 {
        self.past.iter().flat_map(|minute| &minute.latency).map(|(_, count)| count).sum()
    }

    /// The latencies of all of them.
    pub(super) fn latency(&self) -> Histogram {
        let mut all = Histogram::default();
        for &(bucket, count) in self.past.iter().flat_map(|minute| &minute.latency) {
            all.add(usize::from(bucket), count);
        }
        all
    }

    /// The minutes in the bins of a scale.
    pub(super) fn blocks(&self, scale: &Scale) -> Vec<Block> {
        self.past
            .iter()
            .map(|minute| {
                let mut counts = Counts {
                    requests: minute.requests,
                    errors: minute.errors,
                    latency: Histogram::default(),
                };
                for &(bucket, count) in &minute.latency {
                    counts.latency.add(usize::from(bucket).min(BUCKETS - 1), count);
                }
                Block::of(scale.bin(&counts.latency), 60.0, &counts)
            })
            .collect()
    }
}
