//! What clients talk to: an address, or one of each family; one port or several; and whose servers answer there.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
};

use serde::Deserialize;

use mirror_common::{abi, switch_word::Side};

use super::{Name, address, process::Health, side::Endpoint};

/// Ports of one service at most.
const MAX_PORTS: usize = 64;

/// What clients talk to: one address of each family, one port or several, and the servers of both sides. `[service]` is the only
/// one of its application; several are `[[services]]`, which share one switch word: they are joined, shifted and moved as one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// What it is called; must be given where there are several.
    pub name: Option<Name>,
    /// Address and port.
    #[serde(deserialize_with = "address::socket")]
    pub vip: SocketAddr,
    /// An IPv6 address that serves the same ports, where `vip` is of IPv4.
    #[serde(default, deserialize_with = "address::six")]
    pub vip6: Option<Ipv6Addr>,
    /// Where a side has several servers: which of them a connection goes to.
    #[serde(default)]
    pub affinity: Affinity,
    /// What clients speak.
    #[serde(default)]
    pub protocol: Protocol,
    /// Of UDP: what its datagrams are. Without it those of port 53 are DNS messages, and others must be named.
    pub datagrams: Option<Datagrams>,
    /// Its other ports, 63 at most: they are joined, shifted and moved together with the first.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// How its servers are asked whether they are well: `"tcp"`, or a path; without it as `health` of `[migration]` says.
    pub health: Option<Health>,
    /// In `[[services]]`: its present servers, as in `[primary]`.
    pub(super) primary: Option<Endpoint>,
    /// In `[[services]]`: its copy's servers, as in `[shadow]`.
    pub(super) shadow: Option<Endpoint>,
}

/// Which of a side's servers a connection goes to.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// Each connection on its own, by its client's address and port.
    #[default]
    Connection,
    /// All connections of a client's address to the same one, where that is well.
    Client,
}

/// What clients speak.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams (RFC 768).
    Udp,
}

/// What a client's datagrams are.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Datagrams {
    /// DNS messages: a query is a read, an update, a notification and all else a write.
    Dns,
    /// Each is a read: it changes nothing.
    Reads,
    /// Each may change something.
    Writes,
}

/// Where DNS is spoken.
pub const DNS_PORT: u16 = 53;

impl Datagrams {
    /// How the datapath is told: of [`abi::Service::flags`].
    pub const fn flags(self) -> u32 {
        match self {
            Self::Dns => abi::Service::DNS,
            Self::Writes => abi::Service::WRITES,
            Self::Reads => 0,
        }
    }
}

/// A further port of the same service, at the same addresses.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// What clients talk to.
    pub port: NonZeroU16,
    /// The primary's port; without it the same.
    pub primary: Option<NonZeroU16>,
    /// The shadow's port; without it the same.
    pub shadow: Option<NonZeroU16>,
    /// What clients speak there; without it what they speak at the first port.
    pub protocol: Option<Protocol>,
    /// Of UDP: what its datagrams are, as at the first port.
    pub datagrams: Option<Datagrams>,
}

/// One port of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// What clients talk to.
    pub vip: SocketAddr,
    /// Where the two sides listen; `None`: each server at its own port.
    pub ports: [Option<u16>; 2],
    /// What is spoken; `Some`: over UDP.
    pub datagrams: Option<Datagrams>,
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.vip, if self.datagrams.is_some() { "udp" } else { "tcp" })
    }
}

impl Protocol {
    /// What the datagrams of a port are, by what the policy says of them; `None`: there are none.
    fn datagrams(self, port: u16, said: Option<Datagrams>) -> Option<Datagrams> {
        match self {
            Self::Tcp => None,
            Self::Udp if port == DNS_PORT => Some(said.unwrap_or(Datagrams::Dns)),
            // What isn't said may change something; such a policy doesn't hold.
            Self::Udp => Some(said.unwrap_or(Datagrams::Writes)),
        }
    }
}

impl Service {
    /// A side's servers; nothing where there is no such side.
    pub fn side(&self, side: Side) -> Option<&Endpoint> {
        match side {
            Side::Primary => self.primary.as_ref(),
            Side::Shadow => self.shadow.as_ref(),
        }
    }

