//! What turns are measured by: how long a leg took to answer, whether with an error, and how the two legs differ.

use super::settled::answered;
use super::{Flow, Reading, Segment, Step, leg_state};
use crate::switch_word::Side;
use crate::{hist, seq};

/// Statuses from here on are the server's own errors (RFC 9110, 15.6).
const SERVER_ERROR: u16 = 500;

/// What is counted of turns that both legs answered: bits of [`Measured::pair`] and elements of
/// [`crate::abi::maps::PAIRS`].
pub mod pair {
    /// Both legs answered.
    pub const COMPARED: u32 = 0;
    /// The primary alone with an error of its own.
    pub const PRIMARY_ERRED: u32 = 1;
    /// The shadow alone.
    pub const SHADOW_ERRED: u32 = 2;
    /// The statuses differ.
    pub const STATUS_DIFFERS: u32 = 3;
    /// How many there are.
    pub const COUNTERS: u32 = 4;
}

/// What a packet's payload was the end of: 12 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// 1 + the [`Measured::row`] of the answer that ended; 0: none did.
    pub ended: u8,
    /// Answers whose status is an error of the server's.
    pub errors: u8,
    /// Their [`Measured::row`].
    pub errors_row: u8,
    /// Bits by [`pair`]; 0: no comparison ended here.
    pub pair: u8,
    /// How long the answer took that ended: from its request's first packet to its own last, in microseconds.
    pub us: u32,
    /// [`hist::ratio`] of the compared turn.
    pub ratio: u16,
    /// Class of the compared turn: 0 read, 1 write.
    pub pair_class: u8,
    /// Zero.
    pub pad: u8,
}

impl Measured {
    /// Row of [`crate::abi::maps::LATENCY`] and element of [`crate::abi::maps::ERRORS`].
    #[inline(always)]
    pub const fn row(absorbed: bool, side: u32, class: u32) -> u32 {
        ((absorbed as u32) << 2) | ((side & 1) << 1) | (class & 1)
    }

    /// How many rows there are.
    pub const ROWS: usize = 8;

    /// Whether there is anything to count.
    #[inline(always)]
    pub const fn any(&self) -> bool {
        (self.ended | self.errors | self.pair) != 0
    }
}

/// A turn begins. Of a flow's turns one at a time is compared, until both legs have answered it: a leg that lags behind the
/// client's next requests is measured as the one that keeps up.
#[inline(always)]
pub(super) fn begin(flow: &mut Flow, reading: &Reading, writes: bool, now_us: u32) {
    flow.set(Flow::TIMED, true);
    flow.turn_us = now_us;
    let open = |side: Side| flow.leg(side).state == leg_state::OPEN;
    if !open(Side::Primary) || !open(Side::Shadow) {
        flow.set(Flow::COMPARING, false);
        return;
    }
    if flow.has(Flow::COMPARING) || reading.begun != 1 {
        return;
    }
    flow.set(Flow::COMPARING, true);
    flow.set(Flow::COMPARED_WRITES, writes);
    flow.compared_turn = flow.turns;
    flow.compared_us = now_us;
    flow.statuses = [0; 2];
}

/// Whether a side's answer to the compared turn is yet to come.
#[inline(always)]
fn awaited(flow: &Flow, side: Side) -> bool {
    flow.has(if side == Side::Primary { Flow::PRIMARY_COMPARED } else { Flow::SHADOW_COMPARED })
}

/// Keeps the statuses that a reading found; the leg had answered so many turns before it.
#[inline(always)]
pub(super) fn note_status(flow: &mut Flow, side: Side, reading: &Reading, answered: u32, step: &mut Step) {
    if reading.status == 0 {
        return;
    }
    if side as u8 == flow.authority {
        step.measured.erred(false, side, flow.has(Flow::TURN_WRITES), reading.errors);
    }
    let n = side as usize & 1;
    if flow.statuses[n] == 0 && flow.compared_turn == answered.wrapping_add(1) {
        flow.statuses[n] = reading.first_status;
    }
}

/// Measures what has ended with a leg's segment: the answer that the client was waiting for, and the compared one.
#[inline(always)]
pub(super) fn note_answer(flow: &mut Flow, side: Side, absorbed: bool, seg: &Segment, step: &mut Step) {
    if !absorbed && flow.has(Flow::TIMED) && answered(flow, side) {
        flow.set(Flow::TIMED, false);
        let us = seq::since(seg.now_us, flow.turn_us);
        step.measured.end(false, side, flow.has(Flow::TURN_WRITES), us);
    }
    if awaited(flow, side) {
        compare(flow, side, absorbed, seg, step);
    }
}

#[inline(always)]
fn compare(flow: &mut Flow, side: Side, absorbed: bool, seg: &Segment, step: &mut Step) {
    let leg = flow.leg(side);
    let more = leg.answered.wrapping_sub(flow.compared_turn) as i32;
    let whole = leg.parse.scanner.is_boundary() && !seq::lt(leg.sent_max, leg.parse.at);
    if more < 0 || (more == 0 && !whole) {
        return;
    }
    let status = flow.statuses[side as usize & 1];
    if status == 0 || leg.state != leg_state::OPEN {
        // Several answers came at once, and this was a later one of them.
        flow.set(Flow::COMPARING, false);
        return;
    }
    let us = seq::since(seg.now_us, flow.compared_us);
    let writes = flow.has(Flow::COMPARED_WRITES);
    if absorbed {
        step.measured.end(true, side, writes, us);
        step.measured.erred(true, side, writes, (status >= SERVER_ERROR) as u32);
    }
    flow.set(if side == Side::Primary { Flow::PRIMARY_COMPARED } else { Flow::SHADOW_COMPARED }, false);
    if awaited(flow, side.other()) {
        flow.first_us = us;
        return;
    }
    let (primary, shadow) = if side == Side::Primary { (us, flow.first_us) } else { (flow.first_us, us) };
    step.measured.pair(flow.statuses, writes);
    step.measured.ratio = hist::ratio(primary, shadow) as u16;
}

impl Measured {
    #[inline(always)]
    fn end(&mut self, absorbed: bool, side: Side, writes: bool, us: u32) {
        self.ended = 1 + Measured::row(absorbed, side as u32, writes as u32) as u8;
        self.us = us;
    }

    #[inline(always)]
    fn erred(&mut self, absorbed: bool, side: Side, writes: bool, errors: u32) {
        self.errors = errors as u8;
        self.errors_row = Measured::row(absorbed, side as u32, writes as u32) as u8;
    }

    #[inline(always)]
    fn pair(&mut self, statuses: [u16; 2], writes: bool) {
        let [primary, shadow] = statuses;
        let (primary_erred, shadow_erred) = (primary >= SERVER_ERROR, shadow >= SERVER_ERROR);
        self.pair_class = writes as u8;
        self.pair = 1 << pair::COMPARED
            | ((primary_erred && !shadow_erred) as u8) << pair::PRIMARY_ERRED
            | ((shadow_erred && !primary_erred) as u8) << pair::SHADOW_ERRED
            | ((primary != shadow) as u8) << pair::STATUS_DIFFERS;
    }
}
