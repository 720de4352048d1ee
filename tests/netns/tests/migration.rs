//! A migration by itself, on real servers, with its own time passing faster than the clock.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    checker::read_journals,
    gateway::SHARED_CORES_JUDGE,
    net::{Host, SERVICE_PORT, VIP},
    proof::prove,
    wait::wait_for,
};
use netns_tests::{Running, Scene, all_answered, lab_builder};
use rustix::process::Signal;
use serde_json::Value;

/// Times by the migration's own clock.
const MIGRATION: &str = "
[migration]
steps = [50, 100]
dark = \"1m\"
dwell = \"1m\"
cool_down = \"5m\"
retry = \"30s\"
cutover = \"auto\"
standby = \"5m\"
unhealthy = \"2m\"
";

/// Who only takes connections isn't healthy.
const PINGED: &str = "health = \"/ping\"\n";

/// A minute of it is two seconds: a step lasts long enough for a shadow to fall ill at it.
const RATE: (&str, &str) = ("MIRROR_CLOCK_RATE", "30");
/// No stage takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn scene() -> Result<Scene> {
    scene_with(3_000, PINGED)
}

/// With another allowance for the way to the shadow, or another health check.
fn scene_with(allowance_us: u32, health: &str) -> Result<Scene> {
    let allowance = format!("latency_allowance_us = {allowance_us}");
    let judge = SHARED_CORES_JUDGE.replace("latency_allowance_us = 3000", &allowance);
    ensure!(judge.contains(&allowance), "no allowance in {judge}");
    let policy = format!("{MIGRATION}{health}{judge}");
    Scene::under(lab_builder()?.up()?, "", &policy, &[], &[RATE])
}

fn load(scene: &Scene) -> Result<Running> {
    let mut config = scene.client(16);
    // An ill shadow must still keep up with what it is sent.
    config.think = Duration::from_millis(10);
    config.duration = Some(Duration::from_secs(600));
    scene.start_client(config)
}

fn wait(scene: &Scene, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
    wait_for(what, PATIENCE, || scene.gateway.status().is_ok_and(|status| holds(&status)))
        .with_context(|| format!("{}\n{}", scene.gateway.status().unwrap_or_default(), scene.gateway.log()))
}

fn stage(status: &Value, wanted: &str) -> bool {
    status["migration"]["stage"] == wanted
}

/// One at least: what isn't gross goes back step by step.
fn steps_back(status: &Value) -> u64 {
    status["migration"]["steps_back"].as_u64().unwrap_or(0)
}

/// What the journal says, a line each.
fn told(scene: &Scene) -> Result<Vec<String>> {
    let history = scene.ctl(&["history", "shop", "--limit", "1000"])?;
    let entries = history["entries"].as_array().context("entries")?;
    let line = |entry: &Value| format!("{}: {}", entry["state"]["stage"], entry["words"]);
    Ok(entries.iter().map(|entry| line(entry).replace('"', "")).collect())
}

#[test]
fn a_good_shadow_is_joined_shifted_to_cut_over_to_and_finalized() -> Result<()> {
    let scene = scene()?;
    let client = load(&scene)?;
    scene.ctl(&["migrate", "shop"])?;
    wait(&scene, "standby", |status| stage(status, "Standby"))?;
    ensure!(scene.gateway.status()?["authority"] == "shadow");
    let refused = format!("{:#}", scene.ctl(&["rollback", "shop"]).expect_err("it steers"));
    ensure!(refused.contains("mirror pause shop"), "{refused}");
    wait(&scene, "the end", |status| stage(status, "Finalized"))?;
    let status = scene.gateway.status()?;
    ensure!(status["authority"] == "shadow" && status["primary"]["in_sync"] == false, "{status}");
    all_answered(&client.stop()?)?;
    let told = told(&scene)?;
    for wanted in ["mirroring: join done", "standby: cutover done", "finalized: the standby is over"] {
        ensure!(told.iter().any(|line| line.starts_with(wanted)), "no `{wanted}` in {told:#?}");
    }
    Ok(())
}

/// Whether a line of the journal calls the shadow worse for what it answered, rather than for how late.
fn is_blamed(line: &str) -> bool {
    line.contains("worse") && (line.contains("errors") || line.contains("differ"))
}

