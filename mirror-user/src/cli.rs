//! What a person types.

mod migrate;
mod observe;
mod order;
mod provision;

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, anyhow, ensure};
use clap::{CommandFactory, Parser, Subcommand};
use mirror_control::precondition::Precondition;

use crate::{
    api::{
        Client, Counter, Flows, MoveRequest, Moved, Reloaded, Status, WeightRequest,
        divergence::DivergenceAnswer, forecast::ForecastAnswer, resources::ResourcesAnswer,
    },
    apps,
    daemon::{self, Places},
    datapath, doctor,
    output::{Holds, Removed, print, redraw},
    policy::{Policy, parse_duration, reload::Loaded},
    report, tap, top,
};

/// Moves a running application to other servers, and its clients notice nothing.
///
/// Exit codes: 0 done, 1 refused or failed (the message says why and what to do), 2 the command line is wrong.
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
    /// Folder of what is kept on disk: journals, series, provisioned shadows
    #[arg(long, global = true, default_value = "/var/lib/mirror", value_name = "DIR")]
    state: PathBuf,
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
        /// Log a line a packet: to see what happens, not for production. The kernel side must have been built for that
        #[arg(long)]
        log_packets: bool,
    },
    /// Let the daemon read its policy file again, and go by what has changed
    ///
    /// [breaker], [events], [migration] and [scale] may change; anything else takes a restart, and then nothing is taken. A
    /// migration under way goes by it from here on, but for its steps. SIGHUP does the same.
    #[command(after_help = "Example:\n  mirror check /etc/mirror/shop.toml && mirror reload")]
    Reload,
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
        /// The application; without it all
        app: Option<String>,
        /// Again every second
        #[arg(long)]
        watch: bool,
    },
    /// Show all of an application over the whole terminal, each second, with keys for what can be done
    ///
    /// Keys: w weight, p pause, r resume, c cutover, b rollback, a abort, f finalize, q quit. Each is asked back.
    #[command(after_help = "Example:\n  mirror top")]
    Top {
        /// The application; it may be left out where there is one alone
        app: Option<String>,
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
    ///
    /// With --again also one that is in sync, and answers otherwise all the same (mirror divergence): its reads go back to the
    /// authority, it is put out when it owes nothing, the join hook brings it level, and it is joined; with no reads, as behind
    /// any join. Where the hook fails it is out of sync.
    #[command(
        after_help = "Example:\n  mirror join shop\n  mirror divergence shop && mirror join shop --again"
    )]
    Join {
        /// The application
        app: String,
        /// Even if it is in sync: it is put out first
        #[arg(long)]
        again: bool,
    },
    /// Give the shadow the authority and all reads
    ///
    /// Refused where a precondition isn't met; --dry-run shows each with its figure and its bound. A refusal has the command
    /// that goes on all the same.
    #[command(
        after_help = "Example:\n  mirror cutover shop --rehearse\n  mirror cutover shop --when-ready --expires 2h\n  \
                      mirror cutover shop --at 03:00 --expires 03:30\n  mirror cutover shop --cancel"
    )]
    Cutover {
        /// The application
        app: String,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Freeze and drain for real, and don't flip: what it would cost
        #[arg(long, conflicts_with = "dry_run")]
        rehearse: bool,
        /// Let the migration under way make it as soon as it is ready
        #[arg(long, conflicts_with_all = ["dry_run", "rehearse"])]
        when_ready: bool,
        /// Make it then: 2026-11-26T03:00:00+01:00, or 03:00 of this host's clock; a migration under way makes it once it
        /// is ready
        #[arg(long, conflicts_with_all = ["dry_run", "rehearse", "when_ready"], value_name = "TIME")]
        at: Option<String>,
        /// Not at all if it can't be made by then: a time, or a duration from --at or from now on [default with --at: 1m]
        #[arg(long, conflicts_with_all = ["dry_run", "rehearse"], value_name = "DURATION|TIME")]
        expires: Option<String>,
        /// What was ordered by --at or --expires isn't wanted any more
        #[arg(long, conflicts_with_all = ["dry_run", "rehearse", "when_ready", "at", "expires"])]
        cancel: bool,
        /// Make it although these preconditions aren't met; a refusal names them. In sync can't be waived
        #[arg(
            long,
            conflicts_with_all = ["when_ready", "cancel"],
            value_name = "NAME,...",
            value_delimiter = ',',
            value_parser = Precondition::waivable
        )]
        despite: Vec<Precondition>,
    },
    /// Give the primary the authority and all reads back
    #[command(after_help = "Example:\n  mirror rollback shop")]
    Rollback {
        /// The application
        app: String,
    },
    #[command(flatten)]
    Migration(migrate::Task),
    /// Show what became of every packet
    #[command(after_help = "Example:\n  mirror counters --all")]
    Counters {
        /// Those that are zero too
        #[arg(long)]
        all: bool,
    },
    /// Show single connections, whose oldest debt is the oldest first: both legs and what they owe, authority, turns
    ///
    /// A leg owes the client's bytes that its server hasn't acknowledged, and the requests that it hasn't answered; the time
    /// is that of the oldest of them, at least.
    #[command(after_help = "Example:\n  mirror flows --limit 20\n  \
                      mirror flows --json | jq '.flows[] | select(.shadow.owed_bytes > 0)'")]
    Flows {
        /// The application; it may be left out where there is one alone
        app: Option<String>,
        /// Connections at most, up to 10000
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
    },
    /// Show what both sides' servers use: CPU, memory, I/O, network, requests
    #[command(after_help = "Example:\n  mirror resources --since 1h\n  \
                      mirror resources --json | jq '.sides[0].metrics[] | select(.metric == \"cpu\").now'")]
    Resources {
        /// The application; it may be left out where there is one alone
        app: Option<String>,
        /// Mean and maximum of this time
        #[arg(long, default_value = "10m", value_name = "TIME", value_parser = parse_duration)]
        since: Duration,
    },
    /// Draw the request rates that are expected, from a minute to a day ahead, and say what the sides need for them
    ///
    /// Each forecast is kept and scored when its time has come: MASE below 1 is better than the value of a day ago (before there
    /// is a day: of the last minute); `within` is the share of the values in the 90 % interval.
    #[command(after_help = "Example:\n  mirror forecast\n  \
                      mirror forecast --json | jq '.classes[0].horizons[] | {seconds, mean, interval90}'")]
    Forecast {
        /// The application; it may be left out where there is one alone
        app: Option<String>,
    },
    /// Show how the two sides' answers differ, by path prefix
    ///
    /// Statuses, lengths and digests of the bodies, of turns that both sides answered. A digest's difference is noise where the
    /// primary differs as often from itself.
    #[command(after_help = "Example:\n  mirror divergence\n  \
                      mirror divergence --json | jq '.prefixes[0]'")]
    Divergence {
        /// The application; it may be left out where there is one alone
        app: Option<String>,
        /// Prefixes at most
        #[arg(long, default_value_t = 10, value_name = "N")]
        limit: usize,
    },
    /// Write a page of what the last migration did, when, why and on what evidence, for those who have to approve it
    ///
    /// One file of HTML with its plots, that needs nothing else; or JSON. Without a daemon it is made of what lies in --state.
    #[command(
        after_help = "Example:\n  mirror report --output shop.html\n  mirror report shop --json | jq .entries[].words"
    )]
    Report {
        /// The application; it may be left out where there is one alone
        app: Option<String>,
        /// The file; without it standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Check whether this host can run the gateway, and say what to type where it can't
    ///
    /// Without a policy only the host is looked at. Needs no root, but capabilities are those of whoever asks. Exit code 1
    /// when something fails; warnings leave it 0.
    #[command(after_help = "Example:\n  mirror doctor policies/http.toml")]
    Doctor {
        /// The policy file
        policy: Option<PathBuf>,
    },
    /// Read a service's traffic where it passes by, touch none of it, and say what share a shadow could answer
    ///
    /// The first step, before any policy: on a gateway, or on the server itself. Needs CAP_NET_RAW, and no daemon. Counted are
    /// requests of HTTP/1.x in clear, and a name server's queries over UDP; of the rest, the connections, and why.
    #[command(after_help = "Example:\n  mirror observe 10.0.2.2:8080 --for 10m\n  \
                      mirror observe 10.0.2.2:8080 --json | jq '.shiftable / .requests'\n  \
                      mirror observe 10.0.2.2:53/udp 10.0.2.2:53\n  \
                      mirror observe '[2001:db8:2::2]:8080'\n  mirror observe --policy policies/services.toml")]
    Observe(observe::Args),
    #[command(flatten)]
    Provisioning(provision::Task),
    /// Make a policy
    #[command(subcommand)]
    Policy(provision::PolicyTask),
    /// Become the program that is named on standard input: `provision` starts it so
    #[command(hide = true)]
    LaunchInstance,
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
        Ok(code) => code,
        Err(report) => {
            // A policy's fault is drawn into its text; anything else is a line that fits a log.
            if report.source_code().is_some() || report.help().is_some() {
                eprintln!("Error: {report:?}");
            } else {
                eprintln!("mirror: {report}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> miette::Result<ExitCode> {
    match &cli.command {
        Command::Run { policy, log_packets } => {
            let policy = Loaded::load(policy)?;
            let filter =
                tracing_subscriber::EnvFilter::try_from_env("MIRROR_LOG").unwrap_or_else(|_| "info".into());
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr)
                .init();
            let places =
                Places { pins: cli.pins.clone(), socket: cli.socket.clone(), state: cli.state.clone() };
            daemon::run(policy, &places, *log_packets).map_err(said)?;
        }
        Command::Check { policy } => {
            print(&Holds::new(&Policy::load(policy)?), cli.json).map_err(said)?;
        }
        Command::Doctor { policy } => {
            let policy = policy.as_deref().map(Policy::load).transpose()?;
            let lines = doctor::examine(policy.as_ref(), &cli.pins);
            print(&lines, cli.json).map_err(said)?;
            if doctor::worst(&lines) == doctor::Level::Failure {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Provisioning(task) => provision::run(task, &cli.state, &cli.pins, cli.json)?,
        Command::Policy(task) => provision::make_policy(task).map_err(said)?,
        Command::LaunchInstance => provision::launch().map_err(said)?,
        Command::Unload => {
            // What another layout has pinned can't be read, and goes all the same.
            let servers = datapath::servers(&cli.pins).unwrap_or_default();
            let removed = datapath::unload(&cli.pins).map_err(said)?;
            tap::remove().map_err(said)?;
            let neighbours = daemon::neighbours::let_go(servers).map_err(said)?;
            print(&Removed { removed, pins: cli.pins.clone(), neighbours }, cli.json).map_err(said)?;
        }
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "mirror", &mut std::io::stdout());
        }
        command => {
            let observed = match command {
                Command::Observe(args) => args.policy()?,
                _ => None,
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| said(error.into()))?;
            let done = match command {
                Command::Observe(args) => runtime.block_on(observe::run(args, observed.as_ref(), cli.json)),
                command => runtime.block_on(talk(cli, command)),
            };
            done.map_err(said)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An error with its causes, as one message.
fn said(error: anyhow::Error) -> miette::Report {
    miette::miette!("{error:#}")
}

/// Where an application stands, or all.
async fn status(client: &Client, app: Option<&str>) -> Result<Status> {
    let mut status = client.get::<Status>("/status").await?;
    if app.is_some() {
        let chosen = apps::choose(&status.names(), app)?.to_owned();
        status.apps.retain(|known| known.name == chosen);
    }
    Ok(status)
}

async fn talk(cli: &Cli, command: &Command) -> Result<()> {
    let client = Client::new(&cli.socket)?;
    let ask =
        |app: &String, dry_run: bool| MoveRequest { app: app.clone(), dry_run, ..MoveRequest::default() };
    match command {
        Command::Status { app, watch: false } => print(&status(&client, app.as_deref()).await?, cli.json),
        Command::Status { app, watch: true } => {
            // Who mistyped the socket is told at once; who watches sees the daemon go and come back.
            let mut seen = Ok(status(&client, app.as_deref()).await?);
            loop {
                match &seen {
                    Ok(status) => redraw(status, cli.json)?,
                    Err(error) => eprintln!("mirror: {error:#}"),
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                seen = status(&client, app.as_deref()).await;
            }
        }
        Command::Top { app } => {
            ensure!(!cli.json, "top draws on a terminal; for JSON: mirror status --watch --json");
            top::run(client, app.as_deref()).await
        }
        Command::Report { app, output } => {
            report::run(&client, &cli.state, app.as_deref(), output.as_deref(), cli.json).await
        }
        Command::Flows { app, limit } => {
            apps::running(&client, app.as_deref()).await?;
            print(&client.get::<Flows>(&format!("/flows?limit={limit}")).await?, cli.json)
        }
        Command::Resources { app, since } => {
            let app = apps::running(&client, app.as_deref()).await?;
            let path = format!("/resources?app={app}&since={}", since.as_secs().max(1));
            print(&client.get::<ResourcesAnswer>(&path).await?, cli.json)
        }
        Command::Forecast { app } => {
            let app = apps::running(&client, app.as_deref()).await?;
            print(&client.get::<ForecastAnswer>(&format!("/forecast?app={app}")).await?, cli.json)
        }
        Command::Divergence { app, limit } => {
            let app = apps::running(&client, app.as_deref()).await?;
            let path = format!("/divergence?app={app}&limit={limit}");
            print(&client.get::<DivergenceAnswer>(&path).await?, cli.json)
        }
        Command::Weight { app, percent } => {
            let body = WeightRequest { app: app.clone(), weight: *percent };
            print(&client.post::<Moved>("/weight", &body).await?, cli.json)
        }
        Command::Reload => print(&client.post::<Reloaded>("/reload", &()).await?, cli.json),
        Command::Join { app, again } => {
            let body = MoveRequest { again: *again, ..ask(app, false) };
            print(&client.post::<Moved>("/join", &body).await?, cli.json)
        }
        Command::Migration(task) => migrate::talk(&client, task, cli.json).await,
        Command::Cutover { app, cancel: true, .. } => order::cancel(&client, app, cli.json).await,
        Command::Cutover { app, when_ready, at, expires, despite, .. }
            if at.is_some() || expires.is_some() =>
        {
            let window = order::window(*when_ready, at.as_deref(), expires.as_deref(), &jiff::Zoned::now())?;
            order::give(&client, app, *when_ready, window, despite, cli.json).await
        }
        Command::Cutover { app, when_ready: true, .. } => {
            migrate::ask(&client, app, mirror_control::migration::Command::Cutover, cli.json).await
        }
        Command::Cutover { app, dry_run, rehearse, despite, .. } => {
            let despite = despite.clone();
            let body = MoveRequest { rehearse: *rehearse, despite, ..ask(app, *dry_run) };
            let moved = client.post::<Moved>("/cutover", &body).await?;
            print(&moved, cli.json)?;
            moved.refused.map_or(Ok(()), |refused| Err(anyhow!(refused)))
        }
        Command::Rollback { app } => {
            print(&client.post::<Moved>("/rollback", &ask(app, false)).await?, cli.json)
        }
        Command::Counters { all } => {
            let mut counters: Vec<Counter> = client.get("/counters").await?;
            // JSON has them all: a reader of it looks for names.
            counters.retain(|counter| *all || cli.json || counter.count > 0);
            print(&counters, cli.json)
        }
        Command::Run { .. }
        | Command::Check { .. }
        | Command::Doctor { .. }
        | Command::Observe(_)
        | Command::Provisioning(_)
        | Command::Policy(_)
        | Command::LaunchInstance
        | Command::Unload
        | Command::Completions { .. } => Ok(()),
    }
}
