//! Reads a payload before the lock is taken: heads, lengths, chunks. The parser's state is a snapshot; whether it still
//! holds is looked at under the lock.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use mirror_common::{
    abi::Service,
    flow::{Flow, Leg, Parse, Reading, may_compare, to_sum},
    protocol::{
        Kind,
        http1::{TARGET_BYTES, WINDOW, Walk, Want},
    },
    seq,
    switch_word::Side,
};

use crate::{
    maps::{PREFIXES, Scratch},
    packet::{self, Packet},
};

/// Steps of a walk at most: a walk that isn't done by then is as good as one that can't be read.
const STEPS: u32 = 1 << 17;

/// No packet has more payload, in bytes.
const MAX_SEGMENT: u32 = 65_535;
/// Words of a request that are looked at for what it asks for.
const TARGET_WORDS: usize = TARGET_BYTES as usize / 8;

struct Context<P> {
    packet: P,
    walk: *mut Walk,
    payload_at: u32,
}

unsafe extern "C" fn step<P: Packet>(_index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` hands on what `read` gave it, which outlives the loop.
    let (context, walk) = unsafe {
        let context = &*context.cast::<Context<P>>();
        (context, &mut *context.walk)
    };
    match walk.wants() {
        Want::Done => 1,
        Want::Step => {
            walk.step();
            0
        }
        Want::Window => {
            let len = walk.ahead();
            let to = (&raw mut walk.window).cast();
            // SAFETY: the window has room for as many.
            if !unsafe { context.packet.load::<WINDOW>(context.payload_at + walk.at, to, len) } {
                return 1;
            }
            walk.loaded(len);
            0
        }
    }
}

/// Fills `scratch.seg.reading`, where the payload holds bytes that must be read and none before them is missing.
#[inline(always)]
fn read<P: Packet>(packet: P, scratch: &mut Scratch, kind: Kind, parse: &Parse, heads: u64, base: u32) {
    let (seq, payload) = (scratch.seg.seq, scratch.seg.payload);
    let skip = parse.at.wrapping_sub(seq);
    if seq::lt(parse.at, seq) || skip >= payload {
        return;
    }
    scratch.walk.begin(kind, &parse.scanner, skip, payload, heads);
    let context =
        Context { packet, walk: &raw mut scratch.walk, payload_at: packet::HEADERS - 20 + scratch.tcp_len };
    // SAFETY: the callback and its context outlive the call.
    unsafe { bpf_loop(STEPS, step::<P> as *mut c_void, (&raw const context).cast_mut().cast(), 0) };
    let walk = &scratch.walk;
    let reading = &mut scratch.seg.reading;
    reading.before = *parse;
    reading.after =
        Parse { scanner: walk.scanner(), at: seq.wrapping_add(payload).wrapping_add(walk.rest()) };
    reading.heads = walk.heads;
    reading.base = base;
    reading.begun = walk.begun;
    reading.completed = walk.completed;
    reading.answered = walk.answered;
    reading.ends = [seq.wrapping_add(walk.ends[0]), seq.wrapping_add(walk.ends[1])];
    reading.statuses = walk.statuses;
    reading.class = walk.class_number();
    reading.status = walk.last_status;
    reading.first_status = walk.first_status;
    reading.body_at = seq.wrapping_add(walk.first_body);
    reading.body_length = walk.first_length;
    let mut flags = Reading::DONE;
    if walk.opaque() || walk.wants() != Want::Done {
        flags |= Reading::OPAQUE;
    }
    if walk.until_close() {
        flags |= Reading::UNTIL_CLOSE;
    }
    if walk.close != 0 {
        flags |= Reading::CLOSE;
    }
    if walk.in_head() {
        flags |= Reading::IN_HEAD;
    }
    if walk.behind_close != 0 {
        flags |= Reading::BEHIND_CLOSE;
    }
    flags |= Reading::UPGRADE * (walk.upgrade & 1) as u8;
    flags |= Reading::OPAQUE * (walk.upgrade >> 1 & 1) as u8;
    reading.flags = flags;
}

unsafe extern "C" fn target_step(_index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` hands on what `target` gave it, which outlives the loop.
    let scratch = unsafe { &mut **context.cast::<*mut Scratch>() };
    let at = scratch.target.at();
    let word = scratch.walk.window[(at >> 3) as usize & (TARGET_WORDS - 1)];
    let have = scratch.target_bytes.saturating_sub(at);
    !scratch.target.step(word, have) as i64
}

