//! Carries a step out: what is to be forwarded first, then what is made from the packet by cutting it; the last one takes
//! the packet itself, every other a clone. A copy that fails is counted; its bytes stay owed.

use core::hint::cold_path;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, xdp_action},
    helpers::generated::{bpf_clone_redirect, bpf_redirect, bpf_redirect_neigh},
};
use mirror_common::{
    abi::{Service, Tuple, nat, six::is_alias},
    flow::{Emit, Step, emit, tcp},
    verdict::Verdict,
};

use crate::{
    count, lookup,
    maps::{CONFIG, DEVICES, Scratch},
    packet::{self, Frame, Macs, Packet, Skb},
    route::{FOUND, NO_NEIGHBOUR, Route, route},
    six, time,
};

/// One packet of a step, and where to, into `scratch.{emit,out}`. `index`: 0, 1 the legs, 2 the client.
#[inline(always)]
fn address(scratch: &mut Scratch, service: &Service, index: u32) {
    if index == 2 {
        let c = scratch.client;
        scratch.out = Tuple { saddr: c.daddr, daddr: c.saddr, sport: c.dport, dport: c.sport };
        scratch.emit = scratch.step.to_client;
        return;
    }
    let e = scratch.step.to_leg[index as usize & 1];
    let saddr = lookup::source(&service.endpoints[index as usize & 1], &scratch.client);
    let (daddr, dport) = lookup::server(service, index, e.port);
    scratch.out = Tuple { saddr, daddr, sport: nat::port(e.port).to_be(), dport };
    scratch.emit = e;
}

/// Rewrites the packet at hand as `scratch.emit` says, and sends it to `scratch.out`. `last`: it may wait for a neighbour; a
/// clone can't.
///
/// Exported, so that it is a *global* function to the kernel's verifier: that one follows it once, for any arguments, where
/// it follows a static one anew for each call and each state of its caller (Linux, Documentation/bpf/verifier.rst, "Global
/// functions"). None may be called under a lock.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mirror_send(skb: *mut __sk_buff, scratch: *mut Scratch, last: u32) -> i32 {
    let skb = Skb::of(skb);
    // SAFETY: the callers' own; the verifier wants to see that it may be null.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return TC_ACT_SHOT };
    let six = is_alias(scratch.out.daddr);
    let sent = send_as(skb, scratch, last != 0, |scratch, macs| {
        packet::rewrite(skb, scratch, macs) && (!six || skb.make_six(scratch))
    });
    if six && last == 0 {
        // The next one is made of it. If that fails, none is: it isn't IPv4.
        let out = scratch.out;
        skb.make_four(scratch, &out);
    }
    sent
}

/// [`mirror_send`], where `rewrite` says into what.
#[inline(always)]
pub fn send_as(
    skb: Skb,
    scratch: &mut Scratch,
    last: bool,
    rewrite: impl FnOnce(&mut Scratch, Macs) -> bool,
) -> i32 {
    let Some(way) = way(skb, scratch, last) else { return refused() };
    if rewrite(scratch, way.macs) { leave(skb, &way, last) } else { refused() }
}

/// Where the packet for `scratch.out` goes; `None`: nowhere.
#[inline(always)]
fn way(skb: Skb, scratch: &mut Scratch, last: bool) -> Option<Route> {
    if is_alias(scratch.out.daddr) && !six::resolve(scratch) {
        cold_path();
        return None;
    }
    let route = route(skb, scratch);
    (route.found == FOUND || (route.found == NO_NEIGHBOUR && last)).then_some(route)
}

/// Nothing leaves, and that is counted.
#[inline(always)]
fn refused() -> i32 {
    cold_path();
    count::verdict(Verdict::EmitFailed);
    TC_ACT_SHOT
}

/// The rewritten packet leaves.
#[inline(always)]
fn leave(skb: Skb, way: &Route, last: bool) -> i32 {
    // SAFETY: helpers without preconditions; without parameters, the kernel looks the neighbour up, and asks for it.
    unsafe {
        if way.found == NO_NEIGHBOUR {
            cold_path();
            return bpf_redirect_neigh(way.device, core::ptr::null_mut(), 0, 0) as i32;
        }
        if last {
            return bpf_redirect(way.device, 0) as i32;
        }
        if bpf_clone_redirect(skb.context().cast(), way.device, 0) != 0 {
            count::verdict(Verdict::EmitFailed);
        }
    }
    TC_ACT_SHOT
}

