//! The rules for datagrams: what is a write, who is heard, what is compared, and what is due of an answer that doesn't come.

use mirror_common::{
    abi::{
        Endpoint, Service, Tuple, nat,
        six::BESIDE,
        udp::{AWAITED_A_PORT, Awaited, Exchange, ExchangeKey, Silence},
    },
    datagram::{
        Answer, Choice, IDLE_NS, Message, SERVFAIL, TIMEOUT_NS, answers, choose, due, is_silent, lapse,
        measure, question,
    },
    flow::{Measured, outcome, pair},
    protocol::{Class, http1::status},
    switch_word::{Side, SwitchWord},
};

const MS: u64 = 1_000_000;
const NOW: u64 = 1_000_000_000_000;
/// Nobody owes an answer.
const ANSWERS: Silence = Silence { since_ns: [0; 2] };

fn service(flags: u32) -> Service {
    let end = Endpoint { addr: 1, nat: 2, port: 53, ..Endpoint::default() };
    Service { flags, endpoints: [end; 2], stall_ms: 500, ..Service::default() }
}

fn dns() -> Service {
    service(Service::DNS)
}

fn both() -> SwitchWord {
    SwitchWord::initial().with_member(Side::Shadow, true)
}

fn key(n: u16) -> ExchangeKey {
    let client = Tuple { saddr: 0x0100_000a, daddr: 3, sport: n, dport: 53 };
    ExchangeKey::new(client, [0; 4], n.wrapping_mul(31))
}

/// An exchange that both sides were asked in, of which one is heard.
fn asked(heard: Side, flags: u8) -> Exchange {
    Exchange { asked_ns: NOW, ports: [7, 8], heard: heard as u8, flags, ..Exchange::default() }
}

fn awaited(side: Side) -> Awaited {
    Awaited { last_ns: NOW, side: side as u8, ..Awaited::default() }
}

#[test]
fn a_standard_query_alone_is_a_read() {
    let class = |flags| question(&dns(), Message { id: 9, flags }).class;
    // Recursion desired, truncated, checking disabled: still a query.
    for flags in [0, 0x0100, 0x0200, 0x0110] {
        assert_eq!(class(flags), Class::Read, "{flags:#x}");
    }
    for flags in [5 << 11, 4 << 11, 1 << 11, 2 << 11, 15 << 11, 0x8000] {
        assert_eq!(class(flags), Class::Write, "{flags:#x}");
    }
    assert_eq!(question(&dns(), Message::NONE).class, Class::Write, "no whole header");
    assert_eq!(question(&service(Service::WRITES), Message { id: 9, flags: 0 }).class, Class::Write);
    assert_eq!(question(&service(0), Message { id: 9, flags: 5 << 11 }).class, Class::Read);
    assert_eq!([dns(), service(0)].map(|service| question(&service, Message { id: 9, flags: 0 }).id), [9, 0]);
}

#[test]
fn an_answer_has_its_questions_identifier_and_says_that_it_is_one() {
    let answers = |service: &Service, id, flags| answers(service, 7, Message { id, flags });
    assert!(answers(&dns(), 7, 0x8180));
    assert!(!answers(&dns(), 8, 0x8180) && !answers(&dns(), 7, 0x0100));
    assert!(answers(&service(0), 8, 0));
}

#[test]
fn a_write_is_the_authoritys_at_any_weight_and_waits_under_a_freeze() {
    let word = both().with_weight(10_000);
    let choose = |word, class| choose(word, &dns(), &key(1), class, None, &ANSWERS, NOW);
    assert_eq!(choose(word, Class::Write), Some(Choice { heard: Side::Primary, both: true }));
    assert_eq!(choose(word, Class::Read), Some(Choice { heard: Side::Shadow, both: true }));
    assert_eq!(choose(word.with_frozen(true), Class::Write), None);
    assert!(choose(word.with_frozen(true), Class::Read).is_some());
    let flipped = word.with_authority(Side::Shadow);
    assert_eq!(choose(flipped, Class::Write).map(|choice| choice.heard), Some(Side::Shadow));
}

#[test]
fn who_is_no_member_is_neither_asked_nor_heard() {
    let alone = SwitchWord::initial().with_weight(10_000);
    let only = Some(Choice { heard: Side::Primary, both: false });
    assert_eq!(choose(alone, &dns(), &key(1), Class::Read, None, &ANSWERS, NOW), only);
    let mut unnamed = dns();
    unnamed.endpoints[1].addr = 0;
    assert_eq!(choose(both().with_weight(10_000), &unnamed, &key(1), Class::Read, None, &ANSWERS, NOW), only);
}

#[test]
fn the_share_of_the_queries_is_the_weight_by_query_or_by_client() {
    let share = |word: SwitchWord| {
        let shadows = (0..20_000_u16).filter(|n| {
            let now = NOW + u64::from(*n) * 7_919;
            choose(word, &dns(), &key(*n), Class::Read, None, &ANSWERS, now).unwrap().heard == Side::Shadow
        });
        shadows.count() as f64 / 20_000.0
    };
    for weight in [0, 2_500, 5_000, 10_000] {
        let share = share(both().with_weight(weight));
        assert!((share - f64::from(weight) / 1e4).abs() < 0.02, "{weight}: {share}");
    }
    let sticky = share(both().with_weight(5_000).with_sticky(true));
    assert!(sticky == 0.0 || sticky == 1.0, "one client's: {sticky}");
}

