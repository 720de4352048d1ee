//! What lies in the maps: their names, capacities and records, and the version of all that.
//!
//! Addresses and ports are in network byte order, as they lie in a packet; everything else is the host's.

pub mod backend;
mod event;
pub mod maps;
mod memory;
pub mod six;
mod sweep;
pub mod udp;

pub use event::{Event, EventKind};
pub use memory::BYTES_A_FLOW;
pub use sweep::{Legs, SweepState};

use crate::flow::{Compared, Flow};
use crate::protocol::http1::PREFIX_BYTES;

/// Raised whenever a record, a map's kind, or the meaning of a field changes. Pinned in [`maps::ABI`].
pub const ABI_VERSION: u32 = 13;

/// Applications at most.
pub const MAX_APPS: u32 = 64;
/// Services at most.
pub const MAX_SERVICES: u32 = 256;
/// Services that a policy names at most; each has an entry here for each of its addresses and ports ([`Service::number`]).
pub const MAX_APP_SERVICES: usize = 16;
/// From where to where legs run at most: a server's port each, and each service's address.
pub const MAX_PEERS: u32 = 4_096;
/// Devices with a program at XDP at most.
pub const MAX_DEVICES: u32 = 64;
/// Flows when the policy names no number; the daemon resizes the maps at load.
pub const DEFAULT_FLOWS: u32 = 65_536;
/// Flows at most.
pub const MAX_FLOWS: u32 = 4_194_304;
/// Slots that are passed over together where none of them is in use.
pub const BLOCK: u32 = 64;
/// Slots that one run of the sweep visits at most.
pub const SWEEP_SLOTS: u32 = 4_096;
/// Bytes of the event ring.
pub const EVENT_RING_BYTES: u32 = 1 << 20;

/// Bytes of the ring of compared turns.
pub const TURN_RING_BYTES: u32 = 1 << 20;
/// Prefixes whose text is kept at most.
pub const MAX_PREFIXES: u32 = 1_024;

/// Key of [`maps::SERVICES`]: 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ServiceKey {
    /// IPv4 address or alias ([`six`]) that clients talk to.
    pub addr: u32,
    /// Its port.
    pub port: u16,
    /// IP protocol number: 6, or [`udp::PROTOCOL`].
    pub protocol: u16,
}

/// What all servers of one side of a service share, and the first of them: 16 bytes. Writer: daemon.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Endpoint {
    /// IPv4 address or alias ([`six`]) of server 0 ([`backend`]); 0: the side doesn't exist.
    pub addr: u32,
    /// The gateway's own address that its legs come from; 0: the client's ([`nat::CLIENTS`]).
    pub nat: u32,
    /// That server's port.
    pub port: u16,
    /// Largest segment that the path to them takes, in bytes of payload: SYNs are clamped to the smaller side's.
    pub mss: u16,
    /// Requests that a server answers on one connection before it closes it; 0: no limit.
    pub max_requests: u32,
}

/// A service: value of [`maps::SERVICES`], 56 bytes. Writer: daemon; the datapath reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Service {
    /// Index in [`maps::APPS`] and [`maps::SWITCH`].
    pub app: u32,
    /// [`Service::SHADOWED`] and others.
    pub flags: u32,
    /// By side.
    pub endpoints: [Endpoint; 2],
    /// How long a side without authority may keep a flow waiting, in milliseconds.
    pub stall_ms: u32,
    /// How long a flow without a packet lives, in milliseconds.
    pub idle_ms: u32,
    /// Index in [`maps::POOLS`] of the primary's servers; the shadow's are behind it.
    pub pools: u32,
    /// How long a side without authority may hold a request back, in milliseconds; 0: for ever.
    pub pressure_ms: u32,
}

impl Service {
    /// The policy names a shadow: handshakes carry only the options that two legs can share.
    pub const SHADOWED: u32 = 1;
    /// A restarted server still knows what was written to it.
    pub const DURABLE: u32 = 2;
    /// The text of prefixes is kept in [`maps::PREFIXES`].
    pub const CAPTURES: u32 = 4;
    /// A write waits while another connection lags ([`crate::flow::Flow::LAGS`]), and a read stays with the authority.
    pub const ORDERED: u32 = 8;
    /// Where another connection of the same client does.
    pub const ORDERED_BY_CLIENT: u32 = 32;
    /// Its address is the primary's own, and the gateway a router on the way there: connections that are older than the
    /// datapath are the kernel's to forward.
    pub const TRANSPARENT: u32 = 16;
    /// A side has other servers than server 0: one is chosen of [`maps::POOLS`].
    pub const POOLED: u32 = 64;
    /// The choice is by the client's address alone: all its connections go to one server.
    pub const BY_CLIENT: u32 = 128;
    /// Of UDP alone: its datagrams are DNS messages (RFC 1035).
    pub const DNS: u32 = 1 << 12;
    /// Of UDP alone: each of its datagrams may change state.
    pub const WRITES: u32 = 1 << 13;

