//! A service of datagrams: a name server's queries and updates, mirrored, shifted and moved, over IPv4 and IPv6.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    gateway::{APP, Gateway},
    http_client,
    names::{
        self, Ask, Mark, NameServer,
        load::{Load, Plan, Seen, Window},
    },
    net::{Host, Lab, VIP, VIP6},
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

const FOUR: IpAddr = IpAddr::V4(VIP);
const SIX: IpAddr = IpAddr::V6(VIP6);

/// A gateway between clients and two name servers.
struct Names {
    /// Where clients ask.
    vips: Vec<IpAddr>,
    gateway: Gateway,
    /// Beside them on the same port, over TCP.
    _lists: [ListsServer; 2],
    primary: NameServer,
    shadow: Option<NameServer>,
    lab: Lab,
}

impl Names {
    fn new(more: &str) -> Result<Self> {
        Self::between(&[FOUR], [Host::Primary.address().into(), Host::Shadow.address().into()], more)
    }

    /// A service at these addresses, and servers at those.
    fn between(vips: &[IpAddr], servers: [IpAddr; 2], more: &str) -> Result<Self> {
        let lab = lab_builder()?.six(true).up()?;
        // What a client's kernel left to its card is completed here, and looked at by the servers'.
        for host in Host::ENDS {
            lab.host(Host::Gateway).sh(&format!("ethtool -K {} tx off", host.gateway_device()))?;
        }
        let side = |host: Host, address: IpAddr| {
            let nat: IpAddr = if address.is_ipv4() { host.nat_pool()[0].into() } else { host.nat6().into() };
            format!("address = \"{}\"\nnat = \"{nat}\"\n", SocketAddr::new(address, names::PORT))
        };
        let vip6 = if vips.len() == 2 { format!("vip6 = \"{VIP6}\"\n") } else { String::new() };
        let policy = format!(
            "name = \"{APP}\"\nhook = \"{}\"\n{more}\n\
             [service]\nvip = \"{}\"\n{vip6}protocol = \"udp\"\nports = [{{ port = {}, protocol = \"tcp\" }}]\n\
             [primary]\n{}[shadow]\n{}",
            hook()?,
            SocketAddr::new(vips[0], names::PORT),
            names::PORT,
            side(Host::Primary, servers[0]),
            side(Host::Shadow, servers[1])
        );
        let primary = NameServer::start(&lab.host(Host::Primary), servers[0], PRIMARY)?;
        let shadow = Some(NameServer::start(&lab.host(Host::Shadow), servers[1], SHADOW)?);
        let lists = |host: Host, address| {
            let listen = SocketAddr::new(address, names::PORT);
            ListsServer::start(&lab.host(host), listen, host.name(), &["--volatile"])
        };
        let lists = [lists(Host::Primary, servers[0])?, lists(Host::Shadow, servers[1])?];
        let gateway = Gateway::start(&lab, &policy)?;
        Ok(Self { vips: vips.to_vec(), gateway, _lists: lists, primary, shadow, lab })
    }

    fn ctl(&self, arguments: &[&str]) -> Result<()> {
        self.gateway.ctl(arguments).map(drop)
    }

    /// Asks over TCP.
    fn get(&self) -> Result<()> {
        self.vips.iter().try_for_each(|vip| {
            let target = SocketAddr::new(*vip, names::PORT);
            self.lab.host(Host::Client).run(|| http_client::get(target, "/ping")).flatten().map(drop)
        })
    }

    /// Clients of the first address.
    fn load(&self, updates: bool, patience: Duration) -> Result<Load> {
        self.load_of(self.vips[0], updates, patience)
    }

