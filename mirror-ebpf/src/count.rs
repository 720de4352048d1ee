//! Counters, latencies and events.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use mirror_common::{
    abi::{Event, EventKind, Turn, six::BESIDE},
    flow::{Compared, LossReason, Measured, Step, emit, outcome, pair},
    hist,
    protocol::http1::status::{self, Statuses},
    verdict::Verdict,
};

use crate::maps::{
    APPS, CARRIED, COUNTERS, EVENTS, LATENCY, PAIRS, RATIOS, RECORDED, RESPONSES, Scratch, TURNS,
};

/// Counts a packet's end.
#[inline(always)]
pub fn verdict(verdict: Verdict) {
    number(verdict as u32);
}

/// Counts a packet's end, by the verdict's number.
#[inline(always)]
pub fn number(verdict: u32) {
    raise(COUNTERS.get_ptr_mut(verdict), 1);
}

/// Adds to an element of a per-CPU array.
#[inline(always)]
fn raise(counter: Option<*mut u64>, by: u64) {
    if let Some(counter) = counter {
        // SAFETY: this CPU's own value, and bottom halves are off.
        unsafe { *counter += by };
    }
}

/// Counts what a packet had to tell of turns.
#[inline(always)]
fn measured(measured: &Measured) {
    let latency = |row: u8, us: u32| {
        let row = (u32::from(row) - 1) & (Measured::ROWS as u32 - 1);
        raise(LATENCY.get_ptr_mut(row * hist::BUCKETS as u32 + hist::bucket(us)), 1);
    };
    if measured.ended != 0 {
        latency(measured.ended, measured.us);
    }
    if measured.statuses.0 != 0 {
        responses(u32::from(measured.statuses_row), measured.statuses);
    }
    if measured.compared == 0 {
        return;
    }
    latency(measured.compared, measured.compared_us);
    let row = u32::from(measured.compared) - 1;
    raise(RESPONSES.get_ptr_mut(row * status::CLASSES as u32 + u32::from(measured.compared_class)), 1);
    if measured.pair == 0 {
        return;
    }
    let class = row & 1;
    for kind in 0..pair::EQUAL {
        raise(PAIRS.get_ptr_mut(class * pair::COUNTERS + kind), u64::from(measured.pair >> kind & 1));
    }
    raise(RATIOS.get_ptr_mut(class * hist::RATIOS as u32 + u32::from(measured.ratio)), 1);
}

/// Counts answers by the class of their status.
#[inline(always)]
fn responses(row: u32, statuses: Statuses) {
    for class in 0..status::CLASSES as u32 {
        let count = statuses.of(class);
        if count != 0 {
            raise(RESPONSES.get_ptr_mut(row * status::CLASSES as u32 + class), count.into());
        }
    }
}

/// Counts the payload that a flow's packet carries: from whom it came, and where it goes.
#[inline(always)]
pub fn carried(scratch: &Scratch, from: u32) {
    let (seg, step) = (&scratch.seg, &scratch.step);
    if seg.payload == 0 || step.verdict == Verdict::StaleSlot as u8 {
        return;
    }
    let Some(carried) = CARRIED.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value, and bottom halves are off.
    let carried = unsafe { &mut *carried };
    if from < 2 {
        carried.answers[from as usize & 1] += u64::from(seg.payload);
        return;
    }
    for side in 0..2 {
        carried.requests[side] += u64::from(match step.to_leg[side].kind {
            emit::FORWARD => seg.payload,
            emit::CUT => u32::from(step.to_leg[side].mss),
            _ => 0,
        });
    }
}

/// Counts the payload of a datagram that goes to a side.
#[inline(always)]
pub fn asked(side: u32, payload: u32) {
    let Some(carried) = CARRIED.get_ptr_mut(0) else { return };
    // SAFETY: as in `carried`.
    unsafe { (*carried).requests[side as usize & 1] += u64::from(payload) };
}

