//! The documents that are made from the sources.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    command::{self, cargo, locked, output, root, shown, target},
    hazards,
};

/// In docs/.
const MADE: &[&str] = &[hazards::NAME, "VERDICTS.md", "POLICY.md"];

/// Whether to write, or to look.
#[derive(clap::Args)]
pub(crate) struct DocsArgs {
    /// Write nothing: fail if a document isn't what the sources say
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &DocsArgs) -> Result<()> {
    if args.check { check() } else { write() }
}

fn write() -> Result<()> {
    for name in MADE {
        let path = root().join("docs").join(name);
        let text = make(name)?;
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
        println!("docs/{name} written");
    }
    Ok(())
}

/// Compares what lies in docs/ with what the sources say.
///
/// # Errors
/// When they differ.
pub(crate) fn check() -> Result<()> {
    for name in MADE {
        let path = root().join("docs").join(name);
        if fs::read_to_string(&path).ok().as_ref() != Some(&make(name)?) {
            bail!("docs/{name} isn't what the sources say: `cargo xtask docs` writes it");
        }
    }
    println!("docs: {} agree with the sources", MADE.join(", "));
    Ok(())
}

fn make(name: &str) -> Result<String> {
    if name == hazards::NAME {
        let path = root().join("docs").join(name);
        let document = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        return hazards::made(&document, root());
    }
    // Of the whole workspace: with one package's features alone everything below it would be built once more.
    command::run(cargo().args(["build", "--quiet", "--workspace", "--example", "docs"]).args(locked()))?;
    let mut command = Command::new(target().join("debug/examples/docs"));
    output(command.arg(name)).with_context(|| format!("`{}` failed: run it to see why", shown(&command)))
}
