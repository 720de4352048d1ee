//! Worlds of many seeds.

use mirror_common::verdict::Verdict;
use oracle::world::{self, Totals};

/// A seed says all: what it printed once, it prints again.
#[test]
fn a_seed_says_all() {
    for seed in 0..4 {
        let (first, second) = (world::run(seed, 100), world::run(seed, 100));
        assert_eq!(first.steps, second.steps);
        assert_eq!(first.trace, second.trace);
    }
}

/// The verdicts that the transition functions can end in.
const ENDS: &[Verdict] = &[
    Verdict::Forwarded,
    Verdict::Mirrored,
    Verdict::Absorbed,
    Verdict::AbsorbedAck,
    Verdict::Raised,
    Verdict::TurnedBack,
    Verdict::Probe,
    Verdict::HeldFrozen,
    Verdict::HeldUnsettled,
    Verdict::HeldBehind,
    Verdict::HeldMoved,
    Verdict::HeldCapped,
    Verdict::HeldOrder,
    Verdict::DeferredOrder,
    Verdict::DeferredRaced,
    Verdict::SynNew,
    Verdict::SynAgain,
    Verdict::SynAckShown,
    Verdict::SynAckAbsorbed,
    Verdict::Dialled,
    Verdict::FinAbsorbed,
    Verdict::Reset,
    Verdict::LegLost,
    Verdict::FailedMidAnswer,
    Verdict::Refused,
    Verdict::ResetUnknownLeg,
    Verdict::ResetStale,
    Verdict::OutOfWindow,
    Verdict::BeyondHead,
    Verdict::AskedAgain,
    Verdict::HeldDialling,
    Verdict::KeptOrder,
    Verdict::KeptUnsettled,
    Verdict::PartForwarded,
    Verdict::SynAckWithoutSack,
    Verdict::MirroredAhead,
    Verdict::TailForwarded,
    Verdict::BrokenOff,
    Verdict::AckedLate,
];

/// Runs seeds until so many packets have been delivered; ends at the first rule that is broken.
fn run(steps: u64) -> Totals {
    let mut totals = Totals::default();
    let mut seed = 0;
    while totals.steps < steps {
        let report = world::run(seed, 0);
        totals.add(&report);
        if let Some((at, rule)) = report.violation {
            let trace = world::run(seed, 120).trace.join("\n");
            let at = at as f64 / 1e6;
            panic!(
                "{trace}\nseed {seed}, {at:.6} s: {rule}\ncargo run -p oracle --bin world -- --seed {seed}"
            );
        }
        seed += 1;
    }
    println!("{totals}\n{seed} worlds");
    totals
}

/// T14, T17, T18, T34, C3: three million steps: no rule is broken, and every end of the transition functions is seen.
#[test]
fn no_rule_is_broken_and_every_verdict_is_reached() {
    let totals = run(3_000_000);
    let missed: Vec<_> = ENDS.iter().filter(|verdict| totals.of(**verdict) == 0).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
}

/// For the long run.
#[test]
#[ignore = "a hundred million steps: a quarter of an hour"]
fn soak() {
    run(100_000_000);
}
