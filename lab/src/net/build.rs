//! Building a lab: namespaces, links, addresses, settings.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Host, Lab, Namespace, Tags, VIP, six, tagged};
use crate::wait::wait_for;
use crate::wire::{Fault, Impairment, Wire};

/// The offloads that a host's `eth0` needs for native XDP at the gateway's end of a veth pair: with `gro on` redirected
/// frames arrive, with `tx off` checksums are whole.
const XDP_READY: &str = "gro on tx off";
/// What a link needs whose frames a program forwards: whole checksums, no super-packets.
const WIRE_READY: &str = "tx off tso off gso off";

/// Where nothing listens.
const DISCARD_PORT: u16 = 9;

/// How hosts learn each other's hardware addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Neighbours {
    /// By ARP, as anywhere; each host has reached the gateway once before [`LabBuilder::up`] returns.
    #[default]
    Learned,
    /// Permanent entries.
    Static,
}

/// The link between the gateway and one host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinkSpec {
    /// Maximum transmission unit in bytes; 1500 if not given.
    pub mtu: Option<u32>,
    /// Forward the link's frames by a program that can delay, lose, reorder and duplicate them.
    pub wire: Option<Impairment>,
    /// The tags that its frames bear; not together with `wire`.
    pub tags: Tags,
}

impl LinkSpec {
    /// A plain veth pair of another MTU.
    pub fn mtu(bytes: u32) -> Self {
        Self { mtu: Some(bytes), ..Self::default() }
    }

    /// A link whose frames pass a program of the lab's.
    pub fn wire(impairment: Impairment) -> Self {
        Self { wire: Some(impairment), ..Self::default() }
    }
}

impl FromStr for LinkSpec {
    type Err = String;

    /// Reads `rtt=20,jitter=1,loss=0.01,duplicate=0.01,reorder=0.02,late=2,mbits=100,seed=7,mtu=1400,tags=vlan`, each part
    /// as you like: times in milliseconds, shares from 0 to 1, each direction alike.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mut mtu, mut seed, mut impaired, mut tags) = (None, 0, false, Tags::None);
        let mut fault = Fault::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not NAME=VALUE"))?;
            if name == "tags" {
                tags = value.parse()?;
                continue;
            }
            let number: f64 = value.parse().map_err(|_| format!("{value:?} in {part:?} is not a number"))?;
            let us = || {
                let time =
                    Duration::try_from_secs_f64(number / 1e3).map_err(|error| format!("{part}: {error}"))?;
                u64::try_from(time.as_micros()).map_err(|error| format!("{part}: {error}"))
            };
            let share = || {
                (0.0..=1.0)
                    .contains(&number)
                    .then_some(number)
                    .ok_or_else(|| format!("{part}: a share is 0 to 1"))
            };
            let whole = || value.parse::<u32>().map_err(|error| format!("{part}: {error}"));
            impaired |= name != "mtu";
            match name {
                "rtt" => fault.delay_us = us()? / 2,
                "jitter" => fault.jitter_us = us()?,
                "loss" => fault.loss = share()?,
                "duplicate" => fault.duplicate = share()?,
                "reorder" => fault.reorder = share()?,
                "late" => fault.reorder_us = us()?,
                "mbits" => fault.mbits = whole()?.into(),
                "seed" => seed = whole()?,
                "mtu" => mtu = Some(whole()?),
                _ => {
                    return Err(format!(
                        "{name:?} is none of rtt, jitter, loss, duplicate, reorder, late, mbits, seed, mtu, tags"
                    ));
                }
            }
        }
        Ok(Self { mtu, wire: impaired.then(|| Impairment::both(fault, seed.into())), tags })
    }
}

/// What the lab shall be like.
#[derive(Debug, Clone, Default)]
pub struct LabBuilder {
    name: Option<String>,
    forwarding: bool,
    six: bool,
    xdp_ready: bool,
    neighbours: Neighbours,
    links: Vec<(Host, LinkSpec)>,
    offloads: Vec<(Host, String)>,
    detached_wires: bool,
    trunk: bool,
    tags: Tags,
}

