//! Loads, attaches and pins the kernel side, and adopts what is pinned already.

mod attach;
mod fill;
mod joined;
mod pools;
mod servers;
mod turns;

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData},
    programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use aya_log::EbpfLogger;
use mirror_common::{
    abi::{self, ABI_VERSION, Config, SWEEP_SLOTS, SweepState, maps, udp},
    flow::sweep,
    switch_word::SwitchWord,
    verdict::Verdict,
};

pub use servers::servers;
pub use turns::{Answers, Pairs, Turns};

use crate::{object, policy::Policy, words::Words};

/// The program that looks for datagrams that aren't answered, ...
const LAPSE: &str = "mirror_lapse";
/// ... and the one that looks for what nobody waits for: once in so many.
const FORGET: &str = "mirror_forget";
const LAPSES_A_FORGETTING: u32 = 64;

/// The loaded kernel side.
pub struct Datapath {
    bpf: Ebpf,
    pins: PathBuf,
    /// The applications' words.
    pub words: std::sync::Arc<Words>,
    /// Nothing was pinned before.
    pub fresh: bool,
    flows: u32,
    /// The service has datagrams.
    datagrams: bool,
    /// How often it was looked for answers that don't come.
    lapses: u32,
    /// After how long a turn is unanswered.
    unanswered_us: u32,
    /// Each side's servers of each service.
    placed: Vec<pools::Placed>,
    /// The last sweep found most of the room for connections taken.
    crowded: bool,
}

/// What a whole sweep found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Swept {
    /// Flows in use.
    pub live: u32,
    /// Of them with both legs open.
    pub two_legs: u32,
    /// Freed by this sweep.
    pub freed: u32,
    /// With an unfinished write.
    pub open_writes: u32,
    /// Packets that were made.
    pub queued: u32,
    /// Whose client waits for an answer that the side without authority has given.
    pub unanswered: u32,
    /// Open legs by service, side and server.
    pub legs: abi::Legs,
}

/// Largest segments on the way to each side's servers of a service, in bytes; 0: whatever the client says.
pub type Segments = [u16; 2];

impl Datapath {
    /// Loads the object; maps that are pinned in `pins` are taken over.
    ///
    /// # Errors
    /// Without an object, or when the kernel or another version's pins refuse.
    pub fn load(policy: &Policy, pins: &Path) -> Result<Self> {
        let bytes = object::embedded().context(object::HOW_TO_BUILD)?;
        fs::create_dir_all(pins.join("links"))
            .with_context(|| format!("can't make {}: is a bpf file system mounted there?", pins.display()))?;
        let fresh = !pins.join(maps::ABI).exists();
        let flows = if fresh { policy.flows.get() } else { pinned_config(pins)?.flows };
        let paths: Vec<_> = maps::ALL.iter().map(|name| (*name, pins.join(name))).collect();
        let mut loader = EbpfLoader::new();
        for (name, path) in &paths {
            loader.map_pin_path(name, path);
        }
        let clients = if policy.has_six() { flows } else { 1 };
        let datagrams = policy.datagram_ports();
        let awaited = udp::awaited(datagrams);
        let sizes = [
            (maps::FLOWS, flows),
            (maps::SLOTS, flows),
            (maps::TUPLES, 3 * flows),
            (maps::BUSY, flows / abi::BLOCK),
            (maps::CLIENTS, clients),
            (maps::CLIENT_ALIASES, if policy.keeps_six() { 3 * clients } else { clients }),
            (maps::FREE_CLIENTS, clients),
            (maps::EXCHANGES, awaited),
            (maps::AWAITED, awaited),
        ];
        for (name, size) in sizes {
            loader.map_max_entries(name, size);
        }
        let mut bpf = loader.load(bytes).with_context(|| {
            format!("can't load the kernel side (if {} is of another version: mirror unload)", pins.display())
        })?;
        let switch = map_data(&bpf, maps::SWITCH)?;
        let apps = map_data(&bpf, maps::APPS)?;
        let words = std::sync::Arc::new(Words::map(switch.fd().as_fd(), apps.fd().as_fd())?);
        check_version(&mut bpf, fresh)?;
        for name in ["mirror_tc", "mirror_emit"] {
            let program: &mut SchedClassifier = bpf.program_mut(name).context(name)?.try_into()?;
            program.load().with_context(|| format!("the kernel refuses {name}"))?;
        }
        for name in ["mirror_sweep", LAPSE, FORGET] {
            let program: &mut Xdp = bpf.program_mut(name).context(name)?.try_into()?;
            program.load().with_context(|| format!("the kernel refuses {name}"))?;
        }
        let unanswered_us = policy.migration.unanswered_us();
        Ok(Self {
            bpf,
            pins: pins.to_owned(),
            words,
            fresh,
            flows,
            datagrams: datagrams > 0,
            lapses: 0,
            unanswered_us,
            crowded: false,
            placed: Vec::new(),
        })
    }

