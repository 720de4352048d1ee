//! Every map: who writes it, who reads it, and why that kind.

use aya_ebpf::{
    btf_maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray, Queue, RingBuf},
    macros::btf_map,
};
use mirror_common::{
    abi::{
        AppWords, BLOCK, Carried, Config, DEFAULT_FLOWS, EVENT_RING_BYTES, MAX_APPS, MAX_DEVICES, MAX_PEERS,
        MAX_PREFIXES, MAX_SERVICES, Prefix, Recorded, Service, ServiceKey, SweepState, TURN_RING_BYTES,
        Tuple,
        backend::Pool,
        six::{Address, Client, Known, MAX_ADDRESSES},
        udp::{AWAITED_A_PORT, Awaited, Exchange, ExchangeKey, Silence},
    },
    datagram::Message,
    flow::{Dialled, Emit, Flow, Measured, Opening, Quote, Segment, Step, pair},
    hist,
    options::{Options, ROOM},
    protocol::http1::{Target, Walk, status},
    verdict,
};

use crate::{
    packet::{Header, Header6, Words},
    route::{self, Kept},
};

/// Writer and reader: the daemon. Which layout the pinned maps have.
#[btf_map]
pub static ABI: Array<u32, 1> = Array::new();

/// Writer: the datapath (atomic adds) and the daemon (the deadline, before it freezes). An array: never freed;
/// mmapable: a write by syscall would lose the datapath's counts.
#[btf_map]
pub static APPS: Array<AppWords, { MAX_APPS as usize }, 1024> = Array::new();

/// Writer: the daemon and the datapath, by compare-and-swap alone. Mmapable, so that the daemon can swap too.
#[btf_map]
pub static SWITCH: Array<u64, { MAX_APPS as usize }, 1024> = Array::new();

/// Writer: the daemon. One look-up a packet of a flow.
#[btf_map]
pub static SERVICES: HashMap<ServiceKey, Service, { MAX_SERVICES as usize }> = HashMap::new();

/// Writer: the daemon. Servers' addresses towards ours (destination port 0): what comes from there without an entry is a
/// dead leg's.
#[btf_map]
pub static PEERS: HashMap<Tuple, u32, { MAX_PEERS as usize }> = HashMap::new();

/// Writer: the datapath, under each flow's lock. An array with generations: a deleted hash element is used again at once,
/// and a program could lock another flow's memory.
#[btf_map]
pub static FLOWS: Array<Flow, { DEFAULT_FLOWS as usize }> = Array::new();

/// Free slots. Filled by the daemon at the first load; popped and pushed by the datapath.
#[btf_map]
pub static SLOTS: Queue<u32, { DEFAULT_FLOWS as usize }> = Queue::new();

/// Writer: the datapath (atomic adds). Reader: the sweep. Slots in use of each [`BLOCK`]: what is free needn't be looked at, and
/// a million free slots are more than any cache holds.
#[btf_map]
pub static BUSY: Array<u64, { (DEFAULT_FLOWS / BLOCK) as usize }> = Array::new();

/// Free ports of the primary's legs, the oldest first: its server's TIME_WAIT is over when it comes up again.
#[btf_map]
pub static PORTS_PRIMARY: Queue<u32, 65_536> = Queue::new();

/// The same for the shadow's legs.
#[btf_map]
pub static PORTS_SHADOW: Queue<u32, 65_536> = Queue::new();

/// Writer: the datapath. Any packet's addresses, in one look-up, to its flow; `NOEXIST` claims a leg's port.
#[btf_map]
pub static TUPLES: HashMap<Tuple, u64, { 3 * DEFAULT_FLOWS as usize }> = HashMap::new();

/// Writer: the datapath. Reader: the daemon, which adds the CPUs up.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { verdict::COUNTERS }> = PerCpuArray::new();

