//! A line a packet for the daemon's log; nothing at all without the feature `log`.

#[cfg(feature = "log")]
use aya_log_ebpf::info;
use mirror_common::{abi::Tuple, flow::Segment, verdict::Verdict};

use crate::maps::Scratch;

/// Forgets the last packet's addresses: this one may have none.
#[inline(always)]
pub fn begin(scratch: &mut Scratch) {
    if cfg!(feature = "log") {
        scratch.tuple = Tuple::default();
        scratch.seg = Segment::default();
    }
}

/// Says what became of the packet at hand, at hook `hook`.
#[cfg(feature = "log")]
#[inline(never)]
pub fn verdict<C: aya_ebpf::EbpfContext>(ctx: &C, hook: &str, scratch: &Scratch, verdict: Verdict) {
    let (tuple, seg) = (&scratch.tuple, &scratch.seg);
    info!(
        ctx,
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
        verdict.name()
    );
}

/// Says nothing: the programs were built without the feature `log`.
#[cfg(not(feature = "log"))]
#[inline(always)]
pub fn verdict<C>(_: &C, _: &str, _: &Scratch, _: Verdict) {}
