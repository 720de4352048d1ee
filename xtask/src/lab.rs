//! The lab: built, then handed over to.

use anyhow::{Context, Result};

use crate::command::{cargo, run, target};

/// What the lab's own program takes: `cargo xtask lab --help` shows it.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct LabArgs {
    /// up, down, shell HOST, run HOST -- COMMAND, list
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds the lab's programs and runs the one that handles labs, with its exit status.
pub(crate) fn start(args: &LabArgs) -> Result<()> {
    run(cargo().args(["build", "--quiet", "--package", "lab", "--bins"]))?;
    let program = target().join("debug/lab");
    let mut arguments = args.arguments.clone();
    if arguments.is_empty() {
        arguments.push("--help".into());
    }
    let status = std::process::Command::new(&program)
        .args(&arguments)
        .status()
        .with_context(|| format!("can't start {}", program.display()))?;
    std::process::exit(status.code().unwrap_or(1))
}
