//! A leg is lost: refused, reset, closed or silent. The client's connection goes on where it can.

use core::hint::cold_path;

use super::broken_off::{incomplete, owes_last_alone, waits_for_client};
use super::client::{ack_client, end_client, raise_shown};
use super::clock::OPENING_MS;
use super::close::{finish_write, put_out};
use super::pressure::presses;
use super::redial::{ask_dial, must_renew, put_down, renew};
use super::settled::{answered, at_boundary, finished, owes_write};
use super::to_leg::end_leg;
use super::{Emit, Flow, Leg, Step, Switch, Terms, flow_state, leg_state, offer};
use crate::abi::{Event, Service, backend};
use crate::seq;
use crate::switch_word::Side;
use crate::verdict::Verdict;

/// An answer that nobody hears is absorbed for so long after the other leg's was over, in milliseconds.
const DRAG_MS: u32 = 10_000;

/// Why a leg was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LossReason {
    /// Its server closed it.
    Closed = 1,
    /// Its server reset it.
    Reset = 2,
    /// Its server refused to be dialled.
    Refused = 3,
    /// It was behind the other for longer than the stall budget.
    Stalled = 4,
    /// It was lost in the middle of a request of which the rest came later.
    GaveUp = 5,
    /// A new connection's: its server, the authority's, refused it or never answered. The connection is no more.
    NotTaken = 6,
    /// It held a request back for longer than it may, at whatever pace.
    Pressed = 7,
    /// No leg: its server left a client's datagram unanswered ([`crate::datagram::lapse`]).
    Unanswered = 8,
}

impl LossReason {
    /// Beside the reason in an event: the server failed at what it was asked. It fell silent, reset in the middle of an answer,
    /// or closed without a single one. A server that ends what it has answered doesn't fail, and one that refuses to be
    /// dialled has been lost before.
    pub const FAILED: u8 = 0x80;

    /// Beside [`LossReason::Stalled`]: its SYN was never answered.
    pub const NEVER_OPEN: u8 = 0x40;

    /// The reason in [`crate::abi::Event::reason`], as a number.
    #[inline(always)]
    pub const fn number(reason: u32) -> u32 {
        reason & !((Self::FAILED | Self::NEVER_OPEN) as u32)
    }
}

/// Which leg is lost, and why: one word, as a subprogram takes five.
#[derive(Clone, Copy)]
pub(super) struct Loss(u32);

impl Loss {
    #[inline(always)]
    pub(super) const fn new(side: Side, reason: LossReason) -> Loss {
        Loss(side as u32 | (reason as u32) << 8)
    }

    /// The leg has been lost before; the client waits for bytes that nobody has.
    const STRANDED: u32 = 1 << 16;

    /// Whether anything is lost.
    #[inline(always)]
    pub(super) const fn is_one(self) -> bool {
        self.0 != 0
    }

    #[inline(always)]
    const fn side(self) -> Side {
        Side::from_bit(self.0)
    }
}

/// Who the server of a leg is, as an event says it.
#[inline(always)]
fn server(flow: &Flow, side: Side, service: &Service) -> u8 {
    Event::server(service.number(), backend::number(flow.leg(side).port))
}

/// How many requests a server has answered on a leg that it closes as its last answer said: its limit, perhaps. 0: it closes
/// without a word, or was asked to.
#[inline(always)]
fn answered_until_close(flow: &Flow, loss: Loss) -> u32 {
    let leg = flow.leg(loss.side());
    let said = loss.0 >> 8 == LossReason::Closed as u32 && leg.flags & Leg::CLOSING != 0;
    // A read that the other side alone was asked counts as answered by both, and was fed to one.
    let owed = flow.turns.wrapping_sub(leg.answered);
    if said && !flow.has(Flow::LAST_ASKED) { leg.fed.wrapping_sub(owed) } else { 0 }
}