/// Whichever part of it another one has: a prefix, or the rest.
#[test]
fn a_client_of_ipv6_is_its_whole_address() {
    let word = both().with_weight(5_000).with_sticky(true);
    for part in 0..4 {
        let shadows = (0..200_u32).filter(|host| {
            let mut address = [1; 4];
            address[part] = *host;
            let heard = |n: u16| {
                let client = Tuple { saddr: BESIDE, daddr: 3, sport: n, dport: 53 };
                let key = ExchangeKey::new(client, address, n.wrapping_mul(31));
                choose(word, &dns(), &key, Class::Read, None, &ANSWERS, NOW + u64::from(n)).unwrap().heard
            };
            assert!((1..20).all(|n| heard(n) == heard(0)), "host {host} by its word {part}");
            heard(0) == Side::Shadow
        });
        let shadows = shadows.count();
        assert!((70..130).contains(&shadows), "of 200 that differ in word {part} {shadows}");
    }
}

#[test]
fn who_asks_again_is_the_authoritys_where_identifiers_say_so() {
    let word = both().with_weight(0);
    let last = asked(Side::Shadow, 0);
    let heard = |service: &Service, last: &Exchange, now| {
        choose(word, service, &key(1), Class::Read, Some(last), &ANSWERS, now).unwrap().heard
    };
    assert_eq!(heard(&dns(), &last, NOW + 1), Side::Primary);
    // Which of its questions an answer is to nobody knows: the side stays.
    assert_eq!(heard(&service(0), &last, NOW + 1), Side::Shadow);
    assert_eq!(heard(&service(0), &last, NOW + TIMEOUT_NS), Side::Primary, "it waits for nothing any more");
    let answered = Exchange { answers: Exchange::answer_of(Side::Shadow), ..last };
    assert_eq!(heard(&service(0), &answered, NOW + 1), Side::Primary);
    let out =
        choose(SwitchWord::initial(), &service(0), &key(1), Class::Read, Some(&last), &ANSWERS, NOW + 1);
    assert_eq!(out, Some(Choice { heard: Side::Primary, both: false }), "out of sync");
}

/// P2: it may be dead, and who asks anew by another port isn't known to have asked before.
#[test]
fn a_silent_side_is_asked_and_not_heard() {
    let silence = Silence { since_ns: [0, NOW] };
    let word = both().with_weight(10_000);
    let heard =
        |service: &Service, now| choose(word, service, &key(1), Class::Read, None, &silence, now).unwrap();
    assert_eq!(heard(&dns(), NOW + 500 * MS), Choice { heard: Side::Shadow, both: true });
    assert_eq!(heard(&dns(), NOW + 501 * MS), Choice { heard: Side::Primary, both: true });
    assert_eq!(heard(&service(0), NOW + 501 * MS).heard, Side::Shadow, "nothing need be answered there");
    assert!(!is_silent(&silence, Side::Primary, &dns(), NOW + 501 * MS));
    assert!(!is_silent(&silence, Side::Shadow, &dns(), NOW - 1), "another CPU's clock was ahead");
}

/// Takes both sides' answers in, the shadow's last. What that one tells.
fn compared(
    exchange: &mut Exchange,
    codes: [u8; 2],
    lengths: [u16; 2],
    sums: [u32; 2],
    clock: u32,
) -> Measured {
    let mut measured = Measured::default();
    for side in Side::BOTH {
        let at = side as usize;
        let us = [300, 700][at];
        let answer =
            Answer { side: side as u32, us, code: codes[at], length: lengths[at], sum: sums[at], clock };
        measured = Measured::default();
        measure(exchange, &answer, &mut measured);
        exchange.answers += Exchange::answer_of(side);
        let shown = exchange.heard == side as u8;
        assert_eq!(measured.ended > 0, shown, "the client waited for one");
        let failures = measured.statuses.of(status::SERVER_ERRORS);
        assert_eq!(failures, u32::from(shown && codes[at] == SERVFAIL));
    }
    measured
}

