//! What is to be observed.

use std::{
    fmt,
    net::{AddrParseError, SocketAddr},
    str::FromStr,
    time::Duration,
};

use mirror_common::switch_word::Side;

use crate::policy::{DNS_PORT, Datagrams, Policy};

/// A service as it is addressed where it passes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its address.
    pub service: SocketAddr,
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
        let service: SocketAddr = address.parse().map_err(|error: AddrParseError| error.to_string())?;
        // No packet says its link-local address's zone.
        let service = SocketAddr::new(service.ip(), service.port());
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

/// The servers of a policy's primary, at each port of their services.
pub fn of_policy(policy: &Policy) -> Vec<Target> {
    let mut targets = Vec::new();
    for service in policy.services() {
        let Some(end) = service.side(Side::Primary) else { continue };
        // Its address of the other family has the same servers.
        for listener in service.all().filter(|listener| listener.vip.ip() == service.vip.ip()) {
            for server in end.servers() {
                let port = listener.ports[Side::Primary as usize].unwrap_or(server.port());
                targets.push(Target {
                    service: SocketAddr::new(server.ip(), port),
                    datagrams: listener.datagrams,
                    name: service.name().map(Into::into),
                });
            }
        }
    }
    targets
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
        assert_eq!(read("[2001:db8::1]:80"), Ok(("[2001:db8::1]:80".into(), None)));
        assert_eq!(read("[fe80::1%2]:80"), Ok(("[fe80::1]:80".into(), None)));
        for (text, says) in
            [("10.0.2.2:514/udp", "--policy"), ("10.0.2.2:53/sctp", "tcp or udp"), ("10.0.2.2", "invalid")]
        {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_policys_services_are_observed_at_their_primarys_servers() {
        let of = |name: &str, text: &str| {
            let named = |target: Target| format!("{}{target}", target.name.clone().unwrap_or_default());
            of_policy(&Policy::parse(name, text).unwrap()).into_iter().map(named).collect::<Vec<_>>()
        };
        let dns = of("dns.toml", include_str!("../../../policies/dns.toml"));
        assert_eq!(dns, ["10.0.2.2:53/udp", "10.0.2.2:53"]);
        let services = of("services.toml", include_str!("../../../policies/services.toml"));
        assert!(services.contains(&"web10.0.2.2:8080".into()), "{services:?}");
        assert!(services.contains(&"api10.0.2.3:9000".into()), "{services:?}");
        assert!(services.contains(&"api10.0.2.4:9000".into()), "{services:?}");
        let text = include_str!("../../../policies/http.toml");
        let six = text.replace("10.0.2.2:8080\"     #", "[2001:db8:2::2]:8080\"     #");
        let six = six.replace("nat = \"10.0.2.101\"", "nat = \"2001:db8:2::101\"");
        assert_eq!(of("six.toml", &six), ["[2001:db8:2::2]:8080"]);
    }
}
