//! P2: a shadow that is killed, stopped, refused, cut off or closing costs no request that it hadn't begun to answer.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    checker::Summary,
    net::{Host, LinkSpec, SERVICE_PORT, VIP},
    transfer::upload,
};
use netns_tests::{Running, SOON, Scene, all_answered, lab_builder};
use rustix::process::Signal;
use serde_json::Value;

/// How the shadow goes bad.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Stopped,
    Cut,
}

fn make(fault: Fault, scene: &mut Scene) -> Result<()> {
    match fault {
        Fault::Killed => {
            scene.servers[1] = None;
            Ok(())
        }
        Fault::Stopped => scene.server(Host::Shadow)?.process().signal(Signal::STOP),
        Fault::Cut => scene.lab.set_link(Host::Shadow, false),
    }
}

fn out_of_sync(status: &Value) -> bool {
    status["shadow"]["in_sync"] == false && status["primary"]["in_sync"] == true && status["phase"] == "Idle"
}

/// Load, fault, out of sync; and the load goes on for a second after that.
fn under(fault: Fault, weight: &str) -> Result<(Scene, Summary)> {
    let mut scene = Scene::new()?.joined()?;
    let mut config = scene.client(20);
    config.think = Duration::from_millis(2);
    config.duration = Some(Duration::from_secs(60));
    let client = scene.start_client(config)?;
    scene.ctl(&["weight", "shop", weight])?;
    client.tick()?;
    make(fault, &mut scene)?;
    scene.wait_status("out of sync", out_of_sync)?;
    client.mark("after")?;
    client.tick()?;
    client.tick()?;
    Ok((scene, client.stop()?))
}

/// No request failed, none waited for much longer than the stall budget of 500 ms, and the primary has every write.
fn unharmed(summary: &Summary, scene: &Scene) -> Result<()> {
    all_answered(summary)?;
    let slowest = summary.windows.iter().map(|window| window.slowest.us).max().unwrap_or_default();
    ensure!(slowest < 3_000_000, "the slowest request took {slowest} µs");
    let after = summary.windows.iter().find(|window| window.name == "after");
    let readers = after.and_then(|window| window.servers.get("shadow")).map_or(0, |s| s.reads.count);
    ensure!(readers == 0, "{readers} reads by a shadow that is out of sync");
    let journals = lab::checker::read_journals(&scene.journals())?;
    let proof = lab::proof::prove(&journals, &[("primary".into(), scene.lists(Host::Primary)?)]);
    ensure!(proof.is_ok(), "{proof:#?}");
    Ok(())
}

#[test]
fn killed_at_weight_0_it_fails_no_request() -> Result<()> {
    let (scene, summary) = under(Fault::Killed, "0")?;
    unharmed(&summary, &scene)
}

/// T4: its kernel acknowledges all and its windows shut: the flow waits for its budget, once.
#[test]
fn stopped_at_weight_0_it_fails_no_request() -> Result<()> {
    let (scene, summary) = under(Fault::Stopped, "0")?;
    unharmed(&summary, &scene)
}

/// T4: the packet by which a leg's loss was noticed, an answer of the primary's, came to the client a timeout later.
#[test]
fn stopped_under_reads_it_costs_its_legs_and_no_packet() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let mut config = scene.client(50);
    config.write_fraction = 0.0;
    config.think = Duration::ZERO;
    config.duration = Some(Duration::from_secs(60));
    let client = scene.start_client(config)?;
    client.tick()?;
    let sent_again = |scene: &Scene| scene.lab.host(Host::Primary).tcp_counter("RetransSegs");
    let before = sent_again(&scene)?;
    make(Fault::Stopped, &mut scene)?;
    scene.wait_status("each leg lost, and its successor", |status| {
        status["shadow"]["legs_lost"].as_u64().is_some_and(|lost| lost >= 100)
    })?;
    let after = sent_again(&scene)?;
    ensure!(before == after, "the primary sent {after} segments again, before {before}");
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "nothing was written: {status}");
    all_answered(&client.stop()?)
}

#[test]
fn cut_off_at_weight_0_it_fails_no_request() -> Result<()> {
    let (scene, summary) = under(Fault::Cut, "0")?;
    unharmed(&summary, &scene)
}

