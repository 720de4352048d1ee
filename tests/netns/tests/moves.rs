//! P1, P3: mirrored, shared, cut over and rolled back under load, and nothing lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    checker::read_journals,
    net::Host,
    programs::ListsServer,
    proof::{Trace, WindowReads, parse_trace, settled_reads},
};
use netns_tests::{Scene, all_answered, nothing_sent_again};

#[test]
fn before_a_join_the_primary_answers_alone() -> Result<()> {
    let scene = Scene::new()?;
    let mut config = scene.client(8);
    config.requests = Some(2_000);
    let summary = scene.run_client(config)?;
    all_answered(&summary)?;
    ensure!(scene.lists(Host::Shadow)?.is_empty(), "the shadow got writes before it joined");
    nothing_sent_again(&scene.lab, &summary)?;
    Ok(())
}

#[test]
fn a_joined_shadow_has_every_write_and_no_reader() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let mut config = scene.client(8);
    config.requests = Some(4_000);
    let summary = scene.run_client(config)?;
    all_answered(&summary)?;
    ensure!(!summary.windows[0].servers.contains_key("shadow"), "the shadow answered at weight 0");
    nothing_sent_again(&scene.lab, &summary)?;
    scene.proven().map(drop)
}

#[test]
fn a_join_brings_what_was_written_before_it() -> Result<()> {
    let scene = Scene::new()?;
    let mut config = scene.client(4);
    config.think = Duration::from_millis(1);
    config.duration = Some(Duration::from_secs(60));
    let client = scene.start_client(config)?;
    client.tick()?;
    scene.ctl(&["join", "shop"])?;
    scene.wait_status("two legs under every connection", |status| status["two_legs"] == 4)?;
    scene.end_proven(client)
}

#[test]
fn the_share_of_the_reads_is_the_weight() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let mut config = scene.client(50);
    config.think = Duration::from_millis(5);
    config.duration = Some(Duration::from_secs(120));
    let client = scene.start_client(config)?;
    for weight in [25_u32, 50, 100, 0] {
        scene.ctl(&["weight", "shop", &weight.to_string()])?;
        client.mark(&format!("w{weight}"))?;
        let enough = client.tick()?.requests + 8_000;
        while client.tick()?.requests < enough {}
    }
    let summary = client.stop()?;
    all_answered(&summary)?;
    for weight in [25_u32, 50, 100, 0] {
        let window = summary.windows.iter().find(|window| window.name == format!("w{weight}"));
        let servers = window.map(|window| window.servers.clone()).unwrap_or_default();
        let reads: u64 = servers.values().map(|server| server.reads.count).sum();
        ensure!(reads > 3_000, "{reads} reads in the window of weight {weight}");
        // One percentage point, and three standard deviations of a sample of this size.
        let p = f64::from(weight) / 100.0;
        let allowed = 0.01 + 3.0 * (p * (1.0 - p) / reads as f64).sqrt();
        let share = servers.get("shadow").map_or(0.0, |server| server.read_share);
        ensure!((share - p).abs() <= allowed, "share {share} of {reads} reads at weight {weight} %");
    }
    Ok(())
}

/// A connection that never pauses is settled only now and then: of those reads the weight's share moves, the others stay
/// where they are. Counted from the servers' own traces.
#[test]
fn without_a_pause_the_settled_reads_follow_the_weight() -> Result<()> {
    let mut scene = Scene::new()?;
    let traces = [Host::Primary, Host::Shadow].map(|host| scene.gateway.folder().join(host.name()));
    for (side, host) in [Host::Primary, Host::Shadow].into_iter().enumerate() {
        scene.servers[side] = None;
        let trace = traces[side].display().to_string();
        scene.servers[side] = Some(ListsServer::on(&scene.lab, host, &["--volatile", "--trace", &trace])?);
    }
    let scene = scene.joined()?;
    scene.ctl(&["weight", "shop", "50"])?;
    let mut config = scene.client(8);
    config.requests = Some(60_000);
    config.write_fraction = 0.2;
    all_answered(&scene.run_client(config)?)?;
    let traces: Vec<Trace> =
        traces.iter().map(|path| Ok(parse_trace(&std::fs::read_to_string(path)?)?)).collect::<Result<_>>()?;
    let seen = settled_reads(&read_journals(&scene.journals())?, &traces);
    let window = seen.windows.get("start").context("no reads")?;
    let (all, settled): (u64, u64) = (window.reads.values().sum(), window.settled.values().sum());
    let share = WindowReads::share(&window.settled, "shadow");
    println!(
        "{all} reads: {:.1} % the shadow's; {settled} certainly settled: {:.1} %; {} certainly not",
        100.0 * WindowReads::share(&window.reads, "shadow"),
        100.0 * share,
        window.unsettled
    );
    ensure!(settled > 1_000, "only {settled} of {all} reads were settled");
    let allowed = 0.01 + 3.0 * (0.25 / settled as f64).sqrt();
    ensure!((share - 0.5).abs() <= allowed, "share {share} of {settled} settled reads");
    Ok(())
}

