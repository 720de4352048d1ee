//! The policy is read again under a running daemon: what decides is taken, and anything else is refused, with nothing taken.

use anyhow::{Context, Result, ensure};
use netns_tests::Scene;
use rustix::process::Signal;
use serde_json::Value;

const MIGRATION: &str = "[migration]\nsteps = [50, 100]\ndwell = \"1m\"\n";

/// Lets the file say something else.
fn edit(scene: &Scene, from: &str, to: &str) -> Result<()> {
    let file = scene.gateway.folder().join("policy.toml");
    let text = std::fs::read_to_string(&file)?;
    ensure!(text.contains(from), "no {from} in {text}");
    Ok(std::fs::write(&file, text.replace(from, to))?)
}

/// The plan that a migration begun now would be decided by.
fn plan(scene: &Scene) -> Result<Value> {
    Ok(scene.ctl(&["migrate", "shop", "--dry-run"])?["plan"]["weight"].clone())
}

/// What the journal has of another plan: its least time at a step, and who brought it.
fn replanned(scene: &Scene) -> Result<(Value, Value)> {
    let history = scene.ctl(&["history", "shop", "--limit", "1000"])?;
    let mut entries = history["entries"].as_array().context("entries")?.iter();
    let line = entries.find(|entry| entry["what"]["replanned"].is_array()).context("no line")?;
    let [plan, who] = [0, 1].map(|n| line["what"]["replanned"][n].clone());
    Ok((plan["weight"]["dwell_seconds"].clone(), who))
}

#[test]
fn what_decides_is_taken_and_anything_else_is_refused_and_changes_nothing() -> Result<()> {
    let mut scene = Scene::with("", MIGRATION, &[])?.joined()?;
    ensure!(scene.ctl(&["reload"])?["changed"] == serde_json::json!([]));
    edit(&scene, "[50, 100]", "[10, 100]")?;
    ensure!(scene.ctl(&["reload"])?["changed"] == serde_json::json!(["migration"]));
    ensure!(plan(&scene)?["steps"] == serde_json::json!([1_000, 10_000]), "{}", plan(&scene)?);

    scene.ctl(&["migrate", "shop"])?;
    edit(&scene, "\"1m\"", "\"7m\"")?;
    scene.gateway.process()?.signal(Signal::HUP)?;
    scene.wait_status("that it was taken", |status| {
        status["notices"].to_string().contains("[migration] changed, by SIGHUP")
    })?;
    ensure!(replanned(&scene)? == (420.0.into(), "SIGHUP".into()), "{:?}", replanned(&scene)?);
    edit(&scene, "[10, 100]", "[20, 100]")?;
    let refused = format!("{:#}", scene.ctl(&["reload"]).expect_err("steps under way"));
    ensure!(refused.contains("`steps`"), "{refused}");

    edit(&scene, "[20, 100]", "[10, 100]")?;
    edit(&scene, "\"7m\"", "\"9m\"")?;
    edit(&scene, "name = \"shop\"", "name = \"shop\"\nstall = \"3s\"")?;
    let refused = format!("{:#}", scene.ctl(&["reload"]).expect_err("an address"));
    ensure!(refused.contains("`stall`") && refused.contains("restart"), "{refused}");
    ensure!(plan(&scene)?["dwell_seconds"] == 420.0, "half of it was taken: {}", plan(&scene)?);
    Ok(())
}
