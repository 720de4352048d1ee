//! A migration by itself: from "no shadow is in sync" to "finalized", or safely back, one decision at a time.
//!
//! ```text
//!              joined               dark, no worse                last step, no worse
//!   Joining ─────────► Mirroring ◄───────────────► Shifting ──────────────────────────► Ready
//!      ▲ └─ gave up ─► Aborted      worse, or the shadow fell out of sync                 │ cutover
//!      └────────────────────────────── out of sync ◄────────────────────────── aborted ◄──┤
//!                                                                                          ▼
//!   RolledBack ◄── RollingBack ◄── worse, or unhealthy ── Standby ◄───────────────── CuttingOver
//!                                                            └── its time is over ──► Finalized
//! ```
//! [`step`] is the only way from a [`State`] to the next, and pure: the switch word tells the truth about traffic in each
//! [`Event::Tick`]; the state is what is intended, and is kept in the journal before its actions are carried out. Between a
//! move that is asked for and its end no tick comes; a daemon that was killed there finds at its next tick what became of it.

use mirror_common::switch_word::{Side, SwitchWord};
use serde::{Deserialize, Serialize};

use crate::{
    evidence::{JudgeError, JudgePolicy, Verdict},
    moves::Move,
    precondition::{self, Differing, Facts, Held, Unsettled},
    throughput::{Shortfall, ThroughputPolicy},
    weight::{self, Change, Judging, WeightPolicy, WeightPolicyError, WeightState},
};

mod capacity;
mod stage;
mod standby;
mod why;

pub use capacity::Capacity;
pub use stage::Stage;
pub use why::{Grounds, Why};

/// Everything that a migration decides by; immutable once it has begun.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// Steps of the weight, and their times.
    pub weight: WeightPolicy,
    /// What the shadow may be worse by, and how sure one must be.
    pub judge: JudgePolicy,
    /// The cutover is made by itself as soon as all is ready.
    pub cutover_by_itself: bool,
    /// Bounds of the moves.
    pub moves: MovePolicy,
    /// From when on the new authority's answers are too few.
    pub throughput: ThroughputPolicy,
}

/// How often a move is tried, and how long the primary stands by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MovePolicy {
    /// Joins and cutovers that may fail before an operator has to look, each.
    pub attempts: u32,
    /// Seconds between two attempts.
    pub retry_seconds: f64,
    /// Seconds for which the primary stays in standby behind the cutover.
    pub standby_seconds: f64,
    /// Seconds without a good health check after which the new authority is taken for dead.
    pub unhealthy_seconds: f64,
    /// A primary that is out of sync takes over from a dead authority: what only that one has is lost.
    pub availability_first: bool,
}

impl Default for MovePolicy {
    fn default() -> Self {
        Self {
            attempts: 3,
            retry_seconds: 30.0,
            standby_seconds: 3_600.0,
            unhealthy_seconds: 3.0,
            availability_first: false,
        }
    }
}

/// Why a plan makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Its steps.
    #[error(transparent)]
    Weight(#[from] WeightPolicyError),
    /// Its bounds of evidence.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// Its moves.
    #[error("{0} is out of range")]
    Moves(&'static str),
}

impl Plan {
    /// Checks every number.
    ///
    /// # Errors
    /// The first one that makes no sense.
    pub fn validate(&self) -> Result<(), PlanError> {
        self.weight.validate()?;
        self.judge.validate()?;
        let days = 30.0 * 86_400.0;
        let moves = &self.moves;
        let bad = [
            (moves.attempts == 0, "attempts"),
            (!(0.0..=days).contains(&moves.retry_seconds), "retry"),
            (!(0.0..=days).contains(&moves.standby_seconds), "standby"),
            (!(0.1..=3_600.0).contains(&moves.unhealthy_seconds), "unhealthy"),
        ];
        bad.iter().find(|(bad, _)| *bad).map_or(Ok(()), |(_, name)| Err(PlanError::Moves(name)))?;
        self.throughput.validate().map_err(PlanError::Moves)
    }
}

/// What a migration remembers. Kept in the journal, whole, with every entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Where it stands.
    pub stage: Stage,
    /// The weight controller's.
    pub weight: WeightState,
    /// Joins that failed since the last one that didn't.
    pub failed_joins: u32,
    /// Cutovers that failed.
    pub failed_cutovers: u32,
    /// Seconds until the next attempt at a move.
    pub retry_seconds: f64,
    /// Seconds of standby that are left.
    pub standby_seconds: f64,
    /// Seconds for which the new authority has been unhealthy.
    pub unhealthy_seconds: f64,
    /// An operator asked for the cutover.
    pub cutover_asked: bool,
    /// An operator asked for the end of it, and not all reads are the primary's yet.
    pub aborting: bool,
    /// The new authority leaves requests unanswered: on the way back it isn't waited for.
    #[serde(default)]
    pub unanswered: bool,
}

