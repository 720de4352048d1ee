//! T31: a shadow that is killed while nothing is owed loses its memory, and only its legs tell.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::net::Host;
use netns_tests::{Running, Scene, all_answered};

const CONNECTIONS: usize = 8;

/// Connections that read now and then: no write is ever owed.
fn readers(scene: &Scene) -> Result<Running> {
    let mut config = scene.client(CONNECTIONS);
    config.think = Duration::from_millis(300);
    config.write_fraction = 0.0;
    config.duration = Some(Duration::from_secs(60));
    let client = scene.start_client(config)?;
    client.tick()?;
    scene.wait_status("two legs", |status| status["two_legs"] == CONNECTIONS)?;
    Ok(client)
}

fn falls_out_of_sync(scene: &Scene, since: Instant) -> Result<()> {
    scene.wait_status("out of sync", |status| status["shadow"]["in_sync"] == false)?;
    let took = since.elapsed();
    let reason = scene.gateway.status()?["shadow"]["reason"].to_string();
    ensure!(reason.contains("lost at once"), "{reason}");
    ensure!(took < Duration::from_secs(1), "it took {took:?}");
    Ok(())
}

/// T31: its memory is gone, and only its legs tell.
#[test]
fn a_shadow_killed_while_idle_is_out_of_sync_within_a_second() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let client = readers(&scene)?;
    let killed = Instant::now();
    scene.servers[1] = None;
    falls_out_of_sync(&scene, killed)?;
    all_answered(&client.stop()?)
}

#[test]
fn a_shadow_restarted_at_once_is_out_of_sync_too() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let client = readers(&scene)?;
    let killed = Instant::now();
    scene.restart(Host::Shadow)?;
    falls_out_of_sync(&scene, killed)?;
    scene.ctl(&["join", "shop"])?;
    ensure!(
        scene.gateway.status()?["shadow"]["in_sync"] == true,
        "what it refused before counts after its join"
    );
    all_answered(&client.stop()?)
}

/// T31: where the policy says that it remembers, a restart costs its legs alone.
#[test]
fn a_durable_shadow_restarted_at_once_stays_in_sync() -> Result<()> {
    let mut scene = Scene::with("durable = true", "", &[])?.joined()?;
    let client = readers(&scene)?;
    scene.restart(Host::Shadow)?;
    scene.wait_status("legs lost, and dialled again", |status| {
        status["shadow"]["legs_lost"].as_u64() >= Some(CONNECTIONS as u64)
            && status["two_legs"] == CONNECTIONS
    })?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    all_answered(&client.stop()?)
}
