//! What a seed makes of a world.

use fastrand::Rng;
use mirror_common::flow::Segment;

/// One direction of a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkSettings {
    /// Shortest way, in microseconds.
    pub delay: u64,
    /// At most this is added, in microseconds; more than the gap between packets reorders them.
    pub jitter: u64,
    /// Lost ones in 10,000.
    pub loss: u32,
    /// Doubled ones in 10,000.
    pub double: u32,
}

/// A world's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Clients, each with a list of its own.
    pub clients: usize,
    /// Requests of each.
    pub requests: u32,
    /// Requests in flight on a connection at most.
    pub pipeline: u32,
    /// Time between an answer and the next request at most, in microseconds.
    pub think: u64,
    /// Longest body of a request, and of an answer, in bytes.
    pub body: usize,
    /// Writes among 100 requests.
    pub writes: u32,
    /// Writes among 100 that their clients break off in the middle.
    pub broken_off: u32,
    /// Whether a move ends what waits for its client.
    pub breaks_off: bool,
    /// How long a server waits for the rest of a request, by side, in microseconds.
    pub patience: [u64; 2],
    /// Pieces that a request is written in, at most.
    pub pieces: usize,
    /// Requests on a connection before its client closes it; 0: never.
    pub client_closes: u32,
    /// Whether a client takes the same port again.
    pub same_port: bool,
    /// Client's links, and those of the servers, by side.
    pub links: [LinkSettings; 3],
    /// Longest time that a server works at a request, by side, in microseconds.
    pub work: [u64; 2],
    /// Requests after which the shadow's server closes a connection; 0: never.
    pub shadow_closes: u32,
    /// Whether the gateway knows that.
    pub limit_known: bool,
    /// Idle time after which the shadow's server closes a connection, in microseconds; 0: never.
    pub shadow_idle: u64,
    /// Whether moves, weights and faults happen.
    pub moves: bool,
    /// Whether the shadow is taken away, killed, stopped.
    pub faults: bool,
    /// Packets that are read long before they are decided on, in 10,000.
    pub raced: u32,
    /// RSTs with wrong numbers, in 10,000 packets.
    pub forged: u32,
    /// Held frames that die, in 10,000.
    pub hold_loss: u32,
    /// Smallest and largest receive buffer, in bytes.
    pub room: (u32, u32),
    /// Segment sizes, and scales, that sockets have.
    pub mss: [u16; 3],
    /// See `mss`.
    pub scales: [u8; 3],
    /// Whether they permit SACK.
    pub sack: [bool; 3],
    /// Retransmission timeout, in microseconds.
    pub rto: u64,
    /// Requests among 8 that offer another protocol.
    pub offers: u32,
    /// Whether writes of several connections keep their order.
    pub ordered: bool,
}

fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

impl Settings {
    /// The settings of a seed.
    pub fn of(rng: &mut Rng) -> Settings {
        let loss = one_of(rng, &[0, 0, 100, 500]);
        let lossy = |rng: &mut Rng, far: bool| LinkSettings {
            delay: if far { one_of(rng, &[50, 200, 2_000, 20_000]) } else { one_of(rng, &[20, 100, 1_000]) },
            jitter: one_of(rng, &[0, 10, 200, 1_500]),
            loss: if rng.bool() { loss } else { 0 },
            double: if loss > 0 { one_of(rng, &[0, 50, 300]) } else { 0 },
        };
        let links = [lossy(rng, false), lossy(rng, false), lossy(rng, true)];
        let longest = links.iter().map(|link| link.delay + link.jitter).max().unwrap_or(0);
        let faults = rng.u32(..3) > 0;
        Settings {
            clients: rng.usize(1..=3),
            requests: rng.u32(20..60),
            pipeline: one_of(rng, &[1, 1, 1, 4]),
            think: one_of(rng, &[0, 0, 1_000, 20_000, 60_000]),
            body: one_of(rng, &[0, 60, 400, 4_000, 20_000]),
            writes: one_of(rng, &[10, 50, 50, 90]),
            pieces: one_of(rng, &[1, 1, 2, 5]),
            client_closes: one_of(rng, &[0, 0, 7, 15]),
            same_port: rng.bool(),
            links,
            work: [one_of(rng, &[0, 50, 500, 5_000]), one_of(rng, &[0, 50, 500, 5_000, 30_000])],
            shadow_closes: if faults { one_of(rng, &[0, 0, 5]) } else { 0 },
            limit_known: rng.bool(),
            shadow_idle: if faults { one_of(rng, &[0, 0, 30_000]) } else { 0 },
            moves: rng.u32(..6) > 0,
            faults,
            raced: one_of(rng, &[0, 100, 500]),
            forged: one_of(rng, &[0, 20]),
            hold_loss: one_of(rng, &[0, 0, 1_000]),
            room: one_of(rng, &[(2_000, 4_000), (16_000, 65_000), (65_000, 300_000)]),
            mss: [
                one_of(rng, &[100, 536, 1_460]),
                one_of(rng, &[100, 536, 1_460]),
                one_of(rng, &[100, 536, 1_460]),
            ],
            scales: [0, 1, 2].map(|_| one_of(rng, &[Segment::NO_SCALE, 0, 2, 7])),
            rto: 200_000 + 6 * longest,
            sack: [0; 3].map(|_| rng.u32(..5) > 0),
            ordered: rng.u32(..3) == 0,
            offers: one_of(rng, &[0, 0, 1, 8]),
            broken_off: one_of(rng, &[0, 0, 3, 15]),
            breaks_off: rng.bool(),
            patience: [0; 2].map(|_| one_of(rng, &[15_000_000, 17_000_000, 17_000_300])),
        }
    }
}
