//! The long runs at full length: what `test` does in seconds, for as long as docs/MEASURED.md says.

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    command::{self, cargo, is_root},
    ebpf, programs,
    test::scenarios,
};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct SoakArgs {
    #[command(flatten)]
    build: ebpf::BuildArgs,
    /// Only these parts, separated by commas
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<Part>,
    /// Packets delivered in the deterministic world
    #[arg(long, value_name = "N", default_value_t = 100_000_000)]
    steps: u64,
    /// Migrations on the simulated datapath
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    migrations: u64,
    /// Only scenarios whose name contains this
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// A part of the soak.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The deterministic world
    World,
    /// Migrations on the simulated datapath
    Migrations,
    /// The scenarios, programs at TC
    Tc,
    /// The scenarios, programs at XDP
    Xdp,
}

/// Runs the parts, one after the other; each prints its figures.
///
/// # Errors
/// When a part fails, or needs root and this isn't root's.
pub(crate) fn run(args: &SoakArgs) -> Result<()> {
    let parts = if args.only.is_empty() { Part::value_variants().to_vec() } else { args.only.clone() };
    let rootless = [Part::World, Part::Migrations];
    if parts.iter().any(|part| !rootless.contains(part)) {
        if !is_root() {
            bail!(
                "the scenarios make network namespaces: run this as root, or `cargo xtask soak --only world,migrations`"
            );
        }
        programs::ensure(scenarios::PROGRAMS)?;
        ebpf::build(&args.build)?;
        programs::build(&["--quiet", "--release"])?;
    }
    for part in parts {
        match part {
            Part::World => oracle("world", "--steps", args.steps)?,
            Part::Migrations => oracle("migrations", "--migrations", args.migrations)?,
            Part::Tc => long_scenarios(args, "tc")?,
            Part::Xdp => long_scenarios(args, "xdp")?,
        }
    }
    Ok(())
}

/// Runs one of the simulations.
fn oracle(program: &str, option: &str, number: u64) -> Result<()> {
    println!("--- {program}");
    let number = number.to_string();
    command::run(
        cargo()
            .args(["run", "--release", "--quiet", "--package", "oracle", "--bin", program, "--"])
            .args([option, &number]),
    )
    .with_context(|| format!("{program}: a broken rule was found; --seed N shows it"))
}

fn long_scenarios(args: &SoakArgs, hook: &str) -> Result<()> {
    println!("--- hook {hook}");
    let mut tests: Command = cargo();
    tests.args(["test", "--release", "--quiet", "--no-fail-fast", "--package", "netns-tests", "--"]);
    tests.args(&args.name).args(["--test-threads=1", "--nocapture", "--include-ignored"]);
    let oha = programs::oha()?;
    command::run(tests.env("MIRROR_SOAK", "1").env("MIRROR_TEST_HOOK", hook).env("MIRROR_TEST_OHA", oha))
        .with_context(|| format!("at hook {hook}"))
}