    /// Visits every flow; then makes the packets that are due. `how`: bits of [`mirror_common::flow::sweep`]. Where the last
    /// one left little room, connections that nobody finishes opening make it.
    ///
    /// # Errors
    /// When the kernel refuses to run the programs.
    pub fn sweep(&mut self, how: u32) -> Result<Swept> {
        let mut total = Swept::default();
        let frame = stand_in();
        let how = if self.crowded { how | sweep::CROWDED } else { how };
        for first in (0..self.flows).step_by(SWEEP_SLOTS as usize) {
            let count = SWEEP_SLOTS.min(self.flows - first);
            let ask =
                SweepState { first, count, how, unanswered_us: self.unanswered_us, ..SweepState::default() };
            let mut state: Array<_, SweepState> = Array::try_from(self.map(maps::SWEEP)?)?;
            state.set(0, ask, 0)?;
            let program: &mut Xdp =
                self.bpf.program_mut("mirror_sweep").context("mirror_sweep")?.try_into()?;
            program.test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() })?;
            let state: Array<_, SweepState> = Array::try_from(self.map(maps::SWEEP)?)?;
            let found = state.get(&0, 0)?;
            total.live += found.live;
            total.two_legs += found.two_legs;
            total.freed += found.freed;
            total.open_writes += found.open_writes;
            total.queued += found.queued;
            total.unanswered += found.unanswered;
            let legs = total.legs.as_flattened_mut().as_flattened_mut();
            for (total, found) in legs.iter_mut().zip(found.legs.as_flattened().as_flattened()) {
                *total += found;
            }
        }
        for _ in 0..total.queued {
            let program: &mut SchedClassifier =
                self.bpf.program_mut("mirror_emit").context("mirror_emit")?.try_into()?;
            program.test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() })?;
        }
        self.notice_crowd(total.live);
        Ok(total)
    }

    /// Looks for datagrams that aren't answered, where the service has any; now and then for what is kept of others.
    ///
    /// # Errors
    /// When the kernel refuses to run a program.
    pub fn lapse(&mut self) -> Result<()> {
        if !self.datagrams {
            return Ok(());
        }
        self.lapses += 1;
        let forgets = self.lapses.is_multiple_of(LAPSES_A_FORGETTING);
        for name in [Some(LAPSE), forgets.then_some(FORGET)].into_iter().flatten() {
            let program: &mut Xdp = self.bpf.program_mut(name).context(name)?.try_into()?;
            program.test_run(TestRunOptions { data_in: Some(&stand_in()), ..TestRunOptions::default() })?;
        }
        Ok(())
    }

    fn notice_crowd(&mut self, live: u32) {
        let crowded = fill::is_crowded(live, self.flows);
        if crowded && !self.crowded {
            tracing::warn!(
                "{live} connections: three quarters of what there is room for (`flows`); half-open ones end after a second"
            );
        }
        self.crowded = crowded;
    }

    /// Every verdict's count, over all CPUs.
    ///
    /// # Errors
    /// When the map can't be read.
    pub fn counters(&self) -> Result<Vec<(Verdict, u64)>> {
        let counters = self.per_cpu(maps::COUNTERS)?;
        Verdict::ALL.iter().map(|v| Ok((*v, counters.get(&(*v as u32), 0)?.iter().sum()))).collect()
    }

    /// From now on a turn is unanswered after so long, in microseconds.
    pub fn unanswered_after(&mut self, us: u32) {
        self.unanswered_us = us;
    }

    /// Takes a map out, for a thread of its own.
    ///
    /// # Errors
    /// When it isn't there (any more).
    pub fn take_map(&mut self, name: &str) -> Result<Map> {
        self.bpf.take_map(name).with_context(|| format!("no map {name}"))
    }

    /// The reader of what the programs say, a line a packet.
    ///
    /// # Errors
    /// When they were built without that.
    pub fn logger(&mut self) -> Result<EbpfLogger<&'static dyn log::Log>> {
        EbpfLogger::init(&mut self.bpf).context(object::HOW_TO_LOG)
    }

    fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.bpf.map_mut(name).with_context(|| format!("no map {name}"))
    }
}

