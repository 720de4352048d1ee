//! Cutovers that were ordered beforehand: taken, kept in the journal, carried out in their time.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use mirror_common::switch_word::Side;
use mirror_control::{
    appointment::{Appointment, Clocks, Note, Pending, Turn},
    journal::What,
    migration::{Command, Event, Plan, Stage, State, Why},
};

use super::Thread;
use crate::{
    api::migration::OrderRequest,
    events::{Kind, Told},
    words::monotonic_ns,
};

/// Milliseconds since 1970, UTC; a clock before that says 0.
fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn clocks() -> Clocks {
    Clocks { wall_ms: wall_ms(), monotonic_ms: monotonic_ns() / 1_000_000 }
}

impl Thread {
    /// Takes an order.
    pub(super) fn order(&mut self, request: &OrderRequest, who: String) -> Result<()> {
        ensure!(
            self.appointment.is_none(),
            "a cutover is ordered already: mirror cutover {} --cancel first",
            self.app()
        );
        let word = self.shared.mover.words.load(0);
        ensure!(word.authority() == Side::Primary, "the shadow has the authority already");
        let by_migration = self.under_way();
        let by_itself = self.running.as_ref().is_some_and(|running| running.plan().cutover_by_itself);
        if by_migration && by_itself {
            bail!(
                "the policy lets the migration make the cutover as soon as it is ready (`cutover = \"auto\"`)"
            );
        }
        ensure!(
            by_migration || !request.when_ready,
            "no migration is under way: mirror migrate {}",
            self.app()
        );
        ensure!(
            !by_migration || request.despite.is_empty(),
            "the migration under way makes the cutover, and waives nothing: pause it first (mirror pause {}), and make it by \
             hand",
            self.app()
        );
        let OrderRequest { at_ms, until_ms, despite, .. } = request.clone();
        let order = Appointment { at_ms, until_ms, by_migration, who, despite };
        order.check(wall_ms())?;
        if self.journal.is_none() {
            self.take_up()?;
        }
        self.note(Note::Ordered(order.clone()))?;
        self.appointment = Some(Pending::new(order));
        Ok(())
    }

    /// Ends what was ordered.
    pub(super) fn cancel(&mut self, who: String) -> Result<()> {
        ensure!(self.appointment.is_some(), "no cutover is ordered");
        self.end_appointment(Note::Cancelled(who))
    }

    /// Looks at the clocks, and does what is due.
    pub(super) fn keep_appointment(&mut self) -> Result<()> {
        let Some(pending) = &mut self.appointment else { return Ok(()) };
        let by_migration = pending.order.by_migration;
        if self.shared.mover.words.load(0).authority() == Side::Shadow {
            return self.end_appointment(Note::Made);
        }
        let (who, despite) = (pending.order.who.clone(), pending.order.despite.clone());
        let (turn, notes) = pending.look(clocks());
        for note in notes {
            if note.ends() {
                return self.end_appointment(note);
            }
            self.note(note)?;
        }
        match (turn, by_migration) {
            (Turn::Open, true) if self.under_way() => self.ask_for_cutover(who),
            (Turn::Open, true) => {
                self.end_appointment(Note::Failed("the migration that it was ordered of is over".into()))
            }
            (Turn::Open, false) => match self.shared.cut_over(&who, &self.shared.preconditions(), &despite) {
                Ok(phases) => {
                    self.took = Some(phases);
                    self.end_appointment(Note::Made)
                }
                Err(error) => {
                    let words = format!("{error:#}");
                    let lines: Vec<_> = words.lines().map(str::trim).collect();
                    self.end_appointment(Note::Failed(lines.join(" ")))
                }
            },
            (Turn::Waits | Turn::Over, _) => Ok(()),
        }
    }

    /// Once, and again behind a failure for as long as there are attempts left.
    fn ask_for_cutover(&mut self, who: String) -> Result<()> {
        let Some(running) = &self.running else { return Ok(()) };
        let (state, plan) = (running.state(), running.plan());
        let left = state.failed_cutovers < plan.moves.attempts;
        if state.cutover_asked || state.stage == Stage::CuttingOver || !left {
            return Ok(());
        }
        self.event(Event::Asked(Command::Cutover, who))
    }

    fn end_appointment(&mut self, note: Note) -> Result<()> {
        let asked = self.running.as_ref().is_some_and(|running| running.state().cutover_asked);
        let withdrawn = asked && note != Note::Made && self.under_way();
        let by = note.to_string();
        self.note(note)?;
        self.appointment = None;
        if withdrawn {
            self.event(Event::Asked(Command::Withdraw, by))?;
        }
        Ok(())
    }

    /// Keeps a line of the journal, and says it.
    fn note(&mut self, note: Note) -> Result<()> {
        let state = self.running.as_ref().map(|running| running.state().clone());
        let state = state.unwrap_or_else(|| State::new(&Plan::default()));
        let name = note.name();
        let why = Why::Appointment(note);
        let journal = self.journal.as_mut().context("the journal is open")?;
        journal.append_move(What::Appointment, Some(&why), &state, self.took.take())?;
        self.say(why.to_string());
        self.shared
            .events
            .tell(Kind::Order, Told { cause: Some(name.into()), ..Told::reason(why.to_string()) });
        Ok(())
    }
}
