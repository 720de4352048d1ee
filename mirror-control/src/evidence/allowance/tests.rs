use mirror_common::hist;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::evidence::{
    Judge, Metric, Verdict,
    run::bet_on_rate,
    scale::Scale,
    tests::{HONEST, Side, calm, history, tick},
};

fn allowing(factor: f64, us: f64, errors: f64) -> JudgePolicy {
    JudgePolicy {
        latency_allowance_factor: factor,
        latency_allowance_us: us,
        error_allowance: errors,
        ..JudgePolicy::default()
    }
}

/// Ticks until the shadow is called worse, and whether it was cleared at the end.
fn judged(policy: JudgePolicy, shadow: Side, ticks: usize) -> (Option<(usize, Metric)>, bool) {
    let mut rng = StdRng::seed_from_u64(2);
    let mut judge = Judge::new(policy, &history(300, calm, &mut rng)).unwrap();
    let of = |side: Side| Side { requests: 1_000.0, ..side };
    let worse = (0..ticks).find_map(|k| {
        judge.observe(&tick(of(HONEST), of(shadow), &mut rng));
        match judge.verdict() {
            Verdict::Worse(finding) => Some((k, finding.metric)),
            _ => None,
        }
    });
    (worse, matches!(judge.verdict(), Verdict::NoWorse(_)))
}

#[test]
fn a_shadow_that_is_farther_away_by_what_is_allowed_is_as_good() {
    let far = Side { slower: 1.05, later: 7_000.0, ..HONEST };
    let (worse, cleared) = judged(allowing(1.05, 7_000.0, 0.0), far, 200);
    assert_eq!((worse, cleared), (None, true));
    let (worse, _) = judged(allowing(1.0, 0.0, 0.0), far, 200);
    assert!(worse.is_some_and(|(k, metric)| k < 3 && metric == Metric::Latency), "{worse:?}");
    let farther = Side { slower: 1.15, ..far };
    let (worse, _) = judged(allowing(1.05, 7_000.0, 0.0), farther, 200);
    assert!(worse.is_some_and(|(k, metric)| k < 20 && metric == Metric::Latency), "{worse:?}");
}

#[test]
fn a_shadow_that_errs_more_by_what_is_allowed_is_as_good() {
    let erring = Side { errors: 0.011, ..HONEST };
    let (worse, cleared) = judged(allowing(1.0, 0.0, 0.006), erring, 400);
    assert_eq!((worse, cleared), (None, true));
    let (worse, _) = judged(allowing(1.0, 0.0, 0.0), erring, 200);
    assert!(worse.is_some_and(|(_, metric)| metric == Metric::Errors), "{worse:?}");
    let (worse, _) = judged(allowing(1.0, 0.0, 0.006), Side { errors: 0.03, ..HONEST }, 200);
    assert!(worse.is_some_and(|(_, metric)| metric == Metric::Errors), "{worse:?}");
}

#[test]
fn what_is_allowed_is_said() {
    let mut rng = StdRng::seed_from_u64(4);
    let mut judge = Judge::new(allowing(1.1, 5_000.0, 0.002), &history(60, calm, &mut rng)).unwrap();
    judge.observe(&tick(HONEST, HONEST, &mut rng));
    let [errors, latency, divergence] = judge.findings();
    assert!((errors.allowed - errors.primary - 0.002).abs() < 1e-12);
    assert!((latency.allowed - latency.primary * 1.1 - 5.0).abs() < 1e-9);
    assert!((divergence.allowed - 0.0002).abs() < 1e-12);
    assert!(latency.to_string().contains(&format!("{:.1} ms allowed", latency.allowed)), "{latency}");
    assert!(errors.to_string().contains(&format!("{:.3} % allowed", errors.allowed * 100.0)), "{errors}");
}

#[test]
fn allowances_without_sense_are_refused() {
    for policy in [allowing(0.9, 0.0, 0.0), allowing(1.0, -1.0, 0.0), allowing(1.0, f64::NAN, 0.0)] {
        let refused = policy.validate().unwrap_err().to_string();
        assert!(refused.starts_with("latency_allowance"), "{refused}");
    }
    let refused = allowing(1.0, 0.0, 0.6).validate().unwrap_err().to_string();
    assert_eq!(refused, "error_allowance is 0.6: it must be from 0 to 0.5");
}

/// A log-normal histogram of so many requests: shares by its distribution function, made of many midpoints.
fn smooth(median: f64, sigma: f64, change: impl Fn(f64) -> f64) -> Histogram {
    let mut histogram = Histogram::default();
    let steps = 40_000;
    for k in 0..steps {
        let z = -4.5 + 9.0 * (f64::from(k) + 0.5) / f64::from(steps);
        let count = (1e7 * (-z * z / 2.0).exp()) as u64;
        histogram.record(change(median * (sigma * z).exp()).round() as u32, count);
    }
    histogram
}

