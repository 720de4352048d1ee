//! Order across connections. Within one, TCP keeps it. But a client that was answered on one may write on another at once, and
//! the mirror may do that write first: its leg of the other connection may be ahead.
//!
//! So it is counted which connections *lag*: their clients have seen answers that the mirror still owes. What begins beside one
//! may overtake it; where the service's writes are ordered, it waits. Nothing is told apart by what is written: it is an upper
//! bound.
//!
//! Why no write slips through: a connection is counted as lagging under its lock, before the packet leaves that shows its client
//! the first byte of the answer. A write that was asked for because of that byte comes later than that packet by whatever way,
//! so that it finds the count raised, until the mirror has answered as much. One whose first byte was here before needs no
//! order: nobody could know of the answer when it was sent. (A freeze must find *every* write, which is why it takes a count
//! before the word is read; here one that reads the count too early is one that began too early to be ordered.)

use super::{Flow, Step, Switch, Terms, flow_state, leg_state};
use crate::abi::Service;
use crate::seq;
use crate::switch_word::SwitchWord;

/// A write that waited within this is taken to wait still, in milliseconds: held frames are tried again every 20 ms.
const WAITS_MS: u32 = 50;

/// Whether the client has seen something of an answer that the mirror hasn't given to its end, while a write is counted.
#[inline(always)]
fn lags(flow: &Flow) -> bool {
    let (authority, mirror) = (flow.leg(flow.authority()), flow.leg(flow.authority().other()));
    // Turns of whose answers the client may have seen a byte: the last one, where its head or its chunks are under way.
    let seen = authority.answered.wrapping_add(u32::from(!authority.parse.scanner.is_boundary()));
    let ahead = mirror.answered.wrapping_sub(seen) as i32;
    let whole = mirror.state != leg_state::OPEN || ahead > 0 || !seq::lt(mirror.sent_max, mirror.parse.at);
    flow.has(Flow::COUNTED) && mirror.state != leg_state::NONE && (ahead < 0 || !whole)
}

/// Counts the connection as lagging, or no more. A subprogram of its own, for its many callers.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn note_lag<S: Switch>(flow: &mut Flow, terms: &mut Terms<'_, S>, step: &mut Step) -> u8 {
    let lagged = flow.has(Flow::LAGS);
    // Behind its end a connection shows its client no answer.
    let lags = (lagged || flow.state == flow_state::OPEN) && lags(flow);
    flow.set(Flow::LAGS, lags);
    if lags && !lagged {
        terms.switch.begin_lag();
    }
    if lagged && !lags && terms.switch.end_lag() && someone_waits(terms) {
        step.events |= Step::CAUGHT_UP;
    }
    step.events
}

/// Whether a write that begins now overtakes another connection's on the mirror, maybe.
#[inline(always)]
pub(super) fn overtakes<S: Switch>(flow: &Flow, word: SwitchWord, terms: &mut Terms<'_, S>) -> bool {
    word.member(word.authority().other()) && terms.switch.lagging() > u32::from(flow.has(Flow::LAGS))
}

/// Whether a write must wait for its order, if the service's writes are ordered.
///
/// While others wait, a connection that lags waits, too, though its own writes can't overtake one another: one that writes
/// without a pause would lag for ever, and they would never begin.
#[inline(always)]
pub(super) fn waits<S: Switch>(flow: &Flow, overtakes: bool, terms: &mut Terms<'_, S>) -> bool {
    if terms.service.flags & Service::ORDERED == 0 || cfg!(feature = "plant-order-ignored") {
        return false;
    }
    if overtakes {
        terms.switch.wait(terms.now_ms);
    }
    overtakes || (flow.has(Flow::LAGS) && someone_waits(terms))
}

/// Whether a write waits for its order, or did a moment ago.
#[inline(always)]
fn someone_waits<S: Switch>(terms: &mut Terms<'_, S>) -> bool {
    let waited_ms = terms.switch.waited_ms();
    waited_ms != 0 && seq::since(terms.now_ms, waited_ms) < WAITS_MS
}
