//! The lab: four hosts in network namespaces, joined through a gateway.
//!
//! ```text
//!                        VIP 10.77.1.1:8080
//!   client ─ eth0 ───── client0 ┐        ┌ primary0 ───── eth0 ─ primary
//!   10.0.1.2      10.0.1.1      │ gateway│      10.0.2.1      10.0.2.2
//!                               └        ┘ shadow0 ────── eth0 ─ shadow
//!                                               10.0.3.1      10.0.3.2
//! ```
//! Addresses are the same in every lab; the namespaces' names are not, so that labs can stand side by side.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

mod build;
mod namespace;
mod process;
mod six;
pub mod tagged;

pub use build::{LabBuilder, LinkSpec, Neighbours};
pub use namespace::Namespace;
pub use process::Process;
pub use six::VIP6;
pub use tagged::Tags;

use crate::wire::Wire;

/// The address that clients talk to.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// The port of the application: at the VIP, and at both servers.
pub const SERVICE_PORT: u16 = 8080;
/// Names of labs that tests bring up: this, the owner's process id, a dash, a counter.
const TEST_PREFIX: &str = "mlab";

/// A host of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Host {
    /// Where the clients run.
    Client,
    /// The router between all others; owns the VIP and the NAT pools.
    #[value(name = "gw", alias = "gateway")]
    Gateway,
    /// The application's present server.
    Primary,
    /// The copy beside it.
    Shadow,
}

impl Host {
    /// Every host.
    pub const ALL: [Self; 4] = [Self::Client, Self::Gateway, Self::Primary, Self::Shadow];
    /// The hosts at the ends of the gateway's links.
    pub const ENDS: [Self; 3] = [Self::Client, Self::Primary, Self::Shadow];

