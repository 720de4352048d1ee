//! The servers of a side, where it has several: which one a leg goes to, and how it is chosen.
//!
//! A leg remembers its server in its port id ([`super::nat`]), so that a connection costs no byte more: bits 20–23 the
//! server's number in its pool, bits 24–25 how many dials in a row have failed.

use crate::weight::mix;

/// Servers of a side at most.
pub const MAX_BACKENDS: usize = 16;

const NUMBER_AT: u32 = 20;
const TRIES_AT: u32 = 24;
const TRIES: u32 = 3;

/// One side's servers of a service: element of [`super::maps::POOLS`], 100 bytes. Writer: daemon. A server keeps its number
/// for as long as the map is pinned: legs that run know no other name for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pool {
    /// IPv4 addresses or aliases ([`super::six`]), by number; 0: no such server.
    pub addrs: [u32; MAX_BACKENDS],
    /// Their ports.
    pub ports: [u16; MAX_BACKENDS],
    /// Bit n: server n takes new connections. Changed alone while packets go by; torn, it is a choice that an earlier or a
    /// later packet could have had.
    pub takes: u32,
}

const _: () = assert!(size_of::<Pool>() == 100);

/// The server's number in a leg's port id.
#[inline(always)]
pub const fn number(id: u32) -> u32 {
    id >> NUMBER_AT & (MAX_BACKENDS as u32 - 1)
}

/// How many dials in a row have failed, as a leg's port id says: 3 at most.
#[inline(always)]
pub const fn tries(id: u32) -> u32 {
    id >> TRIES_AT & TRIES
}

/// The port id of a leg to a server, of which so many dials in a row have failed.
#[inline(always)]
pub const fn with_backend(id: u32, number: u32, tries: u32) -> u32 {
    id | (number & (MAX_BACKENDS as u32 - 1)) << NUMBER_AT | (tries & TRIES) << TRIES_AT
}

/// A leg's port id once the leg is lost. Where its server `failed`, the next dial goes to the next one in the client's order.
#[inline(always)]
pub const fn lost(id: u32, failed: bool) -> u32 {
    let mask = TRIES << TRIES_AT;
    if failed { (id & !mask) | (id.wrapping_add(1 << TRIES_AT) & mask) } else { id & !mask }
}

/// What a choice goes by: the client's address alone, or its port too (both as they lie in a packet). Without the secret
/// nobody can aim at one server.
#[inline(always)]
pub const fn key(secret: u64, addr: u32, port: Option<u16>) -> u64 {
    let port = match port {
        Some(port) => port as u64 + 1,
        None => 0,
    };
    mix(secret ^ ((addr as u64) << 32 | port))
}

/// The server in `takes` for a key: the one with the highest weight, behind `skip` that have failed. Each server's weight is
/// a hash of the key and its number, so that one that goes or comes moves its own connections only (Thaler and Ravishankar,
/// "Using name-based mappings to increase hit rates", 1998). 0 where none takes any.
#[inline(always)]
pub fn choose(takes: u32, key: u64, skip: u32) -> u32 {
    let mut left = takes;
    let mut chosen = highest(left, key);
    for _ in 0..skip & TRIES {
        left &= !(1 << chosen);
        if left == 0 {
            left = takes;
        }
        chosen = highest(left, key);
    }
    chosen
}

/// The number is a weight's last four bits: what is compared is one word, and a loop of one kept value is one state to the
/// kernel's verifier.
#[inline(always)]
fn highest(takes: u32, key: u64) -> u32 {
    const NUMBER: u64 = MAX_BACKENDS as u64 - 1;
    let mut most = 0;
    for number in 0..MAX_BACKENDS as u64 {
        // Far apart, so that no key makes two servers' hashes alike.
        let weight = mix(key ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) & !NUMBER | number;
        let taken = 0_u64.wrapping_sub(u64::from(takes >> number & 1));
        most = core::cmp::max(most, weight & taken);
    }
    (most & NUMBER) as u32
}
