//! Fuzzing by libFuzzer: bytes that reach new code are kept and changed further.

use anyhow::{Context, Result};

use crate::{
    command::{output, outside, root, run},
    toolchain::{NIGHTLY, tools},
};

/// What drives libFuzzer.
const CARGO_FUZZ: &str = "0.13.1";

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct FuzzArgs {
    /// A target in fuzz/fuzz_targets
    #[arg(default_value = "hostile")]
    target: String,
    /// How long
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
}

/// Builds the target by rustup's nightly and runs it; what it found of interest stays in fuzz/corpus.
///
/// # Errors
/// When something can't be installed or built, or a rule was broken: the input is then in fuzz/artifacts.
pub(crate) fn start(args: &FuzzArgs) -> Result<()> {
    let program = tools("fuzz").join("bin/cargo-fuzz");
    if output(std::process::Command::new(&program).arg("--version")).is_none() {
        println!("cargo-fuzz: building {CARGO_FUZZ} by cargo install into {}", tools("fuzz").display());
        let mut install = outside("cargo");
        install.args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--quiet", "--root"]);
        run(install.arg(tools("fuzz"))).context("cargo-fuzz can't be built")?;
    }
    let mut fuzz = outside(&program);
    fuzz.current_dir(root()).env("RUSTUP_TOOLCHAIN", NIGHTLY);
    fuzz.args(["fuzz", "run", &args.target, "--"]);
    fuzz.args([&format!("-max_total_time={}", args.seconds), "-max_len=4096", "-print_final_stats=1"]);
    run(&mut fuzz).with_context(|| format!("{} is broken; the input lies in fuzz/artifacts", args.target))
}
