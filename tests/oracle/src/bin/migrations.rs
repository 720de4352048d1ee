//! Runs simulated migrations: one seed with its trace, or many.

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use oracle::migrations::{self, Totals};

/// Migrations on a simulated datapath
#[derive(Parser)]
struct Args {
    /// Run this seed alone, and print its trace
    #[arg(long)]
    seed: Option<u64>,
    /// Run seeds from this one on
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// So many
    #[arg(long, default_value_t = 1_000_000)]
    migrations: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        let report = migrations::run(seed, None, true);
        for line in &report.trace {
            println!("{line}");
        }
        println!("seed {seed}: {} steps, {}", report.steps, report.stage.name());
        return match report.broken {
            None => ExitCode::SUCCESS,
            Some(rule) => {
                println!("broken: {rule}");
                ExitCode::FAILURE
            }
        };
    }
    let begun = Instant::now();
    let mut totals = Totals::default();
    for seed in args.from..args.from + args.migrations {
        let report = migrations::run(seed, None, false);
        totals.add(&report);
        if let Some(rule) = &report.broken {
            println!("seed {seed}: {rule}\ncargo run -p oracle --bin migrations -- --seed {seed}");
            return ExitCode::FAILURE;
        }
    }
    println!("{totals}\n{:.1} s, no rule broken", begun.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}
