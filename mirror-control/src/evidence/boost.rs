//! Evidence that would go to waste at the last step is used before it.
//!
//! Who calls a shadow worse at evidence of 1/α needs no more than that, but the tick that gets there mostly goes
//! beyond. Ville's inequality is loose by just this. So near the end it is said before a tick which counts, A, will
//! do to call it worse. Where `cap` is what the stakes have to be multiplied by, and the tick multiplies them by E,
//! they are worth `cap` times as much where A comes true, and `boost · E` times where it doesn't. The boost is what
//! makes `cap P(A) + boost E[E; not A]` at most 1, where the shadow is no worse, so that all stays an e-process. It
//! is mostly above 1: paid for by what A would have overshot (Fischer and Ramdas 2025, where A is what gets beyond
//! the cap anyway). docs/STATISTICS.md has the argument.

use statrs::distribution::{Binomial, Discrete, Hypergeometric, NegativeBinomial, Poisson};

use super::{
    noise::Block,
    run::{bet_on_rate, log_ratio_of_counts, log_sum_exp, ratios},
    scale::Scale,
};

/// Log evidence that lacks more than this gets there with hardly any tick.
pub(super) const REACH: f64 = 3.0;
/// What calling it by this tick is worth beside the evidence that lacks, in nats: as much as a later tick would
/// overshoot.
const SPARED: f64 = 1.0;
/// Evidence is never behind what it would be without boosts by more than this, in nats.
const BEHIND: f64 = 0.5;
/// At most this part of the stakes is set aside for errors that are allowed.
const SET_ASIDE: f64 = 0.02;
/// Counts that are gone through. Where there may be more, nothing is boosted.
const MAX_COUNT: u64 = 300;
/// Requests beyond a quantile of latencies are counted where fewer of them are the shadow's, on average.
const MAX_BEYOND: f64 = 64.0;

/// What becomes of the stakes beside what the tick makes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Boost {
    /// They are multiplied by this; its logarithm.
    pub(super) log: f64,
    /// A came true: they are worth what they have to.
    pub(super) called: bool,
}

/// What is staked on every way to be worse, before a tick.
#[derive(Clone, Debug)]
pub(super) struct Stakes {
    /// A part each; they sum to 1.
    parts: Vec<f64>,
    /// What they have to be multiplied by, all together: above 1.
    cap: f64,
    /// The logarithm of the boosts so far.
    boosted: f64,
}

/// A count that a tick may have: its probability where the shadow is no worse, and what the stakes are multiplied by
/// then, on average and at most.
type Outcome = (f64, f64);

impl Stakes {
    /// Of log bets with the logarithm of their boosts so far, if a tick may bring them to `enough`.
    pub(super) fn near(logs: &[f64], boosted: f64, enough: f64) -> Option<Self> {
        let all = log_sum_exp(logs.iter().copied());
        let lacking = enough - all - boosted;
        let parts = || logs.iter().map(|log| (log - all).exp()).collect();
        (lacking > 0.0 && lacking < REACH).then(|| Self { parts: parts(), cap: lacking.exp(), boosted })
    }

    fn mean(&self, factors: impl Iterator<Item = f64>) -> f64 {
        self.parts.iter().zip(factors).map(|(part, factor)| part * factor).sum()
    }

    /// The logarithms of the boosts where A are the counts from one on, beginning with all but the first. `outcomes`
    /// are those of counts from the least one on; those that are left out are in A. `budget` is the expectation.
    fn boosts(&self, outcomes: &[Outcome], budget: f64) -> impl Iterator<Item = f64> {
        let sums = outcomes.iter().scan((0.0, 0.0), |sums, (p, factor)| {
            *sums = (sums.0 + p, sums.1 + p * factor);
            Some(*sums)
        });
        sums.map(move |(p, expected)| ((budget - self.cap * (1.0 - p).max(0.0)) / expected).ln())
    }

