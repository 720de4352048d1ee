//! Two hooks, one core: at XDP a flow's packets leave from there, and what it can't do alone is TC's; a policy's change of
//! hook is carried out under open connections.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::net::{Host, Lab, VIP};
use netns_tests::{Scene, all_answered, hook, lab_builder};

/// What a device's driver counted at XDP: names that end in `suffix`, over all queues.
fn driver_counts(scene: &Scene, host: Host, suffix: &str) -> Result<u64> {
    let text =
        scene.lab.host(Host::Gateway).check(Command::new("ethtool").arg("-S").arg(host.gateway_device()))?;
    let mut sum = 0;
    for line in text.lines() {
        let Some((name, value)) = line.trim().split_once(": ") else { continue };
        if name.ends_with(suffix) {
            sum += value.parse::<u64>().with_context(|| line.to_owned())?;
        }
    }
    Ok(sum)
}

#[test]
fn at_xdp_answers_leave_by_redirect_and_at_tc_nothing_is_touched_there() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let mut config = scene.client(10);
    config.requests = Some(5_000);
    let summary = scene.run_client(config)?;
    all_answered(&summary)?;
    let redirected = driver_counts(&scene, Host::Primary, "xdp_redirect")?;
    let mirrored = scene.gateway.count("Mirrored")?;
    ensure!(mirrored >= 5_000, "{mirrored} mirrored");
    ensure!(scene.gateway.count("HandoverFailed")? == 0, "steps were lost between the hooks");
    if hook()? == "xdp" {
        ensure!(redirected >= 5_000, "of 5000 answers {redirected} left by redirect");
    } else {
        ensure!(redirected == 0, "{redirected} frames redirected without XDP");
    }
    Ok(())
}

/// Redirected frames would all be lost: no packet of a connection would get through, though the daemon said that it was ready.
#[test]
fn xdp_is_refused_where_the_other_end_takes_nothing_that_is_redirected() -> Result<()> {
    let lab = Lab::builder().xdp_ready(false).up()?;
    let xdp = hook()? == "xdp";
    let said = match Scene::on(lab, "", "", &[]) {
        Ok(scene) => {
            ensure!(!xdp, "served: {}", scene.gateway.log());
            return Ok(());
        }
        Err(error) => format!("{error:#}"),
    };
    ensure!(xdp && said.contains("drops what is redirected to it") && said.contains("gro on"), "{said}");
    Ok(())
}

#[test]
fn an_address_of_the_loopback_is_served_to_clients_of_every_link() -> Result<()> {
    let lab = lab_builder()?.up()?;
    let device = Host::Client.gateway_device();
    let gateway = lab.host(Host::Gateway);
    gateway.sh(&format!("ip addr del {VIP}/32 dev {device} && ip addr add {VIP}/32 dev lo"))?;
    let scene = Scene::on(lab, "", "", &[])?.joined()?;
    let mut config = scene.client(2);
    config.requests = Some(100);
    all_answered(&scene.run_client(config)?)?;
    ensure!(scene.states_equal()?, "the states differ");
    Ok(())
}

#[test]
fn a_policy_that_changes_the_hook_is_carried_out_under_open_connections() -> Result<()> {
    // At TC, too, the hosts leave no checksum to the device: XDP comes.
    let lab = Lab::builder().xdp_ready(true).up()?;
    let mut scene = Scene::on(lab, "", "", &[])?.joined()?;
    let mut config = scene.client(10);
    config.think = Duration::from_millis(1);
    config.duration = Some(Duration::from_secs(60));
    let client = scene.start_client(config)?;
    client.tick()?;
    let policy = scene.gateway.folder().join("policy.toml");
    let first = hook()?;
    let second = if first == "tc" { "xdp" } else { "tc" };
    for (from, to) in [(first, second), (second, first)] {
        scene.gateway.stop()?;
        let text = std::fs::read_to_string(&policy)?;
        std::fs::write(&policy, text.replace(&format!("hook = \"{from}\""), &format!("hook = \"{to}\"")))?;
        scene.gateway.run(&[])?;
        let before = driver_counts(&scene, Host::Primary, "xdp_redirect")?;
        client.tick()?;
        client.tick()?;
        let more = driver_counts(&scene, Host::Primary, "xdp_redirect")? - before;
        ensure!((more > 0) == (to == "xdp"), "{more} redirected under hook {to}");
    }
    all_answered(&client.stop()?)
}
