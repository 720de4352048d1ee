//! `bench decisions`: the judge on simulated migrations, beside Flagger's and Kayenta's rules.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result};
use mirror_control::{
    evidence::{History, Judge, JudgePolicy, Metric},
    weight::{self, Change, WeightPolicy, WeightState},
};
use rayon::prelude::*;
use serde_json::{Value, json};

mod bound;
mod peers;
mod work;

use peers::Peers;
use work::{Fault, Load, STEP_TICKS, STEPS, Setting, Shape, World};

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench decisions --quick                     200 migrations of each kind
  cargo xtask bench decisions --json decisions.json       10,000, and all figures in a file";

/// What is simulated.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Honest migrations of each kind of noise, a third of them at each load
    #[arg(long, default_value_t = 10_000)]
    migrations: usize,
    /// Migrations for each fault and kind of noise
    #[arg(long, default_value_t = 400)]
    faulty: usize,
    /// Only this kind of noise: iid, noisy, noisy_10min or noisy_60min. May be given more than once
    #[arg(long = "noise", value_name = "KIND", value_parser = KINDS.map(|kind| kind.0))]
    kinds: Vec<String>,
    /// Only this fault: errors_1pct, errors_0_1pct, p99_50pct, p99_10pct or all_10pct. May be given more than once
    #[arg(long = "fault", value_name = "FAULT", value_parser = Fault::ALL.map(Fault::name))]
    faults: Vec<String>,
    /// 200 honest migrations and 40 of each fault
    #[arg(long)]
    quick: bool,
    /// Hours of the primary alone that are seen before a migration: its usual latencies, errors and noise
    #[arg(long, default_value_t = 24.0, value_parser = hours)]
    history: f64,
    /// Seed of the first migration
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Args {
    fn kinds(&self) -> impl Iterator<Item = (&'static str, Option<f64>)> {
        let wanted = |kind: &str| self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind);
        KINDS.into_iter().filter(move |kind| wanted(kind.0))
    }
}

/// As long as a judge needs, and no longer than one remembers.
fn hours(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|hours| (0.25..=24.0).contains(hours)).ok_or("from 0.25 to 24 hours".to_owned())
}

/// Kinds of noise: name, and how many minutes it lasts.
const KINDS: [(&str, Option<f64>); 4] =
    [("iid", None), ("noisy", Some(1.0)), ("noisy_10min", Some(10.0)), ("noisy_60min", Some(60.0))];
const LOADS: [Load; 3] = [Load::Steady(1_000), Load::Steady(10_000), Load::Diurnal];
/// A migration that compares first is followed for so long: three hours.
const DARK_TICKS: usize = 18 * STEP_TICKS;
/// Ours, and the peers.
const JUDGES: [&str; 3] = ["mirror", "flagger", "kayenta"];

/// A migration, by judge: requests that the shadow had served when it was called worse.
struct Outcome {
    found: [Option<u64>; 3],
    metric: Option<Metric>,
    served: u64,
}

/// Runs a migration to its end, or until all have found something.
fn migrate(setting: Setting<'_>, seed: u64) -> Outcome {
    let mut world = World::new(setting, seed);
    let history = past(&mut world, setting.hours);
    let policy = JudgePolicy::default();
    let thresholds = Metric::ALL.map(|metric| policy.threshold(metric));
    let mut judge = Judge::new(policy, &history).expect("the past is long enough");
    let mut peers = Peers::default();
    let mut outcome = Outcome { found: [None; 3], metric: None, served: 0 };
    for step in STEPS {
        judge.begin_step();
        for _ in 0..STEP_TICKS {
            let tick = world.tick(step);
            outcome.served += tick.shadow.requests;
            if outcome.found[0].is_none() {
                judge.observe(&tick);
                let evidence = judge.evidence();
                outcome.metric =
                    Metric::ALL.into_iter().find(|&m| evidence[m as usize] >= thresholds[m as usize]);
                outcome.found[0] = outcome.metric.map(|_| outcome.served);
            }
            peers.observe(&tick);
            for (k, says) in [(1, peers.flagger), (2, peers.kayenta)] {
                if says && outcome.found[k].is_none() {
                    outcome.found[k] = Some(outcome.served);
                }
            }
            if outcome.found.iter().all(Option::is_some) {
                return outcome;
            }
        }
    }
    outcome
}

