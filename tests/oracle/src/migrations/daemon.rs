//! The simulated daemon: the executor, the courses and the journal of the real one, one atomic operation at a time, so that it
//! can die between any two. What it had in memory is gone then; the disk and the words stay.

use mirror_common::switch_word::{Side, SwitchWord};
use mirror_control::{
    executor::{Decision, Executor, Task},
    journal::{Entry, Journal, What},
    migration::{Action, Event, Plan, State},
    moves::{self, Course, Do, Move, Saw, Terms, left_frozen, plan, put_out, weigh},
};

use super::{Mutant, kernel::Kernel};

/// How long a move may freeze writes, by the datapath's clock.
const fn bound_of(made: Move) -> u64 {
    match made {
        Move::Join => 200,
        Move::Cutover | Move::Rollback => 100,
    }
}

/// Swaps of a share that are tried.
const TRIES: u32 = 8;

/// The journal's file.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    bytes: Vec<u8>,
    /// Behind each line: the file's length, and the state that it says.
    pub lines: Vec<(usize, State)>,
    /// Nothing more can be written.
    pub full: bool,
}

impl Disk {
    /// Appends a line; `torn`: only so many of its bytes.
    fn append(
        &mut self,
        what: What,
        decision: Option<&Decision>,
        state: &State,
        torn: Option<usize>,
    ) -> bool {
        if self.full {
            return false;
        }
        let why = decision.map(|decision| decision.why.clone());
        let entry = Entry {
            number: self.lines.len() as u64,
            at_ms: 0,
            app: "shop".into(),
            what,
            words: why.as_ref().map(ToString::to_string).unwrap_or_default(),
            why,
            state: state.clone(),
            phases: None,
        };
        let Ok(line) = entry.line() else { return false };
        let whole = line.len();
        let written = torn.map_or(whole, |bytes| bytes % whole);
        self.bytes.extend_from_slice(&line.as_bytes()[..written]);
        if written == whole {
            self.lines.push((self.bytes.len(), state.clone()));
        }
        true
    }

    /// What the file says when it is cut at a byte, against what was written to it.
    pub fn cut(&self, at: usize) -> Result<(), String> {
        let at = at % (self.bytes.len() + 1);
        let journal = Journal::read(&self.bytes[..at]).map_err(|error| format!("cut at {at}: {error}"))?;
        let whole = self.lines.iter().rev().find(|(end, _)| *end <= at);
        match (journal.last(), whole) {
            (None, None) => Ok(()),
            (Some((_, read)), Some((end, written))) if read == *written && journal.sound == *end => Ok(()),
            (read, _) => Err(format!("cut at {at} it says {read:?}, not {whole:?}")),
        }
    }

    fn recover(&mut self) -> Result<Option<Executor>, String> {
        let journal = Journal::read(&self.bytes).map_err(|error| error.to_string())?;
        self.bytes.truncate(journal.sound);
        Ok(Executor::take_up(&journal))
    }
}

/// How a hook goes: so often it still runs when it is looked after, and how it ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hook {
    /// Looks.
    pub runs: u32,
    /// Its end.
    pub ends: Result<(), String>,
}

/// A move under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Moving {
    course: Course,
    todo: Do,
    joins: bool,
    hook: Hook,
    bound: u64,
    /// The first of the mutant's two sums.
    pub begun: Option<i64>,
}

impl Moving {
    /// A move that begins, and may freeze writes for so long by the datapath's clock.
    ///
    /// # Errors
    /// Why it can't be made.
    pub fn begin(made: Move, rescue: bool, time: u64, hook: Hook, kernel: &Kernel) -> Result<Self, String> {
        let planned = plan(kernel.word, made).map_err(|refused| refused.to_string())?;
        Ok(Self::of(planned, made == Move::Join, rescue, time, hook, kernel))
    }

    /// The side without authority is put out at rest.
    ///
    /// # Errors
    /// As [`Moving::begin`].
    pub fn put_out(time: u64, kernel: &Kernel) -> Result<Self, String> {
        let planned = put_out(kernel.word).map_err(|refused| refused.to_string())?;
        let no_hook = Hook { runs: 0, ends: Ok(()) };
        Ok(Self::of(planned, false, false, time, no_hook, kernel))
    }

