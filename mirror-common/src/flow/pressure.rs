//! A leg that holds a request back for long, at whatever pace: its clock is that of the whole request, where the stall budget is
//! one of each byte ([`super::loss`]).

use super::settled::at_boundary;
use super::{Flow, leg_state};
use crate::seq;
use crate::switch_word::Side;

/// A flow has one byte for the time: units of 256 ms, modulo a minute.
const UNIT: u32 = 8;

/// From so many units on the clock is behind, by a second at most. No budget is as long.
const BEHIND: u8 = 252;

/// Whether a leg without authority has held the client's request back for as long as `budget_ms`; 0: it may for ever.
#[inline(always)]
pub(super) fn presses(flow: &mut Flow, side: Side, now_ms: u32, budget_ms: u32) -> bool {
    if budget_ms == 0 || !holds_back(flow, side) {
        flow.pressed_since = 0;
        return false;
    }
    // 0 says that it doesn't.
    let now = ((now_ms >> UNIT) as u8).max(1);
    if flow.pressed_since == 0 {
        flow.pressed_since = now;
    }
    let units = now.wrapping_sub(flow.pressed_since);
    // A clock that is read less exactly, or by another CPU, may be behind the one that it was set by.
    units < BEHIND && u32::from(units) << UNIT >= budget_ms
}

/// Whether the other leg has bytes of a request that isn't whole, or of what can't be told apart, and this one hasn't: the client
/// is shown what both have.
#[inline(always)]
fn holds_back(flow: &Flow, side: Side) -> bool {
    let (leg, other) = (flow.leg(side), flow.leg(side.other()));
    leg.state == leg_state::OPEN
        && other.state == leg_state::OPEN
        && seq::lt(leg.acked, other.acked)
        && !flow.has(Flow::RETURNING)
        && flow.answerer() as u32 != side as u32
        && (flow.has(Flow::OPAQUE) || !at_boundary(flow))
}

#[cfg(test)]
mod tests {
    use super::super::Leg;
    use super::*;

    /// C8: a clock that is behind the one by which the flow's was set is no minute gone by.
    #[test]
    fn a_leg_holds_back_for_its_budget_and_not_by_a_clock_that_was_behind() {
        let leg = |acked| Leg { state: leg_state::OPEN, acked, ..Leg::default() };
        let mut flow = Flow { flags: Flow::OPAQUE, legs: [leg(10), leg(9)], ..Flow::default() };
        let mut at = |now_ms| presses(&mut flow, Side::Shadow, now_ms, 60_000);
        assert!(!at(2_560));
        assert!(!at(2_559));
        assert!(!at(2_560 - 4 * 256), "behind by all that a clock may be");
        assert!(!at(2_560 + 60_000 - 256));
        assert!(at(2_560 + 60_160));
    }
}