    /// The best boost of a count that says all, where the shadow is as bad as the stakes suppose: the evidence then,
    /// at most what is lacking, and what is spared by calling it now. `hits` is the count's place among the outcomes.
    fn best(&self, outcomes: &[Outcome], budget: f64, hits: usize) -> Option<Boost> {
        let lacking = self.cap.ln();
        let worth = |log: f64| if log < lacking { log } else { lacking + SPARED };
        let value = |k: usize, log: f64| -> f64 {
            let of = |(j, (p, factor)): (usize, &Outcome)| {
                p * factor * if j > k { lacking + SPARED } else { worth(log + factor.ln()) }
            };
            outcomes.iter().enumerate().map(of).sum()
        };
        // The shadow may be less bad than the stakes suppose: what is paid for A is limited, over all ticks.
        let least = (-BEHIND - self.boosted).min(budget.ln());
        let each =
            self.boosts(outcomes, budget).enumerate().filter(|(_, log)| log.is_finite() && *log >= least);
        let best = each.map(|(k, log)| (value(k, log), k, log)).max_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(_, k, log)| Boost { log, called: hits > k })
    }
}

/// Errors of a tick, and among what they fell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Errors {
    /// Of the shadow, or of it alone in a pair.
    pub(super) hits: u64,
    /// Of the primary, likewise.
    pub(super) others: u64,
    /// Requests of the shadow, or pairs.
    pub(super) mine: u64,
    /// Requests of the primary. Nothing for pairs.
    pub(super) theirs: Option<u64>,
}

/// The boost of the errors by chance: of all errors of the tick each request, or each side of a pair, is as likely to
/// have made one as another.
///
/// `allowance` is the rate of errors that the shadow may make beside. What one of those wins is the cap at most, and
/// the probability of any in the tick is their expected number at most: as much is set aside.
pub(super) fn errors_by_chance(stakes: &Stakes, errors: Errors, allowance: f64) -> Boost {
    let Errors { hits, others, mine, theirs } = errors;
    let (all, requests) = (hits.saturating_add(others), mine.saturating_add(theirs.unwrap_or(0)));
    let aside = mine as f64 * allowance * stakes.cap;
    let sane = if theirs.is_some() { mine > 0 && mine < requests && hits <= mine } else { true };
    if !sane || all > requests || aside > SET_ASIDE {
        return Boost::default();
    }
    let set_aside = Boost { log: (-aside).ln_1p(), called: false };
    if all > MAX_COUNT {
        return set_aside;
    }
    let (share, allowed) = match theirs {
        Some(_) => (mine as f64 / requests as f64, allowance),
        None => (0.5, 2.0 * allowance),
    };
    let factor = |hits: u64| {
        let (hits, others) = (hits as f64, (all - hits) as f64);
        stakes.mean(ratios().map(|r| bet_on_rate(hits, others, requests as f64, share, r, allowed).exp()))
    };
    let probability = |hits: u64| match theirs {
        Some(_) => Hypergeometric::new(requests, all, mine).map_or(0.0, |law| law.pmf(hits)),
        None => Binomial::new(0.5, all).map_or(0.0, |law| law.pmf(hits)),
    };
    let least = theirs.map_or(0, |theirs| all.saturating_sub(theirs));
    let counts = least..=all.min(mine);
    let outcomes: Vec<Outcome> = counts.map(|hits| (probability(hits), factor(hits))).collect();
    stakes.best(&outcomes, 1.0 - aside, hits.saturating_sub(least) as usize).unwrap_or(set_aside)
}

/// A count in a block and what was expected of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) count: f64,
    pub(super) expected: f64,
}

