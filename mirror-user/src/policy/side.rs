//! One side's server, and what it sees of where its connections come from.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer, de};

use super::{
    Listener, Resources, Service, address,
    process::{Bytes, Cores, Process},
};

/// One side's server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Address and port, of IPv4 or IPv6, whatever the clients' and the other side's are.
    #[serde(deserialize_with = "address::socket")]
    pub address: SocketAddr,
    /// The gateway's own address that its legs come from, of the same family; or `"keep"`: the client's, where the server's
    /// way back leads through the gateway.
    pub nat: Nat,
    /// Requests that the server answers on one connection before it closes it; 0: no limit.
    #[serde(default)]
    pub max_requests: u32,
    /// Largest segment on the way to it, in bytes; 0: whatever the client says, and towards an IPv6 server no more than the
    /// way's MTU takes.
    #[serde(default)]
    pub mss: u16,
    /// Where its CPU, memory, I/O and network are read; without it they are missing.
    pub resources: Option<Resources>,
    /// How large it is, where it isn't provisioned by `process`: a cutover by itself needs enough on both sides.
    pub capacity: Option<Capacity>,
    /// The shadow alone: it is provisioned on this host.
    pub process: Option<Process>,
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
    /// What doesn't hold of `nat` beside the side's server and the service.
    pub(super) fn nat_fault(&self, service: &Service) -> Option<Fault> {
        if service.has_datagrams()
            && let Some(fault) = self.datagrams_fault()
        {
            return Some(fault);
        }
        match self.nat {
            Nat::Own(nat) => self.own_fault(nat, service),
            Nat::Keep => self.kept_fault(service),
        }
    }

    /// What doesn't hold of the side beside a service of datagrams.
    fn datagrams_fault(&self) -> Option<Fault> {
        if self.address.is_ipv6() {
            return Some(("UDP is for IPv4 alone: clients and servers".into(), None));
        }
        (self.nat == Nat::Keep).then(|| {
            (
                "`nat = \"keep\"` is for TCP alone".into(),
                Some("give it an address: a server's datagrams are told by the port that they go to".into()),
            )
        })
    }

    fn own_fault(&self, nat: IpAddr, service: &Service) -> Option<Fault> {
        if nat.is_ipv4() != self.address.is_ipv4() {
            return Some((
                "`nat` and `address` are of two families: its legs have both".into(),
                Some("give both an IPv4, or both an IPv6 address".into()),
            ));
        }
        let same = |one: Listener| one.vip.ip() == nat && one.vip.port() == self.address.port();
        service.all([0; 2]).any(same).then(|| {
            (
                "`nat` can't be the service's own address".into(),
                Some("use an address of the gateway that no client talks to".into()),
            )
        })
    }

    fn kept_fault(&self, service: &Service) -> Option<Fault> {
        if self.process.is_some() {
            return Some((
                "a shadow that is provisioned here has no way back to clients".into(),
                Some("give it a `nat` address on its link".into()),
            ));
        }
        (service.has_six() || self.address.is_ipv6()).then(|| {
            (
                "`nat = \"keep\"` is for IPv4 alone: clients and server".into(),
                Some("give it an address".into()),
            )
        })
    }
}