    /// The primary's servers, and the shadow's where there is one.
    pub fn sides(&self) -> impl Iterator<Item = (Side, &Endpoint)> {
        Side::BOTH.into_iter().filter_map(|side| Some((side, self.side(side)?)))
    }

    /// What it is called, where it is called anything.
    pub fn name(&self) -> Option<&str> {
        self.name.as_ref().map(Name::as_str)
    }

    /// Its name as the end of a variable's.
    pub fn variable(&self) -> Option<String> {
        Some(self.name()?.to_ascii_uppercase().replace('-', "_"))
    }

    /// Whether an address of its is its own primary's, and this host a router on its clients' way there.
    pub fn is_transparent(&self, address: IpAddr) -> bool {
        self.primary.iter().flat_map(Endpoint::servers).any(|server| server.ip() == address)
    }

    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.vip.ip()).chain(self.vip6.map(IpAddr::V6))
    }

    /// Whether its clients may be of IPv6.
    pub fn has_six(&self) -> bool {
        self.addresses().any(|address| address.is_ipv6())
    }

    /// Its ports: number, the two sides' (nothing where each server's own port says that, for the first one), what is spoken,
    /// and what is said of datagrams.
    fn each(&self) -> impl Iterator<Item = (u16, [Option<u16>; 2], Protocol, Option<Datagrams>)> {
        let further = self.ports.iter().map(|port| {
            let of = |side: Option<NonZeroU16>| Some(side.unwrap_or(port.port).get());
            let sides = [of(port.primary), of(port.shadow)];
            (port.port.get(), sides, port.protocol.unwrap_or(self.protocol), port.datagrams)
        });
        std::iter::once((self.vip.port(), [None; 2], self.protocol, self.datagrams)).chain(further)
    }

    /// Each port of each address: what clients talk to, and where the two sides listen.
    pub fn all(&self) -> impl Iterator<Item = Listener> {
        let ports: Vec<_> = self.each().collect();
        self.addresses().flat_map(move |address| {
            let at = move |(port, ports, protocol, said): (u16, _, Protocol, _)| {
                let vip = SocketAddr::new(address, port);
                Listener { vip, ports, datagrams: protocol.datagrams(port, said) }
            };
            ports.clone().into_iter().map(at)
        })
    }

    /// How many of its ports have datagrams.
    pub fn datagram_ports(&self) -> u32 {
        self.each().filter(|(_, _, protocol, _)| *protocol == Protocol::Udp).count() as u32
    }

    /// Whether any has.
    pub fn has_datagrams(&self) -> bool {
        self.datagram_ports() > 0
    }

    /// Whether its first port has DNS messages over UDP.
    pub(super) fn asks_dns(&self) -> bool {
        self.protocol.datagrams(self.vip.port(), self.datagrams) == Some(Datagrams::Dns)
    }

    /// What doesn't hold of its datagrams.
    fn datagrams_fault(&self) -> Option<String> {
        for (port, _, protocol, said) in self.each() {
            match (protocol, said) {
                (Protocol::Tcp, Some(_)) => {
                    return Some(format!(
                        "`datagrams` is for `protocol = \"udp\"`, and port {port} speaks TCP"
                    ));
                }
                (Protocol::Udp, None) if port != DNS_PORT => {
                    let what = "say what its datagrams are: `datagrams = \"dns\"`, \"reads\" or \"writes\"";
                    return Some(format!("port {port} speaks UDP: {what}"));
                }
                _ => {}
            }
        }
        None
    }

    /// What doesn't hold.
    pub(super) fn fault(&self) -> Option<String> {
        if self.vip6.is_some() && self.vip.is_ipv6() {
            return Some("`vip` is of IPv6 already: `vip6` stands beside an IPv4 `vip`".into());
        }
        if self.ports.len() >= MAX_PORTS {
            return Some(format!("{MAX_PORTS} ports at most"));
        }
        if let Some(what) = self.datagrams_fault() {
            return Some(what);
        }
        let mut seen = BTreeSet::new();
        let twice = self.each().find(|(port, _, protocol, _)| !seen.insert((*port, *protocol)))?;
        Some(format!("port {} is there twice", twice.0))
    }
}

