//! Faults planted in the transition functions, one at a time: the deterministic world must find each.

use anyhow::{Context, Result, bail};

use crate::command::{cargo, root};

/// The features of `mirror-common` that plant one.
const FAULTS: [&str; 13] = [
    "plant-minimum-of-authority",
    "plant-clone-forgotten",
    "plant-flip-unsettled",
    "plant-length-ignored",
    "plant-stale-forwarded",
    "plant-edge-back",
    "plant-fin-of-shadow",
    "plant-delta-stale",
    "plant-redial-from-unanswered",
    "plant-rst-anywhere",
    "plant-sack-of-authority",
    "plant-order-ignored",
    "plant-boundary-early",
];

/// Builds the world with each fault, runs it, and prints the seed that found it.
///
/// # Errors
/// When a fault isn't found, or doesn't compile.
pub(crate) fn run() -> Result<()> {
    let mut missed = Vec::new();
    for fault in FAULTS {
        // Beside the other builds, or each would undo the last one's.
        let target = root().join("target/faults");
        let world = || {
            let mut cargo = cargo();
            cargo.args(["run", "--quiet", "--package", "oracle", "--bin", "world", "--features"]);
            cargo.arg(format!("mirror-common/{fault}")).env("CARGO_TARGET_DIR", &target);
            cargo
        };
        let built = world().args(["--", "--help"]).output().context("can't start cargo")?;
        if !built.status.success() {
            bail!("{fault} doesn't compile: {}", String::from_utf8_lossy(&built.stderr));
        }
        let ran = world().args(["--", "--steps", "20000000"]).output().context("can't start cargo")?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        match text.lines().find(|line| line.starts_with("seed ") || line.contains("panicked")) {
            Some(line) if !ran.status.success() => println!("{fault}: {line}"),
            _ => {
                println!("{fault}: NOT FOUND");
                missed.push(fault);
            }
        }
    }
    if !missed.is_empty() {
        bail!("not found: {}", missed.join(", "));
    }
    Ok(())
}
