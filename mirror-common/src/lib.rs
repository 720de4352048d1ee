//! The ABI and the pure functions that the kernel programs and the daemon share.
//!
//! No I/O, no clock, no randomness: the same code runs in the kernel and in host tests.
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]
