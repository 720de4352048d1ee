//! A link that delays, loses, reorders and duplicates frames on purpose.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use lab::wire::{Impairment, Wire};

/// Copies Ethernet frames between two devices, late and with faults.
///
/// It runs in the network namespace of the two devices, until it is ended.
#[derive(Parser)]
#[command(after_help = "Example: 20 ms there and back, one frame of a hundred lost towards the host:\n  \
    ip netns exec lab-wire-shadow wire far near --impairment \\\n    \
    '{\"from_host\": {\"delay_us\": 10000}, \"to_host\": {\"delay_us\": 10000, \"loss\": 0.01}, \"seed\": 7}'")]
struct Cli {
    /// The device towards the host.
    far: String,
    /// The device towards the gateway.
    near: String,
    /// JSON: `from_host` and `to_host` with `delay_us`, `jitter_us`, `loss`, `duplicate`, `reorder`, `reorder_us`, `mbits`;
    /// `seed`.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    impairment: String,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let impairment: Impairment = serde_json::from_str(&cli.impairment).context("--impairment")?;
    let wire = Wire::start_here(&cli.far, &cli.near, impairment)?;
    println!("forwarding between {} and {}", cli.far, cli.near);
    wire.join()
}
