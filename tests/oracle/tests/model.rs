//! Every order of a few packets' atomic operations with the daemon's, its clock, its death and its return: a model check.
//!
//! The datapath is the simulated one, its words those of `mirror-common`, and the daemon's moves are the courses that the real
//! daemon follows; what seeds draw at random elsewhere is tried here in each way that there is.

use mirror_common::switch_word::SwitchWord;
use mirror_control::moves::{Move, left_frozen, plan};
use oracle::migrations::{
    Mutant,
    daemon::{Hook, Moving},
    kernel::{Choice, FLOWS, Kernel, Seen},
};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// What there is to be explored.
#[derive(Clone, Debug)]
struct Bounds {
    /// What the daemon does, in order.
    moves: &'static [Move],
    /// The side that is to be joined is in sync: it is put out first.
    again: bool,
    /// The authority may be dead: what waits for it is ended.
    rescue: bool,
    /// Writes that each connection begins.
    writes: [u8; FLOWS],
    /// Deadlines that pass.
    ticks: u8,
    crashes: u8,
    losses: u8,
    mutant: Option<Mutant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    kernel: Kernel,
    alive: bool,
    moving: Option<Moving>,
    /// A daemon that was started again ends a freeze by this swap.
    recovering: Option<(SwitchWord, SwitchWord)>,
    made: usize,
    writes: [u8; FLOWS],
    ticks: u8,
    crashes: u8,
    losses: u8,
}

#[derive(Clone, Debug, PartialEq)]
enum Act {
    Packet(usize, Option<Choice>),
    /// A deadline's time passes.
    Tick,
    /// An operation of the daemon's.
    Daemon,
    Crash,
    Restart,
}

impl Bounds {
    fn begin(&self, state: &mut State) {
        let word = state.kernel.word;
        if self.again && word.member(word.authority().other()) {
            state.moving = Moving::put_out(1, &state.kernel).ok();
            return;
        }
        let hook = Hook { runs: 1, ends: Ok(()) };
        let made = self.moves[state.made];
        state.made += 1;
        // A refusal is an end, too.
        state.moving = Moving::begin(made, self.rescue, 1, hook, &state.kernel).ok();
    }

    fn daemon(&self, state: &mut State) {
        if let Some((old, thawed)) = state.recovering.take() {
            state.kernel.swap(old, thawed);
        } else if let Some(moving) = &mut state.moving {
            if moving.step(&mut state.kernel, self.mutant).is_some() {
                state.moving = None;
            }
        } else {
            self.begin(state);
        }
    }
}

/// Only differences of the counts matter, and what was seen doesn't.
fn normal(state: &mut State) {
    let finished = std::mem::take(&mut state.kernel.finished);
    state.kernel.begun -= finished;
    if let Some(begun) = state.moving.as_mut().and_then(|moving| moving.begun.as_mut()) {
        // Below 0 is as good as 0.
        *begun = (*begun - finished).max(0);
    }
    state.kernel.seen = Seen::default();
}

impl Model for Bounds {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        let mut kernel = Kernel::new(self.mutant);
        if self.moves[0] != Move::Join || self.again {
            let joined = plan(kernel.word, Move::Join).expect("nobody has joined").done;
            kernel.copy();
            kernel.swap(kernel.word, kernel.word.next(joined.state()));
        }
        let Bounds { writes, ticks, crashes, losses, .. } = *self;
        let (moving, recovering) = (None, None);
        vec![State { kernel, alive: true, moving, recovering, made: 0, writes, ticks, crashes, losses }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Act>) {
        if state.kernel.broken.is_some() {
            return;
        }
        for flow in 0..FLOWS {
            let begins = state.kernel.is_idle(flow) && !state.kernel.is_held(flow);
            if begins && state.writes[flow] == 0 {
                continue;
            }
            for choice in state.kernel.choices(flow) {
                if !matches!(choice, Some(Choice::Lose(..))) || state.losses > 0 {
                    actions.push(Act::Packet(flow, choice));
                }
            }
        }
        if state.ticks > 0 {
            actions.push(Act::Tick);
        }
        if !state.alive {
            actions.push(Act::Restart);
        } else {
            if state.moving.is_some() || state.recovering.is_some() || state.made < self.moves.len() {
                actions.push(Act::Daemon);
            }
            if state.crashes > 0 && state.moving.is_some() {
                actions.push(Act::Crash);
            }
        }
    }