/// Writer: the datapath. Reader: the daemon. By side, class and bucket.
#[btf_map]
pub static LATENCY: PerCpuArray<u64, { Measured::ROWS * hist::BUCKETS }> = PerCpuArray::new();

/// Writer: the datapath. Reader: the daemon. By the same rows and the class of their status.
#[btf_map]
pub static RESPONSES: PerCpuArray<u64, { Measured::ROWS * status::CLASSES }> = PerCpuArray::new();

/// Writer: the datapath. Reader: the daemon. One element, as a packet may have bytes for both sides.
#[btf_map]
pub static CARRIED: PerCpuArray<Carried, 1> = PerCpuArray::new();

/// Writer: the datapath. Reader: the daemon. Turns that both legs answered, by class.
#[btf_map]
pub static PAIRS: PerCpuArray<u64, { 2 * pair::COUNTERS as usize }> = PerCpuArray::new();

/// Writer: the datapath. Reader: the daemon. How the two latencies of such turns compare, by class.
#[btf_map]
pub static RATIOS: PerCpuArray<u64, { 2 * hist::RATIOS }> = PerCpuArray::new();

/// Writer: the datapath. Reader: the daemon.
#[btf_map]
pub static EVENTS: RingBuf<u8, { EVENT_RING_BYTES as usize }> = RingBuf::new();

/// Writer: the datapath. Reader: the daemon. Compared turns: each that differs, and of the others a sample.
#[btf_map]
pub static TURNS: RingBuf<u8, { TURN_RING_BYTES as usize }> = RingBuf::new();

/// Writer: the datapath, where the policy allows it. Reader: the daemon. Least recently used: prefixes are the clients' to make.
#[btf_map]
pub static PREFIXES: LruHashMap<u32, Prefix, { MAX_PREFIXES as usize }> = LruHashMap::new();

/// Writer and reader: the datapath. What this CPU has told of turns lately.
#[btf_map]
pub static RECORDED: PerCpuArray<Recorded, 1> = PerCpuArray::new();

/// Writer: the daemon, before it attaches.
#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();

/// Writer: the daemon and the sweep in turn.
#[btf_map]
pub static SWEEP: Array<SweepState, 1> = Array::new();

/// Writer: the sweep. Reader: the emitter. Flows that need a packet which none brings.
#[btf_map]
pub static TODO: Queue<u64, 8_192> = Queue::new();

/// Writer: the daemon. Devices with our program at XDP, by their index: frames are redirected to these only, and TC believes
/// the metadata of these only.
#[btf_map]
pub static DEVICES: DevMapHash<{ MAX_DEVICES as usize }> = DevMapHash::new();

/// Writer and reader: the datapath. Where this CPU's packets went a moment ago, by what was asked for.
#[btf_map]
pub static ROUTES: PerCpuArray<Kept, { route::KEPT as usize }> = PerCpuArray::new();

/// Writer: the daemon. The IPv6 addresses that its aliases stand for.
#[btf_map]
pub static ADDRESSES: Array<Address, { MAX_ADDRESSES as usize }> = Array::new();

/// Writer: the daemon. The same the other way round.
#[btf_map]
pub static ALIASES: HashMap<Address, u32, { MAX_ADDRESSES as usize }> = HashMap::new();

/// Writer: the datapath, of an element that no other connection has. What clients' aliases stand for. An array: what is still
/// on its way under an alias that was taken back finds another one there.
#[btf_map]
pub static CLIENTS: Array<Known, { DEFAULT_FLOWS as usize }> = Array::new();

/// Writer: the datapath. The alias of an IPv6 client's connection; `NOEXIST` decides between two first packets.
#[btf_map]
pub static CLIENT_ALIASES: HashMap<Client, u32, { DEFAULT_FLOWS as usize }> = HashMap::new();

/// Free elements of [`CLIENTS`]. Filled by the daemon at the first load; popped and pushed by the datapath.
#[btf_map]
pub static FREE_CLIENTS: Queue<u32, { DEFAULT_FLOWS as usize }> = Queue::new();

