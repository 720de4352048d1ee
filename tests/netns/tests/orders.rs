//! A cutover that was ordered beforehand: kept over the daemon's end, made in its window or not at all, and told to whoever
//! listens.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use lab::wait::wait_for;
use netns_tests::{SOON, Scene};
use serde_json::Value;

/// So many seconds from now on, as it is typed.
fn ahead(seconds: u64) -> String {
    (Timestamp::now() + Duration::from_secs(seconds)).to_string()
}

/// What the journal says, the oldest first.
fn told(scene: &Scene) -> Result<Vec<Value>> {
    let history = scene.ctl(&["history", "shop"])?;
    Ok(history["entries"].as_array().context("entries")?.clone())
}

fn says(entries: &[Value], words: &str) -> bool {
    entries.iter().any(|entry| entry["words"].as_str().is_some_and(|said| said.contains(words)))
}

#[test]
fn it_outlives_the_daemon_is_made_in_its_time_and_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let events = folder.path().join("events.jsonl");
    let mut scene = Scene::with(&format!("events.file = {events:?}"), "", &[])?.joined()?;
    ensure!(scene.ctl(&["cutover", "shop", "--at", "2001-01-01T00:00:00Z"]).is_err(), "a time that is past");
    ensure!(scene.ctl(&["cutover", "shop", "--when-ready", "--expires", "2h"]).is_err(), "no migration");
    scene.ctl(&["cutover", "shop", "--at", &ahead(3_600)])?;
    ensure!(scene.gateway.status()?["ordered"]["open"] == false);
    ensure!(scene.ctl(&["cutover", "shop", "--at", &ahead(3_600)]).is_err(), "two at once");
    scene.ctl(&["abort", "shop"])?;
    ensure!(
        scene.gateway.status()?["ordered"].is_null() && scene.gateway.status()?["authority"] == "primary"
    );

    scene.ctl(&["cutover", "shop", "--at", &ahead(3), "--expires", "30m"])?;
    scene.gateway.kill();
    scene.gateway.run(&[])?;
    scene.wait_status("the ordered cutover", |status| status["authority"] == "shadow")?;
    scene.wait_status("no order any more", |status| status["ordered"].is_null())?;
    let entries = told(&scene)?;
    ensure!(says(&entries, "cancelled by") && says(&entries, "the ordered cutover is made"), "{entries:#?}");
    let report = scene.ctl(&["report", "shop"])?;
    let last = report["entries"].as_array().and_then(|entries| entries.last()).context("entries")?;
    ensure!(last["phases"]["frozen_us"].as_f64().is_some_and(|us| us > 0.0), "{last}");
    let text = fs::read_to_string(&events)?;
    let kinds = |kind: &str, field: &str, value: &str| {
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["kind"] == kind && event[field] == value).count()
    };
    ensure!(kinds("join", "result", "done") == 1 && kinds("in_sync", "side", "shadow") == 1, "{text}");
    ensure!(kinds("order", "cause", "cancelled") == 1 && kinds("order", "cause", "made") == 1, "{text}");
    ensure!(kinds("cutover", "result", "done") == 1, "{text}");
    Ok(())
}

#[test]
fn a_window_that_went_by_while_the_daemon_was_down_is_missed() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    scene.ctl(&["cutover", "shop", "--at", &ahead(8), "--expires", "1s"])?;
    let over = Timestamp::now() + Duration::from_secs(10);
    scene.gateway.kill();
    wait_for("the window's end", 3 * SOON, || Timestamp::now() > over)?;
    scene.gateway.run(&[])?;
    scene.wait_status("no order any more", |status| status["ordered"].is_null())?;
    let entries = told(&scene)?;
    ensure!(says(&entries, "was missed"), "{entries:#?}");
    ensure!(scene.gateway.status()?["authority"] == "primary");
    Ok(())
}
