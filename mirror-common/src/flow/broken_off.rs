//! A request that its client breaks off: it resets, closes or vanishes before it has sent the last byte.
//!
//! A server does a request when it has it whole. Of one that ends in the middle no side has that, however many of its bytes
//! each has got, and none ever will: it is no write that is waited for, and no side is the worse for it. A server that works
//! on a body as it comes may have done more of it than the other one, as it may without a gateway.
//!
//! A side that has answered such a request may have done something all the same: then it is treated as any other write.

use super::close::{finish_write, put_out};
use super::settled::at_boundary;
use super::to_leg::end_leg;
use super::{Flow, LossReason, Step, Switch, Terms, leg_state};
use crate::switch_word::Side;

/// Whether the client's bytes so far end within a write that nobody has answered yet. One whose end isn't known may be whole.
#[inline(always)]
pub fn incomplete(flow: &Flow) -> bool {
    let answered = |side: Side| {
        let leg = flow.leg(side);
        leg.answered == flow.turns && !(leg.state == leg_state::NONE && flow.has(Flow::GIVEN_UP))
    };
    let within = !at_boundary(flow) && !flow.parse.scanner.until_close();
    flow.has(Flow::COUNTED) && within && !answered(Side::Primary) && !answered(Side::Shadow)
}

/// The client will never send the rest of its last request: if that isn't whole, it isn't waited for any more. Writes before it
/// are; which of the turns before it was the last to write is no longer known, and the last one is taken to be it. A subprogram
/// of its own, for its many callers.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn break_off<S: Switch>(flow: &mut Flow, terms: &mut Terms<'_, S>, step: &mut Step) -> u8 {
    if incomplete(flow) {
        if flow.has(Flow::GIVEN_UP) {
            // What was given up may have gone on before this one.
            step.events = went_on(flow, terms, step);
        }
        flow.write_turn = flow.turns.wrapping_sub(1);
        flow.set(Flow::GIVEN_UP, false);
        finish_write(flow, flow.has(Flow::LONE_WRITE), terms, step);
    }
    step.events
}

/// More of a request has come that the mirror gave up before it was whole. If it is so now, the authority may do it alone. A
/// subprogram of its own, for its size.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn went_on<S: Switch>(flow: &mut Flow, terms: &mut Terms<'_, S>, step: &mut Step) -> u8 {
    // Where another turn has begun in the same segment, the boundary was passed over. The lost leg's count stands still.
    let next_begun = |side: Side| {
        let leg = flow.leg(side);
        leg.state == leg_state::NONE && leg.answered != flow.turns
    };
    let may_be_whole = at_boundary(flow) || flow.parse.scanner.until_close();
    if may_be_whole || next_begun(Side::Primary) || next_begun(Side::Shadow) {
        flow.set(Flow::GIVEN_UP, false);
        step.reason = LossReason::GaveUp as u8;
        put_out(terms, step);
    }
    step.events
}

/// Whether a move may break the last request off: it alone is owed, and its client hasn't sent it whole.
#[inline(always)]
pub(super) fn waits_for_client(flow: &Flow) -> bool {
    incomplete(flow) && owes_last_alone(flow, Side::Primary) && owes_last_alone(flow, Side::Shadow)
}

/// Whether a leg owes no write's answer but the last request's.
#[inline(always)]
pub(super) fn owes_last_alone(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    leg.state == leg_state::NONE || flow.has(Flow::LONE_WRITE) || leg.answered.wrapping_add(1) == flow.turns
}

/// A leg gets no more of a request that isn't whole: it is reset.
#[inline(always)]
pub(super) fn forsake(flow: &mut Flow, side: Side, step: &mut Step) {
    if matches!(flow.leg(side).state, leg_state::OPEN | leg_state::DIALLING) {
        end_leg(flow, side, flow.client_next, step);
    }
    flow.leg_mut(side).state = leg_state::NONE;
}
