//! The way to a side's server, and back.

use std::net::IpAddr;

use super::{Line, Port, name_of};
use crate::network::{Neighbour, Route, asks, bits};

/// Whether the next hop's hardware address is known.
pub(super) fn neighbour(side: &str, hop: IpAddr, state: Neighbour) -> Line {
    let check = format!("neighbour of the {side}");
    match state {
        Neighbour::Kept => Line::ok(&check, format!("{hop} is resolved, and kept so")),
        Neighbour::Known => Line::ok(&check, format!("{hop} is resolved; `mirror run` keeps it so")),
        Neighbour::Failed => Line::failure(
            &check,
            format!("{hop} doesn't answer {}", asks(hop)),
            format!("is it up, and on this link? ping -c 1 {hop}; ip neigh show {hop}"),
        ),
        Neighbour::Unknown | Neighbour::Asked => Line::warning(
            &check,
            format!("{hop} isn't resolved yet; `mirror run` asks"),
            format!("ping -c 1 {hop}"),
        ),
    }
}

/// Where the server sees clients' addresses.
pub(super) fn kept(side: &str, server: IpAddr) -> Line {
    let found = format!("{server} sees clients' addresses: its way back to them must lead through this host");
    Line::ok(&format!("nat address of the {side}"), found)
}

/// Where it sees one of ours.
pub(super) fn nat(
    side: &str,
    address: IpAddr,
    route: &Route,
    server: IpAddr,
    found: Option<u32>,
    ports: &[Port],
) -> Line {
    let check = format!("nat address of the {side}");
    let device = name_of(ports, route.device);
    // Of several IPv6 addresses the kernel sends from one that isn't deprecated.
    let spare = if address.is_ipv6() { " preferred_lft 0" } else { "" };
    let add = format!("ip addr add {address}/{} dev {device}{spare}", bits(address));
    match found {
        Some(_) if route.source == Some(address) => {
            let change = format!("ip addr change {address}/{} dev {device}{spare}", bits(address));
            let another = format!("another address, on {device} too");
            Line::warning(
                &check,
                format!(
                    "the host's own packets to {server} come from {address}: no answer to the join hook comes back"
                ),
                if address.is_ipv6() { change } else { another },
            )
        }
        Some(index) if index == route.device => {
            Line::ok(&check, format!("{address} is an address of {device}"))
        }
        Some(index) => Line::warning(
            &check,
            format!(
                "{address} is an address of {}, but {server} is reached by {device}",
                name_of(ports, index)
            ),
            format!("{add}, or a route to {address} at {server}"),
        ),
        None if route.hop == server => Line::failure(
            &check,
            format!("no device has {address}: {server} gets no answer when it asks for it"),
            add,
        ),
        None => Line::warning(
            &check,
            format!("no device has {address}: its packets must be routed to this host"),
            add,
        ),
    }
}
