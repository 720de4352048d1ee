//! The kernel side of the gateway: entry points, and the only place where a verdict becomes an action.
#![no_std]
#![no_main]
#![feature(core_intrinsics, asm_experimental_arch)]
#![allow(internal_features, reason = "64-bit atomics: `core::sync::atomic` has none on this target")]

mod atomic;
mod carry;
mod classify;
mod count;
mod datagram;
mod decide;
mod handover;
mod icmp;
mod lookup;
mod maps;
mod packet;
mod route;
mod say;
mod six;
mod sweep;
mod time;

use core::hint::cold_path;

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use mirror_common::{
    abi::{Service, Tuple},
    flow::tcp,
    switch_word::Side,
    verdict::{Action, Verdict},
};

use crate::{
    decide::{Target, Words},
    maps::{SCRATCH, Scratch},
    packet::{Frame, Packet, Skb},
};

/// TC ingress: of every device that clients or servers are behind, and of the TAP.
#[classifier]
pub fn mirror_tc(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return TC_ACT_OK };
    // SAFETY: per-CPU, bottom halves are off.
    let scratch = unsafe { &mut *scratch };
    scratch.loaded = 0;
    scratch.aliased = 0;
    scratch.fresh = 0;
    say::begin(scratch);
    let judged = match handover::take(skb, scratch) {
        Ok(true) => {
            time::coarse(scratch);
            lookup::of_client(scratch).ok_or(Verdict::HandoverFailed)
        }
        Ok(false) => judge(skb, scratch),
        Err(verdict) => Err(verdict),
    };
    match judged {
        Ok(service) => {
            say::verdict(say::Hook::Tc, scratch, scratch.step.verdict);
            finish(skb, scratch, service)
        }
        Err(verdict) => flowless(skb, scratch, verdict),
    }
}

/// What becomes of a packet without a flow.
#[inline(always)]
fn flowless(skb: Skb, scratch: &mut Scratch, verdict: Verdict) -> i32 {
    // A datagram may be shorter than the headers of TCP.
    if verdict == Verdict::NotTcp || verdict == Verdict::Runt {
        time::exact(scratch);
        let action = datagram::mirror_datagram(skb.context().cast(), scratch);
        if action != datagram::NOT_OURS {
            return action;
        }
    }
    if verdict == Verdict::NotTcp {
        return icmp::other(skb, scratch);
    }
    say::verdict(say::Hook::Tc, scratch, verdict as u8);
    count::verdict(verdict);
    let action = match verdict.action() {
        Action::Pass if scratch.aliased == 0 => TC_ACT_OK,
        Action::Emit => carry::reset_back(skb, scratch),
        Action::Pass | Action::Drop | Action::Hold => TC_ACT_SHOT,
    };
    six::release(scratch.fresh);
    action
}

/// XDP: a flow's segments, whose packets it sends if it can. Everything else is TC's, untouched: connections that begin, and
/// what isn't ours.
#[xdp]
pub fn mirror_xdp(ctx: XdpContext) -> u32 {
    let frame = Frame::new(&ctx);
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return xdp_action::XDP_PASS };
    // SAFETY: per-CPU, bottom halves are off.
    let scratch = unsafe { &mut *scratch };
    scratch.aliased = 0;
    let Some(service) = decided(frame, scratch) else {
        return match !frame.has_metadata() || frame.set_metadata(0) {
            true => xdp_action::XDP_PASS,
            false => xdp_action::XDP_DROP,
        };
    };
    let action = match Verdict::from_number(scratch.step.verdict).map(Verdict::action) {
        Some(Action::Emit | Action::Drop) => carry::express(frame, scratch, service),
        Some(Action::Hold | Action::Pass) | None => carry::NOT_HERE,
    };
    if action != carry::NOT_HERE {
        say::verdict(say::Hook::Xdp, scratch, scratch.step.verdict);
        count::number(u32::from(scratch.step.verdict));
        return action;
    }
    if handover::give(frame, scratch) {
        return xdp_action::XDP_PASS;
    }
    count::verdict(Verdict::HandoverFailed);
    xdp_action::XDP_DROP
}