/// Compares first, by the weight controller with its defaults: no read moves until the shadow is shown to be no worse.
fn migrate_dark(setting: Setting<'_>, seed: u64) -> Outcome {
    let mut world = World::new(setting, seed);
    let mut judge =
        Judge::new(JudgePolicy::default(), &past(&mut world, setting.hours)).expect("a long past");
    let (policy, mut state) = (WeightPolicy::default(), WeightState::default());
    let mut outcome = Outcome { found: [None; 3], metric: None, served: 0 };
    for _ in 0..DARK_TICKS {
        let tick = world.tick(f64::from(state.weight(&policy)) / 1e4);
        outcome.served += if tick.moved { tick.shadow.requests } else { 0 };
        judge.observe(&tick);
        let (next, action) = weight::step(&policy, state, tick.seconds, judge.verdict());
        state = next;
        if let weight::Reason::Worse(finding) = action.reason {
            outcome.metric = Some(finding.metric);
            outcome.found[0] = Some(outcome.served);
            break;
        }
        if action.change == Change::Up {
            judge.begin_step();
        }
    }
    outcome
}

/// The primary's past, before a migration.
fn past(world: &mut World<'_>, hours: f64) -> History {
    let mut history = History::default();
    for _ in 0..(hours * 60.0) as usize {
        history.observe(60.0, &world.minute());
    }
    history
}

/// The same seeds on all cores, with a line of progress.
fn many(what: &str, count: usize, one: impl Fn(usize) -> Outcome + Sync) -> Vec<Outcome> {
    let done = AtomicUsize::new(0);
    (0..count)
        .into_par_iter()
        .map(|k| {
            let outcome = one(k);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(count.div_ceil(10)) {
                eprintln!("{what}: {done} of {count}");
            }
            outcome
        })
        .collect()
}

/// Honest shadows: how many are rolled back.
fn honest(args: &Args, shape: &Shape) -> Value {
    println!("### False rollbacks in a whole migration of an honest shadow\n");
    println!("| noise | load | migrations | mirror | Flagger | Kayenta |\n|---|---|---|---|---|---|");
    let mut all = serde_json::Map::new();
    for (kind, noise_minutes) in args.kinds() {
        let outcomes = many(kind, args.migrations, |k| {
            let load = LOADS[k % LOADS.len()];
            let setting = Setting {
                load,
                noise_minutes,
                fault: Fault::None,
                honest: shape,
                shape,
                hours: args.history,
            };
            migrate(setting, args.seed + k as u64)
        });
        let mut by_load = serde_json::Map::new();
        for (l, load) in LOADS.iter().enumerate() {
            let of_load: Vec<&Outcome> = outcomes.iter().skip(l).step_by(LOADS.len()).collect();
            by_load.insert(load.name(), rates(kind, &load.name(), &of_load));
        }
        let mut figures = rates(kind, "all", &outcomes.iter().collect::<Vec<_>>());
        figures["by_load"] = Value::Object(by_load);
        all.insert(kind.to_owned(), figures);
    }
    println!();
    Value::Object(all)
}

fn rates(kind: &str, load: &str, outcomes: &[&Outcome]) -> Value {
    let migrations = outcomes.len();
    let counts: Vec<usize> =
        (0..JUDGES.len()).map(|k| outcomes.iter().filter(|o| o.found[k].is_some()).count()).collect();
    let rate = |k: usize| counts[k] as f64 / migrations.max(1) as f64;
    let shown = |k: usize| format!("{} ({:.3} %)", counts[k], rate(k) * 100.0);
    println!("| {kind} | {load} | {migrations} | {} | {} | {} |", shown(0), shown(1), shown(2));
    let by_metric = |metric| outcomes.iter().filter(|o| o.metric == Some(metric)).count();
    json!({
        "rate": rate(0), "count": counts[0], "migrations": migrations,
        "errors": by_metric(Metric::Errors), "latency": by_metric(Metric::Latency),
        "peers": { "flagger": rate(1), "kayenta": rate(2) },
    })
}

