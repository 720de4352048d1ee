//! A policy file: TOML that becomes types which can't be wrong.

mod address;
mod breaker;
mod divergence;
mod events;
mod migration;
mod pressure;
pub mod reload;
mod resources;
pub mod scale;
mod servers;
mod service;
mod side;
mod validate;

use std::{net::SocketAddr, path::Path, time::Duration};

use mirror_common::abi::{DEFAULT_FLOWS, MAX_FLOWS};
pub use resources::{CgroupPath, ProcessId, Resources, Scrape};
use serde::{Deserialize, Deserializer, de};

pub use breaker::Breaker;
pub use divergence::Divergence;
pub use events::{Events, Webhook};
pub use migration::{Cutover, Migration};
pub use pressure::{Budget, Pressure};
pub use servers::Server;
pub use service::{Affinity, DNS_PORT, Datagrams, Listener, Port, Protocol, Service};
pub use side::{Capacity, Endpoint, Nat};
pub mod init;
pub mod process;

use scale::Scale;
use validate::Found;

/// What is to be mirrored and moved, and within which bounds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Name of the application.
    pub name: Name,
    /// What clients talk to.
    service: Option<Service>,
    /// Instead of `service`: what clients talk to, 16 at most, each with its own addresses, ports and servers. Weight, joins,
    /// cutovers and all that is decided are the whole application's.
    #[serde(default)]
    services: Vec<Service>,
    /// The present servers.
    primary: Option<Endpoint>,
    /// The copy.
    shadow: Option<Endpoint>,
    /// How long the side without authority may keep a flow waiting.
    #[serde(default = "defaults::stall", deserialize_with = "duration")]
    pub stall: Duration,
    /// What becomes of the side without authority where it holds a request back for `pressure_budget`, at whatever pace.
    #[serde(default)]
    pub pressure: Pressure,
    /// How long it may, where `pressure` isn't `wait`.
    #[serde(default)]
    pub pressure_budget: Budget,
    /// How long writes may be frozen for a cutover or a rollback.
    #[serde(default = "defaults::freeze", deserialize_with = "duration")]
    pub freeze: Duration,
    /// How long writes may be frozen for a join.
    #[serde(default = "defaults::join_deadline", deserialize_with = "duration")]
    pub join_deadline: Duration,
    /// The program, with its arguments, that brings the joining side level while writes are frozen. `MIRROR_FROM` and
    /// `MIRROR_TO` name the two servers, of several the first, as `address:port`; with `[[services]]` those of the first service,
    /// and `MIRROR_FROM_API` and `MIRROR_TO_API` those of one that is called `api`.
    #[serde(default)]
    pub join_hook: Vec<String>,
    /// A restarted server still knows what was written to it.
    #[serde(default)]
    pub durable: bool,
    /// What becomes of a request that a move waits for, while its client hasn't sent it whole.
    #[serde(default)]
    pub unsettled: Unsettled,
    /// Flows at most.
    #[serde(default)]
    pub flows: Flows,
    /// Frames that are held for one flow at most.
    #[serde(default = "defaults::hold_frames")]
    pub hold_frames: usize,
    /// Bytes that are held in all at most; as many again for connections that found no room before.
    #[serde(default = "defaults::hold_bytes")]
    pub hold_bytes: usize,
    /// Devices to attach to; none: those that the endpoints are reached by, and the one that has the service's address; where
    /// that is the loopback or a dummy, every Ethernet device that is up and belongs to no other.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Where packets are taken up.
    #[serde(default)]
    pub hook: Hook,
    /// Whether a weight chooses by request or by client: a client is an address.
    #[serde(default)]
    pub weight_by: WeightBy,
    /// Whose order the requests of several connections keep beside the mirror.
    #[serde(default)]
    pub order: Order,
    /// How a migration goes by itself.
    #[serde(default)]
    pub migration: Migration,
    /// How a provisioned shadow is scaled ahead of its load.
    pub scale: Option<Scale>,
    /// How differences of the two sides' answers are taken.
    #[serde(default)]
    pub divergence: Divergence,
    /// When a side that loses leg after leg is mirrored no more.
    #[serde(default)]
    pub breaker: Breaker,
    /// Where metrics are served over TCP; without it they are on the control socket alone.
    pub metrics: Option<Metrics>,
    /// Who is told what happens.
    #[serde(default)]
    pub events: Events,
    /// How long a flow without a packet lives.
    #[serde(default = "defaults::idle", deserialize_with = "duration")]
    pub idle: Duration,
}

