//! What the gateway costs, in one run: nanoseconds a packet of each path, what the verifier walks, bytes a flow; and loads
//! through it beside no gateway, plain forwarding, DNAT, bare forwarders and nginx's `mirror`. And what mirroring costs large
//! bodies where links lose frames.
#![forbid(unsafe_code)]

mod floor;
mod forwarders;
mod load;
mod paths;
mod report;
mod transfers;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use mirror_common::abi::BYTES_A_FLOW;
use prog_tests::{
    stage::{Hook, object},
    verifier::{Budget, Programs, Verdict},
};
use serde_json::{Value, json};

/// Measures, prints tables in Markdown, and writes one JSON object.
#[derive(Parser)]
#[command(name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    task: Option<Task>,
    /// Write everything as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs of each path through the programs
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Rounds of the loads
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each load
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Of all forwarders only those whose name has this in it, and the kernel's
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
    /// Leave the loads out
    #[arg(long)]
    programs_only: bool,
    /// Run each path through the programs of this object, too, in turn
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Of the paths through the programs only those whose name begins so
    #[arg(long, value_name = "NAME", default_value = "")]
    path: String,
}

/// A bench of its own.
#[derive(Subcommand)]
enum Task {
    /// Uploads and downloads while links lose frames and the shadow is far away: two legs beside one, and beside the
    /// kernel's forwarding
    Transfers(transfers::TransferArgs),
}

/// What each program costs the verifier, and whether that is within the budget.
fn programs() -> Result<Value> {
    let budget = format!("{}/../tests/prog/budget.toml", env!("CARGO_MANIFEST_DIR"));
    let budget = Budget::read(budget.as_ref())?;
    let programs = Programs::open(&object("mirror.o")?)?;
    println!("| program | instructions | verified, of 1,000,000 | stack, of 512 a chain | budget |");
    println!("|---|--:|--:|--:|---|");
    let mut all = serde_json::Map::new();
    for name in programs.names() {
        let outcome = programs.verify(&name, 1)?;
        let Verdict::Loaded(cost) = &outcome.verdict else { anyhow::bail!("{name} is refused") };
        let said = match (budget.knows(&name), budget.exceeded(&name, cost)) {
            (false, _) => "none yet".to_owned(),
            (true, None) => "kept".to_owned(),
            (true, Some(over)) => over,
        };
        println!("| {name} | {} | {} | {} | {said} |", cost.instructions, cost.verified, cost.stack);
        all.insert(name.clone(), json!({ "cost": cost, "budget": said }));
    }
    println!();
    Ok(Value::Object(all))
}

/// What else runs on the machine then takes little of it; the programs that are started inherit it. A session is weighed as
/// one where the kernel groups by session: so it gets one of its own.
fn take_precedence() -> Result<()> {
    rustix::process::nice(-20).context("the benches need root")?;
    let group = std::path::Path::new("/proc/self/autogroup");
    // A session's leader has a group already.
    if group.exists() && rustix::process::setsid().is_ok() {
        std::fs::write(group, "-20").context("weigh this session")?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    take_precedence()?;
    if let Some(Task::Transfers(args)) = &args.task {
        return transfers::run(args);
    }
    let programs = programs()?;
    println!("bytes a flow, in all maps: {BYTES_A_FLOW}\n");
    let before = args.before.as_ref().map(std::fs::read).transpose().context("the object from before")?;
    let extent = paths::Extent { count: args.runs as usize, only: &args.path, before: before.as_deref() };
    let mut paths = paths::measure(Hook::Tc, extent)?;
    paths.extend(paths::measure(Hook::Xdp, extent)?);
    println!("{}", report::path_table(&paths));
    let floor = floor::measure(args.runs as usize)?;
    println!("{}", report::floor_table(&floor));
    let mut rounds = load::Rounds::new();
    if !args.programs_only {
        let duration = Duration::from_secs(args.seconds);
        let extent = load::Extent { rounds: args.rounds, duration, only: &args.only };
        rounds = load::run(extent, |round, forwarder, kind, measured| {
            eprintln!(
                "round {}: {:24} {:8} {:9.0}/s  p50 {:5.0} µs  p99 {:6.0} µs  slowest {:6.0} µs  CPU {:6.1} µs",
                round + 1,
                forwarder.name(),
                format!("{kind:?}"),
                measured.per_second,
                measured.p50_us,
                measured.p99_us,
                measured.max_us,
                measured.cpu_us
            );
        })?;
        println!("{}\n{}", report::load_table(&rounds), report::bare_table(&rounds));
    }
    if let Some(file) = &args.json {
        let object = report::json(&rounds, &paths, &floor, &programs, BYTES_A_FLOW);
        std::fs::write(file, serde_json::to_string_pretty(&object)?)
            .with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(())
}
