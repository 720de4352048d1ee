//! SYN, SYN-ACK: a connection with one leg or two.

use super::client::ack_client;
use super::loss::{Loss, LossReason, end_with_reset, lose, tell_not_taken};
use super::settled::take_over;
use super::to_leg::{ack_leg, reset_leg};
use super::{Emit, Flow, Leg, Segment, Step, Switch, Terms, emit, flow_state, leg_state, tcp};
use crate::abi::{Service, Tuple};
use crate::seq;
use crate::switch_word::Side;
use crate::verdict::Verdict;

/// RFC 9293, 3.7.1: the segment size of a peer that names none.
const DEFAULT_MSS: u16 = 536;

/// A SYN that nobody answered is sent again after this, in milliseconds.
pub(super) const SYN_AGAIN_MS: u32 = 200;

/// What a new flow is given, besides its client's SYN.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening {
    /// Addresses and ports of the SYN.
    pub tuple: Tuple,
    /// [`Flow::who`].
    pub who: u32,
    /// By side: the leg's port ([`crate::abi::nat`]); 0: no such leg.
    pub ports: [u32; 2],
    /// By side: the leg's first sequence number.
    pub iss: [u32; 2],
}

/// Fills a free slot from a client's SYN.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn open<S: Switch>(
    flow: &mut Flow,
    seg: &Segment,
    opening: &Opening,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    let word = terms.switch.word();
    flow.tuple = opening.tuple;
    flow.who = opening.who;
    flow.state = flow_state::OPENING;
    flow.authority = word.authority() as u8;
    flow.scales = if seg.scale == Segment::NO_SCALE { 0 } else { seg.scale & 15 };
    flow.flags = if seg.scale == Segment::NO_SCALE { 0 } else { Flow::CLIENT_SCALES };
    flow.set(Flow::SACK, seg.permits_sack != 0);
    flow.pressed_since = 0;
    flow.iss = seg.seq;
    let first = seg.seq.wrapping_add(1);
    flow.client_next = first;
    flow.shown = first;
    flow.shown_edge = first;
    flow.client_acked = 0;
    flow.view_next = 0;
    flow.delta = 0;
    flow.shown_from = 0;
    flow.turn_view = 0;
    flow.turn_begin = first;
    flow.turns = 0;
    flow.write_turn = 0;
    flow.completed = 0;
    flow.heads = 0;
    flow.parse = Default::default();
    flow.parse.at = first;
    flow.client_window = seg.window;
    flow.mss = clamp(if seg.mss == 0 { DEFAULT_MSS } else { seg.mss }, terms.service);
    flow.last_ms = seg.now_ms;
    flow.turn_us = seg.now_us;
    flow.opened_ms = seg.now_ms;
    flow.shown_sack = 0;
    for side in Side::BOTH {
        let port = opening.ports[side as usize & 1];
        let leg = flow.leg_mut(side);
        *leg = Leg::default();
        if port != 0 {
            start(leg, port, opening.iss[side as usize & 1], first, seg.now_ms);
            leg.told = seg.scale;
            step.to_leg[side as usize] = syn(flow, side);
        }
    }
    step.end(Verdict::SynNew);
}

/// The smaller segment size of both sides' paths.
#[inline(always)]
fn clamp(mss: u16, service: &Service) -> u16 {
    let mut least = mss;
    for end in &service.endpoints {
        if end.mss != 0 && end.mss < least {
            least = end.mss;
        }
    }
    least
}

/// A leg that is being dialled, fed from the client's number `from` on.
#[inline(always)]
pub(super) fn start(leg: &mut Leg, port: u32, iss: u32, from: u32, now_ms: u32) {
    leg.state = leg_state::DIALLING;
    leg.flags = 0;
    leg.port = port;
    // The SYN takes the number before the first byte's.
    leg.offset = iss.wrapping_add(1).wrapping_sub(from);
    leg.acked = from;
    leg.edge = from;
    leg.dialled_ms = now_ms;
    leg.heard_ms = now_ms;
}

/// The SYN of a leg that is being dialled.
#[inline(always)]
pub(super) fn syn(flow: &Flow, side: Side) -> Emit {
    let leg = flow.leg(side);
    Emit {
        kind: emit::SYN,
        flags: tcp::SYN,
        seq: leg.acked.wrapping_add(leg.offset).wrapping_sub(1),
        ack: 0,
        port: leg.port,
        window: flow.client_window,
        mss: flow.mss,
        scale: leg.told,
        permits_sack: flow.has(Flow::SACK) as u8,
        ..Emit::default()
    }
}

/// The scale that a leg's SYN offers: the client's.
#[inline(always)]
pub(super) fn offered(flow: &Flow) -> u8 {
    if flow.has(Flow::CLIENT_SCALES) { flow.client_scale() } else { Segment::NO_SCALE }
}

/// Whether the client is done with its connection, and may use the port again: each side's end has been said, and
/// acknowledged to who said it. A leg may have more to say to nobody.
#[inline(always)]
fn gone(flow: &Flow) -> bool {
    let leg = flow.leg(flow.authority());
    let ended = match leg.state {
        leg_state::NONE | leg_state::DOWN => !flow.has(Flow::RETURNING),
        leg_state::OPEN => leg.flags & Leg::FIN != 0,
        _ => false,
    };
    flow.has(Flow::CLIENT_FIN)
        && ended
        && flow.shown == flow.client_next
        && flow.client_acked == flow.view_next
}

