//! How well what decides does its work, beside what others do: needs no root and loads no program.

#![forbid(unsafe_code)]

mod forecast;

use clap::Parser;

/// Measures what decides, beside other methods, on the same work.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
enum Bench {
    Forecast(forecast::Args),
}

fn main() -> anyhow::Result<()> {
    match Bench::parse() {
        Bench::Forecast(args) => forecast::run(&args),
    }
}
