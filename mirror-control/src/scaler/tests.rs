use super::*;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

const TICK: f64 = 15.0;
const LEAD: Duration = Duration::from_secs(600);
const LEAD_TICKS: usize = 40;

fn policy() -> ScalerPolicy {
    ScalerPolicy { armed: true, most: 100, ..ScalerPolicy::default() }
}

fn scaler(policy: ScalerPolicy) -> Scaler {
    Scaler::new(policy, LEAD).expect("a policy that makes sense")
}

fn seen(tick: usize, load: f64, forecast: Option<f64>, current: u32) -> Seen {
    Seen { at: tick as f64 * TICK, load: Some(load), forecast, unit: Some(10.0), current }
}

/// Decides tick by tick, capacity coming at once, and returns what was wanted.
fn replay(scaler: &mut Scaler, loads: &[f64], forecast: impl Fn(usize) -> Option<f64>) -> Vec<Decision> {
    let mut current = 1;
    let decide = |(tick, load): (usize, &f64)| {
        let decision = scaler.decide(&seen(tick, *load, forecast(tick), current));
        current = decision.wanted;
        decision
    };
    loads.iter().enumerate().map(decide).collect()
}

/// A day's wave with noise, by a seed; 0 to about 600.
fn wave(seed: u64, ticks: usize) -> Vec<f64> {
    let mut random = StdRng::seed_from_u64(seed);
    let noise = |random: &mut StdRng| random.random_range(-20.0..20.0);
    let wave = |tick: usize| 300.0 * (1.0 - (tick as f64 / 5_760.0 * std::f64::consts::TAU).cos());
    (0..ticks).map(|tick| (wave(tick) + noise(&mut random)).max(0.0)).collect()
}

#[test]
fn with_a_right_forecast_capacity_is_never_below_need_when_it_comes() {
    for seed in 1..=5 {
        let loads = wave(seed, 2 * 5_760);
        let right = |tick: usize| loads.get(tick + LEAD_TICKS).copied();
        let decisions = replay(&mut scaler(policy()), &loads, right);
        for (decision, load) in decisions.iter().zip(&loads[LEAD_TICKS..]) {
            assert!(f64::from(decision.wanted) * 10.0 >= *load, "seed {seed}: {decision} for {load}");
        }
        // Nor is it the peak all the time, once it has learned for a day.
        let mean =
            decisions[5_760..].iter().map(|decision| f64::from(decision.wanted)).sum::<f64>() / 5_760.0;
        let needed = loads[5_760..].iter().sum::<f64>() / 10.0 / 5_760.0;
        assert!(mean < 1.2 * needed, "seed {seed}: {mean} units for {needed}");
    }
}

#[test]
fn the_margin_grows_with_what_surprises_and_is_small_for_a_calm_load() {
    let calm = vec![400.0; 1_000];
    let wild: Vec<f64> = (0..1_000).map(|tick| if tick % 80 < 8 { 800.0 } else { 400.0 }).collect();
    let last = |loads: &[f64]| {
        let mut scaler = scaler(policy());
        let decisions = replay(&mut scaler, loads, |_| Some(400.0));
        (decisions[990].wanted, decisions[990].cause)
    };
    assert_eq!(last(&calm), (40, Cause::Load));
    assert!(last(&wild).0 >= 80, "{:?}", last(&wild));
}

#[test]
fn a_margin_ends_where_it_costs_more_than_the_shortage_that_it_saves() {
    // One tick of so many is five times the load, and nobody can tell which.
    let spiky = |every: usize| -> u32 {
        let loads: Vec<f64> =
            (0..20_000).map(|tick| if tick % every == every / 2 { 500.0 } else { 100.0 }).collect();
        let mut scaler = scaler(ScalerPolicy { hold_seconds: 0.0, ..policy() });
        replay(&mut scaler, &loads, |_| Some(100.0))[19_990].wanted
    };
    // A margin of 4 loads is worth shortages of 4 / 25 of the time.
    assert!(spiky(3) >= 50, "{}", spiky(3));
    assert!(spiky(40) <= 20, "{}", spiky(40));
}

