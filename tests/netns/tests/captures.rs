//! What the hosts saw of a run, against the rules of two legs.

use std::{collections::BTreeSet, net::SocketAddrV4, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{
    capture::{Capture, CaptureSpec},
    net::{Host, SERVICE_PORT, VIP},
};
use netns_tests::{Scene, all_answered};
use oracle::trace::{Expected, Findings, Packet, Trace, check, read};

const HOSTS: [Host; 3] = [Host::Client, Host::Primary, Host::Shadow];

/// Captures on client and servers.
struct Captures(Vec<(PathBuf, Capture)>);

impl Captures {
    fn start(scene: &Scene) -> Result<Self> {
        // Not what the daemon's hook and this test itself ask of the servers.
        let spec = CaptureSpec {
            filter: "tcp and not host 10.0.2.1 and not host 10.0.3.1".into(),
            ..CaptureSpec::default()
        };
        let start = |host: Host| {
            let path = scene.gateway.folder().join(format!("{host}.pcap"));
            Ok((path.clone(), Capture::start(&scene.lab.host(host), &path, &spec)?))
        };
        Ok(Self(HOSTS.into_iter().map(start).collect::<Result<_>>()?))
    }

    fn stop(self) -> Result<Trace> {
        let mut hosts = Vec::new();
        for (path, capture) in self.0 {
            let captured = capture.stop()?;
            ensure!(captured.dropped == 0, "{} packets didn't fit into {}", captured.dropped, path.display());
            hosts.push(read(&path)?);
        }
        let [client, primary, shadow] = hosts.try_into().ok().context("three hosts")?;
        Ok(Trace { client, servers: [primary, shadow] })
    }
}

fn found(trace: &Trace, clean: bool) -> Result<Findings> {
    let found = check(trace, SocketAddrV4::new(VIP, SERVICE_PORT), Expected { least_packets: 2_000, clean });
    ensure!(
        found.violations.is_empty(),
        "{} violations, the first: {:#?}",
        found.violations.len(),
        &found.violations[..1]
    );
    Ok(found)
}

#[test]
fn a_clean_run_with_moves_keeps_every_rule() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let captures = Captures::start(&scene)?;
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
    let found = found(&trace, calm)?;
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

#[test]
fn a_shadow_that_joins_again_is_dialled_from_new_ports_under_the_same_connections() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let captures = Captures::start(&scene)?;
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
    let found = found(&trace, false)?;
    ensure!(found.flows == 10, "the client opened {} connections", found.flows);
    let client_ports: BTreeSet<u16> = summary.ports.iter().copied().collect();
    ensure!(ports(&trace.client) == client_ports, "other ports than the client's");
    ensure!(found.legs[0] == 10, "{} legs at the primary", found.legs[0]);
    let legs = ports(&trace.servers[1]).len();
    ensure!(legs >= 20 && found.legs[1] >= 20, "{legs} ports towards the shadow; {found:?}");
    Ok(())
}