/// One packet of a step.
#[inline(always)]
fn one(skb: Skb, scratch: &mut Scratch, service: &Service, index: u32, last: u32) -> i32 {
    address(scratch, service, index);
    mirror_send(skb.context().cast(), scratch, last)
}

/// The ICMP error at hand, to the end that sent the packet that it quotes.
#[inline(never)]
pub fn error(skb: Skb, scratch: &mut Scratch) -> i32 {
    let Some(service) = lookup::of_client(scratch) else { return TC_ACT_SHOT };
    let index = match scratch.step.to_leg[0].kind {
        emit::ERROR => 0,
        _ if scratch.step.to_leg[1].kind == emit::ERROR => 1,
        _ => 2,
    };
    address(scratch, service, index);
    error_as(skb, scratch)
}

/// The ICMP error at hand, to `scratch.out`.
#[inline(always)]
pub fn error_as(skb: Skb, scratch: &mut Scratch) -> i32 {
    let four = !is_alias(scratch.out.daddr) && !skb.is_ipv6();
    // No closure: it would have a frame of its own, and those of all functions on the way down are bounded together.
    let Some(way) = way(skb, scratch, true) else { return refused() };
    let made = if four {
        packet::rewrite_error(skb, scratch, way.macs)
    } else {
        packet::make_error(skb, scratch, way.macs)
    };
    if made { leave(skb, &way, true) } else { refused() }
}

/// Puts what a receiver may see of SACK's blocks into the packet's option. False: counted, and nothing must leave.
#[inline(always)]
fn keep_sack<P: Packet>(packet: P, scratch: &mut Scratch, index: u32) -> bool {
    let kept = scratch.step.sack.room == 0 || packet::put_sack(packet, scratch, index);
    if !kept {
        count::verdict(Verdict::EmitFailed);
    }
    kept
}

