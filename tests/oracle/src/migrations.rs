//! Whole migrations on a simulated datapath: the very machine, executor, courses and journal that the daemon runs, with packets
//! split at each atomic operation, operators, bad servers, and a daemon that dies between any two steps. A seed says all.
//!
//! First everything goes wrong for a while; then nothing does any more, and the migration has to come to an end that has a
//! name. In every step the rules of [`kernel`] are looked at.

pub mod daemon;
pub mod kernel;
mod totals;

use mirror_common::{switch_word::Side, weight::ALL};
use mirror_control::{
    evidence::{Finding, Metric, Progress, Verdict},
    migration::{Command, Event, MovePolicy, Plan, Seen, Stage},
    moves::{Move, weigh},
    throughput::Shortfall,
    weight::WeightPolicy,
};

use daemon::{Daemon, Disk, Hook};
use kernel::{Choice, FLOWS, Kernel};
pub use totals::Totals;

/// A datapath, or a daemon, with a fault that the rules must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// Past a freeze's deadline a packet goes by its clock alone, and leaves the word frozen.
    ClockAlone,
    /// A packet reads the word, and counts its write then.
    ReadFirst,
    /// A write is finished when the authority has answered it.
    FinishedGate,
    /// Each processor sums up what it has begun and finished; the daemon reads one sum, then the other, as if they were one
    /// number. A packet that is held between the two hides a write that is open.
    SumsApart,
    /// A flip leaves the old authority in sync, though it may lack a write that the new one has.
    DoubtsForgotten,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 5] = [
        Mutant::ClockAlone,
        Mutant::ReadFirst,
        Mutant::FinishedGate,
        Mutant::SumsApart,
        Mutant::DoubtsForgotten,
    ];

    /// Rules that it breaks first.
    pub const fn breaks(self) -> &'static [&'static str] {
        match self {
            // A join is a freeze, too: who joins must have every write.
            Mutant::ClockAlone | Mutant::ReadFirst | Mutant::SumsApart => &[
                "a flip with a write owed",
                "a write begins under the old word",
                "two authorities",
                "a side joined that isn't level",
            ],
            Mutant::FinishedGate => {
                &["a flip with a write owed", "a write begins under the old word", "two authorities"]
            }
            Mutant::DoubtsForgotten => &["in sync, and lacks a write"],
        }
    }
}

/// Steps in which things may go wrong, at most.
const TROUBLE: u32 = 1_500;
/// Ticks without trouble within which a migration ends.
const CALM_TICKS: u32 = 120;

/// What became of a migration.
#[derive(Debug)]
pub struct Report {
    /// Atomic operations.
    pub steps: u64,
    /// Where it ended.
    pub stage: Stage,
    /// Ticks from the end of all trouble to the migration's.
    pub ticks: u32,
    /// Times that the daemon died.
    pub deaths: u32,
    /// Lines that the journal has.
    pub lines: usize,
    /// What the datapath saw.
    pub seen: kernel::Seen,
    /// The rule that was broken, and how it stood.
    pub broken: Option<String>,
    /// What happened, in order, where that was asked for.
    pub trace: Vec<String>,
}

struct World {
    dice: fastrand::Rng,
    kernel: Kernel,
    disk: Disk,
    daemon: Daemon,
    mutant: Option<Mutant>,
    verdict: Option<Verdict>,
    healthy: [Option<bool>; 2],
    /// Sides that answer nothing.
    dead: [bool; 2],
    /// Nothing goes wrong any more.
    calm: bool,
    /// The daemon sleeps for so many steps.
    asleep: u32,
    /// Somebody moved the traffic by hand.
    by_hand: bool,
    deaths: u32,
    steps: u64,
    broken: Option<String>,
    trace: Option<Vec<String>>,
}

/// Small times, so that much happens.
fn plan(dice: &mut fastrand::Rng) -> Plan {
    let weight = WeightPolicy {
        steps: vec![1_000, 5_000, ALL],
        dwell_seconds: 1.0,
        dark_seconds: 2.0,
        cool_down_seconds: 3.0,
        max_attempts: 3,
    };
    let moves = MovePolicy {
        attempts: 3,
        retry_seconds: 2.0,
        standby_seconds: 4.0,
        unhealthy_seconds: 2.0,
        availability_first: false,
    };
    Plan { weight, moves, cutover_by_itself: dice.u8(..) < 180, ..Plan::default() }
}

