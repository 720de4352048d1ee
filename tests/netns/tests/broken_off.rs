//! T42: clients that break an upload off in the middle, or stand still in it: no move waits for what no side can do.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    net::{Host, SERVICE_PORT, VIP},
    wait::wait_for,
};
use netns_tests::{SOON, Scene};
use rustix::net::sockopt;

/// Bytes of the body that is announced, and of it that is sent.
const WHOLE: usize = 10_000_000;
const SENT: usize = 1_000_000;

/// A client's connection on which so much of an upload has been sent, and reached both servers.
fn upload(scene: &Scene) -> Result<TcpStream> {
    let client = scene.lab.host(Host::Client);
    let mut stream = client.run(|| TcpStream::connect(SocketAddr::from((VIP, SERVICE_PORT))))??;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "POST /lists/never HTTP/1.1\r\nHost: shop\r\nContent-Length: {WHOLE}\r\n\r\n")?;
    stream.write_all(&vec![b'a'; SENT])?;
    let port = stream.local_addr()?.port();
    let here = format!(":{port}");
    wait_for("both servers to have what was sent", SOON, || {
        let Ok(all) = scene.ctl(&["flows"]) else { return false };
        let mut flows = all["flows"].as_array().into_iter().flatten();
        let flow = flows.find(|flow| flow["client"].as_str().is_some_and(|client| client.ends_with(&here)));
        let has_it = |side: &serde_json::Value| side["state"] == "open" && side["owed_bytes"] == 0;
        flow.is_some_and(|flow| {
            flow["incomplete"] == true && has_it(&flow["primary"]) && has_it(&flow["shadow"])
        })
    })?;
    Ok(stream)
}

fn is_well(scene: &Scene, authority: &str) -> Result<()> {
    let status = scene.gateway.status()?;
    let well = status["authority"] == authority
        && status["open_writes"] == 0
        && status["in_doubt"] == 0
        && status["primary"]["in_sync"] == true
        && status["shadow"]["in_sync"] == true;
    ensure!(well, "{status}");
    ensure!(scene.states_equal()?, "the states differ");
    Ok(())
}

#[test]
fn uploads_that_are_broken_off_hold_no_move_up_and_put_no_side_out() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let reset = upload(&scene)?;
    sockopt::set_socket_linger(&reset, Some(Duration::ZERO))?;
    drop(reset);
    scene.ctl(&["cutover", "shop"])?;
    is_well(&scene, "shadow")?;
    let mut closed = upload(&scene)?;
    closed.shutdown(Shutdown::Write)?;
    // An answer, an end or a reset, as its server likes.
    let _ = closed.read_to_end(&mut Vec::new());
    scene.ctl(&["rollback", "shop"])?;
    // Longer than a leg that owes a write is followed.
    scene.wait_status("the connections to be forgotten", |status| status["flows"] == 0)?;
    is_well(&scene, "primary")
}

#[test]
fn a_client_that_stands_still_in_an_upload_is_named_or_reset() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let still = upload(&scene)?;
    let client = still.local_addr()?.to_string();
    let refused = scene.gateway.ctl(&["cutover", "shop"]).err().context("the cutover was made")?;
    let said = format!("{refused:#}");
    ensure!(said.contains(&client) && said.contains("and not its end"), "{said}");
    drop(scene);
    let scene = Scene::with("unsettled = \"reset\"", "", &[])?.joined()?;
    let mut still = upload(&scene)?;
    scene.ctl(&["cutover", "shop"])?;
    let end = still.read(&mut [0; 1]).err().map(|error| error.kind());
    ensure!(end == Some(std::io::ErrorKind::ConnectionReset), "{end:?}");
    ensure!(scene.gateway.count("BrokenOff")? == 1, "not counted");
    is_well(&scene, "shadow")
}