/// Bad shadows at 1,000 requests a second: what each served before it was found.
fn faulty(args: &Args, honest: &Shape) -> Value {
    println!("### Requests that a bad shadow served before it was found, at 1,000 r/s\n");
    println!("Mean; where it wasn't always found, those that weren't count with all that they served.\n");
    println!(
        "| fault | noise | bound, exceedances | whole histogram | mirror (p50, p95; found) | Flagger | Kayenta |"
    );
    println!("|---|---|---|---|---|---|---|");
    let (mut all, mut bounds) = (serde_json::Map::new(), serde_json::Map::new());
    let mut usual = serde_json::Map::new();
    let wanted = |fault: &Fault| args.faults.is_empty() || args.faults.iter().any(|f| f == fault.name());
    for fault in Fault::ALL.into_iter().filter(wanted) {
        let bound = bound::bound(fault, honest, JudgePolicy::default().alpha, 1_000.0);
        let shape = Shape::new(fault);
        let mut figures = serde_json::Map::new();
        for (kind, noise_minutes) in args.kinds() {
            let outcomes = many(&format!("{} {kind}", fault.name()), args.faulty, |k| {
                let (load, hours) = (Load::Steady(1_000), args.history);
                let setting = Setting { load, noise_minutes, fault, honest, shape: &shape, hours };
                migrate(setting, args.seed + k as u64)
            });
            let served: Vec<Served> = (0..JUDGES.len()).map(|k| served(&outcomes, k)).collect();
            println!(
                "| {} | {kind} | {:.0} | {:.0} | {:.0} ({:.0}, {:.0}; {:.1} %) | {} | {} |",
                fault.name(),
                bound.exceedances,
                bound.whole_histogram,
                served[0].mean,
                served[0].p50,
                served[0].p95,
                served[0].found * 100.0,
                served[1],
                served[2],
            );
            figures.insert(kind.to_owned(), json!(served[0].mean));
            let detail = json!({ "mirror": served[0], "flagger": served[1], "kayenta": served[2] });
            figures.insert(format!("{kind}_detail"), detail);
        }
        let outcomes = many(&format!("{} dark", fault.name()), args.faulty, |k| {
            let (load, hours) = (Load::Steady(1_000), args.history);
            let setting = Setting { load, noise_minutes: Some(1.0), fault, honest, shape: &shape, hours };
            migrate_dark(setting, args.seed + k as u64)
        });
        let dark = served(&outcomes, 0);
        println!("| {} | noisy, compared first | | | {dark} | | |", fault.name());
        figures.insert("dark".to_owned(), json!(dark.mean));
        figures.insert("dark_detail".to_owned(), json!(dark));
        all.insert(fault.name().to_owned(), Value::Object(figures));
        if let Some(noisy) = bound.noisy {
            println!("| {} | noisy, bound for known bursts | {noisy:.0} | | | | |", fault.name());
        }
        bounds.insert(fault.name().to_owned(), json!(bound));
        usual.insert(fault.name().to_owned(), json!(bound.usual(fault)));
    }
    println!();
    json!({ "bad_requests": all, "bound": usual, "bounds": bounds })
}

#[derive(serde::Serialize)]
struct Served {
    mean: f64,
    p50: f64,
    p95: f64,
    /// Share of the migrations in which it was found.
    found: f64,
}

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.found == 0.0 {
            return write!(f, "never");
        }
        write!(f, "{:.0} ({:.1} %)", self.mean, self.found * 100.0)
    }
}

fn served(outcomes: &[Outcome], judge: usize) -> Served {
    let mut each: Vec<u64> = outcomes.iter().map(|o| o.found[judge].unwrap_or(o.served)).collect();
    each.sort_unstable();
    let at = |q: f64| each[((each.len() - 1) as f64 * q) as usize] as f64;
    Served {
        mean: each.iter().sum::<u64>() as f64 / each.len() as f64,
        p50: at(0.5),
        p95: at(0.95),
        found: outcomes.iter().filter(|o| o.found[judge].is_some()).count() as f64 / outcomes.len() as f64,
    }
}

/// Runs the bench.
///
/// # Errors
/// When the file can't be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (json, kinds, faults) = (args.json.clone(), args.kinds.clone(), args.faults.clone());
    let mut args = Args { json, kinds, faults, ..*args };
    if args.quick {
        (args.migrations, args.faulty) = (200, 40);
    }
    let shape = Shape::new(Fault::None);
    let mut figures = faulty(&args, &shape);
    figures["false_rollbacks"] = honest(&args, &shape);
    figures["settings"] = json!({
        "history_hours": args.history, "seed": args.seed, "alpha": JudgePolicy::default().alpha,
        "migrations": args.migrations, "faulty": args.faulty,
    });
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&figures)?)
            .with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(())
}
