//! A CPU keeps where packets went for a moment: what it keeps is never used for a packet that it isn't true of.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::net::Host;
use mirror_common::{flow::tcp, verdict::Verdict};
use prog_tests::{
    stage::{Hook, Stage, on_stage, silent},
    talk::{READ, Talk},
};

/// Runs `ip` in the gateway's namespace, in which the stage is.
fn ip(arguments: &[&str]) -> Result<()> {
    ensure!(Command::new("ip").args(arguments).status()?.success(), "ip {arguments:?}");
    Ok(())
}

/// What fits is known of the packet that was asked for, and of shorter ones.
fn a_packet_too_long_for_its_device_does_not_follow_a_short_one(stage: &mut Stage) -> Result<()> {
    let talk = Talk::open(stage)?;
    ip(&["link", "set", Host::Primary.gateway_device(), "mtu", "600"])?;
    let long = talk.next(stage, tcp::ACK)?.with(&[READ, &[b'x'; 1000]].concat());
    let short = talk.confirm(stage)?;
    let seen = talk.client(stage, &long)?;
    ensure!(short.verdicts == [Verdict::Forwarded], "the short one: {:?}", short.verdicts);
    ensure!(seen.verdicts.contains(&Verdict::EmitFailed), "the long one: {:?}", seen.verdicts);
    Ok(())
}

/// The kernel is asked again, soon.
fn a_route_that_is_gone_is_not_used_for_long(stage: &mut Stage) -> Result<()> {
    let talk = Talk::open(stage)?;
    ensure!(talk.confirm(stage)?.verdicts == [Verdict::Forwarded]);
    ip(&["route", "add", "blackhole", &silent(Host::Primary).to_string()])?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !talk.confirm(stage)?.verdicts.contains(&Verdict::EmitFailed) {
        ensure!(Instant::now() < deadline, "packets are still sent");
    }
    Ok(())
}

#[test]
fn what_is_kept_of_routes_is_used_only_where_it_is_true() -> Result<()> {
    on_stage(Hook::Tc, |stage| {
        a_packet_too_long_for_its_device_does_not_follow_a_short_one(stage)?;
        a_route_that_is_gone_is_not_used_for_long(stage)
    })
}
