//! Carries a step out: what is to be forwarded first, then what is made from the packet by cutting it; the last one takes
//! the packet itself, every other a clone. A copy that fails is counted; its bytes stay owed.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, bpf_fib_lookup},
    helpers::generated::{
        bpf_clone_redirect, bpf_fib_lookup as fib_lookup, bpf_redirect, bpf_redirect_neigh,
    },
};
use mirror_common::{
    abi::{Service, Tuple, nat},
    flow::{Emit, emit, tcp},
    verdict::Verdict,
};

use crate::{count, maps::CONFIG, maps::Scratch, packet};

const AF_INET: u8 = 2;
const NO_NEIGHBOUR: i64 = 7;

/// Sends the packet at hand to where `scratch.out` says. The last one may wait for a neighbour; a clone can't.
#[inline(always)]
fn send(skb: *mut __sk_buff, scratch: &Scratch, last: bool) -> i32 {
    // SAFETY: plain data; zero is a valid value of every field.
    let mut route: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    route.family = AF_INET;
    route.l4_protocol = 6;
    // SAFETY: the context's own field.
    route.ifindex = unsafe { (*skb).ifindex };
    route.__bindgen_anon_3.ipv4_src = scratch.out.saddr;
    route.__bindgen_anon_4.ipv4_dst = scratch.out.daddr;
    // SAFETY: the parameters live on the stack for the call.
    let found = unsafe { fib_lookup(skb.cast(), &raw mut route, size_of::<bpf_fib_lookup>() as i32, 0) };
    if found == NO_NEIGHBOUR && last {
        // SAFETY: no parameters: the kernel looks the neighbour up, and asks for it.
        return unsafe { bpf_redirect_neigh(route.ifindex, core::ptr::null_mut(), 0, 0) } as i32;
    }
    if found != 0 || !packet::address(skb, &route.dmac, &route.smac) {
        count::verdict(Verdict::EmitFailed);
        return TC_ACT_SHOT;
    }
    if last {
        // SAFETY: a helper without preconditions.
        return unsafe { bpf_redirect(route.ifindex, 0) } as i32;
    }
    // SAFETY: as above.
    if unsafe { bpf_clone_redirect(skb, route.ifindex, 0) } != 0 {
        count::verdict(Verdict::EmitFailed);
    }
    TC_ACT_SHOT
}

/// One packet of a step. `index`: 0, 1 the legs, 2 the client.
#[inline(never)]
fn one(skb: *mut __sk_buff, scratch: &mut Scratch, service: &Service, index: u32, last: u32) -> i32 {
    let e: Emit;
    if index == 2 {
        e = scratch.step.to_client;
        let c = scratch.client;
        scratch.out = Tuple { saddr: c.daddr, daddr: c.saddr, sport: c.dport, dport: c.sport };
    } else {
        e = scratch.step.to_leg[index as usize & 1];
        let end = &service.endpoints[index as usize & 1];
        scratch.out =
            Tuple { saddr: end.nat, daddr: end.addr, sport: nat::port(e.port).to_be(), dport: end.port };
    }
    if !packet::rewrite(skb, scratch, &e) {
        count::verdict(Verdict::EmitFailed);
        return TC_ACT_SHOT;
    }
    send(skb, scratch, last != 0)
}

/// A clone of the packet as it came, into the TAP.
#[inline(always)]
pub fn hold_copy(skb: *mut __sk_buff) {
    let tap = CONFIG.get(0).map_or(0, |config| config.tap);
    // SAFETY: a helper without preconditions.
    if tap == 0 || unsafe { bpf_clone_redirect(skb, tap, 0) } != 0 {
        count::verdict(Verdict::DeferredHoldFull);
    }
}

/// The packet as it came, into the TAP. Without one it is deferred.
#[inline(always)]
pub fn hold() -> i32 {
    let tap = CONFIG.get(0).map_or(0, |config| config.tap);
    if tap == 0 {
        count::verdict(Verdict::DeferredHoldFull);
        return TC_ACT_SHOT;
    }
    // SAFETY: as above.
    unsafe { bpf_redirect(tap, 0) as i32 }
}

/// All packets of a step. `keep`: the packet at hand is a stand-in that goes nowhere itself.
#[inline(always)]
pub fn carry(skb: *mut __sk_buff, scratch: &mut Scratch, service: &Service, keep: bool) -> i32 {
    let mut left = 0_u32;
    left += (scratch.step.to_leg[0].kind != emit::NONE) as u32;
    left += (scratch.step.to_leg[1].kind != emit::NONE) as u32;
    left += (scratch.step.to_client.kind != emit::NONE) as u32;
    let mut action = TC_ACT_SHOT;
    for turn in 0..6_u32 {
        let index = turn % 3;
        let kind = match index {
            2 => scratch.step.to_client.kind,
            _ => scratch.step.to_leg[index as usize].kind,
        };
        let forwards = kind == emit::FORWARD;
        if kind != emit::NONE && forwards == (turn < 3) {
            left -= 1;
            action = one(skb, scratch, service, index, (left == 0 && !keep) as u32);
        }
    }
    action
}

/// RFC 9293, 3.10.7.1: the reset for a segment of no connection, back to where it came from.
#[inline(never)]
pub fn reset_back(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let t = scratch.tuple;
    scratch.out = Tuple { saddr: t.daddr, daddr: t.saddr, sport: t.dport, dport: t.sport };
    let seg = &scratch.seg;
    let mut e = Emit { kind: emit::BARE, flags: tcp::RST, seq: seg.ack, ..Emit::default() };
    if !seg.is(tcp::ACK) {
        e.flags = tcp::RST | tcp::ACK;
        e.seq = 0;
        e.ack = seg.end();
    }
    if !packet::rewrite(skb, scratch, &e) {
        count::verdict(Verdict::EmitFailed);
        return TC_ACT_SHOT;
    }
    send(skb, scratch, true)
}