/// It freezes and drains for real, under load, and nobody's authority changes.
#[test]
fn a_rehearsal_costs_what_the_cutover_would_and_moves_nothing() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    scene.ctl(&["weight", "shop", "50"])?;
    let mut config = scene.client(20);
    config.duration = Some(Duration::from_secs(120));
    let client = scene.start_client(config)?;
    client.tick()?;
    let before = scene.gateway.status()?;
    for _ in 0..5 {
        let made = scene.ctl(&["cutover", "shop", "--rehearse"])?;
        ensure!(made["phases"]["frozen_us"].as_f64() > Some(0.0), "{made}");
        let slowest = &made["phases"]["slowest_us"];
        ensure!((0..2).all(|class| slowest[class].as_f64() > Some(0.0)), "no slowest request: {made}");
        ensure!(made["authority"] == "primary" && made["weight"] == 50.0, "{made}");
        ensure!(made["rehearsed"] == true, "{made}");
        client.tick()?;
    }
    let status = scene.gateway.status()?;
    ensure!(status["phase"] == "Shifting" && status["frozen"] == false, "{status}");
    let notices = status["notices"].to_string();
    ensure!(notices.contains("cutover rehearsed") && !notices.contains("cutover done"), "{notices}");
    let epochs = |status: &serde_json::Value| status["epoch"].as_u64().unwrap_or(0);
    ensure!(epochs(&status) == epochs(&before) + 10, "a freeze and a thaw each: {status}");
    scene.end_proven(client)
}

#[test]
fn moves_under_load_lose_nothing() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let mut config = scene.client(50);
    config.duration = Some(Duration::from_secs(120));
    let client = scene.start_client(config)?;
    scene.ctl(&["weight", "shop", "50"])?;
    client.tick()?;
    for round in 0..10 {
        let there = scene.ctl(&["cutover", "shop"])?;
        ensure!(there["authority"] == "shadow" && there["weight"] == 100.0, "round {round}: {there}");
        let back = scene.ctl(&["rollback", "shop"])?;
        ensure!(back["authority"] == "primary" && back["weight"] == 0.0, "round {round}: {back}");
    }
    scene.ctl(&["cutover", "shop"])?;
    client.mark("after")?;
    client.tick()?;
    client.tick()?;
    let summary = client.stop()?;
    all_answered(&summary)?;
    nothing_sent_again(&scene.lab, &summary)?;
    let after = summary.windows.iter().find(|window| window.name == "after");
    let writes = after.and_then(|w| w.servers.get("shadow")).map_or(0, |server| server.writes.count);
    ensure!(writes > 0, "the shadow answered no write after the cutover: {after:?}");
    scene.proven().map(drop)
}

#[test]
fn moves_that_make_no_sense_are_refused() -> Result<()> {
    let scene = Scene::new()?;
    for (command, says) in [
        (&["cutover", "shop"][..], "out of sync"),
        (&["rollback", "shop"][..], "authority already"),
        (&["weight", "shop", "10"][..], "out of sync"),
        (&["weight", "shop", "101"][..], "0 to 100"),
        (&["join", "shoe"][..], "no application shoe"),
    ] {
        let error = scene.ctl(command).err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains(says), "{command:?}: {error:?}");
    }
    scene.ctl(&["join", "shop"])?;
    let error = scene.ctl(&["join", "shop"]).err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(error.contains("in sync already"), "{error:?}");
    Ok(())
}
