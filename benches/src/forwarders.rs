//! What stands between client and server: nothing, the kernel, a bare program, nginx, or the gateway.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::DevMapHash,
    programs::{SchedClassifier, TcAttachType, Xdp, XdpMode},
};
use lab::{
    gateway::Gateway,
    net::{Host, Lab, Namespace, SERVICE_PORT, VIP},
    nginx::{KeepAlive, Nginx, Role},
};
use prog_tests::stage::object;

/// A lab with nginx on both servers; hosts' offloads as one of the hooks needs them.
pub(crate) struct Site {
    /// The hosts.
    pub(crate) lab: Lab,
    _servers: [Nginx; 2],
}

impl Site {
    /// Builds it.
    ///
    /// # Errors
    /// If something can't be started.
    pub(crate) fn build(xdp_ready: bool) -> Result<Self> {
        let lab = Lab::builder().forwarding(true).xdp_ready(xdp_ready).up()?;
        let start = |host: Host| Nginx::on(&lab, host, host.name(), KeepAlive::default());
        let servers = [start(Host::Primary)?, start(Host::Shadow)?];
        Ok(Self { lab, _servers: servers })
    }

    fn gateway(&self) -> Namespace {
        self.lab.host(Host::Gateway)
    }
}

/// What is measured. The order is that of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Forwarder {
    /// From the gateway's own host: no hop between.
    Direct,
    /// The kernel's forwarding: what all is measured against.
    Kernel,
    /// The same, with destination NAT.
    Dnat,
    /// Route look-up and redirect at TC.
    BareTc,
    /// Route look-up and redirect at XDP.
    BareXdp,
    /// The gateway before a join, at TC or at XDP.
    OneLeg(Hook),
    /// The gateway after it: every request is done twice.
    LockStep(Hook),
    /// nginx with its own `mirror`, at the same job.
    Nginx,
}

/// One of the gateway's hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    /// TC ingress.
    Tc,
    /// Native XDP.
    Xdp,
}

impl Hook {
    /// As in a policy, and in the JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        }
    }
}

impl Forwarder {
    /// Every one, those that share a daemon one after the other.
    pub(crate) const ALL: [Self; 10] = [
        Self::Direct,
        Self::Kernel,
        Self::Dnat,
        Self::BareTc,
        Self::BareXdp,
        Self::OneLeg(Hook::Tc),
        Self::LockStep(Hook::Tc),
        Self::OneLeg(Hook::Xdp),
        Self::LockStep(Hook::Xdp),
        Self::Nginx,
    ];

    /// As in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "no gateway",
            Self::Kernel => "kernel forwarding",
            Self::Dnat => "nftables DNAT",
            Self::BareTc => "bare forwarder, TC",
            Self::BareXdp => "bare forwarder, XDP",
            Self::OneLeg(Hook::Tc) => "mirror, one leg, TC",
            Self::LockStep(Hook::Tc) => "mirror, lock-step, TC",
            Self::OneLeg(Hook::Xdp) => "mirror, one leg, XDP",
            Self::LockStep(Hook::Xdp) => "mirror, lock-step, XDP",
            Self::Nginx => "nginx `mirror`",
        }
    }

    /// Whether the hosts must not leave checksums to their cards.
    pub(crate) const fn needs_xdp(self) -> bool {
        matches!(self, Self::BareXdp | Self::OneLeg(Hook::Xdp) | Self::LockStep(Hook::Xdp))
    }
}

impl Standing {
    /// What became of packets, where the gateway counts them.
    pub(crate) fn counters(&self) -> String {
        let Kept::Gateway(gateway) = &self.kept else { return String::new() };
        let Ok(counters) = gateway.ctl(&["counters"]) else { return gateway.log() };
        let all = counters.as_array().into_iter().flatten();
        let lines = all.filter(|c| c["count"] != 0).map(|c| format!("{} {}", c["name"], c["count"]));
        lines.collect::<Vec<_>>().join(", ")
    }
}

/// A forwarder at work; dropped, it is gone.
pub(crate) struct Standing {
    /// Where the load tool runs.
    pub(crate) from: Namespace,
    /// What it talks to.
    pub(crate) target: SocketAddr,
    kept: Kept,
}

#[expect(dead_code, reason = "held for what dropping them takes down")]
enum Kept {
    Nothing,
    Rules(Rules),
    Programs(Box<Ebpf>),
    Gateway(Gateway),
    Nginx(Nginx),
}

