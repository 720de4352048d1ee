//! What is measured of a turn, a leg at a time.

use mirror_common::{
    checksum,
    flow::{
        Compared, Flow, Measured, Reading, Segment, Step, may_compare, on_client, on_leg, outcome, pair, tcp,
        to_sum, unanswered,
    },
    hist,
    protocol::{
        Kind,
        http1::{UNKNOWN_LENGTH, status::Statuses},
    },
    switch_word::Side,
};
use proptest::prelude::*;

use super::{ANSWER, READ, SERVER_ISS, Scene, WRITE, read, summed};

const ERROR: &[u8] = b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno";

fn compared(side: Side, class: u32) -> u8 {
    1 + Measured::compared(side as u32, class) as u8
}

/// The client asks at a time in microseconds.
fn ask(scene: &mut Scene, request: &[u8], now_us: u32) {
    let seq = scene.flow.client_next;
    let reading = read(Kind::Request, &scene.flow.parse, scene.flow.completed, 0, seq, request);
    let ack = scene.flow.view_next;
    let segment = Segment { seq, ack, payload: request.len() as u32, reading, now_us, ..scene.segment() };
    scene.run(|flow, terms, step| {
        on_client(flow, &segment, terms, step);
    });
}

/// A side answers at a time in microseconds.
fn answer(scene: &mut Scene, side: Side, offset: usize, payload: &[u8], now_us: u32) -> Step {
    let n = side as usize;
    let seq = SERVER_ISS[n] + 1 + offset as u32;
    let leg = scene.flow.leg(side);
    let reading = read(Kind::Response, &leg.parse, leg.answered, 0, seq, payload);
    let ack = scene.flow.client_next.wrapping_add(leg.offset);
    let segment = Segment { seq, ack, payload: payload.len() as u32, reading, now_us, ..scene.segment() };
    let segment = summed(&scene.flow, side, segment, payload);
    scene.run(|flow, terms, step| {
        on_leg(flow, side, &segment, terms, step);
    })
}

#[test]
fn both_answers_to_a_turn_are_timed_and_compared() {
    let mut scene = Scene::established(true);
    ask(&mut scene, READ, 1_000);
    let first = answer(&mut scene, Side::Shadow, 0, ANSWER, 3_000).measured;
    assert_eq!((first.ended, first.compared, first.compared_us), (0, compared(Side::Shadow, 0), 2_000));
    assert_eq!(first.pair, 0, "the other one hasn't answered");
    let second = answer(&mut scene, Side::Primary, 0, ANSWER, 5_000).measured;
    assert_eq!((second.ended, second.us), (1 + Measured::shown(0, 0) as u8, 4_000));
    assert_eq!((second.compared, second.compared_us), (compared(Side::Primary, 0), 4_000));
    assert_eq!((second.pair, second.ratio), (1 << pair::COMPARED, hist::ratio(4_000, 2_000) as u16));
    assert_eq!((first.statuses, second.statuses), (Statuses(0), Statuses::one(200)));
    let again = answer(&mut scene, Side::Primary, 0, ANSWER, 9_000).measured;
    assert!(!again.any(), "sent again, it isn't a second answer");
}

/// What comes behind the head is the pace of the client, whom one leg alone has.
#[test]
fn answers_are_compared_by_their_heads_and_timed_to_their_ends() {
    let mut scene = Scene::established(true);
    ask(&mut scene, WRITE, 0);
    let head = answer(&mut scene, Side::Primary, 0, &ANSWER[..ANSWER.len() - 1], 500).measured;
    assert_eq!((head.ended, head.compared_us), (0, 500));
    let end = answer(&mut scene, Side::Primary, ANSWER.len() - 1, &ANSWER[ANSWER.len() - 1..], 800).measured;
    assert_eq!((end.ended, end.us, end.compared), (1 + Measured::shown(0, 1) as u8, 800, 0));
    let error = answer(&mut scene, Side::Shadow, 0, ERROR, 900).measured;
    assert_eq!((error.compared, error.compared_class), (compared(Side::Shadow, 1), 4));
    assert_eq!(error.statuses, Statuses(0), "no client is shown it");
    assert_eq!(error.pair, 1 << pair::COMPARED | 1 << pair::SHADOW_ERRED | 1 << pair::STATUS_DIFFERS);
}

