//! One connection as it passes by: both directions read, and of each request whether its flow would have been settled.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use etherparse::TcpSlice;
use mirror_common::{
    protocol::{
        Class, Kind,
        http1::{MAX_OUTSTANDING, Scanner, Walk},
    },
    seq,
};

use super::tally::{Kept, Observed, Unread};

/// Bytes of one direction that are kept until those before them have come: a packet of the largest size, or many small ones.
const MAX_EARLY: usize = 64 << 10;

/// What a packet says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    /// Else from the server.
    pub(super) from_client: bool,
    seq: u32,
    ack: u32,
    syn: bool,
    acks: bool,
    fin: bool,
    rst: bool,
    pub(super) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    pub(super) fn new(from_client: bool, tcp: &TcpSlice<'a>) -> Self {
        Self {
            from_client,
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            syn: tcp.syn(),
            acks: tcp.ack(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            payload: tcp.payload(),
        }
    }

    /// The client's SYN.
    pub(super) const fn opens(&self) -> bool {
        self.from_client && self.syn && !self.acks
    }

    /// Sequence number behind the payload.
    const fn end(&self) -> u32 {
        self.seq.wrapping_add(self.payload.len() as u32)
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Stream {
    scanner: Scanner,
    /// Next byte that must be read; beyond what was sent while a body of known length is under way.
    at: u32,
    /// Behind the last byte that was seen.
    end: u32,
    /// Up to where its receiver has acknowledged it.
    acked: u32,
    /// It has ended.
    fin: bool,
    /// What came before its time: first sequence number and bytes.
    early: Vec<(u32, Vec<u8>)>,
}

impl Stream {
    fn begin(&mut self, first: u32) {
        *self = Self { at: first, end: first, acked: first, ..Self::default() };
    }

    /// Whether its last message is complete and all of it was seen and acknowledged.
    fn over(&self) -> bool {
        self.scanner.is_boundary() && self.at == self.end && self.acked == self.end
    }

    fn acknowledge(&mut self, ack: u32) {
        if seq::lt(self.acked, ack) {
            self.acked = ack;
        }
    }

    /// What is to be read now of a segment: how many of its bytes not, as they were read or are of a known body. `Err`: what is
    /// before it is missing.
    fn skip(&self, seq: u32, payload: &[u8]) -> Result<Option<u32>, ()> {
        if seq::lt(self.at, seq) {
            return Err(());
        }
        let skip = self.at.wrapping_sub(seq);
        Ok((skip < payload.len() as u32).then_some(skip))
    }

    fn early_bytes(&self) -> usize {
        self.early.iter().map(|(_, payload)| payload.len()).sum()
    }

    /// One of those that came early, if its time has come.
    fn due(&mut self) -> Option<(u32, Vec<u8>)> {
        let first = self.early.iter().position(|(seq, _)| !seq::lt(self.at, *seq))?;
        Some(self.early.swap_remove(first))
    }
}

/// A connection that is followed.
#[derive(Debug)]
pub(super) struct Connection {
    client: Stream,
    server: Stream,
    /// Of each request that isn't answered, the oldest first, whether it is a HEAD.
    outstanding: VecDeque<bool>,
    /// A head that began in an earlier segment is under way.
    split: bool,
    /// The last request offers another protocol.
    offered: bool,
    /// An offer was declined.
    declined: bool,
    /// It isn't read any more.
    unread: bool,
    reset: bool,
    last: Instant,
}

impl Connection {
    /// One that begins with the client's SYN.
    pub(super) fn new(syn: &Segment<'_>, now: Instant) -> Self {
        let mut connection = Self { unread: false, ..Self::unread(now) };
        connection.client.begin(syn.seq.wrapping_add(1));
        connection
    }

    /// One that can't be read.
    pub(super) fn unread(now: Instant) -> Self {
        Self {
            client: Stream::default(),
            server: Stream::default(),
            outstanding: VecDeque::new(),
            split: false,
            offered: false,
            declined: false,
            unread: true,
            reset: false,
            last: now,
        }
    }

    /// Whether this SYN is that of its beginning, sent or seen once more.
    pub(super) fn is_opened_by(&self, syn: &Segment<'_>) -> bool {
        !self.unread && syn.seq.wrapping_add(1) == self.client.at && self.client.at == self.client.end
    }

    pub(super) fn ended(&self) -> bool {
        self.reset || self.client.fin && self.server.fin
    }

    pub(super) fn silent(&self, now: Instant, time: Duration) -> bool {
        now.duration_since(self.last) > time
    }

    /// The direction that begins at the client, or at the server.
    fn stream(&mut self, from_client: bool) -> &mut Stream {
        if from_client { &mut self.client } else { &mut self.server }
    }

    /// Takes a segment that isn't the client's SYN.
    pub(super) fn take(&mut self, segment: &Segment<'_>, now: Instant, walk: &mut Walk, seen: &mut Observed) {
        self.last = now;
        self.reset |= segment.rst;
        let stream = self.stream(segment.from_client);
        stream.fin |= segment.fin;
        if self.unread {
            return;
        }
        if segment.syn && !segment.from_client {
            if self.server.at == self.server.end {
                self.server.begin(segment.seq.wrapping_add(1));
            }
            return;
        }
        if segment.acks {
            let other = self.stream(!segment.from_client);
            other.acknowledge(segment.ack);
        }
        if segment.payload.is_empty() {
            return;
        }
        self.read(segment.from_client, segment.seq, segment.payload, walk, seen);
        while let Some((seq, payload)) = self.stream(segment.from_client).due() {
            self.read(segment.from_client, seq, &payload, walk, seen);
        }
        let stream = self.stream(segment.from_client);
        if seq::lt(stream.end, segment.end()) {
            stream.end = segment.end();
        }
    }

    /// Reads what a segment brings that is new, or keeps it for later.
    fn read(&mut self, from_client: bool, seq: u32, payload: &[u8], walk: &mut Walk, seen: &mut Observed) {
        let stream = self.stream(from_client);
        match stream.skip(seq, payload) {
            Ok(None) => (),
            Ok(Some(skip)) if from_client => self.requests(seq, skip, payload, walk, seen),
            Ok(Some(skip)) => self.answers(seq, skip, payload, walk, seen),
            Err(()) if stream.early_bytes() + payload.len() <= MAX_EARLY => {
                stream.early.push((seq, payload.to_vec()));
            }
            Err(()) => self.lose(Unread::Missing, seen),
        }
    }

    fn requests(&mut self, seq: u32, skip: u32, payload: &[u8], walk: &mut Walk, seen: &mut Observed) {
        let settled = self.client.at == seq && self.settled();
        walk.read(Kind::Request, &self.client.scanner, skip, payload, 0);
        self.client.scanner = walk.scanner();
        self.client.at = seq.wrapping_add(payload.len() as u32).wrapping_add(walk.rest());
        if walk.opaque() {
            return self.lose(Unread::of_request(payload), seen);
        }
        for n in 0..walk.completed {
            self.outstanding.push_back(walk.heads >> n & 1 != 0);
        }
        if walk.completed > 0 {
            self.offered = walk.offers();
            let alone = walk.completed == 1 && !walk.in_head();
            let class = if walk.in_head() { None } else { walk.class() };
            match class {
                Some(Class::Write) => seen.writes(walk.completed),
                _ if walk.offers() && !self.declined => seen.keep(Kept::Offers, walk.completed),
                _ if self.split => seen.keep(Kept::Split, walk.completed),
                _ if !alone => seen.keep(Kept::Joined, walk.completed),
                _ if !settled => seen.keep(Kept::Unanswered, 1),
                _ => seen.shift(),
            }
        }
        self.split = walk.in_head();
    }

    fn answers(&mut self, seq: u32, skip: u32, payload: &[u8], walk: &mut Walk, seen: &mut Observed) {
        let heads = self.outstanding.iter().take(MAX_OUTSTANDING as usize).enumerate();
        let heads = heads.fold(0, |bits, (n, head)| bits | u64::from(*head) << n);
        walk.read(Kind::Response, &self.server.scanner, skip, payload, heads);
        self.server.scanner = walk.scanner();
        self.server.at = seq.wrapping_add(payload.len() as u32).wrapping_add(walk.rest());
        if walk.opaque() {
            let why = if self.offered { Unread::Upgrade } else { Unread::Answer };
            return self.lose(why, seen);
        }
        self.declined |= self.offered && walk.answered > 0;
        let answered = (walk.answered as usize).min(self.outstanding.len());
        self.outstanding.drain(..answered);
    }

    /// Whether a read that begins now could be answered by either side: all before it is over, and acknowledged.
    fn settled(&self) -> bool {
        self.client.over() && self.server.over() && self.outstanding.is_empty()
    }

    fn lose(&mut self, why: Unread, seen: &mut Observed) {
        self.unread = true;
        self.client.early = Vec::new();
        self.server.early = Vec::new();
        self.outstanding = VecDeque::new();
        seen.connections.unread(why);
    }
}
