//! What turns are measured by: how long the client waited for an answer, whether it was an error, and how the two legs'
//! answers compare: statuses, lengths, and the sums of their bodies.

use super::settled::answered;
use super::{Flow, Reading, Segment, Step, Writes, flow_state, leg_state};
use crate::protocol::http1::{
    UNKNOWN_LENGTH,
    status::{self, Statuses},
};
use crate::switch_word::Side;
use crate::{checksum, hist, seq};

/// Longer bodies aren't summed, in bytes: where a card would make the checksums, each byte has to be read.
const MAX_SUMMED: u32 = 1 << 18;

/// What is counted of compared turns: bits of [`Measured::pair`] and elements of [`crate::abi::maps::PAIRS`].
pub mod pair {
    /// Both legs answered.
    pub const COMPARED: u32 = 0;
    /// The primary alone with an error of its own.
    pub const PRIMARY_ERRED: u32 = 1;
    /// The shadow alone.
    pub const SHADOW_ERRED: u32 = 2;
    /// The statuses differ.
    pub const STATUS_DIFFERS: u32 = 3;
    /// Statuses, lengths and sums of the bodies are the same.
    pub const EQUAL: u32 = 4;
    /// The statuses are the same, the lengths differ.
    pub const LENGTH_DIFFERS: u32 = 5;
    /// Statuses and lengths are the same, the sums differ.
    pub const DIGEST_DIFFERS: u32 = 6;
    /// Records of differences that were not sent, being too many at once.
    pub const RECORDS_LOST: u32 = 7;
    /// Of all writes, compared or not: those that began while another connection's answered write wasn't finished on the
    /// other side, which may do the two in the other order.
    pub const OVERTAKING: u32 = 8;
    /// How many there are.
    pub const COUNTERS: u32 = 9;
}

/// How a compared turn came out, all of it: [`Compared::outcome`].
pub mod outcome {
    /// As [`super::pair::EQUAL`].
    pub const EQUAL: u8 = 1;
    /// As [`super::pair::LENGTH_DIFFERS`].
    pub const LENGTH: u8 = 2;
    /// As [`super::pair::DIGEST_DIFFERS`].
    pub const DIGEST: u8 = 3;
    /// As [`super::pair::STATUS_DIFFERS`].
    pub const STATUS: u8 = 4;
    /// The statuses are the same, and that is all that can be known.
    pub const UNKNOWN: u8 = 5;
}

/// A compared turn: 44 bytes. Pairs are by [`Side`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// What was asked for, hashed ([`crate::protocol::http1::Target`]); 0: not known.
    pub target: u32,
    /// The same of its prefix.
    pub prefix: u32,
    /// From the request's first packet to each answer's head, in microseconds.
    pub us: [u32; 2],
    /// Bytes of each body; [`crate::protocol::http1::UNKNOWN_LENGTH`] where it isn't known.
    pub lengths: [u32; 2],
    /// Sums of the bodies, where both were summed.
    pub digests: [u16; 2],
    /// Statuses.
    pub statuses: [u16; 2],
    /// 0: a read; 1: a write.
    pub class: u8,
    /// [`outcome`]; 0: there is none here.
    pub outcome: u8,
    /// Zero.
    pub pad: u16,
    /// [`Writes::begun`] when it came out: the state of which both sides answered.
    pub clock: u32,
    /// Turns without a difference, not recorded since the last record of one on this CPU.
    pub unrecorded: u32,
}

const _: () = assert!(size_of::<Compared>() == 44);

/// What a packet had to tell of turns: 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// 1 + the [`Measured::shown`] row of the answer whose last byte the client is shown; 0: none ends here.
    pub ended: u8,
    /// The [`Measured::shown`] row of `statuses`.
    pub statuses_row: u8,
    /// 1 + the [`Measured::compared`] row of the answer to a compared turn whose head ends here; 0: none.
    pub compared: u8,
    /// The class of that answer's status ([`status::class`]).
    pub compared_class: u8,
    /// Answers whose heads the client is shown.
    pub statuses: Statuses,
    /// From the request's first packet to the answer's last that the client is shown, in microseconds.
    pub us: u32,
    /// From the request's first packet to the compared answer's head, in microseconds.
    pub compared_us: u32,
    /// Bits by [`pair`]; 0: the comparison isn't complete.
    pub pair: u8,
    /// Zero.
    pub pad: u8,
    /// [`hist::ratio`] of the two legs' times, where it is.
    pub ratio: u16,
    /// How a comparison ended here, if one did.
    pub turn: Compared,
}