/// A server that swallows what it is asked makes no errors, and is never slow: nothing of it is ever measured.
#[test]
fn a_turn_is_unanswered_that_the_mirror_has_answered_and_the_authority_has_not_begun_to() {
    let mut scene = Scene::established(true);
    let waits = |scene: &Scene, now_us| unanswered(&scene.flow, now_us, 2_000);
    assert!(!waits(&scene, 9_000), "nothing was asked");
    ask(&mut scene, READ, 1_000);
    assert!(!waits(&scene, 9_000), "it takes long on both sides");
    answer(&mut scene, Side::Shadow, 0, &ANSWER[..ANSWER.len() - 1], 1_500);
    assert!(!waits(&scene, 9_000), "the mirror is at it, too");
    answer(&mut scene, Side::Shadow, ANSWER.len() - 1, &ANSWER[ANSWER.len() - 1..], 1_600);
    assert_eq!([2_999, 3_000].map(|now_us| waits(&scene, now_us)), [false, true]);
    answer(&mut scene, Side::Primary, 0, &ANSWER[..ANSWER.len() - 1], 4_000);
    assert!(!waits(&scene, 9_000), "the rest comes at the client's pace");
    answer(&mut scene, Side::Primary, ANSWER.len() - 1, &ANSWER[ANSWER.len() - 1..], 5_000);
    assert!(!waits(&scene, 9_000));
}

/// Requests that were sent ahead: as long as an earlier answer comes, the last one's is on its way.
#[test]
fn a_turn_behind_an_answer_that_comes_is_not_unanswered() {
    let mut scene = Scene::established(true);
    let cut = ANSWER.len() - 2;
    ask(&mut scene, READ, 1_000);
    answer(&mut scene, Side::Primary, 0, &ANSWER[..cut], 1_100);
    for n in 1..3 {
        ask(&mut scene, READ, 1_000 + n);
    }
    for n in 0..3 {
        answer(&mut scene, Side::Shadow, n * ANSWER.len(), ANSWER, 1_200);
    }
    answer(&mut scene, Side::Primary, cut, &ANSWER[cut..=cut], 1_300);
    assert!(!unanswered(&scene.flow, 9_000, 2_000));
}

/// A full queue of connections at the authority shows in no answer.
#[test]
fn a_syn_is_unanswered_that_the_mirror_has_answered_and_the_authority_has_not() {
    let mut scene = Scene::open(true);
    let waits = |scene: &Scene, now_us| unanswered(&scene.flow, now_us, 2_000);
    assert!(!waits(&scene, 9_000), "neither has");
    scene.syn_ack(Side::Shadow, 7);
    assert_eq!([1_999, 2_000].map(|now_us| waits(&scene, now_us)), [false, true]);
    scene.syn_ack(Side::Primary, 7);
    assert!(!waits(&scene, 9_000));
}

#[test]
fn with_one_leg_nothing_is_known_to_be_unanswered() {
    let mut scene = Scene::established(false);
    ask(&mut scene, READ, 1_000);
    assert!(!unanswered(&scene.flow, 9_000, 2_000));
    assert!(!unanswered(&Scene::open(false).flow, 9_000, 2_000), "nor is a SYN");
}

#[test]
fn with_one_leg_there_is_nothing_to_compare() {
    let mut scene = Scene::established(false);
    ask(&mut scene, READ, 0);
    let only = answer(&mut scene, Side::Primary, 0, ANSWER, 700).measured;
    assert_eq!((only.ended, only.us, only.compared), (1 + Measured::shown(0, 0) as u8, 700, 0));
    ask(&mut scene, READ, 1_000);
    let error = answer(&mut scene, Side::Primary, ANSWER.len(), ERROR, 1_200).measured;
    assert_eq!((error.statuses.of(4), error.statuses_row), (1, Measured::shown(0, 0) as u8));
}

