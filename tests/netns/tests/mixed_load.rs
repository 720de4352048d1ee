//! The whole job at once: many connections that are opened once, half of the requests writes, the weight changed all the
//! time, and moves in between; afterwards every list is the same on both sides and in the clients' journals.
//!
//! `MIRROR_SOAK` makes the runs as long as docs/MEASURED.md has them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{
    checker::Summary,
    net::{Host, LinkSpec},
    wire::Impairment,
};
use netns_tests::{Running, Scene, all_answered, lab_builder, nothing_sent_again, rounds};
use rustix::process::Signal;

const WEIGHTS: [&str; 4] = ["0", "25", "50", "100"];

/// Changes the weight every 100 ms until so many requests are answered.
fn shift(scene: &Scene, client: &Running, requests: u64) -> Result<()> {
    let mut next = Instant::now();
    for weight in WEIGHTS.iter().cycle() {
        scene.ctl(&["weight", "shop", weight])?;
        next += Duration::from_millis(100);
        std::thread::sleep(next.saturating_duration_since(Instant::now())); // not synchronisation: the pace of the changes
        if client.answered()? >= requests {
            return Ok(());
        }
    }
    Ok(())
}

/// Nothing is under way, and both sides have the same lists.
fn compare(scene: &Scene, client: &Running, what: &str) -> Result<()> {
    client.pause()?;
    scene.wait_status("nothing is under way", |status| status["open_writes"] == 0)?;
    ensure!(scene.states_equal()?, "the states differ {what}");
    scene.proven().context(what.to_owned())?;
    client.resume()
}

/// A run of that many requests at least, with a cutover, a rollback and a cutover in it.
fn run(scene: &mut Scene, connections: usize, requests: u64, stopped_for: u32) -> Result<Summary> {
    let mut config = scene.client(connections);
    config.duration = Some(Duration::from_secs(3_600));
    let opened = scene.active_opens(Host::Client)?;
    let client = scene.start_client(config)?;
    shift(scene, &client, requests / 5)?;
    // Reads go on to move while nobody lets go what is held: a write to an unsettled flow waits for its retransmission.
    scene.ctl(&["weight", "shop", "50"])?;
    let sent_again = client.tick()?.retransmissions;
    scene.gateway.process()?.signal(Signal::STOP)?;
    client.mark("stopped")?;
    let mut last = client.tick()?;
    for _ in 1..stopped_for {
        last = client.tick()?;
    }
    scene.gateway.process()?.signal(Signal::CONT)?;
    client.mark("moved")?;
    let (again, answered) = (last.retransmissions - sent_again, last.requests_per_second);
    println!(
        "the daemon stopped for {stopped_for} s: {again} segments sent again, {answered:.0} answers in its last second"
    );
    shift(scene, &client, 2 * requests / 5)?;
    for (part, command) in [(3, "cutover"), (4, "rollback"), (4, "cutover")] {
        let moved = scene.ctl(&[command, "shop"])?;
        println!("{command}: {}", moved["phases"]);
        compare(scene, &client, &format!("after a {command}"))?;
        if command == "rollback" {
            shift(scene, &client, part * requests / 5)?;
        }
    }
    while client.tick()?.requests < requests {}
    let summary = client.stop()?;
    all_answered(&summary)?;
    ensure!(summary.connections == connections, "{} connections", summary.connections);
    let opened = scene.active_opens(Host::Client)? - opened;
    ensure!(opened == connections as u64, "the client has opened {opened} connections, not {connections}");
    scene.wait_status("nothing is under way", |status| status["open_writes"] == 0)?;
    let proof = scene.proven()?;
    let status = scene.gateway.status()?;
    ensure!(status["primary"]["in_sync"] == true && status["shadow"]["in_sync"] == true, "{status}");
    println!(
        "{} requests, {:.0}/s, {} retransmissions; {}",
        summary.requests,
        summary.requests_per_second,
        summary.retransmissions,
        proof.line()
    );
    Ok(summary)
}

#[test]
fn two_hundred_connections_through_every_weight_and_move() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let requests = u64::from(rounds(100_000, 1_000_000));
    let summary = run(&mut scene, 200, requests, rounds(3, 30))?;
    nothing_sent_again(&scene.lab, &summary)?;
    Ok(())
}

