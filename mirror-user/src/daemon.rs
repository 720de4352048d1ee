//! `mirror run`: loads, holds, sweeps, and serves the control socket. Not in the data path: what is pinned goes on without it.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use axum::{
    Json, Router,
    extract::State as Extract,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use aya::maps::{HashMap, RingBuf};
use mirror_common::{
    abi::maps,
    hist,
    switch_word::{Side, SwitchWord},
};
use mirror_control::migration::{Move, plan};
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    api::{AppStatus, Counter, Failure, MoveRequest, Moved, SideStatus, Status, WeightRequest},
    datapath::Datapath,
    hold::{Bounds, Counts, Holder},
    moves::{Mover, Phases},
    policy::Policy,
    state::State,
    tap,
    words::monotonic_ns,
};

/// Where things are.
#[derive(Clone, Debug)]
pub struct Places {
    /// Folder of the pins, on a bpf file system.
    pub pins: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
}

/// Flows are visited this often.
const SWEEP: Duration = Duration::from_millis(50);

struct Shared {
    datapath: Mutex<Datapath>,
    mover: Mover,
    moving: Mutex<()>,
    state: Arc<Mutex<State>>,
    counts: Arc<Counts>,
    devices: Vec<String>,
}

/// Runs until a signal or a failure.
///
/// # Errors
/// When something that it needs is refused; the message says what to do.
pub fn run(policy: Policy, places: &Places) -> Result<()> {
    mount_bpffs(&places.pins)?;
    fs::create_dir_all(&places.pins).with_context(|| format!("can't make {}", places.pins.display()))?;
    let _lock = lock(&places.socket)?;
    forward_packets()?;
    let (file, index) = tap::open()?;
    let mut datapath = Datapath::load(&policy, &places.pins)?;
    datapath.fill(&policy, index)?;
    let devices = devices_of(&policy)?;
    for device in devices.iter().map(String::as_str).chain([tap::NAME]) {
        datapath.attach(device)?;
        tracing::info!("{device}: TC ingress");
    }
    let shared = share(policy, datapath, devices, file)?;
    let sweeper = Arc::clone(&shared);
    std::thread::Builder::new().name("sweep".into()).spawn(move || sweep(&sweeper))?;
    serve(shared, &places.socket)
}

fn share(policy: Policy, mut datapath: Datapath, devices: Vec<String>, file: File) -> Result<Arc<Shared>> {
    let words = Arc::clone(&datapath.words);
    let state = Arc::new(Mutex::new(State::new(words.load(0))));
    let counts = Arc::new(Counts::default());
    let thaw = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let bounds = Bounds { frames: policy.hold_frames, bytes: policy.hold_bytes, time: 2 * policy.freeze };
    let events = RingBuf::try_from(datapath.take_map(maps::EVENTS)?)?;
    let tuples = HashMap::try_from(datapath.take_map(maps::TUPLES)?)?;
    let woken = rustix::io::dup(&thaw)?;
    let holder = Holder::new(file, events, tuples, woken, bounds, Arc::clone(&state), Arc::clone(&counts));
    std::thread::Builder::new().name("hold".into()).spawn(move || {
        if let Err(error) = holder.run() {
            tracing::error!("holding has ended: {error:#}");
        }
    })?;
    let mover = Mover { words, policy, thaw };
    if mover.recover() {
        state
            .lock()
            .map_err(|_| anyhow!("poisoned"))?
            .say("a move that was under way when the last daemon ended is aborted".into());
    }
    Ok(Arc::new(Shared {
        datapath: Mutex::new(datapath),
        mover,
        moving: Mutex::new(()),
        state,
        counts,
        devices,
    }))
}

fn sweep(shared: &Shared) {
    loop {
        std::thread::sleep(SWEEP);
        let swept =
            shared.datapath.lock().map_err(|_| anyhow!("poisoned")).and_then(|mut datapath| datapath.sweep());
        let Ok(mut state) = shared.state.lock() else { return };
        match swept {
            Ok(swept) => state.swept = swept,
            Err(error) => tracing::error!("the sweep fails: {error:#}"),
        }
        state.follow(shared.mover.words.load(0));
    }
}

/// One daemon a socket and its pins: the lock goes with the process.
fn lock(socket: &Path) -> Result<File> {
    let path = socket.with_extension("lock");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let holder = fs::read_to_string(&path).unwrap_or_default();
        anyhow::bail!("another daemon (pid {}) holds {}", holder.trim(), path.display());
    }
    fs::write(&path, std::process::id().to_string())?;
    Ok(file)
}

