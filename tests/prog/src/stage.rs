//! The loaded programs on the lab's gateway, with maps that a test may write: packets go in by `BPF_PROG_TEST_RUN`, and
//! what became of them is read from the counters.
//!
//! At TC the program is run by itself, and the last packet that leaves is seen. At XDP, and at TC on a tapped stage
//! ([`crate::wiretap`]), frames are live: what the XDP program passes goes on to the TC program of that device, as in the
//! field, and what leaves really leaves; addresses are such that nobody answers.

mod access;
mod pools;
mod run;
mod sweep;

use std::{net::Ipv4Addr, process::Command};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{DevMapHash, HashMap, MapData, PerCpuArray},
    programs::{SchedClassifier, TcAttachType, Xdp, XdpMode},
};
use lab::net::{Host, Lab, LabBuilder, Neighbours, SERVICE_PORT, VIP};
use mirror_common::{
    abi::{self, App, AppWords, Config, Endpoint, Entry, Service, ServiceKey, Tuple, maps},
    flow::Flow,
    switch_word::{Side, SwitchWord},
    verdict::Verdict,
};

use crate::live::passing;

/// Where a packet is put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TC ingress alone.
    Tc,
    /// XDP, and TC behind it.
    Xdp,
}

/// `TC_ACT_REDIRECT`.
pub const TC_REDIRECT: u32 = 7;
/// `TC_ACT_SHOT`.
pub const TC_SHOT: u32 = 2;
/// `TC_ACT_OK`.
pub const TC_OK: u32 = 0;

/// Slots and ports that the stage has.
pub const FLOWS: u32 = 1024;
/// What legs' first numbers are made from, if nothing else is said.
pub const SECRET: u64 = 7;
/// Connections of IPv6 clients that it can have.
pub const CLIENTS6: u32 = 8;
/// Answers to datagrams that it can await.
pub const AWAITED: u32 = 64;
/// The first of the ports of each side's legs.
pub const FIRST_PORT: u32 = 20_000;

/// What became of one packet.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Verdicts counted, in the order of their numbers.
    pub verdicts: Vec<Verdict>,
    /// What the program returned; of a live frame 0.
    pub action: u32,
    /// The packet as the program left it; of a live frame empty.
    pub frame: Vec<u8>,
}

/// The address of a host that is there for the gateway, and answers nothing.
pub const fn silent(host: Host) -> Ipv4Addr {
    let [a, b, c, _] = host.address().octets();
    Ipv4Addr::new(a, b, c, 50)
}

