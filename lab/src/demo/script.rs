//! What is shown, in its order.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::HumanCount;
use serde_json::Value;

use super::happening::Happening;
use super::result::{Moved, Outcome, window_of};
use super::stage::{Shadow, Stage};
use super::view::View;
use super::{Interrupted, Options};
use crate::checker::{Background, Config, Event, Tick, read_journals};
use crate::load::{Load, wrk};
use crate::net::{Host, SERVICE_PORT, VIP};
use crate::proof::Report;

/// Longest time for what must happen soon.
const SOON: Duration = Duration::from_secs(10);
/// Between two looks at the status.
const LOOK: Duration = Duration::from_millis(50);
/// A killed daemon is started again after this.
const REVIVAL: Duration = Duration::from_secs(3);
/// The part of what the primary alone can answer on this machine that is asked for from the join on: there are two servers
/// then, and the gateway's own work; and a shadow that can't keep up would rightly be lost.
const PART: f64 = 0.3;
/// Connections of the load tool, and its pause in milliseconds between an answer and the next request.
const LOAD: (u32, u32) = (10, 10);
/// Failures that are said one by one.
const SAID: u64 = 10;
/// A second before a move, and one from it on.
const ROUND: Duration = Duration::from_secs(1);
const WEIGHTS: [u32; 4] = [0, 25, 50, 100];

/// The play, with everything that it works on. Fields are dropped in their order.
pub(super) struct Play<'a> {
    options: &'a Options,
    view: View,
    client: Option<Background>,
    stage: Stage,
    sender: Sender<Happening>,
    happenings: Receiver<Happening>,
    tick: Option<Tick>,
    failures: u64,
    /// By side, as last seen: in sync.
    in_sync: [bool; 2],
    /// Load tools at work.
    loads: u32,
    load_requests: u64,
    load_errors: u64,
    revive_at: Option<Instant>,
    outcome: Outcome,
}

impl<'a> Play<'a> {
    /// Sets the stage.
    ///
    /// # Errors
    /// If something doesn't start.
    pub(super) fn new(
        options: &'a Options,
        view: View,
        sender: Sender<Happening>,
        happenings: Receiver<Happening>,
    ) -> Result<Self> {
        let stage = Stage::set(options.hook, options.fault)?;
        view.say("four hosts, two servers with a file each, and the gateway's daemon are up");
        Ok(Self {
            options,
            view,
            client: None,
            stage,
            sender,
            happenings,
            tick: None,
            failures: 0,
            in_sync: [true, false],
            loads: 0,
            load_requests: 0,
            load_errors: 0,
            revive_at: None,
            outcome: Outcome::default(),
        })
    }

    /// Plays it.
    ///
    /// # Errors
    /// If a move is refused, something dies that shouldn't, or [`Interrupted`].
    pub(super) fn perform(mut self) -> Result<Outcome> {
        let result = self.acts();
        self.view.end();
        if let Some(folder) = &self.options.keep {
            self.stage.keep(folder)?;
        }
        if let Err(error) = result {
            ensure!(!error.is::<Interrupted>(), Interrupted);
            return Err(error.context(format!("the gateway said:\n{}", self.stage.gateway.log())));
        }
        Ok(self.outcome)
    }

    fn acts(&mut self) -> Result<()> {
        self.join_under_load()?;
        for weight in WEIGHTS {
            self.weigh(weight)?;
        }
        for (command, says) in [("cutover", "the shadow answers"), ("rollback", "the primary answers again")]
        {
            let moved = self.move_authority(command)?;
            let report = self.prove()?;
            self.view.say(&format!("{says}; proof so far: {}", counts(&report)));
            match command {
                "cutover" => self.outcome.cutover = Some(moved),
                _ => self.outcome.rollback = Some(moved),
            }
            if !report.is_ok() {
                return self.end(&report);
            }
        }
        self.lose_and_join_the_shadow()?;
        let report = self.prove()?;
        self.end(&report)
    }