/// Takes a leg away, and says what that came to. The loss of the switch word's authority is the connection's end; any
/// other's is hidden, unless the client was in the middle of its answer.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn lose<S: Switch>(
    flow: &mut Flow,
    loss: Loss,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) -> Verdict {
    let (side, refused) = (loss.side(), loss.0 >> 8 == LossReason::Refused as u32);
    let word = terms.switch.word();
    step.side = side as u8;
    step.server = server(flow, side, terms.service);
    step.reason = (loss.0 >> 8) as u8;
    if loss.0 & Loss::STRANDED != 0 {
        end_with_reset(flow, false, terms, step);
        return Verdict::FailedMidAnswer;
    }
    // While the other leg is waited for, it is that one which the client can't do without.
    let hears_it = flow.state != flow_state::ENDED
        && (flow.answerer() as u32 == side as u32) != flow.has(Flow::RETURNING);
    let mine = word.authority() as u8 == side as u8;
    if (mine && !spared(flow, side, refused)) || (flow.has(Flow::OPAQUE) && hears_it) {
        end_with_reset(flow, mine, terms, step);
        return Verdict::Reset;
    }
    let unread = !hears_it && loss.0 >> 8 == LossReason::Closed as u32 && unread(flow, side);
    let owes = (owes_write(flow, side) && !unread) || (flow.has(Flow::OPAQUE) && !flow.has(Flow::CLIENT_FIN));
    let owes = owes && !cfg!(feature = "plant-redial-from-unanswered");
    let may_never_be = owes && incomplete(flow) && owes_last_alone(flow, side);
    flow.set(Flow::GIVEN_UP, may_never_be || flow.has(Flow::GIVEN_UP));
    if owes && !may_never_be && terms.switch.out_of_sync(side) {
        step.events |= Step::OUT_OF_SYNC;
    }
    step.events |= Step::LEG_LOST | Step::WAKE;
    step.answered = answered_until_close(flow, loss);
    let whole = answered(flow, side);
    if failed(flow.leg(side), flow.turns, whole, loss.0 >> 8) {
        step.reason |= LossReason::FAILED;
    }
    if terms.service.flags & Service::POOLED != 0 {
        let bad = refused || step.reason & LossReason::FAILED != 0;
        flow.leg_mut(side).port = backend::lost(flow.leg(side).port, bad);
    }
    if loss.0 >> 8 == LossReason::Stalled as u32 && flow.leg(side).state == leg_state::DIALLING {
        step.reason |= LossReason::NEVER_OPEN;
    }
    if !flow.has(Flow::AHEAD) && !all_but_last(flow, side) {
        // Turns before the last one weren't answered either: only the last can be asked again.
        flow.set(Flow::MOVED, false);
    }
    // A server that answers, and then closes, may be dialled at once: it can't be faster than its answers.
    let served = whole && flow.leg(side).fed > 0;
    let (next, turns) = (flow.client_next, flow.turns);
    let doubled = cfg!(feature = "plant-redial-from-unanswered") && !whole;
    let (next, turns) =
        if doubled || unread { (flow.turn_begin, turns.wrapping_sub(1)) } else { (next, turns) };
    put_down(flow, side, next, turns);
    flow.leg_mut(side).heard_ms = terms.now_ms;
    if served {
        flow.leg_mut(side).dialled_ms = 0;
    }
    if unread {
        flow.leg_mut(side).fed = 1;
    }
    if owes
        || !word.member(side)
        || flow.state != flow_state::OPEN
        || flow.has(Flow::OPAQUE)
        || !at_boundary(flow)
    {
        flow.leg_mut(side).state = leg_state::NONE;
    }
    if flow.has(Flow::OFFERED) {
        offer::settle(flow);
    }
    finish_write(flow, false, terms, step);
    let shown = whole && !flow.has(Flow::ASK_AGAIN) && flow.client_acked == flow.view_next;
    if hears_it && shown && flow.has(Flow::LAST_ASKED) {
        // The client waits for the connection's end alone, and no other server would say that.
        end_with_reset(flow, false, terms, step);
        return Verdict::Reset;
    }
    if hears_it && !give_back(flow, side.other(), whole) {
        end_with_reset(flow, false, terms, step);
        return Verdict::FailedMidAnswer;
    }
    if flow.state == flow_state::OPEN {
        if raise_shown(flow) {
            ack_client(flow, step);
        }
        if flow.has(Flow::RETURNING) && flow.leg(side.other()).state == leg_state::DOWN {
            ask_dial(flow, side.other(), terms.now_ms, step);
        } else if !refused && (served || !flow.has(Flow::QUIET) || flow.leg(side).acked != flow.client_next) {
            // Once while all is idle, for who is gone refuses it. Not twice: a server that closes idle connections closes
            // that one too, and some day that meets the next request.
            ask_dial(flow, side, terms.now_ms, step);
        }
    }
    if refused { Verdict::Refused } else { Verdict::LegLost }
}

