//! The demo: installs what it needs, builds everything as it would be deployed, and hands over.

use std::{os::unix::process::CommandExt, process::Command, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{
    command::{self, cargo, is_root, locked, target},
    ebpf, programs,
};

/// Programs that the demo starts, and Debian's packages that have them.
const PROGRAMS: &[programs::Program] = &[("ip", "iproute2"), ("ethtool", "ethtool"), ("wrk", "wrk")];

/// What the demo's own program takes: `cargo xtask demo --help` shows it.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct DemoArgs {
    /// --json FILE, --hook HOOK, --break FAULT, --seconds N, --connections N, --keep DIR, --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and becomes the demo: its exit status is this one's, and a signal reaches it alone.
///
/// # Errors
/// When something can't be installed or built, or this isn't root's.
pub(crate) fn start(args: &DemoArgs) -> Result<()> {
    let asks_only = args.arguments.iter().any(|argument| argument == "--help" || argument == "-h");
    if !asks_only {
        if !is_root() {
            bail!("the demo makes network namespaces and loads programs: run it as root");
        }
        let start = Instant::now();
        programs::ensure(PROGRAMS)?;
        ebpf::build(&ebpf::BuildArgs::unattended())?;
        programs::build(&["--release"])?;
        eprintln!("everything is built, in {:.0} s", start.elapsed().as_secs_f64());
    } else {
        command::run(cargo().args(["build", "--release", "--package", "lab", "--bins"]).args(locked()))?;
    }
    let program = target().join("release/demo");
    let error = Command::new(&program).args(&args.arguments).exec();
    Err(error).with_context(|| format!("can't start {}", program.display()))
}
