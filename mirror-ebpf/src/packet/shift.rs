//! Takes the first bytes of a payload away: what stays is moved towards the packet's beginning, or its headers towards the end.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;

use super::{Packet, Skb};
use crate::maps::Scratch;

/// Bytes that are moved at once.
const PIECE: u32 = 512;
/// Pieces of the longest packet.
const PIECES: u32 = 65_536 / PIECE;

struct Context {
    skb: Skb,
    scratch: *mut Scratch,
    to: u32,
    by: u32,
    len: u32,
    failed: u32,
}

/// Moves the piece of a number. Nothing is carried from one to the next: the verifier follows it once.
unsafe extern "C" fn piece(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` hands on what `shift` gave it, which outlives the loop.
    let context = unsafe { &mut *context.cast::<Context>() };
    // SAFETY: as above.
    let scratch = unsafe { &mut *context.scratch };
    let at = (index & (PIECES - 1)) * PIECE;
    if at >= context.len {
        return 1;
    }
    let left = context.len - at;
    let len = if left > PIECE { PIECE } else { left };
    let to = context.to + at;
    // The parser's window: nothing is read any more when packets are made.
    let window: *mut u8 = (&raw mut scratch.walk.window).cast();
    // SAFETY: the window has room for twice as many.
    let moved = unsafe {
        context.skb.load::<PIECE>(to + context.by, window, len)
            && context.skb.store_raw::<PIECE>(to, window, len)
    };
    if !moved {
        context.failed = 1;
    }
    i64::from(!moved)
}

/// Moves `len` bytes from offset `to + by` on to offset `to`. False where the packet is shorter, or isn't ours to change.
#[inline(always)]
pub fn shift(skb: Skb, scratch: &mut Scratch, to: u32, by: u32, len: u32) -> bool {
    let mut context = Context { skb, scratch, to, by, len, failed: 0 };
    // SAFETY: the callback and its context outlive the call.
    unsafe { bpf_loop(PIECES, piece as *mut c_void, (&raw mut context).cast(), 0) };
    context.failed == 0
}

/// The most that the kernel takes away at once, in bytes.
const MOST: u32 = 0xfff;

struct Beheaded {
    skb: Skb,
    left: u32,
}

/// Takes the next piece away.
unsafe extern "C" fn next(_index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` hands on what `behead` gave it, which outlives the loop.
    let context = unsafe { &mut *context.cast::<Beheaded>() };
    let by = if context.left > MOST { MOST } else { context.left };
    if by == 0 || !context.skb.behead(by) {
        return 1;
    }
    context.left -= by;
    0
}

/// Takes `by` bytes away behind the IPv4 header, so that a super-packet stays one. False where the kernel can't.
#[inline(always)]
pub fn behead(skb: Skb, by: u32) -> bool {
    let mut context = Beheaded { skb, left: by };
    // SAFETY: the callback and its context outlive the call.
    unsafe { bpf_loop(65_536 / MOST + 1, next as *mut c_void, (&raw mut context).cast(), 0) };
    context.left == 0
}
