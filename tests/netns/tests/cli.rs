//! The daemon and the command line, as whoever runs them expects: one daemon, a guarded socket, neighbours kept.

use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use lab::{
    net::{Host, Lab},
    programs::binary,
    wait::wait_for,
};
use mirror_common::abi::{ABI_VERSION, maps};
use netns_tests::{SOON, Scene, all_answered, hook};
use serde_json::Value;

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

/// C7: what another version has pinned isn't read as if it were ours, and what is said to do about it helps.
#[test]
fn pins_of_another_version_are_refused_with_the_way_out() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.gateway.stop()?;
    let pinned = MapData::from_pin(scene.gateway.pins().join(maps::ABI))?;
    Array::<_, u32>::try_from(Map::Array(pinned))?.set(0, ABI_VERSION + 1, 0)?;
    let gateway = scene.lab.host(Host::Gateway);
    let policy = scene.gateway.folder().join("policy.toml");
    let refused = gateway.output(scene.gateway.command(&["run"]).arg(policy))?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let found = format!("layout {}", ABI_VERSION + 1);
    ensure!(!refused.status.success() && said.contains(&found) && said.contains("mirror unload"), "{said}");
    gateway.check(&mut scene.gateway.command(&["unload"]))?;
    scene.gateway.run(&[])
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
    let unloaded = scene.ctl(&["unload"])?;
    ensure!(unloaded["neighbours"] == 2, "{unloaded}");
    for host in [Host::Primary, Host::Shadow] {
        let left = entry(&scene.lab, host)?;
        ensure!(!left.contains("managed"), "{left}");
    }
    Ok(())
}

/// What `mirror doctor` says of the scene's policy on the gateway, and its exit code.
fn doctor(scene: &Scene) -> Result<(Option<i32>, Vec<Value>)> {
    let policy = scene.gateway.folder().join("policy.toml");
    let mut command = scene.gateway.command(&["--json", "doctor"]);
    let output = scene.lab.host(Host::Gateway).output(command.arg(policy))?;
    let lines = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), lines))
}

/// All that isn't well, but for what the doctor says of XDP on veth, where the scenarios run on it.
fn bad(lines: &[Value]) -> Vec<&Value> {
    let veth = |line: &Value| line["check"].as_str().is_some_and(|check| check.starts_with("hook at"));
    let wanted = hook().is_ok_and(|hook| hook == "xdp");
    lines.iter().filter(|line| line["level"] != "ok" && !(wanted && veth(line))).collect()
}

#[test]
fn the_doctor_finds_a_running_gateway_well_and_says_what_was_broken() -> Result<()> {
    let scene = Scene::new()?;
    let gateway = scene.lab.host(Host::Gateway);
    wait_for("the neighbours", SOON, || {
        doctor(&scene).is_ok_and(|(code, lines)| code == Some(0) && bad(&lines).is_empty())
    })
    .with_context(|| format!("{:#?}", doctor(&scene)))?;
    gateway.sh("ip addr del 10.0.3.101/24 dev shadow0; ip link set primary0 mtu 1400; ip addr del 10.77.1.1/32 dev client0")?;
    gateway.sysctl("ipv4/conf/client0/rp_filter", "1")?;
    let (code, lines) = doctor(&scene)?;
    let advice: Vec<&str> = bad(&lines).iter().filter_map(|line| line["advice"].as_str()).collect();
    let expected = [
        "ip addr add 10.77.1.1/32 dev DEVICE, or name `devices` in the policy",
        "ip addr add 10.0.3.101/32 dev shadow0",
    ];
    ensure!(code == Some(1) && expected.iter().all(|line| advice.contains(line)), "{code:?} {lines:#?}");
    gateway.sh("ip addr add 10.77.1.1/32 dev client0; ip addr add 10.0.3.101/24 dev shadow0")?;
    let (code, lines) = doctor(&scene)?;
    let advice: Vec<&str> = bad(&lines).iter().filter_map(|line| line["advice"].as_str()).collect();
    let expected = ["sysctl -w net.ipv4.conf.client0.rp_filter=2", "mss = 1360 in the policy's [primary]"];
    ensure!(code == Some(1) && advice == expected, "{code:?} {lines:#?}");
    Ok(())
}

