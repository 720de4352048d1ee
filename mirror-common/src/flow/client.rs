//! On a client's segment: turned back, held, routed, sent on.

use core::hint::cold_path;

use super::broken_off::{break_off, went_on};
use super::close::{client_reset, finish_write};
use super::handshake::{SYN_AGAIN_MS, syn};
use super::loss::check_clock;
use super::redial::{ask_dial, may_dial};
use super::settled::{take_over, wake};
use super::to_leg::{ack_leg, note_brought, packet};
use super::turn::{AHEAD, IN_ORDER, KEPT, begin_turn};
use super::{Emit, Flow, Reading, Segment, Step, Switch, Terms, emit, flow_state, leg_state, sack, tcp};
use crate::seq;
use crate::switch_word::Side;
use crate::verdict::Verdict;

/// Beyond the right edge that was shown, nothing of the client's is believed but this much, in bytes.
const EDGE_SLACK: u32 = 65_536;

/// What a server sends again begins at most so far before what the client has acknowledged: more than any window, in bytes.
const LATE: u32 = 1 << 30;

/// An acknowledgement that is farther behind the last one isn't the client's: more than any window, in bytes.
const OLD_ACK: u32 = 1 << 26;

/// A segment of the client's, SYNs excepted ([`super::on_client_syn`]).
#[inline(always)]
pub fn on_client<S: Switch>(flow: &mut Flow, seg: &Segment, terms: &mut Terms<'_, S>, step: &mut Step) -> u8 {
    step.sack.open(&seg.sack);
    let verdict = taken(flow, seg, terms, step);
    if flow.has(Flow::GIVEN_UP) {
        cold_path();
        step.events = went_on(flow, terms, step);
    }
    // By itself, and last: the verifier follows it from every state that it is come to in.
    if flow.has(Flow::SACK) { sack::of_client(flow, seg, step) } else { verdict }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn taken<S: Switch>(flow: &mut Flow, seg: &Segment, terms: &mut Terms<'_, S>, step: &mut Step) -> u8 {
    by_kind(flow, seg, terms, step);
    for side in Side::BOTH {
        note_brought(flow, side, step);
    }
    step.verdict
}

#[inline(always)]
fn by_kind<S: Switch>(flow: &mut Flow, seg: &Segment, terms: &mut Terms<'_, S>, step: &mut Step) {
    if flow.state == flow_state::ENDED {
        cold_path();
        flow.set(Flow::TOLD_ONCE, false);
        if !seg.is(tcp::RST) {
            reset_client(seg, step);
        }
        step.end(Verdict::ResetStale);
        return;
    }
    if seg.is(tcp::RST) {
        cold_path();
        client_reset(flow, seg, terms, step);
        return;
    }
    let end = seg.end();
    let sane = seg.is(tcp::ACK)
        && flow.state == flow_state::OPEN
        && !seq::lt(flow.shown_edge.wrapping_add(EDGE_SLACK), end);
    if !sane {
        cold_path();
        step.end(Verdict::OutOfWindow);
        return;
    }
    flow.last_ms = seg.now_ms;
    let acked_long_ago = seq::lt(seg.ack, flow.client_acked.wrapping_sub(OLD_ACK));
    if seq::lt(flow.view_next, seg.ack) || acked_long_ago || seg.is(tcp::SYN) {
        cold_path();
        // An acknowledgement of what was never sent, or older than any that could still be on its way, or a SYN: RFC 5961, 4
        // and 5. The leg's server couldn't tell: what goes there carries the acknowledgement that is known.
        ack_client(flow, step);
        step.end(Verdict::TurnedBack);
        return;
    }
    if seq::lt(flow.client_acked, seg.ack) {
        flow.client_acked = seg.ack;
        follow(flow);
        let other = flow.authority().other();
        step.events = take_over(flow, other, step);
        wake(flow, step);
    }
    flow.client_window = seg.window;
    let fin = seg.is(tcp::FIN);
    if seg.payload <= 1 && !fin && seg.seq == flow.shown.wrapping_sub(1) {
        cold_path();
        probe(flow, seg, step);
    } else if end == seg.seq {
        pure_ack(flow, seg, step);
    } else if seq::lt(seg.seq, flow.shown) && !cfg!(feature = "plant-stale-forwarded") {
        ack_client(flow, step);
        step.end(Verdict::TurnedBack);
    } else if seq::le(end, flow.client_next) {
        again(flow, seg, end, step);
    } else {
        new_bytes(flow, seg, end, terms, step);
    }
    check_clock(flow, terms, step);
}

/// Lets the authority's numbers go with the client's acknowledgement: one that stood still would seem to lie ahead when 2 GiB
/// have come behind it.
#[inline(always)]
fn follow(flow: &mut Flow) {
    let side = flow.authority();
    if flow.hears(side) {
        let acked = flow.client_acked.wrapping_sub(flow.delta);
        flow.shown_from = seq::max(flow.shown_from, acked.wrapping_sub(LATE));
        let leg = flow.leg_mut(side);
        leg.rcv_nxt = seq::max(leg.rcv_nxt, acked);
    }
}

/// Tells the client all that it may know: beside the answer that it is sent, or by an acknowledgement that is made from the
/// packet at hand.
#[inline(always)]
pub(super) fn ack_client(flow: &mut Flow, step: &mut Step) {
    raise_edge(flow);
    let (ack, window) = (flow.shown, shown_window(flow));
    if step.to_client.carries() {
        step.to_client = Emit { ack, window, ..step.to_client };
        return;
    }
    let (kind, flags, seq) = (emit::BARE, tcp::ACK, flow.view_next);
    step.to_client = Emit { kind, flags, seq, ack, window, ..Emit::default() };
}

/// The reset that tells the client of its connection's end, at this number of its view.
#[inline(always)]
pub(super) fn end_client(flow: &Flow, seq: u32, step: &mut Step) {
    let (flags, ack) = (tcp::RST | tcp::ACK, flow.shown);
    step.to_client = Emit { kind: emit::BARE, flags, seq, ack, ..Emit::default() };
}

/// RFC 9293, 3.10.7.1: the reset for a segment of a connection that isn't.
#[inline(always)]
fn reset_client(seg: &Segment, step: &mut Step) {
    step.to_client = Emit { kind: emit::BARE, flags: tcp::RST, seq: seg.ack, ..Emit::default() };
}

/// The window field that shows the right edge.
#[inline(always)]
pub(super) fn shown_window(flow: &Flow) -> u16 {
    let bytes = flow.shown_edge.wrapping_sub(flow.shown);
    if (bytes as i32) < 0 {
        return 0;
    }
    let field = bytes >> flow.shown_scale();
    if field > 0xffff { 0xffff } else { field as u16 }
}

/// The smallest right edge of the open legs; the shown one where none is open.
#[inline(always)]
pub(super) fn least_edge(flow: &Flow) -> u32 {
    let primary = flow.leg(Side::Primary);
    let shadow = flow.leg(Side::Shadow);
    match (primary.state == leg_state::OPEN, shadow.state == leg_state::OPEN) {
        (true, true) => seq::min(primary.edge, shadow.edge),
        (true, false) => primary.edge,
        (false, true) => shadow.edge,
        (false, false) => flow.shown_edge,
    }
}

/// Raises the right edge that is shown; it never moves back.
#[inline(always)]
pub(super) fn raise_edge(flow: &mut Flow) {
    let least = least_edge(flow);
    let back = cfg!(feature = "plant-edge-back");
    flow.shown_edge = if back { least } else { seq::max(flow.shown_edge, least) };
}

/// What of the client's bytes may be shown as received, if every leg has them.
///
/// A read that another side was asked isn't acknowledged before its answer begins: the client keeps it, and it can be
/// asked of the other leg.
#[inline(always)]
pub(super) fn showable(flow: &Flow) -> u32 {
    if flow.has(Flow::MOVED | Flow::ASK_AGAIN) {
        seq::min(flow.client_next, flow.turn_begin)
    } else {
        flow.client_next
    }
}

/// Raises the acknowledgement that is shown to the least of the legs that owe. Returns whether it rose.
#[inline(always)]
pub(super) fn raise_shown(flow: &mut Flow) -> bool {
    let mut least = showable(flow);
    let alone = cfg!(feature = "plant-minimum-of-authority");
    if flow.leg(Side::Primary).state != leg_state::NONE && !(alone && flow.authority() == Side::Shadow) {
        least = seq::min(least, flow.leg(Side::Primary).acked);
    }
    if flow.leg(Side::Shadow).state != leg_state::NONE && !(alone && flow.authority() == Side::Primary) {
        least = seq::min(least, flow.leg(Side::Shadow).acked);
    }
    let rises = seq::lt(flow.shown, least);
    if rises {
        flow.shown = least;
    }
    rises
}

/// The packet at hand, for a leg.
#[inline(always)]
fn forward(flow: &Flow, side: Side, seg: &Segment) -> Emit {
    packet(flow, side, emit::FORWARD, 0, seg.seq)
}

/// A keep-alive or window probe: to each leg whose window is shut, else to the authority; its answer is shown.
#[inline(always)]
fn probe(flow: &mut Flow, seg: &Segment, step: &mut Step) {
    let authority = flow.authority();
    let mut sent = false;
    for side in Side::BOTH {
        let leg = flow.leg(side);
        // Less room than the client's window field can say is none, either.
        let shut = seq::lt(leg.edge, flow.client_next.wrapping_add(1 << flow.shown_scale()));
        if leg.state == leg_state::OPEN && (shut || side as u8 == authority as u8) {
            let mut probe = forward(flow, side, seg);
            // In the leg's view, too, it must lie just before what the leg expects.
            probe.seq = leg.acked.wrapping_add(leg.offset).wrapping_sub(1);
            step.to_leg[side as usize] = probe;
            sent = true;
        }
    }
    flow.set(Flow::PROBED, sent);
    step.end(if sent { Verdict::Probe } else { Verdict::NoLeg });
}

/// An acknowledgement without payload is the authority's; with it the other leg gets the one that it is owed.
#[inline(always)]
fn pure_ack(flow: &mut Flow, seg: &Segment, step: &mut Step) {
    let side = flow.authority();
    if flow.leg(side).state == leg_state::OPEN && flow.hears(side) {
        step.to_leg[side as usize] = forward(flow, side, seg);
        step.end(Verdict::Forwarded);
    } else {
        step.end(Verdict::NoLeg);
    }
    for other in Side::BOTH {
        let leg = flow.leg(other);
        if leg.owes_ack()
            && flow.client_acked == flow.view_next
            && step.to_leg[other as usize].kind == emit::NONE
        {
            ack_leg(flow, other, step);
        }
        let stale =
            leg.state == leg_state::DIALLING && seq::since(seg.now_ms, leg.dialled_ms) >= SYN_AGAIN_MS;
        if stale && step.to_leg[other as usize].kind == emit::NONE {
            cold_path();
            flow.leg_mut(other).dialled_ms = seg.now_ms;
            step.to_leg[other as usize] = syn(flow, other);
        }
    }
}

/// Bytes that were sent on before: only to the legs that lack them.
#[inline(always)]
fn again(flow: &mut Flow, seg: &Segment, end: u32, step: &mut Step) {
    if flow.has(Flow::ASK_AGAIN)
        && !flow.has(Flow::RETURNING)
        && seg.seq == flow.turn_begin
        && end == flow.client_next
    {
        ask_again(flow, seg, step);
        return;
    }
    feed(flow, seg, end, step);
    if flow.has(Flow::RETURNING) {
        // What the client repeats may be the read that waits for this leg.
        ask_dial(flow, flow.authority().other(), seg.now_ms, step);
    }
    if cfg!(feature = "plant-clone-forgotten") {
        step.to_leg[flow.authority().other() as usize] = Emit::default();
    }
    if step.verdict == Verdict::NoLeg as u8 {
        // A leg that lacked it may have gone since, and the other one says nothing more.
        raise_shown(flow);
        ack_client(flow, step);
        step.end(Verdict::TurnedBack);
    }
}

/// A segment that must wait, but begins with bytes of the turn that has begun: the rest of its body, or what a client's
/// retransmission joins. They go alone to the legs that lack them, else what is waited for would never come.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn part(flow: &mut Flow, seg: &Segment, step: &mut Step) -> u8 {
    let begun = seq::max(flow.client_next, flow.parse.at);
    let known = begun.wrapping_sub(seg.seq);
    if known == 0 || known >= seg.payload || known > 0xffff {
        return step.verdict;
    }
    flow.client_next = begun;
    let mut sent = false;
    if flow.has(Flow::ASK_AGAIN) && !flow.has(Flow::RETURNING) && seg.seq == flow.turn_begin {
        ask_again(flow, seg, step);
        sent = true;
    } else {
        for side in Side::BOTH {
            let leg = flow.leg(side);
            if leg.state == leg_state::OPEN && seq::lt(leg.acked, flow.client_next) {
                step.to_leg[side as usize] = forward(flow, side, seg);
                sent = true;
            }
        }
    }
    if !sent {
        return step.verdict;
    }
    for side in Side::BOTH {
        let emit = &mut step.to_leg[side as usize & 1];
        if emit.kind == emit::FORWARD {
            emit.kind = emit::CUT;
            emit.mss = known as u16;
            emit.flags = tcp::ACK | tcp::PSH;
        }
    }
    step.hold_copy = 1;
    step.end(Verdict::PartForwarded);
    step.verdict
}

