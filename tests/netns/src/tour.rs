//! What a scenario has a gateway go through that stands on other links than usual.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::net::{Host, SERVICE_PORT, VIP};

use crate::{Scene, all_answered, share};

/// Bytes of a body of many full segments.
const BODY: u32 = 300_000;

/// A body of full segments goes to every member; returns when nothing is under way any more.
///
/// # Errors
/// If it isn't taken whole, or a side is lost with it.
pub fn upload(scene: &Scene) -> Result<()> {
    let line = format!(
        "head -c {BODY} /dev/zero | curl -sS --fail --max-time 20 -T - -H 'Content-Length: {BODY}' \
         -H 'Transfer-Encoding:' http://{VIP}:{SERVICE_PORT}/sink"
    );
    let said = scene.lab.host(Host::Client).sh(&line)?;
    ensure!(said.contains(&format!("\"length\":{BODY}")), "{said}");
    scene.wait_status("nothing is under way", |status| status["open_writes"] == 0)?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    Ok(())
}

/// Under load: shared by half, moved and moved back. No request fails, both sides have every write once, and every packet was
/// sent. The shadow has joined.
///
/// # Errors
/// If any of that isn't so.
pub fn moved_and_back(scene: &Scene) -> Result<()> {
    let mut config = scene.client(8);
    config.think = Duration::from_millis(5);
    config.duration = Some(Duration::from_secs(120));
    let client = scene.start_client(config)?;
    client.tick()?;
    scene.ctl(&["weight", "shop", "50"])?;
    client.mark("half")?;
    let enough = client.tick()?.requests + 1_000;
    while client.tick()?.requests < enough {}
    scene.ctl(&["cutover", "shop"])?;
    client.tick()?;
    scene.ctl(&["rollback", "shop"])?;
    client.tick()?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    let summary = client.stop()?;
    all_answered(&summary)?;
    let half = share(&summary, "half")?;
    ensure!((0.4..0.6).contains(&half), "the shadow answered {half} of the reads at weight 50");
    scene.proven()?;
    ensure!(scene.gateway.count("EmitFailed")? == 0, "packets couldn't be sent");
    Ok(())
}
