//! One side's servers, and what they see of where their connections come from.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use mirror_common::abi::backend::MAX_BACKENDS;
use serde::{Deserialize, Deserializer, de};

use super::{
    Listener, Resources, Service, address,
    process::{Bytes, Cores, Process},
};

/// One side's server, or servers. With `[[services]]` these stand in each of them (`[services.primary]`, `[services.shadow]`),
/// but for `resources`, `capacity` and `process`, which are the whole side's and stay in `[primary]` and `[shadow]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Address and port of its server, of IPv4 or IPv6, whatever the clients' and the other side's are.
    #[serde(default, deserialize_with = "address::one")]
    address: Option<SocketAddr>,
    /// Instead of `address`: its servers, 16 at most, of one family, which share what they store. Connections are spread over
    /// those that the health check of `[migration]` finds well. The join hook is told the first one.
    #[serde(default, deserialize_with = "address::several")]
    addresses: Vec<SocketAddr>,
    /// The gateway's own address that its legs come from, of the same family; or `"keep"`: the client's, of the same family,
    /// where the one server's way back leads through the gateway. The services of an application may share it.
    nat: Option<Nat>,
    /// Requests that a server answers on one connection before it closes it; 0: none, or it is found out where the server's last
    /// answers say that they are.
    #[serde(default)]
    pub max_requests: u32,
    /// Largest segment on the way to it, in bytes; 0: whatever the client says, and towards an IPv6 server no more than the
    /// way's MTU takes.
    #[serde(default)]
    pub mss: u16,
    /// Where its CPU, memory, I/O and network are read; without it they are missing.
    pub(super) resources: Option<Resources>,
    /// How large the side is, where it isn't provisioned by `process`: a cutover by itself needs enough on both sides.
    pub(super) capacity: Option<Capacity>,
    /// The shadow alone: it is provisioned on this host, for one service.
    pub(super) process: Option<Process>,
}

/// How large a side's server is.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Its cores.
    pub cpu: Cores,
    /// Its memory.
    pub memory: Bytes,
}

/// The address that a side's legs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// One of the gateway's own.
    Own(IpAddr),
    /// The client's: the server's way back leads through the gateway.
    Keep,
}

impl Nat {
    /// The gateway's own address, where it is one.
    pub const fn own(self) -> Option<IpAddr> {
        match self {
            Self::Own(address) => Some(address),
            Self::Keep => None,
        }
    }
}

impl<'de> Deserialize<'de> for Nat {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text == "keep" {
            return Ok(Self::Keep);
        }
        let address = text.parse().map_err(|_| {
            de::Error::custom(format!("{text:?} is neither an address of the gateway nor \"keep\""))
        })?;
        address::checked(address).map(Self::Own).map_err(de::Error::custom)
    }
}

/// What doesn't hold, and what to do about it.
pub(super) type Fault = (String, Option<String>);

impl Endpoint {
    /// Its servers; one at least.
    pub fn servers(&self) -> &[SocketAddr] {
        self.address.as_ref().map_or(&self.addresses, std::slice::from_ref)
    }

    /// The address that its legs come from.
    pub fn nat(&self) -> Nat {
        self.nat.unwrap_or(Nat::Keep)
    }

    /// Whether it says anything of servers.
    pub(super) fn names_servers(&self) -> bool {
        let Self { address, addresses, nat, max_requests, mss, .. } = self;
        address.is_some() || !addresses.is_empty() || nat.is_some() || *max_requests != 0 || *mss != 0
    }

    /// Whether it says anything of the whole side.
    pub(super) fn names_means(&self) -> bool {
        self.resources.is_some() || self.capacity.is_some() || self.process.is_some()
    }

    /// Takes out what it says of servers.
    pub(super) fn take_servers(&mut self) -> Self {
        let means = Self {
            resources: self.resources.take(),
            capacity: self.capacity.take(),
            process: self.process.take(),
            ..Self::default()
        };
        std::mem::replace(self, means)
    }

    /// The first of them.
    pub fn first(&self) -> SocketAddr {
        self.servers()[0]
    }

    /// Whether a connection's server is chosen.
    pub fn has_several(&self) -> bool {
        self.servers().len() > 1
    }

