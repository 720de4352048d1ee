//! Carries a planned move out on the mapped words: freeze, wait, one compare-and-swap, thaw.

use std::{
    net::SocketAddrV4,
    os::fd::OwnedFd,
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mirror_common::switch_word::SwitchWord;
pub use mirror_control::moves::Phases;
use mirror_control::moves::{Move, Plan, plan, weigh};

use crate::{
    policy::Policy,
    words::{Words, monotonic_ns},
};

/// What moves work on.
pub struct Mover {
    /// The words.
    pub words: Arc<Words>,
    /// The policy.
    pub policy: Policy,
    /// Written when a freeze has ended.
    pub thaw: OwnedFd,
}

const APP: u32 = 0;

impl Mover {
    /// Makes a move. On an error writes aren't frozen any more, and the word is as before, or as someone else left it.
    ///
    /// # Errors
    /// When it can't be made, or its deadline passed.
    pub fn carry_out(&self, wanted: Move) -> Result<Phases> {
        self.follow(wanted, plan(self.words.load(APP), wanted)?, &mut || {})
    }

    /// The same where the authority may be dead: half of the time that a freeze may last is given to it, then `give_up` is
    /// called, which ends what waits for it.
    ///
    /// # Errors
    /// As [`Mover::carry_out`].
    pub fn carry_out_without(&self, wanted: Move, give_up: &mut dyn FnMut()) -> Result<Phases> {
        self.follow(wanted, plan(self.words.load(APP), wanted)?, give_up)
    }

    /// Freezes and drains as for the move, and thaws: what it would cost, with nobody's authority changed.
    ///
    /// # Errors
    /// As [`Mover::carry_out`].
    pub fn rehearse(&self, wanted: Move) -> Result<Phases> {
        let planned = plan(self.words.load(APP), wanted)?;
        self.follow(wanted, Plan { done: planned.thawed, ..planned }, &mut || {})
    }

    fn follow(&self, wanted: Move, planned: Plan, give_up: &mut dyn FnMut()) -> Result<Phases> {
        let time = if wanted == Move::Join { self.policy.join_deadline } else { self.policy.freeze };
        let deadline = Instant::now() + time;
        self.words.arm(APP, monotonic_ns() + time.as_nanos() as u64, planned.from, planned.thawed);
        let started = Instant::now();
        let frozen = self.words.swap(APP, planned.from, planned.frozen).map_err(|_| changed())?;
        let mut phases = Phases { freeze_us: us(started), ..Phases::default() };
        fault("frozen");
        let mut give_up = Some(give_up);
        let patience = Instant::now() + time / 2;
        let drained = self.drain(deadline, || {
            if Instant::now() >= patience
                && let Some(give_up) = give_up.take()
            {
                give_up();
            }
        });
        phases.drain_us = us(started) - phases.freeze_us;
        let result = drained.and_then(|()| self.flip(wanted, &planned, frozen, deadline, &mut phases));
        if result.is_err() {
            // Whoever came first, the datapath past its deadline or another daemon: then there is nothing to thaw.
            let _ = self.words.swap(APP, frozen, planned.thawed);
        }
        phases.frozen_us = us(started);
        let _ = rustix::io::write(&self.thaw, &1_u64.to_ne_bytes());
        result.map(|()| phases)
    }

    fn flip(
        &self,
        wanted: Move,
        planned: &Plan,
        frozen: SwitchWord,
        deadline: Instant,
        phases: &mut Phases,
    ) -> Result<()> {
        if wanted == Move::Join && !self.policy.join_hook.is_empty() {
            let started = Instant::now();
            let hook = self.start_hook(planned)?;
            if !planted("flip-early") {
                wait_for_hook(hook, deadline)?;
            }
            phases.hook_us = us(started);
        }
        fault("drained");
        let started = Instant::now();
        self.words.swap(APP, frozen, planned.done).map_err(|_| {
            anyhow::anyhow!(
                "aborted: the word changed meanwhile (the deadline passed, or a side fell out of sync)"
            )
        })?;
        phases.flip_us = us(started);
        if planned.done != planned.thawed {
            self.words.end_doubt(APP);
        }
        fault("flipped");
        Ok(())
    }

    /// Waits until every begun write is finished; `waits` is called all the while.
    fn drain(&self, deadline: Instant, mut waits: impl FnMut()) -> Result<()> {
        let mut spins = 0_u32;
        while self.words.open_writes(APP) > 0 {
            if Instant::now() >= deadline {
                let open = self.words.open_writes(APP);
                bail!(
                    "aborted: {open} writes weren't finished within the freeze's deadline; nothing has changed"
                );
            }
            waits();
            spins += 1;
            if spins > 100 {
                // Writes finish in packets' time; the other core needs this one's turn to finish them.
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        Ok(())
    }

    fn start_hook(&self, planned: &Plan) -> Result<Child> {
        let from = planned.from.authority();
        let shadow = self.policy.shadow.as_ref().context("the policy names no shadow")?;
        let addresses = [self.policy.primary.address, shadow.address];
        let (program, arguments) = self.policy.join_hook.split_first().context("an empty join hook")?;
        let address = |side: usize| -> SocketAddrV4 { addresses[side] };
        std::process::Command::new(program)
            .args(arguments)
            .env("MIRROR_FROM", address(from as usize).to_string())
            .env("MIRROR_TO", address(from.other() as usize).to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("aborted: can't start the join hook {program}"))
    }

    /// Sets the share of the reads that the shadow answers, in basis points.
    ///
    /// # Errors
    /// When it can't be had.
    pub fn weigh(&self, weight: u32) -> Result<SwitchWord> {
        for _ in 0..8 {
            let word = self.words.load(APP);
            let next = weigh(word, weight)?;
            if let Ok(new) = self.words.swap(APP, word, next) {
                return Ok(new);
            }
        }
        Err(changed())
    }

    /// Ends a freeze that a daemon left behind which is no more: its move never happened.
    pub fn recover(&self) -> bool {
        let word = self.words.load(APP);
        if !word.frozen() {
            return false;
        }
        let thawed = self.words.thaw_state(APP, word).unwrap_or_else(|| word.with_frozen(false));
        let ended = self.words.swap(APP, word, thawed).is_ok();
        let _ = rustix::io::write(&self.thaw, &1_u64.to_ne_bytes());
        ended
    }
}

fn wait_for_hook(mut child: Child, deadline: Instant) -> Result<()> {
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            bail!("aborted: the join hook failed ({status}); nothing has changed");
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("aborted: the join hook outlasted the deadline and was killed; nothing has changed");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn changed() -> anyhow::Error {
    anyhow::anyhow!("the switch word changed meanwhile; look at `mirror status` and try again")
}

fn us(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64 / 1e3
}

/// For tests: `MIRROR_FAULT=frozen` (or another point) ends the process there as `kill -9` would; `stop-frozen` stops it.
pub(crate) fn fault(point: &str) {
    let Ok(wanted) = std::env::var("MIRROR_FAULT") else { return };
    let signal = match wanted.strip_prefix("stop-") {
        None if wanted == point => rustix::process::Signal::KILL,
        Some(stop) if stop == point => rustix::process::Signal::STOP,
        _ => return,
    };
    let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    // The signal may reach another thread first; this one must not run on meanwhile.
    std::thread::sleep(Duration::from_millis(100));
}

/// For tests: whether `MIRROR_FAULT` names this one. `flip-early` ends a join before its hook has ended.
fn planted(what: &str) -> bool {
    std::env::var_os("MIRROR_FAULT").is_some_and(|wanted| wanted == *what)
}