impl LabBuilder {
    /// The prefix of the namespaces' names; without it one is made that nobody else has.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Lets the gateway's kernel forward packets (`ip_forward`); off if not given.
    #[must_use]
    pub fn forwarding(mut self, on: bool) -> Self {
        self.forwarding = on;
        self
    }

    /// Gives the hosts IPv6 addresses too, learned by neighbour discovery; none if not given.
    #[must_use]
    pub fn six(mut self, on: bool) -> Self {
        self.six = on;
        self
    }

    /// Sets the hosts' offloads as native XDP at the gateway needs them: `gro on`, `tx off`.
    #[must_use]
    pub fn xdp_ready(mut self, on: bool) -> Self {
        self.xdp_ready = on;
        self
    }

    /// How hosts learn each other's hardware addresses.
    #[must_use]
    pub fn neighbours(mut self, how: Neighbours) -> Self {
        self.neighbours = how;
        self
    }

    /// The link to `host`; a plain veth pair if not given.
    #[must_use]
    pub fn link(mut self, host: Host, spec: LinkSpec) -> Self {
        self.links.retain(|(end, _)| *end != host);
        self.links.push((host, spec));
        self
    }

    /// The tags of every link whose own description has none.
    #[must_use]
    pub fn tags(mut self, tags: Tags) -> Self {
        self.tags = tags;
        self
    }

    /// Lets all tagged links share one pair of veth, [`tagged::TRUNK`].
    #[must_use]
    pub fn trunk(mut self, on: bool) -> Self {
        self.trunk = on;
        self
    }

    /// Features for `ethtool -K eth0` on `host`, for example `gro on tx off`.
    #[must_use]
    pub fn offloads(mut self, host: Host, features: impl Into<String>) -> Self {
        self.offloads.push((host, features.into()));
        self
    }

    /// Forwards the frames of impaired links by processes that outlive this one, instead of threads: for a lab that is
    /// left standing. [`Lab::wire`] doesn't know them.
    #[must_use]
    pub fn detached_wires(mut self, on: bool) -> Self {
        self.detached_wires = on;
        self
    }

    /// Builds it.
    ///
    /// # Errors
    /// If the caller isn't root, the name is taken, or a tool (`ip`, `ethtool`) fails. What was built is
    /// removed again.
    pub fn up(self) -> Result<Lab> {
        ensure!(rustix::process::geteuid().is_root(), "a lab needs root: network namespaces are made for it");
        let name = self.name.clone().unwrap_or_else(Lab::unique_name);
        ensure!(
            super::namespaces_of(&name)?.is_empty(),
            "there is a lab {name} already: `cargo xtask lab down --name {name}` removes it"
        );
        let mut lab = Lab::guarded(name);
        self.make_namespaces(&lab)?;
        self.make_links(&lab)?;
        for host in Host::ENDS {
            self.configure_end(&lab, host)?;
        }
        self.configure_gateway(&lab)?;
        self.set_offloads(&lab)?;
        self.start_wires(&mut lab)?;
        self.meet_neighbours(&lab)?;
        Ok(lab)
    }

    fn spec(&self, host: Host) -> LinkSpec {
        let spec = self.links.iter().find(|(end, _)| *end == host).map(|(_, spec)| spec.clone());
        let mut spec = spec.unwrap_or_default();
        if spec.tags == Tags::None && spec.wire.is_none() {
            spec.tags = self.tags;
        }
        spec
    }

    fn make_namespaces(&self, lab: &Lab) -> Result<()> {
        let mut batch = String::new();
        let mut namespaces: Vec<Namespace> = Host::ALL.iter().map(|host| lab.host(*host)).collect();
        namespaces.extend(self.wired().map(|host| lab.wire_namespace(host)));
        for namespace in &namespaces {
            writeln!(batch, "netns add {}", namespace.name())?;
        }
        ip_batch(None, &batch)?;
        for namespace in &namespaces {
            if self.six {
                six::prepare(namespace)?;
                continue;
            }
            // Router solicitations would only clutter the captures.
            namespace.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
            namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        }
        Ok(())
    }

