//! Where a turn begins: who answers it, and what must wait for that.

use super::loss::end_with_reset;
use super::measure;
use super::order::{OVERTAKES, STAYS, WAITS, order};
use super::redial::{ask_dial, renew};
use super::settled::{Change, at_boundary, change};
use super::to_leg::end_leg;
use super::{Flow, Leg, Reading, Segment, Step, Switch, Terms, leg_state, tcp};
use crate::abi::Service;
use crate::protocol::{Class, http1::MAX_OUTSTANDING};
use crate::switch_word::{Side, SwitchWord};
use crate::verdict::Verdict;
use crate::weight;

/// How a turn may begin.
enum Begun {
    /// As chosen.
    Yes,
    /// Under the same authority as before, for want of a settled flow.
    Kept,
    /// As chosen, though that leg is behind ([`Flow::AHEAD`]).
    Ahead,
    /// A read, by the authority, for the sake of its order.
    InOrder,
    /// Not yet, or never.
    Wait(Verdict),
}

/// Requests that may be outstanding at a leg that nobody hears while it has a hole over an answer's head.
///
/// What comes behind a hole the gateway can't keep, as a receiver would, and its server sends it all once more. What is sent
/// twice gives no sample of the round trip, and without one a timeout stays doubled (RFC 6298, 3 and 5.7). After each timeout
/// Linux first sends two segments of what it has not sent yet (RFC 5682, 2.1): another hole, another timeout, twice as long. If
/// the client asked on, that would go on until the leg is lost. What is outstanding here fits into a server's first window
/// (RFC 6928), and nothing waits to be sent.
const BEHIND_HOLE: u32 = 16;

/// [`begin_turn`]: as chosen.
const AS_CHOSEN: u8 = 0xff;
/// [`begin_turn`]: under the same authority as before.
pub(super) const KEPT: u8 = 0xfe;
/// [`begin_turn`]: as chosen, ahead of what that leg owes.
pub(super) const AHEAD: u8 = 0xfd;
/// [`begin_turn`]: a read, by the authority, for the sake of its order. What is less is a verdict's number.
pub(super) const IN_ORDER: u8 = 0xfc;

/// A turn begins, or must wait, or its connection is over: then the verdict's number is returned. A subprogram of its own, as its
/// frame is large.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn begin_turn<S: Switch>(
    flow: &mut Flow,
    seg: &Segment,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) -> u8 {
    let data_end = seg.seq.wrapping_add(seg.payload);
    match begin(flow, seg, data_end, terms, step) {
        Begun::Yes => AS_CHOSEN,
        Begun::Kept => KEPT,
        Begun::Ahead => AHEAD,
        Begun::InOrder => IN_ORDER,
        Begun::Wait(verdict) => verdict as u8,
    }
}

/// A turn begins: counts a write, reads the switch word, chooses who answers. Changes nothing where it must wait.
#[inline(always)]
fn begin<S: Switch>(
    flow: &mut Flow,
    seg: &Segment,
    data_end: u32,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) -> Begun {
    if flow.has(Flow::MOVED | Flow::ASK_AGAIN | Flow::AHEAD) {
        return Begun::Wait(Verdict::HeldMoved);
    }
    if flow.has(Flow::OFFERED) {
        return Begun::Wait(Verdict::HeldUnsettled);
    }
    if flow.has(Flow::CLOSING | Flow::LAST_ASKED) {
        if ended(flow) {
            end_with_reset(flow, false, terms, step);
            return Begun::Wait(Verdict::Reset);
        }
        // The client may ask for it again on another connection (RFC 9112, 9.6), or shouldn't have: neither side may do it here.
        return Begun::Wait(Verdict::HeldUnsettled);
    }
    if flow.has(Flow::RETURNING) {
        let to = flow.authority().other();
        ask_dial(flow, to, seg.now_ms, step);
        return Begun::Wait(Verdict::HeldUnsettled);
    }
    let reading = &seg.reading;
    if too_many(flow, reading) {
        return Begun::Wait(Verdict::HeldUnsettled);
    }
    let writes = u32::from(reading.class) + offers(flow, reading) >= Class::Write as u32;
    let counts = writes && !flow.has(Flow::COUNTED);
    if counts {
        terms.switch.begin_write();
    }
    let word = terms.switch.word();
    order(flow, writes, word.member(word.authority().other()), terms, step);
    let begun = if writes && word.frozen() {
        Begun::Wait(Verdict::HeldFrozen)
    } else if step.order == WAITS {
        Begun::Wait(Verdict::HeldOrder)
    } else {
        choose(flow, seg, data_end, word, writes, terms, step)
    };
    if let Begun::Wait(_) = begun {
        if counts {
            terms.switch.end_write();
        }
        return begun;
    }
    let me = word.authority();
    flow.turn_view = answers_end(flow);
    if let Begun::Ahead = begun {
        flow.give_ahead();
    }
    flow.set(Flow::COUNTED, writes || flow.has(Flow::COUNTED));
    flow.set(Flow::MOVED, !writes && flow.answerer() as u32 != me as u32);
    flow.set(Flow::TURN_WRITES, writes);
    flow.set(Flow::LONE_WRITE, counts && reading.begun == 1);
    flow.turn_begin = reading.before.at;
    flow.turns = flow.turns.wrapping_add(reading.begun);
    if writes {
        flow.write_turn = flow.turns;
    }
    if step.order == OVERTAKES {
        step.events |= Step::OVERTAKES;
    }
    let under_way = terms.switch.writes();
    measure::begin(flow, reading, writes, seg.now_us, under_way);
    for side in Side::BOTH {
        let leg = flow.leg_mut(side);
        leg.fed = leg.fed.wrapping_add(reading.begun);
    }
    begun
}