    /// The primary alone under load, then the shadow beside it.
    fn join_under_load(&mut self) -> Result<()> {
        let mut config = Config::new(std::net::SocketAddr::from((VIP, SERVICE_PORT)));
        config.connections = self.options.connections;
        // The play ends long before.
        config.duration = Some(Duration::from_secs(3600));
        config.log = Some(self.stage.journals());
        config.control = Some(self.stage.control());
        let sender = self.sender.clone();
        let say = move |event: &Event| {
            let happening = match event {
                Event::Tick(tick) => Happening::Tick(tick.clone()),
                Event::Failure { what, reason, detail, .. } => {
                    Happening::Failure(format!("{what}: {reason}: {detail}"))
                }
                _ => return,
            };
            // Nobody listens any more when the play is over.
            let _ = sender.send(happening);
        };
        self.client = Some(Background::start(&self.stage.lab.host(Host::Client), config, say)?);
        self.view.say(&format!(
            "{} connections, opened once; half of their requests append, half read",
            self.options.connections
        ));
        self.find_pace()?;
        let answer = self.stage.ask("join", &[])?;
        self.view.say(&format!(
            "join: writes were frozen for {:.1} ms, of that the copy of the lists {:.1} ms; now every write goes to both",
            us(&answer, "frozen_us") / 1e3,
            us(&answer, "hook_us") / 1e3,
        ));
        self.wait_for_two_legs()
    }

    /// Sees what the primary alone can answer, and asks for a part of that from then on.
    fn find_pace(&mut self) -> Result<()> {
        self.watch(3 * ROUND)?;
        let most = self.tick.as_ref().context("the client's first second hasn't ended")?.requests_per_second;
        let pause_ms = self.options.connections as f64 / (most * PART) * 1e3;
        self.client()?.command(&format!("think {pause_ms:.1}"))?;
        self.view.say(&format!(
            "the primary alone answers {} req/s here; from now on {:.0} % of that ({pause_ms:.0} ms between answer and request)",
            HumanCount(most.round() as u64),
            PART * 100.0
        ));
        self.watch(ROUND)
    }

    fn wait_for_two_legs(&mut self) -> Result<()> {
        let connections = self.options.connections as u64;
        self.until("two legs under every connection", |status| {
            status["two_legs"].as_u64() >= Some(connections)
        })
    }

    fn weigh(&mut self, weight: u32) -> Result<()> {
        self.make_ready()?;
        self.stage.ask("weight", &[&weight.to_string()])?;
        self.mark(&window_of(weight))?;
        self.load(self.options.seconds);
        self.watch(Duration::from_secs(self.options.seconds))?;
        self.mark(&format!("after-w{weight}"))?;
        self.settle_loads()?;
        let (rate, share) = self.tick.as_ref().map_or((0.0, 0.0), |tick| {
            let shadow = tick.servers.get("shadow").map_or(0.0, |server| server.read_share);
            (tick.requests_per_second, shadow)
        });
        self.view.say(&format!(
            "weight {weight} %: the shadow answered {:.1} % of the last second's reads; {} req/s, {} failed",
            share * 100.0,
            HumanCount(rate.round() as u64),
            self.failures
        ));
        Ok(())
    }

    /// A cutover or a rollback in the middle of a load.
    fn move_authority(&mut self, command: &str) -> Result<Moved> {
        self.make_ready()?;
        let before = format!("before-{command}");
        self.load(4);
        self.watch(ROUND)?;
        self.mark(&before)?;
        self.watch(ROUND)?;
        self.mark(command)?;
        // With a planted fault the answers differ, and the proof is to find it.
        let planted = command == "cutover" && self.options.fault.is_some();
        let despite: &[&str] = if planted { &["--despite", "divergence"] } else { &[] };
        let answer = self.stage.ask(command, despite)?;
        self.watch(ROUND)?;
        self.mark(&format!("after-{command}"))?;
        self.settle_loads()?;
        self.rest()?;
        let moved = Moved::of(
            &answer,
            slowest(&self.stage.journals(), command)?,
            slowest(&self.stage.journals(), &before)?,
        );
        self.client()?.command("resume")?;
        self.view.say(&format!("{command}: {moved}"));
        Ok(moved)
    }

