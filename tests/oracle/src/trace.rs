//! Judges what the hosts saw: captures at the client, the primary and the shadow, of one run.
//!
//! | rule | what it says |
//! |---|---|
//! | minimum | no acknowledgement shown to a client is above what each living leg's server has acknowledged |
//! | back | what a client is shown, acknowledgement and right edge, never goes back, but by overtaking (an edge: by a unit) |
//! | content | a sequence number never carries two contents, at the client and at each leg |
//! | authority | each answer that a client got is one of its own leg's at the server that it names |
//! | foreign | a host's packets are between two addresses alone: its own, and the one that it is to know |
//! | clean | on a network that loses nothing: no retransmission, no duplicate acknowledgement, no reset at the client |
//!
//! The hosts' clocks must be one: namespaces of one machine. Requests carry `X-Request-Id`, answers `X-Server` too.

mod connection;
mod packet;
mod stream;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddrV4,
    time::Duration,
};

use mirror_common::flow::tcp;

use connection::{Connection, Shown};
pub use packet::{Packet, read};
use stream::find;

/// Captures of one run.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// At the client.
    pub client: Vec<Packet>,
    /// At the servers: primary, shadow.
    pub servers: [Vec<Packet>; 2],
}

/// What is expected of a trace.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Fewer packets at any host are a violation: a capture that saw nothing proves nothing.
    pub least_packets: usize,
    /// Nothing was lost on the way, and no server died.
    pub clean: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Packets looked at.
    pub packets: usize,
    /// Connections of clients.
    pub flows: usize,
    /// Legs, at the primary and at the shadow, that could be told to be a client's.
    pub legs: [usize; 2],
    /// Answers that were compared with their server's.
    pub answers: usize,
    /// Times that a lower number came to the client within [`OVERTAKING`] of a higher one.
    pub overtaken: usize,
    /// Broken rules, in words.
    pub violations: Vec<String>,
}

/// A packet may be overtaken by one that was made so much later, or less.
pub const OVERTAKING: Duration = Duration::from_millis(1);
/// More than one in so many packets isn't chance.
const OVERTAKEN_MOST: usize = 1_000;

/// A leg, and where in its client's bytes it begins.
struct Leg {
    from: usize,
    connection: Connection,
}

/// Looks at a trace of connections to `service`.
pub fn check(trace: &Trace, service: SocketAddrV4, expected: Expected) -> Findings {
    let mut findings = Findings::default();
    for (host, packets) in
        [("client", &trace.client), ("primary", &trace.servers[0]), ("shadow", &trace.servers[1])]
    {
        findings.packets += packets.len();
        if packets.len() < expected.least_packets {
            let (seen, least) = (packets.len(), expected.least_packets);
            findings.violations.push(format!("the capture at the {host} saw {seen} packets, not {least}"));
        }
        foreign(host, packets, &mut findings);
    }
    let flows: Vec<Connection> = connection::all(&trace.client, |packet| packet.to == service, &mut findings);
    findings.flows = flows.len();
    let mut legs: Vec<[Vec<Leg>; 2]> = flows.iter().map(|_| [Vec::new(), Vec::new()]).collect();
    let ids = requests(&flows);
    for side in [0, 1] {
        let port = service.port();
        let opened = connection::all(&trace.servers[side], |packet| packet.to.port() == port, &mut findings);
        for connection in opened {
            if let Some((flow, from)) = owner(&connection, &ids) {
                findings.legs[side] += 1;
                legs[flow][side].push(Leg { from, connection });
            }
        }
    }
    for (flow, legs) in flows.iter().zip(&mut legs) {
        for side in legs.iter_mut() {
            side.sort_by_key(|leg| leg.from);
        }
        never_back(flow, &mut findings);
        minimum(flow, legs, &mut findings);
        authority(flow, legs, &mut findings);
        if expected.clean {
            clean(flow, &mut findings);
        }
    }
    if findings.overtaken > findings.packets.div_ceil(OVERTAKEN_MOST) {
        findings.violations.push(format!("{} of {} packets overtaken", findings.overtaken, findings.packets));
    }
    findings
}

/// A copy that leaves as it came bears another host's addresses.
fn foreign(host: &str, packets: &[Packet], findings: &mut Findings) {
    let pair = |packet: &Packet| {
        let (from, to) = (*packet.from.ip(), *packet.to.ip());
        (from.min(to), from.max(to))
    };
    let pairs: BTreeSet<_> = packets.iter().map(pair).collect();
    if pairs.len() > 1 {
        findings.violations.push(format!("the capture at the {host} saw packets between {pairs:?}"));
    }
}

const ID: &[u8] = b"X-Request-Id: ";

/// The first request id from a place on, and its own place.
fn next_id(bytes: &[u8], from: usize) -> Option<(usize, &[u8])> {
    let at = from + find(bytes.get(from..)?, ID)? + ID.len();
    let length = find(&bytes[at..], b"\r\n")?;
    Some((at, &bytes[at..at + length]))
}