impl Measured {
    /// Row of answers that clients were shown, of [`crate::abi::maps::LATENCY`] and
    /// [`crate::abi::maps::RESPONSES`].
    #[inline(always)]
    pub const fn shown(side: u32, class: u32) -> u32 {
        ((side & 1) << 1) | (class & 1)
    }

    /// Row of answers to compared turns.
    #[inline(always)]
    pub const fn compared(side: u32, class: u32) -> u32 {
        4 | Measured::shown(side, class)
    }

    /// How many rows there are.
    pub const ROWS: usize = 8;

    /// Whether there is anything to count.
    #[inline(always)]
    pub const fn any(&self) -> bool {
        (self.ended | self.compared | self.turn.outcome) as u32 | self.statuses.0 != 0
    }
}

/// A turn begins. Of a flow's turns one at a time is compared, until both legs have answered it: a leg that lags behind the
/// client's next requests is measured as the one that keeps up.
#[inline(always)]
pub(super) fn begin(flow: &mut Flow, reading: &Reading, writes: bool, now_us: u32, under_way: Writes) {
    flow.set(Flow::TIMED, true);
    flow.turn_us = now_us;
    if !both_open(flow) {
        flow.set(Flow::COMPARING | Flow::SUMMING, false);
        return;
    }
    if flow.has(Flow::COMPARING | Flow::SUMMING) || reading.begun != 1 {
        return;
    }
    flow.set(Flow::COMPARING, true);
    flow.set(Flow::UNSUMMED, false);
    flow.set(Flow::COMPARED_WRITES, writes);
    flow.compared_turn = flow.turns;
    flow.compared_us = now_us;
    flow.target = reading.target;
    flow.prefix = reading.prefix;
    flow.clock = under_way.begun as u16;
    // Where a write is under way, one side may answer as it was before, and the other as it is behind it.
    let alone = under_way.open == writes as u32;
    flow.set(Flow::DISTURBED, !alone);
}

#[inline(always)]
fn both_open(flow: &Flow) -> bool {
    flow.legs[0].state == leg_state::OPEN && flow.legs[1].state == leg_state::OPEN
}

/// Whether a turn that begins may be compared, as far as the flow says before the lock is taken: else nobody needs to know what
/// it asks for.
#[inline(always)]
pub fn may_compare(flow: &Flow) -> bool {
    both_open(flow) && !flow.has(Flow::COMPARING | Flow::SUMMING)
}

/// A part of a body isn't summed as it was shown, or the leg is gone: what is missing comes from no other.
#[inline(always)]
pub(super) fn unsummed(flow: &mut Flow) {
    flow.set(Flow::SUMMING, false);
    flow.set(Flow::UNSUMMED, true);
}

/// Which bytes of a server's segment must be summed before the lock is taken: the number of the first, and how many. What the
/// flow says may have changed when the lock is had: then the sum doesn't fit, and isn't used.
#[inline(always)]
pub fn to_sum(flow: &Flow, side: Side, seg: &Segment) -> (u32, u32) {
    let leg = flow.leg(side);
    let reading = &seg.reading;
    let (from, to) = if flow.has(summed(side)) {
        (leg.sent_max, leg.parse.at)
    } else if flow.has(awaited(side))
        && reading.flags & Reading::DONE != 0
        && reading.first_status != 0
        && leg.answered.wrapping_add(1) == flow.compared_turn
        && reading.body_length <= MAX_SUMMED
    {
        (reading.body_at, reading.body_at.wrapping_add(reading.body_length))
    } else {
        return (seg.seq, 0);
    };
    let to = seq::min(to, seg.seq.wrapping_add(seg.payload));
    if seq::lt(from, seg.seq) || !seq::lt(from, to) { (from, 0) } else { (from, to.wrapping_sub(from)) }
}

/// Measures the answer that the client was waiting for, if its last byte is among those that it is shown now.
#[inline(always)]
pub(super) fn note_end(flow: &mut Flow, side: Side, seg: &Segment, step: &mut Step) {
    if flow.has(Flow::TIMED) && answered(flow, side) {
        flow.set(Flow::TIMED, false);
        let class = flow.has(Flow::TURN_WRITES) as u32;
        step.measured.ended = 1 + Measured::shown(side as u32, class) as u8;
        step.measured.us = seq::since(seg.now_us, flow.turn_us);
    }
}

