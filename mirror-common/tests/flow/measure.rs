//! What is measured of a turn, a leg at a time.

use mirror_common::{
    flow::{Measured, Segment, Step, on_client, on_leg, pair},
    hist,
    protocol::Kind,
    switch_word::Side,
};

use super::{ANSWER, READ, SERVER_ISS, Scene, WRITE, read};

const ERROR: &[u8] = b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno";

fn compared(side: Side, class: u32) -> u8 {
    1 + Measured::compared(side as u32, class) as u8
}

/// The client asks at a time in microseconds.
fn ask(scene: &mut Scene, request: &[u8], now_us: u32) {
    let seq = scene.flow.client_next;
    let reading = read(Kind::Request, &scene.flow.parse, scene.flow.completed, seq, request);
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
    let reading = read(Kind::Response, &leg.parse, leg.answered, seq, payload);
    let ack = scene.flow.client_next.wrapping_add(leg.offset);
    let segment = Segment { seq, ack, payload: payload.len() as u32, reading, now_us, ..scene.segment() };
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
    assert_eq!((first.errors, second.errors), (0, 0));
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
    assert_eq!((error.compared, error.compared_error, error.errors), (compared(Side::Shadow, 1), 1, 0));
    assert_eq!(error.pair, 1 << pair::COMPARED | 1 << pair::SHADOW_ERRED | 1 << pair::STATUS_DIFFERS);
}

#[test]
fn with_one_leg_there_is_nothing_to_compare() {
    let mut scene = Scene::established(false);
    ask(&mut scene, READ, 0);
    let only = answer(&mut scene, Side::Primary, 0, ANSWER, 700).measured;
    assert_eq!((only.ended, only.us, only.compared), (1 + Measured::shown(0, 0) as u8, 700, 0));
    ask(&mut scene, READ, 1_000);
    let error = answer(&mut scene, Side::Primary, ANSWER.len(), ERROR, 1_200).measured;
    assert_eq!((error.errors, error.errors_row), (1, Measured::shown(0, 0) as u8));
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
