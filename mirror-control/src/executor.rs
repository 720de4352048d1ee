//! Carries a migration out: which line the journal gets before which action is done, and what follows an action that failed.
//! The daemon and the simulated datapath do what it says; neither has a choice left.
//!
//! ```text
//!   event ─► step ─► Keep ─► kept ─► Act ─► acted ─► Act … ─► the next event (a move that was made is one)
//! ```
//! Nothing is done that the journal doesn't have; but for what goes back, which a full disk mustn't hinder.

use std::collections::VecDeque;

use mirror_common::switch_word::SwitchWord;

use crate::{
    journal::{Journal, What},
    migration::{Action, Event, Plan, State, Why, step},
    moves::Move,
};

/// A line for the journal, and what it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What happened.
    pub what: What,
    /// Why.
    pub why: Why,
    /// What stands from here on.
    pub state: State,
    /// What is done behind it.
    pub actions: Vec<Action>,
    /// Something is to be done, or the stage is another one: not only news.
    pub changes: bool,
    /// It tells how a move ended, which is so whether it is written or not.
    told: bool,
}

impl Decision {
    /// Whether it may be carried out without its line.
    fn goes_back(&self, word: SwitchWord) -> bool {
        let back = |action: &Action| match action {
            Action::Make(made) => *made == Move::Rollback,
            Action::Weigh(share) => *share <= word.weight(),
            Action::BeginStep | Action::NewJudge | Action::Rescue | Action::TakeIn => true,
            Action::Release => false,
        };
        self.told || self.actions.iter().all(back)
    }
}

/// What is done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Append a line to the journal, and sync it. Answer: [`Executor::kept`].
    Keep(Box<Decision>),
    /// Do something. Answer: [`Executor::acted`].
    Act(Action),
}

/// A migration under way, or over.
#[derive(Clone, Debug, PartialEq)]
pub struct Executor {
    plan: Plan,
    state: State,
    why: Option<Why>,
    events: VecDeque<Event>,
    deciding: Option<Box<Decision>>,
    actions: VecDeque<Action>,
}

impl Executor {
    /// A migration that begins, or goes on.
    pub fn new(plan: Plan, state: State, why: Option<Why>) -> Self {
        let (events, deciding, actions) = (VecDeque::new(), None, VecDeque::new());
        Self { plan, state, why, events, deciding, actions }
    }

    /// The migration that a journal tells of, if there was one. What its last line wanted done and wasn't, the next tick
    /// finds by the switch word.
    pub fn take_up(journal: &Journal) -> Option<Self> {
        let (plan, state) = journal.last()?;
        Some(Self::new(plan, state, journal.last_why().cloned()))
    }

    /// What is decided by.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Why it stands there.
    pub fn why(&self) -> Option<&Why> {
        self.why.as_ref()
    }

    /// From here on it is decided by another plan, which the journal has. What was decided before is done all the same.
    pub fn replan(&mut self, plan: Plan) {
        self.plan = plan;
    }

    /// Something happened. It is decided on when all that was decided before is done.
    pub fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// What is done next; nothing until the next event.
    pub fn task(&mut self) -> Option<Task> {
        loop {
            if let Some(decision) = &self.deciding {
                return Some(Task::Keep(decision.clone()));
            }
            if let Some(action) = self.actions.front() {
                return Some(Task::Act(*action));
            }
            self.decide()?;
        }
    }

    fn decide(&mut self) -> Option<()> {
        let event = self.events.pop_front()?;
        let asked = match &event {
            Event::Asked(command, who) => Some(What::Asked(*command, who.clone())),
            Event::Moved(..) => Some(What::Moved),
            Event::Tick(_) => None,
        };
        let told = matches!(event, Event::Moved(..));
        let (state, actions, why) = step(&self.plan, self.state.clone(), event);
        let what = asked.clone().unwrap_or_else(|| What::Decided(actions.clone()));
        let changes = !actions.is_empty() || state.stage != self.state.stage;
        let decision = Decision { what, why, state, actions, changes, told };
        if asked.is_some() || changes {
            self.deciding = Some(Box::new(decision));
        } else {
            // Time has passed: no line.
            self.carry(decision);
        }
        Some(())
    }

    fn carry(&mut self, decision: Decision) {
        (self.state, self.why) = (decision.state, Some(decision.why));
        self.actions.extend(decision.actions);
    }

