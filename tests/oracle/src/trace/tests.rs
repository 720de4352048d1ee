//! A clean trace has no finding; each rule is broken once and seen.

use std::{net::Ipv4Addr, time::Duration};

use super::*;

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 1, 2), 40_000);
const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 1, 1), 8080);
const REQUEST: &str = "GET /a HTTP/1.1\r\nX-Request-Id: r1\r\n\r\n";

fn answer(server: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nX-Server: {server}\r\nX-Request-Id: r1\r\nContent-Length: 2\r\n\r\nok")
}

/// One end's packets.
#[derive(Clone)]
struct Host {
    packets: Vec<Packet>,
    up: (SocketAddrV4, SocketAddrV4),
    iss: u32,
    irs: u32,
}

impl Host {
    /// A handshake, from `at` milliseconds on.
    fn new(client: SocketAddrV4, server: SocketAddrV4, iss: u32, irs: u32, at: u64) -> Self {
        let mut host = Self { packets: Vec::new(), up: (client, server), iss, irs };
        host.add(at, true, tcp::SYN, iss, 0, "");
        host.add(at + 1, false, tcp::SYN | tcp::ACK, irs, iss.wrapping_add(1), "");
        host
    }

    fn add(&mut self, ms: u64, up: bool, flags: u8, seq: u32, ack: u32, payload: &str) {
        let (from, to) = if up { self.up } else { (self.up.1, self.up.0) };
        self.packets.push(Packet {
            at: Duration::from_millis(ms),
            from,
            to,
            seq,
            ack,
            flags,
            window: 1_000,
            scale: (flags & tcp::SYN != 0).then_some(0),
            payload: payload.as_bytes().to_vec(),
        });
    }

    fn up(&mut self, ms: u64, at: u32, payload: &str) {
        self.add(ms, true, tcp::ACK, self.iss.wrapping_add(1 + at), self.irs.wrapping_add(1), payload);
    }

    fn down(&mut self, ms: u64, at: u32, acked: usize, payload: &str) {
        let ack = self.iss.wrapping_add(1 + acked as u32);
        self.add(ms, false, tcp::ACK, self.irs.wrapping_add(1 + at), ack, payload);
    }
}

/// Client, primary and shadow; the request reaches both, and the primary's answer is shown.
fn hosts() -> [Host; 3] {
    let leg = |n: u8| SocketAddrV4::new(Ipv4Addr::new(10, 0, n, 101), 50_000);
    let server = |n: u8| SocketAddrV4::new(Ipv4Addr::new(10, 0, n, 2), 8080);
    let mut client = Host::new(CLIENT, SERVICE, u32::MAX - 3, 900, 0);
    let mut primary = Host::new(leg(2), server(2), 70, 900, 0);
    let mut shadow = Host::new(leg(3), server(3), 4_000, 17, 0);
    client.up(10, 0, REQUEST);
    for (host, name) in [(&mut primary, "primary"), (&mut shadow, "shadow")] {
        host.up(11, 0, REQUEST);
        host.down(12, 0, REQUEST.len(), &answer(name));
    }
    client.down(13, 0, REQUEST.len(), &answer("primary"));
    [client, primary, shadow]
}

fn findings(hosts: [Host; 3]) -> Findings {
    let [client, primary, shadow] = hosts.map(|host| host.packets);
    let trace = Trace { client, servers: [primary, shadow] };
    check(&trace, SERVICE, Expected { least_packets: 4, clean: true })
}

#[track_caller]
fn breaks(hosts: [Host; 3], rule: &str) {
    let found = findings(hosts);
    assert!(found.violations.len() == 1 && found.violations[0].contains(rule), "{found:#?}");
}

#[test]
fn a_clean_trace_has_no_finding() {
    let found = findings(hosts());
    let expected =
        Findings { packets: 12, flows: 1, legs: [1, 1], answers: 1, overtaken: 0, violations: Vec::new() };
    assert_eq!(found, expected);
}

#[test]
fn a_trace_of_too_few_packets_proves_nothing() {
    let mut hosts = hosts();
    hosts[2].packets.truncate(3);
    hosts[2].packets[2].payload = REQUEST.into();
    let found = findings(hosts);
    assert!(found.violations.iter().any(|text| text.contains("saw 3 packets")), "{found:#?}");
}

