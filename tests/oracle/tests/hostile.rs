//! Whatever packets come, from all three sides at once.

use mirror_common::verdict::{COUNTERS, Verdict};
use oracle::hostile::play;

/// Verdicts that such packets must have reached, beside those of quiet connections: else they reach too little to show anything.
const REACHED: &[Verdict] = &[
    Verdict::Mirrored,
    Verdict::Absorbed,
    Verdict::Raised,
    Verdict::TurnedBack,
    Verdict::Probe,
    Verdict::HeldFrozen,
    Verdict::HeldUnsettled,
    Verdict::HeldDialling,
    Verdict::DeferredOrder,
    Verdict::DeferredRaced,
    Verdict::SynAgain,
    Verdict::Dialled,
    Verdict::FinAbsorbed,
    Verdict::Reset,
    Verdict::LegLost,
    Verdict::FailedMidAnswer,
    Verdict::BeyondHead,
];

#[test]
fn whatever_comes_no_rule_is_broken() {
    let mut hits = [0; COUNTERS];
    for seed in 0..2_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(4_000).collect();
        let reached = play(&bytes).unwrap_or_else(|rule| panic!("seed {seed}: {rule}"));
        hits.iter_mut().zip(reached).for_each(|(all, more)| *all += more);
    }
    let missed: Vec<_> = REACHED.iter().filter(|verdict| hits[**verdict as usize] == 0).collect();
    let told: Vec<_> = Verdict::ALL.iter().map(|verdict| (verdict.name(), hits[*verdict as usize])).collect();
    assert!(missed.is_empty(), "never reached: {missed:?} of {told:?}");
}
