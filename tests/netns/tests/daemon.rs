//! P4: the daemon isn't in the data path: killed, stopped, restarted, it costs no request, and finds everything again. What
//! it was doing when that happened is in `daemon_moves.rs`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    net::{Host, SERVICE_PORT, VIP},
    wait::wait_for,
};
use netns_tests::{Running, SOON, Scene, rounds};
use rustix::process::Signal;
use serde_json::Value;

fn load(scene: &Scene) -> Result<Running> {
    let mut config = scene.client(20);
    config.think = Duration::from_millis(1);
    config.duration = Some(Duration::from_secs(600));
    scene.start_client(config)
}

/// What must be the same after a restart.
fn standing(status: &Value) -> Value {
    serde_json::json!([status["weight"], status["phase"], status["authority"], status["flows"]])
}

#[test]
fn killed_and_restarted_it_finds_weight_flows_and_counters() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let client = load(&scene)?;
    scene.ctl(&["weight", "shop", "25"])?;
    for _ in 0..rounds(2, 20) {
        client.tick()?;
        let before = scene.gateway.status()?;
        let mirrored = scene.gateway.count("Mirrored")?;
        scene.gateway.kill();
        client.tick()?;
        scene.gateway.run(&[])?;
        scene.wait_status("the same standing", |status| standing(status) == standing(&before))?;
        ensure!(
            scene.gateway.count("Mirrored")? > mirrored,
            "the counters began anew, or nothing was mirrored"
        );
    }
    scene.end_proven(client)
}

#[test]
fn ended_and_restarted_it_finds_everything() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let client = load(&scene)?;
    scene.ctl(&["weight", "shop", "75"])?;
    client.tick()?;
    let before = scene.gateway.status()?;
    scene.gateway.stop()?;
    client.tick()?;
    scene.gateway.run(&[])?;
    scene.wait_status("the same standing", |status| standing(status) == standing(&before))?;
    scene.end_proven(client)
}

#[test]
fn stopped_outside_moves_it_is_not_missed() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let client = load(&scene)?;
    scene.ctl(&["weight", "shop", "50"])?;
    client.tick()?;
    scene.gateway.process()?.signal(Signal::STOP)?;
    client.mark("stopped")?;
    for _ in 0..rounds(2, 30) {
        client.tick()?;
    }
    scene.gateway.process()?.signal(Signal::CONT)?;
    client.tick()?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true && status["weight"] == 50.0, "{status}");
    scene.end_proven(client)
}

#[test]
fn killed_in_a_mirrored_download_it_breaks_nothing() -> Result<()> {
    const BYTES: usize = 200_000_000;
    let mut scene = Scene::new()?.joined()?;
    for round in 0..rounds(1, 20) {
        let client = scene.lab.host(Host::Client);
        let file = scene.gateway.folder().join("download");
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", "--fail", "--max-time", "60", "--limit-rate", "150M", "-o"]).arg(&file);
        curl.arg(format!("http://{VIP}:{SERVICE_PORT}/bytes/{BYTES}"));
        let mut download = client.spawn(&mut curl)?;
        let come = || std::fs::metadata(&file).map_or(0, |file| file.len());
        wait_for("some of the download", SOON, || come() > 10_000_000)?;
        scene.gateway.kill();
        let at_kill = come();
        ensure!(at_kill < BYTES as u64, "round {round}: the download was over before the kill");
        ensure!(download.wait(Duration::from_secs(60))?.success(), "round {round}: the download failed");
        scene.gateway.run(&[])?;
        let length = std::fs::metadata(&file).context("no download")?.len();
        ensure!(length == BYTES as u64, "round {round}: {length} bytes came");
        std::fs::remove_file(&file)?;
    }
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    Ok(())
}