impl State {
    /// A migration that has just been asked for.
    pub fn new(plan: &Plan) -> Self {
        Self {
            stage: Stage::Joining,
            weight: WeightState::default(),
            failed_joins: 0,
            failed_cutovers: 0,
            retry_seconds: 0.0,
            standby_seconds: plan.moves.standby_seconds,
            unhealthy_seconds: 0.0,
            cutover_asked: false,
            aborting: false,
            unanswered: false,
        }
    }
}

/// What an operator can ask of a migration under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Nothing goes forward until it is resumed; steps back are still made.
    Pause,
    /// Goes on.
    Resume,
    /// Back to the primary, and the end.
    Abort,
    /// Makes the cutover once it is ready.
    Cutover,
    /// The cutover isn't wanted any more, unless the policy makes it by itself.
    Withdraw,
    /// Ends the standby now.
    Finalize,
}

/// What the daemon sees at a tick.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Since the last tick.
    pub seconds: f64,
    /// As it stands.
    pub word: SwitchWord,
    /// The judge's; nothing while the primary's past is too short to judge by.
    pub verdict: Option<Verdict>,
    /// The answers that clients lack, since the authority is who it is.
    pub shortfall: Option<Shortfall>,
    /// Whether each side's health check is good; nothing where there is none.
    pub healthy: [Option<bool>; 2],
    /// Whether each side carries what is forecast; nothing where its size isn't known to the gateway.
    pub capacity: [Option<Capacity>; 2],
    /// Connections that a cutover would wait for in vain, or why they can't be read; nothing where none is about to be made.
    pub unsettled: Option<Result<Unsettled, String>>,
    /// How the sides' answers differ; nothing where nobody compares them.
    pub divergence: Option<Differing>,
}

/// What happens to a migration.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time passes.
    Tick(Box<Seen>),
    /// A move that was asked for has ended: nothing, or why it failed.
    Moved(Move, Result<(), String>),
    /// An operator asks; who.
    Asked(Command, String),
}

/// What the daemon has to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Make a move, and tell how it ended.
    Make(#[serde(with = "move_name")] Move),
    /// Roll back though the authority is dead: what waits for it is ended.
    Rescue,
    /// Give the shadow this share of the reads, in basis points.
    Weigh(u32),
    /// The judge counts a step anew.
    BeginStep,
    /// A new judge.
    NewJudge,
    /// The primary is mirrored no more.
    Release,
    /// The primary is taken in as it is, though the authority has writes that it lacks: no hook could bring it level.
    TakeIn,
}

