//! The checking client: a fixed number of keep-alive connections, never opened again, and a check of every answer.
//!
//! Each connection owns one list. It appends ids that nobody else has, and reads the list's end, which must be exactly
//! what it has written itself. Whatever goes wrong is a failure, with its reason.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

mod background;
mod connection;
mod control;
mod journal;
mod message;
mod run;
mod stats;

pub use background::Background;
pub use control::{ControlError, send_command};
pub use journal::{Entry, Journal, JournalError, Kind, read_journal, read_journals};
pub use message::Segments;
pub use run::run;
pub use stats::{Latency, ServerLatency, Slowest, Tick, WindowSummary};

/// What the checker shall do.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address that it connects to.
    pub target: SocketAddr,
    /// How many connections; each is opened once.
    pub connections: usize,
    /// End after so many requests in all.
    pub requests: Option<u64>,
    /// End after this long.
    pub duration: Option<Duration>,
    /// Pause between an answer and the connection's next request.
    pub think: Duration,
    /// Share of the requests that append, 0 to 1.
    pub write_fraction: f64,
    /// How many ids a read asks for, from the end of the list.
    pub tail: usize,
    /// Read this path instead of the own list; the answer must be 200 and no more is checked.
    pub read_path: Option<String>,
    /// Requests that are sent in one go, before the first is answered.
    pub pipeline: usize,
    /// How a request is cut into segments.
    pub segments: Segments,
    /// Prefix of the lists' keys: two runs against the same servers need two.
    pub run: String,
    /// Seed of the choice between reads and writes.
    pub seed: u64,
    /// Longest time for one answer.
    pub timeout: Duration,
    /// Directory of the connections' journals.
    pub log: Option<PathBuf>,
    /// Unix datagram socket for commands: `mark NAME`, `think MS`, `pause`, `resume`, `stop`.
    pub control: Option<PathBuf>,
}

impl Config {
    /// Half reads and half writes, 200 connections, no think time, and no end: set `requests` or `duration`.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            connections: 200,
            requests: None,
            duration: None,
            think: Duration::ZERO,
            write_fraction: 0.5,
            tail: 3,
            read_path: None,
            pipeline: 1,
            segments: Segments::Whole,
            run: "r".into(),
            seed: 1,
            timeout: Duration::from_secs(30),
            log: None,
            control: None,
        }
    }
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The connection could not be opened.
    Connect,
    /// The connection was reset, or broke in another way.
    Reset,
    /// The connection was closed before the answer.
    Closed,
    /// No answer in time.
    Timeout,
    /// What came is not an answer.
    Malformed,
    /// The answer is another request's.
    WrongId,
    /// The answer isn't 200.
    WrongStatus,
    /// The list isn't what this connection has written.
    WrongList,
    /// Bytes came that nobody asked for.
    Unasked,
}

impl Reason {
    /// Whether the connection can't be used any more.
    fn is_fatal(self) -> bool {
        match self {
            Self::WrongStatus | Self::WrongList => false,
            Self::Connect
            | Self::Reset
            | Self::Closed
            | Self::Timeout
            | Self::Malformed
            | Self::WrongId
            | Self::Unasked => true,
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Malformed => "malformed",
            Self::WrongId => "wrong-id",
            Self::WrongStatus => "wrong-status",
            Self::WrongList => "wrong-list",
            Self::Unasked => "unasked",
        })
    }
}

/// What the checker says while it runs.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// All connections were opened (or have failed).
    Connected {
        /// How many are open.
        connections: usize,
        /// Their source ports.
        ports: Vec<u16>,
    },
    /// The last second.
    Tick(Tick),
    /// A command came.
    Command {
        /// Its text.
        command: String,
    },
    /// Something failed. Only the first hundred are said.
    Failure {
        /// The request, or the connection.
        what: String,
        /// Why.
        reason: Reason,
        /// Some of the answer had come.
        mid_answer: bool,
        /// What was seen.
        detail: String,
    },
    /// The end.
    Summary(Box<Summary>),
}

/// All that the checker has counted.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Connections that were opened.
    pub connections: usize,
    /// Connections that could not be used to the end.
    pub failed_connections: usize,
    /// Requests that were sent.
    pub requests: u64,
    /// Requests without the right answer.
    pub failed_requests: u64,
    /// Of those, the ones whose answer had begun.
    pub failed_mid_answer: u64,
    /// Appends that were answered.
    pub writes: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// How long it took.
    pub seconds: f64,
    /// Answered requests a second.
    pub requests_per_second: f64,
    /// TCP segments that the connections have sent again.
    pub retransmissions: u64,
    /// A window for each name that was marked, in their order; the first is `start`.
    pub windows: Vec<WindowSummary>,
    /// Source ports of the connections.
    pub ports: Vec<u16>,
    /// The first failures, as text.
    pub failures: Vec<String>,
}

impl Summary {
    /// Whether nothing went wrong.
    pub fn is_ok(&self) -> bool {
        self.failed_requests == 0 && self.failed_connections == 0 && self.requests > 0
    }
}