fn no_worse() -> Verdict {
    Verdict::NoWorse(Progress { have: 10_000, need: 5_000, evidence: [Some(9.0); 4], threshold: 5.0 })
}

fn worse(gross: bool) -> Verdict {
    let (primary, shadow) = (0.0, 0.01);
    Verdict::Worse(Finding {
        metric: Metric::Errors,
        evidence: 20.0,
        threshold: 7.0,
        primary,
        allowed: 0.0,
        shadow,
        samples: 900,
        gross,
    })
}

fn shortfall() -> Shortfall {
    Shortfall { usual: 1_000.0, answered: 0.0, unanswered: 50.0, seconds: 10.0 }
}

/// One migration. `trace`: what happens is kept, too.
pub fn run(seed: u64, mutant: Option<Mutant>, trace: bool) -> Report {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut disk = Disk::default();
    let plan = plan(&mut dice);
    let Some(daemon) = Daemon::begin(&plan, &mut disk, mutant) else { unreachable!("an empty disk is full") };
    let mut world = World {
        kernel: Kernel::new(mutant),
        disk,
        daemon,
        mutant,
        verdict: Some(no_worse()),
        healthy: [Some(true); 2],
        dead: [false; 2],
        calm: false,
        asleep: 0,
        by_hand: false,
        deaths: 0,
        steps: 0,
        broken: None,
        trace: trace.then(Vec::new),
        dice,
    };
    let trouble = world.dice.u32(0..TROUBLE);
    for _ in 0..trouble {
        if world.is_over() || world.broken.is_some() {
            break;
        }
        world.step();
    }
    let ticks = world.calm_down();
    world.report(ticks)
}

impl World {
    fn is_over(&self) -> bool {
        self.daemon.executor.state().stage.is_over()
    }

