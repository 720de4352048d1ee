//! Datagrams of a service, and of its servers. At TC alone.
//!
//! A client's question gets a port of ours towards each side that it is sent to; what a server sends to that port is the answer.
//! Nothing is under a lock: records are written whole before the question leaves, and two packets of one client with one
//! identifier at once are the same question twice.

mod lapse;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT};
use mirror_common::{
    abi::{
        Endpoint, Event, Service, Tuple, nat,
        six::{BESIDE, is_alias},
        udp::{Awaited, Exchange, ExchangeKey},
    },
    datagram::{self, Answer, Question, answers, choose, is_dns},
    flow::{LossReason, Step, Switch},
    protocol::Class,
    switch_word::Side,
    verdict::Verdict,
    weight::mix,
};

use crate::{
    atomic, carry, count,
    decide::{self, Words},
    lookup,
    maps::{AWAITED, EXCHANGES, Scratch},
    packet::{self, Skb},
    say, six,
};

pub use lapse::{forget, lapse};

const NOEXIST: u64 = 1;
/// Ports that are tried for a question: with nine of ten in use, one of two questions in three finds one.
const TRIES: u32 = 8;
/// Ports that there are to choose from.
const PORTS: u64 = 65_536 - nat::FIRST_PORT as u64;

/// No action of TC's: the packet is no datagram of ours, and was not touched.
pub const NOT_OURS: i32 = i32::MIN;
/// No action of TC's: the packet is to be sent to `scratch.out`.
const GOES: i32 = i32::MAX;

/// What becomes of a packet that isn't TCP's. Counts it, unless it is [`NOT_OURS`].
///
/// A global function to the verifier, as [`carry::mirror_send`] is: the way of TCP's segments costs what it did.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mirror_datagram(skb: *mut __sk_buff, scratch: *mut Scratch) -> i32 {
    let skb = Skb::of(skb);
    // SAFETY: the callers' own; the verifier wants to see that it may be null.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return TC_ACT_SHOT };
    let loaded = match skb.is_ipv6() {
        true => six::datagram(skb, scratch),
        // No host has an alias: inside they stand for IPv6 addresses.
        false => packet::load_datagram(skb, scratch) && !forged(scratch),
    };
    if !loaded {
        return NOT_OURS;
    }
    if scratch.header.is_fragment() {
        let ours = lookup::is_datagrams_fragment(&scratch.tuple);
        return if ours { dropped(scratch, Verdict::FragmentDropped) } else { NOT_OURS };
    }
    if let Some(awaited) = AWAITED.get_ptr_mut(&scratch.tuple) {
        // From here, not from there: the kernel bounds the stack of all functions that have called each other.
        let action = answer(skb, scratch, awaited);
        if action == NOT_OURS {
            return NOT_OURS;
        }
        end(scratch);
        return if action == GOES { send(skb, scratch, 1) } else { action };
    }
    match lookup::datagram_service(scratch.tuple.daddr, scratch.tuple.dport) {
        Some(service) => question(skb, scratch, service),
        None => NOT_OURS,
    }
}

/// Whether a datagram of IPv4 names an alias.
#[inline(always)]
fn forged(scratch: &Scratch) -> bool {
    is_alias(scratch.tuple.saddr) || is_alias(scratch.tuple.daddr)
}

/// Says and counts what becomes of the datagram at hand: the verdict of `scratch.step`.
#[inline(always)]
fn end(scratch: &mut Scratch) {
    say::datagram(scratch);
    count::number(scratch.step.verdict.into());
}

#[inline(always)]
fn dropped(scratch: &mut Scratch, verdict: Verdict) -> i32 {
    scratch.step.verdict = verdict as u8;
    end(scratch);
    TC_ACT_SHOT
}

/// A client's datagram. A write is counted from before the word is read until it has left: who finds none open behind a freeze
/// knows that what was to leave before it has left.
#[inline(always)]
fn question(skb: Skb, scratch: &mut Scratch, service: &Service) -> i32 {
    if !packet::message(skb, scratch) {
        return dropped(scratch, Verdict::Malformed);
    }
    let Some(mut words) = Words::of(service.app, scratch.now_ns) else { return NOT_OURS };
    let question = datagram::question(service, scratch.message);
    let key = &mut scratch.exchange_key;
    *key = ExchangeKey::new(scratch.tuple, [0; 4], question.id);
    if skb.is_ipv6() {
        key.client.saddr = BESIDE;
        key.six = scratch.header6.saddr;
    }
    let writes = question.class != Class::Read;
    if writes {
        words.begin_write();
    }
    let choice = ask(scratch, service, question, &mut words);
    end(scratch);
    let action = send_all(skb, scratch, service, choice);
    if writes {
        words.end_write();
    }
    action
}

