//! Worlds of many seeds.

use oracle::world;

/// A seed says all: what it printed once, it prints again.
#[test]
fn a_seed_says_all() {
    for seed in 0..4 {
        let (first, second) = (world::run(seed, 100), world::run(seed, 100));
        assert_eq!(first.steps, second.steps);
        assert_eq!(first.trace, second.trace);
    }
}
