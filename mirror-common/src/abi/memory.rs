//! What the maps take of the kernel's memory.

use super::Tuple;
use crate::flow::Flow;

/// Bytes that one flow costs in all maps: its slot, its place in the queue of free ones, and three tuples. Of flows there is a
/// power of two, so that the buckets for three tuples each are four a flow.
pub const BYTES_A_FLOW: usize = size_of::<Flow>() + 4 + 3 * element(size_of::<Tuple>(), 8) + 4 * BUCKET;

/// Bytes of a bucket of a hash; there is a power of two of them, at least one an element.
pub(super) const BUCKET: usize = 16;

/// Bytes that 64-bit kernels take for each element of a preallocated hash (`htab_map_mem_usage` in kernel/bpf/hashtab.c).
pub(super) const fn element(key: usize, value: usize) -> usize {
    48 + key.next_multiple_of(8) + value.next_multiple_of(8)
}