/// A shadow that is slower than the client's next request was never measured: the slower, the better it looked.
#[test]
fn a_leg_that_lags_behind_the_clients_next_requests_is_measured_all_the_same() {
    let mut scene = Scene::established(true);
    for n in 0..3_u32 {
        ask(&mut scene, READ, 10_000 * n);
        let at = n as usize * ANSWER.len();
        let measured = answer(&mut scene, Side::Primary, at, ANSWER, 10_000 * n + 300).measured;
        assert_eq!((measured.us, measured.compared != 0), (300, n == 0), "turn {n}");
    }
    let late = answer(&mut scene, Side::Shadow, 0, ANSWER, 25_000).measured;
    assert_eq!((late.compared_us, late.pair), (25_000, 1 << pair::COMPARED));
    let rest = answer(&mut scene, Side::Shadow, ANSWER.len(), &[ANSWER, ERROR].concat(), 26_000).measured;
    assert!(!rest.any(), "those turns weren't compared");
    ask(&mut scene, READ, 30_000);
    let next = answer(&mut scene, Side::Shadow, 2 * ANSWER.len() + ERROR.len(), ANSWER, 31_000).measured;
    assert_eq!((next.compared, next.compared_us), (compared(Side::Shadow, 0), 1_000), "the next one is");
}

/// An answer with a head that says how long its body is.
fn bodied(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// A side's whole answer, cut at these places. Returns how the comparison came out, where it ended here.
fn in_pieces(scene: &mut Scene, side: Side, answer_bytes: &[u8], cuts: &[usize]) -> Compared {
    let mut ended = Compared::default();
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (answer_bytes.len() + 1)).collect();
    places.extend([0, answer_bytes.len()]);
    places.sort_unstable();
    for pair in places.windows(2) {
        let [from, to] = *pair else { continue };
        if from < to {
            let turn = answer(scene, side, from, &answer_bytes[from..to], 2_000).measured.turn;
            if turn.outcome != 0 {
                ended = turn;
            }
        }
    }
    ended
}

/// How two answers compare that are cut at any places.
fn compared_turn(answers: [&[u8]; 2], cuts: [&[usize]; 2]) -> Compared {
    let mut scene = Scene::established(true);
    ask(&mut scene, READ, 1_000);
    let first = in_pieces(&mut scene, Side::Primary, answers[0], cuts[0]);
    let last = in_pieces(&mut scene, Side::Shadow, answers[1], cuts[1]);
    assert_eq!(first.outcome, 0, "one answer is no comparison");
    last
}

#[test]
fn a_turn_is_compared_by_status_then_length_then_digest() {
    let outcome_of = |one: &[u8], other: &[u8]| compared_turn([one, other], [&[], &[]]).outcome;
    assert_eq!(outcome_of(&bodied(b"abc"), &bodied(b"abc")), outcome::EQUAL);
    assert_eq!(outcome_of(&bodied(b"abc"), &bodied(b"abd")), outcome::DIGEST);
    assert_eq!(outcome_of(&bodied(b"abc"), &bodied(b"abcd")), outcome::LENGTH);
    assert_eq!(outcome_of(&bodied(b"abc"), ERROR), outcome::STATUS);
    assert_eq!(outcome_of(&bodied(b""), &bodied(b"")), outcome::EQUAL);
    let none = b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(outcome_of(none, none), outcome::EQUAL, "it has no body");
    let turn = compared_turn([&bodied(b"abc"), &bodied(b"abcd")], [&[], &[]]);
    assert_eq!((turn.lengths, turn.statuses, turn.us, turn.class), ([3, 4], [200, 200], [1_000, 1_000], 0));
}

/// Chunks may be cut differently though they hold the same: neither equal nor different.
#[test]
fn chunked_bodies_are_compared_by_their_statuses_alone() {
    let chunked =
        |body: &str| format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}0\r\n\r\n");
    let (one, two) = (chunked("3\r\nabc\r\n"), chunked("1\r\na\r\n2\r\nbc\r\n"));
    for other in [two.as_bytes(), &bodied(b"abc")] {
        let turn = compared_turn([one.as_bytes(), other], [&[], &[]]);
        assert_eq!((turn.outcome, turn.lengths[0]), (outcome::UNKNOWN, UNKNOWN_LENGTH));
    }
}