/// Counts the payload of a datagram that a side has answered with.
#[inline(always)]
pub fn answered(side: u32, payload: u32) {
    let Some(carried) = CARRIED.get_ptr_mut(0) else { return };
    // SAFETY: as in `carried`.
    unsafe { (*carried).answers[side as usize & 1] += u64::from(payload) };
}

/// Counts how a compared turn came out, and tells of it: of each difference, and of some of the others.
#[inline(never)]
pub fn turn(scratch: &Scratch, app: u32, slot: u32, generation: u32) {
    let compared = &scratch.step.measured.turn;
    let row = u32::from(compared.class & 1) * pair::COUNTERS;
    match compared.outcome {
        outcome::EQUAL => raise(PAIRS.get_ptr_mut(row + pair::EQUAL), 1),
        outcome::LENGTH => raise(PAIRS.get_ptr_mut(row + pair::LENGTH_DIFFERS), 1),
        outcome::DIGEST => raise(PAIRS.get_ptr_mut(row + pair::DIGEST_DIFFERS), 1),
        _ => {}
    }
    let Some(recorded) = RECORDED.get_ptr_mut(0) else { return };
    let different = compared.outcome != outcome::EQUAL && compared.outcome != outcome::UNKNOWN;
    // SAFETY: a helper without preconditions.
    let at = unsafe { bpf_ktime_get_ns() };
    // SAFETY: this CPU's own value, and bottom halves are off.
    let told = unsafe { (*recorded).tells(different, at) };
    let place = match told {
        Some(_) => TURNS.reserve_untyped::<Turn>(0),
        None => None,
    };
    let Some(mut place) = place else {
        raise(PAIRS.get_ptr_mut(row + pair::RECORDS_LOST), different.into());
        return;
    };
    let client = &scratch.client;
    place.write(Turn {
        at,
        app,
        slot,
        generation,
        client: client.saddr,
        port: client.sport,
        pad: 0,
        compared: Compared { unrecorded: told.unwrap_or(0), ..*compared },
        six: if client.saddr == BESIDE { scratch.exchange_key.six } else { [0; 4] },
    });
    place.submit(0);
}

/// Tells the daemon. A full ring loses the event; the daemon looks at the words and at what it holds anyway.
#[inline(always)]
pub fn event(kind: EventKind, app: u32, slot: u32, generation: u32, side: u32, reason: u32) {
    let Some(mut place) = EVENTS.reserve_untyped::<Event>(0) else { return };
    // SAFETY: a helper without preconditions.
    let at = unsafe { bpf_ktime_get_ns() };
    place.write(Event { at, kind: kind as u32, app, slot, generation, side, reason });
    place.submit(0);
}

/// What a step has to tell.
#[inline(always)]
pub fn step(step: &Step, app: u32, slot: u32, generation: u32) {
    measured(&step.measured);
    if step.events == 0 {
        return;
    }
    if step.events & Step::OVERTAKES != 0 {
        raise(PAIRS.get_ptr_mut(pair::COUNTERS + pair::OVERTAKING), 1);
    }
    let (side, reason) = (u32::from(step.side) | u32::from(step.server) << 8, u32::from(step.reason));
    if step.events & Step::OUT_OF_SYNC != 0 {
        if let Some(words) = APPS.get_ptr_mut(app) {
            // SAFETY: one aligned word, for people to read.
            unsafe { (*words).app.out_of_sync_reason = u64::from(LossReason::number(reason)) };
        }
        event(EventKind::OutOfSync, app, slot, generation, side, reason);
    }
    if step.events & Step::LEG_LOST != 0 {
        let side = side | Event::with_answered(step.answered);
        event(EventKind::LegLost, app, slot, generation, side, reason);
    }
    if step.events & Step::LEG_OPEN != 0 {
        event(EventKind::LegOpen, app, slot, generation, side, reason);
    } else if step.events & Step::WAKE != 0 {
        event(EventKind::Wake, app, slot, generation, side, reason);
    }
    if step.events & Step::CAUGHT_UP != 0 {
        event(EventKind::CaughtUp, app, slot, generation, side, reason);
    }
}
