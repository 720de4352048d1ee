//! When a flow may change its authority or its legs, and how.

use super::redial::{must_renew, renew};
use super::{Flow, Leg, Step, flow_state, leg_state, offer};
use crate::seq;
use crate::switch_word::Side;

/// Proof that a flow is settled; only [`change`] makes one.
pub(super) struct Settled(());

/// Whether a leg has answered every turn, and every byte of the answers has been seen.
#[inline(always)]
pub(super) fn answered(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    leg.state == leg_state::OPEN
        && leg.answered == flow.turns
        && !leg.in_answer()
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

/// What a request was that only its answers can say. A subprogram of its own, for its many paths.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn follow_answer(flow: &mut Flow) {
    if flow.has(Flow::OFFERED) {
        offer::settle(flow);
    }
    if flow.parse.scanner.until_close() {
        end_with_answer(flow);
    }
}

/// A request whose chunks couldn't be followed over a hole ends where the client's bytes do when its answer is whole. What comes
/// behind that is taken for the next one; where it is the rest of a body that was answered early, it is none, and the connection
/// opaque.
#[inline(always)]
fn end_with_answer(flow: &mut Flow) {
    let side = flow.authority();
    if flow.leg(side).acked == flow.client_next && answered(flow, side) {
        flow.parse.at = flow.client_next;
        flow.parse.scanner.reset();
    }
}

/// Whether a leg owes nothing to the client's bytes so far.
#[inline(always)]
fn quiet(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    leg.state == leg_state::NONE || (leg.state == leg_state::OPEN && !seq::lt(leg.acked, flow.client_next))
}

/// How the next turn's authority may be another one than the last one's.
pub(super) enum Change {
    /// Not: everything stays as it is.
    No,
    /// From its next byte on, for the flow is settled.
    Settled(Settled),
    /// From the first byte of that turn's answer on ([`Flow::AHEAD`]): the leg is behind.
    Ahead,
}

/// How the next turn's authority may become `to`. The only gate to that.
#[inline(always)]
pub(super) fn change(flow: &Flow, to: Side) -> Change {
    match readiness(flow, to) {
        SETTLED => Change::Settled(Settled(())),
        BEHIND => Change::Ahead,
        _ => Change::No,
    }
}

/// [`readiness`]: the flow is settled.
const SETTLED: u32 = 1;
/// [`readiness`]: the old authority has finished, the new one hasn't.
const BEHIND: u32 = 2;

/// What [`change`] goes by, as a number. A subprogram of its own: its caller's frame is large.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn readiness(flow: &Flow, to: Side) -> u32 {
    let open = flow.state == flow_state::OPEN
        && !flow.has(Flow::OPAQUE | Flow::RETURNING | Flow::ASK_AGAIN | Flow::AHEAD);
    let old = flow.authority();
    if cfg!(feature = "plant-flip-unsettled") && open && flow.leg(to).state == leg_state::OPEN {
        return SETTLED;
    }
    // The old one must have finished in any case, and the client must have all of it, or its tail would be shown by the new
    // one's numbers.
    let has_it_all = flow.client_acked == flow.view_next;
    if !open || !has_it_all || !at_boundary(flow) || !quiet(flow, old) || !finished(flow, old) {
        0
    } else if quiet(flow, to) && finished(flow, to) {
        SETTLED
    } else if may_catch_up(flow, to) {
        BEHIND
    } else {
        0
    }
}

/// The rest of a body that a leg is waited for to send before it answers a read, in bytes: longer ones cost the client too much.
const SHORT: u32 = 1 << 16;

/// Whether a leg can be expected to answer what it owes, and then the next turn.
#[inline(always)]
fn may_catch_up(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    let missing = leg.parse.at.wrapping_sub(leg.sent_max);
    let short = (missing as i32) <= SHORT as i32;
    // It answers in order: what it begins next must be an answer's first byte, or the rest of an answer that was asked for.
    let in_order = leg.parse.scanner.is_boundary() || leg.answered != flow.turns;
    leg.state == leg_state::OPEN
        && leg.flags & (Leg::FIN | Leg::UNKNOWN | Leg::CLOSING) == 0
        && !leg.parse.scanner.until_close()
        && in_order
        && short
        // It isn't told of a window that opens before it is heard.
        && flow.client_window != 0
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
    pub(super) fn set_authority(&mut self, to: Side, _: Settled) {
        self.hand_over(to);
    }

    /// Gives the turn that begins to the other side than the one that is heard. Callers have
    /// found [`Change::Ahead`].
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
