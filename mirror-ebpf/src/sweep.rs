//! Flows without packets: clocks, expiry, and packets that nothing brings.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_loop};
use mirror_common::{
    abi::{BLOCK, Entry, SWEEP_SLOTS, SweepState, backend},
    flow::{self, Due},
    verdict::Verdict,
};

use crate::{
    atomic, carry, count,
    decide::{self, Target, Words},
    lookup,
    maps::{BUSY, FLOWS, SCRATCH, SWEEP, Scratch, TODO},
    packet::Skb,
    six,
};

struct Context {
    state: *mut SweepState,
    scratch: *mut Scratch,
    now_ns: u64,
    /// First slot of the block that is visited.
    block: u32,
}

/// As the daemon asks.
#[inline(always)]
fn how(state: &SweepState) -> u32 {
    state.how & !flow::sweep::ACT
}

/// Visits a block, if a slot of it is in use.
unsafe extern "C" fn visit_block(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` hands on what `sweep` gave it, which outlives the loop.
    let (first, count) = unsafe {
        let state = (*context.cast::<Context>()).state;
        ((*state).first, (*state).count)
    };
    let ahead = index.wrapping_mul(BLOCK);
    if ahead >= count {
        return 1;
    }
    let block = first.wrapping_add(ahead);
    let Some(busy) = BUSY.get_ptr_mut(block / BLOCK) else { return 0 };
    // SAFETY: a hint: a slot that is taken meanwhile is visited the next time.
    if unsafe { atomic::load(busy) } == 0 {
        return 0;
    }
    // SAFETY: as above.
    unsafe {
        (*context.cast::<Context>()).block = block;
        bpf_loop(BLOCK, visit as *mut c_void, context, 0);
    }
    0
}

unsafe extern "C" fn visit(index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` hands on what `sweep` gave it, which outlives the loop.
    let (state, scratch, now_ns, block) = unsafe {
        let context = &*context.cast::<Context>();
        (&mut *context.state, &mut *context.scratch, context.now_ns, context.block)
    };
    let slot = block.wrapping_add(index);
    let Some(flow) = FLOWS.get_ptr_mut(slot) else { return 1 };
    // SAFETY: hints: they are looked at again under the lock.
    let (generation, used, client) = unsafe { ((*flow).generation, (*flow).state, (*flow).tuple) };
    if used == 0 {
        return 0;
    }
    let Some(service) = lookup::service(client.daddr, client.dport) else { return 0 };
    let Some(words) = Words::of(service.app, now_ns) else { return 0 };
    let target = Target { flow, slot, generation, from: 2 };
    let (how, unanswered_us) = (how(state), state.unanswered_us);
    let swept = decide::sweep(scratch, target, how, service, words, now_ns, unanswered_us);
    state.live += swept.live as u32;
    state.two_legs += (swept.open[0] && swept.open[1]) as u32;
    state.open_writes += swept.counted as u32;
    state.unanswered += swept.unanswered as u32;
    let legs = &mut state.legs[service.number() as usize];
    for (legs, (port, open)) in legs.iter_mut().zip(swept.ports.into_iter().zip(swept.open)) {
        legs[backend::number(port) as usize] += open as u32;
    }
    match swept.due {
        Due::Nothing => {}
        Due::Emit => {
            if TODO.push(&Entry::new(slot, generation, 2).0, 0).is_ok() {
                state.queued += 1;
            }
        }
        Due::Free => {
            state.freed += 1;
            count::step(&scratch.step, service.app, slot, generation);
            if scratch.step.verdict != Verdict::NoneDue as u8 {
                count::number(u32::from(scratch.step.verdict));
            }
            let client = scratch.client;
            lookup::unmake(&client, service, swept.ports, slot);
            six::release(client.saddr);
        }
    }
    0
}

/// Visits the slots that [`SWEEP`] names.
#[inline(always)]
pub fn sweep() -> Option<()> {
    let state = SWEEP.get_ptr_mut(0)?;
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the daemon runs one sweep at a time.
    unsafe {
        (*state).live = 0;
        (*state).two_legs = 0;
        (*state).freed = 0;
        (*state).open_writes = 0;
        (*state).queued = 0;
        (*state).unanswered = 0;
        let mut context = Context { state, scratch, now_ns: bpf_ktime_get_ns(), block: 0 };
        bpf_loop(SWEEP_SLOTS / BLOCK, visit_block as *mut c_void, (&raw mut context).cast(), 0);
    }
    Some(())
}

/// Makes the packets that one queued flow is due, out of a stand-in packet.
#[inline(always)]
pub fn emit(skb: Skb) -> Option<()> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: per-CPU, bottom halves are off.
    let scratch = unsafe { &mut *scratch };
    let entry = Entry(TODO.pop().ok()??);
    let flow = FLOWS.get_ptr_mut(entry.slot())?;
    // SAFETY: a hint.
    let client = unsafe { (*flow).tuple };
    let service = lookup::service(client.daddr, client.dport)?;
    // SAFETY: a helper without preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    scratch.now_ns = now_ns;
    scratch.loaded = 0;
    let words = Words::of(service.app, now_ns)?;
    let target = Target { flow, slot: entry.slot(), generation: entry.generation(), from: 2 };
    // SAFETY: the daemon writes it before it has packets made.
    let how = flow::sweep::ACT | how(unsafe { &*SWEEP.get_ptr_mut(0)? });
    let swept = decide::sweep(scratch, target, how, service, words, now_ns, u32::MAX);
    match swept.due {
        Due::Emit => {
            count::step(&scratch.step, service.app, entry.slot(), entry.generation());
            count::number(u32::from(scratch.step.verdict));
            carry::carry(skb, scratch, service, true);
        }
        Due::Free => {
            let client = scratch.client;
            lookup::unmake(&client, service, swept.ports, entry.slot());
            six::release(client.saddr);
        }
        Due::Nothing => count::verdict(Verdict::NoneDue),
    }
    Some(())
}
