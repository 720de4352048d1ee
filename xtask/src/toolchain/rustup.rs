//! The usual way: rustup's nightly with the library's sources, and bpf-linker.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::{BPF_LINKER, Missing, Toolchain, Way, debian, linker_version, path_with, tools};
use crate::command::{output, outside, run};

/// Dated: the intrinsics that the kernel side uses move between nightlies.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";

pub(super) fn look() -> Result<Missing> {
    let toolchains = output(outside("rustup").args(["toolchain", "list"])).context("there is no rustup")?;
    let mut what = Vec::new();
    if !toolchains.lines().any(|line| line.starts_with(NIGHTLY)) {
        what.push(format!("the toolchain {NIGHTLY} with rust-src (rustup toolchain install)"));
    } else if !has_sources() {
        what.push(format!("rust-src for {NIGHTLY} (rustup component add)"));
    }
    if linker().is_none() {
        what.push(format!("bpf-linker {BPF_LINKER} (cargo install, into target/tools/rustup)"));
    }
    Ok(Missing { what })
}

fn has_sources() -> bool {
    output(outside("rustup").args(["component", "list", "--toolchain", NIGHTLY, "--installed"]))
        .is_some_and(|list| list.lines().any(|line| line.starts_with("rust-src")))
}

/// The directory of a bpf-linker of our version: ours, or else the one on `PATH`.
fn linker() -> Option<PathBuf> {
    let on_path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    std::iter::once(tools("rustup").join("bin"))
        .chain(on_path)
        .find(|dir| linker_version(&dir.join("bpf-linker")).as_deref() == Some(BPF_LINKER))
}

pub(super) fn install() -> Result<()> {
    run(outside("rustup").args([
        "toolchain",
        "install",
        NIGHTLY,
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]))?;
    if linker().is_some() {
        return Ok(());
    }
    if !debian::is_debian() {
        bail!(
            "put bpf-linker {BPF_LINKER} on PATH: cargo binstall bpf-linker@{BPF_LINKER}, or the archive for this \
             machine from its releases page"
        );
    }
    // Built with the same LLVM major as the nightly's: its bitcode is what bpf-linker reads.
    let mut cargo = outside("cargo");
    cargo.arg(format!("+{NIGHTLY}"));
    debian::build_linker(cargo, "rustup")
}

pub(super) fn ready() -> Result<Toolchain> {
    let linker = linker().context("bpf-linker was installed but doesn't start")?;
    let mut cargo = outside("cargo");
    cargo.arg(format!("+{NIGHTLY}")).env("PATH", path_with(&[linker])?);
    Ok(Toolchain { way: Way::Rustup, name: format!("rustup's {NIGHTLY}, bpf-linker {BPF_LINKER}"), cargo })
}

pub(super) fn ensure_clippy() -> Result<()> {
    run(outside("rustup").args(["component", "add", "clippy", "--toolchain", NIGHTLY]))
}
