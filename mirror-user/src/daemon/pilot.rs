//! The migration by itself: a thread that looks every second, lets the pure machine decide, keeps the decision, and carries
//! it out. What it sees is the switch word, the kernel's counters of compared turns, and its own health checks.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mirror_common::{abi::App, switch_word::Side};
use mirror_control::{
    appointment::Pending,
    breaker::Standing,
    evidence::{History, Judge},
    executor::{Decision, Executor, Task},
    journal::{Entry, What},
    migration::{Action, Command, Event, Seen, Stage, State, Why},
    moves::Move,
    scaler,
    throughput::Throughput,
};

use super::Shared;
use crate::{
    api::migration::{MigrationStatus, OrderRequest, OrderStatus},
    datapath::Turns,
    events::{Kind, Told},
    health::Checker,
    journal::{self, JournalFile},
    metrics::decisions::Decided,
    moves::{Phases, fault},
    policy::Policy,
};

mod appointed;
mod breakers;
mod published;
mod replanned;
mod sight;

/// It looks this often.
const TICK: Duration = Duration::from_secs(1);

/// Who asks for what a migration does.
const BY_ITSELF: &str = "the migration";

/// A health check that takes longer has failed.
const HEALTH: Duration = Duration::from_millis(900);

/// What is asked of the thread.
pub(super) enum Ask {
    /// Begin a migration; by whom.
    Begin(String),
    /// Something of the one under way; by whom.
    Command(Command, String),
    /// A cutover in a window of time; by whom.
    Order(OrderRequest, String),
    /// No longer; by whom.
    Cancel(String),
    /// The last lines of the journal.
    Tail(usize),
    /// To go by another policy; by whom.
    Reload(Arc<Policy>, String),
    /// To keep what was decided of the shadow's size: of which resource, and in words.
    Scaled(String, scaler::Decision, String),
}

/// What it answers.
pub(super) type Answer = Result<Vec<Entry>>;

/// The thread, as the others reach it.
pub(super) struct Pilot {
    asks: Sender<(Ask, Sender<Answer>)>,
    status: Mutex<Option<MigrationStatus>>,
    decided: Mutex<Decided>,
    ordered: Mutex<Option<OrderStatus>>,
}

impl Pilot {
    /// The handle, and the thread's end of it.
    pub(super) fn new() -> (Self, Receiver<(Ask, Sender<Answer>)>) {
        let (asks, asked) = channel();
        (Self { asks, status: Mutex::new(None), decided: Mutex::default(), ordered: Mutex::new(None) }, asked)
    }

