//! The primary's usual latencies as a scale: quantile bins, and the ways to be slower that are looked for.
//!
//! A way to be slower is a ratio of densities, shadow to primary, one number a bin. Three families cover what goes wrong in
//! practice: everything is slower (a tilt by the normal score of the quantile), the tail is stretched (what lies beyond a
//! quantile lies further beyond it), or more requests than usual lie beyond a quantile (a step). All use the whole histogram:
//! exceedances of the p99 alone need 13 times as many requests to see that everything is 10 % slower.

use mirror_common::hist::{BUCKETS, bucket, lowest};
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

use super::{Histogram, JudgePolicy};

/// Where the scale is cut, as shares of the primary's requests. Denser where the tail is.
const CUTS: [f64; 23] = [
    0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.965, 0.975, 0.98,
    0.985, 0.99, 0.993, 0.996, 0.999,
];
/// Few ways cost little: each has to be paid for with its share of the stakes. What lies between two is found nearly as soon, and
/// less than half of the smallest never is.
///
/// Tilts by the normal score: in standard deviations of the (normal scores of the) latency.
const TILTS: [f64; 3] = [0.1, 0.25, 0.6];
/// Tails that are stretched: beyond this quantile `q`, a latency `x` becomes `q (x / q)^(1 + stretch)`.
const STRETCHED: [f64; 2] = [0.9, 0.97];
const STRETCHES: [f64; 2] = [0.15, 0.5];
/// The quantile beyond which more requests are looked for, and how many times as many.
const STEPPED: f64 = 0.99;
const STEPS: [f64; 2] = [1.35, 2.5];
/// Normal scores beyond this count as this: the ends of a histogram are noise.
const MAX_SCORE: f64 = 2.5;
/// Nor is a bin's ratio of densities believed beyond this.
const MAX_RATIO: f64 = 20.0;
/// Noise that is taken for granted while little is learned, in standard deviations of a single request's score.
const BODY_NOISE: f64 = 0.06;
const TAIL_NOISE: f64 = 0.03;

/// A way to be slower.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Alternative {
    /// Logarithm of the ratio of densities, shadow to primary, a bin each.
    pub(super) log_ratio: Vec<f64>,
    /// A score whose mean shows it, a bin each. Its mean over the primary's usual requests is 0, and for a tail it doesn't move
    /// with the body: noise of one side mostly moves everything at once, and is weighed apart.
    pub(super) score: Vec<f64>,
    /// Variance of a request's score.
    pub(super) variance: f64,
    /// Variance that noise adds to a block's mean score, taken for granted while little is learned.
    pub(super) prior_noise: f64,
    /// How much of the body's score the log ratio has beside `score`.
    pub(super) follows: f64,
}

/// The body: normal scores of the quantiles, centred.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Body {
    /// A bin each.
    pub(super) score: Vec<f64>,
    /// Variance of a request's score.
    pub(super) variance: f64,
    /// Variance that noise adds to a block's mean score, taken for granted while little is learned.
    pub(super) prior_noise: f64,
}

/// Quantile bins of a primary's latencies, and what is looked for in them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Scale {
    bin_of: Vec<u8>,
    /// The bins that the shadow's requests of a bucket belong to once the allowance is taken off, and which part of them.
    allowed_bins_of: Vec<Vec<(u8, f64)>>,
    /// The primary's usual share of requests, a bin each.
    pub(super) share: Vec<f64>,
    pub(super) body: Body,
    pub(super) alternatives: Vec<Alternative>,
}