#[test]
fn what_erred_less_is_what_is_expected() {
    let loads = wave(1, 3 * 5_760);
    let last = |forecast: &dyn Fn(usize) -> Option<f64>| {
        let decisions = replay(&mut scaler(policy()), &loads, forecast);
        let of = |tick: usize| decisions[tick].expected.expect("an expectation");
        let errors = (12_000..17_000).map(|tick| (of(tick) - loads[tick + LEAD_TICKS]).abs());
        errors.sum::<f64>() / 5_000.0
    };
    let (right, wrong) = (last(&|tick| loads.get(tick + LEAD_TICKS).copied()), last(&|_| Some(5_000.0)));
    let alone = last(&|_| None);
    // A wrong one errs by 4,700. What is left of it is what it saves of the shortages of a rising load.
    assert!(right < 2.0 && wrong < 3.0 * alone, "{right} {wrong} {alone}");
}

#[test]
fn expectations_of_a_long_lead_are_compared_too() {
    let mut scaler = Scaler::new(policy(), Duration::from_secs(3_600)).expect("a policy that makes sense");
    let mut decide = |second: u32| {
        let at = f64::from(second);
        scaler.decide(&Seen { at, load: Some(100.0), forecast: Some(100.0), unit: Some(10.0), current: 10 })
    };
    assert_eq!(decide(0).cause, Cause::Untried);
    assert_eq!(
        (1..=7_300).map(&mut decide).last().map(|last| (last.wanted, last.cause)),
        Some((10, Cause::Load))
    );
}

#[test]
fn up_at_once_and_down_after_the_hold_time() {
    let mut loads = vec![100.0; 400];
    loads[300] = 500.0;
    let decisions = replay(&mut scaler(ScalerPolicy { shortage_price: 0.0, ..policy() }), &loads, |_| None);
    let wanted: Vec<u32> = decisions.iter().map(|decision| decision.wanted).collect();
    assert_eq!(wanted[299], 10);
    // The minute's rise is drawn on for another minute.
    assert_eq!((wanted[300], decisions[300].cause), (90, Cause::Load));
    assert_eq!((wanted[320], decisions[320].cause), (90, Cause::Held));
    assert_eq!((wanted[321], decisions[321].cause), (10, Cause::Load));
}

#[test]
fn bounds_hold_whatever_is_seen() {
    let mut random = StdRng::seed_from_u64(3);
    let bounded = ScalerPolicy { least: 3, most: 7, ..policy() };
    let mut scaler = scaler(bounded);
    let odd = [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300, f64::MAX, 1e-300];
    for tick in 0..5_000 {
        let mut value = || {
            let value = odd.get(random.random_range(0..10)).copied();
            let value = value.unwrap_or_else(|| random.random_range(0.0..100.0));
            random.random_bool(0.9).then_some(value)
        };
        let seen = Seen {
            at: if tick % 17 == 0 { f64::NAN } else { f64::from(tick) * TICK },
            load: value(),
            forecast: value(),
            unit: value(),
            current: 5,
        };
        let decision = scaler.decide(&seen);
        assert!((3..=7).contains(&decision.wanted), "{seen:?}: {decision:?}");
    }
}