/// Sends a question to each side that is to have it: to the one that is heard last, which may wait for its neighbour.
#[inline(always)]
fn send_all(skb: Skb, scratch: &mut Scratch, service: &Service, choice: u32) -> i32 {
    if choice & WAITS != 0 {
        return carry::hold();
    }
    if choice & NOBODY != 0 {
        return TC_ACT_SHOT;
    }
    let (heard, other) = (choice & 1, choice & 1 ^ 1);
    if choice & BOTH != 0 {
        address(scratch, service, other);
        count::asked(other, scratch.payload);
        send(skb, scratch, 0);
    }
    address(scratch, service, heard);
    count::asked(heard, scratch.payload);
    send(skb, scratch, 1)
}

/// Makes a question's exchange, and its verdict. Whom it goes to, as [`chosen`] says it.
#[inline(never)]
fn ask(scratch: &mut Scratch, service: &Service, question: Question, words: &mut Words) -> u32 {
    let choice = chosen(scratch, service, question, words);
    if choice & WAITS != 0 {
        scratch.step.verdict = Verdict::HeldFrozen as u8;
        return WAITS;
    }
    let (heard, both) = (choice & 1, choice & BOTH != 0);
    if !claim(scratch, service, heard) {
        scratch.step.verdict = Verdict::DatagramPortsFull as u8;
        return NOBODY;
    }
    let other = heard ^ 1;
    let mirrored = both && claim(scratch, service, other);
    if !mirrored {
        scratch.exchange.ports[other as usize & 1] = 0;
    }
    if both && !mirrored && question.class != Class::Read && words.out_of_sync(Side::from_bit(other)) {
        tell_out_of_sync(scratch, service, other);
    }
    if EXCHANGES.insert(&scratch.exchange_key, &scratch.exchange, 0).is_err() {
        scratch.step.verdict = Verdict::DatagramPortsFull as u8;
        return NOBODY;
    }
    scratch.step.verdict = match (both, mirrored) {
        (false, _) => Verdict::DatagramForwarded,
        (true, false) => Verdict::DatagramUnmirrored,
        (true, true) => Verdict::DatagramMirrored,
    } as u8;
    heard | if mirrored { BOTH } else { 0 }
}

/// [`chosen`]: the other side is asked, too.
const BOTH: u32 = 2;
/// [`chosen`]: the question must wait.
const WAITS: u32 = 4;
/// [`ask`]: nobody gets it.
const NOBODY: u32 = 8;

/// Begins `scratch.exchange`, with the ports of the last one under its key. The side that is heard, [`BOTH`] and [`WAITS`]: a
/// number, of which the verifier sees how large it is.
#[inline(never)]
fn chosen(scratch: &mut Scratch, service: &Service, question: Question, words: &mut Words) -> u32 {
    let word = words.word();
    let exchange = &mut scratch.exchange;
    *exchange = Exchange { asked_ns: scratch.now_ns, ..Exchange::default() };
    exchange.clock = words.writes().begun;
    exchange.flags = if question.class == Class::Read { 0 } else { Exchange::WRITES };
    // SAFETY: a record that another one may have taken the place of: then it is of another time, and as good as none.
    let last = unsafe { EXCHANGES.get(&scratch.exchange_key) };
    if let Some(last) = last {
        exchange.ports = last.ports;
    }
    let key = &scratch.exchange_key;
    let Some(silence) = lookup::silence(key.client.daddr, key.client.dport) else { return WAITS };
    // SAFETY: the daemon takes none away; each is a word that any writer may be the last to write.
    let silence = unsafe { &mut *silence };
    let Some(choice) = choose(word, service, key, question.class, last, silence, scratch.now_ns) else {
        return WAITS;
    };
    exchange.heard = choice.heard as u8;
    for side in Side::BOTH {
        let since = &mut silence.since_ns[side as usize];
        if *since == 0 && (choice.both || side as u32 == choice.heard as u32) {
            *since = scratch.now_ns;
        }
    }
    choice.heard as u32 | if choice.both { BOTH } else { 0 }
}

/// Where a side's copy goes, into `scratch.out`.
#[inline(always)]
fn address(scratch: &mut Scratch, service: &Service, side: u32) {
    let end = &service.endpoints[side as usize & 1];
    let port = scratch.exchange.ports[side as usize & 1];
    scratch.out = Tuple { saddr: end.nat, daddr: end.addr, sport: port.to_be(), dport: end.port };
}

