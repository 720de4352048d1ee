//! Addresses that a policy may name: one host's, reached over a network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Deserializer, de};

/// An address and a port of a host.
pub(super) fn socket<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    checked_socket(SocketAddr::deserialize(from)?)
}

/// The same where it may be left out.
pub(super) fn one<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    socket(from).map(Some)
}

/// Several of them.
pub(super) fn several<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    Vec::<SocketAddr>::deserialize(from)?.into_iter().map(checked_socket).collect()
}

fn checked_socket<E: de::Error>(address: SocketAddr) -> Result<SocketAddr, E> {
    if let SocketAddr::V6(six) = address
        && six.scope_id() != 0
    {
        return Err(E::custom(format!("{six} has a zone, which link-local addresses alone need")));
    }
    checked(address.ip()).map_err(E::custom)?;
    Ok(address)
}

/// An IPv6 address of a host.
pub(super) fn six<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Ipv6Addr>, D::Error> {
    let address = Ipv6Addr::deserialize(from)?;
    checked(address.into()).map_err(de::Error::custom)?;
    Ok(Some(address))
}

/// An address, if it is a host's.
pub(super) fn checked(address: IpAddr) -> Result<IpAddr, String> {
    let fault = match address {
        _ if address.is_unspecified() => Some("that is no host's"),
        _ if address.is_loopback() => Some("a loopback address, which no gateway stands before"),
        _ if address.is_multicast() => Some("a multicast address, and TCP talks to one host"),
        IpAddr::V4(four) => fault_of_four(four),
        IpAddr::V6(six) => fault_of_six(six),
    };
    fault.map_or(Ok(address), |fault| Err(format!("{address} is {fault}")))
}

fn fault_of_four(address: Ipv4Addr) -> Option<&'static str> {
    let aliases = mirror_common::abi::six::is_alias(u32::from_ne_bytes(address.octets()));
    aliases
        .then_some("of 240.0.0.0/4, which is no host's (RFC 1112, 4): inside, IPv6 addresses are called so")
}

fn fault_of_six(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unicast_link_local() {
        return Some("a link-local address, which is another host's on each link");
    }
    address
        .to_ipv4_mapped()
        .map(|_| "an IPv4 address in IPv6's clothes (RFC 4291, 2.5.5.2): write it as IPv4's")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_hosts_is_refused_with_the_reason() {
        for (address, says) in [
            ("0.0.0.0", "no host's"),
            ("::", "no host's"),
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("240.0.0.1", "240.0.0.0/4"),
            ("255.255.255.255", "240.0.0.0/4"),
            ("fe80::1", "link-local"),
            ("::ffff:10.0.0.1", "write it as IPv4's"),
        ] {
            let error = checked(address.parse().unwrap()).unwrap_err();
            assert!(error.contains(says), "{address}: {error}");
        }
        for address in ["10.0.0.1", "169.254.77.1", "2001:db8::1", "fd00::1", "64:ff9b::a00:1"] {
            assert!(checked(address.parse().unwrap()).is_ok(), "{address}");
        }
    }
}
