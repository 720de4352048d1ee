//! All checks in their order.

/// What to run.
#[derive(clap::Args)]
pub(crate) struct TestArgs {}

pub(crate) fn run(_: &TestArgs) -> anyhow::Result<()> {
    Ok(())
}