/// The service of a frame's flow; all is decided then. `None`: no state was changed, and the frame is TC's.
#[inline(always)]
fn decided(frame: Frame, scratch: &mut Scratch) -> Option<&'static Service> {
    if !frame.has_metadata() || packet::parse(frame, scratch).is_err() || scratch.seg.is(tcp::SYN) {
        return None;
    }
    let target = lookup::target(&scratch.tuple)?;
    time::of_segment(scratch);
    packet::blocks(frame, scratch).ok()?;
    let service = decide(frame, scratch, target)?;
    if scratch.step.dial != 0 {
        cold_path();
        dial_apart(scratch, target, service);
    }
    tell(scratch, service.app, target);
    Some(service)
}

/// Finds the flow and decides. `scratch.step` holds what leaves; an error is a verdict of a packet without a flow.
#[inline(always)]
fn judge(skb: Skb, scratch: &mut Scratch) -> Result<&'static Service, Verdict> {
    if skb.is_ipv6() {
        six::take(skb, scratch)?;
    }
    packet::parse(skb, scratch).map_err(|verdict| {
        // The kernel would put it together, and reset a connection that it doesn't know.
        let ours = verdict == Verdict::Fragment && lookup::is_service(scratch.tuple.daddr);
        if ours { Verdict::FragmentDropped } else { verdict }
    })?;
    let Some(target) = lookup::target(&scratch.tuple) else {
        stranger(scratch)?;
        return lookup::of_client(scratch).ok_or(Verdict::NoService);
    };
    time::of_segment(scratch);
    packet::blocks(skb, scratch)?;
    let service = decide(skb, scratch, target).ok_or(Verdict::NoService)?;
    if scratch.step.dial != 0 {
        cold_path();
        again(scratch, target, service)?;
    }
    tell(scratch, service.app, target);
    Ok(service)
}

/// Reads what a flow's segment says, and decides. `None`: the flow's service is no more, and nothing was changed.
#[inline(always)]
fn decide<P: Packet>(packet: P, scratch: &mut Scratch, target: Target) -> Option<&'static Service> {
    // SAFETY: a hint: the client's addresses are compared under the lock.
    let Tuple { daddr: vip, dport: port, .. } = unsafe { (*target.flow).tuple };
    let service = lookup::service(vip, port)?;
    let words = Words::of(service.app, scratch.now_ns)?;
    if scratch.seg.payload > 0 && scratch.seg.flags & (tcp::SYN | tcp::RST) == 0 {
        classify::classify(packet, scratch, target.flow, target.from, service);
    }
    decide::decide::<P>(scratch, target, service, words);
    Some(service)
}

/// Events, latencies and bytes of a step.
#[inline(always)]
fn tell(scratch: &Scratch, app: u32, target: Target) {
    count::carried(scratch, target.from);
    if scratch.step.events != 0 || scratch.step.measured.any() {
        tell_apart(scratch, app, target);
    }
}

/// [`tell`] with a stack of its own.
#[inline(never)]
fn tell_apart(scratch: &Scratch, app: u32, target: Target) {
    count::step(&scratch.step, app, target.slot, target.generation);
    if scratch.step.measured.turn.outcome != 0 {
        count::turn(scratch, app, target.slot, target.generation);
    }
}

/// A packet without an entry: a new connection, a dead leg's, or none of ours.
#[inline(never)]
fn stranger(scratch: &mut Scratch) -> Result<(), Verdict> {
    let tuple = scratch.tuple;
    let rst = scratch.seg.is(tcp::RST);
    let Some(service) = lookup::service(tuple.daddr, tuple.dport) else {
        return Err(match (lookup::is_peer(&tuple), rst) {
            (false, _) => Verdict::NoService,
            (true, false) => Verdict::ResetUnknownLeg,
            (true, true) => Verdict::StaleSlot,
        });
    };
    time::of_segment(scratch);
    if scratch.seg.flags & (tcp::SYN | tcp::ACK | tcp::RST) != tcp::SYN {
        return Err(match (older(service, scratch.now_ns), rst) {
            (true, _) => Verdict::Older,
            (false, true) => Verdict::StaleSlot,
            (false, false) => Verdict::NoFlow,
        });
    }
    create(scratch, service)
}