    /// Segments of a path that a prefix has: bits 8 to 11 of the flags.
    #[inline(always)]
    pub const fn segments(&self) -> u32 {
        self.flags >> 8 & 15
    }

    /// The flags that say so.
    pub const fn with_segments(segments: u32) -> u32 {
        (segments & 15) << 8
    }

    /// Which of the policy's services it is of: bits 16 to 19 of the flags. A server's number in its pool says who that is
    /// together with this one alone.
    #[inline(always)]
    pub const fn number(&self) -> u32 {
        self.flags >> Self::NUMBER_AT & (MAX_APP_SERVICES as u32 - 1)
    }

    /// The flags that say so.
    pub const fn with_number(number: u32) -> u32 {
        (number & (MAX_APP_SERVICES as u32 - 1)) << Self::NUMBER_AT
    }

    const NUMBER_AT: u32 = 16;
}

/// One application's words, but for the order over its connections: 56 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct App {
    /// Writes begun and not finished on every member. Writer: datapath, atomic adds only.
    pub open_writes: u64,
    /// `CLOCK_MONOTONIC`, nanoseconds, at which a freeze ends by itself. Writer: daemon, before the freezing swap.
    pub freeze_deadline: u64,
    /// Epoch of the frozen word that the deadline is for. Writer: daemon, before the freezing swap.
    pub freeze_epoch: u32,
    /// Low half of the word that the first packet past the deadline swaps in. Writer: daemon, before the freezing swap.
    pub thaw_state: u32,
    /// Nanoseconds (`CLOCK_MONOTONIC`) at which a side fell out of sync the last time. Writer: datapath; daemon where it put
    /// the side out.
    pub out_of_sync_at: u64,
    /// Why: [`crate::flow::LossReason`] as a number; 0: a client's connection ended while a write was owed;
    /// [`App::RESTARTED`] and its like. Writer: as above.
    pub out_of_sync_reason: u64,
    /// Writes that the mirror does, and of which nobody knows whether the authority, whose leg was lost, has done them. As
    /// soon as the authority answers another write, the mirror is out of sync for them; where it is dead, the mirror may take
    /// over. Writer: datapath, atomic adds; behind a move the daemon subtracts what was there before it.
    pub in_doubt: u64,
    /// Writes begun so far. Writer: datapath, atomic adds.
    pub writes: u64,
}

/// The order over a group of connections ([`crate::flow::Group`]): 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Lag {
    /// Connections that lag ([`crate::flow::Flow::LAGS`]). Writer: datapath, atomic adds.
    pub lagging: u64,
    /// When a write waited for its order the last time, in milliseconds modulo 2^32; 0: never. Writer: datapath.
    pub waited_ms: u64,
}

/// Groups of connections at most, a power of two: all of them, and half as many clients.
pub const LAGS: u32 = 4_096;

/// One application: element of [`maps::APPS`], 65,592 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppWords {
    /// What all connections share.
    pub app: App,
    /// By [`crate::flow::Group::element`].
    pub lags: [Lag; LAGS as usize],
}

impl Default for AppWords {
    fn default() -> Self {
        Self { app: App::default(), lags: [Lag::default(); LAGS as usize] }
    }
}

impl App {
    /// The server lost most of its legs at once, and may have lost its memory.
    pub const RESTARTED: u64 = 255;
    /// Its circuit breaker opened: it lost too many legs within a while.
    pub const TRIPPED: u64 = 254;
    /// It was put out on purpose: it is mirrored no more.
    pub const RELEASED: u64 = 253;
    /// The policy names servers of its that have never joined.
    pub const UNJOINED: u64 = 252;
    /// It was put out on purpose, to be joined again.
    pub const REJOINING: u64 = 251;
}

/// Settings of the datapath: one element, 16 bytes. Writer: daemon, before attaching.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Config {
    /// Interface index of the TAP that holds packets; 0: nothing is held, everything is deferred.
    pub tap: u32,
    /// Flow slots in use: the size of [`maps::FLOWS`].
    pub flows: u32,
    /// Mixed into the choice of port and first sequence numbers. Random at load.
    pub secret: u64,
}

/// Key of [`maps::TUPLES`]: 12 bytes. The addresses and ports of a packet as it comes in.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Tuple {
    /// Source address.
    pub saddr: u32,
    /// Destination address.
    pub daddr: u32,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// Key in [`maps::PEERS`] that says that an address is a service's: fragments towards it have no port to look for.
#[inline(always)]
pub const fn fragments_of(addr: u32) -> Tuple {
    Tuple { saddr: 0, daddr: addr, sport: 0, dport: 0 }
}

/// From whom a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum From {
    /// The primary's server.
    Primary = 0,
    /// The shadow's server.
    Shadow = 1,
    /// The client.
    Client = 2,
}

/// Value of [`maps::TUPLES`]: slot (bits 0–23), direction (24–25), generation (32–63).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Entry(pub u64);

