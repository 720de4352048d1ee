//! Programs that what is tested and shown needs beside its own.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{command::output, toolchain::ensure_packages};

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
