//! A service of datagrams: a name server's queries and updates, mirrored, shifted and moved.

use std::{
    net::{SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    gateway::{APP, Gateway},
    http_client,
    names::{
        self, Mark, NameServer,
        load::{Load, Plan, Seen, Window},
    },
    net::{Host, Lab, VIP},
    programs::ListsServer,
    wait::wait_for,
};
use netns_tests::{SOON, hook, lab_builder};

const PRIMARY: Mark = 1;
const SHADOW: Mark = 2;
/// Clients that ask at once.
const CLIENTS: usize = 4;
/// A question that is answered later is lost.
const PATIENCE: Duration = Duration::from_secs(3);
/// Rounds of questions of each client in a window.
const ROUNDS: usize = 120;

/// A gateway between clients and two name servers.
struct Names {
    gateway: Gateway,
    /// Beside them on the same port, over TCP.
    _lists: [ListsServer; 2],
    primary: NameServer,
    shadow: Option<NameServer>,
    lab: Lab,
}

impl Names {
    fn new(more: &str) -> Result<Self> {
        let lab = lab_builder()?.up()?;
        // What a client's kernel left to its card is completed here, and looked at by the servers'.
        for host in Host::ENDS {
            lab.host(Host::Gateway).sh(&format!("ethtool -K {} tx off", host.gateway_device()))?;
        }
        let side = |host: Host| {
            let (address, nat) = (host.address(), host.nat_pool()[0]);
            format!("address = \"{address}:{}\"\nnat = \"{nat}\"\n", names::PORT)
        };
        let policy = format!(
            "name = \"{APP}\"\nhook = \"{}\"\n{more}\n\
             [service]\nvip = \"{VIP}:{}\"\nprotocol = \"udp\"\nports = [{{ port = {}, protocol = \"tcp\" }}]\n\
             [primary]\n{}[shadow]\n{}",
            hook()?,
            names::PORT,
            names::PORT,
            side(Host::Primary),
            side(Host::Shadow)
        );
        let start = |host: Host, mark| NameServer::start(&lab.host(host), host.address(), mark);
        let primary = start(Host::Primary, PRIMARY)?;
        let shadow = Some(start(Host::Shadow, SHADOW)?);
        let lists = |host: Host| {
            let listen = SocketAddr::from((host.address(), names::PORT));
            ListsServer::start(&lab.host(host), listen, host.name(), &["--volatile"])
        };
        let lists = [lists(Host::Primary)?, lists(Host::Shadow)?];
        let gateway = Gateway::start(&lab, &policy)?;
        Ok(Self { gateway, _lists: lists, primary, shadow, lab })
    }

    fn ctl(&self, arguments: &[&str]) -> Result<()> {
        self.gateway.ctl(arguments).map(drop)
    }

    /// Asks over TCP.
    fn get(&self) -> Result<()> {
        let target = SocketAddr::from((VIP, names::PORT));
        self.lab.host(Host::Client).run(|| http_client::get(target, "/ping"))??;
        Ok(())
    }

    fn load(&self, updates: bool, patience: Duration) -> Result<Load> {
        let target = SocketAddrV4::new(VIP, names::PORT);
        Load::start(&self.lab.host(Host::Client), Plan { target, clients: CLIENTS, updates, patience })
    }
}

/// What the clients saw in each window; nothing was lost in any.
fn answered(seen: &Seen) -> Result<&[Window]> {
    ensure!(seen.windows.iter().all(|window| window.lost == 0), "{seen:#?}");
    Ok(&seen.windows)
}

/// Every update of a window was answered by one side.
fn updated_by(window: &Window, mark: Mark) -> Result<()> {
    ensure!(window.updates.len() == 1 && window.updates.contains_key(&mark), "{window:?}");
    Ok(())
}

#[test]
fn queries_are_shifted_and_updates_moved_and_none_is_lost() -> Result<()> {
    // The hook leaves time for updates to begin while they are frozen.
    let names = Names::new("join_hook = [\"sleep\", \"0.3\"]")?;
    let load = names.load(true, PATIENCE)?;
    load.next_window(ROUNDS)?;
    names.shadow.as_ref().context("a shadow")?.learn(names.primary.records());
    names.ctl(&["join", APP])?;
    ensure!(names.gateway.count("HeldFrozen")? > 0, "no update waited");
    let moves: [(&[&str], _, _); 5] = [
        (&["weight", APP, "0"], 0.0..=0.0, PRIMARY),
        (&["weight", APP, "50"], 0.4..=0.6, PRIMARY),
        (&["weight", APP, "100"], 1.0..=1.0, PRIMARY),
        (&["cutover", APP], 1.0..=1.0, SHADOW),
        (&["rollback", APP], 0.0..=0.0, PRIMARY),
    ];
    let mut windows = Vec::new();
    for (wanted, ..) in &moves {
        // What is asked while it is carried out is in a window of its own.
        load.turn();
        names.ctl(wanted)?;
        names.get()?;
        windows.push(load.next_window(ROUNDS)?);
    }
    let status = names.gateway.status()?;
    let seen = load.stop()?;
    let all = answered(&seen)?;
    for ((wanted, share, updates), window) in moves.iter().zip(windows) {
        let window = &all[window];
        ensure!(share.contains(&window.share(SHADOW)), "{wanted:?}: {share:?}: {window:?}");
        updated_by(window, *updates).with_context(|| format!("{wanted:?}"))?;
    }
    let shadow = names.shadow.as_ref().context("a shadow")?;
    // The last answer that its client has heard may be ahead of the other side's.
    wait_for("equal sides", SOON, || names.primary.records() == shadow.records())
        .with_context(|| format!("{:?}, {:?}", names.primary.records(), shadow.records()))?;
    for (name, address) in &seen.updated {
        ensure!(names.primary.records().get(name) == Some(address), "{name} isn't {address}");
    }
    ensure!(status["shadow"]["in_sync"] == true && status["open_writes"] == 0, "{status:#}");
    ensure!(status["compared"].as_u64() > Some(100), "{status:#}");
    Ok(())
}

/// P2, and P4: neither does anybody notice that the daemon is killed.
#[test]
fn a_shadow_that_dies_at_weight_0_is_noticed_by_nobody() -> Result<()> {
    let mut names = Names::new("")?;
    names.ctl(&["join", APP])?;
    let load = names.load(false, PATIENCE)?;
    load.next_window(ROUNDS)?;
    names.shadow = None;
    load.next_window(ROUNDS)?;
    names.gateway.kill();
    load.next_window(ROUNDS)?;
    let seen = load.stop()?;
    let shares: Vec<_> = answered(&seen)?.iter().map(|window| window.share(SHADOW)).collect();
    ensure!(shares == [0.0; 4], "{shares:?}");
    Ok(())
}

/// P2: whom it was to answer meanwhile may have to ask again, for the stall budget; nobody behind that.
#[test]
fn a_shadow_that_dies_at_weight_100_is_heard_no_more() -> Result<()> {
    let mut names = Names::new("")?;
    names.ctl(&["join", APP])?;
    names.ctl(&["weight", APP, "100"])?;
    let load = names.load(false, Duration::from_secs(1))?;
    let before = load.next_window(ROUNDS)?;
    load.turn();
    names.shadow = None;
    // What was under way is lost, and what begins the silence; then it is known.
    load.next_window(3)?;
    let behind = load.next_window(ROUNDS)?;
    let seen = load.stop()?;
    let lost: u64 = seen.windows[before..behind].iter().map(|window| window.lost).sum();
    ensure!((1..=CLIENTS as u64 * 8).contains(&lost), "{seen:#?}");
    ensure!(seen.windows[behind].lost == 0 && seen.windows[behind].share(PRIMARY) == 1.0, "{seen:#?}");
    ensure!(seen.windows[before].share(SHADOW) == 1.0, "{seen:#?}");
    Ok(())
}

/// P1: what answers its clients was done by both, or one of them is out of sync. Nothing is lost but queries that it was asked.
#[test]
fn a_shadow_that_leaves_an_update_unanswered_is_out_of_sync() -> Result<()> {
    let names = Names::new("")?;
    names.ctl(&["join", APP])?;
    let load = names.load(true, PATIENCE)?;
    load.next_window(ROUNDS)?;
    names.shadow.as_ref().context("a shadow")?.fall_silent();
    wait_for("out of sync", SOON, || {
        names.gateway.status().is_ok_and(|status| status["shadow"]["in_sync"] == false)
    })?;
    let reason = names.gateway.status()?["shadow"]["reason"].to_string();
    ensure!(reason.contains("didn't answer a datagram"), "{reason}");
    load.next_window(ROUNDS)?;
    let seen = load.stop()?;
    let shadows = |window: &Window| window.share(SHADOW) > 0.0 || window.updates.contains_key(&SHADOW);
    ensure!(!answered(&seen)?.iter().any(shadows), "{seen:#?}");
    let forwarded = names.gateway.count("DatagramForwarded")?;
    ensure!(forwarded > 0, "a side that is out of sync gets nothing");
    Ok(())
}
