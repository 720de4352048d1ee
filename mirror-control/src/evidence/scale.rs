//! The primary's usual latencies as a scale: quantile bins, and the ways to be slower that are looked for.
//!
//! A way to be slower is a ratio of densities, shadow to primary, one number a bin. Two families cover what goes wrong in
//! practice: all requests are slower (a tilt by the normal score of the quantile), or only those beyond a quantile are more
//! (a step at it). Steps use one number of the whole histogram, tilts use all of it: exceedances of the p99 alone need 13
//! times as many requests to see that everything is 10 % slower.

use mirror_common::hist::BUCKETS;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

use super::Histogram;

/// Where the scale is cut, as shares of the primary's requests. Denser where the tail is.
const CUTS: [f64; 23] = [
    0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.965, 0.975, 0.98, 0.985, 0.99,
    0.993, 0.996, 0.999,
];
/// Tilts by the normal score: in standard deviations of the (normal scores of the) latency.
const TILTS: [f64; 4] = [0.1, 0.22, 0.5, 1.1];
/// Quantiles beyond which more requests are looked for.
const TAILS: [f64; 4] = [0.9, 0.95, 0.98, 0.99];
/// How many times as many.
const STEPS: [f64; 3] = [1.4, 2.3, 4.5];
/// Normal scores beyond this count as this: the ends of a histogram are noise.
const MAX_SCORE: f64 = 2.5;

/// A way to be slower.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Alternative {
    /// Logarithm of the ratio of densities, shadow to primary, a bin each.
    pub(super) log_ratio: Vec<f64>,
    /// The direction that shows it (its index).
    pub(super) direction: usize,
    /// The shift that it would make in the mean of the direction's score.
    pub(super) shift: f64,
    /// The variance of one request's score, half way there.
    pub(super) variance: f64,
}

/// A score of a request's latency whose mean over a minute has a noise that can be learned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Direction {
    /// The score, a bin each; its mean over the primary's usual requests is 0.
    pub(super) score: Vec<f64>,
    /// Variance of one request's score.
    pub(super) variance: f64,
    /// Standard deviation of its mean that is taken for granted while little is learned.
    pub(super) prior_noise: f64,
}

/// Quantile bins of a primary's latencies, and what is looked for in them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Scale {
    bin_of: Vec<u8>,
    /// The primary's usual share of requests, a bin each.
    pub(super) share: Vec<f64>,
    pub(super) alternatives: Vec<Alternative>,
    pub(super) directions: Vec<Direction>,
}

impl Scale {
    /// Cuts the scale. `usual` must hold requests.
    pub(super) fn new(usual: &Histogram) -> Self {
        let (bin_of, share) = cut(usual);
        let score = centred(&normal_scores(&share), &share);
        let mut scale = Self { bin_of, share, alternatives: Vec::new(), directions: Vec::new() };
        let body = scale.direct(score.clone(), 0.06);
        for tilt in TILTS {
            let ratio = score.iter().map(|s| tilt * s).collect();
            scale.look_for(ratio, body);
        }
        for tail in TAILS {
            let beyond = scale.beyond(tail);
            let step = centred(&beyond, &scale.share);
            let p: f64 = beyond.iter().zip(&scale.share).map(|(b, p)| b * p).sum();
            if p <= 0.0 {
                continue;
            }
            // What a tail has beyond what follows from a body that moved: noise of one side mostly moves everything.
            let spread: f64 = score.iter().zip(&scale.share).map(|(s, p)| s * s * p).sum();
            let shared: f64 = score.iter().zip(&step).zip(&scale.share).map(|((s, t), p)| s * t * p).sum();
            let rest = step.iter().zip(&score).map(|(t, s)| t - s * shared / spread).collect();
            let rest = scale.direct(rest, 0.10 * p);
            for ratio in STEPS {
                scale.look_for(beyond.iter().map(|b| b * f64::ln(ratio)).collect(), rest);
            }
        }
        scale
    }

    /// The counts of a histogram, a bin each.
    pub(super) fn bin(&self, histogram: &Histogram) -> Vec<f64> {
        let mut bins = vec![0.0; self.share.len()];
        for (&bin, &count) in self.bin_of.iter().zip(histogram.buckets()) {
            if count > 0 {
                bins[usize::from(bin)] += count as f64;
            }
        }
        bins
    }

    /// 1 for the bins beyond a quantile, 0 for those below.
    pub(super) fn beyond(&self, quantile: f64) -> Vec<f64> {
        let mut below = 0.0;
        self.share
            .iter()
            .map(|p| {
                let beyond = f64::from(below >= quantile - 1e-9);
                below += p;
                beyond
            })
            .collect()
    }

    fn direct(&mut self, score: Vec<f64>, prior_noise: f64) -> usize {
        let variance = score.iter().zip(&self.share).map(|(s, p)| s * s * p).sum();
        self.directions.push(Direction { score, variance, prior_noise });
        self.directions.len() - 1
    }

    fn look_for(&mut self, mut log_ratio: Vec<f64>, direction: usize) {
        let total: f64 = log_ratio.iter().zip(&self.share).map(|(r, p)| r.exp() * p).sum();
        log_ratio.iter_mut().for_each(|r| *r -= total.ln());
        let score = &self.directions[direction].score;
        let (shift, _) = self.moments(score, &log_ratio, 1.0);
        let (_, variance) = self.moments(score, &log_ratio, 0.5);
        self.alternatives.push(Alternative { log_ratio, direction, shift, variance });
    }

    /// Mean and variance of a score where the densities are tilted by a part of a log ratio.
    fn moments(&self, score: &[f64], log_ratio: &[f64], part: f64) -> (f64, f64) {
        let (mut total, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for ((s, r), p) in score.iter().zip(log_ratio).zip(&self.share) {
            let weight = p * (part * r).exp();
            total += weight;
            sum += weight * s;
            squares += weight * s * s;
        }
        let mean = sum / total;
        (mean, squares / total - mean * mean)
    }
}

/// Cuts the buckets at quantiles: the bin of each bucket, and the bins' shares.
fn cut(usual: &Histogram) -> (Vec<u8>, Vec<f64>) {
    let total = usual.total() as f64;
    let mut bin_of = Vec::with_capacity(BUCKETS);
    let mut share = vec![0.0];
    let (mut below, mut next) = (0.0, 0);
    for &count in usual.buckets() {
        // A new bin begins with the first bucket whose lower edge is at or beyond a cut.
        let mut begins = false;
        while next < CUTS.len() && below >= CUTS[next] {
            next += 1;
            begins = true;
        }
        if begins && share.last().is_some_and(|&p| p > 0.0) {
            share.push(0.0);
        }
        bin_of.push((share.len() - 1) as u8);
        let p = count as f64 / total;
        *share.last_mut().expect("there is a bin") += p;
        below += p;
    }
    (bin_of, share)
}

/// The normal score of each bin's middle.
fn normal_scores(share: &[f64]) -> Vec<f64> {
    let normal = Normal::standard();
    let mut below = 0.0;
    share
        .iter()
        .map(|p| {
            let middle = (below + p / 2.0).clamp(1e-6, 1.0 - 1e-6);
            below += p;
            normal.inverse_cdf(middle).clamp(-MAX_SCORE, MAX_SCORE)
        })
        .collect()
}

fn centred(score: &[f64], share: &[f64]) -> Vec<f64> {
    let mean: f64 = score.iter().zip(share).map(|(s, p)| s * p).sum();
    score.iter().map(|s| s - mean).collect()
}
