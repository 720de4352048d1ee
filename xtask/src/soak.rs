//! The long runs at full length: what `test` does in seconds, for as long as docs/MEASURED.md says.

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    command::{self, cargo, is_root, root},
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
    /// Only tests whose name contains this, of all scenarios or of one: TEST, SCENARIO or SCENARIO::TEST
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
    let name = args.name.as_deref().unwrap_or_default();
    let (scenario, test) = match name.split_once("::") {
        Some((scenario, test)) => (Some(scenario), test),
        None if root().join(format!("{}/tests/{name}.rs", scenarios::FOLDER)).exists() => (Some(name), ""),
        None => (None, name),
    };
    let tests = |more: &[&str]| {
        let mut tests: Command = cargo();
        tests.args(["test", "--release", "--quiet", "--no-fail-fast", "--package", "netns-tests"]);
        tests.args(scenario.iter().flat_map(|scenario| ["--test", scenario]));
        tests.args(["--", test, "--include-ignored"]).args(more);
        tests
    };
    let (list, done) = command::said(&mut tests(&["--list"]))?;
    if !done || !list.contains(": test") {
        bail!("no scenario has a test {name} (tests/netns/tests):\n{list}");
    }
    let oha = programs::oha()?;
    let mut tests = tests(&["--test-threads=1", "--nocapture"]);
    command::run(tests.env("MIRROR_SOAK", "1").env("MIRROR_TEST_HOOK", hook).env("MIRROR_TEST_OHA", oha))
        .with_context(|| format!("at hook {hook}"))
}