    fn next_state(&self, last: &State, action: Act) -> Option<State> {
        let mut state = last.clone();
        match action {
            Act::Packet(flow, choice) => {
                let begins = state.kernel.is_idle(flow) && !state.kernel.is_held(flow);
                state.writes[flow] -= u8::from(begins);
                state.losses -= u8::from(matches!(choice, Some(Choice::Lose(..))));
                state.kernel.step(flow, choice);
            }
            Act::Tick => {
                state.ticks -= 1;
                state.kernel.now += 1;
            }
            Act::Daemon => self.daemon(&mut state),
            Act::Crash => {
                state.crashes -= 1;
                (state.alive, state.moving) = (false, None);
            }
            Act::Restart => {
                state.alive = true;
                let word = state.kernel.word;
                state.recovering = left_frozen(word, state.kernel.armed).map(|thawed| (word, thawed));
            }
        }
        normal(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no rule of the datapath's is broken", |_, state: &State| {
                state.kernel.broken.is_none()
            }),
            Property::always("a daemon that does nothing leaves nothing frozen", |_, state: &State| {
                let busy = !state.alive || state.moving.is_some() || state.recovering.is_some();
                busy || !state.kernel.word.frozen()
            }),
            Property::sometimes("the authority goes over", |bounds: &Bounds, state: &State| {
                let shadow = state.kernel.word.authority() as u8 == 1;
                shadow || bounds.moves[0] == Move::Join
            }),
            Property::sometimes("a write waits", |_, state: &State| {
                (0..FLOWS).any(|flow| state.kernel.is_held(flow))
            }),
            Property::sometimes("all is done", |bounds: &Bounds, state: &State| {
                let over = state.made == bounds.moves.len() && state.moving.is_none();
                over && state.writes == [0; FLOWS] && (0..FLOWS).all(|flow| state.kernel.is_idle(flow))
            }),
        ]
    }
}

fn bounds(moves: &'static [Move], writes: [u8; FLOWS]) -> Bounds {
    Bounds { moves, again: false, rescue: false, writes, ticks: 1, crashes: 1, losses: 0, mutant: None }
}

/// Explores all of it.
fn explore(what: &str, bounds: Bounds) {
    let checked = bounds.checker().spawn_bfs().join();
    println!("{what}: {} states, depth {}", checked.unique_state_count(), checked.max_depth());
    if let Some(path) = checked.discovery("no rule of the datapath's is broken") {
        let rule = path.last_state().kernel.broken.clone();
        panic!("{what}: {rule:?}\n{:?}", path.into_actions());
    }
    checked.assert_properties();
}

/// C2: in every order of the atomic steps.
#[test]
fn cutover_with_writes_of_two_connections() {
    explore("cutover", Bounds { ticks: 2, ..bounds(&[Move::Cutover], [2, 2, 0]) });
}

#[test]
fn cutover_with_writes_of_three_connections() {
    explore("cutover of three", Bounds { crashes: 0, ..bounds(&[Move::Cutover], [1, 1, 1]) });
}

/// C2, C3: an open write whose leg is lost is counted out.
#[test]
fn cutover_where_legs_are_lost() {
    explore("cutover with losses", Bounds { losses: 2, ..bounds(&[Move::Cutover], [2, 1, 0]) });
}

#[test]
fn there_and_back_though_the_authority_may_be_dead() {
    let moves = &[Move::Cutover, Move::Rollback];
    explore("there and back", Bounds { rescue: true, losses: 1, ..bounds(moves, [2, 1, 0]) });
}

#[test]
fn join_with_a_hook() {
    explore("join", Bounds { ticks: 2, ..bounds(&[Move::Join], [2, 2, 0]) });
}

#[test]
fn join_again_of_a_mirror_that_is_in_sync() {
    explore("join again", Bounds { again: true, losses: 1, ..bounds(&[Move::Join], [2, 1, 0]) });
}

/// A model that finds no fault says nothing.
#[test]
fn every_mutant_is_found() {
    for mutant in Mutant::ALL {
        let losses = u8::from(mutant == Mutant::DoubtsForgotten);
        let bounds = Bounds { mutant: Some(mutant), losses, ..bounds(&[Move::Cutover], [1, 1, 1]) };
        let checked = bounds.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let path = checked.discovery("no rule of the datapath's is broken");
        let path = path.unwrap_or_else(|| panic!("{mutant:?} isn't found"));
        let rule = path.last_state().kernel.broken.clone().unwrap_or_default();
        let first = rule.lines().next().unwrap_or_default().to_owned();
        println!("{mutant:?}: {first}, in {} operations", path.into_actions().len());
        assert!(mutant.breaks().contains(&first.as_str()), "{mutant:?} is found by another rule: {rule}");
    }
}