    fn load_of(&self, vip: IpAddr, updates: bool, patience: Duration) -> Result<Load> {
        let target = SocketAddr::new(vip, names::PORT);
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

/// The hook leaves time for updates to begin while they are frozen.
const SLOW_HOOK: &str = "join_hook = [\"sleep\", \"0.3\"]";

#[test]
fn queries_are_shifted_and_updates_moved_and_none_is_lost() -> Result<()> {
    shifted_and_moved(&Names::new(SLOW_HOOK)?)
}

#[test]
fn clients_of_both_families_before_a_primary_of_ipv4_and_a_shadow_of_ipv6() -> Result<()> {
    let servers = [Host::Primary.address().into(), Host::Shadow.address6().into()];
    shifted_and_moved(&Names::between(&[FOUR, SIX], servers, SLOW_HOOK)?)
}

#[test]
fn clients_of_both_families_before_a_primary_of_ipv6_and_a_shadow_of_ipv4() -> Result<()> {
    let servers = [Host::Primary.address6().into(), Host::Shadow.address().into()];
    shifted_and_moved(&Names::between(&[FOUR, SIX], servers, SLOW_HOOK)?)
}

#[test]
fn all_of_ipv6() -> Result<()> {
    let servers = [Host::Primary, Host::Shadow].map(|host| host.address6().into());
    shifted_and_moved(&Names::between(&[SIX], servers, SLOW_HOOK)?)
}

fn shifted_and_moved(names: &Names) -> Result<()> {
    let loads: Vec<_> =
        names.vips.iter().map(|vip| names.load_of(*vip, true, PATIENCE)).collect::<Result<_>>()?;
    // All are in windows of the same number.
    let turn = || loads.iter().fold(0, |_, load| load.turn());
    let next = || loads.iter().try_fold(0, |_, load| load.next_window(ROUNDS));
    next()?;
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
        turn();
        names.ctl(wanted)?;
        names.get()?;
        windows.push(next()?);
    }
    let status = names.gateway.status()?;
    let seen: Vec<_> = loads.into_iter().map(Load::stop).collect::<Result<_>>()?;
    for (seen, vip) in seen.iter().zip(&names.vips) {
        let all = answered(seen)?;
        for ((wanted, share, updates), window) in moves.iter().zip(&windows) {
            let window = &all[*window];
            ensure!(share.contains(&window.share(SHADOW)), "{vip}: {wanted:?}: {share:?}: {window:?}");
            updated_by(window, *updates).with_context(|| format!("{vip}: {wanted:?}"))?;
        }
    }
    let shadow = names.shadow.as_ref().context("a shadow")?;
    // The last answer that its client has heard may be ahead of the other side's.
    wait_for("equal sides", SOON, || names.primary.records() == shadow.records())
        .with_context(|| format!("{:?}, {:?}", names.primary.records(), shadow.records()))?;
    for (name, address) in seen.iter().flat_map(|seen| &seen.updated) {
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

/// Nor does one that is put out while it answers all of them, to be brought level.
#[test]
fn a_mirror_that_is_joined_again_loses_no_query() -> Result<()> {
    let names = Names::new(SLOW_HOOK)?;
    names.ctl(&["join", APP])?;
    names.ctl(&["weight", APP, "100"])?;
    let load = names.load(false, PATIENCE)?;
    let before = load.next_window(ROUNDS)?;
    load.turn();
    names.ctl(&["join", APP, "--again"])?;
    let behind = load.next_window(ROUNDS)?;
    ensure!(names.gateway.status()?["shadow"]["in_sync"] == true);
    let seen = load.stop()?;
    let windows = answered(&seen)?;
    let shares = [before, behind].map(|window| windows[window].share(SHADOW));
    ensure!(shares == [1.0, 0.0], "{shares:?}: {seen:#?}");
    Ok(())
}

/// Nor is it put out while anybody may still hear it.
#[test]
fn a_mirror_that_owes_a_client_its_answer_is_not_put_out() -> Result<()> {
    let names = Names::new("join_hook = [\"true\"]\njoin_deadline = \"300ms\"")?;
    names.ctl(&["join", APP])?;
    names.ctl(&["weight", APP, "100"])?;
    names.shadow.as_ref().context("a shadow")?.fall_silent();
    let client = names.lab.host(Host::Client).run(|| UdpSocket::bind("0.0.0.0:0"))??;
    let ask = Ask { id: 4_711, name: "a.test".into(), becomes: None };
    client.send_to(&ask.bytes(), (VIP, names::PORT))?;
    let owed = || {
        let seen = names.gateway.ctl(&["flows"]).unwrap_or_default();
        seen["flows"][0]["message"] == 4_711 && seen["flows"][0]["authority"] == "shadow"
    };
    wait_for("the question", SOON, owed)?;
    let again = || names.gateway.ctl(&["join", APP, "--again"]).map_err(|error| format!("{error:#}"));
    let given_up = again().err().context("it was put out")?;
    ensure!(given_up.contains("still owes clients answers (1): 10.0.1.2:"), "{given_up}");
    ensure!(names.gateway.status()?["shadow"]["in_sync"] == true);
    wait_for("nobody to wait for it any more", SOON, || !owed())?;
    ensure!(again().is_ok_and(|joined| joined["weight"] == 0.0), "{:?}", names.gateway.status());
    Ok(())
}

#[test]
fn flows_show_the_questions_that_a_mirror_owes_answers_to() -> Result<()> {
    let names = Names::new("")?;
    names.ctl(&["join", APP])?;
    names.shadow.as_ref().context("a shadow")?.fall_silent();
    let load = names.load(false, PATIENCE)?;
    load.next_window(ROUNDS)?;
    let seen = names.gateway.ctl(&["flows", "--limit", "10000"])?;
    let all = seen["flows"].as_array().context("no list")?;
    let owed: Vec<_> = all.iter().filter(|flow| flow["shadow"]["owed_answers"] == 1).collect();
    ensure!(owed.len() > CLIENTS && seen["questions"].as_u64() >= Some(owed.len() as u64), "{seen:#}");
    let whole = owed.iter().all(|flow| {
        flow["protocol"] == "udp"
            && flow["message"].is_u64()
            && flow["authority"] == "primary"
            && flow["client"].as_str().is_some_and(|client| client.starts_with("10.0.1.2:"))
            && flow["shadow"]["state"] == "asked"
            && flow["shadow"]["behind_ms"].as_u64() > Some(0)
    });
    ensure!(whole, "{seen:#}");
    let answered_by = owed.iter().filter(|flow| flow["primary"]["state"] == "answered").count();
    ensure!(answered_by > owed.len() / 2, "{answered_by}: {seen:#}");
    answered(&load.stop()?).map(drop)
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
