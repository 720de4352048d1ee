//! What the decisions are worth, on simulated work and recorded series: needs no root, no kernel, no network.
#![forbid(unsafe_code)]

mod decisions;
mod forecast;
mod scaling;
mod series;

use clap::{Parser, Subcommand};

/// Benches of what decides: seeded simulations and series, beside the best known ways.
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
    /// What will be needed? Errors and coverage of the forecasts by rolling origins
    Forecast(forecast::Args),
    /// How much capacity? Time under-provisioned and capacity, beside Kubernetes' rule and an oracle
    Scaling(scaling::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().bench {
        Bench::Decisions(args) => decisions::run(&args),
        Bench::Forecast(args) => forecast::run(&args),
        Bench::Scaling(args) => scaling::run(&args),
    }
}
