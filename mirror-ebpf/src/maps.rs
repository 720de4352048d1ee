//! Every map: who writes it, who reads it, and why that kind.

use aya_ebpf::{bindings::bpf_spin_lock, btf_maps::Array, macros::btf_map};

/// A value that two directions change: under its lock.
#[repr(C)]
pub struct Slot {
    /// Taken by the datapath only.
    pub lock: bpf_spin_lock,
    /// Writer: the datapath, under the lock.
    pub highest: u32,
}

/// Writer: the datapath, under each slot's lock. An array: a deleted hash element would be used again at once.
#[btf_map]
pub static SLOTS: Array<Slot, 1024> = Array::new();

/// Writer: the datapath, atomic. Reader: the daemon.
#[btf_map]
pub static PACKETS: Array<u64, 1> = Array::new();
