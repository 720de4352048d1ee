//! Evidence from one start on: by tick, and with the noise of one side taken into account.
//!
//! Each number is the logarithm of a likelihood ratio, shadow worse in one way against no worse. Mixed over the ways it is an
//! e-process: where the shadow is no worse its expectation never exceeds 1, whenever one looks, so that it passes 1/α with a
//! probability of at most α (Ville). The evidence is the least over the ways in which it could be chance.

use serde::{Deserialize, Serialize};

use super::{
    Metric, Tick,
    noise::{Block, Noise, SCALES},
    scale::Scale,
};

/// Ratios of errors, and of differences, that are looked for: 1.8, 3.2, 5.8, … 34
const RATIOS: i32 = 6;
const RATIO: f64 = 1.8;
/// Odds of the shadow being the slower of a pair.
const PAIR_ODDS: [f64; 4] = [1.1, 1.3, 1.8, 3.0];

fn ratios() -> impl Iterator<Item = f64> {
    (1..=RATIOS).map(|k| RATIO.powi(k))
}

/// A log likelihood ratio for every way to be worse, a metric each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Logs([Vec<f64>; 3]);

impl Logs {
    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            // Nothing yet: as many zeros.
            mine.resize(theirs.len(), 0.0);
            mine.iter_mut().zip(theirs).for_each(|(m, t)| *m += t);
        }
    }

    fn empty() -> Self {
        Self([Vec::new(), Vec::new(), Vec::new()])
    }

    /// The mixture's logarithm. Without any observation 0.
    fn mixed(&self, metric: Metric, and: Option<&Self>) -> f64 {
        let logs = &self.0[metric as usize];
        let more = and.map_or(&[][..], |and| &and.0[metric as usize]);
        let length = logs.len().max(more.len());
        if length == 0 {
            return 0.0;
        }
        let at = |k: usize| logs.get(k).unwrap_or(&0.0) + more.get(k).unwrap_or(&0.0);
        log_sum_exp((0..length).map(at)) - (length as f64).ln()
    }
}

/// `ln Σ exp(x)`, without overflow.
pub(super) fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if most.is_infinite() {
        return most;
    }
    most + values.map(|x| (x - most).exp()).sum::<f64>().ln()
}

/// The log likelihood ratio of `hits` of `all` events being the shadow's, where it makes `ratio` times as many as its
/// `share` of the requests explains, against its share alone. `log_ratio` is the ratio's logarithm.
///
/// Given the events of a tick, whose they are is binomial whatever their rate is: load and rates may change from tick to
/// tick (Turner and Grünwald's conditional e-variable).
pub(super) fn conditional(hits: f64, all: f64, share: f64, log_ratio: f64) -> f64 {
    hits * log_ratio - all * (share * log_ratio.exp_m1()).ln_1p()
}

/// What one tick says, a way to be worse each, if requests are independent within the tick.
pub(super) fn by_tick(scale: &Scale, allowance: f64, tick: &Tick) -> Logs {
    let (primary, shadow) = (&tick.primary, &tick.shadow);
    let share = share(shadow.requests as f64, primary.requests as f64);
    let pairs = &tick.pairs;
    let errors = if tick.moved {
        let (hits, all) = (shadow.errors as f64, (shadow.errors + primary.errors) as f64);
        ratios().map(|r| conditional(hits, all, share, r.ln())).collect()
    } else {
        let (hits, others) = (pairs.errors_shadow_only as f64, pairs.errors_primary_only as f64);
        ratios().map(|r| conditional(hits, hits + others, 0.5, r.ln())).collect()
    };
    let (theirs, mine) = (scale.bin(&primary.latency), scale.bin(&shadow.latency));
    let of_latency = share_of(&mine, &theirs);
    let mut latency: Vec<f64> = scale
        .alternatives
        .iter()
        .map(|way| {
            let bins = way.log_ratio.iter().zip(mine.iter().zip(&theirs));
            bins.map(|(r, (m, t))| conditional(*m, m + t, of_latency, *r)).sum()
        })
        .collect();
    let (slower, faster) = (pairs.shadow_slower as f64, pairs.primary_slower as f64);
    latency.extend(PAIR_ODDS.iter().map(|odds| conditional(slower, slower + faster, 0.5, odds.ln())));
    let (diverged, compared) = (pairs.diverged as f64, pairs.compared as f64);
    let divergence = ratios()
        .map(|r| {
            let rate = (allowance * r).min(0.99);
            diverged * (rate / allowance).ln()
                + (compared - diverged) * ((1.0 - rate) / (1.0 - allowance)).ln()
        })
        .collect();
    Logs([errors, latency, divergence])
}

fn share(shadow: f64, primary: f64) -> f64 {
    if shadow > 0.0 { shadow / (shadow + primary) } else { 0.0 }
}

fn share_of(mine: &[f64], theirs: &[f64]) -> f64 {
    share(mine.iter().sum(), theirs.iter().sum())
}

