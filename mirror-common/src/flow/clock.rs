//! What a flow needs when no packet comes: the sweep asks.

use super::close::{closed, finish_write, put_out};
use super::handshake::{SYN_AGAIN_MS, syn};
use super::loss::{lose, overdue};
use super::{Flow, Step, Switch, Terms, flow_state, leg_state};
use crate::seq;
use crate::switch_word::Side;
use crate::verdict::Verdict;

/// A flow whose ends have all been seen is kept this long for late segments, in milliseconds.
const LINGER_MS: u32 = 2_000;
/// A handshake that doesn't end, in milliseconds.
const OPENING_MS: u32 = 10_000;
/// Half-closed and silent, in milliseconds.
const HALF_CLOSED_MS: u32 = 60_000;

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

/// Looks at a flow without a packet. Without `act` nothing changes where the answer is [`Due::Emit`]: the caller comes back
/// with a packet in hand.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn on_sweep<S: Switch>(flow: &mut Flow, act: bool, terms: &mut Terms<'_, S>, step: &mut Step) -> Due {
    let now_ms = terms.now_ms;
    step.end(Verdict::NoneDue);
    if flow.state == flow_state::FREE {
        return Due::Nothing;
    }
    let quiet = seq::since(now_ms, flow.last_ms);
    let me = terms.switch.word().authority();
    let draining = flow.has(Flow::COUNTED);
    let over = match flow.state {
        flow_state::ENDED => quiet >= if draining { terms.service.stall_ms } else { LINGER_MS },
        flow_state::OPENING => quiet >= OPENING_MS,
        _ => (closed(flow) && quiet >= LINGER_MS) || (flow.has(Flow::CLIENT_FIN) && quiet >= HALF_CLOSED_MS),
    };
    if over || quiet >= terms.service.idle_ms {
        if draining {
            put_out(terms, step);
        }
        finish_write(flow, true, terms);
        return Due::Free;
    }
    if flow.state == flow_state::OPENING {
        return Due::Nothing;
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
    }
    due
}
