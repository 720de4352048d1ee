//! Looks at the host. Nothing is judged here.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::Result;

use super::{
    host::Host,
    way::{Port, Server, Way},
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
        xdp: device::xdp::features(device.index).ok(),
        hides_vlans: below_vlans && device::takes_tags_off(name).unwrap_or(false),
        rp_filter: setting(4, name, "rp_filter").max(setting(4, "all", "rp_filter")).unwrap_or(0),
        forwarding: setting(4, name, "forwarding") == Some(1),
        forwards_six: setting(6, name, "forwarding") == Some(1),
        device,
    }
}
