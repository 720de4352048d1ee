//! Migrations by themselves, in front of whoever watches: one of a good shadow, and four whose shadow falls ill on the way.
//!
//! Each begins with a primary alone under a load that rises by the clock, and is left to itself from `mirror migrate` on.
//! The migration's own clock runs [`RATE`] times as fast as the wall's.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::happening::{Happening, catch_signals};
use super::view::View;
use super::{Hook, Interrupted};
use crate::checker::{Background, Config};
use crate::net::{Host, SERVICE_PORT, VIP};

mod bound;
mod ended;
mod scenario;
mod stage;

pub use ended::{Ended, Outcome};
pub use scenario::Scenario;
use stage::Stage;

/// How fast the migration's clock runs: a minute of it takes a second.
const RATE: u32 = 60;
/// Between two looks at the status.
const LOOK: Duration = Duration::from_millis(100);
/// Longest time of a stage.
const PATIENCE: Duration = Duration::from_secs(180);
/// Connections of the checking client.
const CONNECTIONS: usize = 32;
/// The client's pause between an answer and the next request at first, and in the end, in milliseconds.
const PAUSE_MS: [f64; 2] = [30.0, 10.0];
/// The share of the requests that append. Beside a write under way bodies aren't compared.
const WRITES: f64 = 0.2;
/// Requests to a primary that has taken over again.
const REQUESTS: u64 = 1_000;
/// The load rises for so long.
const RISE: Duration = Duration::from_secs(40);

/// What shall be shown.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the gateway takes packets up.
    pub hook: Hook,
    /// In this order.
    pub scenarios: Vec<Scenario>,
    /// Keep journals and the daemon's log there, in a folder for each scenario.
    pub keep: Option<PathBuf>,
}

/// Plays the scenarios one after the other, and returns what came of them.
///
/// # Errors
/// If something doesn't start or a stage isn't reached, or [`Interrupted`]. All that was made is removed by then.
pub fn run(options: &Options) -> Result<Outcome> {
    let (sender, happenings) = channel();
    catch_signals(sender)?;
    let view = View::new(false);
    let mut outcome = Outcome::default();
    for scenario in &options.scenarios {
        view.say(&format!("{}: {}", scenario.name(), scenario.story()));
        let play = Play::new(options, *scenario, &view, &happenings)?;
        let (ended, forecast) =
            play.perform().with_context(|| format!("the scenario {}", scenario.name()))?;
        view.say(&format!("{}: {ended}", scenario.name()));
        outcome.outcomes.push(ended);
        if let Some(forecast) = forecast {
            outcome.forecast_vs_actual = forecast;
        }
    }
    Ok(outcome)
}

/// One migration under way. Fields are dropped in their order.
struct Play<'a> {
    options: &'a Options,
    scenario: Scenario,
    view: &'a View,
    happenings: &'a Receiver<Happening>,
    /// Nothing once the authority has died under its connections.
    client: Option<Background>,
    stage: Stage,
    began: Instant,
    /// When the load was raised last.
    raised: Instant,
    /// What the journal has said so far.
    reasons: Vec<String>,
}

impl<'a> Play<'a> {
    fn new(
        options: &'a Options,
        scenario: Scenario,
        view: &'a View,
        happenings: &'a Receiver<Happening>,
    ) -> Result<Self> {
        let stage = Stage::set(options.hook)?;
        let mut config = client(&stage);
        // The play ends long before.
        config.duration = Some(Duration::from_secs(3600));
        // What fails is in the journals.
        let client = Some(Background::start(&stage.lab.host(Host::Client), config, |_| ())?);
        let now = Instant::now();
        Ok(Self {
            options,
            scenario,
            view,
            happenings,
            client,
            stage,
            began: now,
            raised: now,
            reasons: Vec::new(),
        })
    }

    fn perform(mut self) -> Result<(Ended, Option<Value>)> {
        let result = self.acts();
        if let Some(folder) = &self.options.keep {
            self.stage.keep(&folder.join(self.scenario.name()))?;
        }
        match result {
            Err(error) if error.is::<Interrupted>() => Err(error),
            Err(error) => Err(error.context(format!("the gateway said:\n{}", self.stage.gateway.log()))),
            Ok(played) => Ok(played),
        }
    }