const fn raw(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// The service's port as it lies in a packet.
pub const PORT: u16 = SERVICE_PORT.to_be();
/// The service's address.
pub const VIP_RAW: u32 = raw(VIP);

/// Loaded programs, filled maps. Lives in the gateway's namespace: see [`on_stage`].
pub struct Stage {
    pub(crate) bpf: Ebpf,
    passing: Ebpf,
    /// At TC, too, frames come in at the device, behind an XDP program that passes them.
    pub(crate) live: bool,
    /// Where packets are put in.
    pub hook: Hook,
    devices: [u32; 3],
    counted: Vec<u64>,
    /// Every verdict so far.
    pub reached: Vec<Verdict>,
    next_client: u16,
}

/// Runs `work` with a stage, in the network namespace of a lab's gateway.
///
/// # Errors
/// If the lab can't be built, the programs can't be loaded, or `work` fails.
pub fn on_stage<T: Send>(hook: Hook, work: impl FnOnce(&mut Stage) -> Result<T> + Send) -> Result<T> {
    in_lab(&lab().up()?, hook, work)
}

/// The lab that a stage stands in.
pub(crate) fn lab() -> LabBuilder {
    Lab::builder().neighbours(Neighbours::Static).forwarding(true).xdp_ready(true)
}

/// [`on_stage`], in a lab that is there.
pub(crate) fn in_lab<T: Send>(
    lab: &Lab,
    hook: Hook,
    work: impl FnOnce(&mut Stage) -> Result<T> + Send,
) -> Result<T> {
    for host in Host::ENDS {
        let mut command = Command::new("ip");
        command.args(["neigh", "replace", &silent(host).to_string(), "lladdr", &host.mac(false)]);
        command.args(["dev", host.gateway_device(), "nud", "permanent"]);
        lab.host(Host::Gateway).check(&mut command)?;
    }
    lab.host(Host::Gateway).run(|| {
        let mut stage = Stage::load(hook, &object("mirror.o")?, true)?;
        work(&mut stage)
    })?
}

/// The kernel side as it was built.
///
/// # Errors
/// If it wasn't.
pub fn object(name: &str) -> Result<Vec<u8>> {
    let path = format!("{}/../../target/bpf/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).context("the kernel side isn't built: cargo xtask build-ebpf")
}

/// Index of a device of this network namespace.
///
/// # Errors
/// If there is none of that name.
pub fn index(device: &str) -> Result<u32> {
    let text = std::ffi::CString::new(device)?;
    // SAFETY: a string that ends in zero.
    #[allow(unsafe_code, reason = "a name becomes an index by libc")]
    let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
    ensure!(index != 0, "no device {device}");
    Ok(index)
}

impl Stage {
    /// The same programs of another object, with maps of their own and behind none of its devices: for runs beside this stage's.
    ///
    /// # Errors
    /// If they can't be loaded.
    pub fn beside(&self, object: &[u8]) -> Result<Self> {
        Self::load(self.hook, object, false)
    }

    fn load(hook: Hook, object: &[u8], attached: bool) -> Result<Self> {
        let mut bpf = aya::EbpfLoader::new()
            .map_max_entries(maps::FLOWS, FLOWS)
            .map_max_entries(maps::SLOTS, FLOWS)
            .map_max_entries(maps::TUPLES, 3 * FLOWS)
            .map_max_entries(maps::CLIENTS, CLIENTS6)
            .map_max_entries(maps::CLIENT_ALIASES, 3 * CLIENTS6)
            .map_max_entries(maps::FREE_CLIENTS, CLIENTS6)
            .map_max_entries(maps::AWAITED, AWAITED)
            .load(object)?;
        let hosts = [Host::Primary, Host::Shadow, Host::Client];
        let mut devices = [0; 3];
        for (to, host) in devices.iter_mut().zip(hosts) {
            *to = index(host.gateway_device())?;
        }
        for name in ["mirror_tc", "mirror_emit"] {
            let program: &mut SchedClassifier = bpf.program_mut(name).context(name)?.try_into()?;
            program.load().with_context(|| format!("load {name}"))?;
        }
        let tc: &mut SchedClassifier = bpf.program_mut("mirror_tc").context("mirror_tc")?.try_into()?;
        for host in hosts.iter().filter(|_| attached) {
            tc.attach(host.gateway_device(), TcAttachType::Ingress)?;
        }
        if hook == Hook::Xdp {
            let mut known: DevMapHash<_> =
                DevMapHash::try_from(bpf.map_mut(maps::DEVICES).context(maps::DEVICES)?)?;
            for device in devices {
                known.insert(device, device, None, 0)?;
            }
            let xdp: &mut Xdp = bpf.program_mut("mirror_xdp").context("mirror_xdp")?.try_into()?;
            xdp.load().context("load mirror_xdp")?;
            for host in hosts.iter().filter(|_| attached) {
                xdp.attach(host.gateway_device(), XdpMode::Driver)?;
            }
            if !attached {
                // What is attached somewhere the kernel calls directly (Linux, kernel/bpf/dispatcher.c), runs included.
                xdp.attach("lo", XdpMode::Skb)?;
            }
        }
        let counted = vec![0; Verdict::ALL.len()];
        let passing = passing()?;
        let mut stage = Self {
            bpf,
            passing,
            live: false,
            hook,
            devices,
            counted,
            reached: Vec::new(),
            next_client: 30_000,
        };
        stage.fill()?;
        stage.counts()?;
        Ok(stage)
    }

    fn fill(&mut self) -> Result<()> {
        let config = Config { tap: self.devices[Side::Shadow as usize], flows: FLOWS, secret: SECRET };
        self.set(maps::CONFIG, 0, config)?;
        self.set_service(|_| {})?;
        for end in service().endpoints {
            self.add_peer(&end)?;
        }
        self.insert(maps::PEERS, abi::fragments_of(VIP_RAW), 0_u32)?;
        for slot in 0..FLOWS {
            self.push(maps::SLOTS, slot)?;
        }
        for port in FIRST_PORT..FIRST_PORT + 2 * FLOWS {
            self.push(maps::PORTS_PRIMARY, port)?;
            self.push(maps::PORTS_SHADOW, port)?;
        }
        self.set_word(SwitchWord::initial())
    }

    /// Changes the service.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_service(&mut self, change: impl FnOnce(&mut Service)) -> Result<()> {
        self.set_service_at(VIP_RAW, change)
    }

    /// Makes a service of the same port at another address.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_service_at(&mut self, addr: u32, change: impl FnOnce(&mut Service)) -> Result<()> {
        let mut service = service();
        change(&mut service);
        let key = ServiceKey { addr, port: PORT, protocol: 6 };
        self.insert(maps::SERVICES, key, service)
    }

    /// Changes the datapath's settings.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_config(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        let mut config: Config = self.get(maps::CONFIG, 0)?;
        change(&mut config);
        self.set(maps::CONFIG, 0, config)
    }

    /// Writes the switch word.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_word(&mut self, word: SwitchWord) -> Result<()> {
        self.set(maps::SWITCH, 0, word.0)
    }

    /// The switch word.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn word(&self) -> Result<SwitchWord> {
        Ok(SwitchWord(self.get(maps::SWITCH, 0)?))
    }

    /// Writes the application's words.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_app(&mut self, app: App) -> Result<()> {
        self.set(maps::APPS, 0, AppWords { app, ..AppWords::default() })
    }

    /// The application's words.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn app(&self) -> Result<App> {
        Ok(self.get::<AppWords>(maps::APPS, 0)?.app)
    }

    /// A slot.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn flow(&self, slot: u32) -> Result<Flow> {
        self.get(maps::FLOWS, slot)
    }

    /// Changes a slot, as no daemon would.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_flow(&mut self, slot: u32, change: impl FnOnce(&mut Flow)) -> Result<()> {
        let mut flow = self.flow(slot)?;
        change(&mut flow);
        self.set(maps::FLOWS, slot, flow)
    }

    /// A map, for a thread of its own.
    ///
    /// # Errors
    /// If it can't be opened once more.
    pub fn another(&self, name: &str) -> Result<MapData> {
        let map = self.bpf.map(name).context("no such map")?;
        let aya::maps::Map::Array(data) = map else { anyhow::bail!("{name} is no array") };
        Ok(MapData::from_id(data.info()?.id())?)
    }

    /// The entry of addresses.
    ///
    /// # Errors
    /// If there is none.
    pub fn entry(&self, tuple: Tuple) -> Result<Entry> {
        let tuples: HashMap<_, Tuple, u64> =
            HashMap::try_from(self.bpf.map(maps::TUPLES).context(maps::TUPLES)?)?;
        Ok(Entry(tuples.get(&tuple, 0)?))
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_entry(&mut self, tuple: Tuple, entry: Entry) -> Result<()> {
        self.insert(maps::TUPLES, tuple, entry.0)
    }

    /// Takes an entry away.
    ///
    /// # Errors
    /// If there is none.
    pub fn remove_entry(&mut self, tuple: Tuple) -> Result<()> {
        let mut tuples: HashMap<_, Tuple, u64> =
            HashMap::try_from(self.bpf.map_mut(maps::TUPLES).context(maps::TUPLES)?)?;
        Ok(tuples.remove(&tuple)?)
    }

    /// Says that a device's XDP program isn't ours.
    ///
    /// # Errors
    /// If it wasn't said to be ours.
    pub fn forget_device(&mut self, device: u32) -> Result<()> {
        let mut known: DevMapHash<_> =
            DevMapHash::try_from(self.bpf.map_mut(maps::DEVICES).context(maps::DEVICES)?)?;
        Ok(known.remove(device)?)
    }

    /// A side's server, as it is when nothing was changed.
    ///
    /// # Errors
    /// If there is no such side.
    pub fn endpoint(&self, side: usize) -> Result<Endpoint> {
        service().endpoints.get(side).copied().context("two sides")
    }

    /// Writes that legs run from a server.
    pub(crate) fn add_peer(&mut self, end: &Endpoint) -> Result<()> {
        let from = Tuple { saddr: end.addr, daddr: end.nat, sport: end.port, dport: 0 };
        self.insert(maps::PEERS, from, 0_u32)
    }

    /// A client's port that hasn't been used yet.
    pub fn client_port(&mut self) -> u16 {
        self.next_client += 1;
        self.next_client
    }

    /// The verdicts that were counted since the last call.
    ///
    /// # Errors
    /// If the counters can't be read.
    pub fn counts(&mut self) -> Result<Vec<Verdict>> {
        let map = self.bpf.map(maps::COUNTERS).context(maps::COUNTERS)?;
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
        let mut news = Vec::new();
        for (verdict, last) in Verdict::ALL.iter().zip(&mut self.counted) {
            let now: u64 = counters.get(&(*verdict as u32), 0)?.iter().sum();
            if now > *last {
                news.push(*verdict);
            }
            *last = now;
        }
        self.reached.extend(&news);
        Ok(news)
    }

    /// Puts a frame in that comes from a side's server (0, 1) or the client (2).
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn put(&mut self, from: usize, frame: &[u8]) -> Result<Seen> {
        self.counts()?;
        let device = self.devices[from];
        let (action, frame) = match self.hook {
            Hook::Tc if self.live => {
                let verdicts = self.pass_live(device, frame, 0)?;
                return Ok(Seen { verdicts, ..Seen::default() });
            }
            Hook::Tc => self.run_tc("mirror_tc", device, frame, 1).map(|(action, out, _)| (action, out))?,
            Hook::Xdp => {
                self.run_live(device, frame, 0, 1)?;
                (0, Vec::new())
            }
        };
        Ok(Seen { verdicts: self.counts()?, action, frame })
    }

    /// The device towards a side's server (0, 1) or the client (2).
    pub fn device(&self, from: usize) -> u32 {
        self.devices[from]
    }
}

pub(crate) fn service() -> Service {
    let endpoint = |host: Host| Endpoint {
        addr: raw(silent(host)),
        nat: raw(host.nat_pool()[0]),
        port: PORT,
        mss: 0,
        max_requests: 0,
    };
    Service {
        app: 0,
        flags: Service::SHADOWED,
        endpoints: [endpoint(Host::Primary), endpoint(Host::Shadow)],
        stall_ms: 60_000,
        idle_ms: 7_200_000,
        pools: 0,
        pressure_ms: 0,
    }
}
