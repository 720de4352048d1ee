//! Requests through each forwarder, in rounds that interleave them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use lab::load::{Load, busy_time, wrk};
use serde::Serialize;

use crate::forwarders::{Forwarder, Site, Standing, stand};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// 1 KiB over kept connections.
    Get,
    /// 64 bytes there, a few back, over kept connections.
    Post,
    /// A connection for each GET.
    Connect,
}

impl Kind {
    /// Every one.
    pub(crate) const ALL: [Self; 3] = [Self::Get, Self::Post, Self::Connect];
}

/// What one load came to.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Measured {
    /// Requests a second.
    pub(crate) per_second: f64,
    /// Median latency, in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile, in microseconds.
    pub(crate) p99_us: f64,
    /// The slowest, in microseconds.
    pub(crate) max_us: f64,
    /// Processor time of the whole machine a request, in microseconds: client, servers and all else.
    pub(crate) cpu_us: f64,
}

/// Every round of each forwarder and kind.
pub(crate) type Rounds = BTreeMap<(Forwarder, Kind), Vec<Measured>>;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent<'a> {
    /// Rounds.
    pub(crate) rounds: u32,
    /// Of each load.
    pub(crate) duration: Duration,
    /// Of all forwarders those whose name has this in it; all that is measured against stays.
    pub(crate) only: &'a str,
}

fn measure(standing: &Standing, kind: Kind, duration: Duration) -> Result<Measured> {
    let load = Load {
        post: (kind == Kind::Post).then(|| "x".repeat(64)),
        new_connections: kind == Kind::Connect,
        duration,
        ..Load::get(standing.target, if kind == Kind::Post { "/post" } else { "/1k" })
    };
    let before = busy_time()?;
    let result = wrk(&standing.from, &load)?;
    let busy = busy_time()?.saturating_sub(before);
    ensure!(result.requests > 0, "no request was answered");
    ensure!(result.errors == 0, "{} of {} requests failed", result.errors, result.requests);
    Ok(Measured {
        per_second: result.requests_per_second,
        p50_us: result.p50_us as f64,
        p99_us: result.p99_us as f64,
        max_us: result.max_us as f64,
        cpu_us: busy.as_secs_f64() * 1e6 / result.requests as f64,
    })
}

/// Runs all rounds. `said` hears of each load.
///
/// # Errors
/// If a forwarder can't be set up, or a request fails.
pub(crate) fn run(
    extent: Extent<'_>,
    mut said: impl FnMut(u32, Forwarder, Kind, &Measured),
) -> Result<Rounds> {
    let plain = Site::build(false)?;
    let ready = Site::build(true)?;
    let mut rounds = Rounds::new();
    for round in 0..extent.rounds {
        for forwarder in Forwarder::ALL {
            if forwarder != Forwarder::Kernel && !forwarder.name().contains(extent.only) {
                continue;
            }
            let site = if forwarder.needs_xdp() { &ready } else { &plain };
            let standing = stand(forwarder, site, round)?;
            for kind in Kind::ALL {
                let measured = measure(&standing, kind, extent.duration).map_err(|error| {
                    let counted = standing.counters();
                    error.context(format!("{}, {kind:?}, round {round}; {counted}", forwarder.name()))
                })?;
                said(round, forwarder, kind, &measured);
                rounds.entry((forwarder, kind)).or_default().push(measured);
            }
        }
    }
    Ok(rounds)
}