/// The reads that a client sees fail are those that the shadow itself answered with an error before it was found: by the
/// errors among its own answers, or by those that the primary answered otherwise, whichever says enough first.
#[test]
fn a_shadow_that_errs_at_a_step_loses_its_reads_again() -> Result<()> {
    let scene = scene()?;
    let client = load(&scene)?;
    scene.ctl(&["migrate", "shop"])?;
    wait(&scene, "the first step", |status| status["weight"] == 50.0)?;
    scene.ail(Host::Shadow, "errors=0.3")?;
    wait(&scene, "no reads", |status| status["weight"] == 0.0)?;
    scene.ail(Host::Shadow, "")?;
    let status = scene.gateway.status()?;
    ensure!(steps_back(&status) >= 1 && status["authority"] == "primary", "{status}");
    let shown = status["shadow"]["errors"].as_u64();
    let summary = client.stop()?;
    ensure!(
        shown == Some(summary.failed_requests) && summary.failed_requests > 0,
        "{shown:?} shown, {} failed",
        summary.failed_requests
    );
    let told = told(&scene)?;
    ensure!(told.iter().any(|line| is_blamed(line)), "no reason: {told:#?}");
    Ok(())
}

#[test]
fn a_shadow_that_gets_slow_at_a_step_loses_its_reads_again_and_no_request_fails() -> Result<()> {
    let scene = scene()?;
    let client = load(&scene)?;
    scene.ctl(&["migrate", "shop"])?;
    wait(&scene, "the first step", |status| status["weight"] == 50.0)?;
    scene.ail(Host::Shadow, "delay_ms=15")?;
    wait(&scene, "no reads", |status| status["weight"] == 0.0)?;
    ensure!(steps_back(&scene.gateway.status()?) >= 1, "{}", scene.gateway.status()?);
    all_answered(&client.stop()?)
}

/// It answers as late as the one that loses its reads, but the policy knows of the longer way.
#[test]
fn a_shadow_that_is_late_by_what_is_allowed_goes_all_the_way() -> Result<()> {
    let scene = scene_with(20_000, PINGED)?;
    scene.ail(Host::Shadow, "delay_ms=5")?;
    let client = load(&scene)?;
    scene.ctl(&["migrate", "shop"])?;
    wait(&scene, "standby", |status| stage(status, "Standby"))?;
    let status = scene.gateway.status()?;
    ensure!(steps_back(&status) == 0 && status["authority"] == "shadow", "{status}");
    wait(&scene, "the end", |status| stage(status, "Finalized"))?;
    all_answered(&client.stop()?)
}

/// At weight 0 a shadow that errs is found by comparing alone, and no read moves.
#[test]
fn a_shadow_that_errs_from_the_start_gets_no_read() -> Result<()> {
    let scene = scene()?;
    let client = load(&scene)?;
    scene.ctl(&["migrate", "shop"])?;
    wait(&scene, "compared", |status| status["compared"].as_u64() > Some(2_000))?;
    scene.ail(Host::Shadow, "errors=0.3")?;
    wait(&scene, "found", |status| steps_back(status) >= 1)?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["answered"][0] == 0 && status["weight"] == 0.0, "{status}");
    all_answered(&client.stop()?)
}

/// What a client saw answered by the authority that is gone, the primary has; what was under way failed.
fn rolled_back_from(
    mut scene: Scene,
    reason: &str,
    gone: impl FnOnce(&mut Scene) -> Result<()>,
) -> Result<()> {
    let client = load(&scene)?;
    scene.ctl(&["migrate", "shop"])?;
    wait(&scene, "standby", |status| stage(status, "Standby"))?;
    client.tick()?;
    gone(&mut scene)?;
    wait(&scene, "the way back", |status| stage(status, "RolledBack"))?;
    ensure!(scene.gateway.status()?["authority"] == "primary", "{}", scene.gateway.status()?);
    let mut next = scene.client(8);
    (next.log, next.control, next.run) = (None, None, "after".into());
    next.requests = Some(1_000);
    all_answered(&scene.run_client(next)?)?;
    let summary = client.stop()?;
    ensure!(summary.failed_requests <= 16, "more failed than were under way: {summary:?}");
    let primary = [("primary".to_owned(), scene.lists(Host::Primary)?)];
    let proof = prove(&read_journals(&scene.journals())?, &primary);
    ensure!(proof.state_is_ok(), "{proof:#?}");
    ensure!(told(&scene)?.iter().any(|line| line.contains(reason)), "{:#?}", told(&scene)?);
    Ok(())
}

#[test]
fn an_authority_that_dies_after_the_cutover_is_rolled_back_from_by_itself() -> Result<()> {
    rolled_back_from(scene()?, "health checks", |scene| {
        scene.servers[1] = None;
        Ok(())
    })
}

/// It resets nothing, and answers nothing; its kernel takes connections, and passes for healthy.
#[test]
fn an_authority_that_hangs_after_the_cutover_is_rolled_back_from_by_itself() -> Result<()> {
    rolled_back_from(scene_with(3_000, "")?, "turns wait that the other side has answered", |scene| {
        scene.server(Host::Shadow)?.process().signal(Signal::STOP)
    })
}

