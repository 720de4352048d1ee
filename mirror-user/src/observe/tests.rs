//! Packets as they pass by, and what is said of them.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use etherparse::PacketBuilder;

use super::*;

/// Service and client.
const FOUR: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2)), 8_080),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 2)), 40_000),
];
const SIX: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2)), 8_080),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2)), 40_000),
];
const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";

/// An observer, and a connection that passes it.
struct Passing {
    observer: Observer,
    service: SocketAddr,
    client: SocketAddr,
    /// Next sequence numbers of client and server.
    next: [u32; 2],
}

impl Passing {
    fn new() -> Self {
        Self::between(FOUR)
    }

    fn between([service, client]: [SocketAddr; 2]) -> Self {
        let target = Target { service, datagrams: None, name: None };
        let spec = Spec { target, devices: Vec::new(), time: Duration::ZERO, sample: 1 };
        let mut passing = Self { observer: Observer::new(&spec), service, client, next: [0; 2] };
        passing.open();
        passing
    }

    /// A handshake whose numbers wrap soon.
    fn open(&mut self) {
        self.next = [u32::MAX - 20, u32::MAX - 30];
        self.send(true, "S", "", 0, 0);
        self.next[0] = self.next[0].wrapping_add(1);
        self.send(false, "SA", "", 0, 0);
        self.next[1] = self.next[1].wrapping_add(1);
    }

    /// A packet, `back` bytes before the next one's place, that acknowledges all but the last `unacked` bytes.
    fn send(&mut self, from_client: bool, flags: &str, payload: &str, back: u32, unacked: u32) {
        let (from, to) = if from_client { (self.client, self.service) } else { (self.service, self.client) };
        let [mine, theirs] = if from_client { self.next } else { [self.next[1], self.next[0]] };
        let builder = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
            ends => panic!("{ends:?}"),
        };
        let mut builder = builder.tcp(from.port(), to.port(), mine.wrapping_sub(back), 65_535);
        if flags.contains('S') {
            builder = builder.syn();
        }
        if flags != "S" {
            builder = builder.ack(theirs.wrapping_sub(unacked));
        }
        if flags.contains('F') {
            builder = builder.fin();
        }
        if flags.contains('R') {
            builder = builder.rst();
        }
        let mut packet = Vec::new();
        builder.write(&mut packet, payload.as_bytes()).unwrap();
        self.observer.packet(&packet, Instant::now());
    }

    /// The client says something new.
    fn ask(&mut self, text: &str) {
        self.send(true, "A", text, 0, 0);
        self.next[0] = self.next[0].wrapping_add(text.len() as u32);
    }

    /// The server does, and acknowledges all.
    fn answer(&mut self, text: &str) {
        self.send(false, "A", text, 0, 0);
        self.next[1] = self.next[1].wrapping_add(text.len() as u32);
    }

    /// Reads that could be shifted, writes, and what is kept.
    fn seen(&self) -> (u64, u64, Vec<(Kept, u64)>) {
        let seen = &self.observer.seen;
        let kept: Vec<_> = seen.kept.iter().map(|(why, count)| (*why, *count)).collect();
        let sum: u64 = kept.iter().map(|(_, count)| count).sum();
        assert_eq!(seen.requests, seen.shiftable + seen.writes + sum);
        (seen.shiftable, seen.writes, kept)
    }

    fn unread(&self) -> &BTreeMap<Unread, u64> {
        &self.observer.seen.connections.unread
    }
}

#[test]
fn reads_one_after_another_could_be_shifted_and_writes_not() {
    for ends in [FOUR, SIX] {
        let mut passing = Passing::between(ends);
        for request in [GET, POST, GET, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            passing.ask(request);
            passing.answer(if request.starts_with("HEAD") { &OK[..OK.len() - 4] } else { OK });
        }
        passing.ask(GET);
        assert_eq!(passing.seen(), (4, 1, vec![]));
        assert!(passing.unread().is_empty());
    }
}

#[test]
fn what_is_asked_ahead_is_kept() {
    let mut passing = Passing::new();
    passing.ask(GET);
    passing.ask(GET);
    passing.answer(OK);
    // The second answer is still to come.
    passing.ask(GET);
    assert_eq!(passing.seen(), (1, 0, vec![(Kept::Unanswered, 2)]));
    passing.answer(OK);
    passing.answer(OK);
    passing.ask(&[GET, GET].concat());
    assert_eq!(passing.seen(), (1, 0, vec![(Kept::Unanswered, 2), (Kept::Joined, 2)]));
}

#[test]
fn an_answer_that_is_not_acknowledged_is_not_over() {
    let mut passing = Passing::new();
    passing.ask(GET);
    passing.answer(OK);
    passing.send(true, "A", GET, 0, 1);
    assert_eq!(passing.seen(), (1, 0, vec![(Kept::Unanswered, 1)]));
}

#[test]
fn a_request_that_the_server_has_not_acknowledged_is_not_over() {
    let mut passing = Passing::new();
    passing.ask(GET);
    // Its answer overtakes it here; it acknowledges nothing.
    passing.send(false, "A", OK, 0, GET.len() as u32);
    passing.next[1] = passing.next[1].wrapping_add(OK.len() as u32);
    passing.ask(GET);
    assert_eq!(passing.seen(), (1, 0, vec![(Kept::Unanswered, 1)]));
}

#[test]
fn a_head_in_pieces_is_kept_whatever_it_says() {
    let mut passing = Passing::new();
    for request in [GET, POST] {
        passing.ask(&request[..10]);
        passing.ask(&request[10..]);
        passing.answer(OK);
    }
    assert_eq!(passing.seen(), (0, 1, vec![(Kept::Split, 1)]));
    passing.ask(GET);
    assert_eq!(passing.seen(), (1, 1, vec![(Kept::Split, 1)]));
}