    /// Asks, and waits for the answer. While a move is made that takes as long as the move.
    ///
    /// # Errors
    /// When it is refused.
    pub(super) fn ask(&self, ask: Ask) -> Answer {
        let (answers, answer) = channel();
        let gone = || anyhow!("the migration's thread has ended: see the daemon's log");
        self.asks.send((ask, answers)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    /// How the migration stands; nothing where there was none yet.
    pub(super) fn status(&self) -> Option<MigrationStatus> {
        self.status.lock().ok()?.clone()
    }

    /// What the metrics say of decisions.
    pub(super) fn decided(&self) -> Decided {
        self.decided.lock().map(|decided| decided.clone()).unwrap_or_default()
    }

    /// The cutover that is ordered.
    pub(super) fn ordered(&self) -> Option<OrderStatus> {
        self.ordered.lock().ok()?.clone()
    }

    /// Whether a migration is under way that isn't paused: then nobody else moves the traffic.
    pub(super) fn steers(&self) -> bool {
        self.status().is_some_and(|status| !status.over && status.paused_by.is_none())
    }
}

/// Starts the thread; a migration that the journal says is unfinished is taken up.
///
/// # Errors
/// When the journal is damaged, or a thread can't be had.
pub(super) fn start(
    shared: &Arc<Shared>,
    asked: Receiver<(Ask, Sender<Answer>)>,
    state_folder: &Path,
) -> Result<()> {
    let policy = shared.mover.policy();
    let mut thread = Thread {
        shared: Arc::clone(shared),
        checker: Checker::new(HEALTH)?,
        journal: None,
        folder: state_folder.to_owned(),
        running: None,
        appointment: None,
        fault: None,
        took: None,
        breakers: Default::default(),
        history: History::default(),
        throughput: Throughput::default(),
        judge: None,
        last: None,
        rate: shared.board.rate,
    };
    if journal::path_of(state_folder, policy.name.as_str()).exists() {
        thread.take_up()?;
    }
    std::thread::Builder::new().name("pilot".into()).spawn(move || thread.run(&asked))?;
    Ok(())
}

struct Thread {
    shared: Arc<Shared>,
    checker: Checker,
    journal: Option<JournalFile>,
    folder: std::path::PathBuf,
    running: Option<Executor>,
    appointment: Option<Pending>,
    fault: Option<String>,
    /// Of the move that was made last, until it is kept.
    took: Option<Phases>,
    /// How the breakers stood when it was said the last time, by side.
    breakers: [Standing; 2],
    history: History,
    throughput: Throughput,
    judge: Option<Judge>,
    last: Option<Look>,
    rate: f64,
}

/// What was counted so far when the pilot looked.
struct Look {
    at: Instant,
    turns: Turns,
    /// New connections that weren't taken, by side.
    not_taken: [u64; 2],
}

impl Thread {
    fn run(mut self, asked: &Receiver<(Ask, Sender<Answer>)>) {
        loop {
            let due = Instant::now() + TICK;
            loop {
                match asked.recv_timeout(due.saturating_duration_since(Instant::now())) {
                    Ok((ask, answers)) => {
                        let answer = self.answer(ask);
                        self.tell();
                        // Who asked may have gone.
                        let _ = answers.send(answer);
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            let kept = self.keep_appointment().context("ordered cutover");
            let broken = self.look_after_breakers().context("circuit breaker");
            let fault = self.tick().and(kept).and(broken).err().map(|error| format!("migration: {error:#}"));
            self.fault(fault);
            self.tell();
        }
    }

    fn say(&self, line: String) {
        if let Ok(mut state) = self.shared.state.lock() {
            state.say(line);
        }
    }

    /// Says what goes wrong; told to others when it begins, not at each tick.
    fn fault(&mut self, fault: Option<String>) {
        if let Some(fault) = &fault {
            if self.fault.as_ref() != Some(fault) {
                self.shared.events.tell(Kind::Fault, Told::reason(fault));
            }
            self.say(fault.clone());
        }
        self.fault = fault;
    }

    /// Opens the journal, and goes on with what it says is under way.
    fn take_up(&mut self) -> Result<()> {
        let (file, journal) = JournalFile::open(&self.folder, self.shared.mover.name.as_str())?;
        self.journal = Some(file);
        self.appointment = journal.appointment().map(Pending::new);
        if let Some(executor) = Executor::take_up(&journal) {
            let stage = executor.state().stage;
            if !stage.is_over() {
                self.say(format!("migration: taken up at {}", stage.name()));
                self.history = sight::read(&self.file("history"));
                self.throughput = sight::read(&self.file("throughput"));
            }
            self.running = Some(executor);
        }
        self.tell();
        Ok(())
    }

    fn answer(&mut self, ask: Ask) -> Answer {
        match ask {
            Ask::Begin(who) => self.begin(who).map(|()| Vec::new()),
            Ask::Order(request, who) => self.order(&request, who).map(|()| Vec::new()),
            Ask::Cancel(who) => self.cancel(who).map(|()| Vec::new()),
            Ask::Command(command, who) => {
                // Who ends everything ends this too, with or without a migration.
                if command == Command::Abort && self.appointment.is_some() {
                    let cancelled = self.cancel(who.clone());
                    if !self.under_way() {
                        return cancelled.map(|()| Vec::new());
                    }
                    // A full disk mustn't hinder the way back; without its migration the order comes to nothing.
                    if let Err(error) = cancelled {
                        self.say(format!("ordered cutover: {error:#}"));
                    }
                }
                ensure!(self.under_way(), "no migration is under way: mirror migrate APP");
                let stage = self.running.as_ref().map(|running| running.state().stage);
                if command == Command::Finalize && stage != Some(Stage::Standby) {
                    bail!("only a migration in standby can be finalized");
                }
                self.event(Event::Asked(command, who)).map(|()| Vec::new())
            }
            Ask::Reload(policy, who) => self.reload(policy, who).map(|()| Vec::new()),
            Ask::Tail(limit) => match &mut self.journal {
                Some(journal) => journal.tail(limit),
                None => Ok(Vec::new()),
            },
            Ask::Scaled(resource, decision, words) => {
                let what = What::Scaled(resource, decision);
                self.keep_beside(what, &Why::Scaling(words)).map(|()| Vec::new())
            }
        }
    }

    fn app(&self) -> &str {
        self.shared.mover.name.as_str()
    }

    /// Keeps a line beside whatever migration there is, or was; before the first there is nothing that its state could be
    /// mistaken for.
    fn keep_beside(&mut self, what: What, why: &Why) -> Result<()> {
        if self.journal.is_none() {
            self.take_up()?;
        }
        let plan =
            self.shared.mover.policy().migration.plan().map_err(|what| anyhow!("[migration]: {what}"))?;
        let state =
            self.running.as_ref().map_or_else(|| State::new(&plan), |running| running.state().clone());
        let under_way = self.under_way();
        let journal = self.journal.as_mut().context("the journal is open")?;
        // An order that is put aside with the rest would be forgotten at the next start.
        if !under_way && self.appointment.is_none() {
            journal.make_room()?;
        }
        journal.append(what, Some(why), &state)
    }

    fn under_way(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.state().stage.is_over())
    }

    fn begin(&mut self, who: String) -> Result<()> {
        ensure!(!self.under_way(), "a migration is under way: mirror why APP, or mirror abort APP");
        ensure!(
            self.appointment.is_none(),
            "a cutover is ordered: mirror cutover {} --cancel first",
            self.app()
        );
        let policy = self.shared.mover.policy();
        ensure!(policy.has_shadow(), "the policy names no shadow");
        let word = self.shared.mover.words.load(0);
        ensure!(
            word.authority() == Side::Primary,
            "the shadow has the authority already: mirror rollback APP first"
        );
        let plan = policy.migration.plan().map_err(|what| anyhow!("the policy's [migration]: {what}"))?;
        if self.journal.is_none() {
            self.take_up()?;
        }
        let state = State::new(&plan);
        let journal = self.journal.as_mut().context("the journal is open")?;
        journal.append(What::Begun(Box::new(plan.clone()), who.clone()), None, &state)?;
        let stage = Some(state.stage.name().into());
        let told = Told { who: Some(who), stage, ..Told::reason("begun") };
        self.shared.events.tell(Kind::Phase, told);
        self.running = Some(Executor::new(plan, state, None));
        self.judge = None;
        (self.history, self.throughput) = (History::default(), Throughput::default());
        self.last = None;
        Ok(())
    }

    fn tick(&mut self) -> Result<()> {
        if !self.under_way() {
            return Ok(());
        }
        let seconds = self.look()?;
        let verdict = self.judge.as_ref().map(Judge::verdict);
        self.count(verdict.as_ref());
        let healthy = self.as_breakers_say(self.healthy(&Side::BOTH)?)?;
        let word = self.shared.mover.words.load(0);
        let capacity = self.shared.board.scaling().capacity;
        let (unsettled, divergence) = self.before_cutover();
        let plan = self.running.as_ref().map(Executor::plan);
        let shortfall = plan.and_then(|plan| self.throughput.shortfall(&plan.throughput));
        let seen = Seen { seconds, word, verdict, shortfall, healthy, capacity, unsettled, divergence };
        self.event(Event::Tick(Box::new(seen)))
    }

    /// Whether each of these sides is well; nothing where there is none. Each of its services must be: of several servers one is
    /// enough, and another thread asks those.
    fn healthy(&self, sides: &[Side]) -> Result<[Option<bool>; 2]> {
        let policy = self.shared.mover.policy();
        let (mut whose, mut asked) = (Vec::new(), Vec::new());
        for one in policy.servers().filter(|one| sides.contains(&one.side) && !one.end.has_several()) {
            whose.push(one);
            asked.push((one.at, policy.check(one.service)));
        }
        let found = self.checker.ask_all(&asked);
        for (one, _) in whose.iter().zip(&found).filter(|(_, well)| !**well) {
            tracing::debug!("the {} isn't well: {}", one.whose(), one.at);
        }
        let mut healthy = [None; 2];
        let mut and = |side: Side, well: bool| {
            let all = &mut healthy[side as usize];
            *all = Some(well && *all != Some(false));
        };
        whose.iter().zip(found).for_each(|(one, well)| and(one.side, well));
        let state = self.shared.state.lock().map_err(|_| anyhow!("poisoned"))?;
        for side in sides {
            state.any_are_well(*side).for_each(|well| and(*side, well));
        }
        Ok(healthy)
    }

    /// Lets the machine decide, keeps that, and does it. A move that it asks for is an event of its own.
    fn event(&mut self, event: Event) -> Result<()> {
        if let Some(running) = &mut self.running {
            running.event(event);
        }
        while let Some(task) = self.running.as_mut().and_then(Executor::task) {
            match task {
                Task::Keep(decision) => self.keep(&decision)?,
                Task::Act(action) => {
                    let result = self.act(action).map_err(|error| format!("{error:#}"));
                    if let (Err(error), false) = (&result, matches!(action, Action::Make(_) | Action::Rescue))
                    {
                        // Of a move its own line tells.
                        self.say(format!("migration: {action:?}: {error}"));
                    }
                    if let Some(running) = &mut self.running {
                        running.acted(result);
                    }
                    fault("acted");
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, decision: &Decision) -> Result<()> {
        let Decision { what, why, state, .. } = decision;
        let written = match &mut self.journal {
            Some(journal) => journal.append_move(what.clone(), Some(why), state, self.took.take()),
            None => Ok(()),
        };
        let word = self.shared.mover.words.load(0);
        let running = self.running.as_mut().context("a migration is under way")?;
        let was = running.state().stage;
        let kept = running.kept(written.is_ok(), word);
        if let Err(error) = written {
            ensure!(kept, "nothing is decided: {error:#}");
            tracing::error!("carried out without a line in the journal: {error:#}");
        }
        if decision.changes {
            fault("kept");
        }
        self.publish(was, decision);
        self.say(format!("migration: {}: {why}", state.stage.name()));
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Rescue => self.took = Some(self.shared.rescue(Move::Rollback, BY_ITSELF)?),
            Action::Make(wanted) => self.took = Some(self.shared.make(wanted, BY_ITSELF)?),
            Action::TakeIn => {
                self.shared.take_in(BY_ITSELF)?;
                let lost = "the primary is taken in as it is, and what only the dead authority has is lost: availability first";
                self.say(lost.into());
                self.shared.events.tell(Kind::Fault, Told::reason(lost));
            }
            Action::Weigh(share) => {
                if self.shared.mover.words.load(0).weight() != share {
                    self.shared.mover.weigh(share)?;
                }
            }
            Action::BeginStep => {
                if let Some(judge) = &mut self.judge {
                    judge.begin_step();
                }
            }
            Action::NewJudge => {
                self.judge = None;
                self.shared.compared.begin(self.shared.turns().as_ref());
            }
            Action::Release => {
                let words = &self.shared.mover.words;
                // Held, so that nobody sees the word before it is known why.
                let mut state = self.shared.state.lock().map_err(|_| anyhow!("poisoned"))?;
                let word = words.load(0);
                if let Some(alone) = word.out_of_sync(Side::Primary) {
                    let alone = words.swap(0, word, alone);
                    let alone = alone.map_err(|_| anyhow!("the switch word changed meanwhile"))?;
                    words.keep_reason(0, App::RELEASED);
                    state.released(alone);
                }
            }
        }
        Ok(())
    }
}
