//! Looks each second at what the sides use and what is asked of them: learns what they need, says whether they are large
//! enough for what is forecast, and scales the provisioned shadow.

mod resource;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use mirror_common::switch_word::Side;
use mirror_control::{
    driver::{Driver, Failure, Instance, Limits},
    migration::Capacity,
};
use mirror_forecast::demand::Rates;

use super::{Shared, forecast::rates_now, pilot::Ask};
use crate::{
    api::forecast::Scaling,
    demand::Learner,
    driver::process::ProcessDriver,
    moves::fault,
    policy::{Policy, scale::Scale},
    resources::{Metric, watch::Known},
};
use resource::Resource;

/// It looks this often.
const TICK: Duration = Duration::from_secs(1);
/// For so long, in seconds, a side must be large enough before a cutover by itself; and this sure one must be.
const ENOUGH_FOR: f64 = 3_600.0;
const ENOUGH: f64 = 0.95;

/// The thread.
struct Sizer {
    shared: Arc<Shared>,
    /// `None`: the shadow isn't provisioned here.
    driver: Option<Box<dyn Driver + Send>>,
    /// Empty without `[scale]`.
    resources: Vec<Resource>,
    /// What they go by.
    by: Option<Scale>,
    demand_file: PathBuf,
    begun: Instant,
    looked: f64,
    said: Option<String>,
}

