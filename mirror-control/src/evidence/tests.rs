use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Gamma, Poisson, StandardNormal};

use super::*;

/// Median of the honest latency, in microseconds, and the standard deviation of its logarithm.
const MEDIAN: f64 = 20_000.0;
const SIGMA: f64 = 0.5;

/// A side's behaviour in a tick.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub(super) requests: f64,
    pub(super) errors: f64,
    /// Times the honest latency.
    pub(super) slower: f64,
    /// Microseconds on top.
    pub(super) later: f64,
}

pub(super) const HONEST: Side = Side { requests: 500.0, errors: 0.005, slower: 1.0, later: 0.0 };

fn counts(side: Side, rng: &mut StdRng) -> Counts {
    let requests = Poisson::new(side.requests).unwrap().sample(rng) as u64;
    let errors = Poisson::new(side.requests * side.errors).map_or(0, |errors| errors.sample(rng) as u64);
    let mut latency = Histogram::default();
    let slower = (MEDIAN * side.slower).ln();
    for _ in 0..requests {
        let z: f64 = rng.sample(StandardNormal);
        latency.record(((slower + SIGMA * z).exp() + side.later) as u32, 1);
    }
    Counts { requests, errors: errors.min(requests), latency }
}

pub(super) fn tick(primary: Side, shadow: Side, rng: &mut StdRng) -> Tick {
    Tick {
        seconds: 5.0,
        moved: true,
        primary: counts(primary, rng),
        shadow: counts(shadow, rng),
        pairs: Pairs::default(),
    }
}

/// Noise of one side alone: a factor of the latency, and one of the errors, for a minute.
fn noisy(side: Side, rng: &mut StdRng) -> Side {
    let z: f64 = rng.sample(StandardNormal);
    let burst: f64 = Gamma::new(2.0, 0.5).unwrap().sample(rng);
    Side { errors: side.errors * burst, slower: side.slower * (0.05 * z).exp(), ..side }
}

pub(super) fn calm(side: Side, _: &mut StdRng) -> Side {
    side
}

pub(super) fn history(minutes: u32, noise: fn(Side, &mut StdRng) -> Side, rng: &mut StdRng) -> History {
    let mut history = History::default();
    for _ in 0..minutes {
        let side = noise(HONEST, rng);
        history.observe(60.0, &counts(side, rng));
    }
    history
}

/// How many of so many honest shadows are called worse.
fn called_worse(policy: &JudgePolicy, migrations: u64, noise: fn(Side, &mut StdRng) -> Side) -> usize {
    (0..migrations)
        .filter(|&seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            let past = history(120, noise, &mut rng);
            let mut judge = Judge::new(policy.clone(), &past).unwrap();
            (0..10).any(|_| {
                let (primary, shadow) = (noise(HONEST, &mut rng), noise(HONEST, &mut rng));
                (0..12).any(|_| {
                    judge.observe(&tick(primary, shadow, &mut rng));
                    matches!(judge.verdict(), Verdict::Worse(_))
                })
            })
        })
        .count()
}

/// Ticks until a bad shadow is called worse, and in what.
fn found(primary: Side, shadow: Side, seed: u64) -> Option<(usize, Metric)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut judge = Judge::new(JudgePolicy::default(), &history(60, calm, &mut rng)).unwrap();
    (0..120).find_map(|k| {
        judge.observe(&tick(primary, shadow, &mut rng));
        match judge.verdict() {
            Verdict::Worse(finding) => Some((k, finding.metric)),
            _ => None,
        }
    })
}

/// Ticks until a shadow is called worse that is honest in all that it answers, and doesn't take so many new connections a
/// tick; nor did the primary take `usual` of its own, in all of its past.
fn found_by_connections(shadow: Side, primary: Side, not_taken: u64, usual: u64) -> Option<(usize, Metric)> {
    let mut rng = StdRng::seed_from_u64(3);
    let mut past = History::default();
    for _ in 0..60 {
        let mut minute = tick(Side { requests: 6_000.0, ..HONEST }, HONEST, &mut rng);
        minute.add_not_taken([12 * usual, 0]);
        past.observe(60.0, &minute.primary);
    }
    let mut judge = Judge::new(JudgePolicy::default(), &past).unwrap();
    (0..120).find_map(|k| {
        let mut now = tick(primary, shadow, &mut rng);
        now.add_not_taken([0, not_taken]);
        judge.observe(&now);
        match judge.verdict() {
            Verdict::Worse(finding) => Some((k, finding.metric)),
            _ => None,
        }
    })
}

#[test]
fn a_side_that_does_not_take_connections_is_worse_however_good_its_answers_are() {
    let found = found_by_connections(HONEST, HONEST, 20, 0);
    assert!(found.is_some_and(|(k, metric)| k < 12 && metric == Metric::Errors), "{found:?}");
    // Behind a cutover, where nobody gets in any more, there is nothing else.
    let silent = Side { requests: 1e-9, ..HONEST };
    let found = found_by_connections(silent, silent, 20, 0);
    assert!(found.is_some_and(|(k, metric)| k < 12 && metric == Metric::Errors), "{found:?}");
    assert_eq!(found_by_connections(HONEST, HONEST, 0, 0), None);
    assert_eq!(found_by_connections(HONEST, HONEST, 20, 20), None, "the primary did as badly");
}

