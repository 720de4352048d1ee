//! What clients talk to: an address, or one of each family; one port or several.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
};

use serde::Deserialize;

use super::{WeightBy, address};

/// Ports of one application at most.
const MAX_PORTS: usize = 64;

/// What clients talk to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Address and port.
    #[serde(deserialize_with = "address::socket")]
    pub vip: SocketAddr,
    /// An IPv6 address that serves the same ports, where `vip` is of IPv4.
    #[serde(default, deserialize_with = "address::six")]
    pub vip6: Option<Ipv6Addr>,
    /// Where a side has several servers: which of them a connection goes to.
    #[serde(default)]
    pub affinity: Affinity,
    /// Its other ports, 63 at most: they are joined, shifted and moved together with the first.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// Which of a side's servers a connection goes to.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// Each connection on its own, by its client's address and port.
    #[default]
    Connection,
    /// All connections of a client's address to the same one, where that is well. For clients of IPv4.
    Client,
}

/// A further port of the same application, at the same addresses.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// What clients talk to.
    pub port: NonZeroU16,
    /// The primary's port; without it the same.
    pub primary: Option<NonZeroU16>,
    /// The shadow's port; without it the same.
    pub shadow: Option<NonZeroU16>,
}

impl Service {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.vip.ip()).chain(self.vip6.map(IpAddr::V6))
    }

    /// Whether its clients may be of IPv6.
    pub fn has_six(&self) -> bool {
        self.addresses().any(|address| address.is_ipv6())
    }

    /// Each port of each address: what clients talk to, and where the two sides listen; nothing where each server's own port
    /// says that, for the first one.
    pub fn all(&self) -> impl Iterator<Item = (SocketAddr, [Option<u16>; 2])> {
        let further = self.ports.iter().map(|port| {
            let of = |side: Option<NonZeroU16>| Some(side.unwrap_or(port.port).get());
            (port.port.get(), [of(port.primary), of(port.shadow)])
        });
        let ports: Vec<_> = std::iter::once((self.vip.port(), [None; 2])).chain(further).collect();
        self.addresses().flat_map(move |address| {
            let at = move |(port, sides)| (SocketAddr::new(address, port), sides);
            ports.clone().into_iter().map(at)
        })
    }

    /// What doesn't hold.
    pub(super) fn fault(&self, weight_by: WeightBy) -> Option<String> {
        if weight_by == WeightBy::Client && self.has_six() {
            let what = "`weight_by = \"client\"` tells clients by IPv4 addresses: each connection of IPv6 would be a client";
            return Some(what.into());
        }
        if self.affinity == Affinity::Client && self.has_six() {
            let what = "`affinity = \"client\"` tells clients by IPv4 addresses: each connection of IPv6 would be a client";
            return Some(what.into());
        }
        if self.vip6.is_some() && self.vip.is_ipv6() {
            return Some("`vip` is of IPv6 already: `vip6` stands beside an IPv4 `vip`".into());
        }
        if self.ports.len() >= MAX_PORTS {
            return Some(format!("{MAX_PORTS} ports at most"));
        }
        let mut seen = BTreeSet::from([self.vip.port()]);
        let twice = self.ports.iter().find(|port| !seen.insert(port.port.get()))?;
        Some(format!("port {} is there twice", twice.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_the_same_on_both_sides_unless_it_is_said() {
        let service: Service =
            toml::from_str("vip = \"10.0.0.1:80\"\nports = [{ port = 81 }, { port = 82, shadow = 8082 }]")
                .unwrap();
        let all: Vec<_> = service.all().map(|(vip, servers)| (vip.port(), servers)).collect();
        let some = |ports: [u16; 2]| ports.map(Some);
        assert_eq!(all, [(80, [None; 2]), (81, some([81, 81])), (82, some([82, 8_082]))]);
        assert!(service.all().all(|(vip, _)| vip.ip() == service.vip.ip()));
        assert_eq!(service.fault(WeightBy::Request), None);
    }

    #[test]
    fn an_ipv6_address_beside_the_other_has_the_same_ports() {
        let text = "vip = \"10.0.0.1:80\"\nvip6 = \"2001:db8::77\"\nports = [{ port = 82, shadow = 8082 }]";
        let service: Service = toml::from_str(text).unwrap();
        let all: Vec<_> = service.all().map(|(vip, servers)| (vip.to_string(), servers[1])).collect();
        let expected = [
            ("10.0.0.1:80", None),
            ("10.0.0.1:82", Some(8_082)),
            ("[2001:db8::77]:80", None),
            ("[2001:db8::77]:82", Some(8_082)),
        ];
        assert_eq!(all, expected.map(|(vip, port)| (vip.to_owned(), port)));
        assert_eq!(service.fault(WeightBy::Request), None);
    }

    #[test]
    fn there_are_not_too_many() {
        let port = |n: u16| Port { port: NonZeroU16::new(n).unwrap(), primary: None, shadow: None };
        let vip = "10.0.0.1:80".parse().unwrap();
        let mut service =
            Service { vip, vip6: None, affinity: Affinity::Client, ports: (100..163).map(port).collect() };
        assert_eq!(service.fault(WeightBy::Request), None);
        service.ports.push(port(200));
        assert!(service.fault(WeightBy::Request).unwrap().contains("at most"));
    }
}