/// Whether a segment without a connection may be of one that is older than the datapath, and is the kernel's to forward:
/// where its address is the primary's own, as long as nobody but the primary is to see what is written.
#[inline(always)]
fn older(service: &Service, now_ns: u64) -> bool {
    use mirror_common::flow::Switch;
    let alone = |mut words: Words| {
        let word = words.word();
        word.authority() == Side::Primary && !word.member(Side::Shadow)
    };
    service.flags & Service::TRANSPARENT != 0 && Words::of(service.app, now_ns).is_some_and(alone)
}

/// A new connection.
#[inline(always)]
fn create(scratch: &mut Scratch, service: &'static Service) -> Result<(), Verdict> {
    use mirror_common::flow::Switch;
    let mut words = Words::of(service.app, scratch.now_ns).ok_or(Verdict::NoService)?;
    let word = words.word();
    let me: Side = word.authority();
    let second = service.flags & Service::SHADOWED != 0 && word.member(me.other());
    let target = lookup::make(scratch, service, second, me)?;
    decide::begin(scratch, target.flow, service, words);
    Ok(())
}

/// What needs more than the flow's own state: a leg that is dialled, or an old connection that makes room.
#[inline(never)]
fn again(scratch: &mut Scratch, target: Target, service: &'static Service) -> Result<(), Verdict> {
    if scratch.step.dial != 0xff {
        dial(scratch, target, service);
        return Ok(());
    }
    let words = Words::of(service.app, scratch.now_ns).ok_or(Verdict::NoService)?;
    let Some(ports) = decide::restart(target, words) else { return Err(Verdict::StaleSlot) };
    let client = scratch.client;
    lookup::unmake(&client, service, ports, target.slot);
    create(scratch, service).inspect_err(|_| six::release(client.saddr))
}

/// [`dial`] with a stack of its own.
#[inline(never)]
fn dial_apart(scratch: &mut Scratch, target: Target, service: &Service) {
    dial(scratch, target, service);
}

/// Gets the leg that a step asks for a port, and its SYN into the step.
#[inline(always)]
fn dial(scratch: &mut Scratch, target: Target, service: &Service) {
    // First numbers rise with it.
    time::exact(scratch);
    let side = u32::from(scratch.step.dial).wrapping_sub(1) & 1;
    scratch.step.dial = 0;
    let Some(words) = Words::of(service.app, scratch.now_ns) else { return };
    if lookup::make_leg(scratch, service, side, target) {
        let spare = decide::dialled(scratch, target, service, words);
        let client = scratch.client;
        lookup::release(service, side, &client, spare);
    }
}

/// Counts the verdict of a flow's packet, and does it.
#[inline(always)]
fn finish(skb: Skb, scratch: &mut Scratch, service: &Service) -> i32 {
    count::number(u32::from(scratch.step.verdict));
    match Verdict::from_number(scratch.step.verdict).map(Verdict::action) {
        Some(Action::Hold) => {
            cold_path();
            carry::hold()
        }
        Some(Action::Emit | Action::Drop) => {
            if scratch.step.hold_copy != 0 {
                cold_path();
                carry::hold_copy(skb);
            }
            carry::carry(skb, scratch, service, false)
        }
        Some(Action::Pass) => TC_ACT_OK,
        None => TC_ACT_SHOT,
    }
}

/// Run by the daemon: visits flows.
#[xdp]
pub fn mirror_sweep(_ctx: XdpContext) -> u32 {
    let _ = sweep::sweep();
    xdp_action::XDP_DROP
}

/// Run by the daemon: visits the answers that are awaited.
#[xdp]
pub fn mirror_lapse(_ctx: XdpContext) -> u32 {
    let _ = datagram::lapse();
    xdp_action::XDP_DROP
}

/// Run by the daemon: visits the questions that may have nobody who waits for an answer.
#[xdp]
pub fn mirror_forget(_ctx: XdpContext) -> u32 {
    let _ = datagram::forget();
    xdp_action::XDP_DROP
}

/// Run by the daemon for each queued flow, with a stand-in packet of 54 bytes.
#[classifier]
pub fn mirror_emit(ctx: TcContext) -> i32 {
    let _ = sweep::emit(Skb::new(&ctx));
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
