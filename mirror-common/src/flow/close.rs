//! FIN, RST, and when a flow is over.

use super::leg::leg_ack;
use super::settled::answered;
use super::{Emit, Flow, Leg, Segment, Step, Switch, Terms, emit, flow_state, leg_state, tcp};
use crate::seq;
use crate::switch_word::Side;
use crate::verdict::Verdict;

/// Says that the flow's counted write is finished, if it is: answered by every leg that was asked. `anyway`: it isn't
/// waited for any more.
#[inline(always)]
pub(super) fn finish_write<S: Switch>(flow: &mut Flow, anyway: bool, terms: &mut Terms<'_, S>) {
    if !flow.has(Flow::COUNTED) {
        return;
    }
    let done = |side: Side| flow.leg(side).state == leg_state::NONE || answered(flow, side);
    if anyway || (done(Side::Primary) && done(Side::Shadow)) {
        flow.set(Flow::COUNTED, false);
        terms.switch.end_write();
    }
}

/// Whether both directions of every leg have ended, and the client has seen it all.
#[inline(always)]
pub(super) fn closed(flow: &Flow) -> bool {
    let over = |side: Side| {
        let leg = flow.leg(side);
        match leg.state {
            leg_state::NONE | leg_state::DOWN => true,
            leg_state::OPEN => leg.flags & Leg::FIN != 0 && !seq::lt(leg.acked, flow.client_next),
            _ => false,
        }
    };
    flow.has(Flow::CLIENT_FIN)
        && over(Side::Primary)
        && over(Side::Shadow)
        && flow.client_acked == flow.view_next
}

/// The client's RST: to both legs, each with its own numbers; a leg that still owes a write's answer is followed first.
#[inline(always)]
pub(super) fn client_reset<S: Switch>(
    flow: &mut Flow,
    seg: &Segment,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    let in_window = seq::le(flow.shown, seg.seq) && seq::le(seg.seq, flow.shown_edge);
    let opening = flow.state == flow_state::OPENING;
    if !in_window && !opening {
        step.end(Verdict::OutOfWindow);
        return;
    }
    let mirror = terms.switch.word().authority().other();
    let owes =
        flow.has(Flow::COUNTED) && flow.leg(mirror).state != leg_state::NONE && !answered(flow, mirror);
    let lacks =
        seq::lt(flow.leg(mirror).acked, flow.client_next) || flow.leg(mirror).state != leg_state::OPEN;
    if owes && lacks && terms.switch.out_of_sync(mirror) {
        step.events |= Step::OUT_OF_SYNC;
        step.side = mirror as u8;
    }
    for side in Side::BOTH {
        let leg = flow.leg(side);
        let lingers = side as u8 == mirror as u8 && owes && !lacks;
        if matches!(leg.state, leg_state::OPEN | leg_state::DIALLING) && !lingers {
            step.to_leg[side as usize] = Emit {
                kind: emit::BARE,
                flags: tcp::RST | tcp::ACK,
                seq: seg.seq.wrapping_add(leg.offset),
                ack: leg_ack(flow, side),
                port: leg.port,
                ..Emit::default()
            };
            flow.leg_mut(side).state = leg_state::NONE;
        }
    }
    flow.state = flow_state::ENDED;
    flow.authority = mirror.other() as u8;
    if !owes || lacks {
        finish_write(flow, true, terms);
    }
    step.end(Verdict::Reset);
}
