//! A service of datagrams (UDP, RFC 768): what a question may do, who answers it, what its answers tell, and what becomes of one
//! that isn't answered.
//!
//! There is no connection, and no acknowledgement: what is lost the client asks again. So nothing is kept but who was asked, and
//! whose answer the client is to get.

use crate::abi::Service;
use crate::abi::udp::{Awaited, Exchange, ExchangeKey, Silence};
use crate::flow::{Compared, Measured, outcome, pair};
use crate::protocol::Class;
use crate::protocol::http1::status::{self, Statuses};
use crate::switch_word::{Side, SwitchWord};
use crate::{checksum, hist, weight};

/// A question is unanswered after so long, in nanoseconds: what DNS clients wait before they ask again (resolv.conf(5)).
pub const TIMEOUT_NS: u64 = 5_000_000_000;

/// How long answers of a service without identifiers find their client behind the last datagram, in nanoseconds: as long as a
/// NAT must keep a way open (RFC 4787, 4.3, REQ-5).
pub const IDLE_NS: u64 = 120_000_000_000;

/// Bytes of a DNS message's header.
pub const DNS_HEADER: u32 = 12;

/// DNS: it is a response (RFC 1035, 4.1.1).
const QR: u16 = 0x8000;
/// DNS: what is asked for; 0 is QUERY.
const OPCODE: u16 = 0x7800;
/// DNS: the response code.
const RCODE: u16 = 0x000f;
/// Response code: the server failed (RFC 1035, 4.1.1).
pub const SERVFAIL: u8 = 2;

/// The status by which an answer is counted, as HTTP's are: a server's failure is of the class 5, its refusal (a question that it
/// can't read, or won't answer) of the class 4.
#[inline(always)]
const fn status_of(code: u8) -> u16 {
    match code {
        SERVFAIL => 500,
        // NOERROR; NXDOMAIN: that there is no such name is an answer.
        0 | 3 => 200,
        _ => 400,
    }
}

/// What a DNS message's header begins with, in host order: 4 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Message {
    /// Its identifier.
    pub id: u16,
    /// Its flags and codes.
    pub flags: u16,
}

impl Message {
    /// What is too short for a header. As a question no query, as an answer one to such a question.
    pub const NONE: Message = Message { id: 0, flags: 0xffff };
}

/// A client's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// [`Class::Read`] or [`Class::Write`].
    pub class: Class,
    /// [`ExchangeKey::id`].
    pub id: u16,
}

/// Whether a service's datagrams are DNS messages: identifiers say which answer is whose.
#[inline(always)]
pub const fn is_dns(service: &Service) -> bool {
    service.flags & Service::DNS != 0
}

/// What a client's datagram asks for. Of DNS a standard query alone is a read; an update (RFC 2136), a notification (RFC 1996),
/// what has another opcode, and what is no whole header may change something.
#[inline(always)]
pub const fn question(service: &Service, message: Message) -> Question {
    let (id, reads) = match is_dns(service) {
        true => (message.id, message.flags & (QR | OPCODE) == 0),
        false => (0, service.flags & Service::WRITES == 0),
    };
    Question { class: if reads { Class::Read } else { Class::Write }, id }
}

/// Whether a server's datagram may be the answer to the question with an identifier.
#[inline(always)]
pub const fn answers(service: &Service, id: u16, message: Message) -> bool {
    !is_dns(service) || message.id == id && message.flags & QR != 0
}

/// The response code of an answer.
#[inline(always)]
pub const fn code(service: &Service, message: Message) -> u8 {
    if is_dns(service) { (message.flags & RCODE) as u8 } else { 0 }
}

/// Who is asked, and who is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The side whose answers the client gets.
    pub heard: Side,
    /// Whether the other side is asked, too.
    pub both: bool,
}

/// Whether the side that is heard still owes the answer.
#[inline(always)]
pub const fn is_open(exchange: &Exchange, now_ns: u64) -> bool {
    exchange.answered(Side::from_bit(exchange.heard as u32)) == 0
        && now_ns.wrapping_sub(exchange.asked_ns) < TIMEOUT_NS
}