/// What is sent again counts once, and what overlaps it isn't summed: no word of such a body is taken for a difference.
#[test]
fn bytes_count_once_and_a_hole_makes_a_digest_unknown() {
    let whole = bodied(b"0123456789");
    let half = whole.len() - 5;
    let mut scene = Scene::established(true);
    ask(&mut scene, READ, 1_000);
    in_pieces(&mut scene, Side::Primary, &whole, &[half]);
    answer(&mut scene, Side::Shadow, 0, &whole[..half], 2_000);
    answer(&mut scene, Side::Shadow, 0, &whole[..half], 2_100);
    let turn = answer(&mut scene, Side::Shadow, half - 3, &whole[half - 3..], 2_200).measured.turn;
    assert_eq!(turn.outcome, outcome::EQUAL, "the overlap is left out");
    ask(&mut scene, READ, 3_000);
    let at = whole.len();
    answer(&mut scene, Side::Primary, at, &whole, 3_100);
    answer(&mut scene, Side::Shadow, at, &whole[..half], 3_200);
    let turn = answer(&mut scene, Side::Shadow, at + half + 1, &whole[half + 1..], 3_300).measured.turn;
    assert_eq!(turn.outcome, outcome::UNKNOWN);
    answer(&mut scene, Side::Shadow, at + half, &whole[half..], 3_400);
    ask(&mut scene, READ, 4_000);
    let turns = Side::BOTH.map(|side| answer(&mut scene, side, 2 * at, &whole, 4_100).measured.turn);
    assert_eq!(turns[1].outcome, outcome::EQUAL, "the next turn is compared again");
}

/// Beside a write one side may answer as it was before it, the other as it is behind it: nothing is said of the bodies.
#[test]
fn bodies_are_compared_only_where_no_write_is_under_way() {
    let (one, other) = (bodied(b"abc"), bodied(b"abd"));
    let outcome_of = |before: i64, meanwhile: u32, request: &[u8]| {
        let mut scene = Scene::established(true);
        scene.writes = before;
        ask(&mut scene, request, 1_000);
        in_pieces(&mut scene, Side::Primary, &one, &[]);
        scene.begun += meanwhile;
        in_pieces(&mut scene, Side::Shadow, &other, &[]).outcome
    };
    assert_eq!(outcome_of(0, 0, READ), outcome::DIGEST);
    assert_eq!(outcome_of(1, 0, READ), outcome::UNKNOWN, "one was open");
    assert_eq!(outcome_of(0, 1, READ), outcome::UNKNOWN, "one began");
    assert_eq!(outcome_of(0, 0, WRITE), outcome::DIGEST, "its own is none");
    assert_eq!(outcome_of(1, 0, WRITE), outcome::UNKNOWN, "another's is");
}

proptest! {
    /// The sum is the body's, however TCP cuts it: in the head, at odd places, byte by byte.
    #[test]
    fn a_digest_is_the_same_however_a_body_is_cut(
        body in prop::collection::vec(any::<u8>(), 0..400),
        one in prop::collection::vec(any::<usize>(), 0..12),
        other in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let whole = bodied(&body);
        let turn = compared_turn([&whole, &whole], [&one, &other]);
        prop_assert_eq!(turn.outcome, outcome::EQUAL);
        let digest = checksum::digest(checksum::sum(&body));
        prop_assert_eq!((turn.digests, turn.lengths), ([digest; 2], [body.len() as u32; 2]));
    }

    #[test]
    fn a_changed_byte_is_a_difference_however_a_body_is_cut(
        body in prop::collection::vec(any::<u8>(), 1..400),
        at in any::<usize>(),
        by in 1..255_u8,
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let mut changed = body.clone();
        let at = at % changed.len();
        changed[at] = changed[at].wrapping_add(by);
        let turn = compared_turn([&bodied(&body), &bodied(&changed)], [&cuts, &[]]);
        // All ones and all zeros are the same number in one's complement.
        let same = checksum::digest(checksum::sum(&body)) == checksum::digest(checksum::sum(&changed));
        prop_assert_eq!(turn.outcome, if same { outcome::EQUAL } else { outcome::DIGEST });
    }
}