    fn wired(&self) -> impl Iterator<Item = Host> {
        Host::ENDS.into_iter().filter(|host| self.spec(*host).wire.is_some())
    }

    fn make_links(&self, lab: &Lab) -> Result<()> {
        let gateway = lab.host(Host::Gateway);
        let mut batch = String::new();
        let mut with_tags = Vec::new();
        for host in Host::ENDS {
            let spec = self.spec(host);
            let mtu = spec.mtu.unwrap_or(1500);
            if spec.tags != Tags::None {
                ensure!(spec.wire.is_none(), "the link to {host} can't be both tagged and a program's");
                with_tags.push((host, spec.tags, mtu));
                continue;
            }
            let near = format!("{} address {} mtu {mtu}", host.gateway_device(), host.mac(true));
            let far = format!("eth0 address {} mtu {mtu}", host.mac(false));
            let end = lab.host(host);
            if spec.wire.is_some() {
                let wire = lab.wire_namespace(host);
                veth(&mut batch, &near, &gateway, &format!("near mtu {mtu}"), &wire)?;
                veth(&mut batch, &far, &end, &format!("far mtu {mtu}"), &wire)?;
            } else {
                veth(&mut batch, &near, &gateway, &far, &end)?;
            }
        }
        ip_batch(None, &batch)?;
        for host in self.wired() {
            ip_batch(Some(&lab.wire_namespace(host)), "link set near up\nlink set far up\n")?;
        }
        if !with_tags.is_empty() {
            tagged::make(lab, &with_tags, self.trunk)?;
        }
        Ok(())
    }

    fn configure_end(&self, lab: &Lab, host: Host) -> Result<()> {
        let (own, router) = (host.address(), host.gateway_address());
        let mut batch = format!(
            "link set lo up\naddr add {own}/24 dev eth0\nlink set eth0 up\nroute add default via {router} dev eth0\n"
        );
        if self.neighbours == Neighbours::Static {
            let mut neighbours = vec![router];
            if host != Host::Client {
                neighbours.extend(host.nat_pool());
            }
            for address in neighbours {
                writeln!(batch, "neigh replace {address} lladdr {} dev eth0 nud permanent", host.mac(true))?;
            }
        }
        if self.six {
            six::configure_end(host, &mut batch)?;
        }
        ip_batch(Some(&lab.host(host)), &batch)
    }

    fn configure_gateway(&self, lab: &Lab) -> Result<()> {
        let gateway = lab.host(Host::Gateway);
        let mut batch = String::from("link set lo up\n");
        for host in Host::ENDS {
            let device = host.gateway_device();
            writeln!(batch, "addr add {}/24 dev {device}", host.gateway_address())?;
            if host == Host::Client {
                writeln!(batch, "addr add {VIP}/32 dev {device}")?;
            } else {
                for address in host.nat_pool() {
                    writeln!(batch, "addr add {address}/24 dev {device}")?;
                }
            }
            writeln!(batch, "link set {device} up")?;
            if self.six {
                six::configure_gateway(host, &mut batch)?;
            }
            if self.neighbours == Neighbours::Static {
                let mac = host.mac(false);
                writeln!(batch, "neigh replace {} lladdr {mac} dev {device} nud permanent", host.address())?;
            }
        }
        ip_batch(Some(&gateway), &batch)?;
        let forwarding = if self.forwarding { "1" } else { "0" };
        if self.six {
            gateway.sysctl("ipv6/conf/all/forwarding", forwarding)?;
        }
        gateway.sysctl("ipv4/ip_forward", forwarding)
    }

    fn set_offloads(&self, lab: &Lab) -> Result<()> {
        for host in Host::ENDS {
            if self.xdp_ready {
                ethtool(&lab.host(host), "eth0", XDP_READY)?;
            }
            if self.xdp_ready && self.spec(host).wire.is_some() {
                // Redirected frames arrive there only with `gro on`; but the program must get them one by one.
                let wire = lab.wire_namespace(host);
                ip_batch(Some(&wire), "link set near gro_max_size 1\n")?;
                ethtool(&wire, "near", "gro on")?;
            }
            if self.spec(host).wire.is_some() {
                ethtool(&lab.host(host), "eth0", WIRE_READY)?;
                ethtool(&lab.host(Host::Gateway), host.gateway_device(), WIRE_READY)?;
            }
        }
        for (host, features) in &self.offloads {
            ethtool(&lab.host(*host), "eth0", features)?;
        }
        Ok(())
    }

