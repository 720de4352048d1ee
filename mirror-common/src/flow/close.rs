//! FIN, RST, and when a flow is over.

use super::broken_off::break_off;
use super::client::ack_client;
use super::leg::absorb_unheard;
use super::order::note_lag;
use super::settled::owes_write;
use super::to_leg::end_leg;
use super::{Emit, Flow, Leg, Segment, Step, Switch, Terms, flow_state, leg_state, tcp};
use crate::abi::Event;
use crate::seq;
use crate::switch_word::Side;
use crate::verdict::Verdict;

/// Says that the flow's counted write is finished, if it is: answered by every leg that was asked. `anyway`: it isn't
/// waited for any more.
#[inline(always)]
pub(super) fn finish_write<S: Switch>(
    flow: &mut Flow,
    anyway: bool,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    if !flow.has(Flow::COUNTED) {
        return;
    }
    if anyway || flow.has(Flow::OPAQUE) || (wrote(flow, Side::Primary) && wrote(flow, Side::Shadow)) {
        flow.set(Flow::COUNTED, false);
        terms.switch.end_write();
    }
    step.events = note_lag(flow, terms, step);
}

/// Whether a leg has answered the counted write, and its answer has been seen to its end; or the client has seen that it
/// never will.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn wrote(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    let ended = leg.state == leg_state::OPEN && leg.flags & Leg::FIN != 0;
    (ended && flow.authority as u32 == side as u32) || answered_write(flow, side)
}

/// Whether a leg has answered the counted write, if it is still there, and its answer has been seen to its end.
#[inline(always)]
fn answered_write(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    let whole = leg.state != leg_state::OPEN || leg.answered != flow.write_turn || !leg.in_answer();
    whole && !owes_write(flow, side)
}

/// The end of a leg's stream ends an answer of unknown length.
#[inline(always)]
pub(super) fn note_fin(leg: &mut Leg, end: u32) {
    if leg.flags & Leg::FIN != 0 {
        return;
    }
    leg.flags |= Leg::FIN;
    if leg.parse.scanner.until_close() {
        leg.answered = leg.answered.wrapping_add(1);
        leg.parse.scanner.reset();
    }
    leg.parse.at = end;
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

/// The client's RST: to both legs, each with its own numbers. A leg that owes a write's answer hears of it only behind
/// that: a server that is reset may do a request or not, and the other one might decide otherwise. Of a request that isn't
/// whole neither can. What an opaque connection asks for isn't known: what the authority has of it the mirror must have, too.
#[inline(always)]
pub(super) fn client_reset<S: Switch>(
    flow: &mut Flow,
    seg: &Segment,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    // RFC 5961, 3.2: only what we expect next is believed; within the window the client is told what that is, and resets
    // again if it means it.
    if seg.seq != flow.shown && seg.seq != flow.client_next {
        if seq::lt(flow.shown, seg.seq) && seq::le(seg.seq, flow.shown_edge) {
            ack_client(flow, step);
            step.end(Verdict::TurnedBack);
        } else {
            step.end(Verdict::OutOfWindow);
        }
        return;
    }
    step.events = break_off(flow, terms, step);
    // One after the other, not in a loop: the kernel's verifier must see which leg it is.
    let lacks = flow.has(Flow::OPAQUE) && lacks(flow, terms.switch.word().authority().other());
    let primary = reset_leg_of_client(flow, Side::Primary, seg, step);
    let shadow = reset_leg_of_client(flow, Side::Shadow, seg, step);
    if primary || shadow || lacks {
        put_out(terms, step);
    }
    // From here on nobody hears an answer: what comes is acknowledged, and dropped.
    flow.set(Flow::AHEAD, false);
    flow.set(Flow::RETURNING, true);
    flow.state = flow_state::ENDED;
    finish_write(flow, false, terms, step);
    step.end(Verdict::Reset);
}

/// Whether the other leg's server has bytes of the client's that this one's hasn't.
#[inline(always)]
fn lacks(flow: &Flow, side: Side) -> bool {
    let (leg, other) = (flow.leg(side), flow.leg(side.other()));
    let said = flow.client_next.wrapping_sub(flow.has(Flow::CLIENT_FIN) as u32);
    leg.state != leg_state::NONE && seq::lt(leg.acked, other.acked) && seq::lt(leg.acked, said)
}

/// Passes a client's RST on to one leg, or lets it linger. Returns whether the leg will never do a write that it owes.
#[inline(always)]
fn reset_leg_of_client(flow: &mut Flow, side: Side, seg: &Segment, step: &mut Step) -> bool {
    let leg = flow.leg(side);
    let owes = owes_write(flow, side);
    if owes && leg.state == leg_state::OPEN {
        // As the other leg is told: all that its server has sent.
        let leg = flow.leg_mut(side);
        leg.rcv_nxt = seq::max(leg.rcv_nxt, leg.sent_max);
        return false;
    }
    if matches!(leg.state, leg_state::OPEN | leg_state::DIALLING) {
        end_leg(flow, side, seg.seq, step);
    }
    flow.leg_mut(side).state = leg_state::NONE;
    owes
}

/// A write may have been done by one side alone: the one without authority is out of sync.
#[inline(always)]
pub(super) fn put_out<S: Switch>(terms: &mut Terms<'_, S>, step: &mut Step) {
    let mirror = terms.switch.word().authority().other();
    if terms.switch.out_of_sync(mirror) {
        step.events |= Step::OUT_OF_SYNC;
        step.side = mirror as u8;
        step.server |= Event::server(terms.service.number(), 0);
    }
}

/// A segment of a leg whose client has reset: it is followed until it has answered what it owes, and reset then.
#[inline(always)]
pub(super) fn drain<S: Switch>(
    flow: &mut Flow,
    side: Side,
    seg: &Segment,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    if seg.is(tcp::RST) {
        if owes_write(flow, side) {
            put_out(terms, step);
        }
        flow.leg_mut(side).state = leg_state::NONE;
        finish_write(flow, false, terms, step);
        step.end(Verdict::LegLost);
        return;
    }
    if seg.end() != seg.seq {
        absorb_unheard(flow, side, seg, terms, step);
    }
    if flow.leg(side).state == leg_state::OPEN && answered_write(flow, side) {
        end_leg(flow, side, flow.client_next, step);
        flow.leg_mut(side).state = leg_state::NONE;
        finish_write(flow, false, terms, step);
    }
    step.to_client = Emit::default();
    step.end(Verdict::Absorbed);
}