/// A clone of the packet as it came, into the TAP.
#[inline(always)]
pub fn hold_copy(skb: Skb) {
    let tap = CONFIG.get(0).map_or(0, |config| config.tap);
    // SAFETY: a helper without preconditions.
    if tap == 0 || unsafe { bpf_clone_redirect(skb.context().cast(), tap, 0) } != 0 {
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

/// A packet that a step makes, in the order in which they are made: what is forwarded first.
#[inline(always)]
fn bit(emit: &Emit, index: u32) -> u32 {
    match emit.kind {
        emit::NONE => 0,
        _ if emit.carries() => 1 << index,
        _ => 8 << index,
    }
}

/// The packets that a step makes, a [`bit`] each.
#[inline(always)]
fn outputs(step: &Step) -> u32 {
    bit(&step.to_leg[0], 0) | bit(&step.to_leg[1], 1) | bit(&step.to_client, 2)
}

/// The receiver of a step's only packet; `None`: it makes several, or none.
#[inline(always)]
fn only(outputs: u32) -> Option<u32> {
    match outputs {
        0b001 | 0b001_000 => Some(0),
        0b010 | 0b010_000 => Some(1),
        0b100 | 0b100_000 => Some(2),
        _ => None,
    }
}

/// What is cut of the packet at hand, if anything: both legs get the same, or the client alone does.
#[inline(always)]
fn cut_of(step: &Step) -> Emit {
    if step.to_client.kind == emit::CUT {
        step.to_client
    } else if step.to_leg[0].kind == emit::CUT {
        step.to_leg[0]
    } else {
        step.to_leg[1]
    }
}

/// Where the packet is cut. Nobody is shown blocks, or what is kept would have two sums: another acknowledgement brings them.
/// False: counted, and nothing must leave. A subprogram of its own: its ways are many, and come to the same.
#[inline(never)]
fn prepare_cut(skb: Skb, scratch: &mut Scratch, skip: u32, stays: u32) -> bool {
    scratch.step.sack.count = 0;
    let segment = skb.segment_size();
    let tail = skip > emit::LITTLE && segment != 0 && stays > segment;
    let kept = (tail || keep_sack(skb, scratch, 0)) && packet::keep(skb, scratch, skip, stays, tail);
    if !kept {
        count::verdict(Verdict::EmitFailed);
    }
    kept
}

/// All packets of a step. `keep`: the packet at hand is a stand-in that goes nowhere itself.
#[inline(always)]
pub fn carry(skb: Skb, scratch: &mut Scratch, service: &Service, keep: bool) -> i32 {
    let all = outputs(&scratch.step);
    let mut action = TC_ACT_SHOT;
    let cut = cut_of(&scratch.step);
    let cuts = cut.kind == emit::CUT;
    if cuts {
        cold_path();
        if !prepare_cut(skb, scratch, u32::from(cut.skip), u32::from(cut.mss)) {
            return TC_ACT_SHOT;
        }
    }
    if !keep && let Some(index) = only(all) {
        if all < 0b1000 && !cuts && !keep_sack(skb, scratch, index) {
            return TC_ACT_SHOT;
        }
        return one(skb, scratch, service, index, 1);
    }
    for turn in 0..6_u32 {
        let left = all >> turn;
        if left & 1 == 0 {
            continue;
        }
        let index = turn % 3;
        if turn < 3 && !cuts && !keep_sack(skb, scratch, index) {
            continue;
        }
        action = one(skb, scratch, service, index, (left == 1 && !keep) as u32);
    }
    action
}

/// No action of XDP's: [`express`] leaves the step to TC.
pub const NOT_HERE: u32 = u32::MAX;

/// What XDP can do by itself: nothing, or one packet that is no longer than the one at hand, to a resolved neighbour behind
/// a device with XDP. [`NOT_HERE`]: nothing has been done, and TC can do it.
#[inline(never)]
pub fn express(frame: Frame, scratch: &mut Scratch, service: &Service) -> u32 {
    let step = &scratch.step;
    if step.hold_copy != 0 {
        return NOT_HERE;
    }
    let all = outputs(step);
    if all == 0 {
        return xdp_action::XDP_DROP;
    }
    let Some(index) = only(all) else { return NOT_HERE };
    address(scratch, service, index);
    if scratch.emit.kind == emit::SYN || scratch.emit.kind == emit::CUT || is_alias(scratch.out.daddr) {
        return NOT_HERE;
    }
    let route = route(frame, scratch);
    if route.found != FOUND {
        return NOT_HERE;
    }
    // By redirect where it came in, too: XDP_TX leaves a frame in veth's ring, and wakes no reader whose end has NAPI by GRO
    // alone (Linux, drivers/net/veth.c: veth_xdp_flush asks for a program there, veth_xdp_xmit for NAPI). It is only noted
    // here, for an action that is returned later.
    let Ok(redirected) = DEVICES.redirect(route.device, 0) else { return NOT_HERE };
    if !keep_sack(frame, scratch, index) {
        return xdp_action::XDP_DROP;
    }
    if !packet::rewrite(frame, scratch, route.macs) {
        count::verdict(Verdict::EmitFailed);
        return xdp_action::XDP_DROP;
    }
    redirected
}

/// RFC 9293, 3.10.7.1: the reset for a segment of no connection, back to where it came from.
#[inline(never)]
pub fn reset_back(skb: Skb, scratch: &mut Scratch) -> i32 {
    time::coarse(scratch);
    let t = scratch.tuple;
    scratch.out = Tuple { saddr: t.daddr, daddr: t.saddr, sport: t.dport, dport: t.sport };
    let seg = &scratch.seg;
    let mut e = Emit { kind: emit::BARE, flags: tcp::RST, seq: seg.ack, ..Emit::default() };
    if !seg.is(tcp::ACK) {
        e.flags = tcp::RST | tcp::ACK;
        e.seq = 0;
        e.ack = seg.end();
    }
    scratch.emit = e;
    mirror_send(skb.context().cast(), scratch, 1)
}
