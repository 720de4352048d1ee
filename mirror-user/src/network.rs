//! What the kernel knows of devices, routes and neighbours, asked over rtnetlink.

mod links;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::pin,
};

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
        },
        route::{RouteAddress, RouteAttribute, RouteMetric},
    },
};
use tokio::runtime::Runtime;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Bytes that an IP packet may have.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// `veth`, `bond`, …; empty for a card.
    pub kind: String,
    /// Speaks Ethernet.
    pub ethernet: bool,
    /// Index of the bond, bridge or VRF that it belongs to.
    pub controller: Option<u32>,
    /// Index of the device here that it is a VLAN of.
    pub vlan_of: Option<u32>,
}

impl Device {
    /// Whether frames of VLANs come in by it, for devices of their own.
    pub fn is_below_vlans(&self, all: &[Self]) -> bool {
        all.iter().any(|device| device.vlan_of == Some(self.index))
    }

    /// Whether it holds addresses, and no host is behind it: the loopback, or a dummy.
    pub fn holds_addresses_alone(&self) -> bool {
        !self.ethernet && self.kind.is_empty() || self.kind == "dummy"
    }

    /// Whether other hosts' frames come in by it, and by no other device before.
    pub fn is_on_a_link(&self) -> bool {
        self.up && self.ethernet && self.controller.is_none() && !self.holds_addresses_alone()
    }
}

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface index of the device that they leave by.
    pub device: u32,
    /// The host whose hardware address they carry: a router, or the destination itself.
    pub hop: IpAddr,
    /// Bytes that an IP packet may have, where the route says so.
    pub mtu: Option<u32>,
    /// Where this host's own packets on it come from.
    pub source: Option<IpAddr>,
}

impl Route {
    /// Bytes that an IP packet may have on the way, of which `devices` has the first link.
    pub fn mtu_over(&self, devices: &[Device]) -> Option<u32> {
        let device = devices.iter().find(|device| device.index == self.device)?;
        Some(device.mtu.min(self.mtu.unwrap_or(u32::MAX)))
    }
}

/// How a host is asked for its hardware address.
pub fn asks(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ARP" } else { "neighbour solicitations" }
}

/// Bits of an address: of a prefix that is one host's.
pub fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Bytes of an address's family's IP header and of TCP's, both without options.
pub fn headers(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => 20 + 20,
        IpAddr::V6(_) => 40 + 20,
    }
}

/// What is known of a hop's hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Nobody has asked.
    Unknown,
    /// Asked for, and not answered yet.
    Asked,
    /// Asked for in vain.
    Failed,
    /// Known; the kernel may ask again one day.
    Known,
    /// Known, and kept so: by the kernel, or by whoever wrote it down.
    Kept,
}

impl Neighbour {
    /// Packets can be sent without waiting.
    pub fn resolved(self) -> bool {
        matches!(self, Self::Known | Self::Kept)
    }
}

/// A connection to rtnetlink, with a small runtime of its own: it must not be used on a runtime's threads.
pub struct Network {
    runtime: Runtime,
    handle: Handle,
}

