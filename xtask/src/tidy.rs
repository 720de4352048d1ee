//! Style that a program can check is checked by one.

/// Checks every file that git knows.
pub(crate) fn run() -> anyhow::Result<()> {
    Ok(())
}
