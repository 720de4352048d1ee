//! Carries a planned move out on the mapped words: freeze, wait, one compare-and-swap, thaw.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use mirror_common::{flow::sweep, switch_word::SwitchWord};
pub use mirror_control::moves::Phases;
use mirror_control::moves::{Course, Do, Failed, Move, Plan, Saw, Terms, left_frozen, plan, put_out, weigh};
use rustix::process::Signal;

use self::hook::Hook;
use crate::{
    policy::{Name, Policy, Unsettled, reload::Current},
    words::{Words, monotonic_ns},
};

mod hook;

/// What moves work on.
pub struct Mover {
    /// The words.
    pub words: Arc<Words>,
    /// The application's name.
    pub name: Name,
    /// The policy that holds now.
    pub current: Current,
    /// Written when a freeze has ended.
    pub thaw: OwnedFd,
    /// Where a hook that runs is written down.
    pub hook_place: PathBuf,
}

const APP: u32 = 0;

impl Mover {
    /// The policy of this moment.
    pub fn policy(&self) -> Arc<Policy> {
        self.current.get()
    }

    /// Makes a move. On an error writes aren't frozen any more, and the word is as before, or as someone else left it.
    ///
    /// When half of the time is over that the freeze may last, `end` is called with the bit of [`sweep`] that says which
    /// connections are to be ended: those that wait for the authority, if that may be `dead`; those that wait for their
    /// clients, if the policy says so.
    ///
    /// # Errors
    /// When it can't be made, or its deadline passed.
    pub fn carry_out(&self, wanted: Move, dead: bool, end: &mut dyn FnMut(u32)) -> Result<Phases> {
        let planned = plan(self.words.load(APP), wanted)?;
        let give_up_ns = Some(self.half(wanted)).filter(|_| dead);
        self.follow(planned, Terms { give_up_ns, ..self.terms_with_clients(wanted) }, end)
    }

    /// Puts the side without authority out as soon as it owes no write: within the time of a cutover, as [`Mover::carry_out`]
    /// otherwise.
    ///
    /// # Errors
    /// As [`Mover::carry_out`].
    pub fn put_out(&self, end: &mut dyn FnMut(u32)) -> Result<Phases> {
        let planned = put_out(self.words.load(APP))?;
        self.follow(planned, self.terms_with_clients(Move::Cutover), end)
    }

    /// Takes the side without authority in as it is, with no hook, from an authority that is dead: within the time of a rollback,
    /// as [`Mover::carry_out`] otherwise.
    ///
    /// # Errors
    /// As [`Mover::carry_out`].
    pub fn take_in(&self, end: &mut dyn FnMut(u32)) -> Result<Phases> {
        let planned = plan(self.words.load(APP), Move::Join)?;
        let give_up_ns = Some(self.half(Move::Rollback));
        self.follow(planned, Terms { give_up_ns, ..self.terms(Move::Rollback) }, end)
    }

    /// Freezes and drains as for the move, and thaws: what it would cost, with nobody's authority changed.
    ///
    /// # Errors
    /// As [`Mover::carry_out`].
    pub fn rehearse(&self, wanted: Move) -> Result<Phases> {
        let planned = plan(self.words.load(APP), wanted)?.rehearsal();
        self.follow(planned, self.terms(wanted), &mut |_| {})
    }

    fn follow(&self, planned: Plan, terms: Terms, end: &mut dyn FnMut(u32)) -> Result<Phases> {
        let mut work = Work { began: Instant::now(), phases: Phases::default(), hook: None, counts: 0 };
        let (mut course, mut todo) = Course::new(planned, terms);
        let result = loop {
            let saw = match todo {
                Do::End(result) => break result,
                Do::Arm(freeze) => {
                    self.words.arm(APP, freeze);
                    work.began = Instant::now();
                    Saw::Done
                }
                Do::Freeze(_) | Do::Flip(_) | Do::Thaw(_) => self.swap(&todo, &mut work),
                Do::Count => self.count(&mut work),
                Do::CountDoubts => Saw::InDoubt(self.words.in_doubt(APP)),
                Do::GiveUp => {
                    end(sweep::GIVE_UP);
                    Saw::Done
                }
                Do::BreakOff => {
                    end(sweep::BREAK_OFF);
                    Saw::Done
                }
                Do::StartHook => {
                    match Hook::start(&self.policy(), planned.from.authority(), &self.hook_place) {
                        Ok(hook) => {
                            work.hook = Some(hook);
                            Saw::HookRuns
                        }
                        Err(error) => Saw::HookEnded(Err(format!("{error:#}"))),
                    }
                }
                Do::PollHook => work.look_after_hook(),
                Do::KillHook => {
                    if let Some(hook) = &mut work.hook {
                        hook.kill();
                    }
                    Saw::Done
                }
                Do::EndDoubt(doubts) => {
                    self.words.end_doubt(APP, doubts);
                    Saw::Done
                }
            };
            todo = course.next(saw, monotonic_ns());
        };
        if result.is_ok() {
            fault("flipped");
        }
        work.phases.frozen_us = us(work.began);
        let _ = rustix::io::write(&self.thaw, &1_u64.to_ne_bytes());
        result?;
        Ok(work.phases)
    }