/// Answers of the lists are one segment: none can have begun and not ended.
#[test]
fn killed_at_weight_50_reads_that_it_had_not_begun_are_asked_again() -> Result<()> {
    let (scene, summary) = under(Fault::Killed, "50")?;
    unharmed(&summary, &scene)
}

/// T36: before a byte of an answer, the other leg is asked.
#[test]
fn stopped_at_weight_50_reads_that_it_had_not_begun_are_asked_again() -> Result<()> {
    let (scene, summary) = under(Fault::Stopped, "50")?;
    unharmed(&summary, &scene)?;
    ensure!(scene.gateway.count("AskedAgain")? > 0, "no read was asked again");
    Ok(())
}

#[test]
fn cut_off_at_weight_50_reads_that_it_had_not_begun_are_asked_again() -> Result<()> {
    let (scene, summary) = under(Fault::Cut, "50")?;
    unharmed(&summary, &scene)
}

fn two_legs_and_equal(scene: &Scene, client: Running, connections: u64) -> Result<()> {
    scene.wait_status("two legs under every connection", |status| status["two_legs"] == connections)?;
    scene.end_proven(client)
}

#[test]
fn restarted_and_joined_again_it_is_under_the_same_connections() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let mut config = scene.client(20);
    config.think = Duration::from_millis(2);
    config.duration = Some(Duration::from_secs(60));
    let client = scene.start_client(config)?;
    scene.ctl(&["weight", "shop", "50"])?;
    client.tick()?;
    scene.servers[1] = None;
    scene.wait_status("out of sync", out_of_sync)?;
    scene.restart(Host::Shadow)?;
    scene.ctl(&["join", "shop"])?;
    scene.ctl(&["weight", "shop", "50"])?;
    two_legs_and_equal(&scene, client, 20)
}

#[test]
fn a_shadow_whose_port_is_closed_can_not_be_joined_and_harms_nobody() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.servers[1] = None;
    let mut config = scene.client(10);
    config.duration = Some(Duration::from_secs(60));
    let client = scene.start_client(config)?;
    client.tick()?;
    let error = scene.ctl(&["join", "shop"]).err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(error.contains("join hook failed"), "{error:?}");
    client.tick()?;
    let summary = client.stop()?;
    unharmed(&summary, &scene)?;
    let status = scene.gateway.status()?;
    ensure!(status["frozen"] == false && status["phase"] == "Idle", "{status}");
    Ok(())
}

/// T31: a shadow that ends each connection after five requests, under load to its end; in sync then, and re-dialled.
///
/// Without a limit in the policy there is time to think: a write that comes just before the close is owed, and then the
/// shadow is rightly out of sync.
fn closing(limit: &str, options: &[&str], weight: &str) -> Result<()> {
    let options = [&["--max-requests", "5"], options].concat();
    let scene = Scene::with("", limit, &options)?.joined()?;
    let mut config = scene.client(8);
    config.think = if limit.is_empty() { Duration::from_millis(25) } else { Duration::ZERO };
    config.requests = Some(if limit.is_empty() { 800 } else { 8_000 });
    let legs = config.requests.unwrap_or_default() / 10;
    let client = scene.start_client(config)?;
    scene.ctl(&["weight", "shop", weight])?;
    let summary = client.end()?;
    all_answered(&summary)?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    let opened = scene.passive_opens(Host::Shadow)?;
    ensure!(opened > legs, "only {opened} connections reached the shadow");
    scene.proven().map(drop)
}

#[test]
fn closing_after_five_requests_with_the_limit_known_it_stays_in_sync() -> Result<()> {
    closing("max_requests = 5", &[], "50")
}

#[test]
fn closing_after_five_requests_without_a_word_it_stays_in_sync() -> Result<()> {
    closing("max_requests = 5", &["--close-silently"], "50")
}

#[test]
fn closing_between_requests_it_stays_in_sync_without_a_limit_in_the_policy() -> Result<()> {
    closing("", &["--close-silently"], "0")
}

#[test]
fn resetting_between_requests_it_stays_in_sync_without_a_limit_in_the_policy() -> Result<()> {
    closing("", &["--close-silently", "--reset-on-close"], "0")
}