/// Every request's id: whose it is, and where in its client's bytes.
fn requests(flows: &[Connection]) -> BTreeMap<Vec<u8>, (usize, usize)> {
    let mut ids = BTreeMap::new();
    for (index, flow) in flows.iter().enumerate() {
        let mut from = 0;
        while let Some((at, id)) = next_id(flow.up.whole(), from) {
            ids.insert(id.to_vec(), (index, at));
            from = at;
        }
    }
    ids
}

/// The client's connection that a leg is of, by its first request, and where in the client's bytes the leg begins.
fn owner(leg: &Connection, ids: &BTreeMap<Vec<u8>, (usize, usize)>) -> Option<(usize, usize)> {
    let (at, id) = next_id(leg.up.whole(), 0)?;
    let (flow, place) = ids.get(id)?;
    Some((*flow, place.checked_sub(at)?))
}

fn never_back(flow: &Connection, findings: &mut Findings) {
    back(flow, "acknowledgement", 1, |shown| shown.ack, findings);
    // A window is a number of units, and what is acknowledged isn't: the edge is rounded down (RFC 7323, 2.4).
    back(flow, "right edge", flow.unit(), |shown| shown.edge, findings);
}

/// A lower number right behind a higher one is a packet that was overtaken: the legs come in by different cards, which
/// different CPUs serve, and what one of them has made may leave behind what another makes a moment later. Less than a unit is
/// no step back.
fn back(flow: &Connection, what: &str, unit: usize, of: impl Fn(&Shown) -> usize, findings: &mut Findings) {
    let Some((first, rest)) = flow.shown.split_first() else { return };
    let (mut most, mut risen) = (of(first), first.at);
    for shown in rest {
        let now = of(shown);
        if now > most {
            (most, risen) = (now, shown.at);
        } else if now + unit <= most && shown.at.saturating_sub(risen) < OVERTAKING {
            findings.overtaken += 1;
        } else if now + unit <= most {
            findings.violations.push(format!("{}: {what} back from {most} to {now}", flow.name));
        }
    }
}

fn minimum(flow: &Connection, legs: &[Vec<Leg>; 2], findings: &mut Findings) {
    for (side, legs) in ["primary", "shadow"].iter().zip(legs) {
        for (i, leg) in legs.iter().enumerate() {
            let covers = legs.get(i + 1).map_or(usize::MAX, |next| next.from);
            for shown in &flow.shown {
                if shown.ack <= leg.from || leg.connection.ended.is_some_and(|ended| ended <= shown.at) {
                    continue;
                }
                let acked = leg.from + leg.connection.acked_at(shown.at);
                if shown.ack.min(covers) > acked {
                    findings.violations.push(format!(
                        "{}: shown {} where the {side} has acknowledged {acked}",
                        flow.name, shown.ack
                    ));
                    break;
                }
            }
        }
    }
}

fn authority(flow: &Connection, legs: &[Vec<Leg>; 2], findings: &mut Findings) {
    let bytes = flow.down.whole();
    // What a leg has answered, and behind which byte the last answer was found: the next one lies behind it, as a rule.
    let mut said = [0, 1].map(|side| -> Vec<(&[u8], usize)> {
        legs[side].iter().map(|leg| (leg.connection.down.whole(), 0)).collect()
    });
    let mut from = 0;
    while let Some(length) = find(&bytes[from..], b"\r\n\r\n") {
        let head = &bytes[from..from + length + 4];
        let field = |name: &[u8]| {
            let at = find(head, name)? + name.len();
            std::str::from_utf8(&head[at..at + find(&head[at..], b"\r\n")?]).ok()
        };
        let body = field(b"Content-Length: ").and_then(|text| text.parse().ok()).unwrap_or(0_usize);
        let end = from + head.len() + body;
        let (Some(answer), Some(server)) = (bytes.get(from..end), field(b"X-Server: ")) else { return };
        let side = usize::from(server == "shadow");
        let found = said[side].iter_mut().any(|(bytes, behind)| {
            let at = find(&bytes[*behind..], answer).map(|at| at + *behind).or_else(|| find(bytes, answer));
            *behind = at.map_or(*behind, |at| at + answer.len());
            at.is_some()
        });
        if !found {
            let id = field(ID).unwrap_or("without an id");
            findings.violations.push(format!("{}: the answer {id} is none of the {server}'s", flow.name));
        }
        findings.answers += 1;
        from = end;
    }
}

fn clean(flow: &Connection, findings: &mut Findings) {
    let counts = [
        ("retransmissions of the client's", flow.sent_again),
        ("duplicate acknowledgements", flow.duplicate_acks),
        ("resets", flow.resets),
    ];
    for (what, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        findings.violations.push(format!("{}: {count} {what}", flow.name));
    }
}

/// Whether a packet opens a connection.
fn opens(packet: &Packet) -> bool {
    packet.is(tcp::SYN) && !packet.is(tcp::ACK)
}

#[cfg(test)]
mod tests;