/// Whether the switch word's authority may lose a leg without the client's loss: a move has come since the last turn, the
/// client still hears the other one, and nobody waits for this one.
#[inline(always)]
pub(super) fn spared(flow: &Flow, side: Side, refused: bool) -> bool {
    flow.state == flow_state::OPEN
        && flow.answerer() as u32 != side as u32
        && !flow.has(Flow::OPAQUE | Flow::RETURNING | Flow::ASK_AGAIN)
        && !owes_write(flow, side)
        && at_boundary(flow)
        // The turn that is held may wait for this leg, unless one before it still does.
        && !(refused && flow.has(Flow::HELD) && flow.leg(side).acked == flow.client_next)
}

/// Whether a server that closes has never had the last turn: its FIN acknowledges nothing of it, and what came later found
/// no reader (RFC 9112, 9.6). The client still has it, for nobody has shown it more than what this leg acknowledged.
#[inline(always)]
fn unread(flow: &Flow, side: Side) -> bool {
    let acked = flow.leg(side).acked;
    flow.state == flow_state::OPEN
        && all_but_last(flow, side)
        && acked == flow.turn_begin
        && !seq::lt(acked, flow.shown)
        && at_boundary(flow)
}

/// Whether a lost leg's server failed: [`LossReason::FAILED`]. `whole`: all its answers had come to their ends.
#[inline(always)]
fn failed(leg: &Leg, turns: u32, whole: bool, reason: u32) -> bool {
    let owes = leg.fed > 0 && !whole;
    // One that has answered before, and closes as the next request comes, is what every server does now and then.
    let barren = owes && turns.wrapping_sub(leg.answered) >= leg.fed;
    reason == LossReason::Stalled as u32
        || (reason == LossReason::Reset as u32 && owes)
        || (reason == LossReason::Closed as u32 && barren)
}

/// Whether nothing is missing of the answers before the last turn's.
#[inline(always)]
fn all_but_last(flow: &Flow, side: Side) -> bool {
    let leg = flow.leg(side);
    leg.answered.wrapping_add(1) == flow.turns && !leg.in_answer() && leg.parse.scanner.is_boundary()
}

/// The other leg takes over from a lost one that the client heard, or waited for. `whole`: its last answer had been shown
/// to its end. False: the client is in the middle of an answer that nobody can end.
#[inline(always)]
fn give_back(flow: &mut Flow, to: Side, whole: bool) -> bool {
    // Who is waited for owes the client nothing but a read that is asked again.
    let whole = whole || flow.has(Flow::RETURNING);
    let unanswered = flow.has(Flow::MOVED | Flow::ASK_AGAIN);
    let open = flow.leg(to).state == leg_state::OPEN;
    if (!unanswered && !whole) || (!open && !at_boundary(flow)) {
        return false;
    }
    let closed = !open || flow.leg(to).flags & Leg::FIN != 0;
    if flow.has(Flow::CLIENT_FIN) && !unanswered && closed {
        // It waits for nothing but its connection's end, and nobody else would say that.
        return false;
    }
    flow.set(Flow::MOVED | Flow::ASK_AGAIN | Flow::RETURNING | Flow::AHEAD, false);
    flow.authority = to.other() as u8;
    // What the client hasn't acknowledged may be lost on its way, and nobody has it any more.
    let has_all = flow.client_acked == flow.view_next;
    let leg = flow.leg(to);
    let fresh = open
        && leg.flags & Leg::FIN == 0
        && leg.answered.wrapping_add(1) == flow.turns
        && leg.rcv_nxt == leg.parse.at
        && leg.parse.scanner.is_boundary();
    if unanswered && fresh && has_all {
        // It hasn't begun to answer this turn: what comes is the client's.
        flow.hand_over(to);
        return true;
    }
    flow.set(Flow::ASK_AGAIN, unanswered);
    if finished(flow, to) && has_all {
        flow.hand_over(to);
        return true;
    }
    flow.set(Flow::RETURNING, true);
    if must_renew(flow, to) {
        renew(flow, to);
    }
    true
}

