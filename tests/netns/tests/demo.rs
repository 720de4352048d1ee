//! The demo: it ends well and says so in its JSON, and its proof finds each fault that is planted.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lab::programs::binary;
use netns_tests::hook;
use serde_json::Value;

/// Plays it quickly; returns the exit code, what it said and its JSON.
fn play(more: &[&str]) -> Result<(Option<i32>, String, Value)> {
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("demo.json");
    let mut command = Command::new(binary("demo")?);
    command
        .args(["--hook", hook()?, "--seconds", "1", "--connections", "20", "--json"])
        .arg(&json)
        .args(more);
    let output = command.stdin(Stdio::null()).output()?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&json).with_context(|| said.clone())?;
    Ok((output.status.code(), said, serde_json::from_str(&text)?))
}

/// Breaks something; the demo must fail and say this, and its JSON must count it.
fn found(fault: &str, says: &str, counted: &str) -> Result<()> {
    let (code, said, json) = play(&["--break", fault])?;
    ensure!(code == Some(1) && said.contains(says), "exit code {code:?}:\n{said}");
    ensure!(json[counted].as_u64() >= Some(1) && json["states_equal"] == false, "{json}");
    Ok(())
}

#[test]
fn it_ends_well_and_its_json_has_what_is_documented() -> Result<()> {
    let (code, said, json) = play(&[])?;
    ensure!(code == Some(0), "exit code {code:?}:\n{said}");
    ensure!(json["requests"].as_u64() > Some(1_000) && json["writes"].as_u64() > Some(500), "{json}");
    for none in ["failed_requests", "failed_mid_answer", "lost_writes", "doubled_writes", "misordered_writes"]
    {
        ensure!(json[none] == 0, "{none}: {json}");
    }
    ensure!(json["states_equal"] == true, "{json}");
    let steps = json["steps"].as_array().context("no steps")?;
    for (step, weight) in steps.iter().zip([0, 25, 50, 100]) {
        ensure!(step["weight"] == weight, "{json}");
        for number in ["shadow_read_share", "unsettled_share"] {
            ensure!(
                step[number].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)),
                "{number}: {json}"
            );
        }
        let side = if weight == 100 { "shadow" } else { "primary" };
        ensure!(step["p50_us"][side].as_u64() <= step["p99_us"][side].as_u64(), "{json}");
        ensure!(step["p50_us"][side].as_u64() > Some(0), "{json}");
    }
    ensure!(steps.len() == 4, "{json}");
    for part in ["cutover", "rollback"] {
        for number in ["freeze_us", "drain_us", "flip_us", "slowest_request_us"] {
            ensure!(json[part][number].as_f64() >= Some(0.0), "{part}.{number}: {json}");
        }
    }
    Ok(())
}

#[test]
fn a_dropped_clone_is_found() -> Result<()> {
    found("drop", "lost: shadow doesn't have", "lost_writes")
}

#[test]
fn a_doubled_clone_is_found() -> Result<()> {
    found("double", "doubled: shadow has", "doubled_writes")
}

#[test]
fn two_swapped_clones_are_found() -> Result<()> {
    found("swap", "misordered: shadow has", "misordered_writes")
}

#[test]
fn a_join_that_flips_early_is_found() -> Result<()> {
    found("flip-early", "lost: shadow doesn't have", "lost_writes")
}