/// A request that came to the shadow with the primary's leg's addresses.
#[test]
fn a_frame_with_anothers_addresses_is_seen() {
    let mut hosts = hosts();
    let copy = hosts[1].packets[2].clone();
    hosts[2].packets.push(copy);
    breaks(hosts, "the shadow saw packets between");
}

#[test]
fn an_acknowledgement_above_the_slower_leg_is_seen() {
    let mut hosts = hosts();
    // The shadow acknowledges after the client was told.
    hosts[2].packets[3].at = Duration::from_millis(14);
    breaks(hosts, "where the shadow has acknowledged 0");
}

#[test]
fn an_acknowledgement_that_goes_back_is_seen() {
    let mut hosts = hosts();
    hosts[0].down(15, answer("primary").len() as u32, REQUEST.len() - 1, "");
    let last = hosts[0].packets.last_mut().unwrap();
    last.window += 1;
    breaks(hosts, "acknowledgement back");
}

#[test]
fn a_right_edge_that_goes_back_is_seen() {
    let mut hosts = hosts();
    hosts[0].down(15, answer("primary").len() as u32, REQUEST.len(), "");
    hosts[0].packets.last_mut().unwrap().window = 10;
    breaks(hosts, "right edge back");
}

/// With a scale of 4 an edge can be shown to 16 bytes only: 10 or 15 less than before is less than that, 16 isn't.
#[test]
fn a_right_edge_that_is_rounded_down_goes_back_by_less_than_a_unit() {
    for (acked, back) in [(6, false), (1, false), (0, true)] {
        let mut hosts = hosts();
        // Offered by both ends.
        hosts[0].packets[0].scale = Some(0);
        hosts[0].packets[1].scale = Some(4);
        hosts[0].packets[3].ack -= 6;
        let from = REQUEST.len() - 6 + acked;
        hosts[0].down(15, answer("primary").len() as u32, from, "");
        hosts[0].packets.last_mut().unwrap().window -= 1;
        if back {
            breaks(hosts, "right edge back");
        } else {
            let found = findings(hosts);
            assert!(found.violations.is_empty(), "{found:#?}");
        }
    }
}

#[test]
fn one_packet_may_be_overtaken_but_not_two_of_a_dozen() {
    let mut hosts = hosts();
    let late = |hosts: &mut [Host; 3], more: u16| {
        hosts[0].down(13, answer("primary").len() as u32, REQUEST.len() - 1, "");
        let last = hosts[0].packets.last_mut().unwrap();
        last.at += OVERTAKING / 2;
        last.window += more;
    };
    late(&mut hosts, 1);
    let found = findings(hosts.clone());
    assert!(found.violations.is_empty() && found.overtaken == 1, "{found:#?}");
    late(&mut hosts, 2);
    breaks(hosts, "2 of 14 packets overtaken");
}

#[test]
fn two_contents_of_one_number_are_seen() {
    let mut hosts = hosts();
    hosts[0].down(15, 0, REQUEST.len(), "HTTP/1.1 404");
    breaks(hosts, "two contents at the answers' byte 9");
}

#[test]
fn an_answer_that_its_server_never_gave_is_seen() {
    let mut hosts = hosts();
    hosts[0].packets.pop();
    hosts[0].down(13, 0, REQUEST.len(), &answer("primary").replace("ok", "no"));
    breaks(hosts, "none of the primary's");
}

#[test]
fn a_retransmission_is_seen() {
    let mut hosts = hosts();
    hosts[0].up(16, 0, REQUEST);
    breaks(hosts, "1 retransmissions");
}

#[test]
fn a_duplicate_acknowledgement_is_seen() {
    let mut hosts = hosts();
    hosts[0].up(16, REQUEST.len() as u32, "GET");
    hosts[0].down(17, answer("primary").len() as u32, REQUEST.len(), "");
    hosts[0].down(18, answer("primary").len() as u32, REQUEST.len(), "");
    let found = findings(hosts);
    assert!(found.violations.iter().any(|text| text.contains("duplicate")), "{found:#?}");
}

#[test]
fn a_reset_is_seen() {
    let mut hosts = hosts();
    hosts[0].add(20, false, tcp::RST, 0, 0, "");
    breaks(hosts, "1 resets");
}
