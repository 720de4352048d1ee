//! The benches: builds what they measure, as it would be deployed, and hands over.

use anyhow::{Result, bail};

use crate::{
    command::{self, cargo, is_root},
    ebpf, programs,
};

/// Programs that the benches start, and Debian's packages that have them.
const PROGRAMS: &[programs::Program] = &[
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("wrk", "wrk"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
];

/// Benches of what decides: simulations, without root, kernel side or network.
const SIMULATED: [&str; 3] = ["decisions", "forecast", "scaling"];

/// What the benches' own program takes: `cargo xtask bench --help` shows it.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct BenchArgs {
    /// --json FILE, --rounds N, --seconds N, --programs-only, --help; or transfers --help, decisions --help, forecast --help,
    /// scaling --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and runs them, with their exit status.
///
/// # Errors
/// When something can't be installed or built, this isn't root's, or a bench fails.
pub(crate) fn start(args: &BenchArgs) -> Result<()> {
    if args.arguments.first().is_some_and(|first| SIMULATED.contains(&first.as_str())) {
        let bench = ["run", "--quiet", "--release", "--package", "control-benches", "--"];
        return command::run(cargo().args(bench).args(&args.arguments));
    }
    let asks_only = args.arguments.iter().any(|argument| argument == "--help" || argument == "-h");
    if !asks_only {
        if !is_root() {
            bail!("the benches make network namespaces and load programs: run them as root");
        }
        programs::ensure(PROGRAMS)?;
        ebpf::build(&ebpf::BuildArgs::unattended())?;
        programs::build(&["--quiet", "--release"])?;
    }
    command::run(
        cargo().args(["run", "--quiet", "--release", "--package", "benches", "--"]).args(&args.arguments),
    )
}
