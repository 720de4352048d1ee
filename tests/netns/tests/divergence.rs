//! Differences of the two sides' answers: counted by the kernel, shown by prefix, judged by a migration.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{gateway::SHARED_CORES_JUDGE, net::Host, wait::wait_for};
use netns_tests::{SOON, Scene, all_answered, lab_builder};
use serde_json::Value;

/// By one segment, with names.
const BY_NAME: &str = "[divergence]\nsegments = 1\ncapture = true\n";

fn divergence(scene: &Scene) -> Result<Value> {
    scene.ctl(&["divergence", "shop", "--json"])
}

fn count(answer: &Value, what: &str) -> u64 {
    answer[what].as_u64().unwrap_or(u64::MAX)
}

fn prefix<'a>(answer: &'a Value, name: &str) -> Result<&'a Value> {
    let all = answer["prefixes"].as_array().context("prefixes")?;
    all.iter().find(|prefix| prefix["prefix"] == name).with_context(|| format!("no {name}: {answer}"))
}

/// One connection's reads of a list that nobody writes, of which none is answered while another is under way.
fn read(scene: &Scene, requests: u64, path: Option<&str>) -> Result<()> {
    let mut config = scene.client(1);
    (config.log, config.control) = (None, None);
    config.write_fraction = 0.0;
    config.read_path = path.map(Into::into);
    config.think = Duration::from_millis(1);
    config.requests = Some(requests);
    all_answered(&scene.run_client(config)?)
}

/// Writes a list's first entries on both sides.
fn fill(scene: &Scene) -> Result<()> {
    let service = std::net::SocketAddr::from((lab::net::VIP, lab::net::SERVICE_PORT));
    for id in ["k-1", "k-2", "k-3"] {
        scene.lab.host(Host::Client).run(|| lab::http_client::post(service, "/lists/k", id.as_bytes()))??;
    }
    Ok(())
}

#[test]
fn answers_that_differ_are_counted_exactly_and_named() -> Result<()> {
    let scene = Scene::with(BY_NAME, "", &[])?.joined()?;
    fill(&scene)?;
    read(&scene, 300, Some("/lists/k?tail=3"))?;
    let honest = divergence(&scene)?;
    let differing = ["status", "length", "digest"].map(|what| count(&honest, what));
    ensure!(differing == [0; 3] && count(&honest, "equal") >= 250, "{honest}");
    // Both sides' answers to the writes are the same, too.
    ensure!(count(&honest, "compared") - count(&honest, "equal") <= 5, "{honest}");
    scene.ail(Host::Shadow, "differs=1")?;
    read(&scene, 200, Some("/lists/k?tail=3"))?;
    let seen = divergence(&scene)?;
    // The daemon takes records in now and then; the counts are the kernel's.
    let compared = count(&seen, "compared") - count(&honest, "compared");
    ensure!(compared >= 150 && count(&seen, "digest") == compared, "{compared} compared: {seen}");
    ensure!(count(&seen, "equal") == count(&honest, "equal"), "{seen}");
    wait_for("all records", SOON, || {
        divergence(&scene).is_ok_and(|now| count(&now, "digest_counted") == compared)
    })
    .with_context(|| format!("{:?}", divergence(&scene)))?;
    let seen = divergence(&scene)?;
    let lists = prefix(&seen, "GET /lists")?;
    ensure!(lists["standing"] == "counts" && lists["rate"]["low"].as_f64() > Some(0.2), "{seen}");
    let example = &lists["examples"][0];
    ensure!(example["statuses"] == serde_json::json!([200, 200]), "{example}");
    ensure!(example["lengths"][0] == example["lengths"][1] && example["digests"].is_array(), "{example}");
    ensure!(example["digests"][0] != example["digests"][1], "{example}");
    a_cutover_by_hand_is_made_despite_that_alone(&scene)
}

