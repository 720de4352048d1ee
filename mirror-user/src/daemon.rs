//! `mirror run`: loads, holds, sweeps, and serves the control socket. Not in the data path: what is pinned goes on without it.

mod again;
mod backends;
mod compare;
mod devices;
mod forecast;
pub(crate) mod forwarding;
mod lock;
mod log;
mod metrics;
mod migrate;
mod moving;
pub(crate) mod neighbours;
mod notify;
mod pilot;
mod preconditions;
mod reload;
mod resources;
mod scale;
mod serve;

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{HashMap, RingBuf};
use mirror_common::{abi::maps, switch_word::Side};
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    datapath::{Datapath, Segments},
    doctor,
    driver::process::pid_file,
    events::Events,
    hold::{Bounds, Counts, Holder},
    moves::Mover,
    network::{Device, Network, bits, headers},
    object,
    policy::{
        Hook, Policy, ProcessId, Resources,
        reload::{Current, Loaded},
    },
    resources::watch::Watch,
    series::keeper::Keeper,
    state::{FoundLimit, State},
    tap,
};

/// Where things are.
#[derive(Clone, Debug)]
pub struct Places {
    /// Folder of the pins, on a bpf file system.
    pub pins: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Folder of what is kept on disk.
    pub state: PathBuf,
}

/// Flows are visited this often.
const SWEEP: Duration = Duration::from_millis(50);

/// Sweeps to a look for datagrams that aren't answered.
const SWEEPS_A_LAPSE: u64 = 4;

/// What the daemon's threads share.
struct Shared {
    datapath: Mutex<Datapath>,
    mover: Mover,
    moving: Mutex<()>,
    state: Arc<Mutex<State>>,
    counts: Arc<Counts>,
    devices: Mutex<Vec<String>>,
    pins: PathBuf,
    pilot: pilot::Pilot,
    resources: Arc<Watch>,
    board: forecast::Board,
    compared: compare::Compared,
    events: Events,
    file: reload::File,
    /// Folder of what is kept on disk.
    state_folder: PathBuf,
}

/// Runs until a signal or a failure. `log_packets`: a line a packet.
///
/// # Errors
/// When something that it needs is refused; the message says what to do.
pub fn run(loaded: Loaded, places: &Places, log_packets: bool) -> Result<()> {
    let mut policy = loaded.policy.clone();
    watch_provisioned(&mut policy, &places.state)?;
    ensure!(!log_packets || object::logs_packets(), object::HOW_TO_LOG);
    doctor::need_capabilities()?;
    mount_bpffs(&places.pins)?;
    fs::create_dir_all(&places.pins).with_context(|| {
        format!("can't make {}: is a bpf file system mounted there, and yours?", places.pins.display())
    })?;
    let _lock = lock::Lock::take(&places.pins)?;
    forwarding::switch_on(&policy)?;
    let network = Network::open()?;
    let tap = tap::open(&network)?;
    forwarding::switch_on_tap(&policy)?;
    let mut datapath = Datapath::load(&policy, &places.pins)?;
    datapath.fill(&policy, tap.1, &segments(&policy, &network)?)?;
    if log_packets {
        log::start(&mut datapath)?;
    }
    datapath.attach(tap::NAME, Hook::Tc, false)?;
    let keeper = neighbours::Keeper::new(network, &policy);
    let (pilot, asked) = pilot::Pilot::new();
    let noisy = policy.divergence.noisy().map_err(|what| anyhow!("the policy's [divergence]: {what}"))?;
    let (compared, told) = compare::Compared::new(&mut datapath, &places.pins, noisy)?;
    let given = Given { policy, file: reload::File::new(loaded) };
    let shared = share(given, datapath, tap, places, pilot, compared)?;
    compare::start(&shared, told)?;
    let mut follower = devices::Follower::new(Network::open()?);
    follower.look(&shared)?;
    let followed = Arc::clone(&shared);
    std::thread::Builder::new().name("devices".into()).spawn(move || follower.run(&followed))?;
    let sweeper = Arc::clone(&shared);
    std::thread::Builder::new().name("sweep".into()).spawn(move || sweep(&sweeper))?;
    let told = Arc::clone(&shared.state);
    std::thread::Builder::new().name("neighbours".into()).spawn(move || keeper.run(&told))?;
    backends::start(&shared)?;
    pilot::start(&shared, asked, &places.state)?;
    resources::start(&shared)?;
    forecast::start(&shared)?;
    scale::start(&shared, &places.state)?;
    let keeping = Arc::clone(&shared.resources);
    let served = serve::serve(shared, &places.socket);
    keeping.keeper.close();
    served
}

