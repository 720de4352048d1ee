//! Which toolchain builds the kernel side: what is there, what is missing, and how it is installed.
//!
//! Two ways: rustup's nightly, or Debian's packages alone (`rustc-web` with its sources, LLVM 22). A way that is
//! complete is taken before one that must be installed; rustup before Debian.

mod debian;
mod rustup;

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

pub(crate) use debian::ensure_packages;
pub(crate) use rustup::NIGHTLY;

use crate::command::{output, root};

/// The linker that turns LLVM bitcode into a BPF object.
const BPF_LINKER: &str = "0.13.0";

/// Where the toolchain comes from.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// rustup's dated nightly with rust-src
    Rustup,
    /// Debian's packages: rustc-web, rust-web-src, llvm-22-dev
    Debian,
}

/// A toolchain that is complete.
pub(crate) struct Toolchain {
    way: Way,
    /// What was chosen, for people.
    pub(crate) name: String,
    /// `cargo` of that toolchain with everything set that finds its compiler and linker.
    pub(crate) cargo: Command,
}

impl Toolchain {
    /// Installs the toolchain's clippy if it isn't there.
    ///
    /// # Errors
    /// When the package or component can't be installed.
    pub(crate) fn ensure_clippy(&self) -> Result<()> {
        match self.way {
            Way::Rustup => rustup::ensure_clippy(),
            Way::Debian => ensure_packages(&["rust-web-clippy"]),
        }
    }
}

/// What has to be done before a way can be used.
struct Missing {
    /// One line each, for people.
    what: Vec<String>,
}

/// Finds a complete toolchain, or installs one after asking.
///
/// # Errors
/// When nothing is complete and the user says no, or nothing can be installed: the error names both ways.
pub(crate) fn find_or_install(way: Option<Way>, yes: bool) -> Result<Toolchain> {
    let ways = way.map_or_else(|| vec![Way::Rustup, Way::Debian], |way| vec![way]);
    let mut incomplete = Vec::new();
    for way in ways {
        match look(way) {
            Ok(missing) if missing.what.is_empty() => return ready(way),
            Ok(missing) => incomplete.push((way, missing)),
            Err(reason) => eprintln!("toolchain: {} can't be used: {reason:#}", label(way)),
        }
    }
    for (way, missing) in &incomplete {
        eprintln!("toolchain: {} lacks:\n  - {}", label(*way), missing.what.join("\n  - "));
        if !agreed(yes)? {
            continue;
        }
        match install(*way) {
            Ok(()) => return ready(*way),
            Err(reason) => eprintln!("toolchain: {} couldn't be installed: {reason:#}", label(*way)),
        }
    }
    bail!(
        "no toolchain for the kernel side. Either of these helps:\n  \
         rustup toolchain install {NIGHTLY} --component rust-src && cargo binstall bpf-linker@{BPF_LINKER}\n  \
         as root on Debian 12: cargo xtask build-ebpf --way debian --yes"
    )
}

fn label(way: Way) -> &'static str {
    match way {
        Way::Rustup => "rustup's nightly",
        Way::Debian => "Debian's packages",
    }
}

fn look(way: Way) -> Result<Missing> {
    match way {
        Way::Rustup => rustup::look(),
        Way::Debian => debian::look(),
    }
}

fn install(way: Way) -> Result<()> {
    match way {
        Way::Rustup => rustup::install(),
        Way::Debian => debian::install(),
    }
}

fn ready(way: Way) -> Result<Toolchain> {
    match way {
        Way::Rustup => rustup::ready(),
        Way::Debian => debian::ready(),
    }
}

/// Whether what was just listed may be installed.
fn agreed(yes: bool) -> Result<bool> {
    if yes || std::env::var_os("CI").is_some() {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        bail!("nobody to ask whether to install that: say --yes");
    }
    eprint!("install that now? [Y/n] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("no answer")?;
    Ok(matches!(answer.trim(), "" | "y" | "Y" | "yes"))
}

/// Where programs of ours for a purpose lie: bpf-linkers by the way that they were built, load tools.
pub(crate) fn tools(purpose: &str) -> PathBuf {
    root().join("target/tools").join(purpose)
}

/// The version that a bpf-linker says it has, if it starts.
fn linker_version(path: &Path) -> Option<String> {
    Some(output(Command::new(path).arg("--version"))?.split_whitespace().last()?.to_owned())
}

/// `PATH` with these before everything else.
fn path_with(first: &[PathBuf]) -> Result<std::ffi::OsString> {
    let old = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(first.iter().cloned().chain(std::env::split_paths(&old)))?)
}
