//! What a service manager hears: ready once it serves, alive as long as it sweeps, stopping when it leaves.

use std::{os::unix::net::UnixDatagram, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{
    gateway::{Gateway, policy},
    net::Lab,
};
use rustix::process::Signal;

/// The next message.
fn heard(socket: &UnixDatagram) -> Result<String> {
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).context("nothing was heard in time")?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}

#[test]
fn it_is_ready_alive_and_stopping() -> Result<()> {
    let lab = Lab::builder().up()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let path = path.display().to_string();
    let variables = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "400000")];
    let mut gateway = Gateway::start_with(&lab, &policy("", "")?, &variables)?;
    ensure!(heard(&socket)? == "READY=1", "it must say first that it is ready");
    for _ in 0..3 {
        ensure!(heard(&socket)? == "WATCHDOG=1", "it must say that it lives");
    }
    // Stopped, it is silent for longer than the watchdog waits; but for what it had said before.
    gateway.process()?.signal(Signal::STOP)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut late = 0;
    while heard(&socket).is_ok() {
        late += 1;
    }
    ensure!(late <= 1, "a stopped daemon said {late} times that it lives");
    gateway.process()?.signal(Signal::CONT)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    ensure!(heard(&socket)? == "WATCHDOG=1", "it must go on");
    gateway.process()?.signal(Signal::TERM)?;
    while heard(&socket)? != "STOPPING=1" {}
    gateway.process()?.wait(Duration::from_secs(10))?;
    Ok(())
}