/// 1 where the last request offers another protocol, and none was declined on its connection: what would take it up may be
/// anything, so that a read becomes a write, the authority's to answer. A number, for the kernel's verifier follows each branch.
#[inline(always)]
fn offers(flow: &Flow, reading: &Reading) -> u32 {
    let (offers, declined) = (u32::from(reading.flags / Reading::UPGRADE), flow.flags / Flow::DECLINED);
    offers & !declined & 1
}

/// Whether nobody will ever do another request of this connection: its server has closed it, the client has all that it said, and
/// no write is open. The client may have asked before it heard of that; as by a server's own kernel it is told by a reset.
#[inline(always)]
fn ended(flow: &Flow) -> bool {
    let leg = flow.leg(flow.authority());
    leg.flags & Leg::FIN != 0
        && flow.client_acked == flow.view_next
        && !flow.has(Flow::COUNTED | Flow::RETURNING)
}

/// Whether more requests would be outstanding at a leg than it can bear: than [`Flow::heads`] tells apart, where one of them is a
/// HEAD, or may be; or than [`BEHIND_HOLE`].
#[inline(always)]
fn too_many(flow: &Flow, reading: &Reading) -> bool {
    let heads = flow.heads | reading.heads != 0 || reading.flags & Reading::IN_HEAD != 0;
    if !heads && (flow.leg(Side::Primary).flags | flow.leg(Side::Shadow).flags) & Leg::HOLE == 0 {
        return false;
    }
    let turns = flow.turns.wrapping_add(reading.begun);
    let bears = |side: Side| {
        let leg = flow.leg(side);
        let outstanding = turns.wrapping_sub(leg.answered);
        leg.state == leg_state::NONE
            || (outstanding <= MAX_OUTSTANDING || !heads)
                && (outstanding <= BEHIND_HOLE || leg.flags & Leg::HOLE == 0)
    };
    !bears(Side::Primary) || !bears(Side::Shadow)
}

/// Where the answer of the turn that begins will begin, in the client's view: behind the last one, if its end is known.
#[inline(always)]
fn answers_end(flow: &Flow) -> u32 {
    let leg = flow.leg(flow.authority());
    if leg.state == leg_state::OPEN && leg.answered == flow.turns {
        leg.parse.at.wrapping_add(flow.delta)
    } else {
        flow.view_next
    }
}