/// Sends the datagram at hand to `scratch.out`, in the family of that. The next one may be made of it.
#[inline(always)]
fn send(skb: Skb, scratch: &mut Scratch, last: u32) -> i32 {
    // Before its way is looked for: IPv6's header is the longer one.
    if !packet::translate_datagram(skb, scratch, is_alias(scratch.out.daddr)) {
        count::verdict(Verdict::EmitFailed);
        return TC_ACT_SHOT;
    }
    send_translated(skb, scratch, last)
}

/// [`send`] of what is of that family.
#[inline(never)]
fn send_translated(skb: Skb, scratch: &mut Scratch, last: u32) -> i32 {
    carry::send_as(skb, scratch, last != 0, |scratch, macs| packet::rewrite_datagram(skb, scratch, macs))
}

/// A port towards a side for the question at hand, into its exchange: the one that stands there, if that still waits for its
/// answer; else one that nobody outside can guess. False: none was free.
#[inline(never)]
fn claim(scratch: &mut Scratch, service: &Service, side: u32) -> bool {
    let side = side as usize & 1;
    let end = &service.endpoints[side];
    let (key, now_ns) = (scratch.exchange_key, scratch.now_ns);
    let writes = scratch.exchange.flags & Exchange::WRITES;
    scratch.awaited = Awaited { key, last_ns: now_ns, side: side as u8, writes, ..Awaited::default() };
    let last = scratch.exchange.ports[side];
    scratch.out = answer_tuple(end, last);
    if last != 0
        && let Some(awaited) = AWAITED.get_ptr_mut(&scratch.out)
    {
        // SAFETY: a claimed entry names its exchange for as long as it is there; the clock is one word.
        unsafe {
            if (*awaited).key == key {
                (*awaited).last_ns = now_ns;
                (*awaited).writes |= writes;
                return true;
            }
        }
    }
    let secret = lookup::secret();
    let client = u64::from(key.who()) << 32 | u64::from(key.client.sport) << 16 | u64::from(key.id);
    let mut drawn = mix(secret ^ now_ns ^ client.rotate_left(side as u32));
    for _ in 0..TRIES {
        drawn = mix(drawn.wrapping_add(secret | 1));
        let port = nat::FIRST_PORT + (((drawn >> 32) * PORTS) >> 32) as u16;
        scratch.out.dport = port.to_be();
        if AWAITED.insert(&scratch.out, &scratch.awaited, NOEXIST).is_ok() {
            scratch.exchange.ports[side] = port;
            return true;
        }
    }
    false
}

/// Addresses and ports of a server's answer to a question that left from a port.
#[inline(always)]
fn answer_tuple(end: &Endpoint, port: u16) -> Tuple {
    Tuple { saddr: end.addr, daddr: end.nat, sport: end.port, dport: port.to_be() }
}

