//! Noise of one side alone: how much a mean over a minute, two, four, … wanders, learned from the primary itself.
//!
//! Requests of one minute aren't independent: a collector runs, a neighbour takes the disk. Tests that take them for
//! independent call every such minute a difference, and the more surely the more traffic there is. How far such means wander
//! is learned from the primary's past, a scale of time at a time (as the Allan variance does), and a shadow is allowed as
//! much. Noise that lasts shows in the long scales, which then stay wide where those of short noise narrow.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::{Counts, scale::Scale};

/// Lengths of blocks, in minutes.
pub(super) const SCALES: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Blocks that the noise taken for granted counts as.
const PRIOR_BLOCKS: f64 = 1.0;
/// Relative variance of errors that is taken for granted: bursts as of an exponential distribution.
const PRIOR_BURSTS: f64 = 1.0;
/// Each bound of the learned variance is wrong this often.
const BOUND: f64 = 0.05;

/// A minute of one side, in the scale's bins.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Block {
    pub(super) seconds: f64,
    pub(super) requests: f64,
    pub(super) errors: f64,
    pub(super) timed: f64,
    pub(super) bins: Vec<f64>,
    pub(super) compared: f64,
    pub(super) diverged: f64,
}

impl Block {
    pub(super) fn of(scale: &Scale, seconds: f64, counts: &Counts) -> Self {
        let bins = scale.bin(&counts.latency);
        Self {
            seconds,
            requests: counts.requests as f64,
            errors: counts.errors as f64,
            timed: bins.iter().sum(),
            bins,
            compared: 0.0,
            diverged: 0.0,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.requests += other.requests;
        self.errors += other.errors;
        self.timed += other.timed;
        self.compared += other.compared;
        self.diverged += other.diverged;
        self.bins.resize(other.bins.len().max(self.bins.len()), 0.0);
        for (mine, theirs) in self.bins.iter_mut().zip(&other.bins) {
            *mine += theirs;
        }
    }

    /// The mean of a score over the block's latencies.
    pub(super) fn mean(&self, score: &[f64]) -> f64 {
        self.bins.iter().zip(score).map(|(n, s)| n * s).sum::<f64>() / self.timed.max(1.0)
    }
}

/// How much the primary wanders, by length of block.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Noise {
    /// The primary's usual rate of errors.
    pub(super) error_rate: f64,
    /// Relative variance of the rate of errors, a scale each: at most this.
    pub(super) bursts: Vec<f64>,
    /// The same: at least this.
    pub(super) sure_bursts: Vec<f64>,
    /// Variance of the mean score of each way to be slower: `[scale][way]`.
    pub(super) wander: Vec<Vec<f64>>,
}

impl Noise {
    /// Learns from the primary's minutes, in their order.
    pub(super) fn learn(scale: &Scale, minutes: &[Block]) -> Self {
        let requests: f64 = minutes.iter().map(|m| m.requests).sum();
        let errors: f64 = minutes.iter().map(|m| m.errors).sum();
        let error_rate = (errors + 0.5) / (requests + 1.0);
        let mut noise = Self { error_rate, bursts: Vec::new(), sure_bursts: Vec::new(), wander: Vec::new() };
        for length in SCALES {
            let blocks: Vec<Block> = minutes.chunks_exact(length as usize).map(joined).collect();
            let bursts: Vec<(f64, f64)> = blocks
                .iter()
                .filter(|b| b.requests > 0.0)
                .map(|b| {
                    let expected = b.requests * error_rate;
                    (b.errors / expected - 1.0, 1.0 / expected)
                })
                .collect();
            let (least, most) = variance(&bursts, PRIOR_BURSTS);
            noise.sure_bursts.push(least);
            noise.bursts.push(most);
            let wander = scale.alternatives.iter().map(|way| {
                let means: Vec<(f64, f64)> = blocks
                    .iter()
                    .filter(|b| b.timed > 0.0)
                    .map(|b| (b.mean(&way.score), way.variance / b.timed))
                    .collect();
                variance(&means, way.prior_noise).1
            });
            noise.wander.push(wander.collect());
        }
        noise
    }

    /// The index of the longest scale that a block of so many seconds fills.
    pub(super) fn scale_of(seconds: f64) -> usize {
        SCALES.iter().rposition(|&minutes| f64::from(minutes) * 60.0 <= seconds + 1.0).unwrap_or(0)
    }
}

fn joined(minutes: &[Block]) -> Block {
    let mut block = Block::default();
    minutes.iter().for_each(|minute| block.add(minute));
    block
}

/// Bounds of the variance of deviations beyond that of the counting, from (deviation, variance of counting) a block. The upper
/// one takes a prior variance for granted.
///
/// Blocks count by how well they are known, so that a night without traffic doesn't hide the noise of the day.
fn variance(blocks: &[(f64, f64)], prior: f64) -> (f64, f64) {
    let typical = median(blocks.iter().map(|b| b.1));
    let (mut weights, mut squares_of_weights, mut squares, mut counting) = (0.0, 0.0, 0.0, 0.0);
    for &(deviation, variance) in blocks {
        let weight = typical / (typical + variance);
        weights += weight;
        squares_of_weights += weight * weight;
        squares += weight * deviation * deviation;
        counting += weight * variance;
    }
    if weights <= 0.0 {
        return (0.0, prior);
    }
    let effective = weights * weights / squares_of_weights;
    let (spread, counting) = (squares / weights, counting / weights);
    let quantile = |freedom: f64, q: f64| ChiSquared::new(freedom).map_or(0.0, |chi| chi.inverse_cdf(q));
    let least = spread * effective / quantile(effective, 1.0 - BOUND) - counting;
    let freedom = effective + PRIOR_BLOCKS;
    let with_prior = spread * effective + (prior + counting) * PRIOR_BLOCKS;
    let most = with_prior / quantile(freedom, BOUND) - counting;
    (least.max(0.0), most.max(0.0))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