#[cfg(test)]
mod tests {
    use mirror_control::driver::Check;

    use super::{super::Policy, *};

    #[test]
    fn a_port_is_the_same_on_both_sides_unless_it_is_said() {
        let service: Service =
            toml::from_str("vip = \"10.0.0.1:80\"\nports = [{ port = 81 }, { port = 82, shadow = 8082 }]")
                .unwrap();
        let all: Vec<_> = service.all().map(|one| (one.vip.port(), one.ports)).collect();
        let some = |ports: [u16; 2]| ports.map(Some);
        assert_eq!(all, [(80, [None; 2]), (81, some([81, 81])), (82, some([82, 8_082]))]);
        assert!(service.all().all(|one| one.vip.ip() == service.vip.ip()));
        assert_eq!(service.fault(), None);
    }

    #[test]
    fn an_ipv6_address_beside_the_other_has_the_same_ports() {
        let text = "vip = \"10.0.0.1:80\"\nvip6 = \"2001:db8::77\"\nports = [{ port = 82, shadow = 8082 }]";
        let service: Service = toml::from_str(text).unwrap();
        let all: Vec<_> = service.all().map(|one| (one.vip.to_string(), one.ports[1])).collect();
        let expected = [
            ("10.0.0.1:80", None),
            ("10.0.0.1:82", Some(8_082)),
            ("[2001:db8::77]:80", None),
            ("[2001:db8::77]:82", Some(8_082)),
        ];
        assert_eq!(all, expected.map(|(vip, port)| (vip.to_owned(), port)));
        assert_eq!(service.fault(), None);
    }

    #[test]
    fn one_port_may_speak_both_protocols_and_datagrams_are_said() {
        let text = "vip = \"10.0.0.1:53\"\nprotocol = \"udp\"\n\
                    ports = [{ port = 53, protocol = \"tcp\" }, { port = 5353, datagrams = \"reads\" }]";
        let service: Service = toml::from_str(text).unwrap();
        assert_eq!(service.fault(), None);
        let spoken: Vec<_> = service.all().map(|one| (one.vip.port(), one.datagrams)).collect();
        assert_eq!(spoken, [(53, Some(Datagrams::Dns)), (53, None), (5_353, Some(Datagrams::Reads))]);
        for (text, says) in [
            ("vip = \"10.0.0.1:53\"\ndatagrams = \"dns\"", "speaks TCP"),
            ("vip = \"10.0.0.1:514\"\nprotocol = \"udp\"", "say what its datagrams are"),
            ("vip = \"10.0.0.1:53\"\nprotocol = \"udp\"\nports = [{ port = 53 }]", "twice"),
        ] {
            let service: Service = toml::from_str(text).unwrap();
            let fault = service.fault().unwrap_or_default();
            assert!(fault.contains(says), "{text}: {fault}");
        }
    }

    #[test]
    fn a_name_server_is_asked_over_both_protocols_at_one_port() {
        let policy = Policy::parse("dns.toml", include_str!("../../../policies/dns.toml")).unwrap();
        let spoken: Vec<_> = policy.services()[0].all().map(|one| (one.vip.port(), one.datagrams)).collect();
        assert_eq!(spoken, [(53, Some(Datagrams::Dns)), (53, None)]);
        assert_eq!(policy.check(&policy.services()[0]), Check::Dns);
        let http = Policy::parse("http.toml", include_str!("../../../policies/http.toml")).unwrap();
        assert_eq!((http.check(&http.services()[0]), http.datagram_ports()), (Check::Tcp, 0));
    }

    #[test]
    fn there_are_not_too_many() {
        let port = |n: u16| toml::from_str::<Port>(&format!("port = {n}")).unwrap();
        let mut service: Service = toml::from_str("vip = \"10.0.0.1:80\"").unwrap();
        service.ports = (100..163).map(port).collect();
        assert_eq!(service.fault(), None);
        service.ports.push(port(200));
        assert!(service.fault().unwrap().contains("at most"));
    }
}
