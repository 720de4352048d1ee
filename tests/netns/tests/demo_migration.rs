//! The demo's other play: migrations by themselves, of a shadow that is provisioned on the gateway.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lab::programs::binary;
use netns_tests::hook;
use serde_json::Value;

/// Each migration ends as it should, or the demo says otherwise.
#[test]
fn migrations_by_themselves_end_as_they_should() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("demo.json");
    let mut command = Command::new(binary("demo")?);
    command.args(["migration", "--hook", hook()?, "--only", "good,differs", "--json"]).arg(&json);
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let played: Value = serde_json::from_str(&std::fs::read_to_string(&json)?)?;
    let outcomes = played["outcomes"].as_array().context("no outcomes")?;
    let ended: Vec<_> = outcomes.iter().map(|outcome| (&outcome["scenario"], &outcome["ended"])).collect();
    ensure!(
        ended == [(&"good".into(), &"Finalized".into()), (&"differs".into(), &"Aborted".into())],
        "{played}"
    );
    ensure!(
        outcomes[0]["failed_requests"] == 0 && outcomes[0]["requests"].as_u64() > Some(10_000),
        "{played}"
    );
    ensure!(outcomes[1]["failed_by_shadow"] == outcomes[1]["failed_requests"], "{played}");
    ensure!(outcomes[0]["bound"] == 0.0 && outcomes[1]["bound"].as_f64() > Some(0.0), "{played}");
    ensure!(played["forecast_vs_actual"]["classes"].is_array(), "{played}");
    Ok(())
}
