//! The scenarios in network namespaces: which run at which hook, and which side by side.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use super::{
    built::{Built, Tests},
    count::Count,
};
use crate::{
    command::{output, said},
    programs,
};

/// What the scenarios use of the system.
pub(crate) const PROGRAMS: &[programs::Program] = &[
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("node", "nodejs"),
    ("setpriv", "util-linux"),
];

/// The scenarios' folder.
pub(crate) const FOLDER: &str = "tests/netns";

/// Scenarios of what the daemon decides or the demo shows, whichever hook carries the packets: here they run at TC alone, for
/// time. `cargo xtask soak` has every scenario at both hooks.
const ONCE: [&str; 25] = [
    "again",
    "backends",
    "breaker",
    "capabilities",
    "cli",
    "daemon",
    "daemon_moves",
    "demo",
    "demo_migration",
    "divergence",
    "hostile",
    "ipv6",
    "kinds",
    "metrics",
    "migration",
    "observe",
    "orders",
    "ports",
    "provision",
    "reload",
    "resources",
    "scaling",
    "services",
    "udp",
    "vlan",
];

/// What a scenario asks of the kernel that some kernels lack.
struct Needs {
    scenario: &'static str,
    /// What it is called.
    what: &'static str,
    /// A command that succeeds where the kernel has it.
    look: &'static str,
}

const NEEDS: [Needs; 2] = [
    Needs {
        scenario: "kinds",
        what: "bridges, bonds, macvlan or ipvlan",
        look: "unshare --net sh -ec 'ip link add one type veth peer name two; ip link add three type bridge; \
               ip link add four type bond; ip link add five link one type macvlan; ip link add six link two type ipvlan'",
    },
    Needs {
        scenario: "vlan",
        what: "VLANs (8021q)",
        look: "unshare --net ip link add link lo name probed type vlan id 2",
    },
];

/// Scenarios of several busy processes, with bounds in time, or that count what is sent again: on few cores, side by side, they
/// would measure each other. The others wait more than they work, and run two at a time.
const ALONE: [&str; 16] = [
    "bad_shadow",
    "captures",
    "clients",
    "daemon",
    "daemon_moves",
    "demo_migration",
    "forged",
    "hostile",
    "loss",
    "measured",
    "mixed_load",
    "moves",
    "ports",
    "restart",
    "services",
    "udp",
];

/// A test at a hook.
struct Run<'a> {
    hook: &'static str,
    tests: &'a Tests,
    name: String,
}

/// Runs all whose name, as `SCENARIO::TEST`, contains `filter`, each at the hooks that it is for; a filter's at both.
///
/// # Errors
/// When one fails, or none ran, or something is missing.
pub(super) fn run(filter: Option<&str>, built: Built) -> Result<Count> {
    programs::ensure(PROGRAMS)?;
    open_root()?;
    let scenarios = built.integration(FOLDER);
    let known = |name: &&&str| scenarios.iter().any(|tests| tests.name == **name);
    if let Some(unknown) =
        ONCE.iter().chain(&ALONE).chain(NEEDS.iter().map(|needs| &needs.scenario)).find(|name| !known(name))
    {
        bail!("there is no scenario {unknown} in {FOLDER}");
    }
    let (scenarios, left_out) = without_lacking(scenarios)?;
    let (mut alone, mut others) = (VecDeque::new(), VecDeque::new());
    for hook in ["tc", "xdp"] {
        for tests in &scenarios {
            if hook == "xdp" && filter.is_none() && ONCE.contains(&&*tests.name) {
                continue;
            }
            let runs = if ALONE.contains(&&*tests.name) { &mut alone } else { &mut others };
            let wanted =
                |name: &String| filter.is_none_or(|part| format!("{}::{name}", tests.name).contains(part));
            let names = tests.names()?.into_iter().filter(wanted);
            runs.extend(names.map(|name| Run { hook, tests, name }));
        }
    }
    let (mut total, mut failed) = all(alone, 1);
    let (count, more) = all(others, 2);
    total += count;
    total += left_out;
    failed.extend(more);
    if !failed.is_empty() {
        bail!("{total}: {}", failed.join(", "));
    }
    total.of_something("the scenarios")
}

/// Those that this kernel can run; the tests of the others are counted, and said.
fn without_lacking(scenarios: Vec<Tests>) -> Result<(Vec<Tests>, Count)> {
    let mut left_out = Count::default();
    let mut kept = Vec::new();
    for tests in scenarios {
        let needs = NEEDS.iter().find(|needs| needs.scenario == tests.name);
        let lacking = needs.filter(|needs| output(Command::new("sh").args(["-c", needs.look])).is_none());
        match lacking {
            None => kept.push(tests),
            Some(Needs { scenario, what, .. }) => {
                println!(
                    "left out: {scenario}: this kernel has no {what}; \
                     as root: cargo xtask guest test -- --only netns --name {scenario}::"
                );
                left_out += Count::left_out(tests.names()?.len());
            }
        }
    }
    Ok((kept, left_out))
}

/// Runs them, so many at a time; returns who failed, too.
fn all(runs: VecDeque<Run>, at_a_time: usize) -> (Count, Vec<String>) {
    let runs = Mutex::new(runs);
    let seen = Mutex::new((Count::default(), Vec::new()));
    // A thread that panics takes the stage with it: nothing is half counted.
    let next = || runs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let worker = || {
        while let Some(run) = next() {
            let (count, text, is_ok) = one(&run);
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            println!("{text}");
            seen.0 += count;
            if !is_ok {
                seen.1.push(format!("{} {}::{}", run.hook, run.tests.name, run.name));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(worker);
        }
    });
    seen.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one; returns its count, a line with its time (and all that it said, where it failed), and whether it passed.
fn one(run: &Run) -> (Count, String, bool) {
    let begun = Instant::now();
    let mut command = run.tests.command(&["--exact", &run.name]);
    let ended = said(command.env("MIRROR_TEST_HOOK", run.hook));
    let seconds = begun.elapsed().as_secs_f64();
    let line = |end: &str| format!("{:3} {seconds:6.1} s  {}::{}  {end}", run.hook, run.tests.name, run.name);
    match ended {
        Ok((said, true)) => {
            let count = Count::of(&said);
            (count, line(if count.has_passed() { "ok" } else { "ignored" }), true)
        }
        Ok((said, false)) => (Count::of(&said), format!("{}\n{said}", line("FAILED")), false),
        Err(error) => (Count::default(), format!("{}\n{error:#}", line("FAILED")), false),
    }
}

/// Some scenarios run the gateway as another user than root, who must get past `/`: an unpacked userland may have it closed.
fn open_root() -> Result<()> {
    let root = Path::new("/");
    let mode = fs::metadata(root)?.permissions().mode();
    if mode & 0o005 == 0o005 {
        return Ok(());
    }
    println!("nobody but root gets past / (mode {:o}): chmod 755 /", mode & 0o777);
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).context("chmod 755 /")
}
