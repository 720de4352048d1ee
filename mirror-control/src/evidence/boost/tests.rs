use proptest::prelude::*;

use super::*;
use crate::evidence::{Histogram, JudgePolicy, run::conditional};

/// What the stakes are multiplied by, at most as much as they need.
fn paid(stakes: &Stakes, factor: f64, boost: Boost) -> f64 {
    if boost.called { stakes.cap } else { (factor * boost.log.exp()).min(stakes.cap) }
}

fn any_stakes() -> impl Strategy<Value = Stakes> {
    (prop::collection::vec(0.0..1.0_f64, 5), 0.01..2.9_f64).prop_map(|(parts, lacking)| {
        let all = parts.iter().sum::<f64>().max(1e-9);
        Stakes {
            parts: parts.iter().map(|part| (part + 1e-9) / all).collect(),
            cap: lacking.exp(),
            boosted: 0.0,
        }
    })
}

/// `n` over `k`.
fn choose(n: u64, k: u64) -> f64 {
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

fn binomial(n: u64, k: u64, p: f64) -> f64 {
    choose(n, k) * p.powi(k as i32) * (1.0 - p).powi((n - k) as i32)
}

fn bets(stakes: &Stakes, errors: Errors, allowance: f64) -> f64 {
    let trials = (errors.mine + errors.theirs.unwrap_or(0)) as f64;
    let (share, allowed) = match errors.theirs {
        Some(_) => (errors.mine as f64 / trials, allowance),
        None => (0.5, 2.0 * allowance),
    };
    let bet = |r| bet_on_rate(errors.hits as f64, errors.others as f64, trials, share, r, allowed).exp();
    stakes.mean(ratios().map(bet))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However often the primary errs: where the shadow errs by no more than is allowed, no gain is expected.
    #[test]
    fn boosted_bets_on_errors_expect_no_gain(
        stakes in any_stakes(),
        (mine, theirs) in (1_u64..12, 1_u64..30),
        (primary, part) in (0.0..1.0_f64, 0.0..=1.0_f64),
        allowance in prop_oneof![Just(0.0), 0.0..0.01_f64],
    ) {
        let shadow = ((primary + allowance) * part).min(1.0);
        let mut expected = 0.0;
        for hits in 0..=mine {
            for others in 0..=theirs {
                let errors = Errors { hits, others, mine, theirs: Some(theirs) };
                let boost = errors_by_chance(&stakes, errors, allowance);
                let paid = paid(&stakes, bets(&stakes, errors, allowance), boost);
                expected += binomial(mine, hits, shadow) * binomial(theirs, others, primary) * paid;
            }
        }
        prop_assert!(expected <= 1.0 + 1e-9, "{expected}");
    }

    /// The same of pairs, whose two answers may err together.
    #[test]
    fn boosted_bets_on_pairs_expect_no_gain(
        stakes in any_stakes(),
        mine in 1_u64..12,
        (one, other) in (0.0..0.45_f64, 0.0..=1.0_f64),
        allowance in prop_oneof![Just(0.0), 0.0..0.01_f64],
    ) {
        // The probability that the primary alone errs, and that the shadow alone does.
        let (primary, shadow) = (one, (one + allowance) * other);
        let mut expected = 0.0;
        for hits in 0..=mine {
            for others in 0..=mine - hits {
                let errors = Errors { hits, others, mine, theirs: None };
                let boost = errors_by_chance(&stakes, errors, allowance);
                let law = choose(mine, hits) * choose(mine - hits, others)
                    * shadow.powi(hits as i32)
                    * primary.powi(others as i32)
                    * (1.0 - shadow - primary).powi((mine - hits - others) as i32);
                expected += law * paid(&stakes, bets(&stakes, errors, allowance), boost);
            }
        }
        prop_assert!(expected <= 1.0 + 1e-9, "{expected}");
    }

    /// Beside the usual rate that wanders, after whatever the block has shown so far.
    #[test]
    fn boosted_counts_in_bursts_expect_no_gain(
        lacking in 0.01..2.9_f64,
        (count, before, expected) in (0_u64..12, 0.1..10.0_f64, 0.05..5.0_f64),
        burst in prop_oneof![Just(0.0), 0.001..1.0_f64],
    ) {
        let bets = vec![(0.2_f64).ln(); 5];
        let block = Counted { count: count as f64, expected: before };
        let logs = |more: f64, expected: f64| {
            let log = |r| log_ratio_of_counts(block.count + more, before + expected, r, burst);
            log_sum_exp(bets.iter().zip(ratios()).map(|(bet, r)| bet + log(r)))
        };
        let shape = 1.0 / burst.max(1e-9);
        let law = NegativeBinomial::new(shape + block.count, (shape + before) / (shape + before + expected)).unwrap();
        let mut sum = 0.0;
        for more in 0..200_u64 {
            let tick = Counted { count: more as f64, expected };
            let boost = errors_in_bursts(&bets, 0.0, logs(0.0, 0.0) + lacking, block, tick, burst);
            let stakes = Stakes { parts: Vec::new(), cap: lacking.exp(), boosted: 0.0 };
            sum += law.pmf(more) * paid(&stakes, (logs(more as f64, expected) - logs(0.0, 0.0)).exp(), boost);
        }
        // Without bursts the law here is nearly Poisson's.
        prop_assert!(sum <= 1.0 + 1e-5, "{sum}");
    }

    /// Given the requests of both sides in each bin, any of them may be the shadow's: no more is expected than without a boost.
    #[test]
    fn boosted_bets_on_latencies_expect_no_more_than_others(
        lacking in 0.01..2.9_f64,
        parts in prop::collection::vec(0.01..1.0_f64, 13),
        pooled in prop::array::uniform4(0_u64..7),
        draws in 1_u64..10,
    ) {
        let scale = four_bins();
        let all: u64 = pooled.iter().sum();
        prop_assume!(draws < all);
        let sum: f64 = parts.iter().sum();
        let parts: Vec<f64> = parts.iter().map(|part| part / sum).collect();
        let stakes = Stakes { parts, cap: lacking.exp(), boosted: 0.0 };
        let share = draws as f64 / all as f64;
        let in_bins = |counts: [u64; 4]| {
            let mut bins = counts.map(|n| n as f64).to_vec();
            bins.resize(scale.share.len(), 0.0);
            bins
        };
        let (mut expected, mut without) = (0.0, 0.0);
        for k in 0..pooled.iter().map(|n| n + 1).product() {
            let mut rest = k;
            let mine = pooled.map(|n| {
                let m = rest % (n + 1);
                rest /= n + 1;
                m
            });
            if mine.iter().sum::<u64>() != draws {
                continue;
            }
            let (shadow, primary) = (in_bins(mine), in_bins(std::array::from_fn(|k| pooled[k] - mine[k])));
            let boost = latencies_by_chance(&stakes, &scale, &shadow, &primary);
            let ways = scale.alternatives.iter().map(|way| {
                let bins = way.log_ratio.iter().zip(shadow.iter().zip(&primary));
                bins.map(|(r, (m, t))| conditional(*m, m + t, share, *r)).sum::<f64>().exp()
            });
            let factor = stakes.mean(ways.chain(std::iter::repeat(1.0)));
            let law: f64 = mine.iter().zip(pooled).map(|(m, n)| choose(n, *m)).product();
            expected += law / choose(all, draws) * paid(&stakes, factor, boost);
            without += law / choose(all, draws) * factor;
        }
        prop_assert!(expected <= without + 1e-9, "{expected} {without}");
    }
}

/// A scale of four bins: one bucket each.
fn four_bins() -> Scale {
    let mut usual = Histogram::default();
    for (us, count) in [(10_000, 500), (20_000, 300), (40_000, 150), (80_000, 50)] {
        usual.record(us, count);
    }
    let policy = JudgePolicy { latency_allowance_us: 0.0, ..JudgePolicy::default() };
    Scale::new(&usual, &policy)
}

fn on_the_last(lacking: f64) -> Stakes {
    Stakes { parts: vec![0.0, 0.0, 0.0, 0.0, 1.0], cap: lacking.exp(), boosted: 0.0 }
}

#[test]
fn an_error_that_would_overshoot_is_paid_back_before_it_comes() {
    let boost = |lacking: f64, hits| {
        let errors = Errors { hits, others: 3 - hits, mine: 50, theirs: Some(4_950) };
        errors_by_chance(&on_the_last(lacking), errors, 0.0)
    };
    // A hit is worth 2.4 nats here, and 1 is lacking.
    assert!(boost(1.0, 0).log > 0.2, "{:?}", boost(1.0, 0));
    assert!(boost(1.0, 1).called && !boost(1.0, 0).called);
    // One that would fall a little short does, too: two of them pay for it, and the stakes up to a limit.
    assert!(boost(2.6, 1).called && boost(2.6, 0).log < 0.1, "{:?}", boost(2.6, 0));
    assert!((0..30).all(|k| boost(f64::from(k) / 10.0 + 0.05, 0).log >= -BEHIND));
}

#[test]
fn latencies_are_boosted_where_one_more_in_the_tail_would_overshoot() {
    let scale = four_bins();
    let stakes = Stakes { parts: vec![1.0 / 9.0; 9], cap: 1.5, boosted: 0.0 };
    let in_bins = |counts: [f64; 4]| [&counts[..], &vec![0.0; scale.share.len() - 4]].concat();
    let (mine, theirs) = (in_bins([5.0, 3.0, 2.0, 0.0]), in_bins([495.0, 297.0, 148.0, 50.0]));
    let boost = latencies_by_chance(&stakes, &scale, &mine, &theirs);
    assert!(scale.share.len() >= 4 && boost.log > 0.02 && !boost.called, "{boost:?}");
}

#[test]
fn what_makes_no_sense_is_not_boosted() {
    let stakes = on_the_last(1.0);
    for (hits, others, mine, theirs) in [
        (3, 1, 2, Some(9)),
        (0, 5, 0, Some(9)),
        (1, 0, 5, Some(0)),
        (9, 9, 9, Some(2)),
        (u64::MAX, u64::MAX, u64::MAX, Some(u64::MAX)),
        (4, 4, 5, None),
    ] {
        let boost = errors_by_chance(&stakes, Errors { hits, others, mine, theirs }, 0.0);
        assert_eq!(boost, Boost::default(), "{hits} {others} {mine} {theirs:?}");
    }
}