    fn of(planned: moves::Plan, joins: bool, rescue: bool, time: u64, hook: Hook, kernel: &Kernel) -> Self {
        let bound = kernel.now + time;
        let give_up_ns = rescue.then_some(kernel.now + time / 2);
        // Here every request is one packet.
        let terms = Terms { deadline_ns: bound, give_up_ns, break_off_ns: None, hook: joins };
        let (course, todo) = Course::new(planned, terms);
        Self { course, todo, joins, hook, bound, begun: None }
    }

    /// Does what is to be done; at the end says how it went.
    pub fn step(&mut self, kernel: &mut Kernel, mutant: Option<Mutant>) -> Option<Result<(), String>> {
        let saw = match &self.todo {
            Do::Arm(freeze) => {
                kernel.armed = *freeze;
                Saw::Done
            }
            Do::Freeze(swap) => Saw::Swapped(kernel.freeze(swap.old, swap.state, self.bound)),
            Do::Count => match (mutant, self.begun.take()) {
                (Some(Mutant::SumsApart), None) => {
                    self.begun = Some(kernel.begun);
                    return None;
                }
                (_, Some(begun)) => Saw::Open(begun - kernel.finished),
                (_, None) => Saw::Open(kernel.open_writes()),
            },
            Do::CountDoubts if mutant == Some(Mutant::DoubtsForgotten) && !self.joins => Saw::InDoubt(0),
            Do::CountDoubts => Saw::InDoubt(kernel.in_doubt),
            Do::GiveUp => {
                kernel.give_up();
                Saw::Done
            }
            Do::StartHook | Do::PollHook if self.hook.runs > 0 => {
                self.hook.runs -= 1;
                Saw::HookRuns
            }
            Do::StartHook | Do::PollHook => {
                if self.hook.ends.is_ok() {
                    kernel.copy();
                }
                Saw::HookEnded(self.hook.ends.clone())
            }
            Do::KillHook | Do::BreakOff => Saw::Done,
            Do::Flip(swap) | Do::Thaw(swap) => {
                Saw::Swapped(kernel.swap(swap.old, swap.old.next(swap.state.state())))
            }
            Do::EndDoubt(doubts) => {
                kernel.in_doubt -= doubts;
                Saw::Done
            }
            Do::End(result) => return Some(result.clone().map_err(|failed| failed.to_string())),
        };
        self.todo = self.course.next(saw, kernel.now);
        None
    }
}

/// What the migration's thread is about.
#[derive(Clone, Debug)]
enum Busy {
    No,
    Moving(Box<Moving>),
    /// A share: the word that was read, and tries that are left.
    Weighing(u32, Option<SwitchWord>, u32),
    /// The primary is let go: the word that was read.
    Releasing(SwitchWord),
}

/// A daemon that runs.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// The migration.
    pub executor: Executor,
    /// The last move's end, to be told once more.
    pub echo: Option<Event>,
    busy: Busy,
    /// A move that an operator makes by hand, on a thread of its own.
    by_hand: Option<Box<Moving>>,
    /// A freeze that was found is being ended by this swap.
    recovering: Option<(SwitchWord, SwitchWord)>,
    mutant: Option<Mutant>,
}

impl Daemon {
    fn with(executor: Executor, mutant: Option<Mutant>) -> Self {
        Self { executor, echo: None, busy: Busy::No, by_hand: None, recovering: None, mutant }
    }

    /// A migration begins; nothing where that can't be written.
    pub fn begin(plan: &Plan, disk: &mut Disk, mutant: Option<Mutant>) -> Option<Self> {
        let state = State::new(plan);
        let begun = What::Begun(Box::new(plan.clone()), "ann".into());
        let written = disk.append(begun, None, &state, None);
        written.then(|| Self::with(Executor::new(plan.clone(), state, None), mutant))
    }

    /// A daemon after one that died.
    ///
    /// # Errors
    /// When it can't read what that one wrote.
    pub fn restart(kernel: &Kernel, disk: &mut Disk, mutant: Option<Mutant>) -> Result<Self, String> {
        let executor = disk.recover()?.ok_or("the journal knows no migration")?;
        let recovering = left_frozen(kernel.word, kernel.armed).map(|thawed| (kernel.word, thawed));
        Ok(Self { recovering, ..Self::with(executor, mutant) })
    }

    /// Whether it waits for the next tick.
    pub fn is_idle(&mut self) -> bool {
        matches!(self.busy, Busy::No) && self.recovering.is_none() && self.executor.task().is_none()
    }

