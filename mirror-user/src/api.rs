//! What goes over the control socket: requests, answers, and the client.

pub mod divergence;
pub mod forecast;
pub mod migration;
pub mod resources;

use std::{
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow, bail};
use mirror_control::precondition::{Check, Precondition};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::moves::Phases;

/// One server of a side that has several, in whatever service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its service, where that has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Where it is.
    pub address: SocketAddr,
    /// Its health checks find it well.
    pub well: bool,
    /// It takes new connections: it is well, or none is.
    pub takes: bool,
    /// Seconds since it is well, or isn't.
    pub since: f64,
    /// Open connections to it.
    pub connections: u32,
}

/// One service in [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// What it is called, where it is called anything.
    pub name: Option<String>,
    /// Its addresses and ports, with what is spoken: `10.77.1.1:8080/tcp`.
    pub listens: Vec<String>,
    /// Open legs of each side.
    pub legs: [u32; 2],
}

/// One side in [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideStatus {
    /// Gets every write, and may get reads.
    pub in_sync: bool,
    /// Seconds that it has been so.
    pub since: f64,
    /// Why.
    pub reason: String,
    /// Its circuit breaker: `closed`, `open` or `half-open`.
    #[serde(default)]
    pub breaker: String,
    /// Seconds until it is asked again whether it is well; nothing while its breaker is closed.
    #[serde(default)]
    pub next_probe: Option<f64>,
    /// Its servers, where it has several.
    #[serde(default)]
    pub servers: Vec<ServerStatus>,
    /// Legs lost since the daemon started.
    pub legs_lost: u64,
    /// New connections that its server refused, or didn't answer, since then. No answer is one of them: they are in no other
    /// number of this side's.
    #[serde(default)]
    pub not_taken: u64,
    /// Turns that it answered to clients: reads, writes.
    pub answered: [u64; 2],
    /// Of them answered with a status of 500 and above.
    pub errors: u64,
    /// Answers that clients were shown by the class of their status: 1xx to 5xx, interim ones too.
    #[serde(default)]
    pub statuses: [u64; 5],
    /// Bytes of payload towards its server, and from it, whether or not clients were shown them. What was sent again is counted
    /// again.
    #[serde(default)]
    pub bytes: [u64; 2],
    /// Answers to compared turns of such a status, shown or not.
    pub errors_compared: u64,
    /// Median latency of the reads and writes that it answered, in microseconds.
    pub p50_us: u64,
    /// 99th percentile of the same.
    pub p99_us: u64,
}

/// An application in `status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AppStatus {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub phase: String,
    /// Share of the reads that the shadow answers, in percent.
    pub weight: f64,
    /// The side that answers writes.
    pub authority: String,
    /// Swaps so far.
    pub epoch: u32,
    /// Whether writes are frozen.
    pub frozen: bool,
    /// Connections.
    pub flows: u32,
    /// Of them with both legs open.
    pub two_legs: u32,
    /// Writes begun and not finished on every member.
    pub open_writes: i64,
    /// Connections whose client has seen an answer that the mirror owes, with a write open.
    #[serde(default)]
    pub lagging: u64,
    /// Writes so far that began while another connection lagged: the mirror may have done the two in the other order.
    #[serde(default)]
    pub overtaking: u64,
    /// Writes that the mirror does, and of which nobody knows whether the authority has done them.
    pub in_doubt: u64,
    /// Frames held now, and so far, and given up.
    pub held: [u64; 3],
    /// What clients talk to, in the policy's order.
    #[serde(default)]
    pub services: Vec<ServiceStatus>,
    /// The primary.
    pub primary: SideStatus,
    /// The shadow.
    pub shadow: SideStatus,
    /// Turns that both sides answered.
    pub compared: u64,
    /// Of them those whose answers differ: in status, length or digest, noise included.
    pub differing: u64,
    /// What happened, the newest last.
    pub notices: Vec<String>,
    /// The migration by itself, under way or the last one.
    #[serde(default)]
    pub migration: Option<migration::MigrationStatus>,
    /// The cutover that is ordered beforehand.
    #[serde(default)]
    pub ordered: Option<migration::OrderStatus>,
}

/// Answer of `/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Process id of the daemon.
    pub pid: u32,
    /// Devices, and the hook that each is attached at.
    pub devices: Vec<String>,
    /// Every application.
    pub apps: Vec<AppStatus>,
}

/// One leg in [`FlowStatus`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LegStatus {
    /// `none`, `dialling`, `open` or `down`; of a question `none`, `asked`, `answered` or `unanswered`.
    pub state: String,
    /// The gateway's port that it comes from.
    pub port: u16,
    /// The server that it goes to, where its side has several.
    #[serde(default)]
    pub server: Option<String>,
    /// Requests that its server has answered, over all legs of this flow and side.
    pub answered: u32,
    /// Of the client's bytes it hasn't acknowledged so many.
    #[serde(default)]
    pub owed_bytes: u32,
    /// So many requests its server hasn't answered to their ends.
    #[serde(default)]
    pub owed_answers: u32,
    /// The oldest of what it owes has been owed for so many milliseconds at least; 0: it owes nothing.
    pub behind_ms: u32,
}