/// The service's stall budget, in nanoseconds.
#[inline(always)]
const fn stall_ns(service: &Service) -> u64 {
    service.stall_ms as u64 * 1_000_000
}

/// Whether a side has answered nothing for longer than the stall budget. Where nothing need be answered, none has.
#[inline(always)]
pub const fn is_silent(silence: &Silence, side: Side, service: &Service, now_ns: u64) -> bool {
    let since = silence.since_ns[side as usize & 1];
    // Another CPU's clock may be ahead.
    is_dns(service) && since != 0 && now_ns.wrapping_sub(since) as i64 > stall_ns(service) as i64
}

/// Who answers a question. `last`: the same client's exchange with the same identifier, where it is kept. `None`: a write, and
/// writes are frozen.
///
/// Every member is asked, whatever the question. A write is answered by the authority, a read by the side that the weight says.
/// A DNS client that asks again before it was answered is answered by the authority, and so is everybody while the other side is
/// silent: it may be dead. It is asked all the same, and heard again once it answers. A client without identifiers is answered by
/// the same side as long as that one owes it something: nobody knows which question an answer is to.
#[inline(always)]
pub fn choose(
    word: SwitchWord,
    service: &Service,
    key: &ExchangeKey,
    class: Class,
    last: Option<&Exchange>,
    silence: &Silence,
    now_ns: u64,
) -> Option<Choice> {
    let me = word.authority();
    let other = me.other();
    let both = word.member(other) && service.endpoints[other as usize & 1].addr != 0;
    let writes = class as u8 != Class::Read as u8;
    if writes && word.frozen() {
        return None;
    }
    if writes || !both || is_silent(silence, other, service, now_ns) {
        return Some(Choice { heard: me, both });
    }
    if let Some(last) = last
        && is_open(last, now_ns)
    {
        let heard = if is_dns(service) { me } else { Side::from_bit(last.heard as u32) };
        return Some(Choice { heard, both });
    }
    let client = u64::from(key.who());
    let chooses_by = match word.sticky() {
        true => client,
        false => (client << 32 | u64::from(key.client.sport) << 16 | u64::from(key.id)) ^ now_ns,
    };
    let heard = if weight::chosen(chooses_by, word.weight()) { Side::Shadow } else { Side::Primary };
    Some(Choice { heard, both })
}

/// What an answer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whose it is: [`Side`] as a number, which the verifier sees cut to a bit where it is an index.
    pub side: u32,
    /// From the question, in microseconds.
    pub us: u32,
    /// [`code`].
    pub code: u8,
    /// Bytes of its payload.
    pub length: u16,
    /// Their sum, or [`Answer::UNSUMMED`].
    pub sum: u32,
    /// [`crate::flow::Writes::begun`] now.
    pub clock: u32,
}

impl Answer {
    /// The sum isn't known.
    pub const UNSUMMED: u32 = u32::MAX;
}

/// A side's first answer to a question: notes it in the exchange and says in `measured` what is to be counted. The caller adds it
/// to [`Exchange::answers`] behind that.
#[inline(always)]
pub fn measure(exchange: &mut Exchange, answer: &Answer, measured: &mut Measured) {
    let side = Side::from_bit(answer.side);
    let at = answer.side as usize & 1;
    exchange.answer_us[at] = answer.us;
    exchange.codes[at] = answer.code;
    exchange.lengths[at] = answer.length;
    match answer.sum {
        Answer::UNSUMMED => exchange.flags |= Exchange::UNSUMMED,
        sum => exchange.sums[at] = checksum::digest(sum as u16),
    }
    let class = (exchange.flags & Exchange::WRITES) as u32;
    let status = status_of(answer.code);
    if exchange.heard as u32 == side as u32 {
        measured.ended = 1 + Measured::shown(side as u32, class) as u8;
        measured.us = answer.us;
        measured.statuses = Statuses::one(status);
        measured.statuses_row = measured.ended - 1;
    }
    if !exchange.asked(side.other()) {
        return;
    }
    measured.compared = 1 + Measured::compared(side as u32, class) as u8;
    measured.compared_us = answer.us;
    measured.compared_class = status::class(status) as u8;
    measured.pair = 0;
    if exchange.answered(side.other()) > 0 {
        compare(exchange, class, answer.clock, measured);
    }
}

