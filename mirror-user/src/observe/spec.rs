//! What is to be observed.

use std::{
    fmt,
    net::{SocketAddr, SocketAddrV4},
    str::FromStr,
    time::Duration,
};

use mirror_common::switch_word::Side;

use crate::policy::{DNS_PORT, Datagrams, Policy};

/// A service as it is addressed where it passes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its address.
    pub service: SocketAddrV4,
    /// Over UDP, and then what its datagrams are.
    pub datagrams: Option<Datagrams>,
    /// What it is called, where it is called anything.
    pub name: Option<String>,
}

/// What is to be observed, and how.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The service.
    pub target: Target,
    /// Devices; none: all.
    pub devices: Vec<String>,
    /// For how long.
    pub time: Duration,
    /// One of so many connections, chosen by their clients' ports; a power of two.
    pub sample: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.datagrams.is_some() { "/udp" } else { "" };
        write!(f, "{}{protocol}", self.service)
    }
}

/// `ADDRESS:PORT`, or with `/tcp` or `/udp` behind it.
impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let service = match address.parse() {
            Ok(SocketAddr::V4(service)) => service,
            Ok(SocketAddr::V6(_)) => return Err("IPv6 is mirrored, but not observed yet".into()),
            Err(error) => return Err(error.to_string()),
        };
        let datagrams = match (protocol, service.port()) {
            ("tcp", _) => None,
            ("udp", DNS_PORT) => Some(Datagrams::Dns),
            ("udp", _) => {
                return Err("what datagrams at another port than 53 are, only a policy says: --policy".into());
            }
            _ => return Err(format!("`{protocol}` is no protocol: tcp or udp")),
        };
        Ok(Self { service, datagrams, name: None })
    }
}

/// The servers of a policy's primary, at each port of their services; and those that can't be observed.
pub fn of_policy(policy: &Policy) -> (Vec<Target>, Vec<SocketAddr>) {
    let (mut targets, mut left_out) = (Vec::new(), Vec::new());
    for service in policy.services() {
        let Some(end) = service.side(Side::Primary) else { continue };
        // Its address of the other family has the same servers.
        for listener in service.all().filter(|listener| listener.vip.ip() == service.vip.ip()) {
            for server in end.servers() {
                let port = listener.ports[Side::Primary as usize].unwrap_or(server.port());
                match SocketAddr::new(server.ip(), port) {
                    SocketAddr::V4(at) => targets.push(Target {
                        service: at,
                        datagrams: listener.datagrams,
                        name: service.name().map(Into::into),
                    }),
                    at => left_out.push(at),
                }
            }
        }
    }
    (targets, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_read_as_it_is_typed() {
        let read = |text: &str| text.parse::<Target>().map(|target| (target.to_string(), target.datagrams));
        assert_eq!(read("10.0.2.2:80"), Ok(("10.0.2.2:80".into(), None)));
        assert_eq!(read("10.0.2.2:53/tcp"), Ok(("10.0.2.2:53".into(), None)));
        assert_eq!(read("10.0.2.2:53/udp"), Ok(("10.0.2.2:53/udp".into(), Some(Datagrams::Dns))));
        for (text, says) in [
            ("10.0.2.2:514/udp", "--policy"),
            ("10.0.2.2:53/sctp", "tcp or udp"),
            ("[2001:db8::1]:53/udp", "IPv6"),
            ("10.0.2.2", "invalid"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_policys_services_are_observed_at_their_primarys_servers() {
        let of = |name: &str, text: &str| {
            let (targets, left_out) = of_policy(&Policy::parse(name, text).unwrap());
            let named = |target: Target| format!("{}{target}", target.name.clone().unwrap_or_default());
            (targets.into_iter().map(named).collect::<Vec<_>>(), left_out.len())
        };
        let dns = of("dns.toml", include_str!("../../../policies/dns.toml"));
        assert_eq!(dns, (vec!["10.0.2.2:53/udp".into(), "10.0.2.2:53".into()], 0));
        let (services, _) = of("services.toml", include_str!("../../../policies/services.toml"));
        assert!(services.contains(&"web10.0.2.2:8080".into()), "{services:?}");
        assert!(services.contains(&"api10.0.2.3:9000".into()), "{services:?}");
        assert!(services.contains(&"api10.0.2.4:9000".into()), "{services:?}");
        let text = include_str!("../../../policies/http.toml");
        let six = text.replace("10.0.2.2:8080\"     #", "[2001:db8:2::2]:8080\"     #");
        let six = six.replace("nat = \"10.0.2.101\"", "nat = \"2001:db8:2::101\"");
        assert_eq!(of("six.toml", &six), (Vec::new(), 1));
    }
}
