//! What was seen, counted.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde::Serialize;

/// Why the gateway could not choose who answers a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// It was sent before the last answer was over, or before the client had acknowledged all of it.
    Unanswered,
    /// Other requests came in the same segment.
    Joined,
    /// Its head came in several segments: until its end is there, it counts as a write.
    Split,
    /// It offers another protocol (Upgrade), and no server has declined one on its connection yet.
    Offers,
    /// A datagram: the same client asked for it before, and had no answer yet.
    AskedAgain,
    /// A datagram in fragments.
    Fragments,
}

impl Kept {
    /// The same for people.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::Unanswered => "sent before the last answer was over and acknowledged (pipelining)",
            Self::Joined => "several requests in one segment (pipelining)",
            Self::Split => "head in several segments: large cookies, small segments",
            Self::Offers => {
                "a connection's first offer of another protocol (Upgrade: h2c of Java's HttpClient)"
            }
            Self::AskedAgain => "asked before the last answer: whoever was to answer that one does",
            Self::Fragments => "in fragments: the gateway drops them",
        }
    }
}

/// Why a connection isn't read, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unread {
    /// It began before this.
    Before,
    /// TLS.
    Tls,
    /// HTTP/2 in clear.
    Http2,
    /// An Upgrade that the server took up (WebSocket), or CONNECT.
    Upgrade,
    /// A request body in another transfer coding than chunked alone.
    Coding,
    /// A request that servers may read differently, or no HTTP/1.x at all.
    Request,
    /// An answer like that, or to something that isn't known.
    Answer,
    /// Too many packets were missed here.
    Missing,
}

impl Unread {
    /// Why a request ended the reading. A hint for people: what counts was found by the parser.
    pub(super) fn of_request(payload: &[u8]) -> Self {
        let text = String::from_utf8_lossy(payload).to_ascii_lowercase();
        if payload.starts_with(&[0x16, 0x03]) {
            Self::Tls
        } else if text.starts_with("pri * http/2") {
            Self::Http2
        } else if text.starts_with("connect ") {
            Self::Upgrade
        } else if text.contains("\r\ntransfer-encoding:") {
            Self::Coding
        } else {
            Self::Request
        }
    }

    /// The same for people.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::Before => "open before this began: not read",
            Self::Tls => "TLS: end it before the gateway",
            Self::Http2 => "HTTP/2 in clear: not understood",
            Self::Upgrade => {
                "Upgrade that was taken up, or CONNECT: both sides in step, one answers, for life"
            }
            Self::Coding => "upload in an unknown transfer coding: both sides in step, one answers, for life",
            Self::Request => {
                "no HTTP/1.x, or such that servers read it differently: one side answers, for life"
            }
            Self::Answer => "an answer that can't be framed: one side answers, for life",
            Self::Missing => "packets were missed here: not read any more",
        }
    }

    /// Whether that says something of the traffic, and not only of what was seen of it.
    #[must_use]
    pub const fn is_opaque(self) -> bool {
        !matches!(self, Self::Before | Self::Missing)
    }
}

/// The connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// That were opened while this went on.
    pub opened: u64,
    /// That aren't read, or not to their end.
    pub unread: BTreeMap<Unread, u64>,
    /// For which there was no room.
    pub not_followed: u64,
}

impl Connections {
    pub(super) fn unread(&mut self, why: Unread) {
        *self.unread.entry(why).or_default() += 1;
    }
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Observed {
    /// Of which service.
    pub service: SocketAddr,
    /// What that is called, where it is called anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Where; empty: on all devices.
    pub devices: Vec<String>,
    /// For how long.
    pub seconds: f64,
    /// One of so many connections.
    pub sample: u16,
    /// Packets; one that passes two devices is counted twice.
    pub packets: u64,
    /// Packets that this was too slow for.
    pub missed: u64,
    /// The connections.
    pub connections: Connections,
    /// Requests whose heads were read; over UDP datagrams.
    pub requests: u64,
    /// Of them those that change something, or may.
    pub writes: u64,
    /// Reads that the shadow could have answered.
    pub shiftable: u64,
    /// Reads that the authority would have had to answer, by the reason.
    pub kept: BTreeMap<Kept, u64>,
    /// Of datagrams, where answers are told apart: those that had none within five seconds, nor were asked again.
    pub unanswered: u64,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            service: (Ipv4Addr::UNSPECIFIED, 0).into(),
            name: None,
            protocol: "tcp",
            devices: Vec::new(),
            seconds: 0.0,
            sample: 1,
            packets: 0,
            missed: 0,
            connections: Connections::default(),
            requests: 0,
            writes: 0,
            shiftable: 0,
            kept: BTreeMap::new(),
            unanswered: 0,
        }
    }
}

impl Observed {
    pub(super) fn writes(&mut self, count: u32) {
        self.requests += u64::from(count);
        self.writes += u64::from(count);
    }

    pub(super) fn keep(&mut self, why: Kept, count: u32) {
        self.requests += u64::from(count);
        *self.kept.entry(why).or_default() += u64::from(count);
    }

    pub(super) fn shift(&mut self) {
        self.requests += 1;
        self.shiftable += 1;
    }

    /// A part of the requests, in percent.
    #[must_use]
    pub fn percent(&self, part: u64) -> f64 {
        100.0 * part as f64 / self.requests.max(1) as f64
    }

    /// One line while it goes on.
    pub(super) fn progress(&self, elapsed: Duration) -> String {
        format!(
            "{} s   {} connections, {} requests, {:.1} % could be shifted",
            elapsed.as_secs(),
            self.connections.opened,
            self.requests,
            self.percent(self.shiftable)
        )
    }
}
