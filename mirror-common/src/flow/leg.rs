//! On a server's segment: shown, absorbed, or turned into what the client may know.

use core::hint::cold_path;

use super::answers::{Read, read};
use super::broken_off::{break_off, forsake, incomplete, owes_last_alone};
use super::client::{ack_client, least_edge, raise_edge, raise_shown, shown_window};
use super::close::{drain, finish_write, note_fin, put_out};
use super::handshake::{on_dialling, show_syn_ack};
use super::loss::{Loss, LossReason, check_clock, lose, spared};
use super::measure::{note_end, note_status, unsummed};
use super::redial::GAP_MS;
use super::settled::{finished, follow_answer, owes_write, take_over, wake};
use super::to_leg::{ack_leg, leg_ack, note_brought, reset_leg};
use super::{Emit, Flow, Leg, Segment, Step, Switch, Terms, emit, flow_state, leg_state, sack, tcp};
use crate::seq;
use crate::switch_word::Side;
use crate::verdict::Verdict;

/// How far from what was seen a server's numbers may lie to be believed, in bytes.
const NEAR: u32 = 1 << 26;

/// A segment of a side's server.
#[inline(always)]
pub fn on_leg<S: Switch>(
    flow: &mut Flow,
    side: Side,
    seg: &Segment,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) -> u8 {
    step.sack.open(&seg.sack);
    let verdict = by_state(flow, side, seg, terms, step);
    // By itself, and last: the verifier follows it from every state that it is come to in.
    if flow.has(Flow::SACK) { sack::of_leg(flow, side, seg, step) } else { verdict }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn by_state<S: Switch>(
    flow: &mut Flow,
    side: Side,
    seg: &Segment,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) -> u8 {
    flow.set(Flow::QUIET, seq::since(seg.now_ms, flow.last_ms) >= GAP_MS);
    flow.last_ms = seg.now_ms;
    match flow.leg(side).state {
        leg_state::DIALLING => on_dialling(flow, side, seg, terms, step),
        leg_state::OPEN => on_open(flow, side, seg, terms, step),
        _ => {
            cold_path();
            if !seg.is(tcp::RST) {
                reset_leg(flow, side, seg, step);
            }
            step.end(Verdict::ResetUnknownLeg);
        }
    }
    note_brought(flow, side, step);
    step.verdict
}

#[inline(always)]
fn on_open<S: Switch>(flow: &mut Flow, side: Side, seg: &Segment, terms: &mut Terms<'_, S>, step: &mut Step) {
    let far = seg.seq.wrapping_sub(flow.leg(side).rcv_nxt.wrapping_sub(NEAR));
    let reach = flow.leg(side).sent_max.wrapping_sub(flow.leg(side).rcv_nxt).wrapping_add(2 * NEAR);
    if far > reach {
        cold_path();
        step.end(Verdict::OutOfWindow);
        return;
    }
    if seg.is(tcp::RST) {
        cold_path();
        // What we expect lies between what was acknowledged and a window beyond what was seen (RFC 5961, 3).
        let believed = cfg!(feature = "plant-rst-anywhere");
        if !believed
            && (seq::lt(seg.seq, leg_ack(flow, side))
                || seq::lt(flow.leg(side).sent_max.wrapping_add(1 << 20), seg.seq))
        {
            step.end(Verdict::OutOfWindow);
        } else if flow.state == flow_state::ENDED {
            drain(flow, side, seg, terms, step);
        } else {
            let verdict = lose(flow, Loss::new(side, LossReason::Reset), terms, step);
            step.end(verdict);
        }
        return;
    }
    let ack = seg.ack.wrapping_sub(flow.leg(side).offset);
    if !seg.is(tcp::ACK) || seq::lt(flow.client_next, ack) {
        step.end(Verdict::OutOfWindow);
        return;
    }
    if seg.is(tcp::SYN) {
        cold_path();
        syn_ack_again(flow, side, seg, step);
        return;
    }
    let news = acknowledge(flow, side, ack, seg);
    let end = seg.end();
    if flow.state == flow_state::ENDED {
        drain(flow, side, seg, terms, step);
    } else if end == seg.seq {
        let authority = flow.hears(side);
        pure_ack(flow, side, seg, news, authority, step);
    } else {
        bytes(flow, side, seg, end, terms, step);
    }
    if flow.state == flow_state::OPENING {
        // The client has no SYN-ACK yet.
        step.to_client.kind = emit::NONE;
    }
    if flow.state == flow_state::OPEN {
        if flow.has(Flow::OFFERED) | flow.parse.scanner.until_close() {
            follow_answer(flow);
        }
        finish_write(flow, false, terms, step);
        if step.verdict != Verdict::AbsorbedAck as u8 {
            // Not on a duplicate: what is let go may be sent again to the leg that sent it, and bring the next.
            wake(flow, step);
        }
        check_clock(flow, terms, step);
    }
}

/// A SYN-ACK sent again: its acknowledgement was lost.
#[inline(always)]
fn syn_ack_again(flow: &Flow, side: Side, seg: &Segment, step: &mut Step) {
    let unseen = flow.view_next == flow.client_acked.wrapping_add(1);
    if flow.authority as u32 == side as u32 && unseen {
        show_syn_ack(flow, seg, step);
        step.end(Verdict::SynAckShown);
    } else {
        ack_leg(flow, side, step);
        step.end(Verdict::SynAckAbsorbed);
    }
}

/// What a leg's acknowledgement changed.
#[derive(Clone, Copy)]
struct News {
    /// It says what the last one said, while bytes are owed.
    same: bool,
}

/// Takes over acknowledgement and window.
#[inline(always)]
fn acknowledge(flow: &mut Flow, side: Side, ack: u32, seg: &Segment) -> News {
    let owed = seq::lt(ack, flow.client_next);
    let leg = flow.leg_mut(side);
    let edge = ack.wrapping_add(u32::from(seg.window) << (leg.scale & 15));
    let same = owed && ack == leg.acked && edge == leg.edge;
    leg.acked = seq::max(leg.acked, ack);
    leg.edge = seq::max(leg.edge, edge);
    leg.heard_ms = seg.now_ms;
    News { same }
}

/// A leg acknowledges without data.
#[inline(always)]
fn pure_ack(flow: &mut Flow, side: Side, seg: &Segment, news: News, authority: bool, step: &mut Step) {
    let raised = raise_shown(flow);
    let opened = {
        let edge = least_edge(flow);
        let step_up = 2 * u32::from(flow.mss);
        let shut = flow.shown_edge.wrapping_sub(flow.shown) < u32::from(flow.mss);
        seq::lt(flow.shown_edge, edge) && (shut || edge.wrapping_sub(flow.shown_edge) >= step_up)
    };
    let keeps_alive = seq::lt(seg.seq, flow.leg(side).sent_max);
    if keeps_alive && authority {
        step.to_client = shown(flow, seg);
        step.end(Verdict::Probe);
    } else if keeps_alive {
        ack_leg(flow, side, step);
        if raised {
            ack_client(flow, step);
        }
        step.end(Verdict::Absorbed);
    } else if raised || opened || flow.has(Flow::PROBED) || sign_of_loss(flow, side, news) {
        flow.set(Flow::PROBED, false);
        ack_client(flow, step);
        step.end(Verdict::Raised);
    } else {
        // Anything else would look like a duplicate acknowledgement to the client, if its blocks tell nothing.
        step.end(Verdict::AbsorbedAck);
    }
}

/// The slowest leg's duplicate acknowledgement: the client's only sign of loss without SACK.
#[inline(always)]
fn sign_of_loss(flow: &Flow, side: Side, news: News) -> bool {
    news.same && flow.leg(side).acked == flow.shown && !sack::sacks(flow, side)
}

/// The authority's segment as the client sees it.
#[inline(always)]
fn shown(flow: &Flow, seg: &Segment) -> Emit {
    Emit {
        kind: emit::FORWARD,
        flags: 0,
        seq: seg.seq.wrapping_add(flow.delta),
        ack: flow.shown,
        window: shown_window(flow),
        ..Emit::default()
    }
}

/// Bytes of a leg, or its FIN.
#[inline(always)]
fn bytes<S: Switch>(
    flow: &mut Flow,
    side: Side,
    seg: &Segment,
    end: u32,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    if seg.is(tcp::FIN) && flow.state == flow_state::OPENING {
        // Nothing is dialled under a connection that isn't open yet. It comes again.
        step.end(Verdict::BeyondHead);
        return;
    }
    let found = if seg.payload > 0 { read(flow, side, seg, terms, step) } else { Read::Nothing };
    let heard = arrives(flow, side, seg, found, step) || flow.hears(side);
    match found {
        Read::Raced => step.end(Verdict::DeferredRaced),
        Read::Later => step.end(Verdict::BeyondHead),
        Read::Hole if heard => step.end(Verdict::BeyondHead),
        _ if heard => show(flow, side, seg, end, terms, step),
        _ => {
            absorb(flow, side, seg, found, terms, step);
            step.events = take_over(flow, side, step);
        }
    }
}

/// Whether the answer of the leg that the last turn was given ahead to begins in this segment. From its first byte on that leg is
/// heard.
///
/// The answer is the last one that is asked for. So what lies before it ends with the last answer that was found here, or with
/// the one before; or the last segment's did, and its own bytes are the first that had to be read.
#[inline(always)]
fn arrives(flow: &mut Flow, side: Side, seg: &Segment, found: Read, step: &mut Step) -> bool {
    if !flow.has(Flow::AHEAD) || flow.authority as u32 == side as u32 || found != Read::Done {
        return false;
    }
    let reading = &seg.reading;
    let before = if cfg!(feature = "plant-boundary-early") { 2 } else { 1 };
    let owed = flow.turns.wrapping_sub(before).wrapping_sub(reading.base);
    let first = match reading.answered.wrapping_sub(owed) {
        _ if owed == 0 => reading.before.at,
        0 => reading.ends[0],
        1 => reading.ends[1],
        _ => return false,
    };
    if !seq::lt(first, seg.seq.wrapping_add(seg.payload)) {
        return false;
    }
    flow.set(Flow::AHEAD, false);
    flow.hear(side, first);
    let leg = flow.leg_mut(side);
    leg.rcv_nxt = first;
    leg.flags &= !Leg::HOLE;
    note_status(flow, side, seg, step);
    true
}

/// Bytes of the authority, for the client: they have been read.
#[inline(always)]
fn show<S: Switch>(
    flow: &mut Flow,
    side: Side,
    seg: &Segment,
    end: u32,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    let hidden = if seq::lt(seg.seq, flow.shown_from) { flow.shown_from.wrapping_sub(seg.seq) } else { 0 };
    if hidden > 0 && hidden >= seg.payload {
        // It was absorbed before this leg had the authority, and its acknowledgement was lost.
        ack_leg(flow, side, step);
        if raise_shown(flow) {
            ack_client(flow, step);
        }
        step.end(Verdict::Absorbed);
        return;
    }
    let mut end = end;
    // Behind so little that is hidden a packet larger than a segment can't stay one: it becomes a segment, the rest comes again.
    let most = u32::from(flow.mss);
    let partly = hidden > 0 && hidden <= emit::LITTLE && seg.payload.wrapping_sub(hidden) > most;
    let without_fin = seg.is(tcp::FIN) && seg.payload > 0 && (partly || borrowed(flow, side, terms));
    if without_fin {
        // Its answer is the client's, its end isn't: that comes again, alone.
        end = end.wrapping_sub(1);
    }
    if partly {
        end = flow.shown_from.wrapping_add(most);
        unsummed(flow);
    }
    if seg.is(tcp::FIN) && !without_fin && !fin_of_authority(flow, side, seg, end, terms, step) {
        return;
    }
    let leg = flow.leg_mut(side);
    leg.sent_max = seq::max(leg.sent_max, end);
    let closing = leg.flags & (Leg::CLOSING | Leg::FIN) != 0;
    if closing {
        flow.set(Flow::CLOSING, true);
    }
    let view = end.wrapping_add(flow.delta);
    flow.view_next = seq::max(flow.view_next, view);
    if seq::lt(flow.turn_view, view) {
        // The answer has begun: what the client has read of it, nobody can take back.
        flow.set(Flow::MOVED, false);
    }
    raise_shown(flow);
    raise_edge(flow);
    step.to_client = shown(flow, seg);
    let flags = if without_fin { seg.flags & !tcp::FIN } else { seg.flags };
    if without_fin || hidden > 0 {
        step.to_client.flags = flags;
    }
    if hidden > 0 {
        let shown = &mut step.to_client;
        shown.kind = emit::CUT;
        shown.seq = shown.seq.wrapping_add(hidden);
        shown.skip = hidden as u16;
        shown.mss = if partly { most } else { seg.payload.wrapping_sub(hidden) } as u16;
    }
    note_end(flow, side, seg, step);
    if step.measured.ended != 0 && flow.has(Flow::TURN_WRITES) && terms.switch.in_doubt() {
        // The authority lives: what it may have left undone when it lost a leg, the mirror has done.
        put_out(terms, step);
    }
    step.end(if hidden > 0 { Verdict::TailForwarded } else { Verdict::Forwarded });
}

/// Whether a leg only answers reads for the switch word's authority, and its stream's end isn't an answer's.
#[inline(always)]
fn borrowed<S: Switch>(flow: &Flow, side: Side, terms: &mut Terms<'_, S>) -> bool {
    let leg = flow.leg(side);
    let mine = terms.switch.word().authority() as u8 == side as u8;
    !cfg!(feature = "plant-fin-of-shadow")
        && !mine
        && !flow.has(Flow::OPAQUE | Flow::CLIENT_FIN)
        && leg.flags & Leg::CLOSING == 0
        && !leg.parse.scanner.until_close()
        && !done_as_asked(flow, side)
}

/// Whether a leg has answered a request that said that it is the last: its server ends the connection, as the client expects.
#[inline(always)]
fn done_as_asked(flow: &Flow, side: Side) -> bool {
    flow.has(Flow::LAST_ASKED) && flow.leg(side).answered == flow.turns
}

/// Whether the authority's FIN is the client's. The mirror's close, while it answers reads, isn't: the other takes over.
#[inline(always)]
fn fin_of_authority<S: Switch>(
    flow: &mut Flow,
    side: Side,
    seg: &Segment,
    end: u32,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) -> bool {
    if seg.payload == 0 && borrowed(flow, side, terms) {
        let leg = flow.leg(side);
        let all_seen =
            flow.client_acked == flow.view_next && seg.seq == leg.sent_max && leg.answered == flow.turns;
        let other = flow.leg(side.other()).state;
        if all_seen && (finished(flow, side.other()) || other == leg_state::NONE) {
            let verdict = lose(flow, Loss::new(side, LossReason::Closed), terms, step);
            step.end(verdict);
        } else {
            // It comes again.
            step.end(Verdict::BeyondHead);
        }
        return false;
    }
    let leg = flow.leg(side);
    let beyond = !leg.parse.scanner.until_close() && seq::lt(leg.parse.at, seg.seq);
    if beyond && owes_write(flow, side) {
        // It has overtaken what may be the write's answer, and comes again.
        step.end(Verdict::BeyondHead);
        return false;
    }
    note_fin(flow.leg_mut(side), end);
    if incomplete(flow) && owes_last_alone(flow, side.other()) {
        // It won't do what it hasn't got whole. Nor must the other one, should the client send the rest.
        forsake(flow, side.other(), step);
        step.events = break_off(flow, terms, step);
    } else if owes_write(flow, side) && flow.leg(side.other()).state != leg_state::NONE {
        // A write that its server will never answer, and the other one may have done, or does.
        terms.switch.doubt();
    }
    true
}

/// Bytes of the leg without authority, that have been read: acknowledged, and seen by nobody.
#[inline(always)]
fn absorb<S: Switch>(
    flow: &mut Flow,
    side: Side,
    seg: &Segment,
    found: Read,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    let end = seg.end();
    let data_end = seg.seq.wrapping_add(seg.payload);
    let opaque = flow.has(Flow::OPAQUE);
    let turns = flow.turns;
    let leg = flow.leg_mut(side);
    let next = leg.rcv_nxt == seg.seq;
    if found == Read::Hole {
        leg.flags |= Leg::HOLE;
    } else if leg.answered == turns {
        leg.flags &= !Leg::HOLE;
    }
    // Over holes of a body nobody reads; never over one that hides a head.
    let whole = found != Read::Hole
        && (seq::le(seg.seq, leg.rcv_nxt) || (!opaque && seq::le(data_end, leg.parse.at)));
    if whole {
        leg.rcv_nxt = seq::max(leg.rcv_nxt, data_end);
        leg.sent_max = seq::max(leg.sent_max, data_end);
    }
    if whole && seg.is(tcp::FIN) && data_end == leg.rcv_nxt {
        note_fin(leg, end);
        leg.rcv_nxt = end;
        leg.sent_max = end;
        let waits = flow.has(Flow::AHEAD) && flow.answerer() as u32 == side as u32;
        if (!flow.has(Flow::CLIENT_FIN) || waits) && flow.state == flow_state::OPEN {
            fin_of_mirror(flow, side, terms, step);
            return;
        }
    }
    if next && whole && may_wait(flow, side, seg) {
        flow.leg_mut(side).flags |= Leg::OWES_ACK;
    } else {
        ack_leg(flow, side, step);
    }
    if raise_shown(flow) {
        ack_client(flow, step);
    }
    step.end(if seg.is(tcp::FIN) { Verdict::FinAbsorbed } else { Verdict::Absorbed });
}

/// Whether the acknowledgement of an answer's last segment, that nobody hears, may wait for the client's next packet, which
/// brings it: the next request, or the client's own acknowledgement of the answer that it hears. A receiver does so, too
/// (RFC 9293, 3.8.6.3: of every second segment at the latest). Where no such packet comes, the sweep brings it.
#[inline(always)]
fn may_wait(flow: &Flow, side: Side, seg: &Segment) -> bool {
    let (leg, other) = (flow.leg(side), flow.leg(side.other()));
    let last = leg.answered == flow.turns && leg.parse.at == leg.rcv_nxt;
    let comes = flow.client_acked != flow.view_next || other.answered != flow.turns;
    last && comes
        && seg.payload <= u32::from(flow.mss)
        && leg.flags & (Leg::OWES_ACK | Leg::FIN) == 0
        && flow.state == flow_state::OPEN
        && other.state == leg_state::OPEN
        && flow.hears(side.other())
        && !flow.has(Flow::OPAQUE | Flow::CLIENT_FIN)
}

/// The same of a leg whose connection's client hears nobody any more.
#[inline(always)]
pub(super) fn absorb_unheard<S: Switch>(
    flow: &mut Flow,
    side: Side,
    seg: &Segment,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    match if seg.payload > 0 { read(flow, side, seg, terms, step) } else { Read::Nothing } {
        Read::Raced => step.end(Verdict::DeferredRaced),
        found => absorb(flow, side, seg, found, terms, step),
    }
}

/// The mirror closes while the client doesn't: its leg is replaced, or owes what it will never do.
#[inline(always)]
fn fin_of_mirror<S: Switch>(flow: &mut Flow, side: Side, terms: &mut Terms<'_, S>, step: &mut Step) {
    let ends = flow.leg(side.other()).flags & (Leg::FIN | Leg::CLOSING) != 0 || done_as_asked(flow, side);
    // A client that waits for the one leg hears nothing of the other's end.
    let over = ends && !flow.has(Flow::AHEAD);
    let mine = terms.switch.word().authority() as u8 == side as u8;
    if over || (mine && !spared(flow, side, false)) || flow.has(Flow::OPAQUE) {
        // The connection's own end is on its way, or this is the end that the client will see.
        ack_leg(flow, side, step);
        if raise_shown(flow) {
            ack_client(flow, step);
        }
        step.end(Verdict::FinAbsorbed);
        return;
    }
    let verdict = lose(flow, Loss::new(side, LossReason::Closed), terms, step);
    step.end(verdict);
}