/// nftables rules of the gateway; dropped, they are gone, and connection tracking with them.
struct Rules(Namespace);

impl Drop for Rules {
    fn drop(&mut self) {
        if let Err(error) = self.0.check(Command::new("nft").args(["flush", "ruleset"])) {
            eprintln!("rules were left in {}: {error:#}", self.0.name());
        }
    }
}

/// Sets a forwarder up for a round.
///
/// # Errors
/// If it can't be.
pub(crate) fn stand(forwarder: Forwarder, site: &Site, round: u32) -> Result<Standing> {
    let client = site.lab.host(Host::Client);
    let primary = SocketAddr::from(Host::Primary.service());
    let vip = SocketAddr::from((VIP, SERVICE_PORT));
    let standing = |target, kept| Standing { from: client.clone(), target, kept };
    Ok(match forwarder {
        Forwarder::Direct => Standing { from: site.gateway(), target: primary, kept: Kept::Nothing },
        Forwarder::Kernel => standing(primary, Kept::Nothing),
        Forwarder::Dnat => {
            let rules = format!(
                "nft 'table ip bench {{ chain pre {{ type nat hook prerouting priority dstnat; \
                 ip daddr {VIP} tcp dport {SERVICE_PORT} dnat to {primary}; }}; }}'"
            );
            site.gateway().sh(&rules)?;
            standing(vip, Kept::Rules(Rules(site.gateway())))
        }
        Forwarder::BareTc | Forwarder::BareXdp => {
            let programs = site.gateway().run(|| bare(forwarder == Forwarder::BareXdp))??;
            standing(primary, Kept::Programs(Box::new(programs)))
        }
        Forwarder::OneLeg(hook) | Forwarder::LockStep(hook) => {
            let gateway = Gateway::start(&site.lab, &policy(hook.name(), pool(forwarder, round), ""))?;
            if matches!(forwarder, Forwarder::LockStep(_)) {
                gateway.ctl(&["join", "bench"])?;
            }
            standing(vip, Kept::Gateway(gateway))
        }
        Forwarder::Nginx => {
            let role = Role::Mirror { primary, shadow: SocketAddr::from(Host::Shadow.service()) };
            let nginx = Nginx::start(&site.gateway(), vip, &role, KeepAlive::default())?;
            standing(vip, Kept::Nginx(nginx))
        }
    })
}

/// Which of the addresses for source NAT a daemon takes. Each here begins from nothing, with numbers of its own: to a
/// server that still has the last daemon's ports in TIME_WAIT it must not come from there.
fn pool(forwarder: Forwarder, round: u32) -> usize {
    (2 * round as usize + usize::from(matches!(forwarder, Forwarder::LockStep(_)))) % 4
}

/// A policy for the daemon at this hook, from the given address of each pool; `more` are settings of the application.
pub(crate) fn policy(hook: &str, pool: usize, more: &str) -> String {
    format!(
        "name = \"bench\"\nhook = \"{hook}\"\njoin_hook = [\"true\"]\n{more}\n\
         [service]\nvip = \"{VIP}:{SERVICE_PORT}\"\n\
         [primary]\naddress = \"{}\"\nnat = \"{}\"\n\
         [shadow]\naddress = \"{}\"\nnat = \"{}\"\n",
        Host::Primary.service(),
        Host::Primary.nat_pool()[pool],
        Host::Shadow.service(),
        Host::Shadow.nat_pool()[pool],
    )
}

/// Attaches a bare forwarder to the client's and the primary's device.
fn bare(xdp: bool) -> Result<Ebpf> {
    let mut programs = Ebpf::load(&object("bare.o")?)?;
    let devices = [Host::Client, Host::Primary].map(Host::gateway_device);
    if !xdp {
        let program: &mut SchedClassifier = programs.program_mut("bare_tc").context("bare_tc")?.try_into()?;
        program.load()?;
        for device in devices {
            program.attach(device, TcAttachType::Ingress)?;
        }
        return Ok(programs);
    }
    let program: &mut Xdp = programs.program_mut("bare_xdp").context("bare_xdp")?.try_into()?;
    program.load()?;
    for device in devices {
        program.attach(device, XdpMode::Driver)?;
    }
    let mut known: DevMapHash<_> = DevMapHash::try_from(programs.map_mut("DEVICES").context("DEVICES")?)?;
    for device in devices {
        let index = prog_tests::stage::index(device)?;
        known.insert(index, index, None, 0)?;
    }
    Ok(programs)
}
