//! All checks, in an order in which the cheap ones fail first.

mod count;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;

use crate::{
    command::{self, cargo, is_root, locked, output, root},
    docs, ebpf, programs, tidy,
    toolchain::ensure_packages,
    verifier,
};
use count::Count;

/// What to run.
#[derive(clap::Args)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    build: ebpf::BuildArgs,
    /// Only these stages, separated by commas
    #[arg(long, value_name = "STAGES", value_delimiter = ',')]
    only: Vec<Stage>,
    /// Go on after a stage has failed
    #[arg(long)]
    keep_going: bool,
    /// Only tests whose name contains this
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// One kind of check.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// rustfmt agrees
    Fmt,
    /// `cargo xtask tidy`
    Tidy,
    /// The kernel side builds, without a warning
    Ebpf,
    /// clippy has nothing to say, at both sides
    Clippy,
    /// The documents that are made from the sources agree with them
    Docs,
    /// Unit, property and model tests: no root, no network
    Unit,
    /// Every program loads within its budget (root)
    Verifier,
    /// Fixtures through the loaded programs (root)
    Prog,
    /// Scenarios in network namespaces, at TC and at XDP (root)
    Netns,
}

impl Stage {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn needs_root(self) -> bool {
        matches!(self, Self::Verifier | Self::Prog | Self::Netns)
    }

    fn run(self, args: &TestArgs) -> Result<Count> {
        match self {
            Self::Fmt => format().map(|()| Count::default()),
            Self::Tidy => tidy::run().map(|()| Count::default()),
            Self::Ebpf => ebpf::build(&args.build).map(|_| Count::default()),
            Self::Clippy => clippy(&args.build).map(|()| Count::default()),
            Self::Docs => docs::check().map(|()| Count::default()),
            Self::Unit => {
                tests(args, &["--workspace", "--exclude", "netns-tests", "--exclude", "prog-tests"], &[])
            }
            Self::Verifier => verifier::load(&ebpf::build(&args.build)?, &[]).map(|()| Count::default()),
            Self::Prog => tests(args, &["--package", "prog-tests"], &[]),
            Self::Netns => netns(args),
        }
    }
}

/// Runs the stages and prints each one's time and tests.
///
/// # Errors
/// When a stage fails, or needs root and this isn't root's.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    let stages = if args.only.is_empty() { Stage::value_variants().to_vec() } else { args.only.clone() };
    if let Some(stage) = stages.iter().find(|stage| stage.needs_root())
        && !is_root()
    {
        bail!(
            "the stage {} loads programs and makes network namespaces: run this as root, \
             or `cargo xtask test --only fmt,tidy,ebpf,clippy,docs,unit`",
            stage.name()
        );
    }
    let start = Instant::now();
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    let mut total = Count::default();
    for stage in stages {
        println!("==> {}", stage.name());
        let begun = Instant::now();
        let result = stage.run(args);
        let seconds = begun.elapsed().as_secs_f64();
        let end = match result {
            Ok(count) => {
                total += count;
                count.to_string()
            }
            Err(error) => {
                failed.push(stage.name());
                format!("FAILED: {error:#}")
            }
        };
        lines.push(format!("{:9} {seconds:7.1} s  {end}", stage.name()));
        println!("<== {}", lines.last().expect("just pushed"));
        if !failed.is_empty() && !args.keep_going {
            break;
        }
    }
    let end = if failed.is_empty() { total.to_string() } else { format!("FAILED: {}", failed.join(", ")) };
    println!("\n{}\n{:9} {:7.1} s  {end}", lines.join("\n"), "all", start.elapsed().as_secs_f64());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The workspaces' manifests.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "mirror-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

fn format() -> Result<()> {
    if output(cargo().args(["fmt", "--version"])).is_none() {
        ensure_packages(&["rustfmt-web"]).context("there is no rustfmt")?;
    }
    for manifest in MANIFESTS {
        command::run(cargo().args(["fmt", "--all", "--check", "--manifest-path", manifest]))?;
    }
    Ok(())
}

