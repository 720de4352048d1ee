//! Behind the cutover: the new authority is watched, and the way back is kept open.

use mirror_common::switch_word::Side;

use super::{Action, Next, Plan, Seen, Stage, State, Why, capacity};
use crate::{evidence::Verdict, moves::Move, weight::Reason};

/// The shadow has the authority.
pub(super) fn begin(plan: &Plan, mut state: State) -> Next {
    state.stage = Stage::Standby;
    state.standby_seconds = plan.moves.standby_seconds;
    state.unhealthy_seconds = 0.0;
    state.unanswered = false;
    (state, vec![Action::BeginStep], Why::Made(Move::Cutover.name().into()))
}

pub(super) fn tick(plan: &Plan, mut state: State, seen: &Seen) -> Next {
    if seen.word.authority() == Side::Primary {
        state.stage = Stage::RolledBack;
        return (state, Vec::new(), Why::Overtaken);
    }
    state.standby_seconds = (state.standby_seconds - seen.seconds).max(0.0);
    state.unhealthy_seconds = match seen.healthy[Side::Shadow as usize] {
        Some(false) => state.unhealthy_seconds + seen.seconds,
        Some(true) | None => 0.0,
    };
    // One that is dead is worse, too; of the two it is the death that asks for nothing else.
    let trouble = match &seen.verdict {
        _ if state.unhealthy_seconds >= plan.moves.unhealthy_seconds => {
            Some(Why::Unhealthy(state.unhealthy_seconds))
        }
        _ if seen.shortfall.is_some() => seen.shortfall.map(Why::Shortfall),
        Some(Verdict::Worse(finding)) => Some(Why::Weight(Reason::Worse(finding.clone()))),
        _ => None,
    };
    if let Some(why) = trouble {
        // A side that isn't in sync gets the authority from nobody but a person.
        let way_back = seen.word.member(Side::Primary) && seen.healthy[Side::Primary as usize] != Some(false);
        if !way_back {
            let dead = matches!(why, Why::Unhealthy(_)) && seen.healthy[Side::Primary as usize] == Some(true);
            if dead && plan.moves.availability_first {
                // The next tick finds it in sync, and rolls back.
                let seconds = state.unhealthy_seconds;
                return (state, vec![Action::TakeIn], Why::AvailabilityFirst(seconds));
            }
            return (state, Vec::new(), Why::NoWayBack);
        }
        // From an authority that is dead, or as good as dead, anything is better.
        state.unanswered = matches!(why, Why::Shortfall(_));
        if !state.unanswered
            && !matches!(why, Why::Unhealthy(_))
            && let Some(why) = capacity::too_small_to_go_back(&seen.capacity)
        {
            return (state, Vec::new(), why);
        }
        state.stage = Stage::RollingBack;
        let back = back(&state, seen);
        return (state, vec![back], why);
    }
    if let Some(who) = state.weight.paused_by.clone() {
        return (state, Vec::new(), Why::Weight(Reason::Paused(who)));
    }
    if state.standby_seconds > 0.0 {
        let left = state.standby_seconds;
        return (state, Vec::new(), Why::StandingBy(left));
    }
    if seen.word.member(Side::Primary) {
        return (state, vec![Action::Release], Why::StoodBy);
    }
    state.stage = Stage::Finalized;
    (state, Vec::new(), Why::StoodBy)
}

/// Between asking for the rollback and hearing how it ended; behind a failure or a crash it is asked for again.
pub(super) fn rolling_back(mut state: State, seen: &Seen) -> Next {
    if seen.word.authority() == Side::Primary {
        state.stage = Stage::RolledBack;
        return (state, Vec::new(), Why::Made(Move::Rollback.name().into()));
    }
    if !seen.word.member(Side::Primary) {
        state.stage = Stage::Standby;
        state.aborting = false;
        return (state, Vec::new(), Why::NoWayBack);
    }
    if seen.word.frozen() {
        return (state, Vec::new(), Why::Retry(0.0));
    }
    state.stage = Stage::RollingBack;
    let back = back(&state, seen);
    (state, vec![back], Why::Retry(0.0))
}

/// A dead authority isn't waited for; one that swallows requests only for half of the time that writes may be frozen.
fn back(state: &State, seen: &Seen) -> Action {
    match seen.healthy[Side::Shadow as usize] {
        _ if state.unanswered => Action::Rescue,
        Some(false) => Action::Rescue,
        Some(true) | None => Action::Make(Move::Rollback),
    }
}
