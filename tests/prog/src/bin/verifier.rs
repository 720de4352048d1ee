//! Prints what each program of an object costs the verifier, or why it is refused.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;
use prog_tests::verifier::{Budget, Cost, Outcome, Programs, Verdict};

const EXAMPLES: &str = "\
Examples:
  verifier target/bpf/mirror.o                                    every program
  verifier target/bpf/mirror.o --program tc_ingress --log-level 2 the whole log of one, loaded or not
  verifier target/bpf/mirror.o --json                             for scripts

Exit codes: 0 all loaded within the budget, 1 otherwise.";

/// Loads every program of an object and prints what it costs the verifier.
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Cli {
    /// The object
    object: PathBuf,
    /// Only programs whose name contains this
    #[arg(long, value_name = "NAME", default_value = "")]
    program: String,
    /// 1: the path that is refused; 2: all instructions, also of programs that load
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    log_level: u32,
    /// Lines of a refusal's log to print
    #[arg(long, value_name = "N", default_value_t = 40)]
    tail: usize,
    /// Directory for whole logs
    #[arg(long, value_name = "DIR", default_value = "target/bpf/verifier")]
    logs: PathBuf,
    /// What each program may cost
    #[arg(long, value_name = "FILE", default_value = "tests/prog/budget.toml")]
    budget: PathBuf,
    /// Whatever they cost: a budget is of one kernel
    #[arg(long)]
    no_budget: bool,
    /// Set the budget to what was seen
    #[arg(long, conflicts_with = "no_budget")]
    write_budget: bool,
    /// One JSON object a program
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let data = fs::read(&cli.object).with_context(|| format!("can't read {}", cli.object.display()))?;
    let programs = Programs::open(&data)?;
    let mut budget = if cli.no_budget { Budget::default() } else { Budget::read(&cli.budget)? };
    let names = programs.names();
    let mut good = true;
    let mut any = false;
    if !cli.json {
        println!(
            "{:28} {:>6} {:>9} {:>7} {:>7} {:>5} {:>7} {:>7}",
            "program", "insns", "verified", "states", "peak", "stack", "jited", "ms"
        );
    }
    for name in names.iter().filter(|name| name.contains(&cli.program)) {
        any = true;
        let outcome = programs.verify(name, cli.log_level)?;
        good &= show(&cli, &budget, &outcome)?;
        if let Verdict::Loaded(cost) = &outcome.verdict {
            budget.set(name, cost);
        }
    }
    anyhow::ensure!(any, "no program's name contains `{}`; there are: {}", cli.program, names.join(", "));
    if cli.write_budget && good {
        budget.keep_only(&names);
        budget.write(&cli.budget)?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints an outcome and writes its log. Returns whether it is as it should be.
fn show(cli: &Cli, budget: &Budget, outcome: &Outcome) -> Result<bool> {
    let name = &outcome.name;
    let log = cli.logs.join(format!("{name}.log"));
    let refused = matches!(outcome.verdict, Verdict::Refused(_));
    if refused || cli.log_level > 1 {
        fs::create_dir_all(&cli.logs)
            .and_then(|()| fs::write(&log, &outcome.log))
            .with_context(|| format!("can't write {}", log.display()))?;
    } else if log.exists() {
        // An old refusal's log would be taken for this one's.
        fs::remove_file(&log)?;
    }
    let over = match &outcome.verdict {
        Verdict::Loaded(cost) if !cli.write_budget => budget.exceeded(name, cost),
        _ => None,
    };
    match &outcome.verdict {
        _ if cli.json => println!("{}", json(outcome, over.as_deref())),
        Verdict::Loaded(cost) => {
            print_cost(name, cost, outcome.elapsed.as_secs_f64() * 1e3, over.as_deref(), budget.knows(name))
        }
        Verdict::Refused(error) => print_refusal(name, &error.to_string(), &outcome.log, cli.tail, &log),
    }
    Ok(!refused && over.is_none())
}

fn print_cost(name: &str, cost: &Cost, ms: f64, over: Option<&str>, known: bool) {
    let note = match over {
        Some(over) => format!("  OVER BUDGET: {over}"),
        None if known => String::new(),
        None => "  (no budget yet)".to_owned(),
    };
    println!(
        "{name:28} {:>6} {:>9} {:>7} {:>7} {:>5} {:>7} {ms:>7.1}{note}",
        cost.instructions, cost.verified, cost.states, cost.peak_states, cost.stack, cost.jited
    );
}

fn print_refusal(name: &str, error: &str, log: &str, tail: usize, path: &Path) {
    let lines = log.lines().collect::<Vec<_>>();
    println!("{name:28} REFUSED: {error}; {} lines in {}", lines.len(), path.display());
    for line in &lines[lines.len().saturating_sub(tail)..] {
        println!("    {line}");
    }
}

fn json(outcome: &Outcome, over: Option<&str>) -> serde_json::Value {
    let (cost, refused) = match &outcome.verdict {
        Verdict::Loaded(cost) => (Some(cost), None),
        Verdict::Refused(error) => (None, Some(error.to_string())),
    };
    serde_json::json!({ "program": outcome.name, "cost": cost, "refused": refused, "over_budget": over })
}
