use super::*;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

fn rates(reads: f64, writes: f64) -> Rates {
    Rates { reads, writes }
}

/// 0.2 cores idle, 1 ms a read, 4 ms a write.
fn truth(rates: Rates) -> f64 {
    0.2 + 0.001 * rates.reads + 0.004 * rates.writes
}

/// Learned at rates up to `most` reads a second, with noise of 5 %.
fn learned(seed: u64, most: f64, mix: impl Fn(&mut StdRng) -> f64) -> Demand {
    let mut random = StdRng::seed_from_u64(seed);
    let mut demand = Demand::default();
    for _ in 0..200 {
        let reads = random.random_range(0.1..1.0) * most;
        let rates = rates(reads, reads * mix(&mut random));
        demand.observe(rates, truth(rates) * random.random_range(0.95..1.05));
    }
    demand
}

#[test]
fn at_a_tenth_of_the_rate_it_knows_what_the_whole_costs() {
    let mut within = 0;
    for seed in 0..40 {
        let demand = learned(seed, 100.0, |random| random.random_range(0.1..0.4));
        let whole = rates(1_000.0, 250.0);
        let cost = demand.cost(whole).expect("it is known");
        assert!((cost.mean() / truth(whole) - 1.0).abs() < 0.15, "seed {seed}: {}", cost.mean());
        within += u32::from((cost.quantile(0.05)..cost.quantile(0.95)).contains(&truth(whole)));
    }
    assert!(within >= 36, "{within} of 40 within the interval of 90 %");
}

#[test]
fn it_says_how_many_samples_are_missing_and_counts_those_with_requests() {
    let mut demand = Demand::default();
    assert_eq!(demand.cost(rates(1.0, 0.0)), Err(NotKnown { missing: 10 }));
    for _ in 0..50 {
        demand.observe(rates(0.0, 0.0), 0.2);
    }
    for n in 1..10 {
        demand.observe(rates(f64::from(n), 0.0), 0.3);
    }
    assert_eq!(demand.cost(rates(1.0, 0.0)), Err(NotKnown { missing: 1 }));
    demand.observe(rates(10.0, 0.0), 0.3);
    assert!(demand.cost(rates(1.0, 0.0)).is_ok());
    assert!(demand.cost(rates(f64::NAN, 0.0)).is_err());
}

#[test]
fn farther_out_it_is_less_sure() {
    let demand = learned(1, 100.0, |_| 0.2);
    let width = |factor: f64| {
        let cost = demand.cost(rates(100.0 * factor, 20.0 * factor)).expect("it is known");
        (cost.quantile(0.95) - cost.quantile(0.05)) / cost.mean()
    };
    let widths = [1.0, 2.0, 10.0, 100.0].map(width);
    assert!(widths.is_sorted(), "{widths:?}");
    assert!(widths[0] < 0.2 && widths[3] > 2.0 * widths[0], "{widths:?}");
}

#[test]
fn what_the_rates_can_not_tell_apart_stays_uncertain() {
    let mut demand = Demand::default();
    // Always the same: it may all be idle cost, or none of it.
    for _ in 0..100 {
        demand.observe(rates(100.0, 10.0), 1.0);
    }
    let here = demand.cost(rates(100.0, 10.0)).expect("it is known");
    assert!((here.mean() - 1.0).abs() < 0.02 && here.quantile(0.95) < 1.1, "{here:?}");
    let far = demand.cost(rates(1_000.0, 100.0)).expect("it is known");
    assert!(far.quantile(0.05) < 1.5 && far.quantile(0.95) > 9.0, "{far:?}");
    // The mix was always the same: what a write alone costs isn't known.
    let demand = learned(1, 100.0, |_| 0.2);
    let of = |mix: Rates| demand.cost(mix).map(|cost| cost.quantile(0.95) - cost.quantile(0.05));
    let (usual, other) = (of(rates(100.0, 20.0)).expect("known"), of(rates(0.0, 120.0)).expect("known"));
    assert!(other > 5.0 * usual, "{usual} and {other}");
}

#[test]
fn no_cost_is_negative() {
    let mut demand = Demand::default();
    // Usage falls with the writes, as it can by chance.
    for n in 0..50 {
        let n = f64::from(n);
        demand.observe(rates(100.0 + n, 50.0 - n), 1.0 + 0.001 * n);
    }
    let cost = |rates| demand.cost(rates).expect("it is known").mean();
    assert!(cost(rates(100.0, 1_000.0)) >= cost(rates(100.0, 0.0)));
    assert!(cost(rates(0.0, 0.0)) >= 0.0);
}

#[test]
fn a_program_that_has_changed_is_learned_anew() {
    let mut demand = Demand::default();
    for n in 0..20_000 {
        let rates = rates(f64::from(n % 97), 0.0);
        demand.observe(rates, if n < 10_000 { 1.0 } else { 3.0 } * truth(rates));
    }
    let rates = rates(50.0, 0.0);
    let cost = demand.cost(rates).expect("it is known").mean();
    assert!((cost / truth(rates) - 3.0).abs() < 0.1, "{cost}");
}

#[test]
fn what_makes_no_sense_is_no_sample() {
    let mut demand = Demand::default();
    for (rates, usage) in [
        (rates(f64::NAN, 1.0), 1.0),
        (rates(-1.0, 1.0), 1.0),
        (rates(1.0, f64::INFINITY), 1.0),
        (rates(1.0, 1.0), f64::NAN),
        (rates(1.0, 1.0), -1.0),
    ] {
        demand.observe(rates, usage);
    }
    assert_eq!(demand, Demand::default());
    for _ in 0..20 {
        demand.observe(rates(10.0, 1.0), 0.0);
    }
    let unused = demand.cost(rates(10.0, 1.0)).expect("it is known");
    assert!(unused.mean() == 0.0 && unused.quantile(0.95) < 0.05, "{unused:?}");
}

#[test]
fn it_outlives_a_restart() {
    let demand = learned(7, 100.0, |_| 0.2);
    let text = serde_json::to_string(&demand).expect("numbers");
    let kept: Demand = serde_json::from_str(&text).expect("the same");
    let need = |demand: &Demand| demand.cost(rates(500.0, 100.0)).map(|cost| cost.quantile(0.95));
    assert!((need(&kept).expect("known") / need(&demand).expect("known") - 1.0).abs() < 1e-9);
}
