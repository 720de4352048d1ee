//! What Prometheus reads: over TCP where the policy says so, and it agrees with what the client counted.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::net::Host;
use netns_tests::{SOON, Scene, all_answered};

/// The value of the first series whose name and labels contain all of `parts`.
fn value(text: &str, parts: &[&str]) -> Result<f64> {
    let line =
        text.lines().find(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
    let line = line.with_context(|| format!("no {parts:?} in\n{text}"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

#[test]
fn a_scrape_agrees_with_the_client() -> Result<()> {
    let scene = Scene::with("metrics.listen = \"127.0.0.1:9464\"", "", &[])?.joined()?;
    scene.ctl(&["weight", "shop", "25"])?;
    // Refused: the shadow is in sync.
    ensure!(scene.ctl(&["join", "shop"]).is_err(), "joined twice");
    let mut config = scene.client(10);
    config.requests = Some(4_000);
    let summary = scene.run_client(config)?;
    all_answered(&summary)?;
    let target = SocketAddr::from(([127, 0, 0, 1], 9464));
    let get = |path: &str| scene.lab.host(Host::Gateway).run(|| lab::http_client::get(target, path));
    let text = String::from_utf8(get("/metrics")??)?;
    let mut turns = 0.0;
    for side in ["side=\"primary\"", "side=\"shadow\""] {
        for class in ["class=\"read\"", "class=\"write\""] {
            turns += value(&text, &["mirror_turn_latency_seconds_count{", side, class])?;
        }
    }
    // An answer that another packet of the flow completes isn't timed.
    ensure!((3_800.0..=4_000.0).contains(&turns), "{turns} turns were timed, of 4000");
    let expected = [
        (vec!["mirror_weight_ratio"], 0.25),
        (vec!["mirror_phase{", "Shifting"], 1.0),
        (vec!["mirror_authority{", "primary"], 1.0),
        (vec!["mirror_in_sync{", "shadow"], 1.0),
        (vec!["mirror_open_writes{"], 0.0),
        (vec!["mirror_moves_total{", "join", "done"], 1.0),
        (vec!["mirror_moves_total{", "join", "refused"], 1.0),
        (vec!["mirror_epoch{"], 4.0),
    ];
    for (parts, wanted) in expected {
        let found = value(&text, &parts)?;
        ensure!(found == wanted, "{parts:?}: {found}, not {wanted}; {}", scene.gateway.status()?);
    }
    ensure!(value(&text, &["mirror_packets_total{", "\"Mirrored\""])? >= 2_000.0, "{text}");
    ensure!(
        value(&text, &["mirror_sweeps_total{"])? > 0.0
            && value(&text, &["mirror_sweep_seconds_total{"])? > 0.0
    );
    ensure!(get("/status")?.is_err(), "the TCP listener serves more than metrics");
    Ok(())
}

#[test]
fn whoever_holds_connections_takes_no_more_than_their_room() -> Result<()> {
    let scene = Scene::with("metrics.listen = \"127.0.0.1:9464\"", "", &[])?;
    let target = SocketAddr::from(([127, 0, 0, 1], 9464));
    scene.lab.host(Host::Gateway).run(|| -> Result<()> {
        let held: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(target)).collect::<Result<_, _>>()?;
        let mut next = TcpStream::connect(target)?;
        next.write_all(b"GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")?;
        next.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut answer = Vec::new();
        ensure!(next.read_to_end(&mut answer).is_err() && answer.is_empty(), "there was room for one more");
        drop(held);
        next.set_read_timeout(Some(SOON))?;
        next.read_to_end(&mut answer)?;
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        Ok(())
    })?
}
