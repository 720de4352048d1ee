//! What a policy says of its services and of their servers, once it holds.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mirror_common::switch_word::Side;
use mirror_control::driver::Check;

use super::{Capacity, Endpoint, Policy, Resources, Service, process::Process};

/// A server, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// Its service.
    pub service: &'a Service,
    /// Its side.
    pub side: Side,
    /// What all servers of that side share.
    pub end: &'a Endpoint,
    /// Where it is.
    pub at: SocketAddr,
}

impl Server<'_> {
    /// Whose it is, in words: `primary`, or `primary of api`.
    pub fn whose(&self) -> String {
        match self.service.name() {
            Some(name) => format!("{} of {name}", self.side.name()),
            None => self.side.name().to_owned(),
        }
    }
}

impl Policy {
    /// What clients talk to; one at least. Each has its own servers, and all are moved as one.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// Whether it is about several services: then whoever speaks of one names it.
    pub fn has_several(&self) -> bool {
        self.services.len() > 1
    }

    /// Whether there is a copy.
    pub fn has_shadow(&self) -> bool {
        self.services.iter().any(|service| service.side(Side::Shadow).is_some())
    }

    /// Every server of every service.
    pub fn servers(&self) -> impl Iterator<Item = Server<'_>> {
        self.services.iter().flat_map(|service| {
            service.sides().flat_map(move |(side, end)| {
                end.servers().iter().map(move |at| Server { service, side, end, at: *at })
            })
        })
    }

    /// Where a side's use of resources is read.
    pub fn resources(&self, side: Side) -> Option<&Resources> {
        self.means(side)?.resources.as_ref()
    }

    /// How large a side is, where it says so.
    pub fn capacity(&self, side: Side) -> Option<Capacity> {
        self.means(side)?.capacity
    }

    /// What the shadow is where it is provisioned on this host.
    pub fn process(&self) -> Option<&Process> {
        self.means(Side::Shadow)?.process.as_ref()
    }

    /// Where the policy doesn't say how the shadow's use of resources is read, it is so.
    pub fn read_shadow_by(&mut self, resources: Resources) {
        self.shadow.get_or_insert_default().resources.get_or_insert(resources);
    }

    pub(super) fn means(&self, side: Side) -> Option<&Endpoint> {
        match side {
            Side::Primary => self.primary.as_ref(),
            Side::Shadow => self.shadow.as_ref(),
        }
    }

    /// The addresses that clients talk to, each once.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in self.services.iter().flat_map(Service::addresses) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// How the health of a service's servers is checked.
    pub fn check(&self, service: &Service) -> Check {
        self.migration.check(service, self.has_several())
    }

    /// Whether an address that clients talk to is a primary's own, and this host a router on its clients' way there.
    pub fn is_transparent(&self, address: IpAddr) -> bool {
        self.services
            .iter()
            .any(|service| service.addresses().any(|own| own == address) && service.is_transparent(address))
    }

    /// Whether clients may be of IPv6.
    pub fn has_six(&self) -> bool {
        self.services.iter().any(Service::has_six)
    }

    /// Whether servers see IPv6 addresses of clients.
    pub fn keeps_six(&self) -> bool {
        self.servers().any(|server| server.at.is_ipv6() && server.end.nat().own().is_none())
    }

    /// How many ports have datagrams.
    pub fn datagram_ports(&self) -> u32 {
        self.services.iter().map(Service::datagram_ports).sum()
    }

    /// The IPv6 addresses in it: the services', the servers', our own.
    pub fn six(&self) -> impl Iterator<Item = Ipv6Addr> {
        let servers = self.servers().map(|server| server.at.ip());
        let own = self.services.iter().flat_map(Service::sides).filter_map(|(_, end)| end.nat().own());
        self.addresses().into_iter().chain(servers).chain(own).filter_map(|address| match address {
            IpAddr::V6(six) => Some(six),
            IpAddr::V4(_) => None,
        })
    }
}