mod move_name {
    use super::Move;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(made: &Move, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(made.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Move, D::Error> {
        let name = String::deserialize(from)?;
        [Move::Join, Move::Cutover, Move::Rollback]
            .into_iter()
            .find(|known| known.name() == name)
            .ok_or_else(|| de::Error::custom(format!("no move `{name}`")))
    }
}

/// The state that follows, what has to be done, and why (or why nothing is).
pub type Next = (State, Vec<Action>, Why);

/// One decision.
pub fn step(plan: &Plan, mut state: State, event: Event) -> Next {
    if state.stage.is_over() {
        return (state, Vec::new(), Why::Over);
    }
    match event {
        Event::Asked(command, who) => asked(plan, state, command, who),
        Event::Moved(made, result) => moved(plan, state, made, result),
        Event::Tick(seen) => {
            state.retry_seconds = (state.retry_seconds - seen.seconds).max(0.0);
            match state.stage {
                Stage::Standby | Stage::RollingBack if state.aborting => standby::rolling_back(state, &seen),
                _ if state.aborting => aborting(state, &seen),
                Stage::Joining => joining(state, &seen),
                Stage::Mirroring | Stage::Shifting => shifting(plan, state, *seen),
                Stage::Ready => ready(plan, state, *seen),
                Stage::CuttingOver => cutting_over(plan, state, &seen),
                Stage::Standby => standby::tick(plan, state, &seen),
                Stage::RollingBack => standby::rolling_back(state, &seen),
                Stage::Finalized | Stage::RolledBack | Stage::Aborted => (state, Vec::new(), Why::Over),
            }
        }
    }
}

fn joining(state: State, seen: &Seen) -> Next {
    if seen.word.authority() == Side::Shadow {
        return overtaken(state);
    }
    if seen.word.member(Side::Shadow) {
        return mirror(state, Why::InSync);
    }
    if state.weight.paused_by.is_some() || state.retry_seconds > 0.0 {
        let why = state
            .weight
            .paused_by
            .clone()
            .map_or(Why::Retry(state.retry_seconds), |who| Why::Weight(weight::Reason::Paused(who)));
        return (state, Vec::new(), why);
    }
    if seen.healthy[Side::Shadow as usize] == Some(false) {
        return (state, Vec::new(), Why::Unwell);
    }
    (state, vec![Action::Make(Move::Join)], Why::OutOfSync)
}

/// Until the word says that all reads are the primary's again.
fn aborting(mut state: State, seen: &Seen) -> Next {
    if seen.word.authority() == Side::Shadow {
        return standby::rolling_back(state, seen);
    }
    if seen.word.weight() > 0 {
        return (state, vec![Action::Weigh(0)], Why::Aborting);
    }
    state.stage = Stage::Aborted;
    (state, Vec::new(), Why::Aborting)
}

/// The shadow has just come in sync.
fn mirror(mut state: State, why: Why) -> Next {
    state.stage = Stage::Mirroring;
    state.failed_joins = 0;
    state.retry_seconds = 0.0;
    state.weight.step = None;
    state.weight.dwelt_seconds = 0.0;
    (state, vec![Action::Weigh(0), Action::NewJudge], why)
}

/// The traffic isn't where this migration left it: it is somebody else's now.
fn overtaken(mut state: State) -> Next {
    state.stage = Stage::Aborted;
    (state, Vec::new(), Why::Overtaken)
}

/// The shadow has to join again. That it fell out is a step back as any other.
fn rejoin(plan: &Plan, mut state: State) -> Next {
    state.stage = Stage::Joining;
    state.retry_seconds = plan.moves.retry_seconds;
    state.weight.fell_out(&plan.weight);
    (state, Vec::new(), Why::OutOfSync)
}

fn shifting(plan: &Plan, mut state: State, seen: Seen) -> Next {
    if seen.word.authority() == Side::Shadow {
        return overtaken(state);
    }
    if !seen.word.member(Side::Shadow) {
        return rejoin(plan, state);
    }
    let Some(verdict) = seen.verdict else {
        return (state, Vec::new(), Why::Learning);
    };
    let (next, action) = weight::step(&plan.weight, state.weight, seen.seconds, verdict);
    state.weight = next;
    let mut actions = Vec::new();
    match action.judging {
        Judging::Continue => {}
        Judging::BeginStep => actions.push(Action::BeginStep),
        Judging::Restart => actions.push(Action::NewJudge),
    }
    // Also where somebody else changed it, or a swap was lost: then what was counted since is of another share.
    if action.change != Change::Hold || action.weight != seen.word.weight() {
        actions.insert(0, Action::Weigh(action.weight));
        if action.judging == Judging::Continue {
            actions.push(Action::BeginStep);
        }
    }
    let whole = action.reason == weight::Reason::LastStep;
    state.stage = match (whole, action.weight) {
        (true, _) => Stage::Ready,
        (false, 0) => Stage::Mirroring,
        (false, _) => Stage::Shifting,
    };
    (state, actions, Why::Weight(action.reason))
}

fn ready(plan: &Plan, mut state: State, seen: Seen) -> Next {
    let held = seen.word.weight() == state.weight.weight(&plan.weight);
    if seen.word.authority() == Side::Shadow
        || !seen.word.member(Side::Shadow)
        || matches!(seen.verdict, Some(Verdict::Worse(_)) | None)
        || !held
    {
        return shifting(plan, state, seen);
    }
    let wanted = plan.cutover_by_itself || state.cutover_asked;
    if !wanted {
        return (state, Vec::new(), Why::AwaitsOperator);
    }
    if let Some(who) = state.weight.paused_by.clone() {
        return (state, Vec::new(), Why::Weight(weight::Reason::Paused(who)));
    }
    if state.retry_seconds > 0.0 {
        let left = state.retry_seconds;
        return (state, Vec::new(), Why::Retry(left));
    }
    if state.failed_cutovers >= plan.moves.attempts && !state.cutover_asked {
        return (state, Vec::new(), Why::AwaitsOperator);
    }
    if let Some(lacking) = precondition::waits_for(facts(plan, &state, &seen).checks()) {
        return (state, Vec::new(), Why::Precondition(lacking));
    }
    state.stage = Stage::CuttingOver;
    (state, vec![Action::Make(Move::Cutover)], Why::Weight(weight::Reason::LastStep))
}

/// The cutover is about to be made: what it asks for.
fn facts<'a>(plan: &Plan, state: &State, seen: &'a Seen) -> Facts<'a> {
    Facts {
        word: seen.word,
        unsettled: seen.unsettled.as_ref(),
        held: Held {
            least: plan.weight.steps.last().copied().unwrap_or_default(),
            seconds: state.weight.dwelt_seconds,
            dwell_seconds: plan.weight.dwell_seconds,
        },
        capacity: &seen.capacity,
        divergence: seen.divergence,
    }
}