impl Network {
    /// Connects, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().context("can't open rtnetlink")?;
        runtime.spawn(connection);
        drop(guard);
        Ok(Self { runtime, handle })
    }

    /// Every device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn devices(&self) -> Result<Vec<Device>> {
        let found = self.runtime.block_on(self.handle.link().get().execute().try_collect::<Vec<_>>());
        Ok(found.context("can't list devices")?.iter().map(device).collect())
    }

    /// The index of the device that has an address of this host.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn device_with(&self, address: IpAddr) -> Result<Option<u32>> {
        let found = self.runtime.block_on(
            self.handle.address().get().set_address_filter(address).execute().try_collect::<Vec<_>>(),
        );
        let holds = |attributes: &[AddressAttribute]| {
            attributes.iter().any(|a| match a {
                AddressAttribute::Local(found) | AddressAttribute::Address(found) => *found == address,
                _ => false,
            })
        };
        let found = found.context("can't list addresses")?;
        Ok(found.iter().find(|message| holds(&message.attributes)).map(|message| message.header.index))
    }

    /// Where packets to an address go.
    ///
    /// # Errors
    /// When there is no route.
    pub fn route(&self, to: IpAddr) -> Result<Route> {
        let ask = match to {
            IpAddr::V4(four) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(four, bits(to)).build()
            }
            IpAddr::V6(six) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(six, bits(to)).build()
            }
        };
        let answer = self.runtime.block_on(async {
            let mut answers = std::pin::pin!(self.handle.route().get(ask).execute());
            answers.next().await
        });
        let message = answer.with_context(|| format!("no answer about the route to {to}"))?;
        let message = message
            .with_context(|| format!("no route to {to}: ip route add {to}/{} via ROUTER", bits(to)))?;
        let mut route = Route { device: 0, hop: to, mtu: None, source: None };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => route.device = *index,
                RouteAttribute::Gateway(RouteAddress::Inet(hop)) => route.hop = IpAddr::V4(*hop),
                RouteAttribute::Gateway(RouteAddress::Inet6(hop)) => route.hop = IpAddr::V6(*hop),
                RouteAttribute::PrefSource(RouteAddress::Inet(own)) => route.source = Some(IpAddr::V4(*own)),
                RouteAttribute::PrefSource(RouteAddress::Inet6(own)) => route.source = Some(IpAddr::V6(*own)),
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|m| match m {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Ok(route)
    }

    /// What is known of a hop's hardware address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn neighbour(&self, route: &Route) -> Result<Neighbour> {
        Ok(self.entry(route)?.as_ref().map_or(Neighbour::Unknown, known))
    }

    /// The kernel's entry of a hop.
    fn entry(&self, route: &Route) -> Result<Option<NeighbourMessage>> {
        let (family, hop) = match route.hop {
            IpAddr::V4(hop) => (AddressFamily::Inet, NeighbourAddress::Inet(hop)),
            IpAddr::V6(hop) => (AddressFamily::Inet6, NeighbourAddress::Inet6(hop)),
        };
        let ask = self.handle.neighbours().get().set_address_family(family);
        let all = self.runtime.block_on(ask.execute().try_collect::<Vec<_>>());
        let all = all.context("can't list neighbours")?;
        let is_it = |message: &NeighbourMessage| {
            message.header.ifindex == route.device
                && message.attributes.contains(&NeighbourAttribute::Destination(hop.clone()))
        };
        Ok(all.into_iter().find(is_it))
    }

    /// Has the kernel resolve a hop now, and keep it resolved from now on, whoever lives.
    ///
    /// # Errors
    /// When the kernel refuses (it needs `CAP_NET_ADMIN`).
    pub fn keep_resolved(&self, route: &Route) -> Result<()> {
        let mut ask = self.handle.neighbours().add(route.device, route.hop).replace();
        ask.message_mut().header.state = NeighbourState::None;
        ask.message_mut().attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        self.runtime
            .block_on(ask.execute())
            .with_context(|| format!("can't have the kernel keep the neighbour {} resolved", route.hop))
    }

    /// Takes [`Network::keep_resolved`] back: the entry goes, and whoever has packets for the hop resolves it anew. True where
    /// there was one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn let_go(&self, route: &Route) -> Result<bool> {
        let Some(entry) = self.entry(route)?.filter(managed) else { return Ok(false) };
        self.runtime
            .block_on(self.handle.neighbours().del(entry).execute())
            .with_context(|| format!("can't let the neighbour {} go", route.hop))?;
        Ok(true)
    }

    /// Brings a device up, with a transmit queue of `queue` frames and without ARP.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bring_up(&self, index: u32, queue: u32) -> Result<()> {
        let link = LinkUnspec::new_with_index(index).up().arp(false).txqueuelen(queue);
        self.runtime.block_on(self.handle.link().change(link.build()).execute()).context("can't bring it up")
    }

    /// Packets that a device didn't take, or couldn't send, since it was made.
    ///
    /// # Errors
    /// When the kernel refuses, or there is no such device.
    pub fn dropped(&self, index: u32) -> Result<u64> {
        let mut links = pin!(self.handle.link().get().match_index(index).execute());
        let found = self.runtime.block_on(links.try_next()).context("can't ask for a device's counters")?;
        let link = found.context("there is no such device")?;
        let counted = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(counted) => Some(counted.tx_dropped),
            _ => None,
        });
        counted.context("the kernel tells no counters of that device")
    }

    /// Removes a device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&self, index: u32) -> Result<()> {
        self.runtime.block_on(self.handle.link().del(index).execute()).context("can't remove the device")
    }
}

