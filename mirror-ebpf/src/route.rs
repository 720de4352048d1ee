//! Where packets go: by the kernel's routes and neighbours, as they were a moment ago.
//!
//! A look-up costs as much as deciding does, and most packets go where the last ones went. So each CPU keeps what the kernel
//! said, by all that it was asked for, for [`FRESH_NS`]: a new route or neighbour is known as soon as other CPUs would know it
//! by a system call, and long before TCP sends again. That there is none is never kept.

use core::{hint::cold_path, mem::MaybeUninit};

use aya_ebpf::{bindings::bpf_fib_lookup, helpers::generated::bpf_fib_lookup as fib_lookup};

use mirror_common::abi::six::{BESIDE, is_alias};

use crate::{
    maps::{ROUTES, Scratch},
    packet::{Macs, Packet},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// How long an answer is used, in nanoseconds; by a clock that may stand still for a tick ([`crate::time`]).
const FRESH_NS: i64 = 4_000_000;

/// Answers that a CPU keeps. A power of two.
pub const KEPT: u32 = 256;

/// Results of `bpf_fib_lookup`.
pub const FOUND: i64 = 0;
pub const NO_NEIGHBOUR: i64 = 7;

/// Where a packet goes.
#[derive(Clone, Copy)]
pub struct Route {
    /// [`FOUND`], or why not.
    pub found: i64,
    pub device: u32,
    pub macs: Macs,
}

/// An answer that is kept: 40 bytes of [`ROUTES`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Kept {
    /// When it was given, in nanoseconds.
    at_ns: u64,
    /// What was asked: addresses, and the device that the packet had come in by.
    saddr: u32,
    daddr: u32,
    came_by: u32,
    /// The answer.
    device: u32,
    macs: Macs,
    /// Bytes of the packet that was found to fit through the device. A longer one is asked for anew.
    fits: u32,
}

const _: () = assert!(size_of::<Kept>() == 40);

/// Looks `scratch.out` up; where that are aliases, the addresses of `scratch.header6`.
#[inline(always)]
pub fn route<P: Packet>(packet: P, scratch: &Scratch) -> Route {
    let (saddr, daddr, came_by) = (scratch.out.saddr, scratch.out.daddr, packet.device());
    let mixed = (daddr ^ saddr.rotate_left(16) ^ came_by).wrapping_mul(0x9e37_79b9);
    let place = ROUTES.get_ptr_mut(mixed >> (32 - KEPT.ilog2()));
    // What stands beside may be anybody's address: nothing is kept by it.
    let Some(kept) = place.filter(|_| !P::HANDSHAKES || daddr != BESIDE) else { return ask(packet, scratch) };
    // SAFETY: per-CPU, bottom halves are off.
    let kept = unsafe { &mut *kept };
    let same = kept.saddr == saddr && kept.daddr == daddr && kept.came_by == came_by;
    // The clock may have been read less exactly than then.
    let fresh = (scratch.now_ns.wrapping_sub(kept.at_ns) as i64) < FRESH_NS;
    if same && fresh && packet.fits(kept.fits) {
        return Route { found: FOUND, device: kept.device, macs: kept.macs };
    }
    cold_path();
    let route = ask(packet, scratch);
    if route.found == FOUND {
        let Route { device, macs, .. } = route;
        *kept =
            Kept { at_ns: scratch.now_ns, saddr, daddr, came_by, device, macs, fits: packet.plain_length() };
    }
    route
}

/// Asks the kernel.
#[inline(always)]
fn ask<P: Packet>(packet: P, scratch: &Scratch) -> Route {
    let mut space = MaybeUninit::<bpf_fib_lookup>::zeroed();
    let route = space.as_mut_ptr();
    // SAFETY: plain data, of which zero is a valid value, and which lives on the stack for the call.
    unsafe {
        (*route).l4_protocol = 6;
        (*route).ifindex = packet.device();
        if P::HANDSHAKES && is_alias(scratch.out.daddr) {
            (*route).family = AF_INET6;
            (*route).__bindgen_anon_3.ipv6_src = scratch.header6.saddr;
            (*route).__bindgen_anon_4.ipv6_dst = scratch.header6.daddr;
        } else {
            (*route).family = AF_INET;
            (*route).__bindgen_anon_3.ipv4_src = scratch.out.saddr;
            (*route).__bindgen_anon_4.ipv4_dst = scratch.out.daddr;
        }
        let found = fib_lookup(packet.context(), route, size_of::<bpf_fib_lookup>() as i32, 0);
        let to = (&raw const (*route).dmac).cast::<[u16; 3]>().read();
        let from = (&raw const (*route).smac).cast::<[u16; 3]>().read();
        Route { found, device: (*route).ifindex, macs: [to[0], to[1], to[2], from[0], from[1], from[2]] }
    }
}
