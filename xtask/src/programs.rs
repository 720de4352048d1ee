//! Programs that what is tested and shown starts: its own, and the system's.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{
    command::{self, cargo, locked, output},
    toolchain::ensure_packages,
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

/// Builds the gateway and the lab's programs, with more of cargo's options.
///
/// # Errors
/// When they don't build.
pub(crate) fn build(options: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--package", "mirror-user", "--package", "lab", "--bins"]);
    command::run(command.args(options).args(locked()))
}