/// A connection in `/flows`, or over UDP a question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowStatus {
    /// Address and port.
    pub client: String,
    /// The address and port that it talks to, ...
    pub service: String,
    /// ... and what that is called, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// `tcp` or `udp`.
    #[serde(default)]
    pub protocol: String,
    /// Of DNS over UDP: the message's identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<u16>,
    /// `opening`, `open` or `ended`; of a question `asked`, or `over`.
    pub state: String,
    /// The side that it hears.
    pub authority: String,
    /// Requests begun.
    pub turns: u32,
    /// A write has begun and isn't finished on every member.
    pub writes_open: bool,
    /// Its client hasn't sent its last request whole.
    pub incomplete: bool,
    /// A packet of it is held.
    pub held: bool,
    /// Its requests can't be told apart: it stays with its authority.
    pub opaque: bool,
    /// Seconds since it began.
    pub age: f64,
    /// Seconds since its last packet.
    pub idle: f64,
    /// The leg to the primary.
    pub primary: LegStatus,
    /// The leg to the shadow.
    pub shadow: LegStatus,
}

/// Answer of `/flows`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flows {
    /// How many there are.
    pub total: u32,
    /// Questions over UDP among them.
    #[serde(default)]
    pub questions: u32,
    /// As many as were asked for, 10,000 at most; whose oldest debt is the oldest comes first.
    pub flows: Vec<FlowStatus>,
}

/// What is asked of `/flows`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct FlowsRequest {
    /// Connections at most.
    pub limit: usize,
}

/// One verdict in `/counters`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counter {
    /// Name of the verdict.
    pub name: String,
    /// Packets.
    pub count: u64,
    /// What it means.
    pub help: String,
}

/// Body of `/weight`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WeightRequest {
    /// Application.
    pub app: String,
    /// Percent.
    pub weight: f64,
}

/// Answer of `/reload`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reloaded {
    /// Tables of the policy that have changed, and are gone by now.
    pub changed: Vec<String>,
}

/// Body of the moves.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MoveRequest {
    /// Application.
    pub app: String,
    /// Only says what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// A cutover alone: freezes and drains, and doesn't flip.
    #[serde(default)]
    pub rehearse: bool,
    /// A join alone: a side that is in sync is put out first.
    #[serde(default)]
    pub again: bool,
    /// A cutover alone: preconditions that it is made without.
    #[serde(default)]
    pub despite: Vec<Precondition>,
}

/// Answer of the moves and of `/weight`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Moved {
    /// Phase afterwards.
    pub phase: String,
    /// The side that answers writes.
    pub authority: String,
    /// Percent.
    pub weight: f64,
    /// Swaps so far.
    pub epoch: u32,
    /// How long each phase took.
    #[serde(default)]
    pub phases: Option<Phases>,
    /// It was only rehearsed: nothing moved.
    #[serde(default)]
    pub rehearsed: bool,
    /// It was only asked about: so it would stand.
    #[serde(default)]
    pub dry_run: bool,
    /// What a cutover asks for, as it stood before.
    #[serde(default)]
    pub preconditions: Vec<Check>,
    /// A dry run alone: it would be refused; why, and what to do.
    #[serde(default)]
    pub refused: Option<String>,
}

/// Answer of what was refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Why, and what to do.
    pub error: String,
}

/// Talks to a daemon.
pub struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon behind `socket`.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(socket: &Path) -> Result<Self> {
        let http = reqwest::Client::builder().unix_socket(socket).build()?;
        Ok(Self { http, socket: socket.to_owned() })
    }

    /// What to do about a daemon that can't be reached.
    fn unreachable(&self, error: &reqwest::Error) -> anyhow::Error {
        let socket = self.socket.display();
        match std::os::unix::net::UnixStream::connect(&self.socket).map_err(|error| error.kind()) {
            Ok(_) => anyhow!("the daemon at {socket} took the request and didn't answer: {error}"),
            Err(ErrorKind::PermissionDenied) => {
                anyhow!("{socket} is another user's: ask as root, or as the daemon's own user")
            }
            Err(_) => anyhow!(
                "no daemon answers at {socket}: is `mirror run POLICY` running? If it has another socket: --socket FILE"
            ),
        }
    }

    /// Asks.
    ///
    /// # Errors
    /// When the daemon can't be reached, or refuses.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = self.http.get(format!("http://mirror{path}"));
        read(request.send().await.map_err(|error| self.unreachable(&error))?).await
    }

    /// Tells.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let request = self.http.post(format!("http://mirror{path}")).json(body);
        read(request.send().await.map_err(|error| self.unreachable(&error))?).await
    }
}

async fn read<T: DeserializeOwned>(answer: reqwest::Response) -> Result<T> {
    if answer.status().is_success() {
        return Ok(answer.json().await?);
    }
    match answer.json::<Failure>().await {
        Ok(failure) => bail!("{}", failure.error),
        Err(error) => bail!("the daemon's answer can't be read: {error}"),
    }
}
