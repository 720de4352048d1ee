//! `mirror join --again`: a mirror that is in sync, and answers otherwise all the same.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    net::{Host, SERVICE_PORT, VIP},
    wait::wait_for,
};
use netns_tests::{SOON, Scene, all_answered, connect, rounds};
use rustix::process::Signal;

/// Answers whose bodies differ, and those that were compared.
fn differing(scene: &Scene) -> Result<(u64, u64)> {
    let seen = scene.ctl(&["divergence"])?;
    let count = |what: &str| seen[what].as_u64().context("no count");
    Ok((count("length")? + count("digest")?, count("compared")?))
}

/// Writes a list's entries, through the gateway or by it.
fn list(scene: &Scene, from: Host, to: SocketAddr, ids: &[&str]) -> Result<()> {
    let write = |id: &&str| lab::http_client::post(to, "/lists/k", id.as_bytes());
    scene.lab.host(from).run(|| ids.iter().try_for_each(|id| write(id).map(drop)))?
}

fn service() -> SocketAddr {
    (VIP, SERVICE_PORT).into()
}

/// One connection's reads of that list.
fn read(scene: &Scene) -> Result<()> {
    let mut config = scene.client(1);
    (config.log, config.control) = (None, None);
    config.write_fraction = 0.0;
    config.read_path = Some("/lists/k?tail=3".into());
    config.think = Duration::from_millis(1);
    config.requests = Some(100);
    all_answered(&scene.run_client(config)?)
}

fn error(scene: &Scene, arguments: &[&str]) -> String {
    scene.ctl(arguments).err().map(|error| format!("{error:#}")).unwrap_or_default()
}

#[test]
fn a_mirror_that_went_its_own_way_is_joined_again_under_load_and_no_request_fails() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    list(&scene, Host::Client, service(), &["k-1", "k-2", "k-3"])?;
    list(&scene, Host::Gateway, Host::Shadow.service().into(), &["k-4"])?;
    ensure!(!scene.states_equal()?, "the shadow took no write");
    read(&scene)?;
    let (differ, _) = differing(&scene)?;
    ensure!(differ >= 50, "{differ} differ: {}", scene.ctl(&["divergence"])?);
    let mut config = scene.client(8);
    config.think = Duration::from_millis(2);
    config.write_fraction = 0.3;
    config.duration = Some(Duration::from_secs(600));
    let client = scene.start_client(config)?;
    scene.wait_status("two legs", |status| status["two_legs"] == 8)?;
    for round in 0..rounds(3, 100) {
        scene.ctl(&["weight", "shop", "50"])?;
        client.tick()?;
        let refused = error(&scene, &["join", "shop"]);
        ensure!(refused.contains("in sync already") && refused.contains("--again"), "{refused}");
        let joined = scene.ctl(&["join", "shop", "--again"])?;
        ensure!(joined["authority"] == "primary" && joined["weight"] == 0.0, "round {round}: {joined}");
        let status = scene.gateway.status()?;
        ensure!(status["shadow"]["in_sync"] == true, "round {round}: {status}");
        ensure!(status["notices"].to_string().contains("put out to be joined again"), "{status}");
        scene.wait_status("two legs again", |status| status["two_legs"] == 8)?;
    }
    client.pause()?;
    scene.wait_status("no write under way", |status| status["open_writes"] == 0)?;
    ensure!(scene.states_equal()?, "the copy brought it level");
    let before = differing(&scene)?;
    read(&scene)?;
    let after = differing(&scene)?;
    ensure!(after.0 == before.0 && after.1 >= before.1 + 50, "{before:?} {after:?}");
    scene.ctl(&["weight", "shop", "50"])?;
    client.resume()?;
    scene.end_proven(client)
}