/// Removes all that is pinned: the links last, so that flows go on until then.
///
/// # Errors
/// When something can't be removed.
pub fn unload(pins: &Path) -> Result<usize> {
    let mut removed = 0;
    for folder in [pins.join("links"), pins.to_owned()] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_file() || !path.is_dir() {
                fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
                removed += 1;
            }
        }
        fs::remove_dir(&folder)?;
    }
    Ok(removed)
}

/// The switch word as it is pinned, whether or not a daemon runs; `None` where nothing is pinned.
///
/// # Errors
/// When the kernel refuses.
pub fn pinned_word(pins: &Path) -> Result<Option<SwitchWord>> {
    let pin = pins.join(maps::SWITCH);
    if !pin.exists() {
        return Ok(None);
    }
    let data = MapData::from_pin(pin).context("can't open the pinned switch word")?;
    let words: Array<_, u64> = Array::try_from(Map::Array(data))?;
    Ok(Some(SwitchWord(words.get(&0, 0)?)))
}

fn pinned_config(pins: &Path) -> Result<Config> {
    let data = MapData::from_pin(pins.join(maps::CONFIG)).context("can't open the pinned settings")?;
    let config: Array<_, Config> = Array::try_from(Map::Array(data))?;
    let config = config.get(&0, 0)?;
    ensure!(config.flows > 0, "{} was left half-made: mirror unload", pins.display());
    Ok(config)
}

fn check_version(bpf: &mut Ebpf, fresh: bool) -> Result<()> {
    let mut abi: Array<_, u32> = Array::try_from(bpf.map_mut(maps::ABI).context(maps::ABI)?)?;
    if fresh {
        abi.set(0, ABI_VERSION, 0)?;
    }
    let found = abi.get(&0, 0)?;
    if found != ABI_VERSION {
        bail!(
            "what is pinned has layout {found}, this binary has {ABI_VERSION}: mirror unload, then run again"
        );
    }
    Ok(())
}

fn map_data<'a>(bpf: &'a Ebpf, name: &str) -> Result<&'a MapData> {
    match bpf.map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => bail!("no array {name}"),
    }
}

/// A frame of Ethernet, IPv4 and TCP headers, for programs that make a packet out of one.
fn stand_in() -> [u8; 64] {
    let mut frame = [0; 64];
    frame[12] = 8;
    frame[14] = 0x45;
    frame[17] = 40;
    frame[22] = 64;
    frame[23] = 6;
    frame[46] = 0x50;
    let sum = mirror_common::checksum::of(&frame[14..34]).to_ne_bytes();
    frame[24..26].copy_from_slice(&sum);
    frame
}
