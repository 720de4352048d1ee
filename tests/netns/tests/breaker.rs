//! A shadow that loses leg after leg is mirrored no more, is asked whether it is well, and comes back when it is.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{net::Host, wait::wait_for};
use netns_tests::{SOON, Scene, all_answered};

/// Restarts are told apart elsewhere. The health check is a read, which an ill shadow resets, too.
const POLICY: &str = "
[breaker]
lost_legs = 6
window = \"10s\"
probe = \"200ms\"
probe_most = \"1s\"
rejoin = true
[migration]
health = \"/lists/7\"
";

#[test]
fn a_shadow_whose_legs_die_again_and_again_is_put_out_probed_and_joined_when_it_is_well() -> Result<()> {
    let scene = Scene::with("durable = true\nmetrics.listen = \"127.0.0.1:9464\"", POLICY, &[])?.joined()?;
    let mut config = scene.client(4);
    config.think = Duration::from_millis(20);
    // Nothing is owed: by itself the datapath would dial for ever.
    config.write_fraction = 0.0;
    config.duration = Some(Duration::from_secs(60));
    let client = scene.start_client(config)?;
    scene.wait_status("two legs", |status| status["two_legs"] == 4)?;
    scene.ail(Host::Shadow, "resets=1")?;
    scene.wait_status("its breaker is open", |status| {
        status["shadow"]["breaker"] == "open" && status["shadow"]["in_sync"] == false
    })?;
    let reason = scene.gateway.status()?["shadow"]["reason"].to_string();
    ensure!(reason.contains("leg after leg: 6 within 10 s"), "{reason}");
    wait_for("two probes in vain", SOON, || probes_in_vain(&scene).is_ok_and(|probes| probes >= 2.0))?;
    ensure!(scene.gateway.status()?["shadow"]["in_sync"] == false, "it was joined though it is ill");
    scene.ail(Host::Shadow, "")?;
    scene.wait_status("joined by itself", |status| {
        status["shadow"]["in_sync"] == true
            && status["shadow"]["breaker"] == "closed"
            && status["two_legs"] == 4
    })?;
    all_answered(&client.stop()?)?;
    let history = scene.ctl(&["history", "shop"])?.to_string();
    ensure!(history.contains("breaker open") && history.contains("breaker closed"), "{history}");
    ensure!(scene.states_equal()?, "the join hook brought it level");
    Ok(())
}

/// Probes of the shadow in vain, as a scrape has them.
fn probes_in_vain(scene: &Scene) -> Result<f64> {
    let target = SocketAddr::from(([127, 0, 0, 1], 9464));
    let text = scene.lab.host(Host::Gateway).run(|| lab::http_client::get(target, "/metrics"))??;
    let text = String::from_utf8(text)?;
    let wanted = ["mirror_breaker_probes_total{", "side=\"shadow\"", "result=\"unwell\""];
    let line = text.lines().find(|line| wanted.iter().all(|part| line.contains(part)));
    let line = line.with_context(|| format!("no {wanted:?} in\n{text}"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}
