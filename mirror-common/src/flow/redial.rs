//! A leg's life is not the connection's: it is dialled anew under the client's connection.

use super::handshake::{offered, start, syn};
use super::settled::at_boundary;
use super::{Flow, Leg, Segment, Step, Switch, Terms, flow_state, leg_state};
use super::{measure, sack};
use crate::seq;
use crate::switch_word::Side;
use crate::verdict::Verdict;

/// A flow dials at most once in this time, in milliseconds: a closed port's RST must not become a SYN at line rate.
pub(super) const GAP_MS: u32 = 100;

/// What the caller has claimed for a dial.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialled {
    /// The [`Side`] whose server is dialled.
    pub side: u32,
    /// The leg's port ([`crate::abi::nat`]).
    pub port: u32,
    /// The leg's first sequence number.
    pub iss: u32,
}

impl Step {
    /// The leg that must be dialled, if any.
    pub fn dial(&self) -> Option<Side> {
        match self.dial {
            1 => Some(Side::Primary),
            2 => Some(Side::Shadow),
            _ => None,
        }
    }
}

/// Whether a leg that is down may be dialled now.
#[inline(always)]
pub(super) fn may_dial(leg: &Leg, now_ms: u32) -> bool {
    leg.state == leg_state::DOWN && (leg.dialled_ms == 0 || seq::since(now_ms, leg.dialled_ms) >= GAP_MS)
}

/// Puts a leg down: what the client sends from `from` on is owed to its successor.
#[inline(always)]
pub(super) fn put_down(flow: &mut Flow, side: Side, from: u32, answered: u32) {
    let leg = flow.leg_mut(side);
    leg.state = leg_state::DOWN;
    leg.flags = 0;
    leg.acked = from;
    leg.edge = from;
    leg.answered = answered;
    leg.fed = 0;
    leg.behind_since = 0;
    leg.parse.scanner.reset();
    leg.parse.at = 0;
    leg.rcv_nxt = 0;
    leg.sent_max = 0;
    sack::forget(flow, side);
    measure::unsummed(flow);
}

/// Puts a leg down whose successor begins with the client's next byte, and may be dialled at once.
#[inline(always)]
pub(super) fn renew(flow: &mut Flow, side: Side) {
    let (next, turns) = (flow.client_next, flow.turns);
    put_down(flow, side, next, turns);
    flow.leg_mut(side).dialled_ms = 0;
}

/// Whether a leg that the client waits for must be replaced first: there is none, or its server has closed it.
#[inline(always)]
pub(super) fn must_renew(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    let gone = leg.state == leg_state::NONE || (leg.state == leg_state::OPEN && leg.flags & Leg::FIN != 0);
    // A client that has closed, and has all its answers, waits for no leg.
    let waits = flow.has(Flow::ASK_AGAIN) || !flow.has(Flow::CLIENT_FIN);
    gone && waits && at_boundary(flow) && !flow.has(Flow::COUNTED)
}

/// Asks for a dial at a boundary, where the side is a member and the gap is over.
#[inline(always)]
pub(super) fn ask_dial(flow: &Flow, side: Side, now_ms: u32, step: &mut Step) {
    if may_dial(flow.leg(side), now_ms) && (at_boundary(flow) || flow.leg(side).acked != flow.client_next) {
        step.dial = 1 + side as u8;
    }
}

/// The second half of a dial: a port has been claimed. May refuse (nothing to send): the port goes back.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn on_dialled<S: Switch>(
    flow: &mut Flow,
    dialled: &Dialled,
    seg: &Segment,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    step.dial = 0;
    let side = Side::from_bit(dialled.side);
    let wanted = flow.state == flow_state::OPEN
        && may_dial(flow.leg(side), seg.now_ms)
        && terms.switch.word().member(side);
    if !wanted {
        return;
    }
    let from = flow.leg(side).acked;
    let scale = offered(flow);
    start(flow.leg_mut(side), dialled.port, dialled.iss, from, seg.now_ms);
    flow.leg_mut(side).told = scale;
    step.to_leg[side as usize] = syn(flow, side);
    if step.verdict == Verdict::HeldUnsettled as u8 || step.verdict == Verdict::HeldCapped as u8 {
        // The packet at hand becomes the SYN; what is held is a copy.
        step.hold_copy = 1;
        step.end(Verdict::Dialled);
    }
    if step.verdict == Verdict::LegLost as u8 || step.verdict == Verdict::NoLeg as u8 {
        step.end(Verdict::Dialled);
    }
}
