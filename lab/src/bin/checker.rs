//! The checking client of the lab.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use lab::checker::{Config, Event, Segments, ServerLatency, Summary, run};

/// A client that opens its connections once and checks every answer.
///
/// Each connection owns a list at the server: half its requests append ids, half read the list's end, which must be
/// what the connection itself has written. Exit status: 0 if nothing failed, 1 if something did, 2 for wrong options.
#[derive(Parser)]
#[command(after_help = "Examples:\n  \
    checker --target 10.77.1.1:8080 --connections 200 --requests 1000000 --log /tmp/journals\n  \
    checker --target 10.77.1.1:8080 --duration 30 --think-ms 5 --control /tmp/checker.sock --json\n\n\
    Commands by datagrams to the control socket: mark NAME (requests that begin from now on are counted under that \
    name), think MS, pause (answered when no request is under way), resume, stop. \
    `checker --send 'mark w25' --control /tmp/checker.sock` sends one.")]
struct Cli {
    /// Where to connect.
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "send")]
    target: Option<SocketAddr>,
    /// How many connections.
    #[arg(long, value_name = "N", default_value_t = 200)]
    connections: usize,
    /// End after so many requests in all.
    #[arg(long, value_name = "N", required_unless_present_any = ["duration", "send"])]
    requests: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Pause so many milliseconds between an answer and the connection's next request.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    think_ms: f64,
    /// Share of the requests that append, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    write_fraction: f64,
    /// How many ids a read asks for.
    #[arg(long, value_name = "N", default_value_t = 3)]
    tail: usize,
    /// Read this path instead, and check only that the answer is 200.
    #[arg(long, value_name = "PATH")]
    read_path: Option<String>,
    /// Send so many requests in one go.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pipeline: usize,
    /// How a request is cut into segments: whole, head-body, every=BYTES.
    #[arg(long, value_name = "HOW", default_value = "whole")]
    segments: Segments,
    /// Prefix of the lists' keys: two runs against the same servers need two.
    #[arg(long, value_name = "NAME", default_value = "r")]
    run: String,
    /// Seed of the choice between reads and writes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Longest time for one answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    timeout: f64,
    /// Write a journal for each connection to this directory: what `proof` reads.
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Take commands from this unix datagram socket.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Send a command to a running checker and end.
    #[arg(long, value_name = "COMMAND", requires = "control")]
    send: Option<String>,
    /// Say everything as lines of JSON: connected, tick, command, failure, summary.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if let (Some(command), Some(path)) = (&cli.send, &cli.control) {
        lab::checker::send_command(path, command)?;
        return Ok(ExitCode::SUCCESS);
    }
    let json = cli.json;
    let summary = run(config(cli)?, |event| say(event, json))?;
    Ok(if summary.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn config(cli: Cli) -> Result<Config> {
    let Some(target) = cli.target else { anyhow::bail!("say where to connect: --target ADDR:PORT") };
    Ok(Config {
        connections: cli.connections,
        requests: cli.requests,
        duration: cli.duration.map(Duration::try_from_secs_f64).transpose()?,
        think: Duration::try_from_secs_f64(cli.think_ms / 1e3)?,
        write_fraction: cli.write_fraction,
        tail: cli.tail,
        read_path: cli.read_path,
        pipeline: cli.pipeline,
        segments: cli.segments,
        run: cli.run,
        seed: cli.seed,
        timeout: Duration::try_from_secs_f64(cli.timeout)?,
        log: cli.log,
        control: cli.control,
        ..Config::new(target)
    })
}

fn say(event: &Event, json: bool) {
    let mut out = std::io::stdout().lock();
    // Who reads this may have gone; the run goes on for its journals.
    let _ = if json {
        serde_json::to_string(event).map_err(std::io::Error::from).and_then(|line| writeln!(out, "{line}"))
    } else {
        write!(out, "{}", text(event))
    };
    let _ = out.flush();
}

fn text(event: &Event) -> String {
    match event {
        Event::Connected { connections, .. } => format!("{connections} connections\n"),
        Event::Tick(tick) => {
            let mut line = format!(
                "{:6.1} s  {:8.0} req/s  {} failed  {} connections  {}",
                tick.seconds, tick.requests_per_second, tick.failed, tick.connections, tick.window
            );
            for (name, server) in &tick.servers {
                line += &format!("  {}", server_text(name, server));
            }
            line + "\n"
        }
        Event::Command { command } => format!("command: {command}\n"),
        Event::Failure { what, reason, detail, mid_answer } => {
            let mid = if *mid_answer { " (in the middle of the answer)" } else { "" };
            format!("FAILED {what}: {reason}{mid}: {detail}\n")
        }
        Event::Summary(summary) => summary_text(summary),
    }
}

fn server_text(name: &str, server: &ServerLatency) -> String {
    format!(
        "{name} {:.1} % of reads, p50 {} µs, p99 {} µs",
        server.read_share * 100.0,
        server.reads.p50_us,
        server.reads.p99_us
    )
}

fn summary_text(summary: &Summary) -> String {
    let mut text = String::new();
    for window in &summary.windows {
        for (name, server) in &window.servers {
            text += &format!("{:12} {}\n", window.name, server_text(name, server));
        }
    }
    text + &format!(
        "{} requests in {:.1} s ({:.0}/s): {} reads, {} writes, {} failed ({} in the middle of an answer); \
         {} connections, {} failed; {} segments sent again\n",
        summary.requests,
        summary.seconds,
        summary.requests_per_second,
        summary.reads,
        summary.writes,
        summary.failed_requests,
        summary.failed_mid_answer,
        summary.connections,
        summary.failed_connections,
        summary.retransmissions
    )
}
