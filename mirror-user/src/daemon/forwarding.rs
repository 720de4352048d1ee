//! Switches the kernel's own forwarding on: route look-ups of the datapath need it, for each family that it has.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{policy::Policy, tap};

const FOUR: &str = "/proc/sys/net/ipv4/ip_forward";
const SIX: &str = "/proc/sys/net/ipv6/conf";
/// Every IPv6 route; what is learned from a router's advertisement has a flag of its own.
const ROUTES: &str = "/proc/net/ipv6_route";
/// `RTF_ADDRCONF` of linux/ipv6_route.h.
const ADVERTISED: u32 = 0x0004_0000;

/// Switches forwarding on where it is off.
///
/// # Errors
/// When the kernel refuses; and where this would cost the host its default route.
pub(super) fn switch_on(policy: &Policy) -> Result<()> {
    set(Path::new(FOUR)).context("can't switch forwarding on: sysctl -w net.ipv4.ip_forward=1")?;
    if policy.six().next().is_none() {
        return Ok(());
    }
    ensure!(
        Path::new(SIX).exists(),
        "the policy has IPv6 addresses, and this kernel has no IPv6 (ipv6.disable=1 on its command line?)"
    );
    let all = Path::new(SIX).join("all/forwarding");
    if fs::read_to_string(&all)?.trim() != "1" {
        let lost = would_be_lost();
        ensure!(
            lost.is_empty(),
            "IPv6 forwarding is off, and switched on it makes the kernel forget the default route that a router advertised: {}",
            lost.iter().map(|device| keep(device)).collect::<Vec<_>>().join("; ")
        );
    }
    set(&all).context("can't switch IPv6 forwarding on: sysctl -w net.ipv6.conf.all.forwarding=1")
}

/// What lets a device keep what a router advertises to it.
pub(crate) fn keep(device: &str) -> String {
    format!("sysctl -w net.ipv6.conf.{device}.accept_ra=2")
}

/// A route look-up for a packet that was held asks for the device that it comes in by again.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn switch_on_tap(policy: &Policy) -> Result<()> {
    if policy.six().next().is_none() {
        return Ok(());
    }
    let path = Path::new(SIX).join(tap::NAME).join("forwarding");
    set(&path).with_context(|| {
        format!("can't switch forwarding on: sysctl -w net.ipv6.conf.{}.forwarding=1", tap::NAME)
    })
}

fn set(path: &Path) -> std::io::Result<()> {
    if fs::read_to_string(path)?.trim() == "1" { Ok(()) } else { fs::write(path, "1") }
}

/// The devices whose advertised default route the kernel forgets when forwarding is switched on: it keeps those of
/// devices with `accept_ra` 2 (`rt6_purge_dflt_routers`).
pub(crate) fn would_be_lost() -> Vec<String> {
    let mut devices = advertised(&fs::read_to_string(ROUTES).unwrap_or_default());
    devices.retain(|device| {
        let accepts = fs::read_to_string(Path::new(SIX).join(device).join("accept_ra"));
        accepts.is_ok_and(|accepts| accepts.trim() != "2")
    });
    devices
}

/// The devices with a default route that a router has advertised, of the lines of `/proc/net/ipv6_route`: destination,
/// its bits, source, its bits, next hop, metric, references, uses, flags (all hexadecimal), device.
fn advertised(routes: &str) -> Vec<String> {
    let device = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, bits, .., flags, device] = fields.as_slice() else { return None };
        let is_default = *bits == "00" && destination.bytes().all(|digit| digit == b'0');
        let flags = u32::from_str_radix(flags, 16).ok()?;
        (is_default && flags & ADVERTISED != 0).then(|| (*device).to_owned())
    };
    let mut devices: Vec<String> = routes.lines().filter_map(device).collect();
    devices.sort();
    devices.dedup();
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_that_a_router_advertised_are_found() {
        let zeros = "00000000000000000000000000000000";
        let routes = format!(
            "{zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0\n\
             {zeros} 00 {zeros} 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003     eth1\n\
             20010db8000000000000000000000000 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00040001     eth2\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n"
        );
        assert_eq!(advertised(&routes), ["eth0"]);
        assert!(advertised("").is_empty());
    }
}