    /// What doesn't hold of its servers. Nothing else may be asked of it before.
    pub(super) fn servers_fault(&self, service: &Service) -> Option<Fault> {
        let servers = self.servers();
        if self.address.is_some() != self.addresses.is_empty() {
            let what = "a side has one `address`, or several `addresses`: exactly one of the two";
            return Some((what.into(), Some("address = \"ADDRESS:PORT\"".into())));
        }
        if self.nat.is_none() {
            let what = "a side has a `nat`: the gateway's address that its legs come from, or \"keep\"";
            return Some((what.into(), Some("nat = \"ADDRESS\"".into())));
        }
        if servers.len() > MAX_BACKENDS {
            return Some((format!("{} servers: a side has {MAX_BACKENDS} at most", servers.len()), None));
        }
        if servers.iter().any(|server| server.is_ipv4() != self.first().is_ipv4()) {
            return Some((
                "a side's servers are all of one family: its legs come from one `nat` address".into(),
                None,
            ));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = servers.iter().find(|server| !seen.insert(**server)) {
            return Some((format!("{twice} is there twice"), None));
        }
        if !self.has_several() {
            return None;
        }
        self.several_fault(service)
    }

    fn several_fault(&self, service: &Service) -> Option<Fault> {
        if self.nat() == Nat::Keep {
            let what = "`nat = \"keep\"` is for a side with one server: the way back of several isn't known to be one";
            return Some((what.into(), Some("give it a `nat` address, or one server".into())));
        }
        let own = self.servers().iter().find(|server| service.addresses().any(|vip| vip == server.ip()));
        if let Some(own) = own {
            let what = format!("the service's address is the server's {own}: such a side has one server");
            return Some((what, Some("give the service an address of its own".into())));
        }
        let hosts: BTreeSet<_> = self.servers().iter().map(SocketAddr::ip).collect();
        (!service.ports.is_empty() && hosts.len() < self.servers().len()).then(|| {
            let what = "with `[[service.ports]]` each server has an address of its own: all have the same further ports";
            (what.into(), None)
        })
    }

    /// What doesn't hold of a shadow beside a primary, be that another service's.
    pub(super) fn fault_beside(&self, other: &Self) -> Option<Fault> {
        let (mine, others) = (self.servers(), other.servers());
        if mine.iter().any(|server| others.contains(server)) {
            return Some((
                "the shadow is the primary's own server".into(),
                Some("name another address".into()),
            ));
        }
        let shared = |server: &SocketAddr| others.iter().any(|other| other.ip() == server.ip());
        (self.nat == other.nat && mine.iter().any(shared)).then(|| {
            (
                "both sides' legs would have the same addresses".into(),
                Some("give the shadow another `nat` address".into()),
            )
        })
    }

    /// What doesn't hold of `nat` beside the side's server and the service.
    pub(super) fn nat_fault(&self, service: &Service) -> Option<Fault> {
        if service.has_datagrams()
            && let Some(fault) = self.datagrams_fault()
        {
            return Some(fault);
        }
        match self.nat() {
            Nat::Own(nat) => self.own_fault(nat, service),
            Nat::Keep => self.kept_fault(service),
        }
    }

    /// What doesn't hold of the side beside a service of datagrams.
    fn datagrams_fault(&self) -> Option<Fault> {
        if self.has_several() {
            return Some(("UDP is for one server a side".into(), Some("name one `address`".into())));
        }
        (self.nat() == Nat::Keep).then(|| {
            (
                "`nat = \"keep\"` is for TCP alone".into(),
                Some("give it an address: a server's datagrams are told by the port that they go to".into()),
            )
        })
    }

    fn own_fault(&self, nat: IpAddr, service: &Service) -> Option<Fault> {
        if nat.is_ipv4() != self.first().is_ipv4() {
            return Some((
                "`nat` and `address` are of two families: its legs have both".into(),
                Some("give both an IPv4, or both an IPv6 address".into()),
            ));
        }
        self.nat_is_of(service)
    }

    /// What doesn't hold of `nat` beside a service's addresses, be that another one.
    pub(super) fn nat_is_of(&self, service: &Service) -> Option<Fault> {
        let nat = self.nat().own()?;
        let same = |one: Listener| {
            one.vip.ip() == nat && self.servers().iter().any(|server| server.port() == one.vip.port())
        };
        service.all().any(same).then(|| {
            (
                "`nat` can't be the service's own address".into(),
                Some("use an address of the gateway that no client talks to".into()),
            )
        })
    }

    /// A server can't see an address of the other family.
    fn kept_fault(&self, service: &Service) -> Option<Fault> {
        let other = service.addresses().find(|address| address.is_ipv4() != self.first().is_ipv4())?;
        let what =
            format!("`nat = \"keep\"` is for clients of the server's family, and those of {other} aren't");
        Some((what, Some("give it an address".into())))
    }
}

#[cfg(test)]
mod tests {
    use mirror_common::switch_word::Side;