#[test]
fn answers_are_compared_by_code_length_and_sum() {
    let cases = [
        ([0, 0], [40, 40], [5, 5], outcome::EQUAL),
        ([0, 0], [40, 40], [0xffff, 0], outcome::EQUAL),
        ([0, 0], [40, 40], [5, 6], outcome::DIGEST),
        ([0, 0], [40, 44], [5, 5], outcome::LENGTH),
        ([0, 3], [40, 44], [5, 6], outcome::STATUS),
        ([0, 0], [40, 40], [5, Answer::UNSUMMED], outcome::UNKNOWN),
    ];
    for (codes, lengths, sums, expected) in cases {
        let measured = compared(&mut asked(Side::Primary, 0), codes, lengths, sums, 0);
        assert_eq!(measured.turn.outcome, expected, "{codes:?} {lengths:?} {sums:?}");
        assert_eq!(measured.pair >> pair::COMPARED & 1, 1);
        assert_eq!(measured.turn.us, [300, 700]);
    }
    // Beside a write one side may answer as before it.
    let measured = compared(&mut asked(Side::Primary, 0), [0, 0], [40, 44], [5, 6], 1);
    assert_eq!(measured.turn.outcome, outcome::UNKNOWN);
    let measured = compared(&mut asked(Side::Shadow, 0), [SERVFAIL, 0], [40, 44], [5, 6], 0);
    assert_eq!(measured.pair >> pair::PRIMARY_ERRED & 1, 1);
    assert_eq!(measured.ended, 1 + Measured::shown(1, 0) as u8);
    let measured = compared(&mut asked(Side::Primary, Exchange::WRITES), [0, 0], [12, 12], [1, 1], 0);
    assert_eq!(measured.compared, 1 + Measured::compared(1, 1) as u8);
}

#[test]
fn a_write_that_the_authority_answered_alone_is_owed_behind_the_stall_budget() {
    let write = asked(Side::Primary, Exchange::WRITES);
    let answered = Exchange { answers: Exchange::answer_of(Side::Primary), ..write };
    let owes = |exchange: &Exchange, side, now| {
        lapse(&awaited(side), Some(exchange), Side::Primary, &dns(), now) & due::OUT_OF_SYNC != 0
    };
    assert!(!owes(&answered, Side::Shadow, NOW + 500 * MS));
    assert!(owes(&answered, Side::Shadow, NOW + 501 * MS));
    assert!(!owes(&write, Side::Shadow, NOW + TIMEOUT_NS), "nobody saw it answered");
    assert!(!owes(&answered, Side::Primary, NOW + TIMEOUT_NS), "the authority's state is the truth");
    let read = Exchange { flags: 0, ..answered };
    assert!(!owes(&read, Side::Shadow, NOW + TIMEOUT_NS));
    let all = Exchange { answers: answered.answers + Exchange::answer_of(Side::Shadow), ..answered };
    assert!(!owes(&all, Side::Shadow, NOW + TIMEOUT_NS));
    // However large the budget: when the entry goes, it is known.
    let patient = Service { stall_ms: 60_000, ..dns() };
    let due = lapse(&awaited(Side::Shadow), Some(&answered), Side::Primary, &patient, NOW + TIMEOUT_NS);
    assert_eq!(due & (due::FREE | due::OUT_OF_SYNC), due::FREE | due::OUT_OF_SYNC);
}

#[test]
fn an_entry_without_its_exchange_goes_and_an_owed_write_with_it_is_said() {
    let write = Awaited { writes: 1, ..awaited(Side::Shadow) };
    let due = |awaited: &Awaited, now| lapse(awaited, None, Side::Primary, &dns(), now);
    assert_eq!(due(&write, NOW + TIMEOUT_NS - 1), 0, "it may be in the making");
    assert_eq!(due(&write, NOW + TIMEOUT_NS), due::FREE | due::OUT_OF_SYNC);
    assert_eq!(due(&awaited(Side::Shadow), NOW + TIMEOUT_NS), due::FREE);
    assert_eq!(due(&Awaited { writes: 1, ..awaited(Side::Primary) }, NOW + TIMEOUT_NS), due::FREE);
}

#[test]
fn an_unanswered_question_is_the_error_of_who_was_to_be_heard() {
    let all = |heard, side, now| lapse(&awaited(side), Some(&asked(heard, 0)), Side::Primary, &dns(), now);
    assert_eq!(all(Side::Shadow, Side::Shadow, NOW + TIMEOUT_NS - 1), 0);
    assert_eq!(all(Side::Shadow, Side::Shadow, NOW + TIMEOUT_NS), due::FREE | due::UNANSWERED | due::SILENT);
    assert_eq!(all(Side::Primary, Side::Shadow, NOW + TIMEOUT_NS), due::FREE | due::SILENT);
    assert_eq!(all(Side::Primary, Side::Primary, NOW + TIMEOUT_NS), due::FREE | due::UNANSWERED);
    assert_eq!(all(Side::Primary, Side::Primary, NOW - 1), 0, "another CPU's clock was ahead");
}

#[test]
fn without_identifiers_a_way_back_stays_open_and_silence_is_no_error() {
    let syslog = service(Service::WRITES);
    let exchange = asked(Side::Primary, Exchange::WRITES);
    let due = |now| lapse(&awaited(Side::Shadow), Some(&exchange), Side::Primary, &syslog, now);
    assert_eq!(due(NOW + IDLE_NS - 1), 0);
    assert_eq!(due(NOW + IDLE_NS), due::FREE);
}

/// P2: a side that answers nothing can't take what the other one needs.
const _: () = assert!(AWAITED_A_PORT >= 2 * (65_536 - nat::FIRST_PORT as u32));
