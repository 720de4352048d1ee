//! Builds the kernel side into one object at a stable place.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result};

use crate::{
    command::{bpf_dir, locked, root, run},
    toolchain::{self, Way},
};

const TARGET: &str = "bpfel-unknown-none";

/// How to build the kernel side.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct BuildArgs {
    /// Install what is missing without asking (so does the variable CI)
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Use this toolchain only, instead of the first that is complete
    #[arg(long, value_name = "WAY")]
    way: Option<Way>,
    /// Features of mirror-ebpf to switch on, separated by commas
    #[arg(long, value_name = "FEATURES")]
    features: Option<String>,
}

impl BuildArgs {
    /// Installs what is missing, and asks nobody.
    pub(crate) fn unattended() -> Self {
        Self { yes: true, ..Self::default() }
    }

    /// The same with these features.
    pub(crate) fn with(&self, features: &str) -> Self {
        Self { features: Some(features.to_owned()), ..self.clone() }
    }
}

/// Builds target/bpf/mirror.o and returns its path; beside it lie bare.o and floor.o, the benches' yardsticks. A file is
/// touched only if its content has changed, so that what embeds it isn't built again for nothing.
///
/// # Errors
/// When there is no toolchain, or the compiler or linker fails.
pub(crate) fn build(args: &BuildArgs) -> Result<PathBuf> {
    let start = Instant::now();
    let mut toolchain = toolchain::find_or_install(args.way, args.yes)?;
    run(with_target(&mut toolchain.cargo, "build", args))?;
    let built = build_dir().join(TARGET).join("release");
    let object = bpf_dir().join("mirror.o");
    install(&built.join("mirror"), &object)?;
    for yardstick in ["bare", "floor"] {
        install(&built.join(yardstick), &bpf_dir().join(format!("{yardstick}.o")))?;
    }
    let size = fs::metadata(&object)?.len();
    eprintln!(
        "{}: {} KiB in {:.1} s, by {}",
        shown(&object),
        size / 1024,
        start.elapsed().as_secs_f64(),
        toolchain.name
    );
    Ok(object)
}

/// Lints the kernel side, with the toolchain that builds it.
///
/// # Errors
/// When there is no clippy for that toolchain, or it has something to say.
pub(crate) fn clippy(args: &BuildArgs) -> Result<()> {
    let mut toolchain = toolchain::find_or_install(args.way, args.yes)?;
    toolchain.ensure_clippy()?;
    run(with_target(&mut toolchain.cargo, "clippy", args).args(["--quiet", "--", "-Dwarnings"]))
}

fn build_dir() -> PathBuf {
    bpf_dir().join("build")
}

/// `cargo TASK` for the kernel side's target.
fn with_target<'a>(cargo: &'a mut Command, task: &str, args: &BuildArgs) -> &'a mut Command {
    cargo
        .current_dir(root().join("mirror-ebpf"))
        .args([task, "--release", "-Z", "build-std=core", "--target", TARGET])
        .env("CARGO_TARGET_DIR", build_dir())
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags());
    cargo.args(locked());
    if let Some(features) = &args.features {
        cargo.args(["--features", features]);
    }
    cargo
}

/// Flags for the compiler, in cargo's encoding (separated by 0x1f).
fn rust_flags() -> OsString {
    let arch = std::env::consts::ARCH;
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Else every run of zeros that is written, and every copy that may overlap, is a call of a loop over its bytes.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // aya-ebpf's bindings differ by the architecture of the machine that loads the object.
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Ctarget-cpu=v3".to_owned(),
    ];
    flags.join("\u{1f}").into()
}

/// Copies by way of a rename: a reader sees the old object or the new one.
fn install(built: &Path, object: &Path) -> Result<()> {
    let new = fs::read(built).with_context(|| format!("the build left no {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let part = object.with_extension(format!("part{}", std::process::id()));
    fs::write(&part, &new)
        .and_then(|()| fs::rename(&part, object))
        .with_context(|| format!("can't write {}", object.display()))
}

/// A path as seen from the workspace's root.
pub(crate) fn shown(path: &Path) -> std::path::Display<'_> {
    path.strip_prefix(root()).unwrap_or(path).display()
}