/// A server's datagram to a port that a question has left from, and its verdict. [`GOES`]: it is its client's.
#[inline(never)]
fn answer(skb: Skb, scratch: &mut Scratch, awaited: *mut Awaited) -> i32 {
    scratch.step.verdict = Verdict::Malformed as u8;
    if !packet::message(skb, scratch) {
        return TC_ACT_SHOT;
    }
    scratch.step.verdict = Verdict::AnswerStale as u8;
    // SAFETY: as in `claim`.
    let side = unsafe {
        scratch.exchange_key = (*awaited).key;
        Side::from_bit((*awaited).side.into())
    };
    let (client, id) = (scratch.exchange_key.client, scratch.exchange_key.id);
    let Some(service) = lookup::datagram_service(client.daddr, client.dport) else { return NOT_OURS };
    let Some(mut words) = Words::of(service.app, scratch.now_ns) else { return NOT_OURS };
    let Some(exchange) = EXCHANGES.get_ptr_mut(&scratch.exchange_key) else { return TC_ACT_SHOT };
    // SAFETY: a record that another one may have taken the place of: then that one is measured wrongly, or its client asks again.
    let exchange = unsafe { &mut *exchange };
    let port = u16::from_be(scratch.tuple.dport);
    if exchange.ports[side as usize & 1] != port || !answers(service, id, scratch.message) {
        return TC_ACT_SHOT;
    }
    let heard = exchange.heard as u32 == side as u32 && words.word().member(side);
    if exchange.answered(side) == 0 {
        let us = scratch.now_ns.wrapping_sub(exchange.asked_ns) / 1_000;
        let answer = Answer {
            side: side as u32,
            us: if us > u64::from(u32::MAX) { u32::MAX } else { us as u32 },
            code: datagram::code(service, scratch.message),
            length: scratch.payload as u16,
            sum: Answer::UNSUMMED,
            clock: words.writes().begun,
        };
        measure(skb, scratch, service.app, exchange, answer);
        if scratch.step.measured.turn.outcome != 0 {
            scratch.client = client;
            count::turn(scratch, service.app, 0, 0);
        }
    }
    if let Some(silence) = lookup::silence(client.daddr, client.dport) {
        // SAFETY: as in `chosen`.
        let since = unsafe { &mut (*silence).since_ns[side as usize & 1] };
        if *since != 0 {
            *since = 0;
        }
    }
    count::answered(side as u32, scratch.payload);
    if is_dns(service) {
        // There is one answer to a question: its port is free.
        let _ = AWAITED.remove(&scratch.tuple);
        if !exchange.owes(side.other()) {
            let _ = EXCHANGES.remove(&scratch.exchange_key);
        }
    } else {
        // SAFETY: as in `claim`.
        unsafe { (*awaited).last_ns = scratch.now_ns };
    }
    if !heard {
        scratch.step.verdict = Verdict::AnswerAbsorbed as u8;
        return TC_ACT_SHOT;
    }
    scratch.step.verdict = Verdict::AnswerShown as u8;
    scratch.out =
        Tuple { saddr: client.daddr, daddr: client.saddr, sport: client.dport, dport: client.sport };
    GOES
}

/// An ICMP error about a datagram that was sent to a server; `scratch.tuple`: the addresses of an answer to it. The authority's
/// is the client's. Of the other side's nobody hears: who asks again is answered by the authority.
#[inline(never)]
pub fn error(skb: Skb, scratch: &mut Scratch) -> i32 {
    let Some(awaited) = AWAITED.get_ptr(&scratch.tuple) else { return NOT_OURS };
    // SAFETY: as in `claim`.
    let side = unsafe {
        scratch.exchange_key = (*awaited).key;
        Side::from_bit((*awaited).side.into())
    };
    let client = scratch.exchange_key.client;
    let Some(service) = lookup::datagram_service(client.daddr, client.dport) else { return NOT_OURS };
    let Some(mut words) = Words::of(service.app, scratch.now_ns) else { return NOT_OURS };
    // SAFETY: as in `answer`.
    let Some(exchange) = (unsafe { EXCHANGES.get(&scratch.exchange_key) }) else { return NOT_OURS };
    let named = exchange.ports[side as usize & 1] == u16::from_be(scratch.tuple.dport);
    let heard = exchange.heard as u32 == side as u32;
    if !named || !heard || words.word().authority() as u32 != side as u32 {
        count::verdict(Verdict::IcmpAbsorbed);
        return TC_ACT_SHOT;
    }
    count::verdict(Verdict::IcmpTranslated);
    scratch.out =
        Tuple { saddr: client.daddr, daddr: client.saddr, sport: client.dport, dport: client.sport };
    scratch.emit.seq = scratch.quote.seq;
    carry::error_as(skb, scratch)
}

/// A side's first answer to a question.
#[inline(never)]
fn measure(skb: Skb, scratch: &mut Scratch, app: u32, exchange: &mut Exchange, mut answer: Answer) {
    decide::clear(&mut scratch.step);
    let side = Side::from_bit(answer.side);
    if exchange.asked(side.other())
        && let Some(sum) = packet::pieces(skb, scratch, packet::payload_at(skb), answer.length.into())
    {
        answer.sum = sum.into();
    }
    datagram::measure(exchange, &answer, &mut scratch.step.measured);
    // SAFETY: a record's word that is changed by atomics, but by who asks again.
    unsafe { atomic::add(&raw mut exchange.answers, Exchange::answer_of(side)) };
    count::step(&scratch.step, app, 0, 0);
}

/// A side is out of sync by now, for a datagram that it won't answer.
#[inline(never)]
fn tell_out_of_sync(scratch: &mut Scratch, service: &Service, side: u32) {
    decide::clear(&mut scratch.step);
    scratch.step.events = Step::OUT_OF_SYNC;
    scratch.step.side = side as u8;
    scratch.step.server = Event::server(service.number(), 0);
    scratch.step.reason = LossReason::Unanswered as u8;
    count::step(&scratch.step, service.app, 0, 0);
}