/// A shadow that is provisioned here is measured as the process that it is, where the policy names no other source.
fn watch_provisioned(policy: &mut Policy, state: &Path) -> Result<()> {
    let pid_file = pid_file(&std::path::absolute(state)?, policy.name.as_str());
    if policy.process().is_some() {
        policy.read_shadow_by(Resources::Process(ProcessId::File(pid_file)));
    }
    Ok(())
}

/// What the daemon was started with.
struct Given {
    policy: Policy,
    file: reload::File,
}

fn share(
    Given { policy, file: policy_file }: Given,
    mut datapath: Datapath,
    tap: (File, u32),
    places: &Places,
    pilot: pilot::Pilot,
    compared: compare::Compared,
) -> Result<Arc<Shared>> {
    let words = Arc::clone(&datapath.words);
    let mut state = State::new(words.load(0), words.out_of_sync(0), policy.breaker.policy());
    let told = Events::start(&policy.events, policy.name.as_str())?;
    state.tell_to(told.clone());
    state.serves(backends::served(&policy, &datapath)?);
    let state = Arc::new(Mutex::new(state));
    let counts = Arc::new(Counts::default());
    let thaw = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let bounds = Bounds { frames: policy.hold_frames, bytes: policy.hold_bytes, time: 2 * policy.freeze };
    let events = RingBuf::try_from(datapath.take_map(maps::EVENTS)?)?;
    let tuples = HashMap::try_from(datapath.take_map(maps::TUPLES)?)?;
    let woken = rustix::io::dup(&thaw)?;
    let holder = Holder::new(tap, events, tuples, woken, bounds, Arc::clone(&state), Arc::clone(&counts))?;
    std::thread::Builder::new().name("hold".into()).spawn(move || {
        if let Err(error) = holder.run() {
            tracing::error!("holding has ended: {error:#}");
        }
    })?;
    let resources = Arc::new(Watch::new(&policy, Keeper::start(&places.state, policy.name.as_str())?));
    let learner = scale::read_learner(&places.state, policy.name.as_str());
    let board = forecast::Board::new(learner, clock_rate());
    // Beside the socket: that folder is the daemon's own, and gone when the machine starts anew, as the hook is.
    let hook_place = places.socket.with_file_name(format!("{}.hook", policy.name.as_str()));
    let mover = Mover { words, name: policy.name.clone(), current: Current::new(policy), thaw, hook_place };
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
        devices: Mutex::default(),
        pins: places.pins.clone(),
        pilot,
        resources,
        board,
        compared,
        events: told,
        file: policy_file,
        state_folder: places.state.clone(),
    }))
}

fn sweep(shared: &Shared) {
    for n in 1_u64.. {
        std::thread::sleep(SWEEP);
        let begun = Instant::now();
        let swept = shared.datapath.lock().map_err(|_| anyhow!("poisoned")).and_then(|mut datapath| {
            if n.is_multiple_of(SWEEPS_A_LAPSE) {
                datapath.lapse()?;
            }
            datapath.sweep(0)
        });
        let Ok(mut state) = shared.state.lock() else { return };
        match swept {
            Ok(swept) => state.swept(swept, begun.elapsed()),
            Err(error) => tracing::error!("the sweep fails: {error:#}"),
        }
        let word = shared.mover.words.load(0);
        if let Some((next, reason)) = state.unfit(word, shared.mover.policy().durable) {
            // Where somebody else was faster, the word is looked at again at the next sweep.
            if shared.mover.words.swap(0, word, next).is_ok() {
                shared.mover.words.keep_reason(0, reason);
                state.put_out(word.authority().other(), reason);
            }
        }
        state.follow(shared.mover.words.load(0));
        let found = state.limits_found();
        drop(state);
        if let Err(error) = limit_requests(shared, &found) {
            tracing::error!("the datapath isn't told how many requests a server answers: {error:#}");
        }
    }
}