/// Both sides have answered.
#[inline(always)]
fn compare(exchange: &Exchange, class: u32, clock: u32, measured: &mut Measured) {
    let [primary, shadow] = exchange.codes;
    let (primary_erred, shadow_erred) = (primary == SERVFAIL, shadow == SERVFAIL);
    measured.pair = 1 << pair::COMPARED
        | ((primary_erred && !shadow_erred) as u8) << pair::PRIMARY_ERRED
        | ((shadow_erred && !primary_erred) as u8) << pair::SHADOW_ERRED
        | ((primary != shadow) as u8) << pair::STATUS_DIFFERS;
    measured.ratio = hist::ratio(exchange.answer_us[0], exchange.answer_us[1]) as u16;
    let outcome = if primary != shadow {
        outcome::STATUS
    } else if class != 0 || clock != exchange.clock {
        // Beside a write one side may answer as it was before it, the other as it is behind it.
        outcome::UNKNOWN
    } else if exchange.lengths[0] != exchange.lengths[1] {
        outcome::LENGTH
    } else if exchange.flags & Exchange::UNSUMMED != 0 {
        outcome::UNKNOWN
    } else if exchange.sums[0] != exchange.sums[1] {
        outcome::DIGEST
    } else {
        outcome::EQUAL
    };
    measured.turn = Compared {
        target: 0,
        prefix: 0,
        us: exchange.answer_us,
        lengths: [exchange.lengths[0] as u32, exchange.lengths[1] as u32],
        digests: exchange.sums,
        statuses: [primary as u16, shadow as u16],
        class: class as u8,
        outcome,
        pad: 0,
        clock,
        unrecorded: 0,
    };
}

/// What is due of an answer that is awaited: bits of [`lapse`]'s result.
pub mod due {
    /// Nobody waits for it any more: its port is free.
    pub const FREE: u32 = 1;
    /// The client wasn't answered: an error of the side that it was to hear.
    pub const UNANSWERED: u32 = 2;
    /// The side without authority left a question unanswered.
    pub const SILENT: u32 = 4;
    /// It owes a write that the authority has answered: it is out of sync.
    pub const OUT_OF_SYNC: u32 = 8;
}

/// What is due of an awaited answer. `exchange`: the one that it names, if that names it, too.
///
/// An unanswered write can't be told from one whose answer was lost. Either way nobody knows that it was done.
#[inline(always)]
pub fn lapse(
    awaited: &Awaited,
    exchange: Option<&Exchange>,
    authority: Side,
    service: &Service,
    now_ns: u64,
) -> u32 {
    let idle = now_ns.wrapping_sub(awaited.last_ns);
    // Another CPU's clock may be ahead.
    if idle as i64 <= 0 {
        return 0;
    }
    let side = Side::from_bit(awaited.side as u32);
    let mirror = side as u8 != authority as u8;
    let Some(exchange) = exchange else {
        // It is lost (another one like it came in between); or it is being made.
        let owes = if mirror && awaited.writes != 0 { due::OUT_OF_SYNC } else { 0 };
        return if idle < TIMEOUT_NS { 0 } else { due::FREE | owes };
    };
    let unanswered = exchange.answered(side) == 0;
    let age = now_ns.wrapping_sub(exchange.asked_ns);
    let mut all = 0;
    let writes = exchange.flags & Exchange::WRITES != 0;
    let overdue = age as i64 > stall_ns(service) as i64 || idle >= TIMEOUT_NS;
    if unanswered && writes && mirror && exchange.answered(authority) > 0 && overdue {
        all |= due::OUT_OF_SYNC;
    }
    if is_dns(service) && unanswered && idle >= TIMEOUT_NS {
        all |= due::FREE;
        if exchange.heard as u32 == side as u32 {
            all |= due::UNANSWERED;
        }
        if mirror {
            all |= due::SILENT;
        }
    }
    if idle >= IDLE_NS || (is_dns(service) && idle >= TIMEOUT_NS) {
        all |= due::FREE;
    }
    all
}