    use super::super::{Affinity, Policy};
    use super::*;

    const GOOD: &str = include_str!("../../../policies/balanced.toml");

    #[test]
    fn each_side_may_have_several_servers() {
        let policy = Policy::parse("balanced.toml", GOOD).unwrap();
        let seen: Vec<_> = policy.servers().map(|one| format!("{} {}", one.whose(), one.at)).collect();
        let expected = [
            "primary 10.0.2.2:8080",
            "primary 10.0.2.3:8080",
            "primary 10.0.2.4:8080",
            "shadow 10.0.3.2:8080",
            "shadow 10.0.3.3:8080",
        ];
        assert_eq!(seen, expected);
        let service = &policy.services()[0];
        let first = service.side(Side::Primary).map(Endpoint::first);
        assert_eq!((first, service.affinity), (Some(seen_first()), Affinity::Client));
        assert!(service.sides().all(|(_, end)| end.has_several()));
        let one = Policy::parse("http.toml", include_str!("../../../policies/http.toml")).unwrap();
        let service = &one.services()[0];
        let primary = service.side(Side::Primary).unwrap();
        assert_eq!(primary.servers(), [primary.first()]);
        assert!(!primary.has_several() && service.affinity == Affinity::Connection);
    }

    fn seen_first() -> SocketAddr {
        SocketAddr::from(([10, 0, 2, 2], 8_080))
    }

    /// What is wrong with the example once its shadow has these servers.
    fn fault(addresses: &str) -> Option<String> {
        let own = "addresses = [\"10.0.3.2:8080\", \"10.0.3.3:8080\"]";
        let text = GOOD.replace(own, addresses);
        assert!(text.contains(addresses), "{text}");
        Policy::parse("x.toml", &text).err().map(|error| error.in_words())
    }

    #[test]
    fn servers_that_cannot_stand_in_for_each_other_are_refused() {
        let many =
            |n: u8| (2..2 + n).map(|host| format!("\"10.0.3.{host}:80\"")).collect::<Vec<_>>().join(", ");
        assert_eq!(fault(&format!("addresses = [{}]", many(16))), None);
        for (addresses, says) in [
            (format!("addresses = [{}]", many(17)), "17 servers: a side has 16 at most"),
            ("addresses = []".into(), "exactly one of the two"),
            ("".into(), "exactly one of the two"),
            ("address = \"10.0.3.9:80\"\naddresses = [\"10.0.3.2:80\"]".into(), "exactly one of the two"),
            ("addresses = [\"10.0.3.2:80\", \"[2001:db8::2]:80\"]".into(), "of one family"),
            ("addresses = [\"10.0.3.2:80\", \"10.0.3.2:80\"]".into(), "10.0.3.2:80 is there twice"),
            ("addresses = [\"10.0.3.2:80\", \"10.0.2.4:8080\"]".into(), "the primary's own server"),
            ("addresses = [\"10.0.3.2:80\", \"127.0.0.1:80\"]".into(), "loopback"),
            (
                "addresses = [\"10.0.3.2:80\", \"10.77.1.1:81\"]".into(),
                "the service's address is the server's",
            ),
        ] {
            let found = fault(&addresses).unwrap();
            assert!(found.contains(says), "{addresses}: {found}");
        }
    }

    #[test]
    fn servers_of_one_address_share_no_further_port() {
        let same = "addresses = [\"10.0.3.2:8080\", \"10.0.3.2:8081\"]";
        assert_eq!(fault(same), None, "processes of one host");
        let more = GOOD.replace("addresses = [\"10.0.3.2:8080\", \"10.0.3.3:8080\"]", same);
        let more = more.replace("[migration]", "[[service.ports]]\nport = 81\n[migration]");
        let found = Policy::parse("x.toml", &more).unwrap_err().in_words();
        assert!(found.contains("an address of its own"), "{found}");
    }
}
