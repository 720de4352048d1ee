//! An application with several ports: joined, shifted and moved as one.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lab::{
    checker::{Config, read_journals},
    http_client,
    lists::parse_dump,
    net::{Host, VIP},
    programs::ListsServer,
    proof::prove,
};
use netns_tests::{Scene, all_answered, share};

/// What clients talk to, and where primary and shadow listen.
const PORT: u16 = 9_000;
const SERVERS: [(Host, u16); 2] = [(Host::Primary, PORT), (Host::Shadow, 9_001)];
/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);
const POLICY: &str = "[[service.ports]]\nport = 9000\nshadow = 9001\n";

/// A scene whose sides have a second process each, on a port of its own.
struct Ports {
    second: [Option<ListsServer>; 2],
    scene: Scene,
}

impl Ports {
    fn new() -> Result<Self> {
        let scene = Scene::with("", POLICY, &[])?;
        let mut second = [None, None];
        for (at, side) in second.iter_mut().enumerate() {
            *side = Some(Self::start(&scene, at)?);
        }
        scene.ctl(&["join", "shop"])?;
        Ok(Self { second, scene })
    }

    fn start(scene: &Scene, side: usize) -> Result<ListsServer> {
        let (host, port) = SERVERS[side];
        let listen = SocketAddr::from((host.address(), port));
        ListsServer::start(&scene.lab.host(host), listen, host.name(), &["--volatile"])
    }

    /// Clients of the first port and of the second, until they are stopped.
    fn clients(&self, connections: [usize; 2]) -> [Config; 2] {
        let [mut first, mut second] = connections.map(|connections| self.scene.client(connections));
        first.duration = Some(LONG);
        second.duration = Some(LONG);
        let folder = self.scene.gateway.folder();
        (first.think, second.think) = (PAUSE, PAUSE);
        second.target = SocketAddr::from((VIP, PORT));
        second.log = Some(folder.join("second"));
        second.control = Some(folder.join("second.sock"));
        second.run = "second".into();
        [first, second]
    }

    /// Compares the second port's clients' journals with both servers.
    fn proven(&self) -> Result<()> {
        let mut sides = Vec::new();
        for (host, port) in SERVERS {
            let target = SocketAddr::from((host.address(), port));
            let dump = self.scene.lab.host(Host::Gateway).run(|| http_client::get(target, "/dump"))??;
            sides.push((host.name().to_owned(), parse_dump(&String::from_utf8(dump)?).context("a dump")?));
        }
        let proof = prove(&read_journals(&self.scene.gateway.folder().join("second"))?, &sides);
        ensure!(proof.is_ok() && proof.writes > 0, "{proof:#?}");
        Ok(())
    }
}

#[test]
fn every_port_is_mirrored_shifted_and_moved_with_the_others() -> Result<()> {
    let ports = Ports::new()?;
    let scene = &ports.scene;
    let [first, second] = ports.clients([8, 8]);
    let clients = [scene.start_client(first)?, scene.start_client(second)?];
    let mark = |name: &str| clients.iter().try_for_each(|client| client.mark(name));
    let tick = || clients.iter().try_for_each(|client| client.tick().map(drop));
    tick()?;
    scene.ctl(&["weight", "shop", "100"])?;
    mark("shifted")?;
    tick()?;
    scene.ctl(&["weight", "shop", "0"])?;
    scene.ctl(&["cutover", "shop"])?;
    mark("moved")?;
    tick()?;
    scene.ctl(&["rollback", "shop"])?;
    mark("back")?;
    tick()?;
    for client in clients {
        let summary = client.stop()?;
        all_answered(&summary)?;
        let shares = ["shifted", "moved", "back"].map(|window| share(&summary, window));
        let [shifted, moved, back] = shares.map(|share| share.unwrap_or(f64::NAN));
        // Most: one that isn't settled yet is answered as the last one was.
        ensure!(shifted > 0.5 && moved > 0.5 && back < 0.5, "{shifted} {moved} {back}: {summary:#?}");
    }
    scene.proven()?;
    ports.proven()
}

/// T31: the other port's connections, far more of them, go on, and hide nothing.
#[test]
fn one_restarted_process_of_several_puts_the_shadow_out_of_sync() -> Result<()> {
    let mut ports = Ports::new()?;
    let mut clients = Vec::new();
    for mut config in ports.clients([16, 3]) {
        config.write_fraction = 0.0;
        config.think = Duration::from_millis(100);
        clients.push(ports.scene.start_client(config)?);
    }
    // A leg that has carried nothing yet isn't dialled at once when it is closed: its server may be back by then (LIMITS.md).
    clients.iter().try_for_each(|client| client.tick().map(drop))?;
    ports.scene.wait_status("two legs", |status| status["two_legs"] == 19)?;
    ports.second[1] = None;
    ports.second[1] = Some(Ports::start(&ports.scene, 1)?);
    ports.scene.wait_status("out of sync", |status| status["shadow"]["in_sync"] == false)?;
    for client in clients {
        all_answered(&client.stop()?)?;
    }
    Ok(())
}
