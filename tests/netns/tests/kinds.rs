//! The gateway at devices of other kinds than a card's or a veth: bridge, bond, macvlan, ipvlan. Needs a kernel that has them.

use anyhow::{Context, Result};
use lab::{
    gateway::{Gateway, policy},
    net::{Host, Lab},
    programs::ListsServer,
};
use netns_tests::{Scene, tour};

/// Puts a device of another kind in place of the gateway's on the link to `host`: same name, addresses and hardware address.
/// `over`: it stands on the veth; else the veth belongs to it.
fn replace(lab: &Lab, host: Host, kind: &str, over: bool) -> Result<()> {
    let (device, mac) = (host.gateway_device(), host.mac(true));
    let other_mac = "02:00:00:00:09:09";
    let make = match (over, kind.starts_with("ipvlan")) {
        // It has the hardware address of what it stands on.
        (true, true) => format!("ip link add {device} link under0 type {kind}"),
        (true, false) => format!(
            "ip link set under0 address {other_mac}; ip link add {device} link under0 address {mac} type {kind}"
        ),
        (false, _) => {
            format!("ip link add {device} address {mac} type {kind}; ip link set under0 master {device}")
        }
    };
    let line = format!(
        "addresses=$(ip -o -4 addr show dev {device} | awk '{{print $4}}')
         ip link set {device} down; ip link set {device} name under0; ip addr flush dev under0
         {make}
         # It has no address, and would answer for the other's with a hardware address of its own.
         echo 1 > /proc/sys/net/ipv4/conf/under0/arp_ignore
         ip link set under0 up; ip link set {device} up
         for address in $addresses; do ip addr add $address dev {device}; done"
    );
    lab.host(Host::Gateway).sh(&line).map(drop)
}

/// Each of the three links over a device of this kind.
fn each_link_at(kind: &str, over: bool) -> Result<()> {
    for only in Host::ENDS {
        let lab = Lab::builder().up()?;
        replace(&lab, only, kind, over)?;
        let server = |host| ListsServer::on(&lab, host, &["--volatile"]).map(Some);
        let servers = [server(Host::Primary)?, server(Host::Shadow)?];
        let gateway = Gateway::start(&lab, &policy("hook = \"auto\"\nstall = \"10s\"", "")?)?;
        let scene = Scene { gateway, servers, lab }.joined()?;
        tour::moved_and_back(&scene).with_context(|| format!("{kind} towards the {only}"))?;
    }
    Ok(())
}

#[test]
fn at_a_bridge() -> Result<()> {
    each_link_at("bridge", false)
}

#[test]
fn at_a_bond() -> Result<()> {
    each_link_at("bond mode active-backup miimon 100", false)
}

#[test]
fn at_a_macvlan() -> Result<()> {
    each_link_at("macvlan mode bridge", true)
}

#[test]
fn at_an_ipvlan() -> Result<()> {
    each_link_at("ipvlan mode l2", true)
}