/// The boost of errors beside the usual rate, which wanders in bursts: after those of the block so far the tick's are
/// negative binomial. `boosted` and `enough` are those of [`Stakes::near`].
pub(super) fn errors_in_bursts(
    bets: &[f64],
    boosted: f64,
    enough: f64,
    block: Counted,
    tick: Counted,
    burst: f64,
) -> Boost {
    let logs = |more: f64, expected: f64| -> Vec<f64> {
        let log = |ratio| log_ratio_of_counts(block.count + more, block.expected + expected, ratio, burst);
        bets.iter().zip(ratios()).map(|(bet, ratio)| bet + log(ratio)).collect()
    };
    let before = logs(0.0, 0.0);
    let Some(stakes) = Stakes::near(&before, boosted, enough) else { return Boost::default() };
    let worth = log_sum_exp(before.into_iter());
    let shape = 1.0 / burst.max(1e-9);
    let known = (shape + block.expected) / (shape + block.expected + tick.expected);
    let (bursts, calm) = (NegativeBinomial::new(shape + block.count, known), Poisson::new(tick.expected));
    let probability = |more| match (&bursts, &calm) {
        (Ok(law), _) if burst >= 1e-9 => law.pmf(more),
        (_, Ok(law)) => law.pmf(more),
        _ => 0.0,
    };
    let factor = |more| (log_sum_exp(logs(more as f64, tick.expected).into_iter()) - worth).exp();
    let outcomes = (0..=MAX_COUNT).map(|more| (probability(more), factor(more)));
    stakes.best(&until_certain(outcomes), 1.0, tick.count as usize).unwrap_or_default()
}

/// Outcomes as long as any more are likely.
fn until_certain(outcomes: impl Iterator<Item = Outcome>) -> Vec<Outcome> {
    let mut seen = 0.0;
    let more = |(p, _): &Outcome| {
        let goes_on = seen < 1.0 - 1e-9;
        seen += p;
        goes_on
    };
    outcomes.take_while(more).collect()
}

/// A way to be slower beside the primary's in two groups of requests: the log of what a request of the lower and of
/// the upper one multiplies the stakes by on average, and what all together cost.
struct Groups {
    lower: f64,
    upper: f64,
    cost: f64,
}

impl Groups {
    /// By the factor of each bin and how many requests lie in it, or which part of them.
    fn cut(bins: &[f64], log_factor: &[f64], from: usize, cost: f64) -> Self {
        let mean = |range: std::ops::Range<usize>| {
            let count: f64 = bins[range.clone()].iter().sum();
            let sum: f64 = range.map(|bin| bins[bin] * log_factor[bin].exp()).sum();
            if count > 0.0 { (sum / count).ln() } else { 0.0 }
        };
        Self { lower: mean(0..from), upper: mean(from..bins.len()), cost }
    }
}

/// The boost of latencies by chance: of the requests of both sides in each bin, each is as likely the shadow's as
/// another, if only as many are the shadow's as there are. Nothing where those are too many.
///
/// A way's factor makes the share of the shadow in a bin another one, so that a sum of binomial counts, given the sum
/// over all bins, says what is expected of it. That isn't 1 in each tick, but no more on average: as much is left of
/// it.
pub(super) fn latencies_by_chance(stakes: &Stakes, scale: &Scale, mine: &[f64], theirs: &[f64]) -> Boost {
    let bins: Vec<u64> = mine.iter().zip(theirs).map(|(m, t)| (m + t).round() as u64).collect();
    let (draws, all) = (mine.iter().sum::<f64>().round() as u64, bins.iter().sum::<u64>());
    if draws == 0 || draws >= all || draws > MAX_COUNT {
        return Boost::default();
    }
    let share = draws as f64 / all as f64;
    let known = Binomial::new(share, all).map_or(0.0, |law| law.pmf(draws));
    let tilted = |ratio: f64| share * ratio / (1.0 + share * (ratio - 1.0));
    let ways: Vec<[Vec<Vec<f64>>; 2]> = scale
        .alternatives
        .iter()
        .map(|way| {
            let laws: Vec<Vec<f64>> =
                bins.iter().zip(&way.log_ratio).map(|(&n, r)| counts(n, tilted(r.exp()), draws)).collect();
            [running_sums(laws.iter()), running_sums(laws.iter().rev())]
        })
        .collect();
    let (mut beyond, mut most) = (0, 0.0_f64);
    for (upper, &bin) in (1..bins.len()).zip(bins.iter().rev()) {
        beyond += bin;
        let Ok(law) = Hypergeometric::new(all, beyond, draws) else { continue };
        let outcomes: Vec<Outcome> = (0..=draws.min(beyond))
            .map(|hits| {
                let p = law.pmf(hits);
                let at = |sums: &Vec<f64>, count: u64| sums.get(count as usize).copied().unwrap_or(0.0);
                let factor = |[low, high]: &[Vec<Vec<f64>>; 2]| {
                    at(&high[upper - 1], hits) * at(&low[bins.len() - upper - 1], draws - hits) / known / p
                };
                // What is set on the order of pairs stays as it is.
                (p, stakes.mean(ways.iter().map(factor).chain(std::iter::repeat(1.0))))
            })
            .filter(|(p, factor)| *p > 0.0 && factor.is_finite())
            .collect();
        let budget = outcomes.iter().map(|(p, factor)| p * factor).sum();
        most = stakes.boosts(&outcomes, budget).filter(|log| log.is_finite()).fold(most, f64::max);
    }
    Boost { log: most, called: false }
}

