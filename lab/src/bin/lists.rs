//! The application of the lab: append-only lists over HTTP/1.1.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use lab::http_client::{get, parse_url, put};
use lab::lists::{ServerConfig, Spoil, serve};

/// Append-only lists by key, over HTTP/1.1.
///
/// POST /lists/KEY (the body is an id) appends; GET /lists/KEY[?tail=N] reads; GET /dump, PUT /load all lists;
/// GET /ping, GET /bytes/N, GET /chunked/N, POST /sink (length and CRC-32 of the body), GET /sink (of the last
/// one), POST /delay/MS, POST /refuse (413 before the body was read).
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  \
    lists --listen 10.0.2.2:8080 --name primary --file /tmp/primary.lists\n  \
    lists --listen 10.0.3.2:8080 --name shadow --volatile --max-requests 5 --close-silently\n  \
    lists copy --from http://10.0.2.2:8080 --to http://10.0.3.2:8080",
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Task>,
    #[command(flatten)]
    serve: Option<Serve>,
}

#[derive(Subcommand)]
enum Task {
    /// Replace all lists of one server by those of another: the hook of a join.
    Copy {
        /// The server to copy from, for example http://10.0.2.2:8080
        #[arg(long)]
        from: String,
        /// The server to copy to.
        #[arg(long)]
        to: String,
        /// Rest between the two, as a large copy takes its time.
        #[arg(long, value_name = "MS", default_value_t = 0)]
        pause_ms: u64,
    },
}

#[derive(Args)]
struct Serve {
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// The server's name, in X-Server of each answer.
    #[arg(long, default_value = "lists")]
    name: String,
    /// Keep the lists in this file; each append is in it before it is answered.
    #[arg(long, value_name = "PATH", required_unless_present = "volatile")]
    file: Option<PathBuf>,
    /// Keep the lists in memory: a restart loses them.
    #[arg(long, conflicts_with = "file")]
    volatile: bool,
    /// Write a line for each request: its X-Request-Id, when it came, when it was answered (microseconds, monotonic).
    #[arg(long, value_name = "PATH")]
    trace: Option<PathBuf>,
    /// Close each connection after so many requests.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_requests: Option<u64>,
    /// Don't announce that close by "Connection: close".
    #[arg(long)]
    close_silently: bool,
    /// Close a connection without a request for so many seconds.
    #[arg(long, value_name = "SECONDS")]
    idle: Option<f64>,
    /// Take so many milliseconds for each answer.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    delay_ms: f64,
    /// And up to so many more.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    jitter_ms: f64,
    /// Close by RST instead of FIN.
    #[arg(long)]
    reset_on_close: bool,
    /// Let one append go wrong, to see whether a proof finds it.
    #[arg(long, value_name = "HOW")]
    spoil: Option<Spoil>,
    /// Which: counted from 1.
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "spoil")]
    spoil_at: u64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match (cli.command, cli.serve) {
        (Some(Task::Copy { from, to, pause_ms }), _) => copy(&from, &to, Duration::from_millis(pause_ms)),
        (None, Some(options)) => serve(config(options)?, |address| println!("listening on {address}")),
        (None, None) => <Cli as clap::CommandFactory>::command()
            .error(clap::error::ErrorKind::MissingRequiredArgument, "say where: --listen ADDR:PORT")
            .exit(),
    }
}

fn copy(from: &str, to: &str, pause: Duration) -> Result<()> {
    let dump = get(parse_url(from)?, "/dump")?;
    std::thread::sleep(pause);
    let answer = put(parse_url(to)?, "/load", &dump)?;
    print!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}

fn config(options: Serve) -> Result<ServerConfig> {
    Ok(ServerConfig {
        file: options.file,
        trace: options.trace,
        max_requests: options.max_requests,
        close_silently: options.close_silently,
        idle: options.idle.map(Duration::try_from_secs_f64).transpose()?,
        delay: Duration::try_from_secs_f64(options.delay_ms / 1e3)?,
        jitter: Duration::try_from_secs_f64(options.jitter_ms / 1e3)?,
        reset_on_close: options.reset_on_close,
        spoil: options.spoil.map(|spoil| (spoil, options.spoil_at)),
        ..ServerConfig::new(options.listen, options.name)
    })
}