fn clippy(build: &ebpf::BuildArgs) -> Result<()> {
    if output(cargo().args(["clippy", "--version"])).is_none() {
        ensure_packages(&["rust-web-clippy"]).context("there is no clippy")?;
    }
    command::run(
        cargo()
            .args(["clippy", "--quiet", "--workspace", "--all-targets"])
            .args(locked())
            .args(["--", "-Dwarnings"]),
    )?;
    ebpf::clippy(build)?;
    ebpf::clippy(&build.with("log"))
}

/// What the scenarios use of the system.
pub(crate) const SCENARIO_PROGRAMS: &[programs::Program] = &[
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

/// Scenarios of what the daemon decides, whichever hook carries the packets. Here they run at TC alone, and two at a time: they
/// wait for the migration's clock more than they work, and all must fit into the time that CI has. `cargo xtask soak` has every
/// scenario at both hooks, one after the other.
const DECISIONS: [&str; 4] = ["demo_migration", "migration", "orders", "scaling"];

/// Scenarios of what isn't the data path's, or is planted in the demo itself: at TC alone, for time.
const ONCE: [&str; 7] = ["cli", "demo", "ipv6", "observe", "ports", "provision", "resources"];

/// The scenarios' files: those of the data path, and [`DECISIONS`].
fn scenarios() -> Result<[Vec<String>; 2]> {
    let folder = root().join("tests/netns/tests");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    if let Some(unknown) =
        DECISIONS.iter().chain(&ONCE).find(|name| !names.iter().any(|known| known == *name))
    {
        bail!("there is no scenario {unknown} in {}", folder.display());
    }
    let (decisions, packets) = names.into_iter().partition(|name| DECISIONS.contains(&name.as_str()));
    Ok([packets, decisions])
}

fn netns(args: &TestArgs) -> Result<Count> {
    programs::ensure(SCENARIO_PROGRAMS)?;
    open_root()?;
    // The scenarios start the real binaries.
    programs::build(&["--quiet"])?;
    let [packets, decisions] = scenarios()?;
    // Most are several busy processes on few cores: side by side, they would measure each other.
    let runs = match args.name {
        None => {
            let mut at_xdp = packets.clone();
            at_xdp.retain(|name| !ONCE.contains(&name.as_str()));
            vec![("tc", packets, "1"), ("tc", decisions, "2"), ("xdp", at_xdp, "1")]
        }
        // What is asked for by name may be in either half.
        Some(_) => ["tc", "xdp"].map(|hook| (hook, [&packets[..], &decisions].concat(), "1")).to_vec(),
    };
    let mut total = Ok(Count::default());
    for (hook, names, threads) in runs {
        println!("--- hook {hook}: {}", names.join(", "));
        let mut chosen = vec!["--package", "netns-tests"];
        chosen.extend(names.iter().flat_map(|name| ["--test", name]));
        let mut command = test_command(args, &chosen, &["--test-threads", threads]);
        let counted =
            count::run(command.env("MIRROR_TEST_HOOK", hook)).with_context(|| format!("at hook {hook}"));
        // What fails at one hook is no reason not to look at the other.
        total = match (total, counted) {
            (Ok(mut total), Ok(count)) => {
                total += count;
                Ok(total)
            }
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
            (Err(first), Err(second)) => Err(anyhow!("{first:#}; {second:#}")),
        };
    }
    total
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

/// Runs `cargo test`, passes its output on and counts.
fn tests(args: &TestArgs, packages: &[&str], harness: &[&str]) -> Result<Count> {
    count::run(&mut test_command(args, packages, harness))
}

fn test_command(args: &TestArgs, packages: &[&str], harness: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["test", "--quiet", "--no-fail-fast"]).args(locked()).args(packages);
    command.arg("--").args(&args.name).args(harness);
    command
}