    /// Whether an operator's move is under way.
    pub fn moves_by_hand(&self) -> bool {
        self.by_hand.is_some()
    }

    /// An operator makes a move by hand.
    pub fn make(&mut self, made: Move, hook: Hook, kernel: &Kernel) {
        if self.by_hand.is_none() && !matches!(self.busy, Busy::Moving(_)) {
            self.by_hand = Moving::begin(made, false, bound_of(made), hook, kernel).ok().map(Box::new);
        }
    }

    /// One atomic operation of the thread of the operator's move.
    pub fn step_by_hand(&mut self, kernel: &mut Kernel) {
        if let Some(moving) = &mut self.by_hand
            && moving.step(kernel, self.mutant).is_some()
        {
            self.by_hand = None;
        }
    }

    /// One atomic operation of the migration's thread. `torn`: it dies in the middle of a line, if it writes one.
    pub fn step(
        &mut self,
        kernel: &mut Kernel,
        disk: &mut Disk,
        torn: Option<usize>,
        hook: impl FnOnce() -> Hook,
    ) {
        if let Some((old, thawed)) = self.recovering.take() {
            kernel.swap(old, thawed);
            return;
        }
        let done = match &mut self.busy {
            Busy::No => return self.task(kernel, disk, torn, hook),
            Busy::Moving(moving) => moving.step(kernel, self.mutant),
            Busy::Weighing(share, read, tries) => weigh_once(*share, read, tries, kernel),
            Busy::Releasing(word) => {
                let alone = word.out_of_sync(Side::Primary);
                let gone = alone.is_none_or(|alone| kernel.swap(*word, alone).is_some());
                Some(if gone { Ok(()) } else { Err("changed".into()) })
            }
        };
        if let Some(result) = done {
            self.busy = Busy::No;
            self.acted(result);
        }
    }

    fn acted(&mut self, result: Result<(), String>) {
        self.echo = match self.executor.task() {
            Some(Task::Act(Action::Make(made))) => Some(Event::Moved(made, result.clone())),
            Some(Task::Act(Action::Rescue)) => Some(Event::Moved(Move::Rollback, result.clone())),
            _ => self.echo.take(),
        };
        self.executor.acted(result);
    }

    fn task(&mut self, kernel: &Kernel, disk: &mut Disk, torn: Option<usize>, hook: impl FnOnce() -> Hook) {
        let (made, rescue) = match self.executor.task() {
            None => return,
            Some(Task::Keep(decision)) => {
                let written = disk.append(decision.what.clone(), Some(&decision), &decision.state, torn);
                self.executor.kept(written, kernel.word);
                return;
            }
            Some(Task::Act(Action::Weigh(share))) => {
                self.busy = Busy::Weighing(share, None, TRIES);
                return;
            }
            Some(Task::Act(Action::Release)) => {
                self.busy = Busy::Releasing(kernel.word);
                return;
            }
            Some(Task::Act(Action::BeginStep | Action::NewJudge)) => return self.acted(Ok(())),
            Some(Task::Act(Action::Make(made))) => (made, false),
            Some(Task::Act(Action::Rescue)) => (Move::Rollback, true),
            // What it loses on purpose is what the rules here forbid.
            Some(Task::Act(Action::TakeIn)) => unreachable!("no plan here puts availability first"),
        };
        if self.by_hand.is_some() {
            return self.acted(Err("another move is under way; wait for it".into()));
        }
        match Moving::begin(made, rescue, bound_of(made), hook(), kernel) {
            Ok(moving) => self.busy = Busy::Moving(Box::new(moving)),
            Err(refused) => self.acted(Err(refused)),
        }
    }
}

/// Reads the word, or swaps the share into the one that was read.
fn weigh_once(
    share: u32,
    read: &mut Option<SwitchWord>,
    tries: &mut u32,
    kernel: &mut Kernel,
) -> Option<Result<(), String>> {
    let Some(word) = read.take() else {
        if kernel.word.weight() == share && *tries == TRIES {
            return Some(Ok(()));
        }
        *read = Some(kernel.word);
        return None;
    };
    let next = match weigh(word, share) {
        Ok(next) => word.next(next.state()),
        Err(refused) => return Some(Err(refused.to_string())),
    };
    if kernel.swap(word, next).is_some() {
        return Some(Ok(()));
    }
    *tries -= 1;
    (*tries == 0).then(|| Err("changed".into()))
}
