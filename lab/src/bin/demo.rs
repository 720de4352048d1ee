//! Shows the whole job once, and proves it.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use lab::demo::{Fault, Hook, Interrupted, Options, migration, run};
use serde::Serialize;

/// Join, weights 0 to 100 %, cutover, rollback, a killed shadow and its return, under load; then the proof.
///
/// In a terminal, keys: k kills the shadow or starts it again, s stops it or lets it go on, 9 kills the daemon.
///
/// Exit status: 0 if the proof holds and no request failed; 1 if not, and what was found is named; 2 if it could not be
/// played to its end; 130 after Ctrl-C.
#[derive(Parser)]
#[command(
    name = "cargo xtask demo",
    bin_name = "cargo xtask demo",
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --json demo.json\n  \
                  cargo xtask demo --break drop      the proof must find it\n  \
                  cargo xtask demo migration"
)]
struct Cli {
    #[command(subcommand)]
    play: Option<Play>,
    #[command(flatten)]
    moves: Moves,
}

#[derive(Subcommand)]
enum Play {
    /// Migrations by themselves instead: provisioned, joined, shifted, cut over to, stood by, finalized, with a good
    /// shadow and with ill ones
    #[command(after_help = "Examples:\n  cargo xtask demo migration --json migrations.json\n  \
                      cargo xtask demo migration --only good,dies --hook xdp")]
    Migration(Migration),
}

#[derive(Args)]
struct Migration {
    /// Write one JSON object to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What befalls the shadow: only these
    #[arg(long, value_name = "SCENARIO", value_delimiter = ',')]
    only: Vec<migration::Scenario>,
    /// Where the gateway takes packets up
    #[arg(long, value_name = "HOOK", default_value = "tc")]
    hook: Hook,
    /// Copy journals, policies and the daemon's log to folders in this one
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Args)]
struct Moves {
    /// Write one JSON object to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Break something, for the proof to find
    #[arg(long = "break", value_name = "FAULT")]
    fault: Option<Fault>,
    /// Where the gateway takes packets up
    #[arg(long, value_name = "HOOK", default_value = "tc")]
    hook: Hook,
    /// Seconds at each weight
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Connections of the checking client
    #[arg(long, value_name = "N", default_value_t = 200)]
    connections: usize,
    /// Copy journals, traces, the servers' files and the daemon's log to this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.play {
        Some(Play::Migration(play)) => migrations(play),
        None => moves(cli.moves),
    }
}

fn moves(cli: Moves) -> ExitCode {
    let options = Options {
        seconds: cli.seconds,
        connections: cli.connections,
        hook: cli.hook,
        fault: cli.fault,
        keep: cli.keep,
    };
    exit(run(&options), cli.json, lab::demo::Outcome::is_ok)
}

fn migrations(cli: Migration) -> ExitCode {
    let all = migration::Scenario::ALL.to_vec();
    let scenarios = if cli.only.is_empty() { all } else { cli.only };
    let options = migration::Options { hook: cli.hook, scenarios, keep: cli.keep };
    exit(migration::run(&options), cli.json, migration::Outcome::is_ok)
}

/// Shows what came of a play, and makes the exit status of it.
fn exit<O: Serialize + std::fmt::Display>(
    played: Result<O>,
    json: Option<PathBuf>,
    is_ok: impl Fn(&O) -> bool,
) -> ExitCode {
    match played.and_then(|outcome| write(json, &outcome).map(|()| outcome)) {
        Ok(outcome) => {
            println!("\n{outcome}");
            if is_ok(&outcome) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("{error}");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn write(file: Option<PathBuf>, outcome: &impl Serialize) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(outcome)?;
    std::fs::write(&file, text + "\n").with_context(|| format!("can't write {}", file.display()))
}
