//! Where there is no room to hold what comes in a freeze, it is deferred: its client's TCP sends it again. T35: never twice
//! in a row.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use lab::net::{Host, SERVICE_PORT, VIP};
use netns_tests::{SOON, Scene, connect};
use rustix::process::Signal;
use serde_json::Value;

/// Connections that write in each freeze.
const CONNECTIONS: usize = 12;
const BODY: usize = 1_000;
/// Room for most of their writes.
const POLICY: &str = "hold_bytes = 10400\nfreeze = \"8s\"\n";

/// Connections of the client, whose TCP sends again after two seconds: until then a second freeze has begun.
fn connections(scene: &Scene) -> Result<Vec<TcpStream>> {
    let route =
        ["route", "replace", "default", "via", &Host::Client.gateway_address().to_string(), "dev", "eth0"];
    scene.lab.host(Host::Client).check(Command::new("ip").args(route).args(["rto_min", "2s"]))?;
    (0..2 * CONNECTIONS).map(|_| connect(&scene.lab, Host::Client, (VIP, SERVICE_PORT).into())).collect()
}

fn write(streams: &mut [TcpStream]) -> Result<()> {
    let body = "a".repeat(BODY);
    let request = format!("POST /sink HTTP/1.1\r\nHost: lists\r\nContent-Length: {BODY}\r\n\r\n{body}");
    streams.iter_mut().try_for_each(|stream| Ok(stream.write_all(request.as_bytes())?))
}

fn answered(streams: &mut [TcpStream]) -> Result<()> {
    for stream in streams {
        let mut line = [0; 12];
        stream.read_exact(&mut line).context("no answer")?;
        ensure!(line == *b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&line));
    }
    Ok(())
}

/// Frames held now, and deferred so far.
fn held(status: &Value) -> (u64, u64) {
    let count = |at: usize| status["held"][at].as_u64().unwrap_or_default();
    (count(0), count(2))
}

/// Freezes the writes until `meanwhile` is done, for nothing is copied to a server that stands still.
fn frozen<T>(scene: &mut Scene, join: &[&str], meanwhile: impl FnOnce(&Scene) -> Result<T>) -> Result<T> {
    scene.server(Host::Shadow)?.process().signal(Signal::STOP)?;
    let mut command = scene.gateway.command(&[&["join", "shop"], join].concat());
    let mut joining = scene.lab.host(Host::Gateway).spawn(&mut command)?;
    // While a mirror is put out it is in sync.
    let joins = |status: &Value| status["frozen"] == true && status["shadow"]["in_sync"] == false;
    scene.wait_status("frozen", joins)?;
    let done = meanwhile(scene)?;
    scene.server(Host::Shadow)?.process().signal(Signal::CONT)?;
    ensure!(joining.wait(SOON)?.success(), "it didn't join: {}", scene.gateway.log());
    Ok(done)
}

/// T35: a freeze twice in a second. Whose write found no room in the first finds some in the second, though others came before.
#[test]
fn who_found_no_room_in_a_freeze_finds_some_in_the_next() -> Result<()> {
    let mut scene = Scene::with(POLICY, "", &[])?;
    let mut streams = connections(&scene)?;
    let (first, second) = streams.split_at_mut(CONNECTIONS);
    let all = CONNECTIONS as u64;
    let full = frozen(&mut scene, &[], |scene| {
        write(first)?;
        scene.wait_status("each held or deferred", |status| {
            let (held, deferred) = held(status);
            held + deferred == all
        })?;
        Ok(held(&scene.gateway.status()?))
    })?;
    ensure!(full.0 >= 4 && full.1 >= 2, "held, deferred: {full:?}");
    let again = frozen(&mut scene, &["--again"], |scene| {
        write(second)?;
        // As many as before found room, and all of the first that didn't.
        scene.wait_status("the first ones' second try held", |status| held(status).0 == all)?;
        Ok(held(&scene.gateway.status()?))
    })?;
    ensure!(again.1 > full.1, "nobody was deferred in the second freeze: there was room for all");
    answered(&mut streams)
}