/// What an earlier daemon learned of what the sides need; nothing where it can't be read.
pub(super) fn read_learner(folder: &Path, app: &str) -> Learner {
    fs::read(demand_file(folder, app))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn demand_file(folder: &Path, app: &str) -> PathBuf {
    folder.join(format!("{app}.demand.json"))
}

/// Starts it.
///
/// # Errors
/// When the driver, the scaler or a thread can't be had.
pub(super) fn start(shared: &Arc<Shared>, state_folder: &Path) -> Result<()> {
    let policy = shared.mover.policy();
    let driver = if policy.wanted().is_some() {
        let launcher = std::env::current_exe().context("can't find the running program")?;
        Some(Box::new(ProcessDriver::new(state_folder, launcher)?) as Box<dyn Driver + Send>)
    } else {
        None
    };
    let resources = resources(&policy, driver.as_deref())?;
    let mut sizer = Sizer {
        by: policy.scale.clone(),
        shared: Arc::clone(shared),
        driver,
        resources,
        demand_file: demand_file(state_folder, policy.name.as_str()),
        begun: Instant::now(),
        looked: 0.0,
        said: None,
    };
    std::thread::Builder::new().name("scale".into()).spawn(move || {
        loop {
            std::thread::sleep(TICK);
            sizer.tick();
        }
    })?;
    Ok(())
}

/// What is scaled, if anything.
fn resources(policy: &Policy, driver: Option<&(dyn Driver + Send)>) -> Result<Vec<Resource>> {
    let (Some(scale), Some(wanted), Some(driver)) = (&policy.scale, policy.wanted(), driver) else {
        return Ok(Vec::new());
    };
    Ok(Resource::both(scale, wanted.limits, driver.lead_time())?.into())
}

impl Sizer {
    /// Goes by another `[scale]`, where the policy has one now: as after a start, with what was learned.
    fn follow_policy(&mut self) {
        let policy = self.policy();
        if self.by == policy.scale {
            return;
        }
        self.by = policy.scale.clone();
        match resources(&policy, self.driver.as_deref()) {
            Ok(resources) => self.resources = resources,
            Err(error) => tracing::error!("scaling goes on by the [scale] of before: {error:#}"),
        }
    }

    fn tick(&mut self) {
        self.follow_policy();
        let at = self.begun.elapsed().as_secs_f64() * self.shared.board.rate;
        let seconds = at - std::mem::replace(&mut self.looked, at);
        let known = self.shared.resources.known();
        let rates = rates_now(&known);
        self.learn(seconds, &known, rates);
        let found = self.describe();
        let mut failure = found.as_ref().err().map(ToString::to_string);
        let instance = found.ok().flatten();
        let mut limits = instance.as_ref().and_then(|instance| instance.limits);
        if let Some(now) = limits {
            match self.scale(at, now, &known, rates) {
                Ok(then) => limits = Some(then),
                Err(refused) => failure = Some(refused),
            }
        } else if self.driver.is_some() && failure.is_none() {
            failure = Some(format!(
                "{0} isn't provisioned here: mirror provision {0}",
                self.policy().name.as_str()
            ));
        }
        self.say(failure.as_ref());
        let decided = |resource: &Resource| {
            Some((resource.name.to_owned(), resource.last.clone()?, resource.words.clone()))
        };
        self.shared.board.tell_scaling(Scaling {
            armed: self.policy().scale.as_ref().map(|scale| scale.armed),
            limits,
            decisions: self.resources.iter().filter_map(decided).collect(),
            failure,
            capacity: Side::BOTH.map(|side| self.capacity(side, limits)),
        });
    }

    fn policy(&self) -> Arc<Policy> {
        self.shared.mover.policy()
    }

    /// Says once what is wrong.
    fn say(&mut self, failure: Option<&String>) {
        if self.said.as_ref() == failure {
            return;
        }
        self.said = failure.cloned();
        if let (Some(failure), true) = (failure, !self.resources.is_empty())
            && let Ok(mut state) = self.shared.state.lock()
        {
            state.say(format!("scaling: {failure}"));
        }
    }

    /// Learns what each side needs for what it works on.
    fn learn(&mut self, seconds: f64, known: &Known, rates: Option<Rates>) {
        let word = self.shared.mover.words.load(0);
        let Ok(state) = self.shared.state.lock() else { return };
        // A mirror works on the requests of those flows that it has a leg of.
        let legs = f64::from(state.swept.two_legs) / f64::from(state.swept.live.max(1));
        drop(state);
        let mut ended = false;
        for side in Side::BOTH {
            let share = match (word.authority() == side, word.member(side)) {
                (true, _) => Some(1.0),
                (false, true) => Some(legs),
                (false, false) => None,
            };
            let worked_on = rates
                .zip(share)
                .map(|(rates, share)| Rates { reads: rates.reads * share, writes: rates.writes * share });
            let Some(sample) = &known.now[side as usize] else { continue };
            ended |= self.shared.board.learner().look(side, seconds, worked_on, sample);
        }
        if ended {
            self.keep_learned();
        }
    }

    /// Losing it costs the time of learning, no more.
    fn keep_learned(&self) {
        let new = self.demand_file.with_extension("new");
        let kept = serde_json::to_vec(&*self.shared.board.learner())
            .map_err(std::io::Error::from)
            .and_then(|bytes| fs::write(&new, bytes))
            .and_then(|()| fs::rename(&new, &self.demand_file));
        if let Err(error) = kept {
            tracing::warn!("what the sides need isn't kept: {}: {error}", self.demand_file.display());
        }
    }

    fn describe(&self) -> Result<Option<Instance>, Failure> {
        let driver = self.driver.as_ref();
        driver.map_or(Ok(None), |driver| driver.describe(self.policy().name.as_str()))
    }

    /// Decides, keeps what is decided, and does it where the policy is armed. Returns the limits that there are then.
    fn scale(
        &mut self,
        at: f64,
        mut limits: Limits,
        known: &Known,
        rates: Option<Rates>,
    ) -> Result<Limits, String> {
        let (board, app) = (&self.shared.board, self.shared.mover.name.as_str());
        let told = board.told();
        let mut refused = None;
        for resource in &mut self.resources {
            let told = told.as_ref().map(|(told, age)| (&**told, *age));
            let decided = {
                let learner = board.learner();
                resource.decide(at, limits, known.now[Side::Shadow as usize].as_ref(), rates, told, &learner)
            };
            if decided.is_news
                && let Err(error) = self.shared.pilot.ask(Ask::Scaled(
                    resource.name.into(),
                    decided.decision.clone(),
                    resource.words.clone(),
                ))
            {
                tracing::error!("a decision isn't in the journal: {error:#}");
                // What takes capacity away can wait for a disk; what is needed can't.
                if decided.decision.wanted < decided.decision.current {
                    continue;
                }
            }
            let (Some(then), Some(driver)) = (decided.to_do, &self.driver) else { continue };
            fault("scale-kept");
            match driver.scale(app, then) {
                Ok(set) => limits = set,
                Err(failure) => refused = Some(format!("{}: {failure}", resource.name)),
            }
        }
        refused.map_or(Ok(limits), Err)
    }

    /// Whether a side carries what is forecast; nothing where its size isn't known.
    fn capacity(&self, side: Side, limits: Option<Limits>) -> Option<Capacity> {
        let policy = self.policy();
        let told = policy.capacity(side).map(|capacity| Limits {
            cpu_millicores: capacity.cpu.millicores(),
            memory_bytes: capacity.memory.get(),
        });
        let provisioned = side == Side::Shadow && policy.process().is_some();
        let Some(size) = told.or(limits.filter(|_| provisioned)) else {
            return provisioned.then(|| Capacity::Unknown("its size can't be read".into()));
        };
        let armed = policy.scale.as_ref().filter(|scale| scale.armed && provisioned);
        Some(match armed {
            None => self.carries(side, size, ENOUGH_FOR),
            // What comes later may find it larger, up to the bounds.
            Some(scale) => {
                let most = Limits {
                    cpu_millicores: scale.cpu_most.millicores(),
                    memory_bytes: scale.memory_most.get(),
                };
                let now = self.carries(side, size, scale.ahead.as_secs_f64());
                now.and(self.carries(side, most, ENOUGH_FOR))
            }
        })
    }

    /// Whether a size is enough for the highest rates that are forecast for so many seconds.
    fn carries(&self, side: Side, size: Limits, seconds: f64) -> Capacity {
        let board = &self.shared.board;
        let most = board.told().and_then(|(told, _)| told.most(seconds, ENOUGH));
        let Some(rates) = most else {
            return Capacity::Unknown("there is no forecast yet".into());
        };
        let learner = board.learner();
        let of = |metric: Metric, unit: &str, has: f64, scale: f64| match learner.cost(side, metric, rates) {
            Ok(cost) => Capacity::of(unit, cost.quantile(ENOUGH) / scale, has / scale),
            Err(missing) => Capacity::Unknown(format!("{} it needs is {missing}", metric.name())),
        };
        let cpu = of(Metric::Cpu, "cores", f64::from(size.cpu_millicores) / 1e3, 1.0);
        cpu.and(of(Metric::Memory, "MiB of memory", size.memory_bytes as f64, f64::from(1 << 20)))
    }
}

/// Refuses a policy that the scaler can't go by: it was checked when it was read.
fn scaler_error(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("[scale]: {error}")
}

/// How far ahead of the need the size must be there.
fn lead(scale: &Scale, driver: Duration) -> Duration {
    scale.ahead.max(driver)
}
