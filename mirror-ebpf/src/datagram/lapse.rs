//! Answers that don't come.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_for_each_map_elem};
use mirror_common::{
    abi::{
        Event, Service, Tuple,
        udp::{Awaited, Exchange, ExchangeKey},
    },
    datagram::{self, TIMEOUT_NS, due},
    flow::{LossReason, Measured, Step, Switch},
    protocol::http1::status::Statuses,
    switch_word::Side,
};

use super::answer_tuple;
use crate::{
    count,
    decide::{self, Words},
    lookup,
    maps::{AWAITED, EXCHANGES, SCRATCH, Scratch},
};

/// As what a question without an answer is counted: as a gateway says it in HTTP (RFC 9110, 15.6.5).
const NO_ANSWER: u16 = 504;

struct Context {
    scratch: *mut Scratch,
    now_ns: u64,
}

/// Looks at every answer that is awaited.
#[inline(always)]
pub fn lapse() -> Option<()> {
    walk((&raw const AWAITED).cast_mut().cast(), visit as *mut c_void)
}

/// Calls back for each element of a map, with a [`Context`].
#[inline(always)]
fn walk(map: *mut c_void, callback: *mut c_void) -> Option<()> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: a helper without preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let mut context = Context { scratch, now_ns };
    // SAFETY: the callers' callbacks and this context outlive the call.
    unsafe { bpf_for_each_map_elem(map, callback, (&raw mut context).cast(), 0) };
    Some(())
}

unsafe extern "C" fn visit(
    _map: *mut c_void,
    key: *const Tuple,
    awaited: *const Awaited,
    context: *mut c_void,
) -> i64 {
    // SAFETY: the kernel hands on what `walk` gave it, which outlives the loop; key and value stay while the callback runs.
    let (scratch, now_ns, tuple, awaited) = unsafe {
        let context = &*context.cast::<Context>();
        (&mut *context.scratch, context.now_ns, *key, *awaited)
    };
    scratch.tuple = tuple;
    scratch.exchange_key = awaited.key;
    let client = awaited.key.client;
    let Some(service) = lookup::datagram_service(client.daddr, client.dport) else { return 0 };
    let Some(mut words) = Words::of(service.app, now_ns) else { return 0 };
    let side = Side::from_bit(awaited.side.into());
    // SAFETY: a record that another one may take the place of: then it is of another time, and the next look is right.
    let exchange = unsafe { EXCHANGES.get(&scratch.exchange_key) };
    let named = exchange.filter(|exchange| exchange.ports[side as usize & 1] == u16::from_be(tuple.dport));
    let authority = words.word().authority();
    let all = datagram::lapse(&awaited, named, authority, service, now_ns);
    if all == 0 {
        return 0;
    }
    let step = &mut scratch.step;
    decide::clear(step);
    if all & due::UNANSWERED != 0 {
        let row = Measured::shown(side as u32, awaited.writes.into()) as u8;
        step.measured.ended = row + 1;
        step.measured.us = (TIMEOUT_NS / 1_000) as u32;
        step.measured.statuses = Statuses::one(NO_ANSWER);
        step.measured.statuses_row = row;
    }
    step.side = side as u8;
    step.server = Event::server(service.number(), 0);
    step.reason = LossReason::Unanswered as u8 | LossReason::FAILED;
    if all & due::SILENT != 0 {
        step.events |= Step::LEG_LOST;
    }
    if all & due::OUT_OF_SYNC != 0 && words.out_of_sync(side) {
        step.events |= Step::OUT_OF_SYNC;
    }
    count::step(step, service.app, 0, 0);
    if all & due::FREE != 0 {
        let _ = AWAITED.remove(&scratch.tuple);
        if let Some(exchange) = named
            && !is_awaited(service, &scratch.exchange_key, exchange)
        {
            let _ = EXCHANGES.remove(&scratch.exchange_key);
        }
    }
    0
}

/// Whether an answer to an exchange is awaited.
#[inline(always)]
fn is_awaited(service: &Service, key: &ExchangeKey, exchange: &Exchange) -> bool {
    let by = |side: Side| {
        let tuple = answer_tuple(&service.endpoints[side as usize & 1], exchange.ports[side as usize & 1]);
        // SAFETY: a claimed entry names its exchange for as long as it is there.
        exchange.asked(side) && unsafe { AWAITED.get(&tuple) }.is_some_and(|awaited| awaited.key == *key)
    };
    by(Side::Primary) || by(Side::Shadow)
}

/// Removes exchanges that nobody awaits an answer to. Whoever takes the last answer, or gives it up, does that; but a question
/// that is asked again at that very moment on another CPU may come out with a port that is free already.
#[inline(always)]
pub fn forget() -> Option<()> {
    walk((&raw const EXCHANGES).cast_mut().cast(), look as *mut c_void)
}

unsafe extern "C" fn look(
    _map: *mut c_void,
    key: *const ExchangeKey,
    exchange: *const Exchange,
    context: *mut c_void,
) -> i64 {
    // SAFETY: the kernel hands on what `walk` gave it, which outlives the loop; key and value stay while the callback runs.
    let (scratch, now_ns, exchange) = unsafe {
        let context = &*context.cast::<Context>();
        (&mut *context.scratch, context.now_ns, *exchange)
    };
    // SAFETY: as above.
    scratch.exchange_key = unsafe { *key };
    let key = &scratch.exchange_key;
    // Another CPU's clock may be ahead.
    if (now_ns.wrapping_sub(exchange.asked_ns) as i64) < TIMEOUT_NS as i64 {
        return 0;
    }
    let awaited = lookup::datagram_service(key.client.daddr, key.client.dport)
        .is_some_and(|service| is_awaited(service, key, &exchange));
    if !awaited {
        let _ = EXCHANGES.remove(key);
    }
    0
}
