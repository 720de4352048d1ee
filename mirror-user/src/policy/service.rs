//! What clients talk to: one address, one port or several.

use std::{collections::BTreeSet, net::SocketAddrV4, num::NonZeroU16};

use serde::Deserialize;

/// Ports of one application at most.
const MAX_PORTS: usize = 64;

/// What clients talk to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Address and port.
    pub vip: SocketAddrV4,
    /// Its other ports, 63 at most: they are joined, shifted and moved together with the first.
    #[serde(default)]
    pub ports: Vec<Port>,
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
    /// Each port: what clients talk to, and where the two sides listen, whose first ports are given.
    pub fn all(&self, first: [u16; 2]) -> impl Iterator<Item = (SocketAddrV4, [u16; 2])> {
        let further = self.ports.iter().map(|port| {
            let of = |side: Option<NonZeroU16>| side.unwrap_or(port.port).get();
            (SocketAddrV4::new(*self.vip.ip(), port.port.get()), [of(port.primary), of(port.shadow)])
        });
        std::iter::once((self.vip, first)).chain(further)
    }

    /// What doesn't hold.
    pub(super) fn fault(&self) -> Option<String> {
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
        let all: Vec<_> = service.all([8_000, 9_000]).map(|(vip, servers)| (vip.port(), servers)).collect();
        assert_eq!(all, [(80, [8_000, 9_000]), (81, [81, 81]), (82, [82, 8_082])]);
        assert!(service.all([0; 2]).all(|(vip, _)| vip.ip() == service.vip.ip()));
        assert_eq!(service.fault(), None);
    }

    #[test]
    fn there_are_not_too_many() {
        let port = |n: u16| Port { port: NonZeroU16::new(n).unwrap(), primary: None, shadow: None };
        let mut service =
            Service { vip: "10.0.0.1:80".parse().unwrap(), ports: (100..163).map(port).collect() };
        assert_eq!(service.fault(), None);
        service.ports.push(port(200));
        assert!(service.fault().unwrap().contains("at most"));
    }
}
