//! Asks each server whether it is well, where there are several to be told apart, and lets the datapath choose among those that
//! are.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use mirror_common::switch_word::Side;
use mirror_control::backends::Health;

use super::Shared;
use crate::{
    datapath::Datapath,
    health::Checker,
    policy::{Endpoint, Policy},
    state::{Backend, Backends, Served},
    words::monotonic_ns,
};

/// A server is asked this often.
const AGAIN: Duration = Duration::from_secs(1);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_millis(900);

/// The services with their servers as the datapath knows them, where there are several in all.
///
/// # Errors
/// When a pool can't be read.
pub(super) fn served(policy: &Policy, datapath: &Datapath) -> Result<Vec<Served>> {
    let mut all = Vec::new();
    for (number, service) in (0..).zip(policy.services()) {
        let mut backends = [Backends::default(), Backends::default()];
        for (side, end) in service.sides().filter(|(_, end)| is_watched(policy, end)) {
            let mut numbers = datapath.backends(number, side)?.into_iter();
            // Of a service without TCP the datapath knows one server, which gets all.
            let one = |address: &SocketAddr| {
                let (number, takes) = numbers.next().unwrap_or((0, true));
                Backend { address: *address, health: Health::found(takes), number, since_ns: monotonic_ns() }
            };
            backends[side as usize].0 = end.servers().iter().map(one).collect();
        }
        let unknown = Side::BOTH.map(|side| service.side(side).is_some_and(|end| end.max_requests == 0));
        all.push(Served::new(service.name(), backends, 1 + service.ports.len()).with_unknown_limits(unknown));
    }
    Ok(all)
}

/// Whether a side's servers of a service are asked one by one: where there is more than one to be told apart.
fn is_watched(policy: &Policy, end: &Endpoint) -> bool {
    policy.has_several() || end.has_several()
}

/// Starts the thread where there are servers to be told apart.
///
/// # Errors
/// When a thread can't be had.
pub(super) fn start(shared: &Arc<Shared>) -> Result<()> {
    let policy = shared.mover.policy();
    if !policy.servers().any(|one| is_watched(&policy, one.end)) {
        return Ok(());
    }
    let keeper = Keeper { checker: Checker::new(PATIENCE)?, written: BTreeMap::new() };
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("backends".into()).spawn(move || keeper.run(&shared))?;
    Ok(())
}

struct Keeper {
    checker: Checker,
    /// By service and side: who the datapath was told takes connections.
    written: BTreeMap<(u32, u8), u32>,
}

impl Keeper {
    /// Asks again and again; trouble is said once.
    fn run(mut self, shared: &Shared) {
        let (mut last, mut due) = (String::new(), Instant::now() + AGAIN);
        loop {
            // Where they don't answer, the asking itself takes most of it.
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due = Instant::now() + AGAIN;
            let trouble = self.look(shared).err().map(|error| format!("{error:#}")).unwrap_or_default();
            if !trouble.is_empty() && trouble != last {
                let Ok(mut state) = shared.state.lock() else { return };
                state.say(format!("the servers' checks: {trouble}"));
            }
            last = trouble;
        }
    }

    fn look(&mut self, shared: &Shared) -> Result<()> {
        let policy = shared.mover.policy();
        let watched: Vec<_> = policy.servers().filter(|one| is_watched(&policy, one.end)).collect();
        let asked: Vec<_> = watched.iter().map(|one| (one.at, policy.check(one.service))).collect();
        let mut well = self.checker.ask_all(&asked).into_iter();
        for (number, service) in (0..).zip(policy.services()) {
            for (side, end) in service.sides().filter(|(_, end)| is_watched(&policy, end)) {
                let well: Vec<bool> = well.by_ref().take(end.servers().len()).collect();
                self.checked(shared, number, side, &well)?;
            }
        }
        Ok(())
    }

    /// A side's servers of a service were asked, in their order. The datapath hears of it first: where `status` says that a
    /// server gets no new connections, it gets none.
    fn checked(&mut self, shared: &Shared, service: u32, side: Side, well: &[bool]) -> Result<()> {
        let poisoned = || anyhow!("poisoned");
        let mut found = {
            let state = shared.state.lock().map_err(|_| poisoned())?;
            let served = state.served.get(service as usize).context("no such service")?;
            served.backends[side as usize].clone()
        };
        found.checked(well);
        let told = self.tell(shared, service, side, &found);
        shared.state.lock().map_err(|_| poisoned())?.checked(service as usize, side, well);
        told
    }

    /// Tells the datapath who takes new connections, where it was told otherwise.
    fn tell(&mut self, shared: &Shared, service: u32, side: Side, found: &Backends) -> Result<()> {
        let (takes, taking) = (found.takes(), found.taking());
        let written = self.written.get(&(service, side as u8));
        if taking.len() > 1 && written != Some(&takes) {
            let mut datapath = shared.datapath.lock().map_err(|_| anyhow!("poisoned"))?;
            let written = datapath.take_connections(service, side, &taking);
            written.with_context(|| format!("the datapath isn't told of the {}'s", side.name()))?;
            self.written.insert((service, side as u8), takes);
        }
        Ok(())
    }
}