/// Asks the authority a read anew that it has answered to nobody: the same bytes, behind what it has had.
#[inline(always)]
fn ask_again(flow: &mut Flow, seg: &Segment, step: &mut Step) {
    let side = flow.authority();
    let begin = flow.turn_begin;
    let turns = flow.turns;
    let length = flow.client_next.wrapping_sub(begin);
    let leg = flow.leg_mut(side);
    leg.offset = leg.offset.wrapping_add(length);
    leg.edge = leg.edge.wrapping_sub(length);
    leg.acked = begin;
    leg.answered = turns.wrapping_sub(1);
    leg.fed = leg.fed.wrapping_add(1);
    sack::forget(flow, side);
    flow.set(Flow::ASK_AGAIN, false);
    step.to_leg[side as usize] = forward(flow, side, seg);
    step.end(Verdict::AskedAgain);
}

/// Sends a segment on to each leg that lacks some of it.
#[inline(always)]
fn feed(flow: &mut Flow, seg: &Segment, end: u32, step: &mut Step) {
    let mut sent = 0_u32;
    for side in Side::BOTH {
        let leg = flow.leg(side);
        let lacks = seq::lt(leg.acked, end);
        match leg.state {
            leg_state::OPEN if lacks => {
                step.to_leg[side as usize] = forward(flow, side, seg);
                sent += 1;
            }
            leg_state::DIALLING => {
                step.hold_copy = 1;
                if seq::since(seg.now_ms, flow.leg(side).dialled_ms) >= SYN_AGAIN_MS {
                    flow.leg_mut(side).dialled_ms = seg.now_ms;
                    step.to_leg[side as usize] = syn(flow, side);
                }
            }
            leg_state::DOWN if lacks => {
                step.hold_copy = 1;
                if may_dial(flow.leg(side), seg.now_ms) {
                    step.dial = 1 + side as u8;
                }
            }
            _ => {}
        }
    }
    step.end(match (sent, step.hold_copy) {
        (_, 1) => Verdict::HeldDialling,
        (0, _) => Verdict::NoLeg,
        (1, _) => Verdict::Forwarded,
        _ => Verdict::Mirrored,
    });
}