/// Ends the client's connection by a reset, and every leg's. Where the authority's leg is the lost one, a write that the
/// mirror hasn't answered yet is done by that all the same, and its leg lingers until then: the mirror may have to take over.
#[inline(always)]
pub(super) fn end_with_reset<S: Switch>(
    flow: &mut Flow,
    authority_lost: bool,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    let opening = flow.state == flow_state::OPENING;
    // Of a connection that is opening nothing is in its view, and its SYN is all that it has been shown.
    end_client(flow, if opening { 0 } else { flow.view_next }, step);
    let mirror = terms.switch.word().authority().other();
    // Whether one has done what the other one hasn't answered isn't known, unless neither had it whole.
    let unknown =
        flow.has(Flow::COUNTED) && flow.leg(mirror).state != leg_state::NONE && !waits_for_client(flow);
    let does_it = authority_lost && flow.leg(mirror).state == leg_state::OPEN;
    let lingers = unknown && does_it && owes_write(flow, mirror);
    for side in Side::BOTH {
        if lingers && side as u8 == mirror as u8 {
            continue;
        }
        let leg = flow.leg(side);
        if leg.state == leg_state::OPEN {
            end_leg(flow, side, flow.client_next, step);
        }
        flow.leg_mut(side).state = leg_state::NONE;
    }
    if unknown && does_it {
        terms.switch.doubt();
    } else if unknown {
        put_out(terms, step);
    }
    // From here on nobody hears an answer: what comes is acknowledged, and dropped.
    flow.set(Flow::AHEAD, false);
    flow.set(Flow::RETURNING, lingers || flow.has(Flow::RETURNING));
    finish_write(flow, !lingers, terms, step);
    flow.set(Flow::TOLD_ONCE, !opening);
    flow.state = flow_state::ENDED;
}

/// Tells that a new connection came to nothing: nobody else would, for of it no leg is left that could be lost.
#[inline(always)]
pub(super) fn tell_not_taken(flow: &Flow, service: &Service, step: &mut Step) {
    step.events |= Step::LEG_LOST;
    step.side = flow.authority;
    step.server = server(flow, flow.authority(), service);
    step.reason = LossReason::NotTaken as u8;
}

/// Looks at the clock of the leg that may be lost: the one that isn't the switch word's authority. The packet at hand goes on all
/// the same, unless its connection ends: the client, or the other server, would send it again only after a timeout.
#[inline(always)]
pub(super) fn check_clock<S: Switch>(flow: &mut Flow, terms: &mut Terms<'_, S>, step: &mut Step) {
    if flow.state == flow_state::OPENING {
        return;
    }
    let side = terms.switch.word().authority().other();
    let loss = overdue(flow, side, terms);
    if loss.is_one() {
        cold_path();
        step.to_leg[side as usize] = Emit::default();
        let verdict = lose(flow, loss, terms, step);
        let goes_on = step.to_client.carries() || step.to_leg[side.other() as usize].carries();
        if flow.state == flow_state::OPEN && goes_on {
            return;
        }
        // What is only held can't make the packets of a loss.
        step.hold_copy |= u8::from(step.held() && flow.state == flow_state::OPEN);
        step.end(verdict);
    }
}

/// What is lost by the clock, if anything: `side`'s leg, or the client's hope for what a lost one had.
#[inline(always)]
pub(super) fn overdue<S: Switch>(flow: &mut Flow, side: Side, terms: &Terms<'_, S>) -> Loss {
    if late(flow, side, terms.now_ms, terms.service.stall_ms) {
        Loss::new(side, LossReason::Stalled)
    } else if presses(flow, side, terms.now_ms, terms.service.pressure_ms) {
        Loss::new(side, LossReason::Pressed)
    } else if stranded(flow, terms.now_ms, terms.service.stall_ms) {
        Loss(Loss::new(side, LossReason::Stalled).0 | Loss::STRANDED)
    } else {
        Loss(0)
    }
}

