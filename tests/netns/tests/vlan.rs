//! VLANs (IEEE 802.1Q), and VLANs within VLANs (802.1ad, "QinQ"): the gateway's devices are theirs. Needs a kernel that has them.

use anyhow::{Context, Result, ensure};
use lab::{
    gateway::{Gateway, policy},
    net::{
        Host, Lab, LinkSpec, Tags,
        tagged::{TRUNK, below},
    },
    programs::ListsServer,
};
use netns_tests::{Scene, tour};
use serde_json::Value;

/// All three links over one pair of veth.
fn trunk(tags: Tags) -> Result<Lab> {
    Lab::builder().tags(tags).trunk(true).up()
}

/// The daemon at its devices' own choice of hook, with settings of the application. Patient: a guest may be slow.
fn scene(lab: Lab, more: &str) -> Result<Scene> {
    let server = |host| ListsServer::on(&lab, host, &["--volatile"]).map(Some);
    let servers = [server(Host::Primary)?, server(Host::Shadow)?];
    let gateway = Gateway::start(&lab, &policy(&format!("hook = \"auto\"\nstall = \"10s\"\n{more}"), "")?)?;
    Ok(Scene { gateway, servers, lab })
}

/// Joined, with a body of full segments for both sides, moved and moved back.
fn moved_and_back(lab: Lab, more: &str) -> Result<Scene> {
    let scene = scene(lab, more)?.joined()?;
    tour::upload(&scene)?;
    tour::moved_and_back(&scene)?;
    Ok(scene)
}

/// What the status says of a device.
fn said_of(scene: &Scene, device: &str) -> Result<String> {
    let status = scene.ctl(&["status"])?;
    let devices = status["devices"].as_array().context("no devices")?;
    let said = devices.iter().filter_map(Value::as_str).find(|said| said.starts_with(device));
    said.map(str::to_owned).with_context(|| format!("nothing of {device} in {devices:?}"))
}

#[test]
fn on_vlans_of_one_trunk_all_moves_lose_nothing() -> Result<()> {
    moved_and_back(trunk(Tags::Vlan)?, "").map(drop)
}

#[test]
fn on_vlans_within_vlans_of_one_trunk_all_moves_lose_nothing() -> Result<()> {
    moved_and_back(trunk(Tags::QinQ)?, "").map(drop)
}

/// Each tag is in its frame then, and each frame is a segment.
#[test]
fn without_offloads_all_moves_lose_nothing() -> Result<()> {
    let lab = trunk(Tags::QinQ)?;
    let plain = "gro off gso off tso off tx off";
    for host in [Host::Client, Host::Gateway] {
        lab.host(host).sh(&format!(
            "ethtool -K {TRUNK} {plain} txvlan off rxvlan off tx-vlan-stag-hw-insert off rx-vlan-stag-hw-parse off"
        ))?;
    }
    for host in Host::ENDS {
        lab.host(host).sh(&format!("ethtool -K eth0 {plain}"))?;
        lab.host(Host::Gateway).sh(&format!("ethtool -K {} {plain}", host.gateway_device()))?;
    }
    moved_and_back(lab, "").map(drop)
}

#[test]
fn a_vlan_beside_links_without_tags_serves_any_of_the_three() -> Result<()> {
    for (host, tags) in [(Host::Client, Tags::Vlan), (Host::Primary, Tags::QinQ), (Host::Shadow, Tags::Vlan)]
    {
        let spec = LinkSpec { tags, ..LinkSpec::default() };
        let lab = Lab::builder().link(host, spec).up()?;
        let scene = moved_and_back(lab, "").with_context(|| format!("{tags:?} towards the {host}"))?;
        let device = below(host.gateway_device());
        // Not in /sys: that is of the network namespace that mounted it.
        let line = format!("awk '$1 == \"{device}:\" {{ print $3 }}' /proc/net/dev");
        let carried = scene.lab.host(Host::Gateway).sh(&line)?;
        let frames: u64 =
            carried.trim().parse().with_context(|| format!("no count of {device}: {carried:?}"))?;
        ensure!(frames > 1_000, "{frames} frames came by the tagged link");
    }
    Ok(())
}

/// The program at the device below sees every frame of every VLAN first.
#[test]
fn the_device_below_leaves_frames_to_the_vlans_devices() -> Result<()> {
    let names = Host::ENDS.map(|host| format!("\"{}\"", host.gateway_device())).join(", ");
    for tags in [Tags::Vlan, Tags::QinQ] {
        let scene = moved_and_back(trunk(tags)?, &format!("devices = [\"{TRUNK}\", {names}]"))?;
        let passed = scene.gateway.count("NotIpv4")?;
        ensure!(passed > 1_000, "{passed} frames passed the device below");
    }
    Ok(())
}

#[test]
fn unasked_a_vlan_gets_tc_and_xdp_by_policy_is_refused_with_a_reason() -> Result<()> {
    let mut scene = scene(trunk(Tags::Vlan)?, "")?;
    let said = said_of(&scene, Host::Client.gateway_device())?;
    ensure!(said.contains("TC") && said.contains("802.1Q VLAN Support"), "{said}");
    scene.gateway.stop()?;
    let text = policy("hook = \"xdp\"", "")?;
    let error = Gateway::start(&scene.lab, &text).err().context("it starts")?;
    let error = format!("{error:#}");
    ensure!(error.contains("can't attach native XDP to client0"), "{error}");
    Ok(())
}