/// `n` over `k`.
fn choose(n: u32, k: u32) -> f64 {
    (0..k).map(|i| f64::from(n - i) / f64::from(i + 1)).product()
}

fn binomial(n: u32, k: u32, p: f64) -> f64 {
    choose(n, k) * p.powi(k as i32) * (1.0 - p).powi((n - k) as i32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However often the primary errs: where the shadow errs by no more than is allowed, the e-value expects 1 at most.
    #[test]
    fn a_bet_on_a_rate_within_the_allowance_expects_no_gain(
        (mine, theirs) in (1_u32..12, 1_u32..12),
        (primary, part, allowance) in (0.0..1.0_f64, 0.0..=1.0_f64, 0.0..0.5_f64),
        ratio in 1.1..40.0_f64,
    ) {
        let shadow = ((primary + allowance) * part).min(1.0);
        let share = f64::from(mine) / f64::from(mine + theirs);
        let all = f64::from(mine + theirs);
        let mut expected = 0.0;
        for hits in 0..=mine {
            for others in 0..=theirs {
                let log = bet_on_rate(f64::from(hits), f64::from(others), all, share, ratio, allowance);
                expected += binomial(mine, hits, shadow) * binomial(theirs, others, primary) * log.exp();
            }
        }
        prop_assert!(expected <= 1.0 + 1e-9, "{expected}");
    }

    /// The shadow's latencies less the allowance lie in the bins as the primary's do, if it is slower by the allowance.
    #[test]
    fn a_shadow_slower_by_the_allowance_fills_the_bins_as_the_primary(
        median in 200.0..200_000.0_f64, sigma in 0.3..1.0_f64,
        factor in 1.0..3.0_f64, extra in 0.0..2.0_f64,
    ) {
        let policy = allowing(factor, median * extra, 0.0);
        let usual = smooth(median, sigma, |us| us);
        let scale = Scale::new(&usual, &policy);
        let bins = scale.bin_allowed(&smooth(median, sigma, |us| policy.allowed_us(us)));
        let total: f64 = bins.iter().sum();
        let (mut mine, mut usual) = (0.0, 0.0);
        for (bin, share) in bins.iter().zip(&scale.share) {
            (mine, usual) = (mine + bin / total, usual + share);
            // Microseconds are whole, and densities bend within a bucket.
            prop_assert!((mine - usual).abs() < 0.004, "{mine} beside {usual}");
        }
    }

    /// Without an allowance each bucket stays where it is.
    #[test]
    fn no_allowance_moves_nothing(counts in prop::collection::vec((0..BUCKETS, 1_u64..99), 1..50)) {
        let scale = Scale::new(&smooth(20_000.0, 0.6, |us| us), &allowing(1.0, 0.0, 0.0));
        let mut histogram = Histogram::default();
        counts.into_iter().for_each(|(bucket, count)| histogram.add(bucket, count));
        prop_assert_eq!(scale.bin(&histogram), scale.bin_allowed(&histogram));
    }

    /// Pairs that are equal but for the allowance, in both orders: never more are slower than faster.
    #[test]
    fn equal_pairs_are_no_more_often_slower_than_faster(
        pairs in prop::collection::vec((100_u32..100_000, 100_u32..100_000), 1..200),
        factor in 1.0..2.0_f64, us in 0.0..5_000.0_f64,
    ) {
        let policy = allowing(factor, us, 0.0);
        let (mut ratios, mut primary) = (vec![0; RATIOS], Histogram::default());
        for (a, b) in pairs {
            for (theirs, mine) in [(a, b), (b, a)] {
                primary.record(theirs, 1);
                ratios[hist::ratio(theirs, policy.allowed_us(f64::from(mine)) as u32) as usize] += 1;
            }
        }
        let (slower, faster) = policy.order(&ratios, &primary);
        prop_assert!(slower <= faster, "{slower} slower, {faster} faster");
    }
}

#[test]
fn pairs_that_are_slower_by_more_than_is_allowed_are_counted_as_such() {
    let (mut ratios, mut primary) = (vec![0; RATIOS], Histogram::default());
    for k in 0..1_000 {
        let us = 10_000 + 10 * k;
        primary.record(us, 1);
        ratios[hist::ratio(us, us * 13 / 10) as usize] += 1;
    }
    assert_eq!(allowing(1.0, 0.0, 0.0).order(&ratios, &primary), (1_000, 0));
    assert_eq!(allowing(1.0, 200.0, 0.0).order(&ratios, &primary), (1_000, 0));
    assert_eq!(allowing(1.5, 0.0, 0.0).order(&ratios, &primary).0, 0);
}
