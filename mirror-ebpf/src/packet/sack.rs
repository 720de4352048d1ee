//! The SACK option of a packet: its blocks are read, and rewritten in the place that they have. No header grows.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_loop};
use mirror_common::{checksum, flow::sack::MAX_BLOCKS};

use super::{HEADERS, Packet, opaque};
use crate::maps::Scratch;

/// Kind and length of the option with the most blocks, and those, in bytes.
const LONGEST: u32 = 2 + 8 * MAX_BLOCKS as u32;
/// An option's buffer, in bytes. It begins with two zeros, so that its blocks are words.
const BUFFER: u32 = 2 + LONGEST;
/// The same in words.
const WORDS: u32 = BUFFER / 4;
/// Kind of the option (RFC 2018, 3).
const KIND: u8 = 5;
/// Four options without meaning.
const NOPS: u32 = 0x0101_0101;

/// Reads the blocks into `scratch.seg.sack`, as `scratch.options` found them.
#[inline(always)]
pub(super) fn read<P: Packet>(packet: P, scratch: &mut Scratch) -> bool {
    let (at, blocks) = (scratch.options.sack_at, scratch.options.blocks);
    let to = (&raw mut scratch.seg.sack.blocks).cast();
    // SAFETY: there is room for four.
    if !unsafe { packet.load::<32>(HEADERS + 2 + u32::from(at), to, u32::from(blocks) * 8) } {
        return false;
    }
    let sack = &mut scratch.seg.sack;
    for block in &mut sack.blocks {
        *block = [u32::from_be(block[0]), u32::from_be(block[1])];
    }
    sack.at = at;
    sack.room = blocks;
    true
}

/// Composes a word of what the option becomes, and empties it in the buffer of what it was. Called for each of them: the
/// verifier follows it once.
unsafe extern "C" fn compose(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` hands on what `put` gave it, which outlives the loop.
    let scratch = unsafe { &mut **context.cast::<*mut Scratch>() };
    let index = index as usize & 15;
    if index >= WORDS as usize {
        return 1;
    }
    let (room, count) = (u32::from(scratch.step.sack.room), scratch.sack_shown);
    let block = (index as u32).wrapping_sub(1) >> 1;
    let word = if index == 0 {
        let [kind, length] = if count == 0 { [1, 1] } else { [KIND, (2 + 8 * count) as u8] };
        u32::from_ne_bytes([0, 0, kind, length])
    } else if block < count {
        let [begin, end] = scratch.step.sack.blocks[block as usize & (MAX_BLOCKS - 1)];
        (if index & 1 != 0 { begin } else { end }).to_be()
    } else if block < room {
        NOPS
    } else {
        0
    };
    scratch.sack_becomes[index] = word;
    scratch.sack_was[index] = 0;
    0
}

/// Makes of the packet's SACK option what the step says that this receiver is shown: 0, 1 a side's server, 2 the client. To
/// anybody else its blocks would be wrong numbers: they get NOPs. False where the packet is shorter.
#[inline(never)]
pub fn put<P: Packet>(packet: P, scratch: &mut Scratch, to: u32) -> bool {
    let sack = &scratch.step.sack;
    let (room, at) = (u32::from(sack.room), u32::from(sack.at));
    if room == 0 {
        return true;
    }
    scratch.loaded = 0;
    scratch.sack_shown = if u32::from(sack.to) == to { u32::from(sack.count) } else { 0 };
    let mut context: *mut Scratch = scratch;
    // SAFETY: the callback and its context outlive the call.
    unsafe { bpf_loop(WORDS, compose as *mut c_void, (&raw mut context).cast(), 0) };
    let was: *mut u32 = (&raw mut scratch.sack_was).cast();
    let becomes: *mut u32 = (&raw mut scratch.sack_becomes).cast();
    let len = 2 + 8 * room;
    // SAFETY: each buffer has `LONGEST` bytes behind its zeros, and whole words.
    unsafe {
        if !packet.load::<LONGEST>(HEADERS + at, was.cast::<u8>().add(2), len) {
            return false;
        }
        let difference = checksum::fold(bpf_csum_diff(was, BUFFER, becomes, BUFFER, 0) as u32 as u64);
        // Where the option begins at an odd offset, each byte stands in the other half of its word.
        let difference = difference.rotate_left((at & 1) << 3);
        let len = opaque(len);
        if len == 0 || len > LONGEST {
            return false;
        }
        packet.replace(HEADERS + at, becomes.cast::<u8>().add(2), len, difference)
    }
}