/// Between asking for the cutover and hearing how it ended; or behind a crash just there.
fn cutting_over(plan: &Plan, mut state: State, seen: &Seen) -> Next {
    if seen.word.frozen() {
        return (state, Vec::new(), Why::Weight(weight::Reason::LastStep));
    }
    if seen.word.authority() == Side::Shadow {
        return standby::begin(plan, state);
    }
    state.stage = Stage::Ready;
    (state, Vec::new(), Why::Retry(0.0))
}

fn moved(plan: &Plan, mut state: State, made: Move, result: Result<(), String>) -> Next {
    let awaited = match made {
        Move::Join => Stage::Joining,
        Move::Cutover => Stage::CuttingOver,
        Move::Rollback => Stage::RollingBack,
    };
    if state.stage != awaited {
        // Told twice, or behind a tick that has found by the word what became of it.
        return (state, Vec::new(), Why::Late(made.name().into()));
    }
    let error = match (result, made) {
        (Ok(()), Move::Join) => return mirror(state, Why::Made(made.name().into())),
        (Ok(()), Move::Cutover) => return standby::begin(plan, state),
        (Ok(()), Move::Rollback) => {
            state.stage = Stage::RolledBack;
            return (state, Vec::new(), Why::Made(made.name().into()));
        }
        (Err(error), _) => error,
    };
    let attempts = plan.moves.attempts;
    let failed = match made {
        Move::Join => {
            state.failed_joins += 1;
            state.retry_seconds = plan.moves.retry_seconds;
            if state.failed_joins >= attempts {
                state.stage = Stage::Aborted;
            }
            state.failed_joins
        }
        Move::Cutover => {
            state.failed_cutovers += 1;
            state.retry_seconds = plan.moves.retry_seconds;
            state.cutover_asked = false;
            state.stage = Stage::Ready;
            state.failed_cutovers
        }
        // The way back is tried at every tick: nothing else helps.
        Move::Rollback => 1,
    };
    (state, Vec::new(), Why::Failed(made.name().into(), error, failed, attempts))
}

fn asked(plan: &Plan, mut state: State, command: Command, who: String) -> Next {
    match command {
        Command::Pause => state.weight.pause(&who),
        Command::Resume => {
            state.weight.resume();
            state.failed_cutovers = 0;
        }
        Command::Cutover => {
            state.cutover_asked = true;
            if state.failed_cutovers >= plan.moves.attempts {
                state.failed_cutovers = 0;
            }
        }
        Command::Withdraw => state.cutover_asked = false,
        Command::Abort => state.aborting = true,
        Command::Finalize if state.stage == Stage::Standby => {
            state.standby_seconds = 0.0;
            state.weight.resume();
        }
        Command::Finalize => {}
    }
    // The next tick does it.
    (state, Vec::new(), Why::Asked(command, who))
}

#[cfg(test)]
mod tests;
