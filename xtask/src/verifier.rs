//! What each program costs the verifier: built here, loaded by tests/prog.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    command::{self, bpf_dir, cargo, root},
    ebpf,
};

/// What to load and what to show.
#[derive(clap::Args)]
pub(crate) struct VerifierArgs {
    #[command(flatten)]
    build: ebpf::BuildArgs,
    /// Load this object instead of building one
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Passed on: --program NAME, --log-level N, --tail N, --json, --write-budget (see `-- --help`)
    #[arg(last = true, value_name = "OPTIONS")]
    rest: Vec<String>,
}

/// Loads every program and prints a table, or the end of the refusal's log.
///
/// # Errors
/// When a program is refused or costs more than its budget: everything has been printed by then.
pub(crate) fn load(object: &Path, rest: &[String]) -> Result<()> {
    load_by(
        cargo().args(["run", "--quiet", "--package", "prog-tests", "--bin", "verifier", "--"]),
        object,
        rest,
    )
}

/// The same by a loader that is built already.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_by(loader: &mut Command, object: &Path, rest: &[String]) -> Result<()> {
    command::run(
        loader
            .arg(object)
            .arg("--logs")
            .arg(bpf_dir().join("verifier"))
            .arg("--budget")
            .arg(root().join("tests/prog/budget.toml"))
            .args(rest),
    )
}

pub(crate) fn run(args: &VerifierArgs) -> Result<()> {
    let object = match &args.object {
        Some(object) => std::path::absolute(object)?,
        None => ebpf::build(&args.build)?,
    };
    load(&object, &args.rest)
}
