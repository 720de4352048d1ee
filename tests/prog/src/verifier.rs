//! Loads each program of an object by itself and keeps what the verifier said.
//!
//! aya creates the maps; the load itself is a plain `BPF_PROG_LOAD`, because aya drops the log, and with it the
//! statistics, of a program that loads.

mod bpf;
mod budget;
mod report;

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use anyhow::{Context, Result, bail};
use aya::maps::{Map, MapData};
use aya_obj::{
    Features, Object, ProgramSection,
    btf::{Btf, BtfFeatures},
};

pub use budget::{Budget, Limits};
pub use report::{Cost, Outcome, Verdict};

/// Everything that is needed to load the object's programs.
pub struct Programs {
    object: Object,
    btf: OwnedFd,
    /// Keeps the maps alive that the programs refer to.
    _maps: aya::Ebpf,
}

/// The kernels that the project supports have all of it.
fn features() -> Features {
    let btf = BtfFeatures::new(true, true, true, true, true, true, true, true);
    Features::new(true, true, true, true, true, true, true, Some(btf))
}

impl Programs {
    /// Reads an object, creates its maps and relocates its programs. No program is loaded yet.
    ///
    /// # Errors
    /// When the object can't be read, or a map can't be made (needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN).
    pub fn open(data: &[u8]) -> Result<Self> {
        // As a daemon would: what aya takes or refuses here, it takes or refuses there.
        let maps = aya::Ebpf::load(data).context("aya can't create the object's maps (as root?)")?;
        let mut object = Object::parse(data)?;
        let features = features();
        let btf_features = features.btf().context("BTF is among the features")?;
        let bytes = object.fixup_and_sanitize_btf(btf_features)?.map(Btf::to_bytes);
        let btf = bpf::load_btf(&bytes.context("the object has no BTF: -Cdebuginfo=2, -Clink-arg=--btf")?)?;
        if object.has_btf_relocations() {
            object.relocate_btf(&Btf::from_sys_fs()?)?;
        }
        let text = text_sections(&object);
        let fds = map_fds(&maps)?;
        let known = object.maps.clone();
        let by_name =
            known.iter().filter_map(|(name, map)| Some((name.as_str(), *fds.get(name.as_str())?, map)));
        object.relocate_maps(by_name, &text)?;
        object.relocate_calls(&text)?;
        object.sanitize_functions(&features);
        Ok(Self { object, btf, _maps: maps })
    }

    /// The programs' names, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.object.programs.keys().cloned().collect::<Vec<_>>();
        names.sort();
        names
    }

    /// Loads one program and unloads it again.
    ///
    /// `log_level`: 1 logs the path that is refused, 2 all instructions, both with the state at each.
    ///
    /// # Errors
    /// When there is no such program, or the system call fails for a reason that isn't the program's.
    pub fn verify(&self, name: &str, log_level: u32) -> Result<Outcome> {
        let program = self.object.programs.get(name).with_context(|| format!("no program {name}"))?;
        let function =
            self.object.functions.get(&program.function_key()).context("the program has no code")?;
        let kind = bpf::Kind::of(&program.section)?;
        bpf::load_program(name, kind, &program.license, function, self.btf.as_fd(), log_level)
    }
}

/// Where functions are: calls to them are relocated, other references are to maps.
fn text_sections(object: &Object) -> HashSet<usize> {
    object.functions.keys().map(|(section, _)| *section).collect()
}

/// The descriptors of the maps that aya made, by name.
fn map_fds(maps: &aya::Ebpf) -> Result<HashMap<&str, RawFd>> {
    maps.maps().map(|(name, map)| Ok((name, data(map)?.fd().as_fd().as_raw_fd()))).collect()
}

/// aya has no accessor for what all kinds have.
fn data(map: &Map) -> Result<&MapData> {
    Ok(match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::BloomFilter(data)
        | Map::CpuMap(data)
        | Map::DevMap(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::HashOfMaps(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::PerfEventArray(data)
        | Map::ProgramArray(data)
        | Map::Queue(data)
        | Map::RingBuf(data)
        | Map::Stack(data)
        | Map::Unsupported(data)
        | Map::XskMap(data) => data,
        other => bail!("a map of a kind that the gateway has no use for: {other:?}"),
    })
}

impl bpf::Kind {
    /// The program type and attach type of a section.
    fn of(section: &ProgramSection) -> Result<Self> {
        use aya_obj::generated::{bpf_attach_type as attach, bpf_prog_type as program};
        let (program, attach, flags) = match section {
            ProgramSection::SchedClassifier => (program::BPF_PROG_TYPE_SCHED_CLS, 0, 0),
            ProgramSection::Xdp { frags, attach_type } => {
                let attach = match attach_type {
                    aya_obj::programs::XdpAttachType::DevMap => attach::BPF_XDP_DEVMAP,
                    aya_obj::programs::XdpAttachType::CpuMap => attach::BPF_XDP_CPUMAP,
                    aya_obj::programs::XdpAttachType::Interface => attach::BPF_XDP,
                };
                let flags = if *frags { bpf::XDP_HAS_FRAGS } else { 0 };
                (program::BPF_PROG_TYPE_XDP, attach as u32, flags)
            }
            ProgramSection::TracePoint => (program::BPF_PROG_TYPE_TRACEPOINT, 0, 0),
            ProgramSection::RawTracePoint => (program::BPF_PROG_TYPE_RAW_TRACEPOINT, 0, 0),
            other => bail!("a program of a kind that this doesn't load: {other:?}"),
        };
        Ok(Self { program: program as u32, attach, flags })
    }
}
