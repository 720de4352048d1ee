//! A line a packet for the daemon's log; nothing at all without the feature `log`.

#[cfg(feature = "log")]
use aya_log_ebpf::info;
#[cfg(feature = "log")]
use mirror_common::verdict::Verdict;
use mirror_common::{abi::Tuple, flow::Segment};

use crate::maps::Scratch;

/// Forgets the last packet's addresses: this one may have none.
#[inline(always)]
pub fn begin(scratch: &mut Scratch) {
    if cfg!(feature = "log") {
        scratch.tuple = Tuple::default();
        scratch.seg = Segment::default();
    }
}

/// The hook that a line is from.
#[derive(Clone, Copy)]
pub enum Hook {
    Tc = 0,
    Xdp = 1,
}

/// Says what became of the packet at hand: a verdict's number.
#[inline(always)]
pub fn verdict(hook: Hook, scratch: &mut Scratch, number: u8) {
    #[cfg(feature = "log")]
    mirror_say(scratch, hook as u32, u32::from(number));
    #[cfg(not(feature = "log"))]
    let _ = (hook, scratch, number);
}

/// The same of the datagram at hand, whose step has the verdict. Its message's identifier stands for a number.
#[inline(always)]
pub fn datagram(scratch: &mut Scratch) {
    if cfg!(feature = "log") {
        scratch.seg.seq = u32::from(scratch.message.id);
        scratch.seg.payload = scratch.payload;
        let number = scratch.step.verdict;
        verdict(Hook::Tc, scratch, number);
    }
}

/// Bytes of a line's first word, and of its last. Padded with blanks: the verifier would follow each length by itself.
#[cfg(feature = "log")]
pub const WORDS: [usize; 2] = [3, 24];

/// A line. A global function to the verifier, as [`crate::carry::mirror_send`] is.
#[cfg(feature = "log")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mirror_say(scratch: *mut Scratch, hook: u32, number: u32) -> u32 {
    // SAFETY: the caller's own; the verifier wants to see that it may be null.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    let Some(verdict) = Verdict::from_number(number as u8) else { return 0 };
    pad(&mut scratch.hook, if hook == Hook::Xdp as u32 { "xdp" } else { "tc" });
    pad(&mut scratch.verdict, verdict.name());
    line(scratch);
    0
}

#[cfg(feature = "log")]
#[inline(always)]
fn pad(to: &mut [u8], word: &str) {
    let bytes = word.as_bytes();
    for (at, byte) in to.iter_mut().enumerate() {
        *byte = if at < bytes.len() { bytes[at] } else { b' ' };
    }
}

#[cfg(feature = "log")]
#[inline(never)]
fn line(scratch: &Scratch) {
    let (tuple, seg) = (&scratch.tuple, &scratch.seg);
    // SAFETY: names, and blanks.
    let (hook, verdict) = unsafe {
        (core::str::from_utf8_unchecked(&scratch.hook), core::str::from_utf8_unchecked(&scratch.verdict))
    };
    info!(
        (),
        "{} {:i}:{} > {:i}:{} flags {:x} seq {} ack {} payload {}: {}",
        hook,
        u32::from_be(tuple.saddr),
        u16::from_be(tuple.sport),
        u32::from_be(tuple.daddr),
        u16::from_be(tuple.dport),
        seg.flags,
        seg.seq,
        seg.ack,
        seg.payload,
        verdict
    );
}
