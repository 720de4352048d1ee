//! A far shadow whose server closes each connection behind so many requests, as nginx does, and says so in the last answer. T31.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{
    net::{Host, LinkSpec},
    wire::Impairment,
};
use netns_tests::{Scene, all_answered, lab_builder};

/// What comes behind the last request while it is on its way is acknowledged by the server's kernel, and never done.
#[test]
fn a_limit_that_its_answers_tell_of_is_kept_to_from_then_on() -> Result<()> {
    let far = LinkSpec::wire(Impairment::round_trip(20_000));
    let lab = lab_builder()?.link(Host::Shadow, far).up()?;
    let scene = Scene::on(lab, "stall = \"10s\"", "", &["--max-requests", "5"])?.joined()?;
    // With time to think: nothing is on its way when a connection ends.
    let mut slow = scene.client(4);
    slow.think = Duration::from_millis(100);
    slow.requests = Some(100);
    all_answered(&scene.run_client(slow)?)?;
    scene.wait_status("it is said", |status| {
        status["notices"].to_string().contains("the shadow closes connections behind 5 requests")
    })?;
    scene.ctl(&["weight", "shop", "50"])?;
    let mut busy = scene.client(8);
    busy.run = "busy".into();
    busy.requests = Some(2_000);
    all_answered(&scene.run_client(busy)?)?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    ensure!(scene.passive_opens(Host::Shadow)? > 200, "few connections reached the shadow");
    scene.proven().map(drop)
}
