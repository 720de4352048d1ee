//! `mirror provision`, `instance`, `scale`, `deprovision` and `policy init`: by whoever types them, not by the daemon, which
//! lacks the rights.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use mirror_common::switch_word::Side;
use mirror_control::driver::{Done, Driver, Limits};

use super::said;
use crate::{
    datapath,
    driver::process::ProcessDriver,
    output::{Deprovisioned, Described, Planned, Provisioned, print},
    policy::{
        Policy,
        init::{self, Given},
        process::{Bytes, Cores},
    },
};

/// What is done to a shadow that runs on this host.
#[derive(Subcommand)]
pub(super) enum Task {
    /// Bring the shadow up on this host: its own files, network and limits, from the policy's [shadow.process]
    ///
    /// Needs root. A step that fails leaves nothing behind. Again, it completes what a crash has left, starts a shadow again
    /// that has ended (with its own files), or says that it runs.
    #[command(after_help = "Example:\n  mirror provision shop --policy policies/provisioned.toml --dry-run")]
    Provision {
        /// The application
        app: String,
        /// The policy file
        #[arg(long, default_value = "/etc/mirror/policy.toml", value_name = "FILE")]
        policy: PathBuf,
        /// Only print the plan that would be carried out
        #[arg(long)]
        dry_run: bool,
    },
    /// Show a provisioned shadow: whether it runs and is healthy, and its limits
    #[command(after_help = "Example:\n  mirror instance --json | jq .limits")]
    Instance {
        /// The application; it may be left out where there is one alone
        app: Option<String>,
    },
    /// Change the limits of a provisioned shadow while it runs
    #[command(after_help = "Example:\n  mirror scale shop --cpu 2.5 --memory 2GiB")]
    Scale {
        /// The application
        app: String,
        /// Cores; without it as before
        #[arg(long, required_unless_present = "memory")]
        cpu: Option<Cores>,
        /// Memory, as 512MiB; without it as before
        #[arg(long)]
        memory: Option<Bytes>,
    },
    /// End a provisioned shadow and remove all that it had, its files too
    ///
    /// Refused while it has the authority, or answers reads.
    #[command(
        after_help = "Example:\n  mirror rollback shop && mirror weight shop 0 && mirror deprovision shop"
    )]
    Deprovision {
        /// The application
        app: String,
        /// Even so
        #[arg(long)]
        force: bool,
    },
}

/// What is done to policies.
#[derive(Subcommand)]
pub(super) enum PolicyTask {
    /// Write a policy from what the running primary, or its unit, says of itself; what it can't know is a comment
    #[command(after_help = "Example:\n  mirror policy init --from-pid $(pidof shop) > shop.toml")]
    Init {
        #[command(flatten)]
        from: Primary,
        #[command(flatten)]
        given: Box<Given>,
    },
}

/// Whom to read.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Primary {
    /// A running process
    #[arg(long, value_name = "PID")]
    from_pid: Option<u32>,
    /// A unit of systemd's
    #[arg(long, value_name = "UNIT")]
    from_unit: Option<String>,
}

/// The hidden subcommand that becomes an instance's program.
pub(super) use crate::driver::process::launch::run as launch;

/// Makes a policy.
pub(super) fn make_policy(PolicyTask::Init { from, given }: &PolicyTask) -> Result<()> {
    let found = match (from.from_pid, &from.from_unit) {
        (Some(pid), _) => init::from_pid(pid)?,
        (None, Some(unit)) => init::from_unit(unit)?,
        (None, None) => bail!("name a process or a unit"),
    };
    print!("{}", found.policy(given));
    Ok(())
}

/// Carries a task out. `state`: folder of the records; `pins`: what tells who has the authority.
pub(super) fn run(task: &Task, state: &Path, pins: &Path, json: bool) -> miette::Result<()> {
    let launcher = std::env::current_exe().context("can't find the running program").map_err(said)?;
    let driver = ProcessDriver::new(state, launcher).map_err(said)?;
    match task {
        Task::Provision { app, policy, dry_run } => {
            let policy = Policy::load(policy)?;
            provision(&driver, app, &policy, *dry_run, json).map_err(said)
        }
        Task::Instance { app } => {
            let app = driver.choose(app.as_deref());
            app.and_then(|app| instance(&driver, &app, json)).map_err(said)
        }
        Task::Scale { app, cpu, memory } => scale(&driver, app, *cpu, *memory, json).map_err(said),
        Task::Deprovision { app, force } => {
            let removed = if *force { Ok(()) } else { spare(app, pins) };
            removed.and_then(|()| deprovision(&driver, app, json)).map_err(said)
        }
    }
}

/// A step that is done is said at once, and all of them once more as JSON.
fn tell(done: &mut Vec<Done>, json: bool) -> impl FnMut(&Done) {
    move |step| {
        if !json {
            println!("{:>9.1} ms  {}", step.ms, step.what);
        }
        done.push(step.clone());
    }
}

fn provision(driver: &impl Driver, app: &str, policy: &Policy, dry_run: bool, json: bool) -> Result<()> {
    let name = policy.name.as_str();
    ensure!(name == app, "the policy is for {name}, not for {app}");
    let wanted = policy.wanted().with_context(|| {
        format!("the policy says nothing of how to provision {app}: it has no [shadow.process]; `mirror policy init` makes one")
    })?;
    let plan = driver.plan(&wanted)?;
    if dry_run {
        return print(&Planned(plan), json);
    }
    let mut steps = Vec::new();
    let instance = driver.provision(&plan, &mut tell(&mut steps, json))?;
    print(&Provisioned { steps, instance }, json)
}

fn instance(driver: &impl Driver, app: &str, json: bool) -> Result<()> {
    let found = driver.describe(app)?;
    let instance = found.with_context(|| format!("{app} isn't provisioned here; mirror provision {app}"))?;
    let unhealthy = driver.healthy(app).err().map(|failure| failure.to_string());
    print(&Described { instance, healthy: unhealthy.is_none(), unhealthy }, json)
}

fn scale(
    driver: &impl Driver,
    app: &str,
    cpu: Option<Cores>,
    memory: Option<Bytes>,
    json: bool,
) -> Result<()> {
    let now = driver.describe(app)?.and_then(|instance| instance.limits);
    let now = now.with_context(|| format!("{app} isn't provisioned here; mirror provision {app}"))?;
    let limits = Limits {
        cpu_millicores: cpu.map_or(now.cpu_millicores, Cores::millicores),
        memory_bytes: memory.map_or(now.memory_bytes, Bytes::get),
    };
    print(&driver.scale(app, limits)?, json)
}

/// Refuses to remove a shadow that clients depend on.
fn spare(app: &str, pins: &Path) -> Result<()> {
    let Some(word) = datapath::pinned_word(pins)? else { return Ok(()) };
    if word.authority() == Side::Shadow {
        bail!(
            "the shadow has the authority, and what it has is the truth: mirror rollback {app} first, or --force"
        );
    }
    if word.weight() > 0 {
        bail!("the shadow answers reads: mirror weight {app} 0 first, or --force");
    }
    Ok(())
}

fn deprovision(driver: &impl Driver, app: &str, json: bool) -> Result<()> {
    let mut steps = Vec::new();
    let found = driver.destroy(app, &mut tell(&mut steps, json))?;
    print(&Deprovisioned { app: app.to_owned(), found, steps }, json)
}
