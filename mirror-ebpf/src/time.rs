//! What time it is: read once a packet, and as exactly as that one needs it.
//!
//! The exact clock costs as much as three look-ups. An acknowledgement, of which nothing is measured, makes do with the one that
//! the kernel keeps at hand: it stands still between two ticks, so that it may be behind what a flow's last packet read, as
//! another CPU's may be ([`mirror_common::seq::since`]).

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_ktime_get_coarse_ns};
use mirror_common::flow::tcp;

use crate::maps::Scratch;

/// For the segment at hand, into `scratch.{now_ns,seg}`: exactly, unless it is an acknowledgement alone.
#[inline(always)]
pub fn of_segment(scratch: &mut Scratch) {
    let seg = &scratch.seg;
    let (ms, us) = if seg.payload == 0 && seg.flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0 {
        coarse(scratch);
        let ms = (scratch.now_ns / 1_000_000) as u32;
        (ms, ms.wrapping_mul(1_000))
    } else {
        exact(scratch);
        let us = scratch.now_ns / 1_000;
        ((us / 1_000) as u32, us as u32)
    };
    // 0 says that a clock stands still.
    scratch.seg.now_ms = if ms == 0 { 1 } else { ms };
    scratch.seg.now_us = us;
}

/// To the nanosecond, into `scratch.now_ns`.
#[inline(always)]
pub fn exact(scratch: &mut Scratch) {
    // SAFETY: a helper without preconditions.
    scratch.now_ns = unsafe { bpf_ktime_get_ns() };
}

/// As of the last tick, into `scratch.now_ns`.
#[inline(always)]
pub fn coarse(scratch: &mut Scratch) {
    // SAFETY: as above.
    scratch.now_ns = unsafe { bpf_ktime_get_coarse_ns() };
}
