//! P4: the daemon isn't in the data path: killed in a move, or standing still in one, it costs no request, and the move is
//! completed or never happened. What decides that is the switch word, whichever hook carries the packets. C1, C6.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{net::Host, wait::wait_for};
use netns_tests::{Running, SOON, Scene, all_answered, rounds};
use rustix::process::Signal;
use serde_json::Value;

fn load(scene: &Scene) -> Result<Running> {
    let mut config = scene.client(20);
    config.think = Duration::from_millis(1);
    config.duration = Some(Duration::from_secs(600));
    scene.start_client(config)
}

/// Kills the daemon at a point of a move by a fault that is injected, and starts it again.
fn killed_at(point: &str, command: &str, ends: impl Fn(&Value) -> bool) -> Result<()> {
    let mut scene = Scene::new()?;
    let client = load(&scene)?;
    if command != "join" {
        scene.ctl(&["join", "shop"])?;
    }
    for round in 0..rounds(1, 20) {
        scene.gateway.stop()?;
        scene.gateway.run(&[("MIRROR_FAULT", point)])?;
        client.tick()?;
        let error = scene.ctl(&[command, "shop"]).err().context("the daemon outlived its fault")?;
        scene
            .gateway
            .process()?
            .wait(SOON)
            .with_context(|| format!("round {round} at {point}: {error:#}"))?;
        client.tick()?;
        scene.gateway.run(&[])?;
        scene.wait_status("the move is over", |status| status["frozen"] == false && ends(status))?;
        client.tick()?;
        // Back to where it began, where the move has happened.
        if scene.gateway.status()?["authority"] == "shadow" {
            scene.ctl(&["rollback", "shop"])?;
        }
    }
    if command == "join" && scene.gateway.status()?["shadow"]["in_sync"] == false {
        scene.ctl(&["join", "shop"])?;
        scene.wait_status("two legs under every connection", |status| status["two_legs"] == 20)?;
    }
    scene.end_proven(client)
}

#[test]
fn killed_while_frozen_for_a_join_it_aborts() -> Result<()> {
    killed_at("frozen", "join", |status| status["phase"] == "Idle")
}

#[test]
fn killed_while_frozen_for_a_cutover_it_aborts() -> Result<()> {
    killed_at("frozen", "cutover", |status| status["authority"] == "primary")
}

#[test]
fn killed_when_drained_it_aborts() -> Result<()> {
    killed_at("drained", "cutover", |status| status["authority"] == "primary")
}

#[test]
fn killed_just_after_the_flip_the_cutover_holds() -> Result<()> {
    killed_at("flipped", "cutover", |status| status["authority"] == "shadow")
}

/// C1: stopped while frozen, it wakes after the deadline: the kernel has thawed, and its swap fails.
#[test]
fn stopped_while_frozen_it_can_not_flip_after_the_deadline() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let client = load(&scene)?;
    for point in ["stop-frozen", "stop-drained"] {
        scene.gateway.stop()?;
        scene.gateway.run(&[("MIRROR_FAULT", point)])?;
        let mut command = scene.gateway.command(&["cutover", "shop"]);
        command.stderr(std::process::Stdio::piped());
        let mut cutover = scene.lab.host(Host::Gateway).spawn(&mut command)?;
        let stat = format!("/proc/{}/stat", scene.gateway.process()?.id());
        wait_for("the daemon is stopped", SOON, || {
            std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") T "))
        })?;
        // Two ticks: the deadline of 750 ms passes in the second, and requests are answered behind it.
        client.tick()?;
        client.tick()?;
        ensure!(client.tick()?.requests > 0, "no request was answered behind the deadline");
        scene.gateway.process()?.signal(Signal::CONT)?;
        ensure!(!cutover.wait(SOON)?.success(), "{point}: a cutover after its deadline succeeded");
        scene.wait_status("nothing has changed", |status| {
            status["authority"] == "primary"
                && status["frozen"] == false
                && status["shadow"]["in_sync"] == true
        })?;
    }
    scene.end_proven(client)
}

/// H: a hook that outlasts the deadline is killed, and the join never happened.
#[test]
fn a_join_hook_that_outlasts_its_deadline_aborts() -> Result<()> {
    let scene = Scene::with("join_deadline = \"300ms\"", "", &["--delay-ms", "2000"])?;
    let client = load(&scene)?;
    let error = scene.ctl(&["join", "shop"]).err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(error.contains("deadline"), "{error:?}");
    client.tick()?;
    let summary = client.stop()?;
    all_answered(&summary)?;
    let status = scene.gateway.status()?;
    ensure!(status["frozen"] == false && status["phase"] == "Idle", "{status}");
    Ok(())
}

/// A hook that went on behind its daemon's death would copy to a side that others have taken for level since.
#[test]
fn killed_while_the_join_hook_runs_the_next_one_ends_the_hook() -> Result<()> {
    let mut scene = Scene::with("", "", &["--delay-ms", "5000"])?;
    scene.gateway.stop()?;
    scene.gateway.run(&[("MIRROR_FAULT", "hook-started")])?;
    scene.ctl(&["join", "shop"]).err().context("the daemon outlived its fault")?;
    scene.gateway.process()?.wait(SOON)?;
    let note = std::fs::read(scene.gateway.folder().join("shop.hook"))?;
    let pid = serde_json::from_slice::<Value>(&note)?["pid"].as_i64().context("no pid")?;
    let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    ensure!(!stat().is_empty() && !stat().contains(") Z"), "the hook died with its daemon: {}", stat());
    scene.gateway.run(&[])?;
    let ended = || stat().is_empty() || stat().contains(") Z");
    wait_for("the hook's end", SOON, ended)?;
    ensure!(!scene.gateway.folder().join("shop.hook").exists(), "it is still written down");
    let status = scene.gateway.status()?;
    ensure!(status["frozen"] == false && status["shadow"]["in_sync"] == false, "{status}");
    Ok(())
}

/// C6.
#[test]
fn a_second_daemon_says_who_holds_the_place() -> Result<()> {
    let mut scene = Scene::new()?;
    let pid = scene.gateway.process()?.id().to_string();
    let policy = scene.gateway.folder().join("policy.toml");
    let mut second = scene.gateway.command(&["run"]);
    let output = scene.lab.host(Host::Gateway).output(second.arg(policy))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains(&pid), "{said}");
    ensure!(scene.gateway.status()?["phase"] == "Idle", "the first one was harmed");
    Ok(())
}