    fn acts(&mut self) -> Result<(Ended, Option<Value>)> {
        let made = self.stage.provision()?;
        let steps = made["steps"].as_array().map_or(0, Vec::len);
        let pid = made["instance"]["pid"].as_u64().context("no process was provisioned")?;
        self.view.say(&format!("a shadow was provisioned from the primary's own process, in {steps} steps"));
        self.stage.ask("migrate")?;
        if let Some((at, ailment)) = self.scenario.ailment() {
            self.until(&format!("a weight of {at} %"), |status| status["weight"].as_f64() >= Some(at))?;
            self.stage.ail(ailment)?;
            self.view.say(&format!("at {at} % the shadow falls ill: {ailment}"));
            self.until("the share to be taken back", |status| {
                status["weight"] == 0.0 && status["migration"]["steps_back"].as_u64() >= Some(1)
            })?;
            self.stage.ail("")?;
        } else {
            self.until("the cutover", |status| status["migration"]["stage"] == "Standby")?;
        }
        self.end(u32::try_from(pid)?)
    }

    /// From the last turn of the story to its proof.
    fn end(&mut self, shadow: u32) -> Result<(Ended, Option<Value>)> {
        // While both sides are members they must have the same lists.
        let mut sides = vec![Host::Primary, Host::Shadow];
        match self.scenario {
            Scenario::Good => {
                self.rest()?;
                let proof = self.stage.prove(&sides)?;
                ensure!(proof.is_ok(), "behind the cutover: {proof:#?}");
                self.client()?.command("resume")?;
                self.view.say("behind the cutover both sides have the same lists");
                sides.remove(0);
            }
            Scenario::Dies => {
                self.stage.kill(shadow)?;
                self.view.say("the shadow, which has the authority, is killed");
                // Its connections go with it.
                self.client.take().context("the client has ended")?.stop()?;
                sides.remove(1);
            }
            Scenario::Slow | Scenario::Errs | Scenario::Differs => {}
        }
        let ill = self.scenario.ailment().is_some();
        if !ill {
            self.until("the end", |status| status["migration"]["over"] == true)?;
        }
        match self.client {
            Some(_) => self.rest()?,
            None => self.ask_again()?,
        }
        let report = self.stage.prove(&sides)?;
        if ill {
            self.stage.ask("abort")?;
            self.until("the end", |status| status["migration"]["over"] == true)?;
        }
        let status = self.stage.gateway.status()?;
        let ended =
            Ended::of(self.scenario, self.began.elapsed(), &status, &report, &self.stage, &self.reasons)?;
        // Only there has it run for long enough.
        let forecast = (self.scenario == Scenario::Good).then(|| self.stage.ask("forecast")).transpose()?;
        Ok((ended, forecast))
    }

    /// New connections, to who has the authority now.
    fn ask_again(&mut self) -> Result<()> {
        let mut config = client(&self.stage);
        (config.requests, config.run) = (Some(REQUESTS), "after".into());
        let summary = self.stage.lab.host(Host::Client).run(|| crate::checker::run(config, |_| ()))??;
        ensure!(summary.is_ok(), "not all requests were answered again: {summary:#?}");
        self.view.say(&format!("{REQUESTS} requests over new connections: all answered"));
        Ok(())
    }

    fn client(&self) -> Result<&Background> {
        self.client.as_ref().context("the client has ended")
    }

    /// Lets the client and both sides come to rest.
    fn rest(&mut self) -> Result<()> {
        self.client()?.command("pause")?;
        self.until("every write to be finished", |status| status["open_writes"] == 0)
    }

    /// Watches until the status says so.
    fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.stage.gateway.status();
            self.tell()?;
            if status.as_ref().is_ok_and(&holds) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}; the status: {status:?}");
            self.raise()?;
            match self.happenings.recv_timeout(LOOK) {
                Ok(Happening::Interrupt) => bail!(Interrupted),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("nothing can happen any more"),
            }
        }
    }

    /// Says what the journal says since the last look.
    fn tell(&mut self) -> Result<()> {
        let history = self.stage.history()?;
        for line in history.into_iter().skip(self.reasons.len()) {
            self.view.say(&format!("  {line}"));
            self.reasons.push(line);
        }
        Ok(())
    }

    /// The load by the clock.
    fn raise(&mut self) -> Result<()> {
        let Some(client) = &self.client else { return Ok(()) };
        if self.raised.elapsed() < Duration::from_secs(1) {
            return Ok(());
        }
        self.raised = Instant::now();
        let part = (self.began.elapsed().as_secs_f64() / RISE.as_secs_f64()).min(1.0);
        let pause = PAUSE_MS[0] + part * (PAUSE_MS[1] - PAUSE_MS[0]);
        client.command(&format!("think {pause:.1}"))
    }
}

/// The checking client's settings.
fn client(stage: &Stage) -> Config {
    let mut config = Config::new((VIP, SERVICE_PORT).into());
    config.connections = CONNECTIONS;
    config.think = Duration::from_secs_f64(PAUSE_MS[0] / 1e3);
    config.write_fraction = WRITES;
    (config.log, config.control) = (Some(stage.journals()), Some(stage.control()));
    config
}
