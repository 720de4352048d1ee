//! Evidence from one start on: by tick, and with the noise of one side taken into account.
//!
//! Each number is the logarithm of a likelihood ratio, shadow worse in one way against no worse. Mixed over the ways it is an
//! e-process: where the shadow is no worse its expectation never exceeds 1, whenever one looks, so that it passes 1/α with a
//! probability of at most α (Ville). The evidence is the least over the ways in which it could be chance.

use serde::{Deserialize, Serialize};

use super::{
    JudgePolicy, Metric, Tick,
    boost::{self, Boost, Counted, Errors, Stakes},
    noise::{Block, Noise, SCALES},
    scale::{Alternative, Scale},
};

/// Ratios of errors, and of differences, that are looked for: 1.8, 3.2, 5.8, 10, 19. More is found at once by the last.
const RATIOS: i32 = 5;
const RATIO: f64 = 1.8;
/// Odds of the shadow being the slower of a pair.
const PAIR_ODDS: [f64; 4] = [1.1, 1.3, 1.8, 3.0];
/// Part of the stakes on latency that is set on the order of pairs.
const ON_PAIRS: f64 = 0.05;
/// Metrics whose last step is boosted. Differences are found while nobody is served by the shadow.
const BOOSTED: [Metric; 2] = [Metric::Errors, Metric::Latency];
/// Evidence that is enough is so after rounding, too.
const ROUNDING: f64 = 1e-9;

pub(super) fn ratios() -> impl Iterator<Item = f64> + Clone {
    (1..=RATIOS).map(|k| RATIO.powi(k))
}

/// A log likelihood ratio for every way to be worse, a metric each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Logs([Vec<f64>; 3]);

/// What was set on every way to be worse, and what became of it. The stakes of a metric sum to 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Bets {
    each: Logs,
    /// What all of a metric were multiplied by beside; logarithms.
    boost: [f64; 3],
}

impl Bets {
    fn new(scale: &Scale) -> Self {
        let even = |ways: usize, part: f64| std::iter::repeat_n((part / ways as f64).ln(), ways);
        let latency = even(scale.alternatives.len(), 1.0 - ON_PAIRS).chain(even(PAIR_ODDS.len(), ON_PAIRS));
        let counts = || even(RATIOS as usize, 1.0).collect();
        Self { each: Logs([counts(), latency.collect(), counts()]), boost: [0.0; 3] }
    }

    fn add(&mut self, logs: &Logs) {
        for (bets, logs) in self.each.0.iter_mut().zip(&logs.0) {
            bets.iter_mut().zip(logs).for_each(|(bet, log)| *bet += log);
        }
    }

    fn logs(&self, metric: Metric, and: Option<&Logs>) -> Vec<f64> {
        let more = and.map_or(&[][..], |and| &and.0[metric as usize]);
        let bets = self.each.0[metric as usize].iter().enumerate();
        bets.map(|(way, bet)| bet + more.get(way).unwrap_or(&0.0)).collect()
    }

    /// The logarithm of what all are worth; without any observation 0.
    fn worth(&self, metric: Metric, and: Option<&Logs>) -> f64 {
        self.boost[metric as usize] + log_sum_exp(self.logs(metric, and).into_iter())
    }

    /// What is staked, where it may get to `enough` with a tick.
    fn near(&self, metric: Metric, and: Option<&Logs>, enough: [f64; 3]) -> Option<Stakes> {
        Stakes::near(&self.logs(metric, and), self.boost[metric as usize], enough[metric as usize])
    }