fn device(message: &LinkMessage) -> Device {
    let mut device = Device {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        kind: String::new(),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        controller: None,
        vlan_of: None,
    };
    let (mut on, mut elsewhere) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Controller(index) => device.controller = Some(*index),
            LinkAttribute::Link(index) => on = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                let kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind_name(kind)),
                    _ => None,
                });
                device.kind = kind.unwrap_or_default();
            }
            _ => {}
        }
    }
    // An index of another network namespace may be a device's of this one, too.
    if device.kind == "vlan" && !elsewhere {
        device.vlan_of = on;
    }
    device
}

fn kind_name(kind: &InfoKind) -> String {
    match kind {
        InfoKind::Other(name) => name.clone(),
        kind => kind.to_string(),
    }
}

/// Whether the kernel was asked to keep it resolved.
fn managed(message: &NeighbourMessage) -> bool {
    message.attributes.iter().any(
        |a| matches!(a, NeighbourAttribute::ExtFlags(flags) if flags.contains(NeighbourExtFlags::Managed)),
    )
}

fn known(message: &NeighbourMessage) -> Neighbour {
    match message.header.state {
        NeighbourState::Permanent | NeighbourState::Noarp => Neighbour::Kept,
        NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => {
            if managed(message) {
                Neighbour::Kept
            } else {
                Neighbour::Known
            }
        }
        NeighbourState::Failed => Neighbour::Failed,
        NeighbourState::Incomplete => Neighbour::Asked,
        _ => Neighbour::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(state: NeighbourState, flags: NeighbourExtFlags) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.state = state;
        message.attributes.push(NeighbourAttribute::ExtFlags(flags));
        message
    }

    #[test]
    fn only_what_is_written_down_or_managed_is_kept() {
        let none = NeighbourExtFlags::empty();
        assert_eq!(known(&entry(NeighbourState::Permanent, none)), Neighbour::Kept);
        assert_eq!(known(&entry(NeighbourState::Stale, none)), Neighbour::Known);
        assert_eq!(known(&entry(NeighbourState::Reachable, NeighbourExtFlags::Managed)), Neighbour::Kept);
        assert_eq!(known(&entry(NeighbourState::Failed, NeighbourExtFlags::Managed)), Neighbour::Failed);
        assert!(!known(&entry(NeighbourState::Incomplete, none)).resolved());
    }

    /// Loopback is there in every namespace, needs no privilege, and has no neighbours.
    #[test]
    fn loopback_is_found() {
        let network = Network::open().unwrap();
        let lo = network.devices().unwrap().into_iter().find(|device| device.name == "lo").unwrap();
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            assert_eq!(network.device_with(address).unwrap(), Some(lo.index), "{address}");
            let route = network.route(address).unwrap();
            assert_eq!((route.device, route.hop, route.source), (lo.index, address, Some(address)));
        }
        assert_eq!(network.device_with(Ipv4Addr::new(192, 0, 2, 1).into()).unwrap(), None);
    }
}
