//! Programs that what is tested and shown starts: its own, and the system's.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    command::{self, cargo, locked, output},
    toolchain::{ensure_packages, tools},
};

/// A program, and the Debian package that it comes in.
pub(crate) type Program = (&'static str, &'static str);

/// Installs those that aren't there: a machine without apt may have them from elsewhere.
///
/// # Errors
/// When one is missing and can't be installed.
pub(crate) fn ensure(programs: &[Program]) -> Result<()> {
    let absent =
        |program: &str| output(Command::new("sh").args(["-c", &format!("command -v {program}")])).is_none();
    let packages: Vec<&str> =
        programs.iter().filter(|(program, _)| absent(program)).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    ensure_packages(&packages).with_context(|| format!("missing: {}", packages.join(", ")))
}

/// The load tool that no Debian package has, and its version.
const OHA: (&str, &str) = ("oha", "1.16.0");

/// Where oha is: on `PATH`, or built by cargo below `target/tools`.
///
/// # Errors
/// When it can't be built.
pub(crate) fn oha() -> Result<PathBuf> {
    let (name, version) = OHA;
    let root = tools("clients");
    let ours = root.join("bin").join(name);
    for program in [PathBuf::from(name), ours.clone()] {
        if output(Command::new(&program).arg("--version")).is_some() {
            return Ok(program);
        }
    }
    println!("{name}: building {version} by cargo install into {} (some minutes)", root.display());
    // Without optimisation: what it drives is slower than it.
    let options = ["install", name, "--version", version, "--locked", "--debug", "--quiet", "--root"];
    command::run(cargo().args(options).arg(&root)).with_context(|| format!("{name} can't be built"))?;
    Ok(ours)
}

/// Builds the gateway and the lab's programs, with more of cargo's options.
///
/// # Errors
/// When they don't build.
pub(crate) fn build(options: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--package", "mirror-user", "--package", "lab", "--bins"]);
    command::run(command.args(options).args(locked()))
}
