//! What the hosts saw of a run, against the rules of two legs.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use lab::net::{Host, SERVICE_PORT};
use netns_tests::{
    Scene, all_answered,
    captures::{Captures, judged},
};
use oracle::trace::Packet;

#[test]
fn a_clean_run_with_moves_keeps_every_rule() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let captures = Captures::on_hosts(&scene)?;
    let mut config = scene.client(20);
    config.think = Duration::from_millis(4);
    config.duration = Some(Duration::from_secs(60));
    let client = scene.start_client(config)?;
    scene.ctl(&["weight", "shop", "50"])?;
    client.tick()?;
    for command in ["cutover", "rollback", "cutover"] {
        scene.ctl(&[command, "shop"])?;
        client.tick()?;
    }
    let summary = client.stop()?;
    all_answered(&summary)?;
    let trace = captures.stop()?;
    // On a machine so busy that a request takes as long as the client's timer, it is sent again.
    let calm = summary.windows.iter().all(|window| window.slowest.us < 200_000);
    let found = judged(&trace, calm)?;
    ensure!(found.flows == 20 && found.legs == [20, 20], "{found:?}");
    ensure!(
        found.answers as u64 == summary.requests,
        "{} answers, {} requests",
        found.answers,
        summary.requests
    );
    Ok(())
}

/// Source ports of the connections that were opened to a server or to the service.
fn ports(packets: &[Packet]) -> BTreeSet<u16> {
    let opens = |packet: &&Packet| packet.scale.is_some() && packet.to.port() == SERVICE_PORT;
    packets.iter().filter(opens).map(|packet| packet.from.port()).collect()
}

/// T33: connections with one leg and with two over the same devices, and no frame with another one's addresses.
#[test]
fn a_shadow_that_joins_again_is_dialled_from_new_ports_under_the_same_connections() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let captures = Captures::on_hosts(&scene)?;
    let mut config = scene.client(10);
    config.think = Duration::from_millis(4);
    config.duration = Some(Duration::from_secs(60));
    let client = scene.start_client(config)?;
    scene.ctl(&["weight", "shop", "50"])?;
    client.tick()?;
    scene.servers[1] = None;
    scene.wait_status("out of sync", |status| status["shadow"]["in_sync"] == false)?;
    client.tick()?;
    scene.restart(Host::Shadow)?;
    scene.ctl(&["join", "shop"])?;
    scene.wait_status("two legs under every connection", |status| status["two_legs"] == 10)?;
    client.tick()?;
    let summary = client.stop()?;
    all_answered(&summary)?;
    let trace = captures.stop()?;
    let found = judged(&trace, false)?;
    ensure!(found.flows == 10, "the client opened {} connections", found.flows);
    let client_ports: BTreeSet<u16> = summary.ports.iter().copied().collect();
    ensure!(ports(&trace.client) == client_ports, "other ports than the client's");
    ensure!(found.legs[0] == 10, "{} legs at the primary", found.legs[0]);
    let legs = ports(&trace.servers[1]).len();
    ensure!(legs >= 20 && found.legs[1] >= 20, "{legs} ports towards the shadow; {found:?}");
    Ok(())
}
