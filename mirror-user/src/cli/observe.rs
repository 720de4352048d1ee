//! `mirror observe`, as it is typed.

use std::{
    net::{SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::Result;

use crate::{
    observe::{self, Spec},
    output::print,
    policy::parse_duration,
};

/// What is to be observed.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The service, as it is addressed where it passes by here
    #[arg(value_name = "ADDRESS:PORT", value_parser = four)]
    service: SocketAddrV4,
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

fn four(text: &str) -> Result<SocketAddrV4, String> {
    match text.parse() {
        Ok(SocketAddr::V4(service)) => Ok(service),
        Ok(SocketAddr::V6(_)) => Err("IPv6 is mirrored, but not observed yet".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn sample(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(number) if number.is_power_of_two() && number <= 1 << 14 => Ok(number),
        _ => Err("a power of two, 1 to 16384".into()),
    }
}

/// Observes, and prints what was seen.
///
/// # Errors
/// Where packets can't be heard.
pub(super) async fn run(args: &Args, json: bool) -> Result<()> {
    let Args { service, devices, time, sample } = args;
    let spec = Spec { service: *service, devices: devices.clone(), time: *time, sample: *sample };
    print(&observe::run(&spec).await?, json)
}