/// Reads what a request asks for that begins here, where the turn is compared.
#[inline(never)]
fn target<P: Packet>(packet: P, scratch: &mut Scratch, service: &Service) {
    let at = scratch.walk.first_begin;
    let left = scratch.seg.payload.wrapping_sub(at);
    let bytes = if left > TARGET_BYTES { TARGET_BYTES } else { left };
    let from = packet::HEADERS - 20 + scratch.tcp_len + at;
    let to = (&raw mut scratch.walk.window).cast();
    // SAFETY: the window has room for as many; the walk is over.
    if !unsafe { packet.load::<TARGET_BYTES>(from, to, bytes) } {
        return;
    }
    scratch.target_bytes = bytes;
    scratch.target.begin(service.segments());
    let mut context: *mut Scratch = scratch;
    // SAFETY: the callback and its context outlive the call.
    unsafe { bpf_loop(TARGET_WORDS as u32, target_step as *mut c_void, (&raw mut context).cast(), 0) };
    scratch.seg.reading.target = scratch.target.whole;
    scratch.seg.reading.prefix = scratch.target.prefix;
    if service.flags & Service::CAPTURES != 0 && scratch.target.prefix != 0 {
        keep_prefix(scratch);
    }
}

/// Keeps how a prefix reads, where it isn't known.
#[inline(always)]
fn keep_prefix(scratch: &mut Scratch) {
    let key = scratch.target.prefix;
    if PREFIXES.get_ptr(&key).is_some() {
        return;
    }
    let bytes = scratch.target.prefix_bytes;
    for (n, word) in scratch.prefix.text.iter_mut().enumerate() {
        let have = bytes.saturating_sub(8 * n as u32);
        let kept = if have >= 8 { u64::MAX } else { !(u64::MAX << ((have * 8) & 63)) };
        *word = u64::from_le(scratch.walk.window[n]) & kept;
    }
    let _ = PREFIXES.insert(&key, &scratch.prefix, 0);
}

/// Sums what the segment brings of a compared answer's body.
#[inline(never)]
fn sum<P: Packet>(packet: P, scratch: &mut Scratch, flow: &Flow, side: Side) {
    let (from, bytes) = to_sum(flow, side, &scratch.seg);
    let at = from.wrapping_sub(scratch.seg.seq);
    if bytes == 0 || at > MAX_SEGMENT || bytes > MAX_SEGMENT {
        return;
    }
    if let Some(sum) = packet::body(packet, scratch, at, bytes) {
        let reading = &mut scratch.seg.reading;
        reading.sum_at = from;
        reading.summed = bytes;
        reading.sum = sum;
    }
}

/// Reads what a segment says. `from`: 0, 1 a side's server; 2 the client.
#[inline(never)]
pub fn classify<P: Packet>(
    packet: P,
    scratch: &mut Scratch,
    flow: *const Flow,
    from: u32,
    service: &Service,
) {
    // SAFETY: a value of an array lives as long as the map. What is read here may be torn: it is compared under the lock.
    unsafe {
        if (*flow).flags & Flow::OPAQUE != 0 {
            return;
        }
        if from == 2 {
            let parse = (*flow).parse;
            let base = (*flow).completed;
            read(packet, scratch, Kind::Request, &parse, 0, base);
            scratch.seg.reading.target = 0;
            scratch.seg.reading.prefix = 0;
            if scratch.seg.reading.begun == 1 && may_compare(&*flow) {
                target(packet, scratch, service);
            }
        } else {
            let leg: *const Leg = &raw const (*flow).legs[from as usize & 1];
            let parse = (*leg).parse;
            let base = (*leg).answered;
            let heads = (*flow).heads.rotate_right(base & 63);
            read(packet, scratch, Kind::Response, &parse, heads, base);
            if (*flow).flags & (Flow::COMPARING | Flow::SUMMING) != 0 {
                sum(packet, scratch, &*flow, Side::from_bit(from));
            }
        }
    }
}