/// T31: a leg is closed, dialled at once, closed again without a request, and dialled with the next one.
///
/// No close is due when a request is: one that the server's kernel has taken and its application never reads is owed.
#[test]
fn closing_idle_connections_it_stays_in_sync() -> Result<()> {
    let scene = Scene::with("", "", &["--idle", "0.2"])?.joined()?;
    let mut config = scene.client(8);
    config.think = Duration::from_millis(500);
    config.requests = Some(80);
    let summary = scene.run_client(config)?;
    all_answered(&summary)?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    let opened = scene.passive_opens(Host::Shadow)?;
    ensure!(opened > 20, "only {opened} connections reached the shadow");
    scene.proven().map(drop)
}

/// T4: one stall of at most about the budget for an application, not one a request.
#[test]
fn a_stopped_shadow_that_goes_on_is_told_to_forget_its_connections() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let mut config = scene.client(4);
    config.think = Duration::from_millis(2);
    config.duration = Some(Duration::from_secs(60));
    let client = scene.start_client(config)?;
    client.tick()?;
    scene.server(Host::Shadow)?.process().signal(Signal::STOP)?;
    scene.wait_status("out of sync", out_of_sync)?;
    scene.server(Host::Shadow)?.process().signal(Signal::CONT)?;
    scene.ctl(&["join", "shop"])?;
    two_legs_and_equal(&scene, client, 4)?;
    let left = || scene.lab.host(Host::Shadow).sh("ss -Htn state established '( sport = :8080 )' | wc -l");
    lab::wait::wait_for("no connection of the dead legs", SOON, || {
        left().is_ok_and(|text| text.trim() == "0")
    })?;
    Ok(())
}

/// A mirror that answers no SYN is no part of any answer; clients notice nothing, and each connection counts once.
#[test]
fn a_mirror_that_answers_no_syn_does_not_take_the_connections() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let nat = Host::Shadow.nat_pool()[0];
    scene.lab.host(Host::Shadow).sh(&format!("ip route add blackhole {nat}/32"))?;
    let to = SocketAddr::from((VIP, SERVICE_PORT));
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(scene.lab.host(Host::Client).run(|| -> Result<TcpStream> {
            let mut client = TcpStream::connect_timeout(&to, SOON)?;
            client.write_all(b"GET /ping HTTP/1.1\r\nHost: shop\r\n\r\n")?;
            let mut answer = [0; 15];
            client.read_exact(&mut answer)?;
            ensure!(&answer == b"HTTP/1.1 200 OK", "{answer:?}");
            Ok(client)
        })??);
    }
    scene.wait_status("three of the shadow's", |status| {
        status["shadow"]["not_taken"] == 3 && status["primary"]["not_taken"] == 0
    })?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "nothing was written: {status}");
    Ok(())
}

/// Behind a cutover it is the client's connection that comes to nothing: no answer says so, and no leg is lost.
#[test]
fn a_connection_that_the_authority_refuses_counts_as_its_own() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    scene.ctl(&["cutover", "shop"])?;
    scene.servers[1] = None;
    let to = SocketAddr::from((VIP, SERVICE_PORT));
    for _ in 0..3 {
        let refused = scene.lab.host(Host::Client).run(|| TcpStream::connect_timeout(&to, SOON))?;
        let kind = refused.err().map(|error| error.kind());
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{kind:?}");
    }
    scene.wait_status("three of the shadow's", |status| {
        status["shadow"]["not_taken"] == 3 && status["primary"]["not_taken"] == 0
    })
}

/// T3: it takes 20 of the client's 100 Mbit/s, never stands still, and holds an upload to its pace: for as long as it may.
#[test]
fn too_slow_for_an_upload_it_holds_the_client_back_for_its_budget_alone() -> Result<()> {
    let link = |mbits: u64| format!("mbits={mbits}").parse::<LinkSpec>().map_err(anyhow::Error::msg);
    let lab = lab_builder()?.link(Host::Client, link(100)?).link(Host::Shadow, link(20)?).up()?;
    let more = "stall = \"10s\"\npressure = \"drop-leg\"\npressure_budget = \"1s\"";
    let scene = Scene::on(lab, more, "", &[])?.joined()?;
    let vip = SocketAddr::from((VIP, SERVICE_PORT));
    let up = scene.lab.host(Host::Client).run(|| upload(vip, 6_000_000, SOON))??;
    ensure!(up.whole, "{} bytes", up.bytes);
    scene.wait_status("out of sync", out_of_sync)?;
    let status = scene.gateway.status()?;
    ensure!(status.to_string().contains("pressure_budget"), "no reason: {status}");
    Ok(())
}
