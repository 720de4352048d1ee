//! Which server of several a connection goes to.

use mirror_common::abi::{
    backend::{MAX_BACKENDS, choose, key, lost, number, tries, with_backend},
    nat,
};

const SECRET: u64 = 0x1234_5678_9abc_def0;
const CLIENTS: u32 = 60_000;

/// A key for each of many connections: of few clients with ports in a row, as real ones are.
fn keys() -> impl Iterator<Item = u64> {
    (0..CLIENTS).map(|n| {
        let addr = u32::from_ne_bytes([10, 0, 1, (n % 16) as u8]);
        key(SECRET, addr, Some((32_768 + n / 16) as u16))
    })
}

fn shares(takes: u32, skip: u32) -> [u32; MAX_BACKENDS] {
    let mut shares = [0; MAX_BACKENDS];
    keys().for_each(|key| shares[choose(takes, key, skip) as usize] += 1);
    shares
}

/// Within five standard deviations of a binomial's.
fn is_even(share: u32, servers: u32) -> bool {
    let p = 1.0 / f64::from(servers);
    let n = f64::from(CLIENTS);
    (f64::from(share) - n * p).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt()
}

#[test]
fn each_server_that_takes_connections_gets_the_same_share_and_no_other_any() {
    for takes in [1_u32, 0b111, 0b1010_0100, 0xffff, 0x8000] {
        for skip in 0..4 {
            for (n, share) in shares(takes, skip).into_iter().enumerate() {
                let expected = takes >> n & 1 != 0;
                assert_eq!(share > 0, expected, "server {n} of {takes:#b} behind {skip}");
                assert!(!expected || is_even(share, takes.count_ones()), "{n} of {takes:#b}: {share}");
            }
        }
    }
}

#[test]
fn a_server_that_goes_moves_its_own_connections_only_and_evenly_and_back_again() {
    let (all, without) = (0b1_1111_u32, 0b1_1011_u32);
    let mut moved = [0_u32; MAX_BACKENDS];
    for key in keys() {
        let (before, after) = (choose(all, key, 0), choose(without, key, 0));
        if before == 2 {
            moved[after as usize] += 1;
        } else {
            assert_eq!(before, after, "{key:#x} was another server's");
        }
    }
    let own: u32 = moved.iter().sum();
    assert!(is_even(own, 5) && moved[2] == 0, "{moved:?}");
    for n in [0, 1, 3, 4] {
        let share = f64::from(moved[n]) / f64::from(own);
        assert!((share - 0.25).abs() < 0.03, "{moved:?}");
    }
}

#[test]
fn behind_a_server_that_failed_comes_the_one_that_would_be_chosen_without_it() {
    for key in keys().take(5_000) {
        let mut left = 0b11_0111_u32;
        for skip in 0..4 {
            let chosen = choose(0b11_0111, key, skip);
            assert_eq!(chosen, choose(left, key, 0), "each has its turn");
            left &= !(1 << chosen);
        }
        assert_eq!(choose(0b10, key, 3), 1, "the only one is tried again");
        assert_eq!(choose(0b11, key, 2), choose(0b11, key, 0), "and the first one behind the last");
    }
    assert_eq!(choose(0, 7, 0), 0);
    assert_eq!(choose(0, 7, 3), 0);
}

#[test]
fn by_its_address_alone_a_client_has_one_server_and_the_secret_says_which() {
    let addr = |n: u32| u32::from_ne_bytes([10, 9, (n >> 8) as u8, n as u8]);
    let mut other_secret = 0;
    let mut ports_differ = 0;
    for n in 0..2_000 {
        let by_client = choose(0b1111, key(SECRET, addr(n), None), 0);
        other_secret += u32::from(by_client != choose(0b1111, key(SECRET + 1, addr(n), None), 0));
        let by_port = |port| choose(0b1111, key(SECRET, addr(n), Some(port)), 0);
        ports_differ += u32::from(by_port(1) != by_port(2));
    }
    assert!((1_300..1_700).contains(&other_secret), "{other_secret}");
    assert!((1_300..1_700).contains(&ports_differ), "{ports_differ}");
}

#[test]
fn a_port_id_has_its_server_and_failures_beside_its_port() {
    for (port, server, failed) in [(1_024_u32, 0, 0), (65_535, 15, 3), (40_000, 7, 1)] {
        for own in [0, nat::CLIENTS] {
            let id = with_backend(port | own, server, failed);
            assert_eq!((u32::from(nat::port(id)), number(id), tries(id)), (port, server, failed));
            assert_eq!(id & nat::CLIENTS, own);
            let next = lost(id, true);
            assert_eq!((number(next), tries(next)), (server, (failed + 1) & 3));
            assert_eq!(tries(lost(id, false)), 0);
            assert_eq!(lost(id, false) & 0xff_ffff, id & 0xff_ffff, "nothing else changes");
        }
    }
}