#[test]
fn flows_show_both_legs_of_each_connection() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let mut config = scene.client(6);
    config.think = std::time::Duration::from_millis(5);
    config.duration = Some(std::time::Duration::from_secs(60));
    let client = scene.start_client(config)?;
    client.tick()?;
    scene.wait_status("six flows", |status| status["two_legs"] == 6)?;
    let seen = scene.ctl(&["flows"])?;
    let flows = seen["flows"].as_array().context("no array")?;
    ensure!(seen["total"] == 6 && flows.len() == 6, "{seen:#}");
    let both_open = |flow: &Value| flow["primary"]["state"] == "open" && flow["shadow"]["state"] == "open";
    let client_is = |flow: &Value| flow["client"].as_str().is_some_and(|c| c.starts_with("10.0.1.2:"));
    ensure!(
        flows.iter().all(|flow| both_open(flow) && client_is(flow) && flow["turns"].as_u64() > Some(1)),
        "{seen:#}"
    );
    ensure!(scene.ctl(&["flows", "--limit", "2"])?["flows"].as_array().map(Vec::len) == Some(2), "no limit");
    let summary = client.stop()?;
    all_answered(&summary)?;
    let ports: std::collections::BTreeSet<String> =
        summary.ports.iter().map(|port| format!("10.0.1.2:{port}")).collect();
    let shown = flows.iter().filter_map(|flow| flow["client"].as_str().map(str::to_owned)).collect();
    ensure!(ports == shown, "{ports:?}, not {shown:?}");
    Ok(())
}

#[test]
fn packets_are_logged_only_by_a_kernel_side_that_was_built_for_it() -> Result<()> {
    let scene = Scene::new()?;
    let policy = scene.gateway.folder().join("policy.toml");
    let mut command = scene.gateway.command(&["run", "--log-packets"]);
    let output = scene.lab.host(Host::Gateway).output(command.arg(policy))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("cargo xtask build-ebpf --features log"), "{said}");
    Ok(())
}

/// A request in raw bytes; returns the answer's first line.
fn raw(scene: &Scene, request: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(scene.gateway.socket())?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(request)?;
    let mut answer = vec![0; 64];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or_default().to_owned())
}

#[test]
fn the_control_socket_is_its_owners_and_takes_no_more_than_it_needs() -> Result<()> {
    let scene = Scene::new()?;
    let mode = std::fs::metadata(scene.gateway.socket())?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    // Where a careless chmod lets everyone connect, the daemon itself still asks who that is.
    std::fs::set_permissions(scene.gateway.socket(), PermissionsExt::from_mode(0o666))?;
    std::fs::set_permissions(scene.gateway.folder(), PermissionsExt::from_mode(0o755))?;
    let program = scene.gateway.folder().join("mirror");
    std::fs::copy(binary("mirror")?, &program)?;
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
    let output = nobody.arg("--socket").arg(scene.gateway.socket()).args(["join", "shop"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(1) && said.contains("only root and the daemon's own user"),
        "{said}"
    );
    std::fs::set_permissions(scene.gateway.socket(), PermissionsExt::from_mode(0o600))?;
    let output = nobody.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("another user's"), "{said}");
    let head = "POST /join HTTP/1.1\r\nhost: mirror\r\ncontent-type: application/json\r\ncontent-length: ";
    let large = [format!("{head}5000\r\n\r\n").as_bytes(), &[b' '; 5_000]].concat();
    ensure!(raw(&scene, &large)?.contains("413"), "5,000 bytes were taken");
    let status = scene.gateway.status()?;
    ensure!(status["phase"] == "Idle" && status["epoch"] == 1, "somebody joined: {status}");
    ensure!(!scene.gateway.log().contains("uid 65534"), "nobody was let in: {}", scene.gateway.log());
    ensure!(scene.joined()?.gateway.log().contains("/join asked by uid 0"), "who moved isn't logged");
    Ok(())
}

#[test]
fn a_refusal_says_why_and_what_to_type() -> Result<()> {
    let scene = Scene::new()?;
    let refused = |arguments: &[&str]| -> Result<String> {
        let output = scene.lab.host(Host::Gateway).output(&mut scene.gateway.command(arguments))?;
        ensure!(output.status.code() == Some(1), "{arguments:?}: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for arguments in [&["weight", "shop", "10"][..], &["cutover", "shop"], &["cutover", "shop", "--dry-run"]]
    {
        let said = refused(arguments)?;
        ensure!(
            said.contains("(has not joined, ") && said.contains("mirror join shop"),
            "{arguments:?}: {said}"
        );
    }
    ensure!(refused(&["weight", "shop", "101"])?.contains("0 to 100"), "more than all");
    ensure!(refused(&["join", "shoe"])?.contains("there is shop"), "a name that isn't there");
    ensure!(refused(&["status", "shoe"])?.contains("there is shop"), "a name that isn't there");
    ensure!(refused(&["rollback", "shop"])?.contains("has the authority already"), "nothing to roll back");
    let output = scene.gateway.command(&["weight", "shop"]).output()?;
    ensure!(output.status.code() == Some(2), "a wrong command line: {}", output.status);
    Ok(())
}
