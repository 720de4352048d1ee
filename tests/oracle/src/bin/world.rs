//! Runs worlds: one seed with its trace, or many for a number of steps.

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use oracle::world;

/// Deterministic worlds around the gateway's transition functions
#[derive(Parser)]
struct Args {
    /// Run this seed alone, and print its trace
    #[arg(long)]
    seed: Option<u64>,
    /// Print so many last lines of the trace
    #[arg(long, default_value_t = 120)]
    lines: usize,
    /// Run seeds from this one on
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Until so many packets have been delivered
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// Go on after a broken rule; print each one's seed
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        let report = world::run(seed, args.lines);
        for line in &report.trace {
            println!("{line}");
        }
        println!("seed {seed}: {} steps, {} answered, {:?}", report.steps, report.answered, report.counts);
        return match report.violation {
            None => ExitCode::SUCCESS,
            Some((at, rule)) => {
                println!("broken at {:.6} s: {rule}", at as f64 / 1e6);
                ExitCode::FAILURE
            }
        };
    }
    let begun = Instant::now();
    let mut total = world::Totals::default();
    let mut seed = args.from;
    let mut broken = 0_u64;
    while total.steps < args.steps {
        let report = world::run(seed, 0);
        total.add(&report);
        if let Some((at, rule)) = &report.violation {
            println!("seed {seed} at {:.6} s: {rule}", *at as f64 / 1e6);
            broken += 1;
            if !args.keep_going {
                break;
            }
        }
        seed += 1;
    }
    println!("{total}");
    println!("{} worlds, {broken} broken, {:.1} s", seed - args.from, begun.elapsed().as_secs_f64());
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
