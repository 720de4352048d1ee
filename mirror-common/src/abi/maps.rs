//! Names of the maps, as pinned. `mirror-ebpf/src/maps.rs` says who writes and who reads each.

/// Array of one `u32`: [`super::ABI_VERSION`].
pub const ABI: &str = "ABI";
/// Array of [`super::AppWords`], one an application.
pub const APPS: &str = "APPS";
/// Array of `u64`, one an application, mmapable: the switch word.
pub const SWITCH: &str = "SWITCH";
/// Hash of [`super::ServiceKey`] to [`super::Service`].
pub const SERVICES: &str = "SERVICES";
/// Hash of [`super::Tuple`] (destination port 0) to `u32`, the application: from which servers to which of our addresses
/// legs run, so that a dead leg's segments can be told from a stranger's; and, by [`super::fragments_of`], which
/// addresses are services'; and the same of datagrams' fragments, by [`super::udp::fragments_of`].
pub const PEERS: &str = "PEERS";
/// Array of [`super::Flow`].
pub const FLOWS: &str = "FLOWS";
/// Queue of `u32`: free slots of [`FLOWS`].
pub const SLOTS: &str = "SLOTS";
/// Queue of `u32`: free ports ([`super::nat`]), the oldest first, of the primary's legs.
pub const PORTS_PRIMARY: &str = "PORTS_PRIMARY";
/// The same for the shadow's legs.
pub const PORTS_SHADOW: &str = "PORTS_SHADOW";
/// Hash of [`super::Tuple`] to `u64` ([`super::Entry`]).
pub const TUPLES: &str = "TUPLES";
/// Per-CPU array of `u64`: one a [`crate::verdict::Verdict`].
pub const COUNTERS: &str = "COUNTERS";
/// Per-CPU array of `u64`: [`crate::hist::BUCKETS`] a row of [`crate::flow::Measured`], microseconds.
pub const LATENCY: &str = "LATENCY";
/// Per-CPU array of `u64`: answers by the class of their status ([`crate::protocol::http1::status`]), as many a row of the same.
pub const RESPONSES: &str = "RESPONSES";
/// Per-CPU array of one [`super::Carried`].
pub const CARRIED: &str = "CARRIED";
/// Per-CPU array of `u64`: [`crate::flow::pair::COUNTERS`] a class, of the turns that were compared.
pub const PAIRS: &str = "PAIRS";
/// Per-CPU array of `u64`: [`crate::hist::RATIOS`] a class, the shadow's latency to the primary's in the same turn.
pub const RATIOS: &str = "RATIOS";
/// Ring buffer of [`super::Event`].
pub const EVENTS: &str = "EVENTS";
/// Ring buffer of [`super::Turn`].
pub const TURNS: &str = "TURNS";
/// LRU hash of [`crate::protocol::http1::Target::prefix`] to [`super::Prefix`]: how it reads.
pub const PREFIXES: &str = "PREFIXES";
/// Per-CPU array of one [`super::Recorded`].
pub const RECORDED: &str = "RECORDED";
/// Array of one [`super::Config`].
pub const CONFIG: &str = "CONFIG";
/// Array of one [`super::SweepState`]: what the daemon asks of a sweep, and what it found.
pub const SWEEP: &str = "SWEEP";
/// Queue of `u64` ([`super::Entry`]): flows for which a packet must be made without one.
pub const TODO: &str = "TODO";
/// Hash of an interface index to a device of the same index: those with the program at XDP.
pub const DEVICES: &str = "DEVICES";
/// Array of `u64`, one for each [`super::BLOCK`] slots: how many of them are in use.
pub const BUSY: &str = "BUSY";
/// Array of [`super::six::Address`]: what an alias that the daemon has written stands for; zeros: free.
pub const ADDRESSES: &str = "ADDRESSES";
/// Hash of [`super::six::Address`] to its alias (`u32`, network byte order): those of [`ADDRESSES`].
pub const ALIASES: &str = "ALIASES";
/// Array of [`super::six::Known`]: what a client's alias stands for.
pub const CLIENTS: &str = "CLIENTS";
/// Hash of [`super::six::Client`] to the client's alias (`u32`, network byte order).
pub const CLIENT_ALIASES: &str = "CLIENT_ALIASES";
/// Queue of `u32` ([`super::six::client`]): elements of [`CLIENTS`] that are free.
pub const FREE_CLIENTS: &str = "FREE_CLIENTS";
/// Array of [`super::backend::Pool`], two a service: both sides' servers.
pub const POOLS: &str = "POOLS";
/// Hash of [`super::udp::ExchangeKey`] to [`super::udp::Exchange`].
pub const EXCHANGES: &str = "EXCHANGES";
/// Hash of [`super::Tuple`], a server's datagram's as it comes in, to [`super::udp::Awaited`].
pub const AWAITED: &str = "AWAITED";
/// Hash of [`super::ServiceKey`], of datagrams, to [`super::udp::Silence`].
pub const SILENCE: &str = "SILENCE";
/// Every map, in the order in which they are pinned.
pub const ALL: [&str; 34] = [
    ABI,
    APPS,
    SWITCH,
    SERVICES,
    PEERS,
    FLOWS,
    SLOTS,
    PORTS_PRIMARY,
    PORTS_SHADOW,
    TUPLES,
    COUNTERS,
    LATENCY,
    RESPONSES,
    CARRIED,
    PAIRS,
    RATIOS,
    EVENTS,
    TURNS,
    PREFIXES,
    RECORDED,
    CONFIG,
    SWEEP,
    TODO,
    DEVICES,
    BUSY,
    ADDRESSES,
    ALIASES,
    CLIENTS,
    CLIENT_ALIASES,
    FREE_CLIENTS,
    POOLS,
    EXCHANGES,
    AWAITED,
    SILENCE,
];