/// Who answers the turn that begins; the other leg is made ready for it.
#[inline(always)]
fn choose<S: Switch>(
    flow: &mut Flow,
    seg: &Segment,
    data_end: u32,
    word: SwitchWord,
    writes: bool,
    terms: &Terms<'_, S>,
    step: &mut Step,
) -> Begun {
    let me = word.authority();
    let other = me.other();
    // The server's limit: it says in its last answer that it will close, which the client must not hear.
    let limit = terms.service.endpoints[other as usize & 1].max_requests;
    let fed = flow.leg(other).fed;
    let last =
        limit > 0 && flow.leg(other).state != leg_state::NONE && fed.wrapping_add(seg.reading.begun) >= limit;
    let full = last && fed > 0 && fed.wrapping_add(seg.reading.begun) > limit;
    let chosen = if writes { me } else { reader(flow, seg, data_end, word, last) };
    // The mirror may be behind what its client was told.
    let stays = step.order == STAYS;
    let wanted = if stays { me } else { chosen };
    let mut begun = if wanted as u8 == chosen as u8 { Begun::Yes } else { Begun::InOrder };
    if wanted as u8 != flow.authority {
        match change(flow, wanted) {
            Change::Settled(proof) => flow.set_authority(wanted, proof),
            // A side that is out of sync answers nothing any more, and a connection from before a join may have no leg yet
            // where the authority has gone since.
            _ if writes || stays || !word.member(flow.authority()) => {
                take_in(flow, wanted, word, terms.service);
                ask_dial(flow, wanted, seg.now_ms, step);
                return Begun::Wait(Verdict::HeldUnsettled);
            }
            Change::Ahead if goes_on(flow, seg, data_end) => begun = Begun::Ahead,
            _ => begun = Begun::Kept,
        }
    }
    // In the middle of a head nothing can be cut off: then it gets one more.
    let boundary = flow.parse.scanner.is_boundary();
    if last && boundary && flow.authority as u32 == other as u32 {
        // The other one answers next: where it has no leg, it is waited for.
        take_in(flow, me, word, terms.service);
        ask_dial(flow, me, seg.now_ms, step);
        return Begun::Wait(Verdict::HeldCapped);
    }
    if full && boundary {
        // Its server's FIN is on the way; what is missing of its last answer nobody reads.
        if flow.leg(other).answered != flow.turns || !at_boundary(flow) {
            return Begun::Wait(Verdict::HeldCapped);
        }
        renew(flow, other);
    }
    take_in(flow, other, word, terms.service);
    if !word.member(other)
        && flow.leg(other).state != leg_state::NONE
        && flow.authority as u32 != other as u32
    {
        // Out of sync: its leg isn't fed any more.
        if flow.leg(other).state == leg_state::OPEN {
            end_leg(flow, other, flow.client_next, step);
        }
        flow.leg_mut(other).state = leg_state::NONE;
    }
    ask_dial(flow, other, seg.now_ms, step);
    begun
}

/// Mirroring began after this connection: from its next turn on it has a leg there, too.
#[inline(always)]
fn take_in(flow: &mut Flow, side: Side, word: SwitchWord, service: &Service) {
    let joins = flow.leg(side).state == leg_state::NONE
        && word.member(side)
        && service.endpoints[side as usize & 1].addr != 0;
    if joins && at_boundary(flow) && !flow.has(Flow::OPAQUE) {
        renew(flow, side);
    }
}

/// Whether a segment is exactly one whole request.
#[inline(always)]
fn alone(flow: &Flow, seg: &Segment, data_end: u32) -> bool {
    let reading = &seg.reading;
    reading.begun == 1
        && reading.flags & Reading::IN_HEAD == 0
        && reading.after.at == data_end
        && at_boundary(flow)
        && !seg.is(tcp::FIN)
}

/// The same, where the client may ask more on its connection: a server that is asked to end it does so behind its answer, though
/// nobody hears that one, and the other's may never come.
#[inline(always)]
fn goes_on(flow: &Flow, seg: &Segment, data_end: u32) -> bool {
    alone(flow, seg, data_end) && seg.reading.flags & Reading::CLOSE == 0
}

/// Who answers a read, by the weight: only a segment that is exactly one whole request goes elsewhere.
#[inline(always)]
fn reader(flow: &Flow, seg: &Segment, data_end: u32, word: SwitchWord, last: bool) -> Side {
    let me = word.authority();
    if !alone(flow, seg, data_end) || last {
        return me;
    }
    let key = if word.sticky() {
        u64::from(flow.who)
    } else {
        (u64::from(flow.iss ^ flow.tuple.saddr.rotate_left(16) ^ u32::from(flow.tuple.sport)) << 32)
            | u64::from(flow.turns)
    };
    let side = if weight::chosen(key, word.weight()) { Side::Shadow } else { Side::Primary };
    let leg = flow.leg(side);
    let fit = word.member(side)
        && leg.state == leg_state::OPEN
        && leg.flags & (Leg::FIN | Leg::UNKNOWN | Leg::CLOSING) == 0;
    if fit { side } else { me }
}