fn mount_bpffs(pins: &Path) -> Result<()> {
    let root = Path::new("/sys/fs/bpf");
    if !pins.starts_with(root) {
        return Ok(());
    }
    let mounted = rustix::fs::statfs(root).is_ok_and(|fs| fs.f_type as u32 == 0xcafe_4a11);
    if !mounted {
        let done = std::process::Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status()?;
        anyhow::ensure!(done.success(), "can't mount a bpf file system: mount -t bpf bpf /sys/fs/bpf");
    }
    Ok(())
}

/// Route look-ups of the datapath need the kernel's own forwarding switched on.
fn forward_packets() -> Result<()> {
    let path = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(path)?.trim() != "1" {
        fs::write(path, "1").context("can't switch forwarding on: sysctl -w net.ipv4.ip_forward=1")?;
    }
    Ok(())
}

/// The devices that the policy names, or those that routes lead to.
fn devices_of(policy: &Policy) -> Result<Vec<String>> {
    if !policy.devices.is_empty() {
        return Ok(policy.devices.clone());
    }
    let mut devices = vec![device_with(&policy.service.vip.ip().to_string())?];
    for side in [Some(&policy.primary), policy.shadow.as_ref()].into_iter().flatten() {
        devices.push(device_towards(&side.address.ip().to_string())?);
    }
    devices.sort();
    devices.dedup();
    Ok(devices)
}

fn ip_words(arguments: &[&str]) -> Result<Vec<String>> {
    let output =
        std::process::Command::new("ip").args(arguments).output().context("can't run ip (iproute2)")?;
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}

fn device_towards(address: &str) -> Result<String> {
    let words = ip_words(&["-o", "route", "get", address])?;
    let at =
        words.iter().position(|w| w == "dev").with_context(|| format!("no route to {address} (ip route)"))?;
    words.get(at + 1).cloned().with_context(|| format!("no route to {address}"))
}

fn device_with(address: &str) -> Result<String> {
    let words = ip_words(&["-o", "-4", "addr", "show", "to", address])?;
    words.get(1).cloned().with_context(|| {
        format!("no device here has the service's address {address}: ip addr add {address}/32 dev DEVICE, or name `devices`")
    })
}

type App = Arc<Shared>;

fn serve(shared: App, socket: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let _ = fs::remove_file(socket);
        let listener = tokio::net::UnixListener::bind(socket)
            .with_context(|| format!("can't listen on {}", socket.display()))?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
        let router = Router::new()
            .route("/status", get(status))
            .route("/counters", get(counters))
            .route("/metrics", get(metrics))
            .route("/weight", post(weight))
            .route("/join", post(join))
            .route("/cutover", post(cutover))
            .route("/rollback", post(rollback))
            .with_state(shared);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!("ready: {}", socket.display());
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let stop = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        axum::serve(listener, router).with_graceful_shutdown(stop).await?;
        tracing::info!("leaving; what is pinned goes on");
        Ok(())
    })
}

/// An error as an answer.
struct Refused(anyhow::Error);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::CONFLICT, Json(Failure { error: format!("{:#}", self.0) })).into_response()
    }
}

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

fn poisoned<T>(_: T) -> Refused {
    Refused(anyhow!("an earlier failure left the daemon in doubt; restart it: flows go on"))
}

/// The smallest latency that is at or above a quantile, in microseconds.
fn quantile(buckets: &[u64], q: f64) -> u64 {
    let total: u64 = buckets.iter().sum();
    let wanted = (total as f64 * q).ceil() as u64;
    let mut seen = 0;
    for (bucket, count) in buckets.iter().enumerate() {
        seen += count;
        if seen >= wanted && total > 0 {
            return hist::lowest(bucket as u32);
        }
    }
    0
}

fn side_status(shared: &Shared, state: &State, side: Side) -> Result<SideStatus, Refused> {
    let datapath = shared.datapath.lock().map_err(poisoned)?;
    let reads = datapath.latency(side as u32, 0)?;
    let writes = datapath.latency(side as u32, 1)?;
    let all: Vec<u64> = reads.iter().zip(&writes).map(|(r, w)| r + w).collect();
    let standing = &state.sides[side as usize];
    Ok(SideStatus {
        in_sync: standing.in_sync,
        since: monotonic_ns().saturating_sub(standing.since_ns) as f64 / 1e9,
        reason: standing.reason.clone(),
        legs_lost: state.legs_lost[side as usize],
        answered: [reads.iter().sum(), writes.iter().sum()],
        p50_us: quantile(&all, 0.5),
        p99_us: quantile(&all, 0.99),
    })
}