/// Who is in hears nothing of it, and the health check isn't asked for an hour: those who come and are refused are errors.
#[test]
#[ignore = "half a minute: cargo xtask soak has it"]
fn an_authority_that_lets_nobody_in_is_rolled_back_from_by_itself() -> Result<()> {
    let policy = format!("{MIGRATION}{PINGED}{SHARED_CORES_JUDGE}").replace("\"2m\"", "\"1h\"");
    let scene = Scene::under(lab_builder()?.up()?, "", &policy, &[], &[RATE])?;
    let client = load(&scene)?;
    scene.ctl(&["migrate", "shop"])?;
    wait(&scene, "standby", |status| stage(status, "Standby"))?;
    scene.ail(Host::Shadow, "deaf=1")?;
    let to = SocketAddr::from((VIP, SERVICE_PORT));
    let come = || scene.lab.host(Host::Client).run(|| TcpStream::connect_timeout(&to, PATIENCE));
    wait(&scene, "the way back", |status| {
        // Who comes meanwhile is refused, or is let in by the primary in the end.
        for _ in 0..10 {
            let _ = come();
        }
        stage(status, "RolledBack")
    })?;
    come()??;
    ensure!(scene.gateway.status()?["shadow"]["not_taken"].as_u64() >= Some(10));
    all_answered(&client.stop()?)?;
    let told = told(&scene)?;
    ensure!(told.iter().any(|line| line.contains("worse") && line.contains("errors")), "{told:#?}");
    Ok(())
}

/// C5: it has lost its memory and hasn't joined again when the new authority dies; the policy wants answers all the same.
#[test]
#[ignore = "half a minute: cargo xtask soak has it"]
fn where_availability_comes_first_a_primary_that_lacks_writes_takes_over_from_the_dead() -> Result<()> {
    let policy = format!("{MIGRATION}availability_first = true\n{PINGED}{SHARED_CORES_JUDGE}");
    let policy = policy.replace("standby = \"5m\"", "standby = \"1h\"");
    let mut scene = Scene::under(lab_builder()?.up()?, "", &policy, &[], &[RATE])?;
    let client = load(&scene)?;
    scene.ctl(&["migrate", "shop"])?;
    wait(&scene, "standby", |status| stage(status, "Standby"))?;
    scene.servers[0] = None;
    wait(&scene, "the fall", |status| status["primary"]["in_sync"] == false)?;
    scene.restart(Host::Primary)?;
    all_answered(&client.stop()?)?;
    ensure!(scene.gateway.status()?["authority"] == "shadow");
    scene.servers[1] = None;
    wait(&scene, "the primary", |status| stage(status, "RolledBack"))?;
    let status = scene.gateway.status()?;
    ensure!(status["authority"] == "primary", "{status}");
    ensure!(status["notices"].to_string().contains("is lost: availability first"), "{status}");
    let mut next = scene.client(8);
    (next.log, next.control, next.run) = (None, None, "after".into());
    next.requests = Some(1_000);
    all_answered(&scene.run_client(next)?)?;
    ensure!(told(&scene)?.iter().any(|line| line.contains("availability_first")), "{:#?}", told(&scene)?);
    Ok(())
}

/// Each decision is kept before it is carried out: the daemon dies behind every keeping, and behind every act.
#[test]
fn killed_between_every_two_steps_it_arrives_all_the_same() -> Result<()> {
    let mut scene = scene()?;
    let client = load(&scene)?;
    scene.gateway.kill();
    let mut deaths = 0;
    for point in ["kept", "acted"].into_iter().cycle().take(60) {
        scene.gateway.run(&[RATE, ("MIRROR_FAULT", point)])?;
        if deaths == 0 {
            scene.ctl(&["migrate", "shop"])?;
        }
        wait_for("death, or the end", PATIENCE, || {
            let runs = scene.gateway.process().is_ok_and(|process| process.is_running());
            !runs || scene.gateway.status().is_ok_and(|status| stage(&status, "Finalized"))
        })
        .with_context(|| scene.gateway.log())?;
        if scene.gateway.process()?.is_running() {
            break;
        }
        deaths += 1;
    }
    let status = scene.gateway.status()?;
    ensure!(stage(&status, "Finalized") && status["authority"] == "shadow", "{deaths} deaths: {status}");
    ensure!(deaths >= 10, "it died {deaths} times");
    let mut stages: Vec<String> = told(&scene)?;
    stages.retain(|line| line.starts_with("standby: cutover done") || line.starts_with("finalized"));
    ensure!(stages.len() <= 3, "{stages:?}");
    all_answered(&client.stop()?)
}
