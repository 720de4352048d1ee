//! What a flow needs when no packet comes: the sweep asks.

use super::broken_off::{break_off, waits_for_client};
use super::client::end_client;
use super::close::{closed, finish_write, put_out};
use super::handshake::{SYN_AGAIN_MS, syn};
use super::loss::{end_with_reset, lose, overdue, tell_not_taken};
use super::settled::owes_write;
use super::to_leg::ack_leg;
use super::{Emit, Flow, Leg, Step, Switch, Terms, flow_state, leg_state};
use crate::seq;
use crate::switch_word::Side;
use crate::verdict::Verdict;

/// A flow whose ends have all been seen is kept this long for late segments, in milliseconds.
const LINGER_MS: u32 = 2_000;
/// A client that hasn't said a word since its connection's end is told of it once more after this, in milliseconds: a reset
/// isn't acknowledged, and who only waits for an answer would wait for ever.
const TELL_AGAIN_MS: u32 = 200;
/// A handshake that doesn't end, at the server or at the client, in milliseconds.
pub(super) const OPENING_MS: u32 = 10_000;
/// The same where room is scarce ([`sweep::CROWDED`]): more than a round trip to the farthest client.
const CROWDED_OPENING_MS: u32 = 1_000;
/// Then a flow that was ended is kept so long for late segments, in milliseconds: what comes later is reset.
const CROWDED_LINGER_MS: u32 = 2 * TELL_AGAIN_MS;
/// Half-closed and silent, in milliseconds.
const HALF_CLOSED_MS: u32 = 60_000;

/// An acknowledgement that no packet of the client's has brought its server waits so long for the sweep, in milliseconds: as
/// Linux' least delay (TCP_DELACK_MIN), and less than its least timeout.
const LATE_ACK_MS: u32 = 40;

/// What the sweep must do for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Due {
    /// Nothing.
    Nothing = 0,
    /// Packets must be made: as the step says.
    Emit = 1,
    /// The slot must be freed.
    Free = 2,
}

/// How the sweep looks: bits of its second argument.
pub mod sweep {
    /// With a packet in hand: what is due is done.
    pub const ACT: u32 = 1;
    /// The authority is dead: connections are ended that wait for a write's answer from it.
    pub const GIVE_UP: u32 = 2;
    /// A move waits: connections are ended whose clients haven't sent a write whole.
    pub const BREAK_OFF: u32 = 4;
    /// Most slots or ports are in use: connections that nobody has finished opening make room.
    pub const CROWDED: u32 = 8;
}

/// Looks at a flow without a packet. Without [`sweep::ACT`] nothing changes where the answer is [`Due::Emit`]: the caller comes
/// back with a packet in hand.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn on_sweep<S: Switch>(flow: &mut Flow, how: u32, terms: &mut Terms<'_, S>, step: &mut Step) -> Due {
    let now_ms = terms.now_ms;
    let act = how & sweep::ACT != 0;
    step.end(Verdict::NoneDue);
    if flow.state == flow_state::FREE {
        return Due::Nothing;
    }
    let quiet = seq::since(now_ms, flow.last_ms);
    let me = terms.switch.word().authority();
    let draining = flow.has(Flow::COUNTED);
    let crowded = how & sweep::CROWDED != 0;
    let opening_ms = if crowded { CROWDED_OPENING_MS } else { OPENING_MS };
    let over = match flow.state {
        flow_state::ENDED if draining => quiet >= terms.service.stall_ms,
        flow_state::ENDED => quiet >= if crowded { CROWDED_LINGER_MS } else { LINGER_MS },
        flow_state::OPENING => quiet >= opening_ms,
        _ => (closed(flow) && quiet >= LINGER_MS) || (flow.has(Flow::CLIENT_FIN) && quiet >= HALF_CLOSED_MS),
    };
    if over || quiet >= terms.service.idle_ms {
        step.events = break_off(flow, terms, step);
        if flow.has(Flow::COUNTED) {
            put_out(terms, step);
        }
        finish_write(flow, true, terms, step);
        if flow.state == flow_state::OPENING {
            match crowded {
                true => step.end(Verdict::HalfOpen),
                false => tell_not_taken(flow, terms.service, step),
            }
        }
        return Due::Free;
    }
    if flow.state == flow_state::OPENING {
        return Due::Nothing;
    }
    if flow.has(Flow::TOLD_ONCE) {
        if quiet < TELL_AGAIN_MS {
            return Due::Nothing;
        }
        if act {
            tell_again(flow, step);
        }
        return Due::Emit;
    }
    let forsaken = half_open(flow) && seq::since(now_ms, flow.leg(flow.authority()).heard_ms) >= opening_ms;
    let given_up = how & sweep::GIVE_UP != 0 && flow.state == flow_state::OPEN && owes_write(flow, me);
    let broken_off = how & sweep::BREAK_OFF != 0 && flow.state == flow_state::OPEN && waits_for_client(flow);
    if forsaken || given_up || broken_off {
        if act {
            end_with_reset(flow, given_up, terms, step);
            step.end(match (broken_off, forsaken && crowded) {
                (true, _) => Verdict::BrokenOff,
                (_, true) => Verdict::HalfOpen,
                _ => Verdict::Reset,
            });
            if forsaken {
                // Whom the SYN came from, if anyone, has never heard of it; the legs are open.
                step.to_client = Emit::default();
                flow.set(Flow::TOLD_ONCE, false);
            }
        }
        return Due::Emit;
    }
    let side = me.other();
    let loss = overdue(flow, side, terms);
    if loss.is_one() {
        if act {
            let verdict = lose(flow, loss, terms, step);
            step.end(verdict);
        }
        return Due::Emit;
    }
    let mut due = Due::Nothing;
    for side in Side::BOTH {
        let leg = flow.leg(side);
        if leg.state == leg_state::DIALLING && seq::since(now_ms, leg.dialled_ms) >= SYN_AGAIN_MS {
            if act {
                flow.leg_mut(side).dialled_ms = now_ms;
                step.to_leg[side as usize] = syn(flow, side);
                step.end(Verdict::SynAgain);
            }
            due = Due::Emit;
        }
        let leg = flow.leg(side);
        if leg.owes_ack() && seq::since(now_ms, leg.heard_ms) >= LATE_ACK_MS {
            if act {
                flow.leg_mut(side).flags &= !Leg::OWES_ACK;
                ack_leg(flow, side, step);
                step.end(Verdict::AckedLate);
            }
            due = Due::Emit;
        }
    }
    due
}

/// Whether the client hasn't answered its SYN-ACK. When that came is when its server was heard: repetitions don't count.
#[inline(always)]
fn half_open(flow: &Flow) -> bool {
    flow.state == flow_state::OPEN
        && flow.client_next == flow.iss.wrapping_add(1)
        && flow.client_acked.wrapping_add(1) == flow.turn_view
}

/// The second reset stands where the client is known to be: the first one stood behind all that was on its way.
#[inline(always)]
fn tell_again(flow: &mut Flow, step: &mut Step) {
    flow.set(Flow::TOLD_ONCE, false);
    end_client(flow, flow.client_acked, step);
    step.end(Verdict::ResetStale);
}
