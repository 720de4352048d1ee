//! P2: a shadow that mistreats the gateway, under load, in every way that the lab's server knows. At weight 0 no request fails;
//! above, only answers that it had begun. It is out of sync exactly when it owes a write: as long as it isn't, it has them all.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{
    checker::{Entry, Kind, Segments, Summary, read_journals},
    net::Host,
    proof::prove,
};
use netns_tests::{Scene, all_answered, rounds};
use serde_json::Value;

/// What becomes of a shadow that is asked to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Becomes {
    /// Each write is answered, whatever else comes.
    InSync,
    /// None is answered so that it can be told.
    OutOfSync,
    /// It depends on what was on its way to it when a connection ended, and on where an answer was.
    Either,
}

use Becomes::{Either, InSync, OutOfSync};

/// How it mistreats whoever asks.
const WAYS: [(&str, Becomes); 28] = [
    ("tenfold", InSync),
    ("interim", InSync),
    ("doubled", Either),
    ("long", Either),
    ("http10", Either),
    ("early", Either),
    ("short", Either),
    ("switch", Either),
    ("garbage", OutOfSync),
    ("silent", OutOfSync),
    ("dribble", OutOfSync),
    ("endless-chunks", OutOfSync),
    ("endless-body", OutOfSync),
    ("endless-head", OutOfSync),
    ("endless-interim", OutOfSync),
    ("inert", OutOfSync),
    ("unasked", OutOfSync),
    ("fin-accept", OutOfSync),
    ("fin-request", OutOfSync),
    ("fin-answer", OutOfSync),
    ("fin-head", OutOfSync),
    ("fin-body", Either),
    ("fin-behind", Either),
    ("reset-accept", OutOfSync),
    ("reset-answer", OutOfSync),
    ("reset-head", OutOfSync),
    ("reset-body", Either),
    ("reset-behind", Either),
];

/// Ways in which more bytes follow an answer: they are the client's, too, as those of any server would be.
const MORE: [&str; 2] = ["doubled", "long"];

/// Ways that are tried above weight 0 in the long form alone: there they begin no answer, or as another one does.
const LONG_ALONE: [&str; 12] = [
    "long",
    "early",
    "switch",
    "endless-chunks",
    "endless-interim",
    "inert",
    "unasked",
    "fin-accept",
    "fin-request",
    "fin-behind",
    "reset-accept",
    "reset-behind",
];

/// What the runs at a weight have shown, so that none of them shows nothing.
#[derive(Debug, Default)]
struct Seen {
    /// Reads that the shadow answered as it should.
    answered: u64,
    /// Answers that it had begun, and that failed.
    failed: u64,
}

fn is_in_sync(scene: &Scene) -> Result<bool> {
    Ok(scene.gateway.status()?["shadow"]["in_sync"] == true)
}

/// A well shadow, in sync.
fn make_well(scene: &mut Scene) -> Result<()> {
    if is_in_sync(scene)? {
        return scene.ail(Host::Shadow, "");
    }
    scene.restart(Host::Shadow)?;
    scene.ctl(&["join", "shop"]).map(drop)
}

/// A request that failed must be a read whose answer was the shadow's.
fn was_the_shadows(entry: &Entry) -> bool {
    let Some((_, mid_answer)) = &entry.failed else { return true };
    entry.kind == Kind::Read && (*mid_answer || entry.server == "shadow")
}

/// Load while the shadow goes that way.
fn load(scene: &mut Scene, way: &str, weight: &str, seen: &mut Seen) -> Result<Summary> {
    make_well(scene)?;
    scene.ctl(&["weight", "shop", weight])?;
    scene.ail(Host::Shadow, &format!("hostile={way}"))?;
    let mut config = scene.client(4);
    config.run = format!("{way}-{weight}");
    let journals = scene.gateway.folder().join(&config.run);
    (config.log, config.control) = (Some(journals.clone()), None);
    config.requests = Some(rounds(60, 20_000).into());
    config.think = Duration::from_millis(2);
    // What has begun and never ends; what hasn't begun is asked again within the budget of a stall.
    config.timeout = Duration::from_secs(if weight == "0" { 10 } else { 1 });
    if way.ends_with("request") || way == "early" {
        config.segments = Segments::HeadBody;
    }
    let summary = scene.run_client(config)?;
    let journals = read_journals(&journals)?;
    for entry in journals.iter().flat_map(|journal| &journal.entries) {
        ensure!(was_the_shadows(entry), "{entry:?}");
        if entry.server == "shadow" && entry.failed.is_none() {
            ensure!(entry.kind == Kind::Read, "a write was the shadow's: {entry:?}");
            seen.answered += 1;
        }
    }
    let sides = [("primary".to_owned(), scene.lists(Host::Primary)?)];
    let proof = prove(&journals, &sides);
    ensure!(proof.state_is_ok(), "{proof:#?}");
    seen.failed += summary.failed_requests;
    Ok(summary)
}

/// What became of the shadow, once nobody asks it any more and it owes nothing.
fn settle(scene: &Scene, becomes: Becomes) -> Result<()> {
    let is_over = |status: &Value| status["open_writes"] == 0 || status["shadow"]["in_sync"] == false;
    scene.wait_status("nothing is owed any more", is_over)?;
    if is_in_sync(scene)? {
        ensure!(becomes != OutOfSync, "no write was answered: {}", scene.gateway.status()?);
        ensure!(scene.states_equal()?, "in sync, and the states differ: {}", scene.gateway.status()?);
    } else {
        ensure!(becomes != InSync, "it has answered each write: {}", scene.gateway.status()?);
    }
    Ok(())
}

#[test]
fn at_weight_0_no_request_fails_and_above_only_what_it_had_begun() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    for weight in ["0", "50"] {
        let mut seen = Seen::default();
        for (way, becomes) in WAYS {
            if weight != "0" && LONG_ALONE.contains(&way) && rounds(0, 1) == 0 {
                continue;
            }
            let what = || format!("{way} at weight {weight}");
            let summary = load(&mut scene, way, weight, &mut seen).with_context(what)?;
            if weight == "0" {
                all_answered(&summary).with_context(what)?;
            }
            let unasked = if MORE.contains(&way) { summary.connections } else { 0 };
            let broken = summary.failed_requests as usize + unasked;
            ensure!(summary.failed_connections <= broken, "{}: {summary:#?}", what());
            // Where the client has heard what can't be told apart, it has left before it wrote, perhaps.
            let becomes = if weight == "0" || becomes == InSync { becomes } else { Either };
            settle(&scene, becomes).with_context(what)?;
        }
        let none = weight == "0";
        ensure!((seen.answered == 0) == none && (seen.failed == 0) == none, "at weight {weight}: {seen:?}");
    }
    ensure!(scene.gateway.count("AskedAgain")? > 0, "no read was asked again");
    Ok(())
}