    fn swap(&self, todo: &Do, work: &mut Work) -> Saw {
        let (Do::Freeze(swap) | Do::Flip(swap) | Do::Thaw(swap)) = todo else { return Saw::Done };
        if matches!(todo, Do::Flip(_)) {
            fault("drained");
        }
        let started = Instant::now();
        let swapped = self.words.swap(APP, swap.old, swap.state).ok();
        match todo {
            Do::Freeze(_) => {
                work.phases.freeze_us = us(work.began);
                if swapped.is_some() {
                    fault("frozen");
                }
            }
            Do::Flip(_) => work.phases.flip_us = us(started),
            _ => {}
        }
        Saw::Swapped(swapped)
    }

    fn count(&self, work: &mut Work) -> Saw {
        work.counts += 1;
        if work.counts > 100 {
            // Writes finish in packets' time; the other core needs this one's turn to finish them.
            std::thread::sleep(Duration::from_micros(20));
        }
        let open = self.words.open_writes(APP);
        work.phases.drain_us = us(work.began) - work.phases.freeze_us;
        Saw::Open(open)
    }

    fn terms(&self, wanted: Move) -> Terms {
        let deadline_ns = monotonic_ns() + self.time(wanted).as_nanos() as u64;
        let hook = wanted == Move::Join && !self.policy().join_hook.is_empty();
        Terms { deadline_ns, give_up_ns: None, break_off_ns: None, hook }
    }

    /// The same, and from half of the time on clients that haven't sent a write whole aren't waited for, if the policy says so.
    fn terms_with_clients(&self, wanted: Move) -> Terms {
        let break_off_ns = Some(self.half(wanted)).filter(|_| self.policy().unsettled == Unsettled::Reset);
        Terms { break_off_ns, ..self.terms(wanted) }
    }

    /// When half of the time is over that a move may freeze writes.
    fn half(&self, wanted: Move) -> u64 {
        monotonic_ns() + self.time(wanted).as_nanos() as u64 / 2
    }

    /// How long a move may freeze writes.
    fn time(&self, wanted: Move) -> Duration {
        let policy = self.policy();
        if wanted == Move::Join { policy.join_deadline } else { policy.freeze }
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
        Err(Failed::Changed.into())
    }

    /// Ends a freeze that a daemon left behind which is no more, and its hook first: its move never happened.
    pub fn recover(&self) -> bool {
        if let Err(error) = hook::end_left(&self.hook_place) {
            tracing::error!("a join hook was left behind: {error:#}");
        }
        let word = self.words.load(APP);
        let Some(thawed) = left_frozen(word, self.words.armed(APP)) else { return false };
        let ended = self.words.swap(APP, word, thawed).is_ok();
        let _ = rustix::io::write(&self.thaw, &1_u64.to_ne_bytes());
        ended
    }
}

/// What a move under way keeps.
struct Work {
    /// When the freeze began.
    began: Instant,
    phases: Phases,
    hook: Option<Hook>,
    counts: u32,
}

impl Work {
    fn look_after_hook(&mut self) -> Saw {
        let Some(hook) = &mut self.hook else {
            return Saw::HookEnded(Err("the join hook is gone".into()));
        };
        let saw = hook.look();
        self.phases.hook_us = hook.us();
        saw
    }
}

fn us(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64 / 1e3
}

/// For tests: `MIRROR_FAULT=frozen` (or another point) ends the process there as `kill -9` would; `stop-frozen` stops it.
pub(crate) fn fault(point: &str) {
    let Ok(wanted) = std::env::var("MIRROR_FAULT") else { return };
    let signal = match wanted.strip_prefix("stop-") {
        None if wanted == point => Signal::KILL,
        Some(stop) if stop == point => Signal::STOP,
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
