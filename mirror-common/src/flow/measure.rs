//! What turns are measured by: how long the client waited for an answer, whether it was an error, and how the two legs
//! compare.

use super::settled::answered;
use super::{Flow, Reading, Segment, Step, leg_state};
use crate::switch_word::Side;
use crate::{hist, seq};

/// Statuses from here on are the server's own errors (RFC 9110, 15.6).
const SERVER_ERROR: u16 = 500;

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
    /// How many there are.
    pub const COUNTERS: u32 = 4;
}

/// What a packet had to tell of turns: 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// 1 + the [`Measured::shown`] row of the answer whose last byte the client is shown; 0: none ends here.
    pub ended: u8,
    /// Answers that the client is shown whose status is an error of the server's.
    pub errors: u8,
    /// Their [`Measured::shown`] row.
    pub errors_row: u8,
    /// 1 + the [`Measured::compared`] row of the answer to a compared turn whose head ends here; 0: none.
    pub compared: u8,
    /// From the request's first packet to the answer's last that the client is shown, in microseconds.
    pub us: u32,
    /// From the request's first packet to the compared answer's head, in microseconds.
    pub compared_us: u32,
    /// 1: the compared answer's status is an error of the server's.
    pub compared_error: u8,
    /// Bits by [`pair`]; 0: the comparison isn't complete.
    pub pair: u8,
    /// [`hist::ratio`] of the two legs' times, where it is.
    pub ratio: u16,
}

impl Measured {
    /// Row of answers that clients were shown, of [`crate::abi::maps::LATENCY`] and [`crate::abi::maps::ERRORS`].
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
        (self.ended | self.errors | self.compared) != 0
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

/// Measures the heads that a reading found; the leg had answered so many turns before it, and has answered so many now.
///
/// Compared are the times until the heads: what comes behind them is the client's pace, of the one leg that it hears.
#[inline(always)]
pub(super) fn note_heads(flow: &mut Flow, side: Side, seg: &Segment, answered: [u32; 2], step: &mut Step) {
    let reading = &seg.reading;
    if side as u8 == flow.authority && reading.errors != 0 {
        let class = flow.has(Flow::TURN_WRITES) as u32;
        step.measured.errors = reading.errors as u8;
        step.measured.errors_row = Measured::shown(side as u32, class) as u8;
    }
    if !flow.has(awaited(side)) {
        return;
    }
    if reading.first_status != 0 && answered[0].wrapping_add(1) == flow.compared_turn {
        compare(flow, side, seg, step);
    } else if (answered[1].wrapping_sub(flow.compared_turn) as i32) >= 0 {
        // Several answers came at once, and this was a later one of them.
        flow.set(Flow::COMPARING, false);
    }
}

/// The flag that says that a side's answer to the compared turn is yet to come.
#[inline(always)]
fn awaited(side: Side) -> u32 {
    if side as u8 == Side::Primary as u8 { Flow::PRIMARY_COMPARED } else { Flow::SHADOW_COMPARED }
}

#[inline(always)]
fn compare(flow: &mut Flow, side: Side, seg: &Segment, step: &mut Step) {
    let (status, us) = (seg.reading.first_status, seq::since(seg.now_us, flow.compared_us));
    let class = flow.has(Flow::COMPARED_WRITES) as u32;
    let measured = &mut step.measured;
    measured.compared = 1 + Measured::compared(side as u32, class) as u8;
    measured.compared_us = us;
    measured.compared_error = (status >= SERVER_ERROR) as u8;
    measured.pair = 0;
    flow.set(awaited(side), false);
    if flow.has(awaited(side.other())) {
        flow.first_us = us;
        flow.first_status = status;
        return;
    }
    let erred = (flow.first_status >= SERVER_ERROR, status >= SERVER_ERROR);
    let primary_is_last = side as u8 == Side::Primary as u8;
    let (primary_erred, shadow_erred) = if primary_is_last { (erred.1, erred.0) } else { erred };
    let (primary, shadow) = if primary_is_last { (us, flow.first_us) } else { (flow.first_us, us) };
    measured.pair = 1 << pair::COMPARED
        | ((primary_erred && !shadow_erred) as u8) << pair::PRIMARY_ERRED
        | ((shadow_erred && !primary_erred) as u8) << pair::SHADOW_ERRED
        | ((status != flow.first_status) as u8) << pair::STATUS_DIFFERS;
    measured.ratio = hist::ratio(primary, shadow) as u16;
}