impl Entry {
    /// Packs.
    #[inline(always)]
    pub const fn new(slot: u32, generation: u32, from: u32) -> Entry {
        Entry(((generation as u64) << 32) | (((from & 3) as u64) << 24) | (slot & 0xff_ffff) as u64)
    }

    /// Index in [`maps::FLOWS`].
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.0 as u32 & 0xff_ffff
    }

    /// Which use of the slot is meant.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// 0, 1: the side whose leg it is; 2: the client.
    #[inline(always)]
    pub const fn from(self) -> u32 {
        (self.0 >> 24) as u32 & 3
    }
}

/// A port that a leg comes from: bits 0–15 the port (host order), bit 16 [`nat::CLIENTS`], bits 20–25 the server that the leg
/// goes to ([`backend`]).
pub mod nat {
    /// The port, in host order.
    #[inline(always)]
    pub const fn port(id: u32) -> u16 {
        id as u16
    }

    /// The client's own port, and not one of the gateway's to give back: where a side is shown clients' addresses, a leg has
    /// its client's port, too, and its sequence numbers, as long as it is the connection's first.
    pub const CLIENTS: u32 = 1 << 16;

    /// Lowest port that is handed out.
    pub const FIRST_PORT: u16 = 1_024;
}

/// A compared turn that is told: 88 bytes of [`maps::TURNS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at: u64,
    /// Index in [`maps::APPS`].
    pub app: u32,
    /// The flow's slot and generation.
    pub slot: u32,
    /// See `slot`.
    pub generation: u32,
    /// The client's address, ...
    pub client: u32,
    /// ... and port.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// What was compared.
    pub compared: Compared,
    /// The client's address, where that is [`six::BESIDE`]; else zeros.
    pub six: six::Address,
}

/// How a prefix reads: 64 bytes of [`maps::PREFIXES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Method, blank, and path without its query; zeros behind it.
    pub text: [u64; PREFIX_BYTES as usize / 8],
}

/// Bytes of payload that packets of a CPU carried, by side; what was sent again is counted again: 32 bytes of
/// [`maps::CARRIED`]. Writer: the datapath.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Towards the side's server.
    pub requests: [u64; 2],
    /// From it, shown to the client or not.
    pub answers: [u64; 2],
}

/// What a CPU has told of compared turns in a while: 24 bytes of [`maps::RECORDED`]. Writer: the datapath.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// `CLOCK_MONOTONIC`, nanoseconds, at which the while began.
    pub since: u64,
    /// Differences told.
    pub different: u32,
    /// Turns without a difference told.
    pub same: u32,
    /// Such turns not told since the last one that was.
    pub unrecorded: u32,
    /// Zero.
    pub pad: u32,
}

impl Recorded {
    /// A while, in nanoseconds.
    pub const WHILE_NS: u64 = 100_000_000;
    /// Differences that a CPU tells of in it at most.
    pub const DIFFERENT: u32 = 256;
    /// Other turns.
    pub const SAME: u32 = 32;

    /// Whether a turn is told of, and how many of its kind weren't before it.
    #[inline(always)]
    pub fn tells(&mut self, different: bool, now_ns: u64) -> Option<u32> {
        if now_ns.wrapping_sub(self.since) >= Self::WHILE_NS {
            self.since = now_ns;
            self.different = 0;
            self.same = 0;
        }
        if different {
            self.different += 1;
            return if self.different <= Self::DIFFERENT { Some(0) } else { None };
        }
        self.same += 1;
        if self.same > Self::SAME {
            self.unrecorded += 1;
            return None;
        }
        let unrecorded = self.unrecorded;
        self.unrecorded = 0;
        Some(unrecorded)
    }
}

const _: () = {
    assert!(size_of::<ServiceKey>() == 8);
    assert!(size_of::<Endpoint>() == 16);
    assert!(size_of::<Service>() == 56);
    assert!(size_of::<App>() == 56);
    assert!(size_of::<Config>() == 16);
    assert!(size_of::<Tuple>() == 12);
    assert!(size_of::<Event>() == 32);
    assert!(size_of::<Turn>() == 88);
    assert!(size_of::<Prefix>() == 64);
    assert!(size_of::<Recorded>() == 24);
    assert!(size_of::<Carried>() == 32);
    assert!(size_of::<Flow>() == 352);
};

#[cfg(feature = "user")]
mod pod {
    #![allow(unsafe_code, reason = "marks plain records as such")]
    // SAFETY: all are `repr(C)` of integers without padding (asserted above), valid for every bit pattern.
    unsafe impl aya::Pod for super::ServiceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Service {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::AppWords {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Config {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Tuple {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Event {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Turn {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Prefix {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Recorded {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Carried {}
    // SAFETY: as above; `Flow` is checked in its own module.
    unsafe impl aya::Pod for super::Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::backend::Pool {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::six::Client {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::six::Known {}
}
