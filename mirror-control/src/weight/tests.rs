use proptest::prelude::*;

use super::*;
use crate::evidence::Metric;

fn progress(have: u64) -> Progress {
    Progress { have, need: 10_000, evidence: [Some(5.0), Some(5.0), Some(5.0), None], threshold: 4.6 }
}

fn worse(gross: bool) -> Verdict {
    Verdict::Worse(Finding {
        metric: Metric::Errors,
        evidence: 9.0,
        threshold: 7.7,
        primary: 0.0005,
        allowed: 0.0005,
        shadow: 0.0105,
        samples: 600,
        gross,
    })
}

/// Ticks of a minute with the same verdict.
fn after(
    policy: &WeightPolicy,
    mut state: WeightState,
    minutes: u32,
    verdict: &Verdict,
) -> (WeightState, Option<Action>) {
    let mut last = None;
    for _ in 0..minutes {
        let (next, action) = step(policy, state, 60.0, verdict.clone());
        state = next;
        last = Some(action);
    }
    (state, last)
}

#[test]
fn no_read_moves_before_the_dark_time_is_over_and_the_shadow_shown_to_be_no_worse() {
    let policy = WeightPolicy::default();
    let good = Verdict::NoWorse(progress(20_000));
    let (state, action) = after(&policy, WeightState::default(), 19, &good);
    assert_eq!((state.weight(&policy), action.unwrap().reason), (0, Reason::Dwelling(60.0)));
    let (state, action) = after(&policy, state, 1, &good);
    let action = action.unwrap();
    assert_eq!((state.weight(&policy), action.change, action.judging), (100, Change::Up, Judging::BeginStep));
    assert_eq!(action.reason.to_string(), "the judge: no worse, shown by 20000 requests");
}

#[test]
fn low_traffic_holds_for_ever_and_says_so() {
    let policy = WeightPolicy::default();
    let (state, action) = after(&policy, WeightState::default(), 10_000, &Verdict::LowTraffic(progress(12)));
    assert_eq!(state.weight(&policy), 0);
    let said = action.unwrap().reason.to_string();
    assert_eq!(said, "low traffic: 12 requests of the shadow, about 10000 are needed");
}

#[test]
fn a_small_difference_goes_back_by_one_and_a_gross_one_to_0() {
    let policy = WeightPolicy::default();
    let at = WeightState { step: Some(3), ..WeightState::default() };
    let (state, action) = step(&policy, at.clone(), 5.0, worse(false));
    assert_eq!(
        (state.weight(&policy), action.change, action.judging),
        (1_000, Change::Back, Judging::Restart)
    );
    let (state, action) = step(&policy, at, 5.0, worse(true));
    assert_eq!((state.weight(&policy), action.change), (0, Change::ToZero));
    assert!(
        action.reason.to_string().contains("errors 1.050 % beside 0.050 %, 0.050 % allowed (600 requests"),
        "{}",
        action.reason
    );
}

#[test]
fn after_a_step_back_it_cools_down_and_after_the_last_attempt_an_operator_has_to_resume() {
    let policy = WeightPolicy::default();
    let good = Verdict::NoWorse(progress(20_000));
    let mut state = WeightState { step: Some(3), ..WeightState::default() };
    (state, _) = step(&policy, state, 5.0, worse(false));
    let (mut state, action) = after(&policy, state, 29, &good);
    assert_eq!(action.unwrap().reason, Reason::CoolingDown(60.0));
    (state, _) = step(&policy, state, 5.0, worse(false));
    (state, _) = step(&policy, state, 5.0, worse(false));
    assert_eq!(state.weight(&policy), 0);
    let (mut state, action) = after(&policy, state, 10_000, &good);
    assert_eq!(action.unwrap().reason, Reason::Stopped(3));
    state.resume();
    let (state, _) = after(&policy, state, 1, &good);
    assert_eq!(state.weight(&policy), 100);
}

#[test]
fn a_pause_holds_the_weight_but_not_a_step_back() {
    let policy = WeightPolicy::default();
    let mut state = WeightState { step: Some(3), ..WeightState::default() };
    state.pause("anna");
    let (state, action) = after(&policy, state, 100, &Verdict::NoWorse(progress(20_000)));
    assert_eq!(action.unwrap().reason.to_string(), "paused by anna");
    let (state, _) = step(&policy, state, 5.0, worse(true));
    assert_eq!(state.weight(&policy), 0);
}

#[test]
fn policies_without_sense_are_refused() {
    let with = |steps: &[u32]| WeightPolicy { steps: steps.to_vec(), ..WeightPolicy::default() }.validate();
    assert_eq!(with(&[]), Err(WeightPolicyError::NoSteps));
    assert_eq!(with(&[100, 100]), Err(WeightPolicyError::Step { index: 1, weight: 100 }));
    assert_eq!(with(&[10_001]), Err(WeightPolicyError::Step { index: 0, weight: 10_001 }));
    let policy = WeightPolicy { dwell_seconds: f64::NAN, ..WeightPolicy::default() };
    assert!(policy.validate().unwrap_err().to_string().starts_with("dwell_seconds is NaN"));
    assert_eq!(WeightPolicy::default().validate(), Ok(()));
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        6 => Just(Verdict::NoWorse(progress(20_000))),
        1 => Just(Verdict::LowTraffic(progress(12))),
        1 => Just(Verdict::Undecided(progress(20_000))),
        1 => Just(worse(false)),
        1 => Just(worse(true)),
    ]
}

proptest! {
    /// Whatever the judge says: up by one step at a time, on its word alone, never while it cools down, is paused or stopped;
    /// worse is never ignored while the shadow has reads; and a state survives the journal.
    #[test]
    fn the_weight_only_rises_on_evidence(
        events in prop::collection::vec((any_verdict(), 1.0_f64..900.0, 0_u8..20), 1..200),
    ) {
        let policy = WeightPolicy::default();
        let mut state = WeightState::default();
        for (verdict, seconds, operator) in events {
            match operator {
                0 => state.pause("anna"),
                1 => state.resume(),
                _ => {}
            }
            let (before, seen) = (state.clone(), verdict.clone());
            let (next, action) = step(&policy, state, seconds, verdict);
            let (old, new) = (before.weight(&policy), next.weight(&policy));
            prop_assert_eq!(action.weight, new);
            prop_assert!(new <= ALL);
            if new > old {
                prop_assert!(matches!(seen, Verdict::NoWorse(_)));
                prop_assert_eq!(next.step, Some(before.step.map_or(0, |step| step + 1)));
                prop_assert!(before.paused_by.is_none() && !before.stopped && before.cooling_seconds <= seconds);
            }
            if matches!(seen, Verdict::Worse(_)) && old > 0 {
                prop_assert!(new < old);
            }
            prop_assert!(next.attempts <= policy.max_attempts);
            prop_assert!(!next.stopped || new == 0);
            let text = serde_json::to_string(&next).unwrap();
            prop_assert_eq!(serde_json::from_str::<WeightState>(&text).unwrap().weight(&policy), new);
            state = next;
        }
    }
}
