//! The kernel side of the gateway: entry points at both hooks.
//!
//! Skeleton: one program a hook, a locked slot, an atomic counter; it shows that the toolchain's whole way works.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "64-bit atomics: `core::sync::atomic` has none on this target")]

mod atomic;
mod maps;

use aya_ebpf::{
    bindings::{TC_ACT_OK, xdp_action},
    helpers::{bpf_spin_lock, bpf_spin_unlock},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// TC ingress.
#[classifier]
pub fn tc_ingress(ctx: TcContext) -> i32 {
    count(ctx.len());
    TC_ACT_OK
}

/// Native XDP.
#[xdp]
pub fn xdp_ingress(ctx: XdpContext) -> u32 {
    count((ctx.data_end() - ctx.data()) as u32);
    xdp_action::XDP_PASS
}

/// Counts a packet, and raises the slot's highest length under its lock.
fn count(len: u32) {
    if let Some(counter) = maps::PACKETS.get_ptr_mut(0) {
        // SAFETY: a value of an array lives as long as the map; this word is only touched by atomics.
        unsafe { atomic::add(counter, 1) };
    }
    let Some(slot) = maps::SLOTS.get_ptr_mut(0) else { return };
    // SAFETY: a value of an array lives as long as the map, and `highest` is only touched under the lock.
    unsafe {
        bpf_spin_lock(&raw mut (*slot).lock);
        (*slot).highest = later((*slot).highest, len);
        bpf_spin_unlock(&raw mut (*slot).lock);
    }
}

/// A static subprogram, called under a held lock.
#[inline(never)]
fn later(a: u32, b: u32) -> u32 {
    mirror_common::seq::max(a, b)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