/// Writer: the daemon. The servers of each side of each service. Looked at by a leg that goes to another one than server 0, and
/// where one is chosen.
#[btf_map]
pub static POOLS: Array<Pool, { 2 * MAX_SERVICES as usize }> = Array::new();

/// Writer: the datapath; whoever sees that no answer is awaited any more removes it. Not least recently used: the kernel takes
/// newcomers that nobody has looked up yet before what was answered long ago.
#[btf_map]
pub static EXCHANGES: HashMap<ExchangeKey, Exchange, { AWAITED_A_PORT as usize }> = HashMap::new();

/// Writer: the datapath, of what it has claimed by `NOEXIST`; whoever sees that it is over removes it. Not least recently used:
/// an entry that made room for another would hide that an answer is owed.
#[btf_map]
pub static AWAITED: HashMap<Tuple, Awaited, { AWAITED_A_PORT as usize }> = HashMap::new();

/// Writer: the datapath, of what the daemon has put there. Since when which side answers nothing.
#[btf_map]
pub static SILENCE: HashMap<ServiceKey, Silence, { MAX_SERVICES as usize }> = HashMap::new();

/// What a packet's way through the program needs; no stack has room for it, and state that is read back from a map joins
/// the verifier's paths. Never used past a redirect.
#[repr(C)]
pub struct Scratch {
    // First what every packet needs: in as few lines of the cache as it takes.
    /// When the packet at hand came, in nanoseconds; see [`crate::time`].
    pub now_ns: u64,
    /// Not 0: `header` is of the packet at hand, as it is now.
    pub loaded: u32,
    /// Not 0: its addresses may be aliases.
    pub aliased: u32,
    /// The alias that was made for it; 0: none.
    pub fresh: u32,
    /// TCP header length, in bytes.
    pub tcp_len: u32,
    /// The packet's headers.
    pub header: Header,
    /// The packet's own addresses and ports.
    pub tuple: Tuple,
    /// The flow's client's.
    pub client: Tuple,
    /// Where the packet that is being made goes, ...
    pub out: Tuple,
    /// ... and what it is.
    pub emit: Emit,
    pub seg: Segment,
    pub step: Step,
    pub walk: Walk,
    pub target: Target,
    pub prefix: Prefix,
    /// Bytes of the request that `target` may look at.
    pub target_bytes: u32,
    pub opening: Opening,
    pub dialled: Dialled,
    pub options: Options,
    /// The folded sum of what is kept behind the headers of a packet that is cut.
    pub cut_sum: u32,
    /// Its headers as an IPv6 packet: as it came, or as it leaves.
    pub header6: Header6,
    /// A client's and the service's end, as they are looked up.
    pub client6: Client,
    /// What the ICMP error at hand says, ...
    pub quote: Quote,
    /// ... and the one that is made of it, where IPv6 is on either side.
    pub error: Words,
    /// What the datagram at hand says as a DNS message, ...
    pub message: Message,
    /// ... and the bytes of its payload.
    pub payload: u32,
    /// Its exchange.
    pub exchange_key: ExchangeKey,
    /// One that begins, ...
    pub exchange: Exchange,
    /// ... and an answer that it awaits.
    pub awaited: Awaited,
    pub option_bytes: [u8; ROOM],
    /// The hook, and ...
    #[cfg(feature = "log")]
    pub hook: [u8; crate::say::WORDS[0]],
    /// ... the verdict of the line that is said.
    #[cfg(feature = "log")]
    pub verdict: [u8; crate::say::WORDS[1]],
    /// Blocks that the packet's SACK option will show.
    pub sack_shown: u32,
    /// A SACK option as it lies in the packet, ...
    pub sack_was: [u32; 9],
    /// ... and what it becomes. What lies behind its end is zero.
    pub sack_becomes: [u32; 9],
}

/// Per-CPU: safe while bottom halves are off.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