/// Each side and class has a row of its own, shown and compared.
#[test]
fn rows_are_apart() {
    let mut rows = Vec::new();
    for (side, class) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        rows.extend([Measured::shown(side, class), Measured::compared(side, class)]);
    }
    rows.sort_unstable();
    assert_eq!(rows, (0..Measured::ROWS as u32).collect::<Vec<_>>());
}

#[test]
fn whatever_was_measured_is_something() {
    assert!(!Measured::default().any());
    for bits in 1..16_u8 {
        let on = |n: u8| bits >> n & 1;
        let turn = Compared { outcome: on(2), ..Compared::default() };
        let statuses = Statuses(on(3).into());
        assert!(
            Measured { ended: on(0), compared: on(1), turn, statuses, ..Measured::default() }.any(),
            "{bits:b}"
        );
    }
}

/// One turn at a time is compared, until both bodies are summed; and with one leg none is.
#[test]
fn a_turn_may_be_compared_while_none_is() {
    assert!(!may_compare(&Scene::established(false).flow));
    let mut scene = Scene::established(true);
    assert!(may_compare(&scene.flow));
    ask(&mut scene, READ, 1_000);
    assert!(!may_compare(&scene.flow), "answers are awaited");
    answer(&mut scene, Side::Shadow, 0, ANSWER, 2_000);
    assert!(scene.flow.has(Flow::PRIMARY_COMPARED) && !scene.flow.has(Flow::SHADOW_COMPARED));
    answer(&mut scene, Side::Primary, 0, &ANSWER[..ANSWER.len() - 1], 2_000);
    assert!(scene.flow.has(Flow::PRIMARY_SUMMED) && !scene.flow.has(Flow::SHADOW_SUMMED));
    assert!(!may_compare(&scene.flow), "a body isn't summed yet");
    answer(&mut scene, Side::Primary, ANSWER.len() - 1, &ANSWER[ANSWER.len() - 1..], 2_100);
    assert!(may_compare(&scene.flow));
}

/// A comparison whose leg has gone ends with the next turn.
#[test]
fn with_a_leg_its_comparison_goes() {
    let mut scene = Scene::established(true);
    ask(&mut scene, READ, 1_000);
    scene.says(Side::Shadow, tcp::RST, 0, 0);
    answer(&mut scene, Side::Primary, 0, ANSWER, 2_000);
    ask(&mut scene, READ, 3_000);
    assert!(!scene.flow.has(Flow::COMPARING | Flow::SUMMING));
}

/// Of answers that come at once only the first one's head has a time: a later one that is awaited isn't compared.
#[test]
fn an_answer_that_comes_behind_another_in_one_segment_is_not_compared() {
    let mut scene = Scene::established(true);
    ask(&mut scene, &[READ, READ].concat(), 1_000);
    ask(&mut scene, READ, 2_000);
    assert!(scene.flow.has(Flow::COMPARING));
    let three = [ANSWER; 3].concat();
    assert_eq!(answer(&mut scene, Side::Shadow, 0, &three, 3_000).measured.compared, 0);
    assert!(!scene.flow.has(Flow::COMPARING | Flow::SUMMING));
    answer(&mut scene, Side::Primary, 0, &three, 3_000);
    ask(&mut scene, READ, 4_000);
    assert!(scene.flow.has(Flow::COMPARING), "the next turn is");
}