#[test]
fn a_spent_budget_leaves_what_the_load_needs() {
    let budget = Some(Budget { unit_hours_a_day: 2.0 });
    let loads = vec![100.0; 2_000];
    let decisions = replay(&mut scaler(ScalerPolicy { budget, ..policy() }), &loads, |_| Some(300.0));
    assert_eq!(decisions[0].wanted, 30);
    assert!(decisions.iter().any(|decision| decision.cause == Cause::Budget));
    assert!(decisions.iter().all(|decision| decision.wanted >= 10));
    let ahead: u32 = decisions.iter().map(|decision| decision.wanted - 10).sum();
    // What was there and what comes back in the time, and once more what is kept for a hold time.
    let most_hours = 2.0 + 2.0 * 2_000.0 * TICK / DAY + 20.0 * 300.0 / HOUR;
    assert!(f64::from(ahead) * TICK / HOUR <= most_hours, "{ahead} unit-ticks");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_why() {
    let mut dry = scaler(ScalerPolicy { armed: false, ..policy() });
    let decision = dry.decide(&seen(0, 100.0, Some(300.0), 5));
    assert_eq!((decision.wanted, decision.to_do()), (30, None));
    assert_eq!(
        decision.to_string(),
        "dry run: would scale from 5 to 30 units: expectations aren't compared for an hour yet: a fixed factor of the \
         load, or the forecast if that is more (load 100.0, 300.0 expected in 600 s)"
    );
    assert_eq!(scaler(policy()).decide(&seen(0, 100.0, Some(300.0), 5)).to_do(), Some(30));
    assert_eq!(scaler(policy()).decide(&seen(0, 100.0, Some(300.0), 30)).to_do(), None);
}

#[test]
fn without_a_past_or_a_forecast_it_reacts() {
    let decision = scaler(policy()).decide(&seen(0, 100.0, None, 1));
    assert_eq!((decision.wanted, decision.cause), (15, Cause::Untried));
}

#[test]
fn what_is_not_measured_takes_no_capacity_away() {
    let mut scaler = scaler(policy());
    let blind = |tick: usize, forecast, current| Seen { load: None, ..seen(tick, 0.0, forecast, current) };
    assert_eq!(scaler.decide(&blind(0, None, 8)).cause, Cause::NoLoad);
    let less = scaler.decide(&blind(1, Some(20.0), 8));
    assert_eq!((less.wanted, less.cause), (8, Cause::NoLoad));
    assert_eq!(scaler.decide(&blind(2, Some(200.0), 8)).wanted, 20);
    let unknown = scaler.decide(&Seen { unit: Some(0.0), ..seen(3, 500.0, None, 8) });
    assert_eq!((unknown.wanted, unknown.cause), (8, Cause::NoUnit));
    let back = scaler.decide(&seen(1, 500.0, None, 8));
    assert_eq!((back.wanted, back.cause), (8, Cause::Clock));
}

#[test]
fn after_a_blind_time_and_at_the_start_it_waits_for_the_hold_time_before_it_takes_capacity_away() {
    let mut scaler = scaler(ScalerPolicy { most: 20, ..policy() });
    let wanted =
        |scaler: &mut Scaler, tick, load| scaler.decide(&Seen { load, ..seen(tick, 0.0, None, 18) }).wanted;
    for tick in 0..=20 {
        assert_eq!(wanted(&mut scaler, tick, Some(20.0)), 18, "tick {tick}");
    }
    assert_eq!(wanted(&mut scaler, 21, Some(20.0)), 3);
    for tick in 22..100 {
        assert_eq!(wanted(&mut scaler, tick, None), 18, "tick {tick}");
    }
    for tick in 100..=119 {
        assert_eq!(wanted(&mut scaler, tick, Some(20.0)), 18, "tick {tick}");
    }
    assert_eq!(wanted(&mut scaler, 120, Some(20.0)), 3);
    // More than the policy's most isn't held.
    assert_eq!(scaler.decide(&seen(121, 20.0, None, 30)).wanted, 3);
}

#[test]
fn a_policy_that_makes_no_sense_is_refused() {
    let refused = |policy: ScalerPolicy| policy.validate().expect_err("a refusal").to_string();
    assert_eq!(
        refused(ScalerPolicy { least: 5, most: 4, ..policy() }),
        "least is 5 and most is 4: at least 1, and least isn't above most"
    );
    assert_eq!(
        refused(ScalerPolicy { shortage_price: f64::NAN, ..policy() }),
        "shortage_price is NaN: it is from 0 to 1000000"
    );
}
