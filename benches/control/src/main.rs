//! What the decisions are worth, on simulated work: needs no root, no kernel, no network.
#![forbid(unsafe_code)]

mod decisions;

use clap::{Parser, Subcommand};

/// Benches of what decides: seeded simulations beside the best known ways.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Is the shadow no worse? False rollbacks, and requests that a bad shadow served before it was found
    Decisions(decisions::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().bench {
        Bench::Decisions(args) => decisions::run(&args),
    }
}