#[test]
fn before_a_read_moves_connections_that_are_not_taken_count_as_pairs() {
    let mut rng = StdRng::seed_from_u64(4);
    let mut judge = Judge::new(JudgePolicy::default(), &history(60, calm, &mut rng)).unwrap();
    let worse = (0..12).any(|_| {
        let mut now = Tick { moved: false, ..tick(HONEST, HONEST, &mut rng) };
        now.pairs.compared = 500;
        now.add_not_taken([0, 20]);
        judge.observe(&now);
        matches!(judge.verdict(), Verdict::Worse(finding) if finding.metric == Metric::Errors)
    });
    assert!(worse);
}

#[test]
fn an_honest_shadow_is_called_worse_no_more_often_than_allowed() {
    let policy = JudgePolicy { alpha: 0.1, ..JudgePolicy::default() };
    let count = called_worse(&policy, 20, calm);
    assert!(count <= 5, "{count} of 20, 2 expected at most");
}

#[test]
fn noise_of_one_side_alone_is_not_called_worse() {
    let policy = JudgePolicy { alpha: 0.1, ..JudgePolicy::default() };
    let count = called_worse(&policy, 20, noisy);
    assert!(count <= 5, "{count} of 20, 2 expected at most");
}

#[test]
fn errors_are_found() {
    let (ticks, metric) = found(HONEST, Side { errors: 0.03, ..HONEST }, 1).expect("found");
    assert_eq!(metric, Metric::Errors);
    // 500 requests a tick, 0.0297 nats a request: the bound is half a tick.
    assert!(ticks <= 4, "{ticks} ticks");
}

#[test]
fn slowness_of_all_requests_is_found_by_the_whole_histogram() {
    let (ticks, metric) = found(HONEST, Side { slower: 1.15, ..HONEST }, 1).expect("found");
    assert_eq!(metric, Metric::Latency);
    assert!(ticks <= 4, "{ticks} ticks");
}

#[test]
fn a_shadow_that_is_better_is_never_called_worse() {
    assert_eq!(found(HONEST, Side { errors: 0.0, slower: 0.7, ..HONEST }, 1), None);
}

#[test]
fn what_both_sides_suffer_is_not_the_shadows() {
    let bad = Side { errors: 0.05, slower: 1.5, ..HONEST };
    assert_eq!(found(bad, bad, 1), None);
}

#[test]
fn load_and_share_may_change_together() {
    // Slow at night with a small share, fast by day with a large one, and the other way round: sums would mislead.
    let mut rng = StdRng::seed_from_u64(1);
    let mut judge = Judge::new(JudgePolicy::default(), &history(60, calm, &mut rng)).unwrap();
    for k in 0..100 {
        let (share, slower) = if k < 50 { (0.1, 1.0) } else { (0.9, 1.6) };
        let side = |part: f64| Side { requests: 500.0 * part, slower, ..HONEST };
        judge.observe(&tick(side(1.0 - share), side(share), &mut rng));
        assert!(!matches!(judge.verdict(), Verdict::Worse(_)), "tick {k}: {:?}", judge.findings());
    }
}

#[test]
fn a_shadow_that_gets_worse_late_is_found_by_what_came_since_the_step() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut judge = Judge::new(JudgePolicy::default(), &history(60, calm, &mut rng)).unwrap();
    for _ in 0..120 {
        judge.observe(&tick(HONEST, HONEST, &mut rng));
    }
    judge.begin_step();
    let late = (0..20).find(|_| {
        judge.observe(&tick(HONEST, Side { slower: 1.15, ..HONEST }, &mut rng));
        matches!(judge.verdict(), Verdict::Worse(_))
    });
    assert!(late.is_some_and(|ticks| ticks <= 6), "{late:?}");
}

#[test]
fn an_equal_shadow_clears_a_step_and_one_at_the_margin_does_not() {
    // Few errors, so that the margin of 0.1 points is three times as many.
    const HONEST: Side = Side { errors: 0.0005, ..tests::HONEST };
    let mut rng = StdRng::seed_from_u64(5);
    let past = history(60, calm, &mut rng);
    let cleared = |shadow: Side, rng: &mut StdRng| {
        let mut judge = Judge::new(JudgePolicy::default(), &past).unwrap();
        (0..100).any(|_| {
            judge.observe(&tick(
                Side { requests: 1_500.0, ..HONEST },
                Side { requests: 1_500.0, ..shadow },
                rng,
            ));
            matches!(judge.verdict(), Verdict::NoWorse(_))
        })
    };
    assert!(cleared(HONEST, &mut rng));
    assert!(!cleared(Side { slower: 1.06, ..HONEST }, &mut rng));
}