/// Where metrics are served.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Address and port: `"127.0.0.1:9464"`.
    pub listen: SocketAddr,
}

/// Where packets are taken up. TC can do everything on every device, and takes over whatever XDP can't.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// XDP on cards whose driver has it, TC elsewhere.
    #[default]
    Auto,
    /// TC alone.
    Tc,
    /// Native XDP on every device, or not at all.
    Xdp,
}

/// Chooses by request, or by client.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum WeightBy {
    /// Each read on its own.
    #[default]
    Request,
    /// Every read of a client's address alike.
    Client,
}

/// Whose order the requests of several connections keep beside the mirror.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Each connection's; where a write may overtake another connection's answered one, it is counted.
    #[default]
    Connection,
    /// Each client's, by its address: while the mirror owes the answer of a write that another connection of the same client has
    /// seen answered, a read stays with the authority, and a write waits, held. For browsers, and clients with several
    /// connections: each reads what it wrote.
    Client,
    /// The whole application's: the same beside any connection. Writes then go at the mirror's pace, and reads move in between.
    Service,
}

/// What becomes of a request that a move waits for, while its client hasn't sent it whole.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Unsettled {
    /// The move is aborted at its deadline, and says which connections it waited for.
    #[default]
    Abort,
    /// Its connection is reset when half of the time is over that writes may be frozen. No side has had such a request whole.
    Reset,
}

/// A name that fits a path and a terminal: letters, digits, `-` and `_`, at most 32.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if fits { Ok(Self(text)) } else { Err("a name has 1 to 32 letters, digits, - or _".into()) }
    }
}

/// A number of flows: a power of two, so that the sweep's pieces fit.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u32")]
pub struct Flows(u32);

impl Flows {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for Flows {
    fn default() -> Self {
        Self(DEFAULT_FLOWS)
    }
}

impl TryFrom<u32> for Flows {
    type Error = String;

    fn try_from(n: u32) -> Result<Self, String> {
        if n.is_power_of_two() && (1_024..=MAX_FLOWS).contains(&n) {
            return Ok(Self(n));
        }
        let near = n.clamp(1_024, MAX_FLOWS).next_power_of_two().min(MAX_FLOWS);
        Err(format!("flows must be a power of two from 1024 to {MAX_FLOWS}; did you mean {near}?"))
    }
}

mod defaults {
    use std::time::Duration;

    use mirror_control::scaler::ScalerPolicy;

    use super::process::Place;

    pub(super) fn directory() -> Place {
        Place::root()
    }
    pub(super) fn health_deadline() -> Duration {
        Duration::from_secs(30)
    }

    pub(super) fn ahead() -> Duration {
        Duration::from_secs(600)
    }
    pub(super) fn quantile() -> f64 {
        ScalerPolicy::default().quantile
    }
    pub(super) fn utilisation() -> f64 {
        0.8
    }
    pub(super) fn hold() -> Duration {
        Duration::from_secs(300)
    }

    pub(super) fn stall() -> Duration {
        Duration::from_millis(500)
    }
    pub(super) fn freeze() -> Duration {
        Duration::from_millis(750)
    }
    pub(super) fn join_deadline() -> Duration {
        Duration::from_secs(10)
    }
    pub(super) fn idle() -> Duration {
        Duration::from_secs(7_200)
    }
    pub(super) fn hold_frames() -> usize {
        64
    }
    pub(super) fn hold_bytes() -> usize {
        4 << 20
    }
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(from)?).map_err(de::Error::custom)
}

/// `"500ms"`, `"10s"`, `"2h"`.
///
/// # Errors
/// When it is no such time, or longer than a day.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad_duration(text))?;
    let ms = match unit.trim() {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    match ms {
        Some(ms) if (1..=86_400_000).contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(bad_duration(text)),
    }
}

