//! The sum of a packet's bytes behind its headers: for a checksum over less of a payload than came.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_loop};
use mirror_common::checksum;

use super::{HEADERS, Packet};
use crate::maps::Scratch;

/// Bytes that are summed at once: as many as the kernel's helper takes.
const PIECE: u32 = 512;
/// Pieces of the longest packet.
const PIECES: u32 = 65_536 / PIECE;

struct Context<P> {
    packet: P,
    scratch: *mut Scratch,
    at: u32,
    left: u32,
    sum: u32,
}

unsafe extern "C" fn piece<P: Packet>(_index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` hands on what `behind` gave it, which outlives the loop.
    let context = unsafe { &mut *context.cast::<Context<P>>() };
    // SAFETY: as above.
    let scratch = unsafe { &mut *context.scratch };
    let len = if context.left > PIECE { PIECE } else { context.left };
    // The parser's window: nothing is read any more when packets are made.
    let to: *mut u8 = (&raw mut scratch.walk.window).cast();
    // SAFETY: the window has room for twice as many.
    if !unsafe { context.packet.load::<PIECE>(context.at, to, len) } {
        return 1;
    }
    let mut words = len;
    while words & 3 != 0 && words < PIECE {
        // SAFETY: as above.
        unsafe { *to.add(words as usize & (PIECE as usize - 1)) = 0 };
        words += 1;
    }
    // SAFETY: whole words within the window.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, to.cast(), words & 0x3fc, context.sum) };
    if sum < 0 {
        return 1;
    }
    context.sum = sum as u32;
    context.at += len;
    context.left -= len;
    (context.left == 0) as i64
}

/// The sum of `len` bytes behind the headers, folded; `None` where the packet is shorter.
#[inline(always)]
pub fn behind<P: Packet>(packet: P, scratch: &mut Scratch, len: u32) -> Option<u16> {
    let mut context = Context { packet, scratch, at: HEADERS, left: len, sum: 0 };
    // SAFETY: the callback and its context outlive the call.
    unsafe { bpf_loop(PIECES, piece::<P> as *mut c_void, (&raw mut context).cast(), 0) };
    (context.left == 0).then(|| checksum::fold(u64::from(context.sum)))
}
