//! What the kernel's own calls cost that a packet's way can't do without: a program for each, which does nothing else. The
//! benches' yardstick, in an object of its own; the gateway doesn't load it.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{BPF_F_PSEUDO_HDR, TC_ACT_OK},
    btf_maps::{Array, HashMap, PerCpuArray},
    helpers::{
        self, bpf_ktime_get_ns,
        generated::{
            bpf_clone_redirect, bpf_ktime_get_coarse_ns, bpf_l4_csum_replace, bpf_redirect,
            bpf_skb_change_proto, bpf_skb_load_bytes, bpf_skb_store_bytes,
        },
    },
    macros::{btf_map, classifier},
    programs::TcContext,
};
use mirror_common::flow::bpf_spin_lock;

/// Keys as long as addresses and ports of a TCP segment, in 32-bit words.
type Key = [u32; 3];

/// Writer and reader: the programs.
#[btf_map]
pub static HASH: HashMap<Key, u64, 4096> = HashMap::new();

/// Writer and reader: the programs.
#[btf_map]
pub static ARRAY: Array<u64, 64> = Array::new();

/// Writer and reader: the programs.
#[btf_map]
pub static PER_CPU: PerCpuArray<[u32; 16], 1> = PerCpuArray::new();

/// Offset of the TCP checksum behind Ethernet and IPv4.
const TCP_CHECKSUM: u32 = 50;

/// Looks a key up that is there.
#[inline(always)]
fn found(first: u32) -> bool {
    let key = [first, 2, 3];
    // SAFETY: the value is one word.
    if unsafe { HASH.get(&key) }.is_some() {
        return true;
    }
    HASH.insert(&key, &1, 0).is_ok()
}

/// A value with a lock. The kernel finds the lock by its type's name.
#[repr(C)]
pub struct Locked {
    lock: bpf_spin_lock,
    word: u32,
}

/// Writer and reader: the programs.
#[btf_map]
pub static LOCKED: Array<Locked, 1> = Array::new();

/// Nothing: what the others are compared with.
#[classifier]
pub fn nothing(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

/// The clock.
#[classifier]
pub fn clock(_ctx: TcContext) -> i32 {
    // SAFETY: a helper without preconditions.
    (unsafe { bpf_ktime_get_ns() } == 0) as i32
}

/// The clock that stands still between ticks.
#[classifier]
pub fn coarse_clock(_ctx: TcContext) -> i32 {
    // SAFETY: as above.
    (unsafe { bpf_ktime_get_coarse_ns() } == 0) as i32
}

/// One element of a hash.
#[classifier]
pub fn hash_once(_ctx: TcContext) -> i32 {
    !found(1) as i32
}

/// Two of them.
#[classifier]
pub fn hash_twice(_ctx: TcContext) -> i32 {
    !(found(1) & found(2)) as i32
}

/// An element of an array, and one of a per-CPU array.
#[classifier]
pub fn arrays(_ctx: TcContext) -> i32 {
    let (Some(one), Some(other)) = (ARRAY.get_ptr_mut(1), PER_CPU.get_ptr_mut(0)) else { return 2 };
    // SAFETY: nobody else has them while a program of these runs.
    unsafe { (*one == u64::MAX || (*other)[0] == u32::MAX) as i32 }
}

/// A lock taken and given back.
#[classifier]
pub fn lock(_ctx: TcContext) -> i32 {
    let Some(locked) = LOCKED.get_ptr_mut(0) else { return 2 };
    // SAFETY: a value of an array lives as long as the map.
    unsafe {
        helpers::bpf_spin_lock((&raw mut (*locked).lock).cast());
        (*locked).word += 1;
        helpers::bpf_spin_unlock((&raw mut (*locked).lock).cast());
    }
    TC_ACT_OK
}

/// Headers of 54 bytes, by the helper.
#[classifier]
pub fn load_headers(ctx: TcContext) -> i32 {
    let Some(to) = PER_CPU.get_ptr_mut(0) else { return 2 };
    // SAFETY: it has room for 64.
    (unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, to.cast(), 54) } != 0) as i32
}

/// Headers of 50 bytes, by the helper.
#[classifier]
pub fn store_headers(ctx: TcContext) -> i32 {
    let Some(from) = PER_CPU.get_ptr_mut(0) else { return 2 };
    // SAFETY: it has 64.
    (unsafe { bpf_skb_store_bytes(ctx.skb.skb, 0, from.cast(), TCP_CHECKSUM, 0) } != 0) as i32
}

/// A difference of TCP's checksum.
#[classifier]
pub fn checksum(ctx: TcContext) -> i32 {
    // SAFETY: a helper without preconditions.
    (unsafe { bpf_l4_csum_replace(ctx.skb.skb, TCP_CHECKSUM, 0, 7, u64::from(BPF_F_PSEUDO_HDR)) } != 0) as i32
}

/// That the packet leaves by another device.
#[classifier]
pub fn redirect(ctx: TcContext) -> i32 {
    // SAFETY: the context's own field; a helper without preconditions.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
}

/// A copy of it by that device, all the way to its other end.
#[classifier]
pub fn copy(ctx: TcContext) -> i32 {
    // SAFETY: as above.
    (unsafe { bpf_clone_redirect(ctx.skb.skb, (*ctx.skb.skb).ifindex, 0) } != 0) as i32
}

/// From IPv4 to IPv6.
#[classifier]
pub fn family(ctx: TcContext) -> i32 {
    // SAFETY: as above.
    (unsafe { bpf_skb_change_proto(ctx.skb.skb, 0x86dd_u16.to_be(), 0) } != 0) as i32
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
