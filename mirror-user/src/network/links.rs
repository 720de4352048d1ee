//! Makes links, addresses and routes.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use anyhow::{Context, Result};
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::{InfoData, InfoVeth},
        route::RouteScope,
    },
};

use super::{Device, Network};

/// Bits of an address that stands for itself alone.
const HOST: u8 = 32;

impl Network {
    /// The device of this name.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn device_named(&self, name: &str) -> Result<Option<Device>> {
        Ok(self.devices()?.into_iter().find(|device| device.name == name))
    }

    /// Makes a pair of devices: one here, its peer in another network namespace.
    ///
    /// # Errors
    /// When the kernel refuses, as it does when there is a device of this name.
    pub fn add_veth(&self, name: &str, peer: &str, namespace: BorrowedFd<'_>) -> Result<()> {
        let peer = LinkUnspec::new_with_name(peer).setns_by_fd(namespace.as_raw_fd()).build();
        let pair =
            LinkMessageBuilder::<LinkVeth>::new(name, "").set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        let made = self.runtime.block_on(self.handle.link().add(pair.build()).execute());
        made.with_context(|| format!("can't make the pair of devices {name}"))
    }

    /// Brings a device up as it is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn up(&self, index: u32) -> Result<()> {
        let link = LinkUnspec::new_with_index(index).up().build();
        self.runtime.block_on(self.handle.link().change(link).execute()).context("can't bring it up")
    }

    /// Gives a device an address of its own, without a network around it; with a `peer` there is a route to that then,
    /// and packets to it come from the address. One that it has already is left.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give_address(&self, index: u32, address: Ipv4Addr, peer: Option<Ipv4Addr>) -> Result<()> {
        let mut ask = self.handle.address().add(index, IpAddr::V4(address), HOST).replace();
        ask.message_mut().attributes = vec![
            AddressAttribute::Local(IpAddr::V4(address)),
            AddressAttribute::Address(IpAddr::V4(peer.unwrap_or(address))),
        ];
        self.runtime
            .block_on(ask.execute())
            .with_context(|| format!("can't give the device {index} the address {address}"))
    }

    /// Adds a route to one address, over a router or right there on the device's link. One that is there is replaced.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give_route(&self, index: u32, to: Ipv4Addr, via: Option<Ipv4Addr>) -> Result<()> {
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, HOST).output_interface(index);
        let route = match via {
            Some(via) => route.gateway(via),
            None => route.scope(RouteScope::Link),
        };
        self.runtime
            .block_on(self.handle.route().add(route.build()).replace().execute())
            .with_context(|| format!("can't add a route to {to}"))
    }
}