/// T1, T37: the same with the shadow this far away: correct, if slower; what it costs is printed. Its share of the reads is the
/// weight, though it always owes answers: within a point, and what chance may make of it (three standard deviations).
fn far(round_trip_ms: u64) -> Result<()> {
    let lab = lab_builder()?
        .link(Host::Shadow, LinkSpec::wire(Impairment::round_trip(1_000 * round_trip_ms)))
        .up()?;
    // Room for a retransmission or two: on a busy machine the budget's default is two timeouts at this distance.
    let mut scene = Scene::on(lab, "stall = \"2s\"", "", &[])?.joined()?;
    let requests = u64::from(rounds(20_000, 200_000));
    let summary = run(&mut scene, 200, requests, 2)?;
    let mut at_fifty = None;
    for window in &summary.windows {
        let share = window.servers.get("shadow").map_or(0.0, |server| server.read_share);
        let reads: u64 = window.servers.values().map(|server| server.reads.count).sum();
        println!(
            "{round_trip_ms} ms away, {}: shadow's share of {reads} reads {share:.4}, slowest {} µs",
            window.name, window.slowest.us
        );
        if window.name == "stopped" {
            at_fifty = Some((share, reads));
        }
    }
    // Nobody could change the weight while the daemon stood still.
    let (share, reads) = at_fifty.context("no window of the stopped daemon")?;
    let by_chance = 3.0 * 0.5 / (reads as f64).sqrt();
    ensure!((share - 0.5).abs() <= 0.01 + by_chance, "at weight 50: {share:.4} of {reads} reads");
    Ok(())
}

#[test]
fn the_shadow_20_ms_away() -> Result<()> {
    far(20)
}

#[test]
fn the_shadow_80_ms_away() -> Result<()> {
    far(80)
}

/// Over 10,000 requests a second where the machine can: each connection rests for so long between two requests.
const PACE: (usize, Duration) = (220, Duration::from_millis(20));

/// What a move adds to the slowest request, over many of them.
fn moves(scene: Scene, what: &str) -> Result<()> {
    let mut config = scene.client(PACE.0);
    config.think = PACE.1;
    config.duration = Some(Duration::from_secs(600));
    let client = scene.start_client(config)?;
    client.tick()?;
    let moves = rounds(10, 200);
    let mut frozen = Vec::new();
    for i in 0..moves {
        client.mark(&format!("calm{i}"))?;
        std::thread::sleep(Duration::from_millis(200)); // not synchronisation: how long a window is
        client.mark(&format!("move{i}"))?;
        let command = if i % 2 == 0 { "cutover" } else { "rollback" };
        let moved = scene.ctl(&[command, "shop"])?;
        frozen.push(moved["phases"]["frozen_us"].as_f64().context("no frozen_us")?);
        std::thread::sleep(Duration::from_millis(200)); // not synchronisation: how long a window is
    }
    let summary = client.stop()?;
    all_answered(&summary)?;
    nothing_sent_again(&scene.lab, &summary)?;
    let slowest = |name: String| {
        let window = summary.windows.iter().find(|window| window.name == name);
        window.map_or(0.0, |window| window.slowest.us as f64 / 1e3)
    };
    // Against the moment before; but a far authority's requests take long without a move, so cutovers alone.
    let mut added: Vec<f64> =
        (0..moves).step_by(2).map(|i| slowest(format!("move{i}")) - slowest(format!("calm{i}"))).collect();
    added.sort_by(f64::total_cmp);
    frozen.sort_by(f64::total_cmp);
    let (middle, last) = (added.len() / 2, added.len() - 1);
    println!(
        "{moves} moves {what}, {:.0} requests/s: slowest request +{:.2} ms in the median, +{:.2} ms at worst; \
         frozen {:.0} µs, {:.0} µs",
        summary.requests_per_second, added[middle], added[last], frozen[middle], frozen[last]
    );
    scene.proven().map(drop)
}

#[test]
fn cutovers_one_after_another() -> Result<()> {
    moves(Scene::new()?.joined()?, "to a shadow beside")
}

#[test]
fn cutovers_one_after_another_20_ms_away() -> Result<()> {
    let spec = LinkSpec::wire(Impairment::round_trip(20_000));
    let lab = lab_builder()?.link(Host::Shadow, spec).up()?;
    moves(Scene::on(lab, "stall = \"2s\"", "", &[])?.joined()?, "to a shadow 20 ms away")
}
