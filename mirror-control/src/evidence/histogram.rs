//! Counts of latencies in the kernel's logarithmic buckets.

use mirror_common::hist::{self, BUCKETS};
use serde::{Deserialize, Serialize};

/// Latencies of a group of requests: [`BUCKETS`] counts, 16 buckets to an octave, from 1 µs to 60 s and more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    buckets: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS] }
    }
}

impl Histogram {
    /// From counts a bucket, as the kernel keeps them. What is missing is zero; what is beyond the last goes to the last.
    pub fn from_buckets(counts: &[u64]) -> Self {
        let mut histogram = Self::default();
        for (bucket, &count) in counts.iter().enumerate() {
            histogram.add(bucket, count);
        }
        histogram
    }

    /// Adds requests to a bucket of [`mirror_common::hist`].
    pub fn add(&mut self, bucket: usize, count: u64) {
        let cell = &mut self.buckets[bucket.min(BUCKETS - 1)];
        *cell = cell.saturating_add(count);
    }

    /// Adds requests that took so long, in microseconds.
    pub fn record(&mut self, us: u32, count: u64) {
        self.add(hist::bucket(us) as usize, count);
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// Counts, a bucket each.
    pub fn buckets(&self) -> &[u64] {
        &self.buckets
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// The quantile `q` (0 to 1) in microseconds: the lower edge of its bucket. Nothing where there are no requests.
    pub fn quantile_us(&self, q: f64) -> Option<u64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).max(1);
        let mut seen = 0_u64;
        let bucket = self.buckets.iter().position(|&count| {
            seen = seen.saturating_add(count);
            seen >= rank
        });
        Some(hist::lowest(bucket.unwrap_or(BUCKETS - 1) as u32))
    }
}