    /// Boosts what is staked, once the tick is in.
    fn boost(&mut self, metric: Metric, and: Option<&Logs>, boost: Boost, enough: [f64; 3]) {
        self.boost[metric as usize] += boost.log;
        let lacking = enough[metric as usize] - self.worth(metric, and);
        if boost.called && lacking > 0.0 {
            self.boost[metric as usize] += lacking + ROUNDING;
        }
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

/// The log of an e-value for "the shadow's rate is at most the primary's and `allowance`", from `hits` of the shadow's and
/// `others` of the primary's among `trials` of both, of which the shadow has its `share`.
///
/// A bet on each trial: a hit of the shadow's wins `won`, one of the primary's loses as much as keeps the bet fair whatever the
/// common rate is, and each trial costs what the allowance alone would win. Averaged over the trials that expects 1 at most,
/// and a product is at most the average (of logarithms), so that rates may change within the tick. Without an allowance a
/// hit is worth as much as in [`conditional`].
pub(super) fn bet_on_rate(
    hits: f64,
    others: f64,
    trials: f64,
    share: f64,
    ratio: f64,
    allowance: f64,
) -> f64 {
    if share <= 0.0 || share >= 1.0 {
        return 0.0;
    }
    let won = (1.0 - share) * (ratio - 1.0) / (1.0 + share * (ratio - 1.0));
    // Where nearly all is staked on a large allowance the primary's hits could cost more than there is.
    let won = won.min(0.99 / (share * allowance + share / (1.0 - share)));
    let cost = 1.0 - share * won * allowance;
    let lost = share * won / (1.0 - share);
    hits * (won / cost).ln_1p() + others * (-lost / cost).ln_1p() + trials * cost.ln()
}

/// What one tick says, a way to be worse each, if requests are independent within the tick.
pub(super) fn by_tick(scale: &Scale, policy: &JudgePolicy, tick: &Tick) -> Logs {
    let (primary, shadow) = (&tick.primary, &tick.shadow);
    let pairs = &tick.pairs;
    let excess = policy.error_allowance;
    let errors = if tick.moved {
        let (mine, theirs) = (shadow.requests as f64, primary.requests as f64);
        let (hits, others, share) = (shadow.errors as f64, primary.errors as f64, share(mine, theirs));
        ratios().map(|r| bet_on_rate(hits, others, mine + theirs, share, r, excess)).collect()
    } else {
        let (hits, others) = (pairs.errors_shadow_only as f64, pairs.errors_primary_only as f64);
        // A pair is one trial with both in it.
        let trials = pairs.compared as f64;
        ratios().map(|r| bet_on_rate(hits, others, trials, 0.5, r, 2.0 * excess)).collect()
    };
    let (theirs, mine) = (scale.bin(&primary.latency), scale.bin_allowed(&shadow.latency));
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
    // What couldn't be compared is no good news: it would only thin out the differences.
    let (diverged, known, allowance) =
        (pairs.diverged as f64, pairs.known as f64, policy.divergence_allowance);
    let divergence = ratios()
        .map(|r| {
            let rate = (allowance * r).min(0.99);
            diverged * (rate / allowance).ln() + (known - diverged) * ((1.0 - rate) / (1.0 - allowance)).ln()
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
fn by_block(scale: &Scale, noise: &Noise, policy: &JudgePolicy, block: &Block) -> Logs {
    let noise_of_block = noise.lasting(block.seconds);
    let burst = noise_of_block.bursts();
    let counted = |count: f64, expected: f64| {
        ratios().map(|ratio| log_ratio_of_counts(count, expected, ratio, burst)).collect::<Vec<f64>>()
    };
    let latency = if block.timed > 0.0 {
        let body_wander = noise_of_block.body_wander();
        let ways = scale.alternatives.iter().enumerate();
        ways.map(|(k, way)| tempered(scale, block, way, noise_of_block.wander(k), body_wander)).collect()
    } else {
        Vec::new()
    };
    Logs([
        counted(block.errors, block.requests * (noise.error_rate + policy.error_allowance)),
        latency,
        counted(block.diverged, block.known * policy.divergence_allowance),
    ])
}

/// The log of an e-value for a way to be slower, where the block's mean scores wander by so much (variances) beside their
/// counting: the way's likelihood ratio, tempered as much as its noise drowns it.
///
/// The exponent's expectation under the primary's usual latencies is taken off exactly, and half the variance that the
/// wandering gives it at most (as of normal distributions, however the two depend on each other). Without noise that is the
/// likelihood ratio itself. Where the body wanders more than it is known by counting, a tail is judged without it.
fn tempered(scale: &Scale, block: &Block, way: &Alternative, wander: f64, body_wander: f64) -> f64 {
    let n = block.timed;
    let (exponent, wandering) = exponent(scale, n, way, wander, body_wander);
    let expected: f64 = exponent.iter().zip(&scale.share).map(|(s, p)| s.exp() * p).sum();
    n * (block.mean(&exponent) - expected.ln()) - (n * wandering).powi(2) / 2.0
}

/// What each of `n` requests adds to the exponent, a bin each, and by how much (standard deviation) its mean wanders at most.
fn exponent(scale: &Scale, n: f64, way: &Alternative, wander: f64, body_wander: f64) -> (Vec<f64>, f64) {
    let body = &scale.body;
    let temper = |variance: f64, wander: f64| {
        if variance > 0.0 { variance / (variance + n * wander) } else { 0.0 }
    };
    let (own, of_body) = (temper(way.variance, wander), temper(body.variance, body_wander));
    let follows = if of_body > 0.5 { way.follows * of_body } else { 0.0 };
    let scores = way.score.iter().zip(&body.score);
    let exponent = scores.map(|(score, body)| own * score + follows * body).collect();
    (exponent, own * wander.sqrt() + follows.abs() * body_wander.sqrt())
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

/// What a tick is weighed by.
#[derive(Clone, Copy)]
pub(super) struct Weighing<'a> {
    pub(super) scale: &'a Scale,
    pub(super) noise: &'a Noise,
    pub(super) policy: &'a JudgePolicy,
    /// Log evidence from which on a metric is called worse.
    pub(super) enough: [f64; 3],
}

/// Evidence under noise that lasts as long as a block.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Track {
    seconds: f64,
    complete: Bets,
    current: Block,
}

impl Track {
    fn new(scale: &Scale, minutes: u32) -> Self {
        let complete = Bets::new(scale);
        Self { seconds: f64::from(minutes) * 60.0, complete, current: Block::default() }
    }

    /// What the block says that isn't complete yet.
    fn so_far(&self, by: Weighing<'_>) -> Option<Logs> {
        (self.current.seconds > 0.0).then(|| by_block(by.scale, by.noise, by.policy, &self.current))
    }

    /// Log evidence, a metric each.
    fn evidence(&self, by: Weighing<'_>) -> [f64; 3] {
        let current = self.so_far(by);
        Metric::ALL.map(|metric| self.complete.worth(metric, current.as_ref()))
    }

    /// Takes a tick in; where the end may be near, with the boosts of errors and latency.
    fn observe(&mut self, by: Weighing<'_>, tick: &Block, near: bool) {
        let boosts = near.then(|| self.boosts(by, tick));
        self.current.add(tick);
        if self.current.seconds + 1e-6 >= self.seconds {
            self.complete.add(&by_block(by.scale, by.noise, by.policy, &self.current));
            self.current = Block::default();
        }
        for (metric, boost) in BOOSTED.into_iter().zip(boosts.into_iter().flatten()) {
            let current = self.so_far(by);
            self.complete.boost(metric, current.as_ref(), boost, by.enough);
        }
    }

    fn boosts(&self, by: Weighing<'_>, tick: &Block) -> [Boost; 2] {
        let then = by.noise.lasting(self.current.seconds + tick.seconds);
        let (rate, current) = (by.noise.error_rate + by.policy.error_allowance, self.so_far(by));
        let counted = |block: &Block| Counted { count: block.errors, expected: block.requests * rate };
        let errors = boost::errors_in_bursts(
            &self.complete.each.0[Metric::Errors as usize],
            self.complete.boost[Metric::Errors as usize],
            by.enough[Metric::Errors as usize],
            counted(&self.current),
            counted(tick),
            then.bursts(),
        );
        let latency = self.complete.near(Metric::Latency, current.as_ref(), by.enough).map(|stakes| {
            let (n, body) = (self.current.timed + tick.timed, then.body_wander());
            let ways = by.scale.alternatives.iter().enumerate();
            let exponents: Vec<Vec<f64>> =
                ways.map(|(k, way)| exponent(by.scale, n, way, then.wander(k), body).0).collect();
            boost::latencies_beside_usual(&stakes, by.scale, &exponents, tick)
        });
        [errors, latency.unwrap_or_default()]
    }
}

/// All evidence since a start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    by_tick: Bets,
    tracks: Vec<Track>,
}

impl Run {
    pub(super) fn new(scale: &Scale) -> Self {
        let tracks = SCALES.iter().map(|minutes| Track::new(scale, *minutes)).collect();
        Self { by_tick: Bets::new(scale), tracks }
    }

    /// Takes a tick in: its counts, what they say by chance, and the shadow's in the scale's bins.
    pub(super) fn observe(&mut self, by: Weighing<'_>, tick: &Tick, logs: &Logs, block: &Block) {
        let near = BOOSTED
            .iter()
            .any(|&metric| self.by_tick.worth(metric, None) + boost::REACH > by.enough[metric as usize]);
        let boosts = near.then(|| self.boosts(by, tick, block));
        self.by_tick.add(logs);
        for (metric, boost) in BOOSTED.into_iter().zip(boosts.into_iter().flatten()) {
            self.by_tick.boost(metric, None, boost, by.enough);
        }
        self.tracks.iter_mut().for_each(|track| track.observe(by, block, near));
    }

    fn boosts(&self, by: Weighing<'_>, tick: &Tick, block: &Block) -> [Boost; 2] {
        let (primary, shadow, pairs) = (&tick.primary, &tick.shadow, &tick.pairs);
        let errors = self.by_tick.near(Metric::Errors, None, by.enough).map(|stakes| {
            let (hits, others, mine, theirs) = if tick.moved {
                (shadow.errors, primary.errors, shadow.requests, Some(primary.requests))
            } else {
                (pairs.errors_shadow_only, pairs.errors_primary_only, pairs.compared, None)
            };
            let errors = Errors { hits, others, mine, theirs };
            boost::errors_by_chance(&stakes, errors, by.policy.error_allowance)
        });
        // Where pairs are compared nobody is served badly, and histograms aren't all that counts.
        let latency = self.by_tick.near(Metric::Latency, None, by.enough).filter(|_| tick.moved);
        let latency = latency.map(|stakes| {
            let theirs = by.scale.bin(&primary.latency);
            boost::latencies_by_chance(&stakes, by.scale, &block.bins, &theirs)
        });
        [errors.unwrap_or_default(), latency.unwrap_or_default()]
    }

    /// Log evidence that the shadow is worse. Noise is only asked where chance alone doesn't explain it: beyond `least`.
    pub(super) fn evidence(&self, by: Weighing<'_>, least: f64) -> [f64; 3] {
        let chance = Metric::ALL.map(|metric| self.by_tick.worth(metric, None));
        if chance.iter().all(|&evidence| evidence < least) {
            return chance;
        }
        self.tracks.iter().fold(chance, |evidence, track| {
            let beside = track.evidence(by);
            std::array::from_fn(|metric| evidence[metric].min(beside[metric]))
        })
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