/// The datapath hears of it first: where `status` says that a server gets no more requests, it gets no more.
fn limit_requests(shared: &Shared, found: &[FoundLimit]) -> Result<()> {
    let poisoned = || anyhow!("poisoned");
    for one in found {
        let FoundLimit { service, side, requests } = *one;
        shared.datapath.lock().map_err(|_| poisoned())?.limit_requests(service, side, requests)?;
        shared.state.lock().map_err(|_| poisoned())?.limited(one);
    }
    Ok(())
}

/// For tests: how many times faster than the clock the time of migrations, forecasts and scaling passes.
fn clock_rate() -> f64 {
    let rate = std::env::var("MIRROR_CLOCK_RATE").ok().and_then(|rate| rate.parse().ok());
    rate.filter(|rate: &f64| rate.is_finite() && *rate > 0.0).unwrap_or(1.0)
}

/// Mounts the bpf file system where it is expected and isn't.
fn mount_bpffs(pins: &Path) -> Result<()> {
    let root = Path::new("/sys/fs/bpf");
    if !pins.starts_with(root) || rustix::fs::statfs(root).is_ok_and(|fs| fs.f_type as u32 == BPF_FS_MAGIC) {
        return Ok(());
    }
    rustix::mount::mount("bpf", root, "bpf", rustix::mount::MountFlags::empty(), None)
        .context("there is no bpf file system: mount -t bpf bpf /sys/fs/bpf")
}

/// `BPF_FS_MAGIC` of linux/magic.h.
pub(crate) const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// What a segment towards each side's servers of each service may have at most. Clients of IPv4 don't leave the 20 bytes that
/// IPv6's header has more: towards an IPv6 server the way's own MTU says it, where the policy doesn't.
fn segments(policy: &Policy, network: &Network) -> Result<Vec<Segments>> {
    let devices = network.devices()?;
    let mut all = Vec::new();
    for service in policy.services() {
        let mut segments = [0; 2];
        for (side, end) in service.sides() {
            let segment = &mut segments[side as usize];
            *segment = end.mss;
            let asked = end.servers().iter().filter(|server| end.mss == 0 && server.is_ipv6());
            for address in asked.map(SocketAddr::ip) {
                let mtu = network.route(address)?.mtu_over(&devices);
                let mtu = mtu.with_context(|| format!("the device towards {address} is gone"))?;
                let takes = u16::try_from(mtu.saturating_sub(headers(address))).unwrap_or(u16::MAX);
                *segment = if *segment == 0 { takes } else { takes.min(*segment) };
            }
        }
        all.push(segments);
    }
    Ok(all)
}

/// Where clients may come in when the service's address belongs to no link: the loopback's, or a dummy's.
fn clients_devices(all: &[Device]) -> Vec<u32> {
    let open = |device: &&Device| device.is_on_a_link() && device.name != tap::NAME;
    all.iter().filter(open).map(|device| device.index).collect()
}

/// Of all devices those that the policy names, or that routes lead to. There is no route to a shadow before it is provisioned.
pub(crate) fn devices_of(policy: &Policy, network: &Network, all: &[Device]) -> Result<Vec<String>> {
    if !policy.devices.is_empty() {
        return Ok(policy.devices.clone());
    }
    let mut indices = Vec::new();
    for vip in policy.addresses() {
        if policy.is_transparent(vip) {
            indices.extend(clients_devices(all));
            continue;
        }
        let first = network.device_with(vip)?.with_context(|| {
            format!(
                "no device here has the service's address {vip}: ip addr add {vip}/{} dev DEVICE, or name `devices`",
                bits(vip)
            )
        })?;
        let behind_any = all.iter().any(|device| device.index == first && device.holds_addresses_alone());
        indices.extend(if behind_any { clients_devices(all) } else { vec![first] });
    }
    for server in policy.servers() {
        match network.route(server.at.ip()) {
            Ok(route) => indices.push(route.device),
            Err(_) if server.side == Side::Shadow && policy.process().is_some() => {}
            Err(error) => return Err(error),
        }
    }
    let ours = all.iter().filter(|device| indices.contains(&device.index));
    let mut devices: Vec<String> = ours.map(|device| device.name.clone()).collect();
    devices.sort();
    Ok(devices)
}
