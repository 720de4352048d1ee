//! When a flow may change its authority or its legs, and how.

use super::redial::{must_renew, renew};
use super::{Flow, Leg, Step, flow_state, leg_state};
use crate::seq;
use crate::switch_word::Side;

/// Proof that a flow is settled; only [`settled`] makes one.
pub struct Settled(());

/// Whether a leg has answered every turn, and every byte of the answers has been seen.
#[inline(always)]
pub(super) fn answered(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    leg.state == leg_state::OPEN
        && leg.answered == flow.turns
        && !seq::lt(leg.sent_max, leg.parse.at)
        && leg.parse.scanner.is_boundary()
}

/// Whether a leg still owes the answer of a counted write. One that is dialled anew owes what its last one left undone.
#[inline(always)]
pub(super) fn owes_write(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    flow.has(Flow::COUNTED)
        && leg.state != leg_state::NONE
        && (leg.answered.wrapping_sub(flow.write_turn) as i32) < 0
}

/// Whether a leg has answered all, without a hole, and its stream goes on: a next answer would begin at its next number.
#[inline(always)]
pub(super) fn finished(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    let received = if flow.authority as u32 == side as u32 { leg.sent_max } else { leg.rcv_nxt };
    answered(flow, side)
        && leg.flags & (Leg::FIN | Leg::UNKNOWN | Leg::CLOSING) == 0
        && received == leg.parse.at
}

/// Whether every byte of the client's is a whole request's.
#[inline(always)]
pub(super) fn at_boundary(flow: &Flow) -> bool {
    flow.client_next == flow.parse.at && flow.parse.scanner.is_boundary()
}

/// Whether a leg owes nothing to the client's bytes so far.
#[inline(always)]
fn quiet(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    leg.state == leg_state::NONE || (leg.state == leg_state::OPEN && !seq::lt(leg.acked, flow.client_next))
}

/// Whether nothing is under way that forbids another authority.
#[inline(always)]
fn may_move(flow: &Flow) -> bool {
    flow.state == flow_state::OPEN
        && !flow.has(Flow::OPAQUE | Flow::RETURNING | Flow::ASK_AGAIN | Flow::AHEAD)
}

/// Whether the next turn may be given to `to` ahead of what that leg still owes ([`Flow::AHEAD`]): for all that the client has
/// asked so far, it has its answers from the old authority.
#[inline(always)]
pub(super) fn ahead(flow: &Flow, to: Side) -> bool {
    let leg = flow.leg(to);
    // It answers in order: what it begins next must be an answer's first byte, or the rest of an answer that is asked for.
    let in_order = leg.parse.scanner.is_boundary() || leg.answered != flow.turns;
    may_move(flow)
        && flow.client_acked == flow.view_next
        // A leg that waits for a window isn't told of it before its answer is heard.
        && flow.client_window != 0
        && at_boundary(flow)
        && quiet(flow, flow.authority())
        && finished(flow, flow.authority())
        && leg.state == leg_state::OPEN
        && leg.flags & (Leg::FIN | Leg::UNKNOWN | Leg::CLOSING) == 0
        && !leg.parse.scanner.until_close()
        && in_order
}

/// Whether the flow may give its authority to `to` before its next turn.
///
/// The only gate to that: callers that find `None` keep everything as it is.
#[inline(always)]
pub fn settled(flow: &Flow, to: Side) -> Option<Settled> {
    let open = may_move(flow);
    let client_has_it_all = flow.client_acked == flow.view_next;
    let legs_quiet = quiet(flow, Side::Primary) && quiet(flow, Side::Shadow);
    // Both ends of a move must have finished: the old one, or its tail would be shown by the new one's numbers; the new
    // one, or its last answer would.
    let ends_finished = finished(flow, flow.authority()) && finished(flow, to);
    if cfg!(feature = "plant-flip-unsettled") && open && flow.leg(to).state == leg_state::OPEN {
        return Some(Settled(()));
    }
    (open && client_has_it_all && at_boundary(flow) && legs_quiet && ends_finished).then_some(Settled(()))
}

/// The other leg was lost as the authority: this one takes over as soon as it has finished. Where its server has closed it
/// meanwhile, its successor does.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn take_over(flow: &mut Flow, side: Side, step: &mut Step) -> u8 {
    let has_all = flow.client_acked == flow.view_next;
    if flow.has(Flow::RETURNING) && has_all && flow.leg(side).state == leg_state::OPEN {
        if finished(flow, side) {
            flow.hand_over(side);
            flow.set(Flow::RETURNING, false);
            step.events |= Step::WAKE;
        } else if must_renew(flow, side) {
            renew(flow, side);
            step.dial = 1 + side as u8;
        }
    }
    step.events
}

/// Lets what is held go on, where it may have been waiting for this segment. While a leg is dialled it waits for that one
/// alone: each copy that is let go before is held again, and its acknowledgement by the other leg would let it go again.
#[inline(always)]
pub(super) fn wake(flow: &Flow, step: &mut Step) {
    let waits = |side: Side| matches!(flow.leg(side).state, leg_state::DIALLING | leg_state::DOWN);
    if flow.has(Flow::HELD) && !waits(Side::Primary) && !waits(Side::Shadow) {
        step.events |= Step::WAKE;
    }
}

impl Flow {
    /// Gives `to` the authority of a settled flow.
    #[inline(always)]
    pub fn set_authority(&mut self, to: Side, _: Settled) {
        self.hand_over(to);
    }

    /// Gives the turn that begins to the other side than the one that is heard. Callers have asked [`ahead`].
    #[inline(always)]
    pub(super) fn give_ahead(&mut self) {
        self.set(Flow::AHEAD, true);
        let old = self.leg_mut(self.authority());
        old.rcv_nxt = old.sent_max;
    }

    /// Lets the client hear `to` from its next new byte on. Callers outside this module hold the proof, or have lost the
    /// other leg.
    #[inline(always)]
    pub(super) fn hand_over(&mut self, to: Side) {
        let old = self.leg_mut(to.other());
        if old.state == leg_state::OPEN {
            old.rcv_nxt = old.sent_max;
        }
        let next = self.leg(to).rcv_nxt;
        self.hear(to, next);
    }

    /// Lets the client hear `to` from a number of its server's on.
    #[inline(always)]
    pub(super) fn hear(&mut self, to: Side, first: u32) {
        self.shown_from = first;
        if !cfg!(feature = "plant-delta-stale") {
            self.delta = self.view_next.wrapping_sub(first);
        }
        self.authority = to as u8;
    }
}