    fn lose_and_join_the_shadow(&mut self) -> Result<()> {
        self.make_ready()?;
        self.stage.kill_shadow();
        let killed = Instant::now();
        self.until("the dead shadow to be out of sync", |status| status["shadow"]["in_sync"] == false)?;
        self.view.say(&format!(
            "the shadow was killed: OUT OF SYNC {:.0} ms later; {} failed",
            killed.elapsed().as_secs_f64() * 1e3,
            self.failures
        ));
        self.load(2);
        self.watch(2 * ROUND)?;
        self.settle_loads()?;
        self.stage.start_shadow()?;
        self.stage.ask("join", &[])?;
        self.wait_for_two_legs()?;
        self.view.say("the shadow was started and joined again: two legs under the same connections");
        self.stage.ask("weight", &["50"])?;
        self.mark("again")?;
        self.load(2);
        self.watch(2 * ROUND)?;
        self.settle_loads()
    }

    /// Lets the client come to rest, and both sides; then has a process of its own compare.
    fn prove(&mut self) -> Result<Report> {
        self.rest()?;
        let report = self.stage.prove()?;
        self.client()?.command("resume")?;
        Ok(report)
    }

    fn rest(&mut self) -> Result<()> {
        self.client()?.command("pause")?;
        self.until("every write to be finished", |status| status["open_writes"] == 0)
    }

    /// Ends the client, and takes in what it has counted and what the last proof found.
    fn end(&mut self, report: &Report) -> Result<()> {
        let client = self.client.take().context("the client has ended")?;
        let summary = client.stop()?;
        self.outcome.take(report);
        self.outcome.take_steps(&WEIGHTS, report, &summary);
        let broken = summary.failed_connections;
        if broken > 0 {
            self.outcome.faults.push(format!("{broken} of the client's connections broke"));
        }
        if self.load_errors > 0 {
            self.outcome.faults.push(format!("wrk: {} errors", self.load_errors));
        }
        self.view.say(&format!(
            "wrk: {} requests, {} errors; {} segments sent again by the client",
            HumanCount(self.load_requests),
            self.load_errors,
            summary.retransmissions
        ));
        Ok(())
    }

    fn client(&self) -> Result<&Background> {
        self.client.as_ref().context("the client has ended")
    }

    fn mark(&self, window: &str) -> Result<()> {
        self.client()?.command(&format!("mark {window}"))
    }

    /// Starts a public load tool beside the client.
    fn load(&mut self, seconds: u64) {
        let target = std::net::SocketAddr::from((VIP, SERVICE_PORT));
        let mut load = Load::get(target, "/lists/r.c0?tail=3");
        (load.connections, load.pause_ms) = LOAD;
        load.duration = Duration::from_secs(seconds);
        let (namespace, sender) = (self.stage.lab.host(Host::Client), self.sender.clone());
        self.loads += 1;
        std::thread::spawn(move || {
            // Nobody listens any more when the play is over.
            let _ = sender.send(Happening::Load(wrk(&namespace, &load)));
        });
    }

    /// Waits for the load tool's own end.
    fn settle_loads(&mut self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        while self.loads > 0 {
            ensure!(Instant::now() < deadline, "wrk doesn't end");
            self.watch(LOOK)?;
        }
        Ok(())
    }

    /// Undoes what keys have done, so that the next act can begin.
    fn make_ready(&mut self) -> Result<()> {
        if self.revive_at.is_some() {
            self.revive()?;
        }
        match self.stage.shadow() {
            Shadow::Serves => {}
            Shadow::Stopped => self.stage.stop_or_continue_shadow()?,
            Shadow::Dead => self.stage.start_shadow()?,
        }
        let status = self.stage.gateway.status()?;
        if status["shadow"]["in_sync"] == false || status["primary"]["in_sync"] == false {
            self.stage.ask("join", &[])?;
            self.view.say("joined again");
            self.wait_for_two_legs()?;
        }
        Ok(())
    }