/// Bytes that come for the first time.
#[inline(always)]
fn new_bytes<S: Switch>(flow: &mut Flow, seg: &Segment, end: u32, terms: &mut Terms<'_, S>, step: &mut Step) {
    let data_end = seg.seq.wrapping_add(seg.payload);
    let mut begun = u8::MAX;
    if flow.parse.scanner.in_chunks() && seq::lt(flow.parse.at, seg.seq) {
        // To wait for what is missing would cost the client a timeout for each segment that is lost.
        flow.parse.scanner.lose_end();
    }
    let unread =
        seq::lt(flow.parse.at, data_end) && !flow.has(Flow::OPAQUE) && !flow.parse.scanner.until_close();
    if unread {
        if seq::lt(flow.parse.at, seg.seq) {
            let behind = flow.has(Flow::HELD);
            step.end(if behind { Verdict::HeldBehind } else { Verdict::DeferredOrder });
            return;
        }
        let reading = &seg.reading;
        let valid = reading.flags & Reading::DONE != 0
            && reading.before == flow.parse
            && reading.base == flow.completed;
        if !valid {
            step.end(Verdict::DeferredRaced);
            return;
        }
        // What takes up an offer needn't look like a request.
        if reading.begun > 0 || (flow.has(Flow::OFFERED) && flow.parse.scanner.is_boundary()) {
            begun = begin_turn(flow, seg, terms, step);
            if begun < IN_ORDER {
                step.verdict = begun;
                if flow.state == flow_state::OPEN {
                    flow.set(Flow::HELD, true);
                    step.verdict = part(flow, seg, step);
                }
                return;
            }
        }
        accept(flow, reading, terms, step);
        if cfg!(feature = "plant-length-ignored") {
            flow.parse.at = data_end;
        }
    } else if seg.is(tcp::FIN) && seq::lt(flow.client_next, seg.seq) {
        step.end(Verdict::DeferredOrder);
        return;
    }
    // What waited has come through, this very segment or its like.
    flow.set(Flow::HELD, false);
    flow.client_next = data_end;
    if seg.is(tcp::FIN) {
        step.events = break_off(flow, terms, step);
        flow.client_next = end;
        flow.set(Flow::CLIENT_FIN, true);
        // A FIN takes a number that no request does.
        if flow.parse.at == data_end {
            flow.parse.at = end;
        }
    }
    feed(flow, seg, end, step);
    if step.verdict == Verdict::Mirrored as u8 || step.verdict == Verdict::Forwarded as u8 {
        match begun {
            KEPT => step.end(Verdict::KeptUnsettled),
            AHEAD => step.end(Verdict::MirroredAhead),
            IN_ORDER => step.end(Verdict::KeptOrder),
            _ => {}
        }
    }
}

