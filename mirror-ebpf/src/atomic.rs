//! 64-bit atomics on map values.
//!
//! `core::sync::atomic::AtomicU64` has no read-modify-write on this target (no `target_has_atomic`), so these are the
//! intrinsics: `lock *(u64 *)` instructions, each of them a full barrier but for [`add`].
#![allow(dead_code, reason = "the whole small set, so that nobody writes a second one")]

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

/// Adds to `*word` and drops the old value: one `lock *(u64 *)(word) += n`, without ordering.
///
/// # Safety
/// `word` points to an aligned `u64` of a map value that every program changes by atomics only.
#[inline(always)]
pub unsafe fn add(word: *mut u64, n: u64) {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, n) };
}

/// Adds to `*word` and returns what it was before: `atomic_fetch_add`, a full barrier.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, n: u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, n) }
}

/// Writes `new` if `*word` is `old`. Returns whether it did: `cmpxchg_64`, a full barrier.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn compare_and_swap(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe { atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new).1 }
}

/// Reads `*word` by one 64-bit load that the compiler neither splits nor repeats.
///
/// # Safety
/// `word` points to an aligned `u64` of a map value.
#[inline(always)]
pub unsafe fn load(word: *const u64) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { word.read_volatile() }
}
