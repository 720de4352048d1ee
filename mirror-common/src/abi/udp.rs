//! Records of datagrams: who was asked, and whose answers are awaited.

use super::{
    Tuple,
    six::{self, Address, BESIDE},
};
use crate::switch_word::Side;

/// IP protocol number (RFC 768).
pub const PROTOCOL: u16 = 17;

/// Elements of [`super::maps::AWAITED`] for each port with datagrams: every port of ours towards both sides, so that a side that
/// answers nothing leaves the other one its room.
pub const AWAITED_A_PORT: u32 = 2 * 65_536;

/// So many ports with datagrams have room of their own; more share it.
const ROOMS: u32 = 8;

/// Elements of [`super::maps::AWAITED`] where so many ports have datagrams. [`super::maps::EXCHANGES`] has as many: each is
/// awaited by one element at least.
pub const fn awaited(ports: u32) -> u32 {
    match ports {
        0 => 1,
        1..ROOMS => ports * AWAITED_A_PORT,
        _ => ROOMS * AWAITED_A_PORT,
    }
}

/// Key in [`super::maps::PEERS`] of datagrams' fragments from a server to an address of ours, or from anywhere (0) to a
/// service's: they have no port to look for.
#[inline(always)]
pub const fn fragments_of(from: u32, to: u32) -> Tuple {
    Tuple { saddr: from, daddr: to, sport: 0, dport: PROTOCOL.to_be() }
}

/// Key of [`super::maps::EXCHANGES`]: 32 bytes.
///
/// A client of IPv6 has no alias, but its address here: who asks from ever new addresses takes no more than its questions do.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ExchangeKey {
    /// A client's datagram's addresses and ports; its own address is [`BESIDE`] where it is one of IPv6, ...
    pub client: Tuple,
    /// The message's identifier (RFC 1035, 4.1.1), in host order; 0 where the service's have none.
    pub id: u16,
    /// Zero.
    pub pad: u16,
    /// ... and stands here; else zeros.
    pub six: Address,
}

impl ExchangeKey {
    /// Of a client's datagram and its message's identifier.
    #[inline(always)]
    pub const fn new(client: Tuple, six: Address, id: u16) -> Self {
        Self { client, id, pad: 0, six }
    }

    /// A word by which clients are told from each other, whatever their ports are. Of IPv6 the whole address counts.
    #[inline(always)]
    pub const fn who(&self) -> u32 {
        if self.client.saddr == BESIDE { six::who(&self.six) } else { self.client.saddr }
    }
}

/// A client's question and its answers: value of [`super::maps::EXCHANGES`], 48 bytes. Writer: the datapath. Pairs are by
/// [`Side`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Exchange {
    /// Answers of the primary (low half) and the shadow (high half). By atomic adds, as both may answer at once; emptied when the
    /// client asks again.
    pub answers: u64,
    /// `CLOCK_MONOTONIC`, nanoseconds, at which it was asked.
    pub asked_ns: u64,
    /// From the question to each side's first answer, in microseconds.
    pub answer_us: [u32; 2],
    /// [`crate::flow::Writes::begun`] when it was asked.
    pub clock: u32,
    /// Ports that the question left from, in host order; 0: that side wasn't asked.
    pub ports: [u16; 2],
    /// Bytes of each first answer's payload.
    pub lengths: [u16; 2],
    /// Their sums.
    pub sums: [u16; 2],
    /// Their response codes (RFC 1035, 4.1.1); 0 where the service's messages have none.
    pub codes: [u8; 2],
    /// The side whose answers the client gets: [`Side`].
    pub heard: u8,
    /// [`Exchange::WRITES`] and others.
    pub flags: u8,
    /// Zero.
    pub pad: u32,
}

impl Exchange {
    /// The question may change state.
    pub const WRITES: u8 = 1;
    /// An answer's sum isn't known.
    pub const UNSUMMED: u8 = 2;

    /// What a side's answer adds to [`Exchange::answers`].
    #[inline(always)]
    pub const fn answer_of(side: Side) -> u64 {
        1 << (side as u32 * 32)
    }

    /// How often a side has answered.
    #[inline(always)]
    pub const fn answered(&self, side: Side) -> u32 {
        (self.answers >> (side as u32 * 32)) as u32
    }

    /// Whether a side was asked.
    #[inline(always)]
    pub const fn asked(&self, side: Side) -> bool {
        self.ports[side as usize & 1] != 0
    }

    /// Whether a side was asked, and hasn't answered.
    #[inline(always)]
    pub const fn owes(&self, side: Side) -> bool {
        self.asked(side) && self.answered(side) == 0
    }
}

/// Whose answer a server's datagram is: value of [`super::maps::AWAITED`], 48 bytes. Writer: the datapath, of an entry that it
/// has claimed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Awaited {
    /// The exchange. It names the port in its turn; an entry whose exchange doesn't is a stale one.
    pub key: ExchangeKey,
    /// `CLOCK_MONOTONIC`, nanoseconds, of the last datagram either way.
    pub last_ns: u64,
    /// The side that was asked: [`Side`].
    pub side: u8,
    /// 1: the question may change state.
    pub writes: u8,
    /// Zero.
    pub pad: [u8; 6],
}

/// Since when each side has answered nothing: value of [`super::maps::SILENCE`], 16 bytes. Writer: the datapath, a word each.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Silence {
    /// `CLOCK_MONOTONIC`, nanoseconds, of the first question since the last answer; 0: it owes none. By [`Side`].
    pub since_ns: [u64; 2],
}

const _: () = {
    assert!(size_of::<Silence>() == 16);
    assert!(size_of::<ExchangeKey>() == 32);
    assert!(size_of::<Exchange>() == 48);
    assert!(size_of::<Awaited>() == 48);
};

#[cfg(feature = "user")]
mod pod {
    #![allow(unsafe_code, reason = "marks plain records as such")]
    // SAFETY: all are `repr(C)` of integers without padding (asserted above), valid for every bit pattern.
    unsafe impl aya::Pod for super::ExchangeKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Exchange {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Awaited {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Silence {}
}