/// Takes over what the reading found.
#[inline(always)]
fn accept<S: Switch>(flow: &mut Flow, reading: &Reading, terms: &mut Terms<'_, S>, step: &mut Step) {
    flow.parse = reading.after;
    let shift = flow.completed & 63;
    let mask = if reading.completed >= 64 { u64::MAX } else { (1_u64 << (reading.completed & 63)) - 1 };
    flow.heads = (flow.heads & !mask.rotate_left(shift)) | (reading.heads & mask).rotate_left(shift);
    flow.completed = flow.completed.wrapping_add(reading.completed);
    if reading.completed > 0 {
        flow.set(Flow::LAST_ASKED, reading.flags & Reading::CLOSE != 0);
        flow.set(Flow::OFFERED, reading.flags & Reading::UPGRADE != 0);
    }
    if reading.flags & Reading::OPAQUE != 0 {
        make_opaque(flow, terms, step);
    }
}

/// From here on nothing is told apart: the flow keeps its authority and both legs for life, and isn't waited for.
#[inline(always)]
pub(super) fn make_opaque<S: Switch>(flow: &mut Flow, terms: &mut Terms<'_, S>, step: &mut Step) {
    flow.set(Flow::OPAQUE, true);
    flow.set(Flow::MOVED, false);
    finish_write(flow, true, terms, step);
}
