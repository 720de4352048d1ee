//! Noise of one side alone: how much a mean over two minutes, four, eight, … wanders, learned from the primary itself.
//!
//! Requests of one minute aren't independent: a collector runs, a neighbour takes the disk. Tests that take them for
//! independent call every such minute a difference, and the more surely the more traffic there is. How far such means wander
//! is learned from the primary's past, a scale of time at a time (as the Allan variance does), and a shadow is allowed as
//! much. Noise that lasts shows in the long scales, which then stay wide where those of short noise narrow.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::{Counts, scale::Scale};

/// Lengths of blocks, in minutes. The past's minutes are cut anywhere: noise that lasts one is spread over two of them, and
/// would seem half as large in each. Two minutes lose a quarter at most.
pub(super) const SCALES: [u32; 6] = [2, 4, 8, 16, 32, 64];
/// With so many blocks of a length the past is long beside it. Then a mean over it is known to wander no more than one over half
/// of it, as any stationary noise does. With fewer blocks the noise may outlast the past, and be any.
const KNOWN_BLOCKS: usize = 16;
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
    pub(super) known: f64,
    pub(super) diverged: f64,
}

impl Block {
    /// Of counts, with their latencies in the scale's bins.
    pub(super) fn of(bins: Vec<f64>, seconds: f64, counts: &Counts) -> Self {
        Self {
            seconds,
            requests: counts.requests as f64,
            errors: counts.errors as f64,
            timed: bins.iter().sum(),
            bins,
            known: 0.0,
            diverged: 0.0,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.requests += other.requests;
        self.errors += other.errors;
        self.timed += other.timed;
        self.known += other.known;
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
    /// The same of the body's mean score, a scale each.
    pub(super) body_wander: Vec<f64>,
}

impl Noise {
    /// Learns from the primary's minutes, in their order.
    pub(super) fn learn(scale: &Scale, minutes: &[Block]) -> Self {
        let requests: f64 = minutes.iter().map(|m| m.requests).sum();
        let errors: f64 = minutes.iter().map(|m| m.errors).sum();
        let error_rate = (errors + 0.5) / (requests + 1.0);
        let mut noise = Self {
            error_rate,
            bursts: Vec::new(),
            sure_bursts: Vec::new(),
            wander: Vec::new(),
            body_wander: Vec::new(),
        };
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
            let known = blocks.len() >= KNOWN_BLOCKS;
            let shorter = noise.bursts.last().filter(|_| known).copied();
            let (least, most) = variance(&bursts, shorter, PRIOR_BURSTS);
            noise.sure_bursts.push(least);
            noise.bursts.push(most);
            let wander = |score: &[f64], counting: f64, shorter: Option<f64>, prior: f64| {
                let timed = blocks.iter().filter(|b| b.timed > 0.0);
                let means: Vec<(f64, f64)> = timed.map(|b| (b.mean(score), counting / b.timed)).collect();
                variance(&means, shorter.filter(|_| known), prior).1
            };
            let ways = scale.alternatives.iter().enumerate();
            let shorter = |k: usize| noise.wander.last().map(|wander| wander[k]);
            let wander_of_ways = ways.map(|(k, w)| wander(&w.score, w.variance, shorter(k), w.prior_noise));
            let wander_of_ways = wander_of_ways.collect();
            let (body, shorter) = (&scale.body, noise.body_wander.last().copied());
            noise.body_wander.push(wander(&body.score, body.variance, shorter, body.prior_noise));
            noise.wander.push(wander_of_ways);
        }
        noise
    }

    /// The noise of a block of so many seconds.
    pub(super) fn lasting(&self, seconds: f64) -> Lasting<'_> {
        let minutes = (seconds / 60.0).max(1.0);
        let longer = SCALES.iter().position(|&scale| f64::from(scale) > minutes).unwrap_or(SCALES.len() - 1);
        let shorter = longer.saturating_sub(1);
        let (from, to) = (f64::from(SCALES[shorter]), f64::from(SCALES[longer]));
        let part = if to > from { ((minutes / from).ln() / (to / from).ln()).clamp(0.0, 1.0) } else { 0.0 };
        Lasting { noise: self, shorter, longer, part, times: (f64::from(SCALES[0]) / minutes).max(1.0) }
    }
}