/// Behind a cutover the primary is the mirror.
#[test]
fn who_has_the_authority_stays_and_a_copy_that_fails_leaves_the_mirror_out() -> Result<()> {
    let mut scene = Scene::with("join_deadline = \"300ms\"", "", &[])?.joined()?;
    list(&scene, Host::Client, service(), &["k-1", "k-2", "k-3"])?;
    scene.ctl(&["cutover", "shop"])?;
    let joined = scene.ctl(&["join", "shop", "--again"])?;
    ensure!(joined["authority"] == "shadow" && joined["weight"] == 100.0, "{joined}");
    ensure!(scene.gateway.status()?["primary"]["in_sync"] == true && scene.states_equal()?);
    let mut config = scene.client(4);
    config.duration = Some(Duration::from_secs(600));
    let client = scene.start_client(config)?;
    client.tick()?;
    scene.wait_status("two legs", |status| status["two_legs"] == 4)?;
    // Nothing is copied to a server that stands still; while nobody writes, nobody waits for it, either.
    client.pause()?;
    scene.server(Host::Primary)?.process().signal(Signal::STOP)?;
    let failed = error(&scene, &["join", "shop", "--again"]);
    ensure!(failed.contains("put out and isn't joined again"), "{failed}");
    ensure!(failed.contains("join hook") && failed.contains("mirror join shop"), "{failed}");
    let status = scene.gateway.status()?;
    ensure!(status["primary"]["in_sync"] == false && status["authority"] == "shadow", "{status}");
    ensure!(status["primary"]["reason"] == "put out to be joined again", "{status}");
    ensure!(status["primary"]["breaker"] == "closed" && status["frozen"] == false, "{status}");
    client.resume()?;
    client.tick()?;
    scene.restart(Host::Primary)?;
    scene.ctl(&["join", "shop", "--again"])?;
    scene.end_proven(client)
}

/// The next daemon says why the mirror is out, and takes it for no failure.
#[test]
fn a_daemon_that_dies_between_the_two_leaves_the_reason_behind() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    scene.gateway.stop()?;
    scene.gateway.run(&[("MIRROR_FAULT", "hook-started")])?;
    scene.ctl(&["join", "shop", "--again"]).err().context("the daemon outlived its fault")?;
    scene.gateway.process()?.wait(SOON)?;
    scene.gateway.run(&[])?;
    let shadow = scene.gateway.status()?["shadow"].clone();
    ensure!(shadow["in_sync"] == false && shadow["reason"] == "put out to be joined again", "{shadow}");
    ensure!(shadow["breaker"] == "closed", "{shadow}");
    scene.ctl(&["join", "shop"]).map(drop)
}

/// More than sockets hold.
const BYTES: u64 = 20_000_000;

fn ask(mut stream: &TcpStream, path: &str) -> Result<()> {
    // In one segment: a head in several is nobody's to shift.
    Ok(stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes())?)
}

/// Reads an answer; the length of its body.
fn answer(from: &mut BufReader<&TcpStream>) -> Result<u64> {
    let mut length = None;
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some(("Content-Length", value)) => length = value.parse().ok(),
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let length = length.context("no length")?;
    Ok(std::io::copy(&mut from.take(length), &mut std::io::sink())?)
}

/// Who hears the mirror hears it to the end, or the order is given up.
#[test]
fn what_the_mirror_has_begun_to_answer_is_waited_for() -> Result<()> {
    let scene = Scene::with("join_deadline = \"300ms\"", "", &[])?.joined()?;
    let stream = connect(&scene.lab, Host::Client, service())?;
    let mut answers = BufReader::new(&stream);
    ask(&stream, "/ping")?;
    answer(&mut answers)?;
    scene.wait_status("two legs", |status| status["two_legs"] == 1)?;
    scene.ctl(&["weight", "shop", "100"])?;
    ask(&stream, &format!("/bytes/{BYTES}"))?;
    wait_for("the mirror's answer", SOON, || {
        scene.ctl(&["flows"]).is_ok_and(|seen| seen["flows"][0]["authority"] == "shadow")
    })?;
    let given_up = error(&scene, &["join", "shop", "--again"]);
    ensure!(
        given_up.contains("still owes clients answers (1)") && given_up.contains("in sync"),
        "{given_up}"
    );
    ensure!(given_up.contains(&stream.local_addr()?.to_string()), "{given_up}");
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true && status["weight"] == 0.0, "{status}");
    ensure!(answer(&mut answers)? == BYTES, "the answer is cut short");
    scene.ctl(&["join", "shop", "--again"])?;
    ask(&stream, "/ping")?;
    answer(&mut answers).map(drop)
}
