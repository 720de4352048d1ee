//! Whatever packets come, from all three sides at once.

use oracle::hostile::play;

/// Long enough that many states are met, and many of them.
#[test]
fn whatever_comes_no_rule_is_broken() {
    let mut packets = 0;
    for seed in 0..400 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(8_000).collect();
        packets += play(&bytes).unwrap_or_else(|rule| panic!("seed {seed}: {rule}"));
    }
    assert!(packets > 100_000, "only {packets} packets came");
}
