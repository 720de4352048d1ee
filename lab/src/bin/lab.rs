//! Brings labs up and down, and runs commands on their hosts.
#![forbid(unsafe_code)]

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use lab::net::{Host, Lab, LinkSpec, Neighbours, SERVICE_PORT, VIP, all_labs, stale_labs, take_down};

const EXAMPLES: &str = "\
Examples:
  cargo xtask lab up --forwarding                      four hosts; the gateway's kernel forwards
  cargo xtask lab up --link shadow:rtt=20,loss=0.01    the shadow 20 ms away, one frame of a hundred lost
  cargo xtask lab run client -- curl -s 10.77.1.1:8080/ping
  cargo xtask lab shell gw
  cargo xtask lab down";

/// Client, gateway, primary and shadow in network namespaces.
#[derive(Parser)]
#[command(name = "cargo xtask lab", bin_name = "cargo xtask lab", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build a lab and leave it standing
    Up(Up),
    /// Take a lab down, with all that runs in it
    Down {
        #[command(flatten)]
        lab: Name,
        /// Instead: every lab of a test that died
        #[arg(long)]
        stale: bool,
    },
    /// Open a shell on a host
    Shell {
        #[command(flatten)]
        lab: Name,
        host: Host,
    },
    /// Run a command on a host; its exit status is this one's
    Run {
        #[command(flatten)]
        lab: Name,
        host: Host,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Show which labs there are
    List {
        /// A JSON array
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct Name {
    /// The lab's name
    #[arg(long, default_value = "lab")]
    name: String,
}

#[derive(Args)]
struct Up {
    #[command(flatten)]
    lab: Name,
    /// Let the gateway's kernel forward packets
    #[arg(long)]
    forwarding: bool,
    /// Set the hosts' offloads as native XDP at the gateway needs them
    #[arg(long)]
    xdp_ready: bool,
    /// Permanent neighbour entries instead of ARP
    #[arg(long)]
    static_neighbours: bool,
    /// A host's link: rtt, jitter, late (ms), loss, duplicate, reorder (0 to 1), seed, mtu, tags (vlan, qinq)
    #[arg(long, value_name = "HOST:NAME=VALUE,...", value_parser = parse_link)]
    link: Vec<(Host, LinkSpec)>,
    /// All tagged links over one pair of veth
    #[arg(long)]
    trunk: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Up(options) => up(options)?,
        Task::Down { lab, stale: false } => take_down(&lab.name)?,
        Task::Down { stale: true, .. } => {
            for name in stale_labs()? {
                take_down(&name)?;
                println!("{name} taken down");
            }
        }
        Task::Shell { lab, host } => {
            let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
            let prompt = format!("{}-{host} \\w # ", lab.name);
            return on_host(&lab, host, Command::new(shell).env("PS1", prompt));
        }
        Task::Run { lab, host, command } => {
            let (program, arguments) = command.split_first().context("say what to run")?;
            return on_host(&lab, host, Command::new(program).args(arguments));
        }
        Task::List { json } => list(json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(options: Up) -> Result<()> {
    let neighbours = if options.static_neighbours { Neighbours::Static } else { Neighbours::Learned };
    let mut builder = Lab::builder()
        .name(&options.lab.name)
        .forwarding(options.forwarding)
        .xdp_ready(options.xdp_ready)
        .neighbours(neighbours)
        .trunk(options.trunk)
        .detached_wires(true);
    for (host, spec) in options.link {
        builder = builder.link(host, spec);
    }
    let lab = builder.up()?;
    println!("lab {}: the service's address is {VIP}:{SERVICE_PORT}", lab.name());
    for host in Host::ENDS {
        let (device, router) = (host.gateway_device(), host.gateway_address());
        println!("  {:8} {:10} eth0 ── {device:8} {router} of the gateway", host.name(), host.address());
    }
    lab.leave()
}

/// Runs it with this terminal.
fn on_host(lab: &Name, host: Host, command: &mut Command) -> Result<ExitCode> {
    let namespace = Lab::open(&lab.name)?.host(host);
    let program = command.get_program().to_string_lossy().into_owned();
    let status = namespace.run(|| command.status())?.with_context(|| format!("start {program}"))?;
    // As a shell says it: 128 and the signal's number.
    let signal = || std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    let code = status.code().or_else(signal).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn list(json: bool) -> Result<()> {
    let labs = all_labs()?;
    if json {
        println!("{}", serde_json::to_string(&labs)?);
    } else {
        for name in labs {
            println!("{name}");
        }
    }
    Ok(())
}

fn parse_link(text: &str) -> Result<(Host, LinkSpec), String> {
    let (host, spec) = text.split_once(':').ok_or_else(|| format!("{text:?} is not like shadow:rtt=20"))?;
    let host = <Host as clap::ValueEnum>::from_str(host, true)?;
    ensure_end(host).map_err(|error| error.to_string())?;
    Ok((host, spec.parse()?))
}

fn ensure_end(host: Host) -> Result<()> {
    ensure!(
        Host::ENDS.contains(&host),
        "a link is named after the host at its end: client, primary or shadow"
    );
    Ok(())
}