/// Which side erred, and whether they did alike.
#[test]
fn errors_are_told_by_side() {
    let pair_of = |primary: &[u8], shadow: &[u8]| {
        let mut scene = Scene::established(true);
        ask(&mut scene, READ, 1_000);
        answer(&mut scene, Side::Primary, 0, primary, 2_000);
        answer(&mut scene, Side::Shadow, 0, shadow, 2_000).measured.pair
    };
    let (compared, differs) = (1 << pair::COMPARED, 1 << pair::STATUS_DIFFERS);
    assert_eq!(pair_of(ANSWER, ANSWER), compared);
    assert_eq!(pair_of(ERROR, ERROR), compared);
    assert_eq!(pair_of(ERROR, ANSWER), compared | differs | 1 << pair::PRIMARY_ERRED);
    assert_eq!(pair_of(ANSWER, ERROR), compared | differs | 1 << pair::SHADOW_ERRED);
}

/// What must be summed before the lock: the body of the awaited answer, and nothing of any other.
#[test]
fn only_the_compared_answers_body_is_summed() {
    let mut scene = Scene::established(true);
    ask(&mut scene, READ, 1_000);
    let leg = *scene.flow.leg(Side::Shadow);
    let seq = leg.rcv_nxt;
    let reading = read(Kind::Response, &leg.parse, leg.answered, 0, seq, ANSWER);
    let segment = Segment { seq, payload: ANSWER.len() as u32, reading, ..scene.segment() };
    let bytes = |flow: &Flow, reading: Reading| to_sum(flow, Side::Shadow, &Segment { reading, ..segment }).1;
    let body = (seq + ANSWER.len() as u32 - 2, 2);
    assert_eq!(to_sum(&scene.flow, Side::Shadow, &segment), body);
    assert_eq!(
        bytes(&scene.flow, Reading { flags: reading.flags & !Reading::DONE, ..reading }),
        0,
        "not read"
    );
    assert_eq!(bytes(&scene.flow, Reading { first_status: 0, ..reading }), 0, "no head");
    let long = Reading { body_length: UNKNOWN_LENGTH, ..reading };
    assert_eq!(bytes(&scene.flow, long), 0, "too long");
    let mut flow = scene.flow;
    flow.compared_turn += 1;
    assert_eq!(bytes(&flow, reading), 0, "a later answer's");
    flow = scene.flow;
    flow.set(Flow::SHADOW_COMPARED, false);
    assert_eq!(bytes(&flow, reading), 0, "not awaited");
}

/// The sum that a packet brings must be of just the bytes that are missing: else the comparison says nothing.
#[test]
fn a_sum_of_other_bytes_makes_a_digest_unknown() {
    let whole = bodied(b"abcdefgh");
    let outcome_of = |change: &dyn Fn(&mut Reading)| {
        let mut scene = Scene::established(true);
        ask(&mut scene, READ, 1_000);
        answer(&mut scene, Side::Primary, 0, &whole, 2_000);
        let leg = *scene.flow.leg(Side::Shadow);
        let (seq, payload) = (leg.rcv_nxt, whole.len() as u32);
        let mut reading = read(Kind::Response, &leg.parse, leg.answered, 0, seq, &whole);
        (reading.sum_at, reading.summed, reading.sum) = (seq + payload - 8, 8, checksum::sum(b"abcdefgh"));
        change(&mut reading);
        let ack = scene.flow.client_next.wrapping_add(leg.offset);
        let segment = Segment { seq, ack, payload, reading, now_us: 2_000, ..scene.segment() };
        scene.server_sends(Side::Shadow, &segment).measured.turn.outcome
    };
    assert_eq!(outcome_of(&|_| {}), outcome::EQUAL);
    assert_eq!(outcome_of(&|reading| reading.sum_at += 1), outcome::UNKNOWN);
    assert_eq!(outcome_of(&|reading| reading.summed -= 1), outcome::UNKNOWN);
}

/// Bodies of 256 KiB are summed, and longer ones aren't: what their heads say is all.
#[test]
fn a_long_body_is_compared_by_its_length_alone() {
    let outcome_of = |length: u32| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        compared_turn([head.as_bytes(), head.as_bytes()], [&[], &[]]).outcome
    };
    assert_eq!(outcome_of(1 << 18), 0, "its bytes are awaited");
    assert_eq!(outcome_of((1 << 18) + 1), outcome::UNKNOWN);
}
