//! What a forwarder costs that does nothing: route look-up and redirect, at both hooks. The benches' yardstick, in an object
//! of its own; the gateway doesn't load it.
#![no_std]
#![no_main]

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_OK, bpf_fib_lookup, xdp_action},
    btf_maps::DevMapHash,
    helpers::generated::{bpf_fib_lookup as fib_lookup, bpf_redirect},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Writer: the bench. Devices with [`bare_xdp`], by their index.
#[btf_map]
pub static DEVICES: DevMapHash<64> = DevMapHash::new();

/// Ethernet, IPv4.
const BYTES: usize = 14 + 20;

/// Writes the next hop's addresses into an IPv4 packet. Returns the device behind which it is.
#[inline(always)]
fn next_hop(context: &impl EbpfContext, device: u32, data: usize, end: usize) -> Option<u32> {
    if data + BYTES > end {
        return None;
    }
    // SAFETY: within the packet, as was looked at.
    let bytes = unsafe { &mut *(data as *mut [u8; BYTES]) };
    if bytes[12] != 8 || bytes[13] != 0 {
        return None;
    }
    // SAFETY: plain data; zero is a valid value of every field.
    let mut route: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    route.family = 2;
    route.l4_protocol = bytes[23];
    route.ifindex = device;
    route.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes([bytes[26], bytes[27], bytes[28], bytes[29]]);
    route.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes([bytes[30], bytes[31], bytes[32], bytes[33]]);
    let length = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the parameters live on the stack for the call.
    if unsafe { fib_lookup(context.as_ptr(), &raw mut route, length, 0) } != 0 {
        return None;
    }
    bytes[..6].copy_from_slice(&route.dmac);
    bytes[6..12].copy_from_slice(&route.smac);
    Some(route.ifindex)
}

/// Forwards at TC ingress.
#[classifier]
pub fn bare_tc(ctx: TcContext) -> i32 {
    // SAFETY: the context's own field.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    match next_hop(&ctx, device, ctx.data(), ctx.data_end()) {
        // SAFETY: a helper without preconditions.
        Some(to) => unsafe { bpf_redirect(to, 0) as i32 },
        None => TC_ACT_OK,
    }
}

/// Forwards at XDP.
#[xdp]
pub fn bare_xdp(ctx: XdpContext) -> u32 {
    // SAFETY: the context's own field.
    let device = unsafe { (*ctx.ctx).ingress_ifindex };
    match next_hop(&ctx, device, ctx.data(), ctx.data_end()) {
        Some(to) => DEVICES.redirect(to, 0).unwrap_or(xdp_action::XDP_PASS),
        None => xdp_action::XDP_PASS,
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