    /// The line is written, or couldn't be. Returns whether what it says is carried out; where it isn't, nothing has been
    /// decided. `word`: as it stands.
    pub fn kept(&mut self, written: bool, word: SwitchWord) -> bool {
        match self.deciding.take() {
            Some(decision) if written || decision.goes_back(word) => {
                self.carry(*decision);
                true
            }
            _ => false,
        }
    }

    /// The first action of those to be done is done, or failed. What follows it is done all the same: a share that couldn't
    /// be set is seen, and set again, at the next tick. The end of a move is an event.
    pub fn acted(&mut self, result: Result<(), String>) {
        let made = match self.actions.pop_front() {
            Some(Action::Make(made)) => made,
            Some(Action::Rescue) => Move::Rollback,
            Some(
                Action::Weigh(_) | Action::BeginStep | Action::NewJudge | Action::Release | Action::TakeIn,
            )
            | None => return,
        };
        self.events.push_front(Event::Moved(made, result));
    }
}

#[cfg(test)]
mod tests {
    use mirror_common::switch_word::Side;

    use super::*;
    use crate::{
        evidence::{Progress, Verdict},
        migration::{Command, Seen, Stage},
    };

    fn seen(word: SwitchWord, seconds: f64) -> Event {
        let progress = Progress { have: 10_000, need: 5_000, evidence: [Some(9.0); 4], threshold: 5.0 };
        let verdict = Some(Verdict::NoWorse(progress));
        Event::Tick(Box::new(Seen {
            seconds,
            word,
            verdict,
            shortfall: None,
            healthy: [None; 2],
            capacity: [None, None],
            unsettled: None,
            divergence: None,
        }))
    }

    /// One that is about to take its first step.
    fn mirroring() -> (Executor, SwitchWord) {
        let plan = Plan::default();
        let state = State { stage: Stage::Mirroring, ..State::new(&plan) };
        (Executor::new(plan, state, None), SwitchWord::initial().with_member(Side::Shadow, true))
    }

    #[test]
    fn an_action_that_fails_takes_none_of_the_others_with_it() {
        let (mut executor, word) = mirroring();
        executor.event(seen(word, 1e6));
        assert!(matches!(executor.task(), Some(Task::Keep(_))));
        assert!(executor.kept(true, word));
        assert_eq!(executor.task(), Some(Task::Act(Action::Weigh(100))));
        executor.acted(Err("the switch word changed meanwhile".into()));
        assert_eq!(executor.task(), Some(Task::Act(Action::BeginStep)));
        executor.acted(Ok(()));
        assert_eq!(executor.task(), None);
        // What failed is made good at the next tick, and the evidence of the step begins with it.
        executor.event(seen(word, 1.0));
        let Some(Task::Keep(again)) = executor.task() else { panic!("no decision") };
        assert_eq!(again.actions, [Action::Weigh(100), Action::BeginStep]);
    }

    #[test]
    fn without_its_line_nothing_is_decided_but_what_goes_back() {
        let (mut executor, word) = mirroring();
        let before = executor.clone();
        executor.event(seen(word, 1e6));
        assert!(executor.task().is_some() && !executor.kept(false, word));
        assert_eq!((executor.state(), executor.why()), (before.state(), None));
        assert_eq!(executor.task(), None);
        let shifting = word.with_weight(5_000);
        let (mut back, _) = mirroring();
        back.event(Event::Asked(Command::Abort, "ann".into()));
        assert!(back.task().is_some() && back.kept(false, shifting));
        back.event(seen(shifting, 1e6));
        assert!(back.task().is_some() && back.kept(false, shifting));
        assert_eq!(back.task(), Some(Task::Act(Action::Weigh(0))));
    }

    #[test]
    fn the_end_of_a_move_comes_before_what_happened_meanwhile() {
        let plan = Plan::default();
        let mut executor = Executor::new(plan.clone(), State::new(&plan), None);
        let word = SwitchWord::initial();
        executor.event(seen(word, 1e6));
        executor.event(Event::Asked(Command::Pause, "ann".into()));
        assert!(executor.task().is_some() && executor.kept(true, word));
        assert_eq!(executor.task(), Some(Task::Act(Action::Make(Move::Join))));
        executor.acted(Ok(()));
        let Some(Task::Keep(next)) = executor.task() else { panic!("no decision") };
        assert_eq!((next.what, next.state.stage), (What::Moved, Stage::Mirroring));
    }
}
