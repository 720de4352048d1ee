//! Acknowledgements to the leg that nobody hears: as a receiver's, they wait for a packet that goes there anyway.

use mirror_common::{
    flow::{Due, Leg, Step, emit, on_sweep, sweep, tcp},
    switch_word::Side,
    verdict::Verdict,
};

use super::{ANSWER, READ, SERVER_ISS, Scene, is};

/// Up to where the shadow's first answer goes.
const ANSWERED: u32 = SERVER_ISS[1] + 1 + ANSWER.len() as u32;

/// A connection whose client has asked once.
fn asked() -> Scene {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene
}

/// The shadow's answer, or a part of it.
fn answers(scene: &mut Scene, offset: usize, part: &[u8]) -> Step {
    let step = scene.server(Side::Shadow, offset, part, READ.len());
    is(&step, Verdict::Absorbed);
    step
}

fn owes(scene: &Scene) -> bool {
    scene.flow.leg(Side::Shadow).flags & Leg::OWES_ACK != 0
}

/// What a sweep is due, and does.
fn sweep_it(scene: &mut Scene) -> (Due, Step) {
    let mut due = Due::Nothing;
    scene.run(|flow, terms, step| due = on_sweep(flow, 0, terms, step));
    let step = scene.run(|flow, terms, step| {
        on_sweep(flow, sweep::ACT, terms, step);
    });
    (due, step)
}

#[test]
fn the_next_request_brings_it() {
    for primary_first in [true, false] {
        let mut scene = asked();
        if primary_first {
            scene.server(Side::Primary, 0, ANSWER, READ.len());
        }
        assert_eq!(answers(&mut scene, 0, ANSWER).to_leg[1].kind, emit::NONE);
        if !primary_first {
            scene.server(Side::Primary, 0, ANSWER, READ.len());
        }
        assert!(owes(&scene));
        let step = scene.client(READ.len(), READ, ANSWER.len());
        assert_eq!((step.to_leg[1].kind, step.to_leg[1].ack), (emit::FORWARD, ANSWERED));
        assert!(!owes(&scene));
    }
}

#[test]
fn the_clients_own_acknowledgement_brings_it() {
    let mut scene = asked();
    answers(&mut scene, 0, ANSWER);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    let half = scene.client_says(tcp::ACK, READ.len(), ANSWER.len() - 1);
    assert_eq!(half.to_leg[1].kind, emit::NONE, "it will say more");
    let step = scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
    is(&step, Verdict::Forwarded);
    assert_eq!(step.to_leg.map(|emit| emit.kind), [emit::FORWARD, emit::BARE]);
    assert_eq!((step.to_leg[1].ack, step.to_leg[1].flags), (ANSWERED, tcp::ACK));
    let again = scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
    assert_eq!(again.to_leg[1].kind, emit::NONE, "once");
}

#[test]
fn where_no_packet_will_come_it_does_not_wait() {
    let mut scene = asked();
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
    let step = answers(&mut scene, 0, ANSWER);
    assert_eq!((step.to_leg[1].kind, step.to_leg[1].ack), (emit::BARE, ANSWERED));
}

/// A server that doesn't send the rest before this is acknowledged (Nagle's algorithm) would wait for the client.
#[test]
fn what_is_not_an_answers_end_is_acknowledged_at_once() {
    let mut scene = asked();
    let (head, rest) = ANSWER.split_at(ANSWER.len() - 1);
    assert_eq!(answers(&mut scene, 0, head).to_leg[1].kind, emit::BARE);
    assert_eq!(answers(&mut scene, head.len(), rest).to_leg[1].kind, emit::NONE);
    // Its acknowledgement is missed: it comes again.
    assert_eq!(answers(&mut scene, head.len(), rest).to_leg[1].kind, emit::BARE);
    assert!(!owes(&scene));
}

#[test]
fn more_than_a_segment_is_acknowledged_at_once() {
    let long = [b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n".as_slice(), &[b'x'; 2_000]].concat();
    assert_eq!(answers(&mut asked(), 0, &long).to_leg[1].kind, emit::BARE);
}

#[test]
fn the_sweep_brings_it_where_the_primary_takes_its_time() {
    let mut scene = asked();
    answers(&mut scene, 0, ANSWER);
    scene.now_ms += 39;
    assert_eq!(sweep_it(&mut scene).0, Due::Nothing);
    scene.now_ms += 1;
    let (due, step) = sweep_it(&mut scene);
    assert_eq!(due, Due::Emit);
    is(&step, Verdict::AckedLate);
    assert_eq!((step.to_leg[1].kind, step.to_leg[1].ack), (emit::BARE, ANSWERED));
    assert_eq!(sweep_it(&mut scene).0, Due::Nothing, "once");
}

#[test]
fn a_client_that_has_closed_is_not_waited_for() {
    let mut scene = asked();
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    scene.client_says(tcp::ACK | tcp::FIN, READ.len(), 0);
    assert_eq!(answers(&mut scene, 0, ANSWER).to_leg[1].kind, emit::BARE);
}

/// RFC 9293, 3.8.6.3: of every second segment at the latest. One that nobody asked for would wait behind the answer's.
#[test]
fn a_second_segment_is_acknowledged_at_once() {
    let mut scene = asked();
    assert_eq!(answers(&mut scene, 0, ANSWER).to_leg[1].kind, emit::NONE);
    let step = scene.server(Side::Shadow, ANSWER.len(), ANSWER, READ.len());
    assert_eq!((step.to_leg[1].kind, step.to_leg[1].ack), (emit::BARE, ANSWERED + ANSWER.len() as u32));
}