/// A low weight is only said; answers that differ refuse, until they are waived, or another copy has joined.
fn a_cutover_by_hand_is_made_despite_that_alone(scene: &Scene) -> Result<()> {
    let standing = |answer: &Value, what: &str| {
        let all = answer["preconditions"].as_array();
        let found = all.into_iter().flatten().find(|check| check["precondition"] == what);
        found.map_or(Value::Null, |check| check["standing"].clone())
    };
    for arguments in [&["cutover", "shop"][..], &["cutover", "shop", "--dry-run"]] {
        let refused = format!("{:#}", scene.ctl(arguments).err().context("it was made")?);
        ensure!(refused.contains("compared answers differ"), "{refused}");
        ensure!(refused.contains("mirror cutover shop --despite divergence"), "{refused}");
    }
    let rehearsed = scene.ctl(&["cutover", "shop", "--rehearse"])?;
    ensure!(standing(&rehearsed, "divergence") == "not-met", "{rehearsed}");
    let made = scene.ctl(&["cutover", "shop", "--despite", "divergence"])?;
    ensure!(made["authority"] == "shadow", "{made}");
    for (what, stands) in [("settled", "met"), ("weight", "not-met"), ("capacity", "not-measured")] {
        ensure!(standing(&made, what) == stands, "{what}: {made}");
    }
    Ok(())
}

/// H11: a clock in the body differs on every server, the primary itself included.
#[test]
fn what_the_primary_itself_never_answers_twice_is_noise() -> Result<()> {
    let scene = Scene::with(BY_NAME, "", &[])?.joined()?;
    read(&scene, 200, Some("/now"))?;
    wait_for("it is learned", SOON, || {
        divergence(&scene).is_ok_and(|now| count(&now, "digest_noise") >= 150)
    })
    .with_context(|| format!("{:?}", divergence(&scene)))?;
    let seen = divergence(&scene)?;
    ensure!(count(&seen, "digest_counted") == 0, "{seen}");
    let now = prefix(&seen, "GET /now")?;
    ensure!(now["standing"] == "noisy" && now["rate"]["share"] == 0.0, "{now}");
    Ok(())
}

/// Times by the migration's own clock, thirty times as fast.
const MIGRATION: &str = "
[migration]
steps = [10, 100]
dark = \"1m\"
dwell = \"1m\"
cool_down = \"60m\"
retry = \"30s\"
health = \"/ping\"
max_divergence = 1.0
";

#[test]
fn a_migration_goes_back_at_10_percent_when_the_answers_begin_to_differ() -> Result<()> {
    let policy = format!("{BY_NAME}{MIGRATION}{SHARED_CORES_JUDGE}");
    let scene = Scene::under(lab_builder()?.up()?, &policy, "", &[], &[("MIRROR_CLOCK_RATE", "30")])?;
    let patience = Duration::from_secs(120);
    let wait = |what: &str, holds: &dyn Fn(&Value) -> bool| {
        wait_for(what, patience, || scene.gateway.status().is_ok_and(|status| holds(&status))).with_context(
            || format!("{:?}\n{:?}\n{}", scene.gateway.status(), divergence(&scene), scene.gateway.log()),
        )
    };
    let mut config = scene.client(8);
    config.think = Duration::from_millis(2);
    config.write_fraction = 0.1;
    // Nobody writes it, so that no answer of it is wrong to the client, either.
    config.read_path = Some("/lists/k?tail=3".into());
    config.duration = Some(Duration::from_secs(600));
    fill(&scene)?;
    let client = scene.start_client(config)?;
    scene.ctl(&["migrate", "shop"])?;
    wait("10 %", &|status| status["weight"] == 10.0)?;
    scene.ail(Host::Shadow, "differs=0.5")?;
    wait("no reads", &|status| status["weight"] == 0.0 && status["migration"]["steps_back"] == 1)?;
    scene.ail(Host::Shadow, "")?;
    let history = scene.ctl(&["history", "shop", "--limit", "100"])?.to_string();
    ensure!(history.contains("differ") && history.contains("worse"), "{history}");
    ensure!(scene.gateway.status()?["authority"] == "primary");
    all_answered(&client.stop()?)
}
