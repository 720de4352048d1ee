//! Asks each server of a side that has several whether it is well, and lets the datapath choose among those that are.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use mirror_common::switch_word::Side;
use mirror_control::{backends::Health, driver::Check};

use super::Shared;
use crate::{
    datapath::Datapath,
    health::Checker,
    policy::Policy,
    state::{Backend, Backends},
    words::monotonic_ns,
};

/// A server is asked this often.
const AGAIN: Duration = Duration::from_secs(1);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_millis(900);

/// By side: its servers as the datapath knows them, where there are several.
///
/// # Errors
/// When a pool can't be read.
pub(super) fn found(policy: &Policy, datapath: &Datapath) -> Result<[Backends; 2]> {
    let mut all = [Backends::default(), Backends::default()];
    for ((backends, side), end) in all.iter_mut().zip(Side::BOTH).zip(policy.sides()) {
        if !end.has_several() {
            continue;
        }
        let numbers = datapath.backends(side)?;
        let one = |(address, (number, takes)): (&SocketAddr, (u32, bool))| Backend {
            address: *address,
            health: Health::found(takes),
            number,
            since_ns: monotonic_ns(),
        };
        backends.0 = end.servers().iter().zip(numbers).map(one).collect();
    }
    Ok(all)
}

/// Starts the thread where a side has several servers.
///
/// # Errors
/// When a thread can't be had.
pub(super) fn start(shared: &Arc<Shared>) -> Result<()> {
    let policy = shared.mover.policy();
    if !policy.sides().any(|side| side.has_several()) {
        return Ok(());
    }
    let check = policy.check();
    let keeper = Keeper { checker: Checker::new(check.clone(), PATIENCE)?, check, written: [None; 2] };
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("backends".into()).spawn(move || keeper.run(&shared))?;
    Ok(())
}

struct Keeper {
    checker: Checker,
    check: Check,
    /// By side: who the datapath was told takes connections.
    written: [Option<u32>; 2],
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
        let check = policy.check();
        if check != self.check {
            self.checker = Checker::new(check.clone(), PATIENCE)?;
            self.check = check;
        }
        let poisoned = || anyhow!("poisoned");
        let sides: Vec<&[SocketAddr]> =
            policy.sides().map(|side| if side.has_several() { side.servers() } else { &[] }).collect();
        let mut well = self.checker.ask_all(&sides.concat()).into_iter();
        for (side, servers) in Side::BOTH.into_iter().zip(sides).filter(|(_, servers)| !servers.is_empty()) {
            let well: Vec<bool> = well.by_ref().take(servers.len()).collect();
            let (takes, taking) = {
                let mut state = shared.state.lock().map_err(|_| poisoned())?;
                state.checked(side, &well);
                let backends = &state.backends[side as usize];
                (backends.takes(), backends.taking())
            };
            if self.written[side as usize] != Some(takes) {
                let mut datapath = shared.datapath.lock().map_err(|_| poisoned())?;
                let written = datapath.take_connections(side, &taking);
                written.with_context(|| format!("the datapath isn't told of the {}'s", side.name()))?;
                self.written[side as usize] = Some(takes);
            }
        }
        Ok(())
    }
}