    /// The name, as it ends the namespace's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Gateway => "gw",
            Self::Primary => "primary",
            Self::Shadow => "shadow",
        }
    }

    /// Third byte of the addresses of the link to this host.
    const fn net(self) -> u8 {
        match self {
            Self::Client | Self::Gateway => 1,
            Self::Primary => 2,
            Self::Shadow => 3,
        }
    }

    /// The host's own address; for the gateway the one on the client's link.
    pub const fn address(self) -> Ipv4Addr {
        match self {
            Self::Gateway => Ipv4Addr::new(10, 0, 1, 1),
            _ => Ipv4Addr::new(10, 0, self.net(), 2),
        }
    }

    /// The gateway's address on the link to this host.
    pub const fn gateway_address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, self.net(), 1)
    }

    /// The gateway's device on the link to this host.
    pub const fn gateway_device(self) -> &'static str {
        match self {
            Self::Client | Self::Gateway => "client0",
            Self::Primary => "primary0",
            Self::Shadow => "shadow0",
        }
    }

    /// Addresses of the gateway on the link to this host that are free for source NAT.
    pub const fn nat_pool(self) -> [Ipv4Addr; 4] {
        let net = self.net();
        [
            Ipv4Addr::new(10, 0, net, 101),
            Ipv4Addr::new(10, 0, net, 102),
            Ipv4Addr::new(10, 0, net, 103),
            Ipv4Addr::new(10, 0, net, 104),
        ]
    }

    /// Where the application listens on this host.
    pub const fn service(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address(), SERVICE_PORT)
    }

    /// The hardware address of the host's `eth0` (`gateway == false`), or of the gateway's end of that link.
    pub fn mac(self, gateway: bool) -> String {
        self.mac_octets(gateway).map(|octet| format!("{octet:02x}")).join(":")
    }

    /// The same as it lies in a frame.
    pub const fn mac_octets(self, gateway: bool) -> [u8; 6] {
        [2, 0, 0, 0, self.net(), if gateway { 1 } else { 2 }]
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Four hosts; dropped, they are taken down with all that runs in them.
#[derive(Debug)]
pub struct Lab {
    name: String,
    wires: Vec<(Host, Wire)>,
    guarded: bool,
}

impl Lab {
    /// Describes a lab; nothing is built until [`LabBuilder::up`].
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// A name that no other lab on this machine has.
    pub(crate) fn unique_name() -> String {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        format!("{TEST_PREFIX}{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
    }

    /// A lab that was left standing; dropping this handle leaves it so.
    ///
    /// # Errors
    /// If there is no such lab.
    pub fn open(name: &str) -> Result<Self> {
        let lab = Self { name: name.to_owned(), wires: Vec::new(), guarded: false };
        for host in Host::ALL {
            ensure!(
                lab.host(host).exists(),
                "there is no lab {name} (no namespace {}): `cargo xtask lab up` builds one",
                lab.host(host).name()
            );
        }
        Ok(lab)
    }

    pub(crate) fn guarded(name: String) -> Self {
        Self { name, wires: Vec::new(), guarded: true }
    }

    pub(crate) fn add_wire(&mut self, host: Host, wire: Wire) {
        self.wires.push((host, wire));
    }

    /// The prefix of the namespaces' names.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A host's namespace.
    pub fn host(&self, host: Host) -> Namespace {
        Namespace::named(format!("{}-{}", self.name, host.name()))
    }

    /// The namespace of the program that forwards an impaired link's frames, between its devices `far` (towards the host) and
    /// `near` (towards the gateway).
    pub fn wire_namespace(&self, host: Host) -> Namespace {
        Namespace::named(format!("{}-wire-{}", self.name, host.name()))
    }

    /// The impaired link to `host`, to change its losses and delays while it runs.
    ///
    /// # Errors
    /// If the link was built as a plain one.
    pub fn wire(&self, host: Host) -> Result<&Wire> {
        self.wires
            .iter()
            .find_map(|(end, wire)| (*end == host).then_some(wire))
            .with_context(|| format!("the link to {host} is a plain one: build it with LinkSpec::wire"))
    }

    /// Takes the link to `host` down or up, at the gateway's end.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn set_link(&self, host: Host, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.host(Host::Gateway)
            .check(Command::new("ip").args(["link", "set", host.gateway_device(), state]))
            .map(drop)
    }

    /// Leaves the lab standing after this process; [`Lab::open`] finds it again.
    ///
    /// # Errors
    /// If a link is forwarded by a thread of this process, which would end with it.
    pub fn leave(mut self) -> Result<()> {
        ensure!(self.wires.is_empty(), "the impaired links of {} end with this process", self.name);
        self.guarded = false;
        Ok(())
    }

    /// Takes the lab down: its processes are killed, its namespaces removed.
    ///
    /// # Errors
    /// If something could not be removed; the rest is.
    pub fn down(mut self) -> Result<()> {
        self.guarded = false;
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        self.wires.clear();
        remove_namespaces(&namespaces_of(&self.name)?)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.guarded {
            return;
        }
        match self.host(Host::Gateway).processes() {
            Ok(left) if !left.is_empty() && !std::thread::panicking() => {
                eprintln!("lab {}: processes {left:?} still ran in the gateway: killed", self.name);
            }
            _ => {}
        }
        if let Err(error) = self.remove() {
            eprintln!(
                "lab {}: NOT taken down: {error:#}; `cargo xtask lab down --name {0}` tries again",
                self.name
            );
        }
    }
}

/// Names of the namespaces that belong to the lab `name`.
fn namespaces_of(name: &str) -> Result<Vec<String>> {
    let prefix = format!("{name}-");
    let ours = |rest: &str| {
        let host = rest.strip_prefix("wire-").unwrap_or(rest);
        Host::ALL.iter().any(|known| known.name() == host)
    };
    Ok(all_namespaces()?
        .into_iter()
        .filter(|namespace| namespace.strip_prefix(&prefix).is_some_and(ours))
        .collect())
}

fn all_namespaces() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir("/run/netns") {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("list /run/netns"),
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// Kills what runs in each namespace, then removes it. Goes on after an error and returns the first.
fn remove_namespaces(names: &[String]) -> Result<()> {
    let mut first_error = None;
    for name in names {
        let result = kill_all(&Namespace::named(name.clone())).and_then(|()| {
            let output =
                Command::new("ip").args(["netns", "del", name]).output().context("run `ip netns del`")?;
            if output.status.success() {
                Ok(())
            } else {
                bail!("ip netns del {name}: {}", String::from_utf8_lossy(&output.stderr).trim())
            }
        });
        if let Err(error) = result {
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(()), Err)
}

fn kill_all(namespace: &Namespace) -> Result<()> {
    for pid in namespace.processes()? {
        if pid == std::process::id() {
            continue;
        }
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended since it was listed.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    Ok(())
}

/// The names of all labs on this machine.
///
/// # Errors
/// If `/run/netns` can't be read.
pub fn all_labs() -> Result<Vec<String>> {
    let suffix = format!("-{}", Host::Gateway.name());
    let mut names: Vec<String> = all_namespaces()?
        .into_iter()
        .filter_map(|namespace| namespace.strip_suffix(&suffix).map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// The labs whose owner has died without taking them down.
///
/// # Errors
/// If `/run/netns` can't be read.
pub fn stale_labs() -> Result<Vec<String>> {
    let orphaned = |name: &String| {
        let owner = name.strip_prefix(TEST_PREFIX).and_then(|rest| rest.split_once('-'));
        owner.is_some_and(|(pid, _)| {
            pid.parse::<u32>().is_ok() && !std::path::Path::new("/proc").join(pid).exists()
        })
    };
    Ok(all_labs()?.into_iter().filter(orphaned).collect())
}

/// Takes the lab `name` down, whoever built it.
///
/// # Errors
/// If there is no such lab, or something could not be removed.
pub fn take_down(name: &str) -> Result<()> {
    let namespaces = namespaces_of(name)?;
    ensure!(!namespaces.is_empty(), "there is no lab {name}");
    remove_namespaces(&namespaces)
}
