//! The leg that is left takes over: at once, or as soon as it has finished, or by its successor.

use super::*;
use mirror_common::flow::{LossReason, flow_state};

const FIN: u8 = tcp::FIN | tcp::ACK;
/// A write whose body is still to come.
const HALF: &[u8] = b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf";

/// H7: what is waited for, and says what can't be told apart, is followed blindly: nobody can tell when it has finished, and
/// the client would wait for it. An answer to nothing that was asked is none of that.
#[test]
fn a_leg_that_is_waited_for_and_can_not_be_told_apart_is_followed() {
    let (mut scene, _) = Scene::returning();
    scene.server(Side::Primary, 10, b"\x01\x02\x03\r\n\r\n", READ.len());
    assert!(scene.flow.has(Flow::OPAQUE));
    let (mut scene, _) = Scene::returning();
    scene.server(Side::Primary, 10, &[&ANSWER[10..], ANSWER].concat(), READ.len());
    assert!(!scene.flow.has(Flow::OPAQUE));
}

/// As soon as it has finished, what is held goes on: though the lost leg's successor isn't there yet.
#[test]
fn what_is_held_goes_on_when_the_awaited_leg_has_finished() {
    let (mut scene, _) = Scene::returning();
    scene.flow.set(Flow::HELD, true);
    assert_eq!(scene.flow.leg(Side::Shadow).state, leg_state::DOWN);
    let step = scene.server(Side::Primary, 10, &ANSWER[10..], READ.len());
    assert_eq!((scene.flow.authority(), scene.flow.has(Flow::RETURNING)), (Side::Primary, false));
    assert_eq!(step.events & Step::WAKE, Step::WAKE);
}

/// One whose server closes while the client hasn't acknowledged what the lost one has shown is dialled anew as soon as it
/// has: the client would be heard by nobody from then on.
#[test]
fn an_awaited_leg_that_has_closed_is_dialled_anew() {
    for waited in Side::BOTH {
        let lost = waited.other();
        let mut scene = Scene::established(true);
        scene.word = scene.word.with_authority(waited);
        scene.word = scene.word.with_weight(if lost == Side::Shadow { 10_000 } else { 0 });
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        assert_eq!(scene.flow.authority(), lost);
        for side in Side::BOTH {
            scene.server(side, 0, ANSWER, READ.len());
        }
        is(&scene.says(lost, tcp::RST, ANSWER.len(), READ.len()), Verdict::LegLost);
        assert!(scene.flow.has(Flow::RETURNING));
        is(&scene.says(waited, FIN, ANSWER.len(), READ.len()), Verdict::FinAbsorbed);
        let step = scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
        assert_eq!(step.dial(), Some(waited));
        assert_eq!(scene.flow.leg(waited).state, leg_state::DOWN);
    }
}

/// The awaited leg is lost, too, while the first one's successor is there: that takes over at once. Waited for, it would have
/// nothing to finish, and the client would wait for ever.
#[test]
fn a_successor_that_is_open_takes_over_from_the_awaited_leg_at_once() {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, &ANSWER[..10], READ.len());
    is(&scene.server(Side::Shadow, 0, ANSWER, READ.len()), Verdict::Forwarded);
    let lost = scene.says(Side::Shadow, tcp::RST, ANSWER.len(), READ.len());
    is(&lost, Verdict::LegLost);
    scene.dial(&lost);
    scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
    assert!(scene.flow.has(Flow::RETURNING), "the primary is in the middle of its answer");
    scene.word = scene.word.with_authority(Side::Shadow);
    is(&scene.says(Side::Primary, tcp::RST, 10, READ.len()), Verdict::LegLost);
    assert_eq!((scene.flow.authority(), scene.flow.has(Flow::RETURNING)), (Side::Shadow, false));
    let step = scene.client(READ.len(), READ, ANSWER.len());
    is(&step, Verdict::HeldDialling);
    assert_eq!(step.to_leg[1].kind, emit::FORWARD);
}

/// In the middle of a body that both have answered early the old authority is lost behind a move: the open leg has as much of
/// it, and goes on. One that would have to be dialled would begin in its middle, and the connection ends.
#[test]
fn in_the_middle_of_a_request_an_open_leg_takes_over_and_no_successor_does() {
    for (state, verdict) in [(leg_state::OPEN, Verdict::LegLost), (leg_state::NONE, Verdict::FailedMidAnswer)]
    {
        let mut scene = Scene::established(true);
        is(&scene.client(0, HALF, 0), Verdict::Mirrored);
        for side in Side::BOTH {
            scene.server(side, 0, ANSWER, HALF.len());
        }
        scene.client_says(tcp::ACK, HALF.len(), ANSWER.len());
        assert_eq!(scene.writes, 0);
        scene.word = scene.word.with_authority(Side::Shadow);
        scene.flow.leg_mut(Side::Shadow).state = state;
        is(&scene.says(Side::Primary, tcp::RST, ANSWER.len(), HALF.len()), verdict);
    }
}

/// The circuit breaker counts failures at what was asked. A server that ends its connection in the middle of what nobody
/// asked for, such as a 408, fails at nothing.
#[test]
fn a_server_that_was_asked_nothing_fails_at_nothing() {
    for flags in [tcp::RST, FIN] {
        let mut scene = Scene::established(true);
        scene.server(Side::Shadow, 0, &ANSWER[..10], 0);
        let lost = scene.says(Side::Shadow, flags, 10, 0);
        is(&lost, Verdict::LegLost);
        assert_eq!(lost.reason & LossReason::FAILED, 0, "{flags}");
    }
}

/// A side that is out of sync has its leg reset when the next turn begins; one that is only being dialled is forgotten, as
/// its server knows of nothing.
#[test]
fn a_side_that_is_out_of_sync_has_its_open_leg_reset() {
    for (state, sent) in [(leg_state::OPEN, emit::BARE), (leg_state::DIALLING, emit::NONE)] {
        let mut scene = Scene::established(true);
        scene.flow.leg_mut(Side::Shadow).state = state;
        scene.word = scene.word.with_member(Side::Shadow, false);
        let step = scene.client(0, READ, 0);
        is(&step, Verdict::Forwarded);
        assert_eq!((step.to_leg[1].kind, scene.flow.leg(Side::Shadow).state), (sent, leg_state::NONE));
        assert_eq!(scene.flow.state, flow_state::OPEN);
    }
}

/// A side without a server isn't dialled, whichever it is: the old one, when a move is over.
#[test]
fn a_side_without_a_server_does_not_join() {
    for (addr, dials) in [(1, Some(Side::Primary)), (0, None)] {
        let mut scene = Scene::established(true);
        scene.word = scene.word.with_authority(Side::Shadow);
        scene.flow.authority = Side::Shadow as u8;
        scene.flow.leg_mut(Side::Primary).state = leg_state::NONE;
        scene.service.endpoints[0].addr = addr;
        assert_eq!(scene.client(0, READ, 0).dial(), dials);
    }
}