    fn revive(&mut self) -> Result<()> {
        self.revive_at = None;
        self.stage.gateway.run(&[])?;
        self.view.say("the daemon was started again, and has taken up what is pinned");
        Ok(())
    }

    /// Lets time pass, and deals with what happens meanwhile.
    fn watch(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            match self.happenings.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(happening) => self.deal_with(happening)?,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => bail!("nothing can happen any more"),
            }
        }
    }

    /// Watches until the status says so.
    fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.stage.gateway.status();
            if status.as_ref().is_ok_and(&holds) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "waited {SOON:?} for {what}; the status: {status:?}");
            self.watch(LOOK)?;
        }
    }

    /// Says which side has fallen out of sync, and why.
    fn follow(&mut self, status: &Value) {
        for (was, name) in self.in_sync.iter_mut().zip(["primary", "shadow"]) {
            let side = &status[name];
            let is = side["in_sync"] == true;
            if *was && !is {
                let reason = side["reason"].as_str().unwrap_or("no reason given");
                self.view.say(&format!("the {name} is OUT OF SYNC: {reason}"));
            }
            *was = is;
        }
    }

    fn deal_with(&mut self, happening: Happening) -> Result<()> {
        match happening {
            Happening::Tick(tick) => {
                ensure!(self.stage.primary_runs(), "the primary's server has ended");
                if self.revive_at.is_some_and(|at| at <= Instant::now()) {
                    self.revive()?;
                }
                let status = self.stage.gateway.status().ok();
                self.view.show(&tick, status.as_ref());
                if let Some(status) = &status {
                    self.follow(status);
                }
                self.tick = Some(tick);
            }
            Happening::Failure(text) => {
                self.failures += 1;
                if self.failures <= SAID {
                    self.view.say(&format!("FAILED {text}"));
                }
            }
            Happening::Load(result) => {
                self.loads -= 1;
                let result = result?;
                self.load_requests += result.requests;
                self.load_errors += result.errors;
            }
            Happening::Key(b'k') if self.stage.shadow() == Shadow::Dead => {
                self.stage.start_shadow()?;
                self.view.say("key k: the shadow was started");
                self.make_ready()?;
            }
            Happening::Key(b'k') => {
                self.stage.kill_shadow();
                self.view.say("key k: the shadow was killed");
            }
            Happening::Key(b's') => match self.stage.stop_or_continue_shadow() {
                Ok(()) => self.view.say(&format!("key s: the shadow is {:?}", self.stage.shadow())),
                Err(error) => self.view.say(&format!("key s: {error}")),
            },
            Happening::Key(b'9') if self.revive_at.is_none() => {
                self.stage.gateway.kill();
                self.revive_at = Some(Instant::now() + REVIVAL);
                self.view.say("key 9: the daemon was killed; what is pinned goes on");
            }
            Happening::Key(_) => {}
            Happening::Interrupt => bail!(Interrupted),
        }
        Ok(())
    }
}

/// What a proof has found, in short.
fn counts(report: &Report) -> String {
    format!(
        "{} requests, {} failed; writes: {} lost, {} doubled, {} out of order; {}",
        HumanCount(report.requests),
        report.failed_requests,
        report.lost_writes,
        report.doubled_writes,
        report.misordered_writes,
        if report.states_equal == Some(true) { "states equal" } else { "states DIFFER" },
    )
}

fn us(answer: &Value, phase: &str) -> f64 {
    answer["phases"][phase].as_f64().unwrap_or_default()
}

/// The slowest answer of a window, in microseconds, from the journals.
fn slowest(journals: &Path, window: &str) -> Result<u64> {
    let journals = read_journals(journals)?;
    let entries = journals.iter().flat_map(|journal| &journal.entries);
    let slow = entries.filter(|entry| entry.window == window).map(|entry| entry.latency_us).max();
    slow.with_context(|| format!("no request began in the window {window}"))
}
