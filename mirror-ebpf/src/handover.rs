//! What XDP has decided and can't carry out itself, told to TC by the frame's metadata: one record, with a version.
//!
//! TC believes it only on devices where our program at XDP came first: that one leaves no metadata but its own, and what a
//! neighbour wrote is taken away.

use core::mem::offset_of;

use mirror_common::{abi::Tuple, flow::Step, verdict::Verdict};

use crate::{
    maps::{DEVICES, Scratch},
    packet::{Frame, Packet, Skb},
};

/// The record's mark and version: XDP's program and TC's are replaced one after the other.
const MARK: u32 = 0x6d69_7205;
/// What of the mark isn't the version.
const MARK_ONLY: u32 = 0xffff_ff00;

/// Words of a step before what it has to tell, which XDP has told itself.
const STEP_WORDS: usize = offset_of!(Step, measured) / 4;

/// A decided step. The kernel takes metadata in words of 4 bytes, 252 bytes at most.
#[repr(C)]
#[derive(Clone, Copy)]
struct Handover {
    mark: u32,
    /// The flow's client.
    client: Tuple,
    step: [u32; STEP_WORDS],
}

const BYTES: usize = size_of::<Handover>();
const _: () = assert!(offset_of!(Step, measured).is_multiple_of(4));
const _: () = assert!(BYTES.is_multiple_of(4) && BYTES <= 252 && align_of::<Handover>() == 4);

/// Writes `scratch.step` before the frame. False where the driver has no room.
#[inline(always)]
pub fn give(frame: Frame, scratch: &Scratch) -> bool {
    if !frame.set_metadata(BYTES as u32) {
        return false;
    }
    let (meta, data) = frame.metadata();
    if meta + BYTES > data {
        return false;
    }
    let to = meta as *mut Handover;
    let step: *const u32 = (&raw const scratch.step).cast();
    // SAFETY: within the metadata; a step is longer than what is copied of it, and as aligned.
    unsafe {
        (*to).mark = MARK;
        (*to).client = scratch.client;
        (&raw mut (*to).step).cast::<u32>().copy_from_nonoverlapping(step, STEP_WORDS);
    }
    true
}

/// Reads a step that was decided at XDP into `scratch.{client,step}`. False: there is none. An error is the verdict.
#[inline(always)]
pub fn take(skb: Skb, scratch: &mut Scratch) -> Result<bool, Verdict> {
    let (meta, data) = skb.metadata();
    if meta + BYTES > data {
        return Ok(false);
    }
    // SAFETY: within the metadata.
    let handover = unsafe { &*(meta as *const Handover) };
    if handover.mark & MARK_ONLY != MARK & MARK_ONLY {
        return Ok(false);
    }
    let version = handover.mark;
    scratch.client = handover.client;
    let step: *mut u32 = (&raw mut scratch.step).cast();
    // SAFETY: a step is longer than what is copied of it, and as aligned.
    unsafe { step.copy_from_nonoverlapping(handover.step.as_ptr(), STEP_WORDS) };
    if DEVICES.get(skb.device()).is_none() {
        return Ok(false);
    }
    if version == MARK { Ok(true) } else { Err(Verdict::HandoverFailed) }
}
