//! Offers of another protocol (Upgrade: RFC 9110, 7.8). Clients make them that few servers take up: Java's `HttpClient` offers
//! HTTP/2 with each request.
//!
//! A server that declines answers as if nothing had been offered, and the connection goes on. One that takes it up says 101, and
//! what follows is no HTTP: the flow is opaque. What the client sends behind its offer waits until every leg has said which. For
//! bytes that a client would never send into an answer under way there are servers that drop, or take for the other protocol's,
//! and the leg that nobody hears may be behind.

use super::{Flow, Leg, leg_state};
use crate::switch_word::Side;

/// Ends the wait, once no leg owes its word any more. A subprogram of its own, for its many callers.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn settle(flow: &mut Flow) {
    if !said(flow, Side::Primary) || !said(flow, Side::Shadow) {
        return;
    }
    flow.set(Flow::OFFERED, false);
    let accepts = |side: Side| flow.leg(side).flags & Leg::UNKNOWN != 0;
    if accepts(flow.authority()) {
        flow.set(Flow::OPAQUE, true);
        flow.set(Flow::MOVED, false);
    } else if !accepts(flow.authority().other()) {
        flow.set(Flow::DECLINED, true);
    }
}

/// Whether a leg has answered the offer, or never will.
#[inline(always)]
fn said(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    leg.state == leg_state::NONE || leg.flags & (Leg::UNKNOWN | Leg::FIN) != 0 || leg.answered == flow.turns
}