    fn start_wires(&self, lab: &mut Lab) -> Result<()> {
        for host in Host::ENDS {
            let Some(impairment) = self.spec(host).wire else { continue };
            if self.detached_wires {
                start_detached(&lab.wire_namespace(host), impairment)?;
            } else {
                let wire = Wire::start(&lab.wire_namespace(host), "far", "near", impairment)?;
                lab.add_wire(host, wire);
            }
        }
        Ok(())
    }

    /// Waits until each host has reached the gateway: nothing listens there, and its reset is the answer.
    fn meet_neighbours(&self, lab: &Lab) -> Result<()> {
        for host in Host::ENDS {
            let router = SocketAddr::from((host.gateway_address(), DISCARD_PORT));
            let reached = || match TcpStream::connect_timeout(&router, Duration::from_secs(1)) {
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::ConnectionRefused,
            };
            let what = format!("{host} to reach the gateway");
            lab.host(host).run(|| wait_for(&what, Duration::from_secs(20), reached))??;
        }
        Ok(())
    }
}

/// Starts the program `wire` in `namespace` and returns once it forwards.
fn start_detached(namespace: &Namespace, impairment: Impairment) -> Result<()> {
    let mut command = Command::new(crate::programs::binary("wire")?);
    command.args(["far", "near", "--impairment", &serde_json::to_string(&impairment)?]);
    let mut process = namespace.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut line = String::new();
    let stdout = process.child().stdout.take().context("a wire without a standard output")?;
    BufReader::new(stdout).read_line(&mut line).context("read what the wire says")?;
    ensure!(line.starts_with("forwarding"), "the wire in {} ended: {line:?}", namespace.name());
    process.leave();
    Ok(())
}

/// Adds the line that makes a pair of devices, each described by its name and settings.
pub(super) fn veth(
    batch: &mut String,
    one: &str,
    one_in: &Namespace,
    other: &str,
    other_in: &Namespace,
) -> Result<()> {
    writeln!(
        batch,
        "link add {one} netns {} type veth peer name {other} netns {}",
        one_in.name(),
        other_in.name()
    )?;
    Ok(())
}

/// Sets features of a device with `ethtool -K`.
fn ethtool(namespace: &Namespace, device: &str, features: &str) -> Result<()> {
    namespace.check(Command::new("ethtool").arg("-K").arg(device).args(features.split_whitespace())).map(drop)
}

/// Runs lines of `ip` commands by one process.
pub(super) fn ip_batch(namespace: Option<&Namespace>, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace.name()]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start `ip` (package iproute2)")?;
    child
        .stdin
        .take()
        .context("ip without a standard input")?
        .write_all(lines.as_bytes())
        .context("write to ip")?;
    let output = child.wait_with_output().context("wait for ip")?;
    ensure!(
        output.status.success(),
        "ip -batch: {}; the commands were:\n{lines}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_from_text() {
        let spec: LinkSpec = "rtt=20,loss=0.01,late=1.5,mbits=100,mtu=1400,seed=7".parse().unwrap();
        let fault = Fault { delay_us: 10_000, loss: 0.01, reorder_us: 1_500, mbits: 100, ..Fault::default() };
        assert_eq!(
            spec,
            LinkSpec { mtu: Some(1400), wire: Some(Impairment::both(fault, 7)), tags: Tags::None }
        );
        assert_eq!("mtu=9000".parse(), Ok(LinkSpec::mtu(9000)));
        let tagged = LinkSpec { tags: Tags::QinQ, ..LinkSpec::default() };
        assert_eq!("tags=qinq".parse(), Ok(tagged));
        for wrong in ["", "loss", "loss=2", "loss=x", "rtt=-1", "colour=1", "mtu=1.5", "tags=2"] {
            assert!(wrong.parse::<LinkSpec>().is_err(), "{wrong:?}");
        }
    }
}