/// Whether the client has waited for so long, in microseconds, for the first byte of an answer that the leg without
/// authority has given whole: neither what is asked for nor the client's pace explains that. The answer to a SYN is one.
///
/// Behind a client's next request a late answer to the one before may count for it; and what has waited for more than 71
/// minutes counts anew.
#[inline(always)]
pub fn unanswered(flow: &Flow, now_us: u32, for_us: u32) -> bool {
    let long = seq::since(now_us, flow.turn_us) >= for_us;
    if flow.state == flow_state::OPENING {
        return long && flow.leg(flow.authority().other()).state == leg_state::OPEN;
    }
    flow.state == flow_state::OPEN
        && flow.has(Flow::TIMED)
        && long
        && !seq::lt(flow.turn_view, flow.view_next)
        && answered(flow, flow.answerer().other())
}

/// Notes the status of the last answer, whose first bytes are among those of a segment that the client is shown: what lies before
/// it was absorbed.
#[inline(always)]
pub(super) fn note_status(flow: &Flow, side: Side, seg: &Segment, step: &mut Step) {
    let leg = flow.leg(side);
    // The last head that ends here is its own, or one before.
    let its_own =
        leg.answered == flow.turns || !(leg.parse.scanner.in_head() || leg.parse.scanner.is_boundary());
    if its_own && seg.reading.status != 0 {
        step.measured.statuses = Statuses::one(seg.reading.status);
        step.measured.statuses_row = Measured::shown(side as u32, flow.has(Flow::TURN_WRITES) as u32) as u8;
    }
}

/// Measures the heads that a reading found; the leg had answered so many turns before it, and has answered so many now.
///
/// Compared are the times until the heads: what comes behind them is the client's pace, of the one leg that it hears.
#[inline(always)]
pub(super) fn note_heads(flow: &mut Flow, side: Side, seg: &Segment, answered: [u32; 2], step: &mut Step) {
    let reading = &seg.reading;
    if flow.hears(side) && reading.statuses.0 != 0 {
        let class = flow.has(Flow::TURN_WRITES) as u32;
        step.measured.statuses = reading.statuses;
        step.measured.statuses_row = Measured::shown(side as u32, class) as u8;
    }
    if !flow.has(awaited(side)) {
        return;
    }
    if reading.first_status != 0 && answered[0].wrapping_add(1) == flow.compared_turn {
        compare(flow, side, seg, step);
    } else if (answered[1].wrapping_sub(flow.compared_turn) as i32) >= 0 {
        // Several answers came at once, and this was a later one of them.
        flow.set(Flow::COMPARING | Flow::SUMMING, false);
    }
}

/// Sums what a segment brings of the compared answer's body, which ends at `bound`, before it counts as sent.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn note_body(flow: &mut Flow, side: Side, seg: &Segment, bound: u32, step: &mut Step) -> u8 {
    let (next, data_end) = (flow.leg(side).sent_max, seg.seq.wrapping_add(seg.payload));
    if flow.has(summed(side)) && seq::lt(next, data_end) {
        add(flow, side, seg, next, bound);
        let status = flow.first_status;
        conclude(flow, status, status, step);
    }
    step.measured.turn.outcome
}

/// The flag that says that a side's answer to the compared turn is yet to come.
#[inline(always)]
fn awaited(side: Side) -> u32 {
    if side as u8 == Side::Primary as u8 { Flow::PRIMARY_COMPARED } else { Flow::SHADOW_COMPARED }
}

/// The flag that says that its body has begun and not ended.
#[inline(always)]
fn summed(side: Side) -> u32 {
    if side as u8 == Side::Primary as u8 { Flow::PRIMARY_SUMMED } else { Flow::SHADOW_SUMMED }
}