/// C4: without samples no step is cleared.
#[test]
fn low_traffic_is_no_good_news() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut judge = Judge::new(JudgePolicy::default(), &history(60, calm, &mut rng)).unwrap();
    assert!(matches!(judge.verdict(), Verdict::LowTraffic(_)));
    for _ in 0..120 {
        // Ten minutes of perfect answers, but few.
        let few = Side { requests: 10.0, errors: 0.0, slower: 0.5, later: 0.0 };
        judge.observe(&tick(HONEST, few, &mut rng));
        let verdict = judge.verdict();
        let Verdict::LowTraffic(progress) = verdict else { panic!("{verdict:?}") };
        assert!(progress.have < progress.need);
    }
}

#[test]
fn answers_that_differ_are_found_and_those_allowed_are_not() {
    let run = |known: u64, diverged: u64| {
        let mut rng = StdRng::seed_from_u64(9);
        let mut judge = Judge::new(JudgePolicy::default(), &history(60, calm, &mut rng)).unwrap();
        (0..30).find_map(|_| {
            let mut tick = tick(HONEST, HONEST, &mut rng);
            tick.moved = false;
            tick.pairs = Pairs { compared: 5_000, known, diverged, ..Pairs::default() };
            judge.observe(&tick);
            matches!(judge.verdict(), Verdict::Worse(Finding { metric: Metric::Divergence, .. }))
                .then_some(())
        })
    };
    assert!(run(5_000, 10).is_some());
    assert!(run(5_000, 1).is_none());
    // The turns that couldn't be compared don't thin the others out.
    assert!(run(500, 1).is_some());
}

#[test]
fn a_short_past_and_a_policy_without_sense_are_refused() {
    let mut rng = StdRng::seed_from_u64(1);
    let short = history(3, calm, &mut rng);
    let refused = Judge::new(JudgePolicy::default(), &short).unwrap_err().to_string();
    assert!(refused.starts_with("the primary was seen for 3 minutes"), "{refused}");
    let policy = JudgePolicy { p99_margin: 0.9, ..JudgePolicy::default() };
    assert_eq!(
        policy.validate().unwrap_err().to_string(),
        "p99_margin is 0.9: it must be between 1 and 1,000"
    );
    let policy = JudgePolicy { alpha: f64::NAN, ..JudgePolicy::default() };
    assert!(policy.validate().is_err());
}

#[test]
fn no_way_to_be_slower_counts_against_a_faster_shadow() {
    let mut rng = StdRng::seed_from_u64(1);
    let judge = Judge::new(JudgePolicy::default(), &history(60, noisy, &mut rng)).unwrap();
    for way in &judge.scale.alternatives {
        assert!(way.log_ratio.is_sorted(), "{:?}", way.log_ratio);
    }
}

#[test]
fn a_judge_survives_the_journal() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut judge = Judge::new(JudgePolicy::default(), &history(60, calm, &mut rng)).unwrap();
    judge.observe(&tick(HONEST, HONEST, &mut rng));
    let text = serde_json::to_string(&judge).unwrap();
    let mut again: Judge = serde_json::from_str(&text).unwrap();
    let next = tick(HONEST, HONEST, &mut rng);
    judge.observe(&next);
    again.observe(&next);
    assert!(judge.evidence().iter().zip(again.evidence()).all(|(a, b)| (a - b).abs() < 1e-6));
}

fn any_counts() -> impl Strategy<Value = Counts> {
    let latency = prop::collection::vec((0_usize..600, 0_u64..1_000_000), 0..6);
    (0_u64..2_000_000, 0_u64..2_000_000, latency).prop_map(|(requests, errors, latency)| {
        let mut histogram = Histogram::default();
        latency.into_iter().for_each(|(bucket, count)| histogram.add(bucket, count));
        Counts { requests, errors, latency: histogram }
    })
}

#[test]
fn a_primary_whose_latencies_all_fall_into_one_bucket_can_be_judged() {
    let mut past = History::default();
    let same = |requests: u64| {
        let mut latency = Histogram::default();
        latency.record(9, requests);
        Counts { requests, errors: 0, latency }
    };
    (0..12).for_each(|_| past.observe(60.0, &same(1_000)));
    let mut judge = Judge::new(JudgePolicy::default(), &past).unwrap();
    for _ in 0..24 {
        let pairs = Pairs::default();
        judge.observe(&Tick { seconds: 5.0, moved: true, primary: same(50), shadow: same(50), pairs });
        assert!(judge.evidence().iter().all(|e| e.is_finite() && *e < 5.0), "{:?}", judge.evidence());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is counted, the evidence is a number.
    #[test]
    fn evidence_is_a_number(
        ticks in prop::collection::vec((any_counts(), any_counts(), any::<bool>(), any::<f64>(), 0_u64..9_999), 1..8),
    ) {
        let mut rng = StdRng::seed_from_u64(1);
        let mut judge = Judge::new(JudgePolicy::default(), &history(12, calm, &mut rng)).unwrap();
        for (primary, shadow, moved, seconds, some) in ticks {
            let pairs = Pairs { compared: some, known: some, errors_shadow_only: some, diverged: some / 2, ..Pairs::default() };
            judge.observe(&Tick { seconds, moved, primary, shadow, pairs });
            prop_assert!(judge.evidence().iter().all(|e| e.is_finite()), "{:?}", judge.evidence());
            judge.verdict();
        }
    }
}