/// A SYN for which an entry exists. `step.dial` 0xff: the old connection is over; free it, and open a new one.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn on_client_syn<S: Switch>(
    flow: &mut Flow,
    seg: &Segment,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) -> u8 {
    syn_again(flow, seg, terms, step);
    step.verdict
}

#[inline(always)]
fn syn_again<S: Switch>(flow: &mut Flow, seg: &Segment, terms: &mut Terms<'_, S>, step: &mut Step) {
    let _ = terms;
    if flow.state == flow_state::ENDED || (gone(flow) && seq::lt(flow.client_next, seg.seq)) {
        if flow.has(Flow::COUNTED) {
            // A leg still owes a write's answer under the old connection: it would be cut off.
            step.end(Verdict::HeldUnsettled);
            return;
        }
        step.dial = 0xff;
        step.end(Verdict::SynNew);
        return;
    }
    flow.last_ms = seg.now_ms;
    if seg.seq == flow.iss && flow.state == flow_state::OPENING {
        for side in Side::BOTH {
            if flow.leg(side).state == leg_state::DIALLING {
                flow.leg_mut(side).dialled_ms = seg.now_ms;
                step.to_leg[side as usize] = syn(flow, side);
            }
        }
        step.end(Verdict::SynAgain);
        return;
    }
    // RFC 5961, 4: a SYN on a living connection is answered with where it stands; a client that has forgotten it resets.
    ack_client(flow, step);
    step.end(Verdict::TurnedBack);
}

/// A server's segment on a leg that is being dialled.
#[inline(always)]
pub(super) fn on_dialling<S: Switch>(
    flow: &mut Flow,
    side: Side,
    seg: &Segment,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    let expected = flow.leg(side).acked.wrapping_add(flow.leg(side).offset);
    let hit = seg.is(tcp::ACK) && seg.ack == expected;
    if seg.is(tcp::RST) {
        if !hit {
            step.end(Verdict::OutOfWindow);
        } else if flow.state == flow_state::OPENING && flow.authority as u32 == side as u32 {
            end_with_reset(flow, false, terms, step);
            tell_not_taken(flow, terms.service, step);
            step.end(Verdict::Reset);
        } else {
            let verdict = lose(flow, Loss::new(side, LossReason::Refused), terms, step);
            step.end(verdict);
        }
        return;
    }
    if !seg.is(tcp::SYN) || !hit {
        // A server that still has the port's last connection: it is told to forget it, and the SYN comes again.
        reset_leg(flow, side, seg, step);
        step.end(Verdict::ResetUnknownLeg);
        return;
    }
    opened(flow, side, seg);
    step.side = side as u8;
    if flow.state == flow_state::OPENING && flow.authority as u32 == side as u32 {
        flow.state = flow_state::OPEN;
        let edge = flow.leg(side).edge;
        flow.delta = 0;
        flow.view_next = seg.seq.wrapping_add(1);
        flow.shown_from = flow.view_next;
        flow.turn_view = flow.view_next;
        flow.client_acked = seg.seq;
        flow.shown_edge = edge;
        if seg.scale == Segment::NO_SCALE {
            // The client will not scale either (RFC 7323, 2.2).
            flow.scales = 0;
            flow.set(Flow::CLIENT_SCALES, false);
        } else {
            flow.scales = flow.client_scale() | seg.scale << 4;
        }
        flow.set(Flow::SACK, flow.has(Flow::SACK) && seg.permits_sack != 0);
        show_syn_ack(flow, seg, step);
        step.end(Verdict::SynAckShown);
    } else {
        ack_leg(flow, side, step);
        step.events |= Step::LEG_OPEN | Step::WAKE;
        step.events = take_over(flow, side, step);
        let without = flow.has(Flow::SACK) && seg.permits_sack == 0;
        step.end(if without { Verdict::SynAckWithoutSack } else { Verdict::SynAckAbsorbed });
    }
}

/// Takes a SYN-ACK's numbers over.
#[inline(always)]
fn opened(flow: &mut Flow, side: Side, seg: &Segment) {
    let turns = flow.turns;
    let leg = flow.leg_mut(side);
    let next = seg.seq.wrapping_add(1);
    leg.state = leg_state::OPEN;
    // Both must offer one (RFC 7323, 2.2), and what counts is what this leg was offered: the client's may be void by now.
    let scales = seg.scale != Segment::NO_SCALE && leg.told != Segment::NO_SCALE;
    leg.scale = if scales { seg.scale } else { 0 };
    leg.told = if scales { leg.told } else { 0 };
    leg.rcv_nxt = next;
    leg.sent_max = next;
    leg.parse.scanner.reset();
    leg.parse.at = next;
    leg.edge = leg.acked.wrapping_add(u32::from(seg.window));
    leg.heard_ms = seg.now_ms;
    if seg.permits_sack != 0 {
        leg.flags |= Leg::SACK;
    }
    if seq::le(leg.answered, turns) {
        leg.behind_since = 0;
    }
}

/// Shows the client the authority's SYN-ACK.
#[inline(always)]
pub(super) fn show_syn_ack(flow: &Flow, seg: &Segment, step: &mut Step) {
    let mss = if seg.mss == 0 { DEFAULT_MSS } else { seg.mss };
    step.to_client = Emit {
        kind: emit::SYN,
        flags: tcp::SYN | tcp::ACK,
        seq: seg.seq,
        ack: flow.iss.wrapping_add(1),
        port: 0,
        window: seg.window,
        mss: if mss < flow.mss { mss } else { flow.mss },
        scale: seg.scale,
        permits_sack: flow.has(Flow::SACK) as u8,
        ..Emit::default()
    };
}