#[inline(always)]
fn compare(flow: &mut Flow, side: Side, seg: &Segment, step: &mut Step) {
    let (status, us) = (seg.reading.first_status, seq::since(seg.now_us, flow.compared_us));
    let class = flow.has(Flow::COMPARED_WRITES) as u32;
    let measured = &mut step.measured;
    measured.compared = 1 + Measured::compared(side as u32, class) as u8;
    measured.compared_us = us;
    measured.compared_class = status::class(status) as u8;
    measured.pair = 0;
    flow.set(awaited(side), false);
    flow.answer_us[side as usize & 1] = us;
    begin_body(flow, side, seg);
    if flow.has(awaited(side.other())) {
        flow.first_status = status;
        return;
    }
    let primary_is_last = side as u8 == Side::Primary as u8;
    let (primary, shadow) =
        if primary_is_last { (status, flow.first_status) } else { (flow.first_status, status) };
    let erred = |status: u16| status::class(status) == status::SERVER_ERRORS;
    let (primary_erred, shadow_erred) = (erred(primary), erred(shadow));
    measured.pair = 1 << pair::COMPARED
        | ((primary_erred && !shadow_erred) as u8) << pair::PRIMARY_ERRED
        | ((shadow_erred && !primary_erred) as u8) << pair::SHADOW_ERRED
        | ((primary != shadow) as u8) << pair::STATUS_DIFFERS;
    measured.ratio = hist::ratio(flow.answer_us[0], flow.answer_us[1]) as u16;
    conclude(flow, primary, shadow, step);
}

/// A compared answer's body begins, behind the head in this segment.
#[inline(always)]
fn begin_body(flow: &mut Flow, side: Side, seg: &Segment) {
    let reading = &seg.reading;
    let length = reading.body_length;
    flow.lengths[side as usize & 1] = length;
    flow.body_sums[side as usize & 1] = 0;
    if length > MAX_SUMMED {
        unsummed(flow);
    } else if length > 0 && !flow.has(Flow::UNSUMMED) {
        flow.set(summed(side), true);
        add(flow, side, seg, reading.body_at, reading.body_at.wrapping_add(length));
    }
}

/// Adds the sum of the segment's bytes from `from` on to that of the body, which ends at `bound`. A sum that isn't of just those
/// bytes ends it: behind a hole, or where another packet came between.
#[inline(always)]
fn add(flow: &mut Flow, side: Side, seg: &Segment, from: u32, bound: u32) {
    let to = seq::min(bound, seg.seq.wrapping_add(seg.payload));
    let reading = &seg.reading;
    let bytes = to.wrapping_sub(from);
    if from == to && from != bound {
        return;
    }
    if !seq::lt(from, to) || reading.sum_at != from || reading.summed != bytes {
        unsummed(flow);
        return;
    }
    let before = flow.lengths[side as usize & 1].wrapping_sub(bound.wrapping_sub(from));
    let sum = &mut flow.body_sums[side as usize & 1];
    *sum = checksum::append(*sum, reading.sum, before & 1 != 0);
    if to == bound {
        flow.set(summed(side), false);
    }
}

/// Ends the comparison, where all is known that will be. A subprogram of its own, as its frame is large.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn conclude(flow: &mut Flow, primary_status: u16, shadow_status: u16, step: &mut Step) -> u8 {
    if flow.has(Flow::COMPARING) {
        return 0;
    }
    let [primary, shadow] = flow.lengths;
    let clock = step.measured.turn.clock;
    if clock as u16 != flow.clock {
        flow.set(Flow::DISTURBED, true);
    }
    let digests = [checksum::digest(flow.body_sums[0]), checksum::digest(flow.body_sums[1])];
    let known = primary != UNKNOWN_LENGTH && shadow != UNKNOWN_LENGTH;
    let outcome = if primary_status != shadow_status {
        outcome::STATUS
    } else if flow.has(Flow::DISTURBED) {
        outcome::UNKNOWN
    } else if known && primary != shadow {
        outcome::LENGTH
    } else if flow.has(Flow::UNSUMMED) {
        outcome::UNKNOWN
    } else if flow.has(Flow::SUMMING) {
        return 0;
    } else if digests[0] != digests[1] {
        outcome::DIGEST
    } else {
        outcome::EQUAL
    };
    flow.set(Flow::SUMMING, false);
    step.measured.turn = Compared {
        target: flow.target,
        prefix: flow.prefix,
        us: flow.answer_us,
        lengths: flow.lengths,
        digests,
        statuses: [primary_status, shadow_status],
        class: flow.has(Flow::COMPARED_WRITES) as u8,
        outcome,
        pad: 0,
        clock,
        unrecorded: 0,
    };
    outcome
}