#[test]
fn what_is_seen_twice_counts_once() {
    let mut passing = Passing::new();
    passing.ask(GET);
    passing.send(true, "A", GET, GET.len() as u32, 0);
    passing.answer(OK);
    passing.send(false, "A", OK, OK.len() as u32, 0);
    passing.ask(GET);
    assert_eq!(passing.seen(), (2, 0, vec![]));
    assert_eq!(passing.observer.seen.packets, 7);
}

#[test]
fn segments_that_overtake_are_read_in_their_order() {
    let mut passing = Passing::new();
    let (first, second) = OK.split_at(10);
    passing.ask(GET);
    passing.next[1] = passing.next[1].wrapping_add(10);
    passing.answer(second);
    passing.send(false, "A", first, OK.len() as u32, 0);
    passing.ask(GET);
    assert_eq!(passing.seen(), (2, 0, vec![]));
    assert!(passing.unread().is_empty());
}

#[test]
fn what_is_missing_ends_the_reading() {
    let mut passing = Passing::new();
    passing.ask(GET);
    passing.next[1] = passing.next[1].wrapping_add(1);
    passing.answer(OK);
    assert!(passing.unread().is_empty(), "it may still come");
    for _ in 0..64 {
        passing.answer(&"x".repeat(1 << 10));
    }
    assert_eq!(*passing.unread(), BTreeMap::from([(Unread::Missing, 1)]));
}

#[test]
fn bodies_of_known_length_need_not_be_seen() {
    let mut passing = Passing::new();
    passing.ask(GET);
    passing.answer("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    passing.ask(GET);
    assert_eq!(passing.seen(), (1, 0, vec![(Kept::Unanswered, 1)]));
    // All but the last bytes are lost here.
    passing.next[1] = passing.next[1].wrapping_add(990);
    passing.answer("0123456789");
    passing.answer(OK);
    passing.ask(GET);
    assert_eq!(passing.seen(), (2, 0, vec![(Kept::Unanswered, 1)]));
}

#[test]
fn what_can_not_be_framed_is_told_by_its_kind() {
    let opaque = [
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}", Unread::Tls),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Unread::Http2),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", Unread::Upgrade),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Unread::Coding),
        ("GET  / HTTP/1.1\r\nHost : a\r\n\r\n", Unread::Request),
    ];
    for (text, why) in opaque {
        let mut passing = Passing::new();
        passing.ask(text);
        passing.ask(GET);
        assert_eq!(*passing.unread(), BTreeMap::from([(why, 1)]), "{text:?}");
        assert_eq!(passing.observer.seen.requests, 0, "{text:?}");
    }
    let mut passing = Passing::new();
    passing.ask(GET);
    passing.answer("220 ready\r\n");
    assert_eq!(*passing.unread(), BTreeMap::from([(Unread::Answer, 1)]));
}

#[test]
fn an_offer_of_another_protocol_is_kept_until_one_was_declined() {
    let offer = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n";
    let mut passing = Passing::new();
    for _ in 0..2 {
        passing.ask(offer);
        passing.answer(OK);
    }
    assert_eq!(passing.seen(), (1, 0, vec![(Kept::Offers, 1)]));
    let mut passing = Passing::new();
    passing.ask(offer);
    passing.answer("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n");
    passing.ask(GET);
    assert_eq!(*passing.unread(), BTreeMap::from([(Unread::Upgrade, 1)]));
}

#[test]
fn a_connection_from_before_is_counted_once_and_a_new_one_read() {
    let mut passing = Passing::new();
    passing.observer.connections.clear();
    passing.ask(GET);
    passing.answer(OK);
    passing.ask(GET);
    assert_eq!(*passing.unread(), BTreeMap::from([(Unread::Before, 1)]));
    // The same port again.
    passing.open();
    passing.ask(GET);
    assert_eq!(passing.seen(), (1, 0, vec![]));
    assert_eq!(passing.observer.seen.connections.opened, 2);
}

#[test]
fn connections_that_end_are_forgotten() {
    for flags in ["R", "FA"] {
        let mut passing = Passing::new();
        passing.send(true, flags, "", 0, 0);
        passing.send(false, flags, "", 0, 0);
        assert!(passing.observer.connections.is_empty(), "{flags}");
    }
}

#[test]
fn a_syn_that_is_seen_twice_opens_one_connection() {
    let mut passing = Passing::new();
    passing.observer.connections.clear();
    passing.open();
    passing.open();
    assert_eq!(passing.observer.seen.connections.opened, 2);
}

#[test]
fn strangers_and_fragments_of_packets_are_nothing() {
    let mut passing = Passing::new();
    let before = passing.observer.seen.packets;
    // From the service's own addresses, of the other family.
    let mut six = Passing::between(SIX);
    passing.observer.service = SIX[0];
    six.observer.service = FOUR[0];
    for other in [&mut passing, &mut six] {
        let seen = other.observer.seen.packets;
        other.ask(GET);
        assert_eq!(other.observer.seen.packets, seen);
    }
    passing.observer.service = FOUR[0];
    let mut other = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 1, 2], [10, 0, 2, 2], 64).tcp(40_000, 8_081, 1, 100);
    builder.write(&mut other, GET.as_bytes()).unwrap();
    for len in 0..other.len() {
        passing.observer.packet(&other[..len], Instant::now());
    }
    passing.observer.packet(&[0x60; 80], Instant::now());
    assert_eq!(passing.observer.seen.packets, before);
}
