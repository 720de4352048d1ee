//! Proves from journals and states that no write was lost, doubled or misordered.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use lab::checker::read_journals;
use lab::http_client::{get, parse_url};
use lab::lists::{Lists, parse_dump};
use lab::proof::{Report, parse_trace, prove, settled_reads};

/// Compares the checker's journals with the servers' lists.
///
/// Exit status: 0 if every answered write is on every side, once and in its order, no request failed and the sides are
/// equal; 1 if not, and the first faults are named; 2 if it could not look.
#[derive(Parser)]
#[command(after_help = "Examples:\n  \
    proof --journals /tmp/journals --primary /tmp/primary.lists --shadow /tmp/shadow.lists\n  \
    proof --journals /tmp/journals --primary http://10.0.2.2:8080 --json")]
struct Cli {
    /// Directory of a checker's journals; may be given more than once.
    #[arg(long, value_name = "DIR", required = true)]
    journals: Vec<PathBuf>,
    /// The primary's lists: its file, a dump, or http://ADDR:PORT to ask it.
    #[arg(long, value_name = "SOURCE", required_unless_present = "shadow")]
    primary: Option<String>,
    /// The shadow's lists, likewise.
    #[arg(long, value_name = "SOURCE")]
    shadow: Option<String>,
    /// The servers' traces (`lists --trace`), both: tells settled reads from others.
    #[arg(long, value_name = "PATH", num_args = 2)]
    traces: Vec<PathBuf>,
    /// Don't count failed requests as a fault: only look at the lists.
    #[arg(long)]
    allow_failed: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match report(&cli) {
        Ok(report) => {
            print(&report, cli.json);
            let ok =
                if cli.allow_failed { report.state_is_ok() && report.requests > 0 } else { report.is_ok() };
            if ok { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn report(cli: &Cli) -> Result<Report> {
    let mut journals = Vec::new();
    for directory in &cli.journals {
        journals.extend(read_journals(directory)?);
    }
    let mut sides = Vec::new();
    for (name, source) in [("primary", &cli.primary), ("shadow", &cli.shadow)] {
        if let Some(source) = source {
            sides.push((name.to_owned(), lists(source).with_context(|| format!("the {name}'s lists"))?));
        }
    }
    let mut report = prove(&journals, &sides);
    if !cli.traces.is_empty() {
        let traces = cli
            .traces
            .iter()
            .map(|path| parse_trace(&read(path)?).with_context(|| path.display().to_string()));
        report.settled = Some(settled_reads(&journals, &traces.collect::<Result<Vec<_>>>()?));
    }
    Ok(report)
}

fn lists(source: &str) -> Result<Lists> {
    let text = if source.starts_with("http://") {
        String::from_utf8(get(parse_url(source)?, "/dump")?).context("the dump is no text")?
    } else {
        read(Path::new(source))?
    };
    parse_dump(&text).with_context(|| source.to_owned())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn print(report: &Report, json: bool) {
    if json {
        match serde_json::to_string(report) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("Error: {error}"),
        }
        return;
    }
    for fault in &report.faults {
        println!("{fault}");
    }
    println!("{}", report.line());
    for (name, window) in report.settled.iter().flat_map(|settled| &settled.windows) {
        let reads: u64 = window.reads.values().sum();
        println!("{name}: {reads} reads, {} unsettled, {} unclear", window.unsettled, window.unclear);
        for server in window.reads.keys() {
            let share = |reads| 100.0 * lab::proof::WindowReads::share(reads, server);
            println!(
                "  {server}: {:.2} % of all, {:.2} % of the settled",
                share(&window.reads),
                share(&window.settled)
            );
        }
    }
}
