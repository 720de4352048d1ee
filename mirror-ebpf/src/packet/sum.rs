//! The sum of a packet's bytes behind its headers: for a checksum over less of a payload than came, and for answers' bodies.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_loop};
use mirror_common::checksum;

use super::{HEADERS, Header, Packet};
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

/// The sum of `len` bytes from offset `at` on, folded; `None` where the packet is shorter.
#[inline(always)]
pub fn pieces<P: Packet>(packet: P, scratch: &mut Scratch, at: u32, len: u32) -> Option<u16> {
    let mut context = Context { packet, scratch, at, left: len, sum: 0 };
    if len > 0 {
        // SAFETY: the callback and its context outlive the call.
        unsafe { bpf_loop(PIECES, piece::<P> as *mut c_void, (&raw mut context).cast(), 0) };
    }
    (context.left == 0).then(|| checksum::fold(u64::from(context.sum)))
}

/// The sum of all that the headers' checksum is of but the pseudo-header and the first 20 bytes of TCP's own; `None` where it
/// was left to a card: then the field has no more than the pseudo-header's sum, with the length or without.
#[inline(always)]
fn by_checksum(header: &Header, tcp_bytes: u16) -> Option<u16> {
    let field = header.sum;
    let pseudo = checksum::fold(header.pseudo_sum(tcp_bytes));
    if field == pseudo || field == checksum::fold(header.pseudo_sum(0)) {
        return None;
    }
    let known = u64::from(!pseudo) + u64::from(!checksum::fold(header.tcp_sum()));
    Some(checksum::fold(u64::from(!field) + known))
}

/// The sum of `len` bytes of the payload from its offset `from` on; `None` where the packet is shorter. What is longer than
/// what comes before it, and reaches to the end, is taken from TCP's checksum where that is complete.
#[inline(always)]
pub fn body<P: Packet>(packet: P, scratch: &mut Scratch, from: u32, len: u32) -> Option<u16> {
    let options = scratch.tcp_len.wrapping_sub(20);
    let before = options + from;
    let tcp_bytes = (scratch.tcp_len + scratch.seg.payload) as u16;
    let to_the_end = from + len == scratch.seg.payload && before < len;
    let all = if to_the_end { by_checksum(&scratch.header, tcp_bytes) } else { None };
    let (at, bytes) = match all {
        Some(_) => (HEADERS, before),
        None => (HEADERS + before, len),
    };
    let summed = pieces(packet, scratch, at, bytes)?;
    let Some(all) = all else { return Some(summed) };
    let rest = checksum::without(all, summed, false);
    // As a body of its own it begins with its first byte.
    Some(checksum::append(0, rest, before & 1 != 0))
}