impl Scale {
    /// Cuts the scale. `usual` must hold requests.
    pub(super) fn new(usual: &Histogram, policy: &JudgePolicy) -> Self {
        let (bin_of, share) = cut(usual);
        let below = Below::new(usual);
        let allowed_bins_of = (0..BUCKETS).map(|k| allowed_bins(k, &bin_of, &below, policy)).collect();
        let score = centred(&normal_scores(&share), &share);
        let mut scale =
            Self { bin_of, allowed_bins_of, share, body: Body::default(), alternatives: Vec::new() };
        let variance = scale.mean_product(&score, &score);
        scale.body = Body { score, variance, prior_noise: BODY_NOISE * BODY_NOISE * variance };
        for tilt in TILTS {
            scale.look_for(scale.body.score.iter().map(|score| tilt * score).collect(), false);
        }
        for quantile in STRETCHED {
            let from = usual.quantile_us(quantile).unwrap_or(1).max(1) as f64;
            for stretch in STRETCHES {
                scale.look_for(scale.stretched(&below, from, stretch), true);
            }
        }
        let beyond = scale.beyond(STEPPED);
        for ratio in STEPS {
            scale.look_for(beyond.iter().map(|b| b * f64::ln(ratio)).collect(), true);
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

    /// The same of the shadow, less what is allowed.
    pub(super) fn bin_allowed(&self, histogram: &Histogram) -> Vec<f64> {
        let mut bins = vec![0.0; self.share.len()];
        for (parts, &count) in self.allowed_bins_of.iter().zip(histogram.buckets()) {
            if count > 0 {
                parts.iter().for_each(|&(bin, part)| bins[usize::from(bin)] += part * count as f64);
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

    /// The log ratio of densities, a bin each, where what lies beyond `from` (µs) is stretched.
    fn stretched(&self, below: &Below, from: f64, stretch: f64) -> Vec<f64> {
        let before = |us: f64| if us <= from { us } else { from * (us / from).powf(1.0 / (1.0 + stretch)) };
        let mut share = vec![0.0; self.share.len()];
        for (k, &bin) in self.bin_of.iter().enumerate() {
            let (low, high) = (lowest(k as u32) as f64, lowest(k as u32 + 1) as f64);
            share[usize::from(bin)] += (below.at(before(high)) - below.at(before(low))).max(0.0);
        }
        rising(&share, &self.share).map(|ratio| ratio.clamp(1.0 / MAX_RATIO, MAX_RATIO).ln()).collect()
    }

    /// Adds a way to be slower. Its score is the log ratio itself; a tail's is split off from what follows from a body that
    /// moved.
    fn look_for(&mut self, mut log_ratio: Vec<f64>, tail: bool) {
        let total: f64 = log_ratio.iter().zip(&self.share).map(|(r, p)| r.exp() * p).sum();
        log_ratio.iter_mut().for_each(|r| *r -= total.ln());
        let mut score = centred(&log_ratio, &self.share);
        let body = &self.body;
        let mut follows = 0.0;
        if tail && body.variance > 0.0 {
            follows = self.mean_product(&body.score, &score) / body.variance;
            score.iter_mut().zip(&body.score).for_each(|(s, b)| *s -= follows * b);
        }
        let variance = self.mean_product(&score, &score);
        let noise = if tail { TAIL_NOISE } else { BODY_NOISE };
        let prior_noise = noise * noise * variance;
        self.alternatives.push(Alternative { log_ratio, score, variance, prior_noise, follows });
    }

    fn mean_product(&self, a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).zip(&self.share).map(|((a, b), p)| a * b * p).sum()
    }
}

/// The distribution function of a histogram, with even logarithms within a bucket.
struct Below {
    at_edge: Vec<f64>,
}

impl Below {
    fn new(usual: &Histogram) -> Self {
        let total = usual.total().max(1) as f64;
        let mut seen = 0.0;
        let mut at_edge = vec![0.0];
        at_edge.extend(usual.buckets().iter().map(|&count| {
            seen += count as f64;
            seen / total
        }));
        Self { at_edge }
    }

    /// Share of the requests below so many microseconds.
    fn at(&self, us: f64) -> f64 {
        let k = (bucket(us.clamp(0.0, f64::from(u32::MAX)) as u32) as usize).min(BUCKETS - 1);
        let (low, high) = ((lowest(k as u32) as f64).max(0.5), lowest(k as u32 + 1) as f64);
        let part = ((us.max(0.5) / low).ln() / (high / low).ln()).clamp(0.0, 1.0);
        self.at_edge[k] + (self.at_edge[k + 1] - self.at_edge[k]) * part
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

/// The bins, and the part in each, of what the shadow answers within a bucket, once the allowance is taken off.
///
/// A bucket that is torn apart is divided as the primary's usual requests are: if the shadow is as the primary but for the
/// allowance, then each bin gets its due on average. That parts are counted instead of whole requests makes evidence smaller
/// (the logarithm is concave).
fn allowed_bins(k: usize, bin_of: &[u8], below: &Below, policy: &JudgePolicy) -> Vec<(u8, f64)> {
    let less = |edge: usize| policy.less_allowed_us(lowest(edge as u32) as f64).max(0.0);
    let (low, high) = (less(k), less(k + 1));
    let first = (bucket(low as u32) as usize).min(BUCKETS - 1);
    let mut parts: Vec<(u8, f64)> = Vec::new();
    for (at, &bin) in bin_of.iter().enumerate().skip(first) {
        let (from, to) = (lowest(at as u32) as f64, lowest(at as u32 + 1) as f64);
        if from >= high {
            break;
        }
        let part = (below.at(high.min(to)) - below.at(low.max(from))).max(0.0);
        match parts.last_mut().filter(|last| last.0 == bin) {
            Some(last) => last.1 += part,
            None => parts.push((bin, part)),
        }
    }
    let total: f64 = parts.iter().map(|(_, part)| part).sum();
    if total <= 0.0 {
        // Where the primary has none, all goes to the fastest.
        return vec![(bin_of[first], 1.0)];
    }
    parts.retain(|(_, part)| *part > 0.0);
    parts.iter_mut().for_each(|(_, part)| *part /= total);
    parts
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

/// The ratio of two shares, a bin each, made to rise by pooling neighbours that fall.
///
/// Only a ratio that rises with the latency is no evidence against a shadow that is *faster*: with a stretched tail's gap
/// left in, a shadow that has none of these latencies would look stretched.
fn rising(new: &[f64], old: &[f64]) -> impl Iterator<Item = f64> {
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for (&n, &o) in new.iter().zip(old) {
        let mut pool = (n.max(1e-12), o.max(1e-12), 1);
        while let Some(&(n, o, bins)) = pools.last()
            && n * pool.1 > pool.0 * o
        {
            pool = (pool.0 + n, pool.1 + o, pool.2 + bins);
            pools.pop();
        }
        pools.push(pool);
    }
    pools.into_iter().flat_map(|(n, o, bins)| std::iter::repeat_n(n / o, bins))
}

fn centred(score: &[f64], share: &[f64]) -> Vec<f64> {
    let mean: f64 = score.iter().zip(share).map(|(s, p)| s * p).sum();
    score.iter().map(|s| s - mean).collect()
}
