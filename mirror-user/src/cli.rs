//! What a person types.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use serde::Serialize;

use crate::{
    api::{AppStatus, Client, Counter, MoveRequest, Moved, SideStatus, Status, WeightRequest},
    daemon::{self, Places},
    datapath,
    policy::Policy,
    tap,
};

/// Moves a running application to other servers, and its clients notice nothing.
///
/// Exit codes: 0 done, 1 refused or failed (the message says why), 2 the command line is wrong.
#[derive(Parser)]
#[command(
    name = "mirror",
    version,
    after_help = "Example:\n  mirror run policies/http.toml &\n  mirror join shop && mirror weight shop 25 && mirror cutover shop"
)]
struct Cli {
    /// The daemon's control socket
    #[arg(long, global = true, default_value = "/run/mirror/control.sock", value_name = "FILE")]
    socket: PathBuf,
    /// Folder of what is pinned, on a bpf file system
    #[arg(long, global = true, default_value = "/sys/fs/bpf/mirror", value_name = "DIR")]
    pins: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load, attach and serve until told to stop; what is pinned goes on without it
    #[command(after_help = "Example:\n  mirror run policies/http.toml")]
    Run {
        /// The policy file
        policy: PathBuf,
    },
    /// Check a policy file; needs no root
    #[command(after_help = "Example:\n  mirror check policies/http.toml")]
    Check {
        /// The policy file
        policy: PathBuf,
    },
    /// Show where each application stands
    #[command(
        after_help = "Example:\n  mirror status --watch\n  mirror status --json | jq .apps[0].shadow.in_sync"
    )]
    Status {
        /// Again every second
        #[arg(long)]
        watch: bool,
    },
    /// Set the share of the reads that the shadow answers
    #[command(after_help = "Example:\n  mirror weight shop 25")]
    Weight {
        /// The application
        app: String,
        /// 0 to 100
        percent: f64,
    },
    /// Bring the other side level and mirror every write to it
    #[command(after_help = "Example:\n  mirror join shop")]
    Join {
        /// The application
        app: String,
    },
    /// Give the shadow the authority and all reads
    #[command(after_help = "Example:\n  mirror cutover shop --dry-run")]
    Cutover {
        /// The application
        app: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Give the primary the authority and all reads back
    #[command(after_help = "Example:\n  mirror rollback shop")]
    Rollback {
        /// The application
        app: String,
    },
    /// Show what became of every packet
    #[command(after_help = "Example:\n  mirror counters --all")]
    Counters {
        /// Those that are zero too
        #[arg(long)]
        all: bool,
    },
    /// Detach, and remove all that was pinned
    #[command(after_help = "Example:\n  mirror unload")]
    Unload,
    /// Print completions for a shell
    #[command(after_help = "Example:\n  mirror completions bash > /etc/bash_completion.d/mirror")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            eprintln!("Error: {report:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> miette::Result<()> {
    match &cli.command {
        Command::Run { policy } => {
            let policy = Policy::load(policy)?;
            let filter =
                tracing_subscriber::EnvFilter::try_from_env("MIRROR_LOG").unwrap_or_else(|_| "info".into());
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
            let places = Places { pins: cli.pins.clone(), socket: cli.socket.clone() };
            daemon::run(policy, &places).map_err(said)
        }
        Command::Check { policy } => {
            let policy = Policy::load(policy)?;
            println!("{} holds", policy.name.as_str());
            Ok(())
        }
        Command::Unload => {
            let removed = datapath::unload(&cli.pins).map_err(said)?;
            tap::remove().map_err(said)?;
            println!("removed {removed} pins from {}", cli.pins.display());
            Ok(())
        }
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "mirror", &mut std::io::stdout());
            Ok(())
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| said(error.into()))?.block_on(talk(cli, command)).map_err(said)
        }
    }
}

/// An error with its causes, as one message.
fn said(error: anyhow::Error) -> miette::Report {
    miette::miette!("{error:#}")
}

async fn talk(cli: &Cli, command: &Command) -> Result<()> {
    let client = Client::new(&cli.socket)?;
    let ask = |app: &String, dry_run: bool| MoveRequest { app: app.clone(), dry_run };
    match command {
        Command::Status { watch } => loop {
            let status: Status = client.get("/status").await?;
            print(cli, &status, |status| status.apps.iter().for_each(show_app))?;
            if !watch {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        },
        Command::Weight { app, percent } => {
            let body = WeightRequest { app: app.clone(), weight: *percent };
            print(cli, &client.post::<Moved>("/weight", &body).await?, show_moved)
        }
        Command::Join { app } => {
            print(cli, &client.post::<Moved>("/join", &ask(app, false)).await?, show_moved)
        }
        Command::Cutover { app, dry_run } => {
            print(cli, &client.post::<Moved>("/cutover", &ask(app, *dry_run)).await?, show_moved)
        }
        Command::Rollback { app } => {
            print(cli, &client.post::<Moved>("/rollback", &ask(app, false)).await?, show_moved)
        }
        Command::Counters { all } => {
            let counters: Vec<Counter> = client.get("/counters").await?;
            print(cli, &counters, |counters| {
                for counter in counters.iter().filter(|counter| *all || counter.count > 0) {
                    println!("{:>14}  {:<20} {}", counter.count, counter.name, counter.help);
                }
            })
        }
        Command::Run { .. } | Command::Check { .. } | Command::Unload | Command::Completions { .. } => Ok(()),
    }
}

fn print<T: Serialize>(cli: &Cli, value: &T, show: impl Fn(&T)) -> Result<()> {
    if cli.json {
        println!("{}", serde_json::to_string(value)?);
    } else {
        show(value);
    }
    Ok(())
}

fn show_moved(moved: &Moved) {
    println!(
        "{}  authority {}  weight {} %  epoch {}",
        moved.phase, moved.authority, moved.weight, moved.epoch
    );
    if let Some(p) = &moved.phases {
        println!(
            "freeze {:.1} µs, drain {:.1} µs, hook {:.1} µs, flip {:.1} µs; frozen for {:.1} µs",
            p.freeze_us, p.drain_us, p.hook_us, p.flip_us, p.frozen_us
        );
    }
}

fn show_app(app: &AppStatus) {
    let sync = if app.primary.in_sync && app.shadow.in_sync { "in sync" } else { "OUT OF SYNC" };
    println!(
        "{:<10} {} {} %   authority {}   legs {} / {}   {}   writes open {}   held {}",
        app.name,
        app.phase,
        app.weight,
        app.authority,
        app.two_legs,
        app.flows,
        sync,
        app.open_writes,
        app.held[0]
    );
    for (name, side) in [("primary", &app.primary), ("shadow", &app.shadow)] {
        show_side(name, side);
    }
}

fn show_side(name: &str, side: &SideStatus) {
    println!(
        "  {name:<8} {}   reads {}   writes {}   p50 {:.2} ms   p99 {:.2} ms   legs lost {}   ({}, {:.0} s)",
        if side.in_sync { "in sync" } else { "out of sync" },
        side.answered[0],
        side.answered[1],
        side.p50_us as f64 / 1e3,
        side.p99_us as f64 / 1e3,
        side.legs_lost,
        side.reason,
        side.since
    );
}