fn bad_duration(text: &str) -> String {
    format!("`{text}` is no duration from 1ms to 24h; write a number and ms, s, m or h, as in \"500ms\"")
}

/// Why a policy doesn't hold, with the line that it is about.
#[derive(Debug, miette::Diagnostic, thiserror::Error)]
#[error("policy {file} doesn't hold")]
pub struct Invalid {
    file: String,
    #[source_code]
    text: miette::NamedSource<String>,
    #[label("{what}")]
    at: Option<miette::SourceSpan>,
    what: String,
    #[help]
    help: Option<String>,
}

impl Invalid {
    /// The line that it is about, and what is wrong with it: for a log.
    pub fn in_words(&self) -> String {
        let line = |span: miette::SourceSpan| {
            let before = self.text.inner().bytes().take(span.offset());
            format!("line {}: ", before.filter(|byte| *byte == b'\n').count() + 1)
        };
        self.at.map(line).unwrap_or_default() + &self.what
    }
}

impl Policy {
    /// Reads and checks a policy's text; `file` is for messages.
    ///
    /// # Errors
    /// The first thing that doesn't hold, with its place.
    pub fn parse(file: &str, text: &str) -> Result<Self, Box<Invalid>> {
        let invalid = |at: Option<std::ops::Range<usize>>, what: String, help: Option<String>| {
            let text = miette::NamedSource::new(file, text.to_owned());
            Box::new(Invalid { file: file.into(), text, at: at.map(Into::into), what, help })
        };
        let mut policy: Self =
            toml::from_str(text).map_err(|error| invalid(error.span(), error.message().to_owned(), None))?;
        match policy.settle().err().or_else(|| policy.fault()) {
            Some(Found { needle, nth, what, help }) => {
                let mut found = text.match_indices(needle).map(|(at, _)| at..at + needle.len());
                let at = found.nth(nth);
                Err(invalid(at, what, help))
            }
            None => Ok(policy),
        }
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// When it can't be read, or doesn't hold.
    pub fn load(path: &Path) -> miette::Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            miette::miette!(
                help = "name a policy file, such as policies/http.toml",
                "can't read {}: {error}",
                path.display()
            )
        })?;
        Self::parse(&path.display().to_string(), &text).map_err(|invalid| miette::Report::from(*invalid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../policies/http.toml");

    #[test]
    fn the_example_holds() {
        let policy = Policy::parse("http.toml", GOOD).unwrap();
        assert_eq!(policy.stall, Duration::from_millis(500));
        assert!(policy.has_shadow());
    }

    #[test]
    fn a_service_and_its_sides_may_be_of_both_families() {
        let text = include_str!("../../policies/dual-stack.toml");
        let policy = Policy::parse("dual-stack.toml", text).unwrap();
        let six: Vec<String> = policy.six().map(|address| address.to_string()).collect();
        assert_eq!(six, ["2001:db8:77::1", "2001:db8:3::2", "2001:db8:3::101"]);
        assert!(policy.has_six());
    }

    #[test]
    fn where_clients_talk_to_the_primary_itself_nothing_is_the_gateways_own() {
        let text = include_str!("../../policies/transparent.toml");
        let policy = Policy::parse("transparent.toml", text).unwrap();
        assert!(policy.is_transparent(policy.services()[0].vip.ip()));
        assert!(policy.servers().all(|one| one.end.nat() == Nat::Keep && one.end.nat().own().is_none()));
        let other = Policy::parse("http.toml", GOOD).unwrap();
        assert!(!other.is_transparent(other.services()[0].vip.ip()));
    }

    #[test]
    fn each_invalid_policy_fails_as_its_first_line_says() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/invalid");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let expected = text.lines().next().unwrap().trim_start_matches("# expected: ").to_owned();
            let error = Policy::parse("x.toml", &text).expect_err("invalid");
            assert!(error.what.contains(&expected), "{}: {}", path.display(), error.what);
            seen += 1;
        }
        assert!(seen >= 5);
    }
}
