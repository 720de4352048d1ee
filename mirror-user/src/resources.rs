//! What the servers use, and what they are asked to do: CPU, memory, I/O, network and requests of each side, every second.
//!
//! A source ([`cgroup`], [`process`], [`prometheus`]) gives a [`Reading`]: gauges and counters as they stand. [`rates`]
//! makes rates of the counters. What can't be known is missing, by name ([`Missing`]); it is never zero.

pub mod cgroup;
pub mod process;
pub mod prometheus;
pub mod rates;
pub mod watch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is measured of a side. The number is kept on disk: it names the same thing for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Metric {
    /// CPU time, in seconds a second: cores.
    Cpu = 0,
    /// Memory that can't be had back by dropping caches, in bytes.
    Memory = 1,
    /// Bytes read from block devices, a second.
    Read = 2,
    /// Bytes written to block devices, a second.
    Written = 3,
    /// Bytes received from the network, a second. Where no source has that: those of payload that the gateway sent to it.
    Received = 4,
    /// Bytes sent to the network, a second. Likewise those that came from it.
    Sent = 5,
    /// Reads that the side answered to clients, a second.
    Reads = 6,
    /// Writes that the side answered to clients, a second.
    Writes = 7,
}

impl Metric {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Cpu,
        Self::Memory,
        Self::Read,
        Self::Written,
        Self::Received,
        Self::Sent,
        Self::Reads,
        Self::Writes,
    ];
    /// Those that a policy's source gives; the gateway itself counts the others, and the network where the source has none.
    pub const OF_SOURCE: [Self; 6] =
        [Self::Cpu, Self::Memory, Self::Read, Self::Written, Self::Received, Self::Sent];

    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Read => "read",
            Self::Written => "written",
            Self::Received => "received",
            Self::Sent => "sent",
            Self::Reads => "reads",
            Self::Writes => "writes",
        }
    }

    /// The unit of its values.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "cores",
            Self::Memory => "bytes",
            Self::Read | Self::Written | Self::Received | Self::Sent => "bytes/s",
            Self::Reads | Self::Writes => "requests/s",
        }
    }

    /// More than any server can have: a value above is a lie.
    const fn most(self) -> f64 {
        match self {
            Self::Cpu => 1e5,
            Self::Memory => 1e16,
            Self::Read | Self::Written | Self::Received | Self::Sent => 1e14,
            Self::Reads | Self::Writes => 1e10,
        }
    }
}

/// Why a value isn't known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The policy names no source for the side.
    NoSource,
    /// The source doesn't have it.
    NotMeasured,
    /// The process, the group or the series isn't there.
    Gone,
    /// The gateway may not read it.
    Denied,
    /// The endpoint can't be reached.
    Unreachable,
    /// The endpoint answers with another status than 200.
    BadStatus,
    /// No answer within the deadline.
    TooSlow,
    /// The answer is larger than the limit.
    TooLarge,
    /// The text isn't of its format.
    Malformed,
    /// Several things answer to what the policy names.
    Ambiguous,
    /// A value that can't be: negative, not a number, or beyond any server.
    Impossible,
    /// A rate needs two readings, and this is the first.
    FirstReading,
    /// A counter went back, or another one took its place: a restart.
    Reset,
    /// The source hasn't updated the value since the last reading.
    Unchanged,
    /// The network is the gateway's own: the server shares its network namespace.
    SharedNetwork,
}

impl Missing {
    /// All.
    pub const ALL: [Self; 15] = [
        Self::NoSource,
        Self::NotMeasured,
        Self::Gone,
        Self::Denied,
        Self::Unreachable,
        Self::BadStatus,
        Self::TooSlow,
        Self::TooLarge,
        Self::Malformed,
        Self::Ambiguous,
        Self::Impossible,
        Self::FirstReading,
        Self::Reset,
        Self::Unchanged,
        Self::SharedNetwork,
    ];

    /// Its name, as in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoSource => "no_source",
            Self::NotMeasured => "not_measured",
            Self::Gone => "gone",
            Self::Denied => "denied",
            Self::Unreachable => "unreachable",
            Self::BadStatus => "bad_status",
            Self::TooSlow => "too_slow",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Ambiguous => "ambiguous",
            Self::Impossible => "impossible",
            Self::FirstReading => "first_reading",
            Self::Reset => "reset",
            Self::Unchanged => "unchanged",
            Self::SharedNetwork => "shared_network",
        }
    }

    /// What it means, for people, with what to do where something can be done.
    pub const fn help(self) -> &'static str {
        match self {
            Self::NoSource => "the policy names no source: [primary.resources], [shadow.resources]",
            Self::NotMeasured => "the source doesn't have it",
            Self::Gone => "the process, the group or the series isn't there",
            Self::Denied => "the gateway may not read it: another user's process needs CAP_SYS_PTRACE",
            Self::Unreachable => "the endpoint can't be reached",
            Self::BadStatus => "the endpoint answers with another status than 200",
            Self::TooSlow => "no answer within the deadline",
            Self::TooLarge => "the answer is larger than the limit",
            Self::Malformed => "what is read isn't of its format",
            Self::Ambiguous => "several series or containers match: narrow `labels`",
            Self::Impossible => "a value that can't be: negative, not a number, or beyond any server",
            Self::FirstReading => "a rate needs two readings, and this is the first",
            Self::Reset => "a counter went back or was replaced: a restart",
            Self::Unchanged => "the source hasn't updated it since the last reading",
            Self::SharedNetwork => {
                "the server shares the gateway's network namespace: its bytes can't be told apart"
            }
        }
    }
}

/// A value, or why there is none.
pub type Found<T> = Result<T, Missing>;

/// A number that only grows, in parts that restart each on their own: devices, CPUs, a process.
#[derive(Clone, Debug, PartialEq)]
pub struct Counter {
    /// When it stood so, in seconds of `clock`.
    pub at: f64,
    /// Whose clock that is.
    pub clock: Clock,
    /// By the part's name.
    pub parts: BTreeMap<String, f64>,
}

/// Whose clock a counter's time is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The gateway's monotonic one, when it was read.
    Gateway,
    /// The source's own: it updates its values when it likes, and says when.
    Source,
}

/// A value as a source has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A gauge.
    Gauge(f64),
    /// A counter.
    Counter(Counter),
}

/// What a source says at one time; a metric that isn't in it isn't measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading(BTreeMap<Metric, Found<Value>>);

impl Reading {
    /// The same answer for everything that a source gives.
    pub fn missing(why: Missing) -> Self {
        Self(Metric::OF_SOURCE.iter().map(|metric| (*metric, Err(why))).collect())
    }

    /// Adds a metric.
    pub fn set(&mut self, metric: Metric, value: Found<Value>) {
        self.0.insert(metric, value);
    }

    /// What is said of a metric.
    pub fn get(&self, metric: Metric) -> Found<&Value> {
        self.0.get(&metric).map_or(Err(Missing::NotMeasured), |found| found.as_ref().map_err(|why| *why))
    }
}

/// What is known of a side at one second.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Seconds since 1970.
    pub at: u64,
    /// By metric's number, in its unit.
    pub values: [Found<f64>; Metric::ALL.len()],
}

impl Sample {
    /// A metric's value, in its unit.
    ///
    /// # Errors
    /// Why it isn't known.
    pub fn get(&self, metric: Metric) -> Found<f64> {
        self.values[metric as usize]
    }
}
