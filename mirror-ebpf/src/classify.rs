//! Reads a payload before the lock is taken: heads, lengths, chunks. The parser's state is a snapshot; whether it still
//! holds is looked at under the lock.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use mirror_common::{
    flow::{Flow, Leg, Parse, Reading},
    protocol::{
        Kind,
        http1::{WINDOW, Walk, Want},
    },
    seq,
};

use crate::{
    maps::Scratch,
    packet::{self, Packet},
};

/// Steps of a walk at most: a walk that isn't done by then is as good as one that can't be read.
const STEPS: u32 = 1 << 17;

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
        Parse { scanner: walk.scanner(), at: seq.wrapping_add(payload).wrapping_add(walk.rest()), pad: 0 };
    reading.heads = walk.heads;
    reading.base = base;
    reading.begun = walk.begun;
    reading.completed = walk.completed;
    reading.answered = walk.answered;
    reading.errors = walk.errors;
    reading.class = walk.class_number();
    reading.status = walk.last_status;
    reading.first_status = walk.first_status;
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
    reading.flags = flags;
}

/// Reads what a segment says. `from`: 0, 1 a side's server; 2 the client.
#[inline(never)]
pub fn classify<P: Packet>(packet: P, scratch: &mut Scratch, flow: *const Flow, from: u32) {
    // SAFETY: a value of an array lives as long as the map. What is read here may be torn: it is compared under the lock.
    unsafe {
        if (*flow).flags & Flow::OPAQUE != 0 {
            return;
        }
        if from == 2 {
            let parse = (*flow).parse;
            let base = (*flow).completed;
            read(packet, scratch, Kind::Request, &parse, 0, base);
        } else {
            let leg: *const Leg = &raw const (*flow).legs[from as usize & 1];
            let parse = (*leg).parse;
            let base = (*leg).answered;
            let heads = (*flow).heads.rotate_right(base & 63);
            read(packet, scratch, Kind::Response, &parse, heads, base);
        }
    }
}
