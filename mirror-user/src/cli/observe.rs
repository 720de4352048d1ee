//! `mirror observe`, as it is typed.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use futures::future::try_join_all;

use crate::{
    observe::{self, Services, Spec, Target},
    output::print,
    policy::{Policy, parse_duration},
};

/// Services that are observed at once: each has a socket and a buffer of its own.
const MAX_SERVICES: usize = 32;

/// What is to be observed.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The service, as it is addressed where it passes by here; /udp behind it: a name server's queries
    #[arg(value_name = "ADDRESS:PORT[/udp]", required_unless_present = "policy")]
    services: Vec<Target>,
    /// All services of this policy, at their primary's servers
    #[arg(long, value_name = "FILE", conflicts_with = "services")]
    policy: Option<PathBuf>,
    /// Only on this device; may be given several times [default: all]
    #[arg(long = "device", value_name = "DEVICE")]
    devices: Vec<String>,
    /// For so long; an interrupt (Ctrl-C) ends it earlier
    #[arg(long = "for", default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    time: Duration,
    /// Only one of N connections, a power of two: where there are more packets than one core can read
    #[arg(long, default_value = "1", value_name = "N", value_parser = sample)]
    sample: u16,
}

fn sample(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(number) if number.is_power_of_two() && number <= 1 << 14 => Ok(number),
        _ => Err("a power of two, 1 to 16384".into()),
    }
}

impl Args {
    /// The policy that is named, read.
    pub(super) fn policy(&self) -> miette::Result<Option<Policy>> {
        self.policy.as_deref().map(Policy::load).transpose()
    }
}

/// Observes, and prints what was seen: one service's as it is, several one below the other.
///
/// # Errors
/// Where packets can't be heard.
pub(super) async fn run(args: &Args, policy: Option<&Policy>, json: bool) -> Result<()> {
    let Args { services, devices, time, sample, .. } = args;
    let targets = policy.map_or_else(|| services.clone(), observe::of_policy);
    ensure!(targets.len() <= MAX_SERVICES, "{} services: at most {MAX_SERVICES} at once", targets.len());
    let alone = targets.len() == 1;
    let spec = |target| Spec { target, devices: devices.clone(), time: *time, sample: *sample };
    let specs: Vec<Spec> = targets.into_iter().map(spec).collect();
    let mut seen = try_join_all(specs.iter().map(|spec| observe::run(spec, alone))).await?;
    match (alone, seen.pop()) {
        (true, Some(only)) => print(&only, json),
        (_, last) => {
            seen.extend(last);
            print(&Services(seen), json)
        }
    }
}
