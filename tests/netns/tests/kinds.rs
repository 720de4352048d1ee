//! The gateway at devices of other kinds than a card's or a veth: bridge, bond, macvlan, ipvlan. Needs a kernel that has them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    gateway::{Gateway, policy},
    net::{Host, Lab},
    programs::ListsServer,
};
use netns_tests::{Scene, all_answered, share};

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
         ip link set under0 up; ip link set {device} up
         for address in $addresses; do ip addr add $address dev {device}; done"
    );
    lab.host(Host::Gateway).sh(&line).map(drop)
}

/// All three links over devices of this kind: joined, shared, moved and moved back under load, and nothing lost.
fn moved_and_back(kind: &str, over: bool) -> Result<()> {
    for only in Host::ENDS {
        let lab = Lab::builder().up()?;
        replace(&lab, only, kind, over)?;
        let server = |host| ListsServer::on(&lab, host, &["--volatile"]).map(Some);
        let servers = [server(Host::Primary)?, server(Host::Shadow)?];
        let gateway = Gateway::start(&lab, &policy("hook = \"auto\"\nstall = \"10s\"", "")?)?;
        let scene = Scene { gateway, servers, lab }.joined()?;
        let mut config = scene.client(8);
        config.think = Duration::from_millis(5);
        config.duration = Some(Duration::from_secs(120));
        let client = scene.start_client(config)?;
        scene.ctl(&["weight", "shop", "50"])?;
        client.mark("half")?;
        let enough = client.tick()?.requests + 1_000;
        while client.tick()?.requests < enough {}
        scene.ctl(&["cutover", "shop"])?;
        client.tick()?;
        scene.ctl(&["rollback", "shop"])?;
        client.tick()?;
        let summary = client.stop()?;
        all_answered(&summary).with_context(|| format!("{kind} towards the {only}"))?;
        let half = share(&summary, "half")?;
        ensure!((0.4..0.6).contains(&half), "the shadow answered {half} of the reads at weight 50");
        scene.proven().with_context(|| format!("{kind} towards the {only}"))?;
        ensure!(scene.gateway.count("EmitFailed")? == 0, "packets couldn't be sent");
    }
    Ok(())
}

#[test]
fn at_a_bridge() -> Result<()> {
    moved_and_back("bridge", false)
}

#[test]
fn at_a_bond() -> Result<()> {
    moved_and_back("bond mode active-backup miimon 100", false)
}

#[test]
fn at_a_macvlan() -> Result<()> {
    moved_and_back("macvlan mode bridge", true)
}

#[test]
fn at_an_ipvlan() -> Result<()> {
    moved_and_back("ipvlan mode l2", true)
}