/// What a block of the shadow says beside the primary's usual, if the block has one noise of its own.
fn by_block(scale: &Scale, noise: &Noise, allowance: f64, block: &Block) -> Logs {
    let length = Noise::scale_of(block.seconds);
    let burst = noise.bursts[length];
    let counted = |count: f64, expected: f64| {
        ratios().map(|ratio| log_ratio_of_counts(count, expected, ratio, burst)).collect::<Vec<f64>>()
    };
    let latency = if block.timed > 0.0 {
        let ways = scale.alternatives.iter().zip(&noise.wander[length]);
        ways.map(|(way, wander)| {
            let variance = (way.half_way / block.timed + wander).max(1e-12);
            way.shift * (block.mean(&way.score) - way.shift / 2.0) / variance
        })
        .collect()
    } else {
        Vec::new()
    };
    Logs([
        counted(block.errors, block.requests * noise.error_rate),
        latency,
        counted(block.diverged, block.compared * allowance),
    ])
}

/// Log likelihood ratio of a count whose rate wanders as a gamma distribution of mean 1 and variance `burst` does (so that the
/// count is negative binomial), `ratio` times the expected one against the expected one.
pub(super) fn log_ratio_of_counts(count: f64, expected: f64, ratio: f64, burst: f64) -> f64 {
    if burst < 1e-9 {
        return count * ratio.ln() - expected * (ratio - 1.0);
    }
    let shape = 1.0 / burst;
    count * ratio.ln() + (shape + count) * ((shape + expected) / (shape + expected * ratio)).ln()
}

/// Evidence under noise that lasts as long as a block.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Track {
    seconds: f64,
    complete: Logs,
    current: Block,
}

/// All evidence since a start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    by_tick: Logs,
    tracks: Vec<Track>,
}

impl Run {
    pub(super) fn new() -> Self {
        let track = |minutes: &u32| Track {
            seconds: f64::from(*minutes) * 60.0,
            complete: Logs::empty(),
            current: Block::default(),
        };
        Self { by_tick: Logs::empty(), tracks: SCALES.iter().map(track).collect() }
    }

    pub(super) fn observe(
        &mut self,
        scale: &Scale,
        noise: &Noise,
        allowance: f64,
        logs: &Logs,
        tick: &Block,
    ) {
        self.by_tick.add(logs);
        for track in &mut self.tracks {
            track.current.add(tick);
            if track.current.seconds + 1e-6 >= track.seconds {
                track.complete.add(&by_block(scale, noise, allowance, &track.current));
                track.current = Block::default();
            }
        }
    }

    /// Log evidence that the shadow is worse. Noise is only asked where chance alone doesn't explain it: beyond `enough`.
    pub(super) fn evidence(&self, scale: &Scale, noise: &Noise, allowance: f64, enough: f64) -> [f64; 3] {
        let mut least = Metric::ALL.map(|metric| self.by_tick.mixed(metric, None));
        if least.iter().all(|&evidence| evidence < enough) {
            return least;
        }
        for track in &self.tracks {
            let current =
                (track.current.seconds > 0.0).then(|| by_block(scale, noise, allowance, &track.current));
            for metric in Metric::ALL {
                let evidence = track.complete.mixed(metric, current.as_ref());
                least[metric as usize] = least[metric as usize].min(evidence);
            }
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use statrs::distribution::{Binomial, Discrete, NegativeBinomial};

    use super::*;

    #[test]
    fn a_conditional_likelihood_ratio_is_expected_to_be_1() {
        for (all, share) in [(7, 0.01), (40, 0.3), (40, 0.95)] {
            let binomial = Binomial::new(share, all).unwrap();
            for ratio in ratios() {
                let expected: f64 = (0..=all)
                    .map(|hits| {
                        binomial.pmf(hits) * conditional(hits as f64, all as f64, share, ratio.ln()).exp()
                    })
                    .sum();
                assert!(
                    (expected - 1.0).abs() < 1e-9,
                    "{all} events, share {share}, ratio {ratio}: {expected}"
                );
            }
        }
    }

    #[test]
    fn a_likelihood_ratio_under_bursts_is_expected_to_be_1() {
        for (mean, burst) in [(0.3, 0.5), (12.0, 0.5), (12.0, 0.05)] {
            let shape = 1.0 / burst;
            let counts = NegativeBinomial::new(shape, shape / (shape + mean)).unwrap();
            for ratio in ratios() {
                let expected: f64 = (0..20_000)
                    .map(|n| (counts.ln_pmf(n) + log_ratio_of_counts(n as f64, mean, ratio, burst)).exp())
                    .sum();
                assert!(
                    (expected - 1.0).abs() < 1e-3,
                    "mean {mean}, burst {burst}, ratio {ratio}: {expected}"
                );
            }
        }
    }

    #[test]
    fn without_bursts_it_is_the_ratio_of_poisson_counts() {
        let (calm, nearly) =
            (log_ratio_of_counts(9.0, 4.0, 1.8, 0.0), log_ratio_of_counts(9.0, 4.0, 1.8, 1e-7));
        assert!((calm - nearly).abs() < 1e-5, "{calm} {nearly}");
    }
}