/// The probabilities of so many hits in `n`, from 0 on: up to `most`, or what is likely.
fn counts(n: u64, share: f64, most: u64) -> Vec<f64> {
    let Ok(law) = Binomial::new(share, n) else { return vec![1.0] };
    let mean = n as f64 * share;
    let likely = (mean + 12.0 * mean.sqrt() + 24.0) as u64;
    (0..=n.min(most).min(likely)).map(|hits| law.pmf(hits)).collect()
}

/// The laws of the sums of the first count, of the first two, ...
fn running_sums<'a>(laws: impl Iterator<Item = &'a Vec<f64>>) -> Vec<Vec<f64>> {
    let sums = laws.scan(vec![1.0], |sum, law| {
        let mut next = vec![0.0; sum.len() + law.len() - 1];
        for (i, p) in sum.iter().enumerate() {
            law.iter().enumerate().for_each(|(j, q)| next[i + j] += p * q);
        }
        next.truncate(MAX_COUNT as usize + 1);
        sum.clone_from(&next);
        Some(next)
    });
    sums.collect()
}

/// The boost of latencies beside the primary's usual ones, by the exponents of `tempered` in [`super::run`], a way
/// each.
pub(super) fn latencies_beside_usual(
    stakes: &Stakes,
    scale: &Scale,
    exponents: &[Vec<f64>],
    tick: &Block,
) -> Boost {
    let (usual, draws) = (&scale.share, tick.timed.round() as u64);
    let expected = |exponent: &Vec<f64>| exponent.iter().zip(usual).map(|(e, p)| e.exp() * p).sum::<f64>();
    let costs: Vec<f64> = exponents.iter().map(|exponent| draws as f64 * expected(exponent).ln()).collect();
    let (mut beyond, mut most) = (0.0, 0.0_f64);
    for from in (1..usual.len()).rev() {
        beyond += usual[from];
        if draws as f64 * beyond > MAX_BEYOND {
            break;
        }
        let Ok(law) = Binomial::new(beyond.clamp(0.0, 1.0), draws) else { continue };
        let groups: Vec<Groups> = exponents
            .iter()
            .zip(&costs)
            .map(|(exponent, &cost)| Groups::cut(usual, exponent, from, cost))
            .collect();
        let outcomes = (0..=draws.min(MAX_COUNT)).map(|upper| {
            let lower = (draws - upper) as f64;
            let factor = |g: &Groups| (lower * g.lower + upper as f64 * g.upper - g.cost).exp();
            // What is set on the order of pairs stays as it is.
            (law.pmf(upper), stakes.mean(groups.iter().map(factor).chain(std::iter::repeat(1.0))))
        });
        let outcomes = until_certain(outcomes);
        most = stakes.boosts(&outcomes, 1.0).filter(|log| log.is_finite()).fold(most, f64::max);
    }
    Boost { log: most, called: false }
}

#[cfg(test)]
mod tests;
