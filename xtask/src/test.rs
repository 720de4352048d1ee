//! All checks, in an order in which the cheap ones fail first.

mod built;
mod count;
pub(crate) mod scenarios;

use std::{path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    command::{self, bpf_dir, cargo, is_root, locked, output, target},
    docs, ebpf, programs, tidy,
    toolchain::ensure_packages,
    verifier,
};
use built::Built;
use count::Count;

/// What to run.
#[derive(clap::Args)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    build: ebpf::BuildArgs,
    /// Only these stages, separated by commas
    #[arg(long, value_name = "STAGES", value_delimiter = ',')]
    only: Vec<Stage>,
    /// Go on after a stage has failed
    #[arg(long)]
    keep_going: bool,
    /// Only tests whose name contains this; a scenario is named SCENARIO::TEST
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What was built on another machine, as cargo said it: nothing is built here, and costs have no budget
    #[arg(long, value_name = "FILE", hide = true)]
    built: Option<PathBuf>,
}

/// One kind of check.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// rustfmt agrees
    Fmt,
    /// `cargo xtask tidy`
    Tidy,
    /// The kernel side builds, without a warning
    Ebpf,
    /// clippy has nothing to say, at both sides
    Clippy,
    /// The documents that are made from the sources agree with them
    Docs,
    /// Unit, property and model tests: no root, no network
    Unit,
    /// Every program loads within its budget (root)
    Verifier,
    /// Fixtures through the loaded programs (root)
    Prog,
    /// Scenarios in network namespaces, at TC and at XDP (root)
    Netns,
}

impl Stage {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn needs_root(self) -> bool {
        matches!(self, Self::Verifier | Self::Prog | Self::Netns)
    }

    fn run(self, args: &TestArgs) -> Result<Count> {
        match self {
            Self::Fmt => format().map(|()| Count::default()),
            Self::Tidy => tidy::run().map(|()| Count::default()),
            Self::Ebpf => ebpf::build(&args.build).map(|_| Count::default()),
            Self::Clippy => clippy(&args.build).map(|()| Count::default()),
            Self::Docs => docs::check().map(|()| Count::default()),
            Self::Unit => {
                tests(args, &["--workspace", "--exclude", "netns-tests", "--exclude", "prog-tests"])
            }
            Self::Verifier => verify(args).map(|()| Count::default()),
            Self::Prog => fixtures(args),
            Self::Netns => scenarios::run(args.name.as_deref(), built(args)?),
        }
    }
}

/// Runs the stages and prints each one's time and tests.
///
/// # Errors
/// When a stage fails, or needs root and this isn't root's.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let stages = if args.only.is_empty() { Stage::value_variants().to_vec() } else { args.only.clone() };
    if let Some(stage) = stages.iter().find(|stage| stage.needs_root())
        && !is_root()
    {
        bail!(
            "the stage {} loads programs and makes network namespaces: run this as root, \
             or `cargo xtask test --only fmt,tidy,ebpf,clippy,docs,unit`",
            stage.name()
        );
    }
    let start = Instant::now();
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    let mut total = Count::default();
    for stage in stages {
        println!("==> {}", stage.name());
        let begun = Instant::now();
        let result = stage.run(args);
        let seconds = begun.elapsed().as_secs_f64();
        let end = match result {
            Ok(count) => {
                total += count;
                count.to_string()
            }
            Err(error) => {
                failed.push(stage.name());
                format!("FAILED: {error:#}")
            }
        };
        lines.push(format!("{:9} {seconds:7.1} s  {end}", stage.name()));
        println!("<== {}", lines.last().expect("just pushed"));
        if !failed.is_empty() && !args.keep_going {
            break;
        }
    }
    let end = if failed.is_empty() { total.to_string() } else { format!("FAILED: {}", failed.join(", ")) };
    println!("\n{}\n{:9} {:7.1} s  {end}", lines.join("\n"), "all", start.elapsed().as_secs_f64());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The workspaces' manifests.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "mirror-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

fn format() -> Result<()> {
    if output(cargo().args(["fmt", "--version"])).is_none() {
        ensure_packages(&["rustfmt-web"]).context("there is no rustfmt")?;
    }
    for manifest in MANIFESTS {
        command::run(cargo().args(["fmt", "--all", "--check", "--manifest-path", manifest]))?;
    }
    Ok(())
}

fn clippy(build: &ebpf::BuildArgs) -> Result<()> {
    if output(cargo().args(["clippy", "--version"])).is_none() {
        ensure_packages(&["rust-web-clippy"]).context("there is no clippy")?;
    }
    command::run(
        cargo()
            .args(["clippy", "--quiet", "--workspace", "--all-targets"])
            .args(locked())
            .args(["--", "-Dwarnings"]),
    )?;
    ebpf::clippy(build)?;
    ebpf::clippy(&build.with("log"))
}

/// Builds all tests and programs for a machine that doesn't build; returns the file for its `--built`.
///
/// # Errors
/// When they don't build, or the file can't be written.
pub(crate) fn build_for_another() -> Result<PathBuf> {
    let path = target().join("built.json");
    Built::say_to(&path)?;
    Ok(path)
}

/// What loads the kernel side's object, built behind it: a stage that is run by itself would test an older one, without a word.
fn built(args: &TestArgs) -> Result<Built> {
    if let Some(file) = &args.built {
        return Built::read_from(file);
    }
    ebpf::build(&args.build)?;
    Built::new()
}

/// Loads every program. What one may cost is of the kernel that the tests are usually run on.
fn verify(args: &TestArgs) -> Result<()> {
    built(args)?;
    let options: &[String] = if args.built.is_some() { &["--no-budget".to_owned()] } else { &[] };
    verifier::load_by(
        &mut Command::new(target().join("debug/verifier")),
        &bpf_dir().join("mirror.o"),
        options,
    )
}

/// The fixtures, at whichever hook each names.
fn fixtures(args: &TestArgs) -> Result<Count> {
    programs::ensure(scenarios::PROGRAMS)?;
    let mut total = Count::default();
    for tests in built(args)?.package("tests/prog") {
        let mut command = tests.command(&["--quiet"]);
        total += count::run(command.args(&args.name))?;
    }
    total.of_something("the fixtures")
}

/// Runs `cargo test`, passes its output on and counts.
fn tests(args: &TestArgs, packages: &[&str]) -> Result<Count> {
    let mut command = cargo();
    command.args(["test", "--quiet", "--no-fail-fast"]).args(locked()).args(packages);
    count::run(command.arg("--").args(&args.name))?.of_something("cargo test")
}