async fn status(Extract(shared): Extract<App>) -> Result<Json<Status>, Refused> {
    let word = shared.mover.words.load(0);
    let mut state = shared.state.lock().map_err(poisoned)?;
    state.follow(word);
    let counts = &shared.counts;
    let held = [&counts.now, &counts.held, &counts.dropped].map(|count| count.load(Ordering::Relaxed));
    let app = AppStatus {
        name: shared.mover.policy.name.as_str().into(),
        phase: word.phase().name().into(),
        weight: f64::from(word.weight()) / 100.0,
        authority: word.authority().name().into(),
        epoch: word.epoch(),
        frozen: word.frozen(),
        flows: state.swept.live,
        two_legs: state.swept.two_legs,
        open_writes: shared.mover.words.open_writes(0),
        held,
        primary: side_status(&shared, &state, Side::Primary)?,
        shadow: side_status(&shared, &state, Side::Shadow)?,
        notices: state.notices.iter().cloned().collect(),
    };
    Ok(Json(Status { pid: std::process::id(), devices: shared.devices.clone(), apps: vec![app] }))
}

async fn counters(Extract(shared): Extract<App>) -> Result<Json<Vec<Counter>>, Refused> {
    let counters = shared.datapath.lock().map_err(poisoned)?.counters()?;
    let all = counters.into_iter().map(|(v, count)| Counter {
        name: v.name().into(),
        count,
        help: v.help().into(),
    });
    Ok(Json(all.collect()))
}

/// Prometheus' text format, straight from the maps.
async fn metrics(Extract(shared): Extract<App>) -> Result<String, Refused> {
    use prometheus_client::{
        encoding::text::encode, metrics::counter::Counter, metrics::family::Family, registry::Registry,
    };
    let mut registry = Registry::with_prefix("mirror");
    let packets = Family::<Vec<(String, String)>, Counter>::default();
    registry.register("packets", "Packets by what became of them", packets.clone());
    for (verdict, count) in shared.datapath.lock().map_err(poisoned)?.counters()? {
        packets.get_or_create(&vec![("verdict".into(), verdict.name().into())]).inc_by(count);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn check_name(shared: &Shared, app: &str) -> Result<(), Refused> {
    let mine = shared.mover.policy.name.as_str();
    if app == mine { Ok(()) } else { Err(Refused(anyhow!("no application {app} here; there is {mine}"))) }
}

fn moved(word: SwitchWord, phases: Option<Phases>) -> Json<Moved> {
    Json(Moved {
        phase: word.phase().name().into(),
        authority: word.authority().name().into(),
        weight: f64::from(word.weight()) / 100.0,
        epoch: word.epoch(),
        phases,
    })
}

async fn weight(
    Extract(shared): Extract<App>,
    Json(body): Json<WeightRequest>,
) -> Result<Json<Moved>, Refused> {
    check_name(&shared, &body.app)?;
    if !(0.0..=100.0).contains(&body.weight) {
        return Err(Refused(anyhow!("{} is no weight: a share of the reads, 0 to 100", body.weight)));
    }
    let word = shared.mover.weigh((body.weight * 100.0).round() as u32)?;
    Ok(moved(word, None))
}

async fn make(shared: App, body: MoveRequest, wanted: Move) -> Result<Json<Moved>, Refused> {
    check_name(&shared, &body.app)?;
    if body.dry_run {
        let planned = plan(shared.mover.words.load(0), wanted)?;
        return Ok(moved(planned.done, None));
    }
    tokio::task::spawn_blocking(move || {
        let _one = shared
            .moving
            .try_lock()
            .map_err(|_| Refused(anyhow!("another move is under way; wait for it")))?;
        let phases = shared.mover.carry_out(wanted)?;
        let word = shared.mover.words.load(0);
        if let Ok(mut state) = shared.state.lock() {
            state.follow(word);
            state.say(format!(
                "{wanted:?}: frozen for {:.0} µs, drained in {:.0} µs",
                phases.frozen_us, phases.drain_us
            ));
        }
        Ok(moved(word, Some(phases)))
    })
    .await?
}

async fn join(Extract(shared): Extract<App>, Json(body): Json<MoveRequest>) -> Result<Json<Moved>, Refused> {
    make(shared, body, Move::Join).await
}

async fn cutover(
    Extract(shared): Extract<App>,
    Json(body): Json<MoveRequest>,
) -> Result<Json<Moved>, Refused> {
    make(shared, body, Move::Cutover).await
}

async fn rollback(
    Extract(shared): Extract<App>,
    Json(body): Json<MoveRequest>,
) -> Result<Json<Moved>, Refused> {
    make(shared, body, Move::Rollback).await
}
