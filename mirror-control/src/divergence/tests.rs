use super::*;

const MS: u64 = 1_000_000;

/// A compared read at a time in milliseconds.
fn turn(at_ms: u64, came: u8, target: u32, digest: u16) -> Turn {
    let other = if came == outcome::DIGEST { digest ^ 1 } else { digest };
    let compared = Compared {
        target,
        prefix: 7,
        us: [100; 2],
        lengths: [50; 2],
        digests: [digest, other],
        statuses: [200; 2],
        outcome: came,
        ..Compared::default()
    };
    Turn { at: at_ms * MS, compared, ..Turn::default() }
}

/// Where all is of IPv4.
fn plain(turn: &Turn) -> SocketAddr {
    SocketAddr::from((turn.client.to_ne_bytes(), u16::from_be(turn.port)))
}

fn standing(divergence: &Divergence, now: f64) -> Standing {
    divergence.top(now)[0].2
}

#[test]
fn intervals_are_clopper_and_pearsons() {
    let close = |rate: Rate, low: f64, high: f64| {
        assert!((rate.low - low).abs() < 1e-3 && (rate.high - high).abs() < 1e-3, "{rate:?}");
    };
    // R: binom.test(5, 100), binom.test(0, 10), binom.test(10, 10).
    close(Rate::of(5, 100), 0.01643, 0.11283);
    close(Rate::of(0, 10), 0.0, 0.30850);
    close(Rate::of(10, 10), 0.69150, 1.0);
    assert_eq!(Rate::of(0, 0), Rate { share: 0.0, low: 0.0, high: 1.0 });
}

#[test]
fn a_steady_primary_makes_each_difference_count() {
    let mut divergence = Divergence::new([]);
    for n in 0..100 {
        let came = if n % 10 == 9 { outcome::DIGEST } else { outcome::EQUAL };
        divergence.observe(&turn(n, came, 1, 9), plain);
    }
    divergence.settle(0.1);
    assert_eq!((standing(&divergence, 0.1), divergence.digests()), (Standing::Counts, [10, 0, 0]));
    assert_eq!((divergence.tick(10, 0), divergence.tick(0, 0)), (10, 0));
}

/// H11: what the primary never answers twice alike is no difference.
#[test]
fn a_primary_that_differs_from_itself_makes_noise() {
    let mut divergence = Divergence::new([]);
    for n in 0..100 {
        divergence.observe(&turn(n, outcome::DIGEST, 1, n as u16 * 2), plain);
    }
    divergence.settle(0.1);
    assert_eq!((standing(&divergence, 0.1), divergence.digests()), (Standing::Noisy, [0, 100, 0]));
    assert_eq!(divergence.tick(100, 0), 0);
}

/// Where the shadow differs more often than the primary from itself, it isn't the same noise.
#[test]
fn more_differences_than_the_primarys_own_count() {
    let mut divergence = Divergence::new([]);
    for n in 0..400 {
        let digest = if n % 40 < 20 { 2 } else { 4 };
        let came = if n % 2 == 0 { outcome::DIGEST } else { outcome::EQUAL };
        divergence.observe(&turn(n, came, 1, digest), plain);
    }
    divergence.settle(0.4);
    assert_eq!(divergence.digests(), [200, 0, 0]);
}

/// A write between two answers may be what changed the second.
#[test]
fn what_a_write_may_have_changed_teaches_no_noise_and_waiting_is_bounded() {
    let mut divergence = Divergence::new([]);
    for n in 0..100 {
        let mut seen = turn(n, outcome::DIGEST, 1, n as u16 * 2);
        seen.compared.clock = n as u32;
        divergence.observe(&seen, plain);
    }
    divergence.settle(1.0);
    assert_eq!((standing(&divergence, 1.0), divergence.digests()), (Standing::Learning, [0, 0, 100]));
    divergence.settle(PATIENCE + 1.0);
    assert_eq!(divergence.digests(), [100, 0, 0]);
}

/// Each target is asked once, so that the primary can't differ from itself; but it never differed from the shadow, either.
#[test]
fn what_was_equal_for_long_is_no_noise_when_it_begins_to_differ() {
    let after = |equal: u64| {
        let mut divergence = Divergence::new([]);
        for n in 0..equal {
            divergence.observe(&turn(n, outcome::EQUAL, n as u32 + 1, 9), plain);
        }
        for n in equal..equal + 5 {
            divergence.observe(&turn(n, outcome::DIGEST, n as u32 + 1, 9), plain);
        }
        divergence.settle(0.2);
        divergence.digests()
    };
    assert_eq!(after(AGREED), [5, 0, 0]);
    assert_eq!(after(AGREED - 1), [0, 0, 5]);
}

#[test]
fn a_status_and_a_length_are_never_noise() {
    let mut divergence = Divergence::new([7]);
    for (n, came) in
        [outcome::STATUS, outcome::LENGTH, outcome::DIGEST, outcome::UNKNOWN].into_iter().enumerate()
    {
        divergence.observe(&turn(n as u64, came, 1, 9), plain);
    }
    divergence.settle(0.0);
    let (_, prefix, standing, rate) = divergence.top(0.0)[0];
    assert_eq!((standing, rate.share), (Standing::Named, 0.5));
    assert_eq!((prefix.unknown, prefix.examples.len()), (1, 3));
}

#[test]
fn records_that_were_lost_are_taken_to_be_like_the_others() {
    let mut divergence = Divergence::new([]);
    divergence.begin();
    for n in 0..40 {
        divergence.observe(&turn(n, outcome::EQUAL, 1, 9), plain);
    }
    for n in 40..50 {
        divergence.observe(&turn(n, outcome::DIGEST, 1, 9), plain);
    }
    divergence.settle(0.1);
    assert_eq!(divergence.tick(1_000, 990), 1_000, "none of them was noise");
    // What hasn't been read yet isn't lost.
    assert_eq!(divergence.tick(5, 0), 0);
}

#[test]
fn clients_can_not_fill_the_memory_with_prefixes_or_targets() {
    let mut divergence = Divergence::new([]);
    for n in 0..20_000_u32 {
        let mut seen = turn(n.into(), outcome::EQUAL, n + 1, 9);
        seen.compared.prefix = n + 1;
        divergence.observe(&seen, plain);
    }
    assert!(divergence.prefixes.len() <= MAX_PREFIXES && divergence.targets.len() <= MAX_TARGETS);
    let mut last = turn(30_000, outcome::STATUS, 1, 9);
    last.compared.prefix = 20_000;
    divergence.observe(&last, plain);
    assert_eq!(divergence.top(30.0)[0].0, 20_000, "the newest are kept");
}