    fn say(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>6} {}", self.kernel.now, line(self));
            if let Some(trace) = &mut self.trace {
                trace.push(line);
            }
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        !self.calm && self.dice.u32(0..n) == 0
    }

    /// One atomic operation of somebody.
    fn step(&mut self) {
        self.steps += 1;
        self.kernel.now += self.dice.u64(0..3);
        let before = self.kernel.word;
        if self.asleep > 0 || self.dice.u8(0..8) < 5 {
            self.asleep = self.asleep.saturating_sub(1);
            let flow = self.dice.usize(0..FLOWS);
            self.packet(flow);
        } else if self.one_in(120) {
            self.die();
        } else if self.one_in(90) {
            self.asleep = self.dice.u32(1..200);
        } else if self.daemon.moves_by_hand() && self.dice.bool() {
            self.daemon.step_by_hand(&mut self.kernel);
        } else if self.daemon.is_idle() {
            self.happens();
        } else {
            self.carry_on(None);
        }
        if self.kernel.word != before {
            self.say(|world| format!("{:?}", shown(world)));
        }
        if self.broken.is_none() {
            self.broken = self.kernel.broken.take();
        }
    }

    /// One operation of a connection's packet.
    fn packet(&mut self, flow: usize) {
        if self.kernel.is_held(flow) && self.kernel.word.frozen() && self.dice.u8(0..16) > 0 {
            // It waits for the thaw, or until its client sends it again.
            return;
        }
        let owing: Vec<Side> = self.kernel.owing(flow).collect();
        let choice = match self.dice.choice(owing) {
            // A dead one isn't known for dead at once.
            Some(side) if self.dead[side as usize] && self.dice.bool() => return,
            Some(side) if self.dead[side as usize] || self.one_in(80) => {
                Some(Choice::Lose(side, self.dice.bool()))
            }
            Some(side) => Some(Choice::Answer(side)),
            None if self.kernel.is_held(flow) || self.dice.u8(0..10) < 6 => Some(Choice::Write),
            None => Some(Choice::Read(self.dice.u32(0..ALL))),
        };
        self.kernel.step(flow, choice);
    }

    /// One operation of the daemon's thread.
    fn carry_on(&mut self, torn: Option<usize>) {
        let World { daemon, kernel, disk, dice, calm, .. } = self;
        let lines = disk.lines.len();
        daemon.step(kernel, disk, torn, || hook(dice, *calm));
        if self.disk.lines.len() > lines {
            self.say(|world| {
                let executor = &world.daemon.executor;
                let why = executor.why().map(ToString::to_string).unwrap_or_default();
                format!("{}: {why}", executor.state().stage.name())
            });
        }
    }

    /// The daemon dies: between two operations, or in the middle of a line of its journal.
    fn die(&mut self) {
        if self.dice.bool() {
            let torn = self.dice.usize(..);
            self.carry_on(Some(torn));
        }
        self.deaths += 1;
        self.say(|_| "the daemon dies, and is started again".into());
        self.restart();
    }

    fn restart(&mut self) {
        match Daemon::restart(&self.kernel, &mut self.disk, self.mutant) {
            Ok(daemon) => self.daemon = daemon,
            Err(error) => self.broken = Some(error),
        }
        let written = self.disk.lines.last().map(|(_, state)| state);
        if written != Some(self.daemon.executor.state()) {
            self.broken =
                Some(format!("it came back as {:?}, not {written:?}", self.daemon.executor.state()));
        }
    }

    /// Between two decisions: trouble, an operator, or time.
    fn happens(&mut self) {
        if self.one_in(3) {
            self.trouble();
        }
        if self.one_in(12) {
            self.operator();
        } else {
            self.tick();
        }
    }

    fn tick(&mut self) {
        let late = self.daemon.echo.take().filter(|_| self.one_in(2));
        let seconds = if self.one_in(20) { 6.0 } else { 1.0 };
        let (word, healthy) = (self.kernel.word, self.healthy);
        // Where nobody checks its health, it shows by the requests that it leaves unanswered.
        let shortfall = self.dead[word.authority() as usize].then(shortfall);
        let verdict = self.verdict.clone();
        self.daemon.executor.event(Event::Tick(Box::new(Seen {
            seconds,
            word,
            verdict,
            shortfall,
            healthy,
            capacity: [None, None],
            unsettled: None,
            divergence: None,
        })));
        if let Some(event) = late {
            // Told twice, the second time behind a tick.
            self.daemon.executor.event(event);
        }
    }

    fn trouble(&mut self) {
        match self.dice.u32(0..16) {
            0 => self.verdict = Some(worse(self.dice.bool())),
            1..=5 => self.verdict = Some(no_worse()),
            6 => self.verdict = None,
            7 => {
                // Found to have been restarted; or a leg that owed a write was lost on a connection that isn't among these.
                let mirror = self.kernel.word.authority().other();
                self.kernel.put_out(mirror);
            }
            8 => {
                let side = self.dice.usize(0..2);
                self.dead[side] = true;
                self.healthy[side] = Some(false);
            }
            9..=12 => {
                self.dead = [false; 2];
                self.healthy = [Some(true); 2];
            }
            13 => self.healthy[self.dice.usize(0..2)] = if self.dice.bool() { None } else { Some(false) },
            14 => self.disk.full = true,
            _ => self.disk.full = false,
        }
    }

    fn ask(&mut self, command: Command) {
        let state = self.daemon.executor.state();
        if state.stage.is_over() || (command == Command::Finalize && state.stage != Stage::Standby) {
            return;
        }
        self.say(|_| format!("asked: {command:?}"));
        let again = self.one_in(4);
        for _ in 0..=u8::from(again) {
            self.daemon.executor.event(Event::Asked(command, "ann".into()));
        }
    }

    /// Somebody types something. By hand nothing is moved while a migration steers.
    fn operator(&mut self) {
        let paused = self.daemon.executor.state().weight.paused_by.is_some();
        match self.dice.u32(0..16) {
            0..=2 => self.ask(Command::Pause),
            3..=5 => self.ask(Command::Resume),
            6 => self.ask(Command::Abort),
            7 => self.ask(Command::Cutover),
            8 => self.ask(Command::Finalize),
            9 | 10 if paused => {
                self.by_hand = true;
                let share = self.dice.u32(0..=ALL);
                if let Ok(next) = weigh(self.kernel.word, share) {
                    let old = self.kernel.word;
                    self.kernel.swap(old, old.next(next.state()));
                }
            }
            11..=15 if paused => {
                self.by_hand = true;
                let made = [Move::Join, Move::Cutover, Move::Rollback][self.dice.usize(0..3)];
                let hook = hook(&mut self.dice, false);
                self.daemon.make(made, hook, &self.kernel);
            }
            _ => {}
        }
    }

    /// Nothing goes wrong any more. Returns the ticks until the migration's end.
    fn calm_down(&mut self) -> u32 {
        self.calm = true;
        self.say(|_| "no more trouble".into());
        (self.dead, self.healthy) = ([false; 2], [Some(true); 2]);
        (self.verdict, self.disk.full) = (Some(no_worse()), false);
        let mut ticks = 0;
        while self.broken.is_none() && !(self.is_over() && self.daemon.is_idle()) {
            if self.daemon.is_idle() {
                ticks += 1;
                if ticks == 1 || self.daemon.executor.state().weight.stopped {
                    self.ask(Command::Resume);
                }
                let state = self.daemon.executor.state();
                if state.stage == Stage::Ready && !state.cutover_asked {
                    self.ask(Command::Cutover);
                }
            }
            self.step();
            if ticks > CALM_TICKS {
                let state = self.daemon.executor.state();
                self.broken =
                    Some(format!("no end within {CALM_TICKS} ticks: {state:#?} {:#?}", self.kernel));
            }
        }
        for flow in (0..FLOWS).cycle().take(FLOWS * 300) {
            self.kernel.now += 1;
            self.daemon.step_by_hand(&mut self.kernel);
            self.packet(flow);
        }
        ticks
    }

    fn report(mut self, ticks: u32) -> Report {
        let stage = self.daemon.executor.state().stage;
        if self.broken.is_none() {
            self.broken = self.kernel.broken.take().or_else(|| self.wrong_end(stage));
        }
        Report {
            steps: self.steps,
            stage,
            ticks,
            deaths: self.deaths,
            lines: self.disk.lines.len(),
            seen: self.kernel.seen,
            broken: self.broken,
            trace: self.trace.unwrap_or_default(),
        }
    }

    /// What is wrong with how it ended.
    fn wrong_end(&mut self, stage: Stage) -> Option<String> {
        let word = self.kernel.word;
        let at = self.dice.usize(..);
        if let Err(error) = self.disk.cut(at) {
            return Some(error);
        }
        if !self.kernel.is_calm() {
            return Some(format!("frozen, or held, for ever: {:#?}", self.kernel));
        }
        let shadow = word.authority() == Side::Shadow;
        let fits = match stage {
            Stage::Finalized => shadow && !word.member(Side::Primary),
            Stage::RolledBack => !shadow,
            Stage::Aborted => !shadow && word.weight() == 0,
            _ => false,
        };
        // What somebody does by hand between two of its ticks may be anything that may be done by hand.
        (!fits && !self.by_hand).then(|| format!("{} with {:?}", stage.name(), shown(self)))
    }
}

/// The word in words.
fn shown(world: &World) -> (u32, &'static str, bool, &'static str, [bool; 2], u32) {
    let word = world.kernel.word;
    let members = Side::BOTH.map(|side| word.member(side));
    (word.epoch(), word.phase().name(), word.frozen(), word.authority().name(), members, word.weight())
}

fn hook(dice: &mut fastrand::Rng, calm: bool) -> Hook {
    let (runs, fails) = match dice.u32(0..10) {
        0 if !calm => (u32::MAX, false),
        1 if !calm => (dice.u32(0..4), true),
        _ => (dice.u32(0..4), false),
    };
    Hook { runs, ends: if fails { Err("exit status 1".into()) } else { Ok(()) } }
}