/// Whether the client waits for bytes that only a lost leg had, or for a leg that can't take over any more.
#[inline(always)]
fn stranded(flow: &Flow, now_ms: u32, stall_ms: u32) -> bool {
    let to = flow.leg(flow.authority().other());
    let ended = to.state == leg_state::DOWN || (to.state == leg_state::OPEN && to.flags & Leg::FIN != 0);
    flow.state == flow_state::OPEN
        && flow.has(Flow::RETURNING)
        && (flow.client_acked != flow.view_next || (ended && flow.has(Flow::ASK_AGAIN)))
        && seq::since(now_ms, flow.leg(flow.authority()).heard_ms) >= stall_ms
}

/// Whether a leg has been behind for longer than its budget, against a mark, so that a trickle doesn't reset it; or is dialled in
/// vain with nothing to send.
#[inline(always)]
fn late(flow: &mut Flow, side: Side, now_ms: u32, stall_ms: u32) -> bool {
    let other = *flow.leg(side.other());
    let (next, turns) = (flow.client_next, flow.turns);
    let awaited = flow.has(Flow::RETURNING) && flow.authority as u32 != side as u32;
    let answers = flow.answerer() as u32 == side as u32;
    let heard_by_nobody = !answers && !flow.has(Flow::RETURNING | Flow::OPAQUE);
    // What is told apart no more isn't counted either: then a leg owes acknowledgements alone.
    let counted = !flow.has(Flow::OPAQUE);
    let leg = flow.leg(side);
    let silent = if answers {
        flow.client_window != 0
            && (flow.client_acked != flow.view_next || (counted && leg.answered != turns) || leg.in_answer())
    } else {
        leg.in_answer() && !other.in_answer()
    };
    let leg = flow.leg_mut(side);
    if leg.state == leg_state::NONE {
        return false;
    }
    if silent && leg.state == leg_state::OPEN && seq::since(now_ms, leg.heard_ms) >= stall_ms {
        return true;
    }
    let other_done = other.state == leg_state::OPEN;
    // What the other one has closed without an answer, this one owes all the same.
    let reached_turn = if other_done && other.flags & Leg::FIN == 0 { other.answered } else { turns };
    let behind = seq::lt(leg.acked, next)
        || (counted && (other_done || awaited) && (leg.answered.wrapping_sub(reached_turn) as i32) < 0);
    if !behind {
        if leg.state == leg_state::DIALLING && seq::since(now_ms, leg.heard_ms) >= OPENING_MS {
            return true;
        }
        let other_over =
            other_done && !other.in_answer() && (other.answered.wrapping_sub(leg.answered) as i32) >= 0;
        return drags(leg, heard_by_nobody && other_over, now_ms);
    }
    let answered = !counted || (leg.answered.wrapping_sub(leg.mark_turn) as i32) >= 0;
    let reached = answered && !seq::lt(leg.acked, leg.mark);
    if leg.behind_since == 0 || reached {
        leg.behind_since = now_ms;
        leg.mark = next;
        leg.mark_turn = reached_turn;
        return false;
    }
    // Where the other one is as far back, or further, it isn't this leg that keeps the flow waiting. But one that isn't open
    // is: what is sent meanwhile is held for it, and the other may never get the rest. So is one that the client waits for.
    let its_fault =
        leg.state != leg_state::OPEN || awaited || (other_done && !seq::lt(other.acked, leg.mark));
    its_fault && seq::since(now_ms, leg.behind_since) >= stall_ms
}

/// Whether a leg that is behind in nothing else goes on with an answer that nobody hears, `alone`: the other one's was over
/// long ago. Its clock runs from when that was, for each answer anew.
#[inline(always)]
fn drags(leg: &mut Leg, alone: bool, now_ms: u32) -> bool {
    if !alone || !leg.in_answer() {
        leg.behind_since = 0;
        return false;
    }
    if leg.behind_since == 0 || leg.mark_turn != leg.answered {
        leg.behind_since = now_ms;
        leg.mark = leg.acked;
        leg.mark_turn = leg.answered;
        return false;
    }
    seq::since(now_ms, leg.behind_since) >= DRAG_MS
}

#[cfg(test)]
mod tests;
