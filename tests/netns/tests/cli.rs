//! The daemon and the command line, as whoever runs them expects: one daemon, a guarded socket, neighbours kept.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use lab::{
    net::{Host, Lab},
    programs::binary,
    wait::wait_for,
};
use netns_tests::{SOON, Scene};

/// A daemon for the scene's policy, with other places than the scene's own.
fn another(scene: &Scene, socket: &Path, pins: &Path) -> Result<Command> {
    let mut command = Command::new(binary("mirror")?);
    command.arg("--socket").arg(socket).arg("--pins").arg(pins).arg("run");
    command.arg(scene.gateway.folder().join("policy.toml"));
    Ok(command)
}

/// C6: two daemons.
#[test]
fn a_second_daemon_is_told_who_holds_the_pins() -> Result<()> {
    let mut scene = Scene::new()?;
    let first = scene.gateway.process()?.id();
    let other_socket = scene.gateway.folder().join("other.sock");
    let mut command = another(&scene, &other_socket, scene.gateway.pins())?;
    let output = scene.lab.host(Host::Gateway).output(&mut command)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(said.contains(&format!("process {first} ")), "who holds them isn't said: {said}");
    ensure!(!other_socket.exists(), "it listened all the same");
    ensure!(scene.gateway.status()?["name"] == "shop", "the first one has suffered");
    Ok(())
}

/// The neighbour entry of a host at the gateway, as `ip` prints it.
fn entry(lab: &Lab, host: Host) -> Result<String> {
    let line = format!("ip neigh show {} dev {}", host.address(), host.gateway_device());
    lab.host(Host::Gateway).sh(&line)
}

/// T30: the servers' hardware addresses are asked for before any client comes, kept by the kernel without the daemon, and
/// asked for again when they were flushed.
#[test]
fn the_servers_neighbours_are_kept_resolved() -> Result<()> {
    let mut scene = Scene::new()?;
    let kept = |scene: &Scene, host: Host| {
        entry(&scene.lab, host).is_ok_and(|line| line.contains("managed") && line.contains("lladdr"))
    };
    for host in [Host::Primary, Host::Shadow] {
        wait_for("the kernel to keep the entry", SOON, || kept(&scene, host))?;
        scene.lab.host(Host::Gateway).sh(&format!("ip neigh flush dev {}", host.gateway_device()))?;
        wait_for("the entry to be back", SOON, || kept(&scene, host))?;
    }
    scene.gateway.kill();
    ensure!(kept(&scene, Host::Shadow), "without the daemon: {}", entry(&scene.lab, Host::Shadow)?);
    Ok(())
}
