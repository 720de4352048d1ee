//! Packets of our own to a leg's server, and what it is told in those that are sent on.

use super::{Emit, Flow, Leg, Segment, Step, emit, tcp};
use crate::seq;
use crate::switch_word::Side;

/// What a leg's server is told that it has reached: the authority's by the client, the other's by us.
#[inline(always)]
pub(super) fn leg_ack(flow: &Flow, side: Side) -> u32 {
    let leg = flow.leg(side);
    if flow.hears(side) {
        seq::max(flow.client_acked.wrapping_sub(flow.delta), flow.shown_from)
    } else {
        leg.rcv_nxt
    }
}

/// The window that a leg's server is told: the authority's is the client's, as is that of a leg that will be heard; what is
/// absorbed needs no limit.
#[inline(always)]
fn leg_window(flow: &Flow, side: Side) -> u16 {
    let leg = flow.leg(side);
    if flow.answerer() as u32 == side as u32 && !flow.has(Flow::RETURNING) {
        let field = (u32::from(flow.client_window) << flow.client_scale()) >> (leg.told & 15);
        if field > 0xffff { 0xffff } else { field as u16 }
    } else {
        0xffff
    }
}

/// A packet to a leg's server whose first byte has the client's number `at`, with all that the server is told in any.
#[inline(always)]
pub(super) fn packet(flow: &Flow, side: Side, kind: u8, flags: u8, at: u32) -> Emit {
    let leg = flow.leg(side);
    Emit {
        kind,
        flags,
        seq: at.wrapping_add(leg.offset),
        ack: leg_ack(flow, side),
        port: leg.port,
        window: leg_window(flow, side),
        ..Emit::default()
    }
}

/// What leaves for a leg brings its server the acknowledgement that was owed.
#[inline(always)]
pub(super) fn note_brought(flow: &mut Flow, side: Side, step: &Step) {
    if step.to_leg[side as usize & 1].kind != emit::NONE {
        flow.leg_mut(side).flags &= !Leg::OWES_ACK;
    }
}

/// The acknowledgement of a leg's bytes, made from the packet at hand.
#[inline(always)]
pub(super) fn ack_leg(flow: &Flow, side: Side, step: &mut Step) {
    step.to_leg[side as usize] = packet(flow, side, emit::BARE, tcp::ACK, flow.client_next);
}

/// The reset for a server's segment that belongs to no living leg (RFC 9293, 3.10.7.1).
#[inline(always)]
pub(super) fn reset_leg(flow: &Flow, side: Side, seg: &Segment, step: &mut Step) {
    step.to_leg[side as usize] = Emit {
        kind: emit::BARE,
        flags: tcp::RST,
        seq: seg.ack,
        port: flow.leg(side).port,
        ..Emit::default()
    };
}

/// Our own reset of a leg, where `at` is the client's number that its server expects.
#[inline(always)]
pub(super) fn end_leg(flow: &Flow, side: Side, at: u32, step: &mut Step) {
    let leg = flow.leg(side);
    step.to_leg[side as usize] = Emit {
        kind: emit::BARE,
        flags: tcp::RST | tcp::ACK,
        seq: at.wrapping_add(leg.offset),
        ack: leg_ack(flow, side),
        port: leg.port,
        ..Emit::default()
    };
}
