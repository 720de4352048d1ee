//! The kernel side of the gateway: entry points, and the only place where a verdict becomes an action.
#![no_std]
#![no_main]
#![feature(core_intrinsics, asm_experimental_arch)]
#![allow(internal_features, reason = "64-bit atomics: `core::sync::atomic` has none on this target")]

mod atomic;
mod carry;
mod classify;
mod count;
mod decide;
mod lookup;
mod maps;
mod packet;
mod sweep;

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, TC_ACT_OK, TC_ACT_SHOT, xdp_action},
    helpers::bpf_ktime_get_ns,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use mirror_common::{
    abi::{Service, Tuple},
    flow::{Step, tcp},
    switch_word::Side,
    verdict::{Action, Verdict},
};

use crate::{
    decide::{Target, Words},
    maps::{PEERS, SCRATCH, Scratch},
};

/// TC ingress: of every device that clients or servers are behind, and of the TAP.
#[classifier]
pub fn mirror_tc(ctx: TcContext) -> i32 {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return TC_ACT_OK };
    // SAFETY: per-CPU, bottom halves are off.
    let scratch = unsafe { &mut *scratch };
    // SAFETY: a helper without preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    match handle(skb, scratch, now_ns) {
        Ok(()) => finish(skb, scratch),
        Err(verdict) => {
            count::verdict(verdict);
            match verdict.action() {
                Action::Pass => TC_ACT_OK,
                Action::Emit => carry::reset_back(skb, scratch),
                Action::Drop | Action::Hold => TC_ACT_SHOT,
            }
        }
    }
}

/// Finds the flow and decides. `scratch.step` holds what leaves; an error is a verdict of a packet without a flow.
#[inline(always)]
fn handle(skb: *mut __sk_buff, scratch: &mut Scratch, now_ns: u64) -> Result<(), Verdict> {
    packet::parse(skb, scratch, now_ns)?;
    let Some(target) = lookup::target(&scratch.tuple) else { return stranger(scratch, now_ns) };
    // SAFETY: a hint: the client's addresses are compared under the lock.
    let (vip, port) = unsafe { ((*target.flow).tuple.daddr, (*target.flow).tuple.dport) };
    let service = lookup::service(vip, port).ok_or(Verdict::NoService)?;
    if scratch.seg.payload > 0 && scratch.seg.flags & (tcp::SYN | tcp::RST) == 0 {
        classify::classify(skb, scratch, target.flow, target.from);
    }
    let words = Words::of(service.app, now_ns).ok_or(Verdict::NoService)?;
    decide::decide(scratch, target, service, words);
    if scratch.step.dial != 0 {
        again(scratch, target, service, now_ns)?;
    }
    if scratch.step.events != 0 || scratch.step.timed != 0 {
        tell(scratch, service.app, target.generation);
    }
    Ok(())
}

/// Events and latencies of a step.
#[inline(never)]
fn tell(scratch: &mut Scratch, app: u32, generation: u32) {
    let client = scratch.client;
    let slot = lookup::slot(&client);
    count::step(&scratch.step, app, slot, generation);
}

/// A packet without an entry: a new connection, a dead leg's, or none of ours.
#[inline(never)]
fn stranger(scratch: &mut Scratch, now_ns: u64) -> Result<(), Verdict> {
    let tuple = scratch.tuple;
    let rst = scratch.seg.is(tcp::RST);
    let Some(service) = lookup::service(tuple.daddr, tuple.dport) else {
        let peer = Tuple { saddr: tuple.saddr, daddr: tuple.daddr, sport: tuple.sport, dport: 0 };
        // SAFETY: only whether it exists is asked.
        let ours = unsafe { PEERS.get(&peer) }.is_some();
        return Err(match (ours, rst) {
            (false, _) => Verdict::NoService,
            (true, false) => Verdict::ResetUnknownLeg,
            (true, true) => Verdict::StaleSlot,
        });
    };
    if scratch.seg.flags & (tcp::SYN | tcp::ACK | tcp::RST) != tcp::SYN {
        return Err(if rst { Verdict::StaleSlot } else { Verdict::NoFlow });
    }
    create(scratch, service, now_ns)
}

/// A new connection.
#[inline(always)]
fn create(scratch: &mut Scratch, service: &'static Service, now_ns: u64) -> Result<(), Verdict> {
    use mirror_common::flow::Switch;
    let mut words = Words::of(service.app, now_ns).ok_or(Verdict::NoService)?;
    let word = words.word();
    let me: Side = word.authority();
    let second = service.flags & Service::SHADOWED != 0 && word.member(me.other());
    let target = lookup::make(scratch, service, second, me, now_ns)?;
    decide::begin(scratch, target.flow, service, words);
    Ok(())
}

/// What needs more than the flow's own state: a leg that is dialled, or an old connection that makes room.
#[inline(never)]
fn again(
    scratch: &mut Scratch,
    target: Target,
    service: &'static Service,
    now_ns: u64,
) -> Result<(), Verdict> {
    let words = Words::of(service.app, now_ns).ok_or(Verdict::NoService)?;
    let slot = lookup::slot(&scratch.client);
    if scratch.step.dial == 0xff {
        let Some(ports) = decide::restart(target, words) else { return Err(Verdict::StaleSlot) };
        let client = scratch.client;
        lookup::unmake(&client, service, ports, slot);
        return create(scratch, service, now_ns);
    }
    let side = u32::from(scratch.step.dial).wrapping_sub(1) & 1;
    scratch.step.dial = 0;
    if lookup::make_leg(scratch, service, side, slot, target.generation, now_ns) {
        let spare = decide::dialled(scratch, target, service, words);
        lookup::release(service, side, spare);
    }
    Ok(())
}

/// Counts the verdict of a flow's packet, and does it.
#[inline(never)]
fn finish(skb: *mut __sk_buff, scratch: &mut Scratch) -> i32 {
    let step: &Step = &scratch.step;
    let verdict = step.verdict;
    count::number(u32::from(verdict));
    if matches!(
        verdict,
        7..=11 // the held ones
    ) {
        return carry::hold();
    }
    if step.hold_copy != 0 {
        carry::hold_copy(skb);
    }
    let client = scratch.client;
    let Some(service) = lookup::service(client.daddr, client.dport) else { return TC_ACT_SHOT };
    carry::carry(skb, scratch, service, false)
}

/// Run by the daemon: visits flows.
#[xdp]
pub fn mirror_sweep(_ctx: XdpContext) -> u32 {
    let _ = sweep::sweep();
    xdp_action::XDP_DROP
}

/// Run by the daemon for each queued flow, with a stand-in packet of 54 bytes.
#[classifier]
pub fn mirror_emit(ctx: TcContext) -> i32 {
    let _ = sweep::emit(ctx.as_ptr().cast());
    TC_ACT_SHOT
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