/// Noise between two learned lengths: its variance goes as a power of the length. Below the shortest it goes as its inverse, as
/// that of the shortest noise does, down to a minute.
#[derive(Clone, Copy)]
pub(super) struct Lasting<'a> {
    noise: &'a Noise,
    shorter: usize,
    longer: usize,
    part: f64,
    times: f64,
}

impl Lasting<'_> {
    fn between(&self, of: impl Fn(usize) -> f64) -> f64 {
        let (from, to) = (of(self.shorter), of(self.longer));
        if from > 0.0 && to > 0.0 { from * (to / from).powf(self.part) } else { from }
    }

    /// At most this relative variance of the rate of errors.
    pub(super) fn bursts(&self) -> f64 {
        self.between(|length| self.noise.bursts[length]) * self.times
    }

    /// At least this.
    pub(super) fn sure_bursts(&self) -> f64 {
        self.between(|length| self.noise.sure_bursts[length])
    }

    /// Variance of the mean score of a way to be slower.
    pub(super) fn wander(&self, way: usize) -> f64 {
        self.between(|length| self.noise.wander[length][way]) * self.times
    }

    /// Variance of the body's mean score.
    pub(super) fn body_wander(&self) -> f64 {
        self.between(|length| self.noise.body_wander[length]) * self.times
    }
}

fn joined(minutes: &[Block]) -> Block {
    let mut block = Block::default();
    minutes.iter().for_each(|minute| block.add(minute));
    block
}

/// Bounds of the variance of deviations beyond that of the counting, from (deviation, variance of counting) a block. The upper
/// one takes a prior variance for granted, and where that of a shorter length is a bound, it.
///
/// Blocks count by how well they are known, so that a night without traffic doesn't hide the noise of the day.
fn variance(blocks: &[(f64, f64)], shorter: Option<f64>, prior: f64) -> (f64, f64) {
    let prior = shorter.unwrap_or(prior);
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
    (least.max(0.0), most.max(0.0).min(shorter.unwrap_or(f64::MAX)))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::evidence::{
        JudgePolicy,
        tests::{calm, history},
    };

    fn learned(minutes: u32) -> Noise {
        let past = history(minutes, calm, &mut StdRng::seed_from_u64(1));
        let scale = Scale::new(&past.latency(), &JudgePolicy::default());
        Noise::learn(&scale, &past.blocks(&scale))
    }

    #[test]
    fn a_longer_mean_wanders_no_more_than_a_shorter_one_once_the_past_is_long_beside_it() {
        let noise = learned(1_440);
        assert!(noise.bursts.is_sorted_by(|shorter, longer| shorter >= longer), "{:?}", noise.bursts);
        assert!(
            noise.body_wander.is_sorted_by(|shorter, longer| shorter >= longer),
            "{:?}",
            noise.body_wander
        );
        // Of a tenth of the errors by chance in a minute, nearly nothing is left in an hour.
        assert!(noise.bursts[5] < 0.05, "{:?}", noise.bursts);
    }

    #[test]
    fn what_may_outlast_a_short_past_is_taken_to_be_large() {
        let noise = learned(20);
        assert!(noise.bursts[5] >= PRIOR_BURSTS, "{:?}", noise.bursts);
    }

    #[test]
    fn between_two_lengths_noise_goes_as_a_power() {
        let mut noise = learned(20);
        noise.bursts = vec![0.4, 0.2, 0.1, 0.05, 0.02, 0.01];
        let at = |minutes: f64| noise.lasting(minutes * 60.0).bursts();
        for (minutes, bursts) in
            [(0.5, 0.8), (1.0, 0.8), (1.5, 0.8 / 1.5), (4.0, 0.2), (64.0, 0.01), (99.0, 0.01)]
        {
            assert!((at(minutes) - bursts).abs() < 1e-12, "{minutes} minutes: {}", at(minutes));
        }
        assert!((at(3.0) - 0.8 / 3.0).abs() < 1e-9, "{}", at(3.0));
    }
}
