//! The pair of devices between the gateway's host and a namespace, its addresses and its routes.

use std::{net::Ipv4Addr, os::fd::AsFd as _};

use anyhow::{Context, Result, bail};
use mirror_control::driver::{Egress, Link};

use super::namespace;
use crate::{
    device::set_offloads,
    moves::fault,
    network::{Device, Network},
};

/// The instance's end.
const INNER: &str = "eth0";

/// Makes the pair, or finds it made, and gives both ends their addresses.
///
/// Legs come from the gateway's address, whose ports are all the gateway's; what the host itself sends to the instance (the
/// join hook, health checks) comes from another address, so that the two can't be mistaken for each other.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn make(link: &Link) -> Result<()> {
    let host = Network::open()?;
    let outer = match (host.device_named(&link.device)?, inner(&link.namespace)?) {
        (Some(outer), Some(_)) => outer,
        (found, _) => {
            // One without its other end is of a namespace that is no more.
            if let Some(stale) = found {
                host.remove(stale.index)?;
            }
            host.add_veth(&link.device, INNER, namespace::open(&link.namespace)?.as_fd())?;
            fault("provision-link-bare");
            host.device_named(&link.device)?.with_context(|| format!("{} is gone at once", link.device))?
        }
    };
    host.give_address(outer.index, link.gateway, None)?;
    host.give_address(outer.index, link.host, Some(link.address))?;
    host.up(outer.index)?;
    namespace::within(&link.namespace, || {
        let network = Network::open()?;
        let inner = network.device_named(INNER)?.context("the instance's end is gone")?;
        network.give_address(inner.index, link.address, None)?;
        network.up(inner.index)?;
        for to in [link.gateway, link.host] {
            network.give_route(inner.index, to, None)?;
        }
        // Without GRO a veth drops what XDP at the other end redirects to it.
        set_offloads(INNER, true, !link.xdp)
    })??;
    // With its address the kernel has made a route to the instance; a policy route may still lead elsewhere.
    let route = host.route(link.address.into())?;
    if route.device != outer.index {
        bail!("packets to {} leave by another device than {}", link.address, link.device);
    }
    Ok(())
}

fn inner(name: &str) -> Result<Option<Device>> {
    namespace::within(name, || Network::open()?.device_named(INNER))?
}

/// Routes from the instance to the addresses that it may talk to.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn let_out(egress: &Egress) -> Result<()> {
    namespace::within(&egress.namespace, || {
        let network = Network::open()?;
        let inner = network.device_named(INNER)?.context("the instance's end is gone")?;
        egress.to.iter().try_for_each(|to| network.give_route(inner.index, *to, Some(egress.via)))
    })?
}

/// Removes the pair; one that isn't there is fine.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn remove(device: &str) -> Result<()> {
    let host = Network::open()?;
    match host.device_named(device)? {
        Some(found) => host.remove(found.index),
        None => Ok(()),
    }
}

/// Whose address of this host this is, if it is one: the device's name.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn holder(address: Ipv4Addr) -> Result<Option<String>> {
    let host = Network::open()?;
    let Some(index) = host.device_with(address.into())? else { return Ok(None) };
    Ok(host.devices()?.into_iter().find(|device| device.index == index).map(|device| device.name))
}
