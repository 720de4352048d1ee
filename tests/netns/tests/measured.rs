//! What is measured of the two sides, from the kernel's own counters.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::net::Host;
use netns_tests::{Scene, all_answered};

/// Before the first read moves, what the shadow would have answered is known, and nobody was shown it.
#[test]
fn at_weight_0_the_shadows_errors_and_latency_are_known_and_no_client_meets_them() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    scene.ail(Host::Shadow, "errors=0.25&delay_ms=3")?;
    let mut config = scene.client(8);
    config.think = Duration::from_millis(1);
    config.requests = Some(2_000);
    let summary = scene.run_client(config)?;
    all_answered(&summary)?;
    let status = scene.gateway.status()?;
    let count = |side: &str, what: &str| status[side][what].as_u64().unwrap_or(u64::MAX);
    ensure!(count("primary", "errors") + count("primary", "errors_compared") == 0, "{status}");
    ensure!(count("shadow", "errors") == 0, "{status}");
    let (errors, differing) = (count("shadow", "errors_compared"), status["differing"].as_u64());
    // Of each connection a turn at a time is compared: not all two thousand, where the shadow lags behind.
    let compared = status["compared"].as_u64().unwrap_or(0);
    ensure!((400..=2_000).contains(&compared), "{status}");
    // A quarter of the reads, which are a half.
    ensure!((compared / 16..compared / 4).contains(&errors) && differing == Some(errors), "{status}");
    Ok(())
}
