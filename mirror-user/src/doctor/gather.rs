//! Looks at the host. Nothing is judged here.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketType, netlink};

use super::{
    host::Host,
    way::{Port, Server, Way, Xdp},
};
use crate::{
    daemon::{BPF_FS_MAGIC, devices_of, forwarding::would_be_lost},
    device,
    network::{Device, Neighbour, Network},
    object,
    policy::{Endpoint, Policy},
    tap,
};

/// A file's text; empty where there is none.
pub(super) fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What the host has.
pub(super) fn host(pins: &Path) -> Host {
    let names = rustix::system::uname();
    let is_bpffs = |path: &Path| rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as u32 == BPF_FS_MAGIC);
    Host {
        release: names.release().to_string_lossy().into_owned(),
        version: names.version().to_string_lossy().into_owned(),
        status: read("/proc/self/status"),
        realtime: read("/sys/kernel/realtime"),
        bpffs: pins.ancestors().find(|path| path.exists()).is_some_and(is_bpffs),
        pins: pins.display().to_string(),
        tun: File::options().read(true).write(true).open("/dev/net/tun").err().map(|error| error.to_string()),
        ip_forward: read("/proc/sys/net/ipv4/ip_forward"),
        jit: read("/proc/sys/net/core/bpf_jit_enable"),
        conntrack: read("/proc/sys/net/netfilter/nf_conntrack_count"),
        object: object::embedded().is_some(),
    }
}

/// What lies on the way of a policy's packets.
///
/// # Errors
/// When the kernel doesn't answer.
pub(super) fn way(policy: &Policy) -> Result<Way> {
    let network = Network::open()?;
    let devices = network.devices()?;
    let of_address = |address: IpAddr| -> Result<Option<Device>> {
        let index = network.device_with(address)?;
        Ok(devices.iter().find(|device| Some(device.index) == index).cloned())
    };
    let vips: Vec<_> = policy.addresses().into_iter().map(of_address).collect::<Result<_>>()?;
    let servers: Vec<Server> =
        policy.servers().map(|one| server(&network, one.end, one.at)).collect::<Result<_>>()?;
    // Where the policy's own devices aren't known, what is known of them is looked at all the same.
    let names = devices_of(policy, &network, &devices).unwrap_or_default();
    let on_the_way = |device: &Device| {
        let reached =
            servers.iter().any(|s| s.route.as_ref().is_ok_and(|route| route.device == device.index));
        let clients =
            vips.iter().flatten().any(|vip| vip.index == device.index && !vip.holds_addresses_alone());
        names.contains(&device.name) || reached || clients
    };
    let ports = devices.iter().filter(|device| on_the_way(device));
    let ports = ports.map(|device| port(device.clone(), device.is_below_vlans(&devices))).collect();
    let tap = setting(6, tap::NAME, "forwarding");
    let routes_lost = if setting(6, "all", "forwarding") == Some(1) { Vec::new() } else { would_be_lost() };
    Ok(Way { vips, ports, servers, tap_forwards_six: tap.map(|on| on == 1), routes_lost })
}

fn server(network: &Network, side: &Endpoint, at: SocketAddr) -> Result<Server> {
    let route = network.route(at.ip()).map_err(|error| format!("{error:#}"));
    let neighbour = match &route {
        Ok(route) => network.neighbour(route)?,
        Err(_) => Neighbour::Unknown,
    };
    let nat_device = side.nat().own().map(|nat| network.device_with(nat)).transpose()?.flatten();
    Ok(Server { route, neighbour, nat_device })
}

/// A setting of a device, or of all, for a version of IP; nothing where there is no such device, or no such version.
fn setting(ip: u8, device: &str, key: &str) -> Option<u32> {
    read(format!("/proc/sys/net/ipv{ip}/conf/{device}/{key}")).trim().parse().ok()
}

fn port(device: Device, below_vlans: bool) -> Port {
    let name = &device.name;
    Port {
        driver: device::driver(name).map_err(|error| format!("{error:#}")),
        xdp: xdp(device.index).ok(),
        hides_vlans: below_vlans && device::takes_tags_off(name).unwrap_or(false),
        rp_filter: setting(4, name, "rp_filter").max(setting(4, "all", "rp_filter")).unwrap_or(0),
        forwarding: setting(4, name, "forwarding") == Some(1),
        forwards_six: setting(6, name, "forwarding") == Some(1),
        device,
    }
}

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, and the attributes of the answer.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// linux/netdev.h: `NETDEV_CMD_DEV_GET`, the device's index and its XDP features.
const GET_DEVICE: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC | NETDEV_XDP_ACT_REDIRECT`.
const BASIC_AND_REDIRECT: u64 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const TAKES: u64 = 4;

/// What a driver says that it can do with XDP.
fn xdp(index: u32) -> Result<Xdp> {
    let family = ask(CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0")?;
    let id = attribute(&family, FAMILY_ID).and_then(|bytes| bytes.get(..2)?.try_into().ok());
    let id = u16::from_ne_bytes(id.context("this kernel doesn't tell its devices' XDP features")?);
    let answer = ask(id, GET_DEVICE, DEVICE_INDEX, &index.to_ne_bytes())?;
    let features = attribute(&answer, XDP_FEATURES).and_then(|bytes| bytes.get(..8)?.try_into().ok());
    let features = u64::from_ne_bytes(features.context("the device doesn't tell its XDP features")?);
    Ok(Xdp { native: features & BASIC_AND_REDIRECT == BASIC_AND_REDIRECT, takes: features & TAKES != 0 })
}

/// Asks generic netlink with one attribute; returns the answer's attributes.
fn ask(family: u16, command: u8, kind: u16, value: &[u8]) -> Result<Vec<u8>> {
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::GENERIC))?;
    let mut attribute = Vec::new();
    attribute.extend((value.len() as u16 + 4).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    // nlmsghdr (16 bytes: length, family, NLM_F_REQUEST, sequence, port), genlmsghdr (4 bytes: command, version).
    let mut message = Vec::new();
    message.extend((20 + attribute.len() as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(1_u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attribute);
    rustix::net::send(&socket, &message, rustix::net::SendFlags::empty())?;
    let mut answer = vec![0; 16_384];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], rustix::net::RecvFlags::empty())?;
    answer.truncate(length);
    // Type 2 is NLMSG_ERROR.
    anyhow::ensure!(answer.get(4..6) != Some(&2_u16.to_ne_bytes()[..]), "generic netlink refuses");
    Ok(answer.split_off(20.min(answer.len())))
}

/// A netlink attribute's value.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_others_and_broken_ones_end_the_search() {
        let bytes = [5, 0, 1, 0, 9, 0, 0, 0, 8, 0, 3, 0, 1, 2, 3, 4];
        assert_eq!(attribute(&bytes, 3), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&bytes, 1), Some(&[9][..]));
        assert_eq!(attribute(&bytes, 2), None);
        assert_eq!(attribute(&[200, 0, 1, 0, 9], 1), None);
        assert_eq!(attribute(&[0, 0, 1, 0, 9], 2), None);
    }

    /// Loopback has no XDP of its own, and says so on every kernel that is supported.
    #[test]
    fn loopback_says_that_it_has_no_native_xdp() {
        assert_eq!(xdp(1).unwrap(), Xdp { native: false, takes: false });
    }
}
