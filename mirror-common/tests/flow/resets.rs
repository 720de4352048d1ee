//! SYN and RST where nobody expects them.

use super::*;
use mirror_common::flow::{Due, flow_state, on_sweep, sweep};

const FIN: u8 = tcp::FIN | tcp::ACK;
/// The least number that a SYN behind the client's FIN may have.
const BEHIND: u32 = ISS + 3 + READ.len() as u32;

impl Scene {
    /// The client's read with a FIN behind it, acknowledged by both; no answer yet.
    fn half_closed() -> Scene {
        let mut scene = Scene::established(true);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        is(&scene.client_says(FIN, READ.len(), 0), Verdict::Mirrored);
        for side in Side::BOTH {
            scene.says(side, tcp::ACK, 0, READ.len() + 1);
        }
        assert_eq!(scene.flow.shown, scene.flow.client_next);
        scene
    }

    /// The side answers and closes.
    fn answers_and_closes(&mut self, side: Side) {
        self.server(side, 0, ANSWER, READ.len() + 1);
        self.says(side, FIN, ANSWER.len(), READ.len() + 1);
    }

    fn refuses_new_life(&mut self, seq: u32) {
        let before = self.flow;
        let step = self.syn(seq);
        is(&step, Verdict::TurnedBack);
        assert_eq!((step.dial, step.to_client.flags, step.to_client.ack), (0, tcp::ACK, before.shown));
        assert_eq!(Flow { shown_edge: before.shown_edge, ..self.flow }, before);
    }
}

/// T13: a SYN on a half-closed connection, the first one come late or another's, cut its answer off.
#[test]
fn a_half_closed_connection_is_not_ended_by_a_syn() {
    let mut scene = Scene::half_closed();
    for seq in [ISS, ISS + 50_000_000, ISS.wrapping_sub(50_000_000)] {
        scene.refuses_new_life(seq);
    }
    is(&scene.server(Side::Primary, 0, ANSWER, READ.len() + 1), Verdict::Forwarded);
}

/// T13: when both sides have closed, a newer SYN begins a connection, and the old one's SYN doesn't.
#[test]
fn behind_both_ends_a_newer_syn_is_a_new_connection() {
    let mut scene = Scene::half_closed();
    for side in Side::BOTH {
        scene.answers_and_closes(side);
    }
    scene.refuses_new_life(BEHIND);
    scene.client_says(tcp::ACK, READ.len() + 1, ANSWER.len() + 1);
    scene.refuses_new_life(ISS);
    scene.refuses_new_life(BEHIND - 1);
    assert_eq!(scene.syn(BEHIND).dial, 0xff);
}

/// T13: nor does the shadow keep the client's port to itself: its end isn't the client's.
#[test]
fn a_client_that_is_done_does_not_wait_for_the_shadows_end() {
    let mut scene = Scene::half_closed();
    scene.answers_and_closes(Side::Primary);
    scene.client_says(tcp::ACK, READ.len() + 1, ANSWER.len() + 1);
    assert_eq!(scene.syn(BEHIND).dial, 0xff);
}

/// T13: a client that has forgotten its connection resets it when it is told where that stands, and its next SYN is new.
#[test]
fn a_forgotten_connection_is_reset_by_its_client_and_begun_anew() {
    for mut scene in [Scene::open(true), Scene::established(true), Scene::half_closed()] {
        let at = scene.flow.shown;
        scene.refuses_new_life(ISS + 9);
        let reset = Segment { seq: at, flags: tcp::RST, ..scene.segment() };
        is(&scene.client_sends(&reset), Verdict::Reset);
        assert_eq!(scene.syn(ISS + 9).dial, 0xff);
    }
}

/// T12: a client's RST counts where it stands exactly, in every state; within the window it is asked back, else ignored.
#[test]
fn the_clients_reset_in_every_state() {
    let states = [Scene::open, Scene::established].into_iter().flat_map(|make| [make(false), make(true)]);
    for mut scene in states.chain([Scene::half_closed()]) {
        let (shown, edge) = (scene.flow.shown, scene.flow.shown_edge);
        let mut reset = |seq: u32| {
            let reset = Segment { seq, flags: tcp::RST, ..scene.segment() };
            scene.client_sends(&reset)
        };
        for seq in [shown.wrapping_sub(1), edge.wrapping_add(1), shown ^ (1 << 30)] {
            is(&reset(seq), Verdict::OutOfWindow);
        }
        for seq in [shown + 1, edge] {
            if seq == shown || seq::lt(edge, seq) {
                // Before the SYN-ACK there is no window.
                continue;
            }
            let step = reset(seq);
            is(&step, Verdict::TurnedBack);
            assert_eq!(step.to_client.ack, shown);
        }
        let step = reset(shown);
        is(&step, Verdict::Reset);
        for emit in step.to_leg.iter().filter(|emit| emit.kind != emit::NONE) {
            assert_eq!(emit.flags & tcp::RST, tcp::RST);
        }
        is(&reset(shown), Verdict::ResetStale);
    }
}

/// T12: each leg is reset where its server expects the next byte, by its own numbers.
#[test]
fn the_clients_reset_reaches_each_leg_in_its_numbers() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    let step = scene.client_says(tcp::RST | tcp::ACK, READ.len(), ANSWER.len());
    is(&step, Verdict::Reset);
    let next = |iss: u32| iss + 1 + READ.len() as u32;
    assert_eq!(step.to_leg.map(|emit| emit.seq), LEG_ISS.map(next));
}

/// T12: the shadow's RST is its leg's end and never the client's; it must lie in the window, whatever the leg's state.
#[test]
fn the_shadows_reset_is_no_clients_and_must_be_in_the_window() {
    let reset = |scene: &mut Scene, seq: u32, ack: u32| {
        let flags = tcp::RST | tcp::ACK;
        let step = scene.server_sends(Side::Shadow, &Segment { seq, ack, flags, ..scene.segment() });
        assert_eq!(step.to_client.flags & tcp::RST, 0);
        step
    };
    // Being dialled: a refusal must acknowledge the SYN.
    let mut scene = Scene::open(true);
    scene.syn_ack(Side::Primary, 7);
    for ack in [0, LEG_ISS[1], LEG_ISS[1] + 2] {
        is(&reset(&mut scene, 0, ack), Verdict::OutOfWindow);
    }
    is(&reset(&mut scene, 0, LEG_ISS[1] + 1), Verdict::Refused);
    // Open, with an answer absorbed.
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Shadow, 0, ANSWER, READ.len());
    let next = SERVER_ISS[1] + 1 + ANSWER.len() as u32;
    for seq in [next - 1, SERVER_ISS[1], next + (1 << 20) + 1, next ^ (1 << 30)] {
        is(&reset(&mut scene, seq, 0), Verdict::OutOfWindow);
        assert_eq!(scene.flow.leg(Side::Shadow).state, leg_state::OPEN);
    }
    is(&reset(&mut scene, next, 0), Verdict::LegLost);
    is(&reset(&mut scene, next, 0), Verdict::ResetUnknownLeg);
    is(&scene.server(Side::Primary, 0, ANSWER, READ.len()), Verdict::Forwarded);
}

/// T12: the primary's RST ends the connection, but not one from outside its window.
#[test]
fn the_primarys_reset_is_the_clients_if_it_is_in_the_window() {
    let mut scene = Scene::established(true);
    is(&scene.says(Side::Primary, tcp::RST, (1 << 20) + 1, 0), Verdict::OutOfWindow);
    let step = scene.says(Side::Primary, tcp::RST, 0, 0);
    is(&step, Verdict::Reset);
    assert_eq!((step.to_client.flags, step.to_client.seq), (tcp::RST | tcp::ACK, SERVER_ISS[0] + 1));
}

/// T42: behind the client's RST a leg that owes a write is followed: answered, both are equal; lost, the shadow is out.
#[test]
fn behind_the_clients_reset_an_owed_write_is_answered_or_the_shadow_is_out() {
    for answers in [true, false] {
        let mut scene = Scene::established(true);
        is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
        scene.server(Side::Primary, 0, ANSWER, WRITE.len());
        let step = scene.client_says(tcp::RST | tcp::ACK, WRITE.len(), ANSWER.len());
        is(&step, Verdict::Reset);
        assert_eq!(step.to_leg.map(|emit| emit.kind), [emit::BARE, emit::NONE]);
        assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (1, true));
        let step = if answers {
            scene.server(Side::Shadow, 0, ANSWER, WRITE.len())
        } else {
            scene.says(Side::Shadow, tcp::RST, 0, WRITE.len())
        };
        assert_eq!(step.to_client.kind, emit::NONE);
        assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (0, answers));
        assert_eq!(scene.flow.state, flow_state::ENDED);
    }
}

/// T42: a leg that never got the write can't do it any more once its client has reset.
#[test]
fn a_write_that_waits_for_its_leg_is_lost_with_the_client() {
    let mut scene = Scene::open(true);
    scene.syn_ack(Side::Primary, 7);
    is(&scene.client(0, WRITE, 0), Verdict::HeldDialling);
    is(&scene.client_says(tcp::RST | tcp::ACK, WRITE.len(), 0), Verdict::Reset);
    assert!(!scene.word.member(Side::Shadow));
}

/// A reset isn't acknowledged: a client that says nothing is told once more, where it is known to be, and no third time.
#[test]
fn a_silent_client_is_told_of_its_end_once_more() {
    let mut scene = Scene::established(false);
    is(&scene.client(0, READ, 0), Verdict::Forwarded);
    scene.server(Side::Primary, 0, &ANSWER[..9], READ.len());
    let reset = Segment { seq: SERVER_ISS[0] + 1 + 9, flags: tcp::RST, ..scene.segment() };
    is(&scene.server_sends(Side::Primary, &reset), Verdict::Reset);
    let mut sweeps = |ms: u32| {
        scene.now_ms += ms;
        let mut due = Due::Nothing;
        let step = scene.run(|flow, terms, step| due = on_sweep(flow, sweep::ACT, terms, step));
        (due, step)
    };
    assert_eq!(sweeps(199).0, Due::Nothing);
    let (due, step) = sweeps(1);
    is(&step, Verdict::ResetStale);
    let told = step.to_client;
    assert_eq!((due, told.kind, told.flags), (Due::Emit, emit::BARE, tcp::RST | tcp::ACK));
    assert_eq!((told.seq, told.ack), (SERVER_ISS[0] + 1, ISS + 1 + READ.len() as u32));
    assert_eq!(sweeps(200).0, Due::Nothing);
    assert_eq!(sweeps(1_600).0, Due::Free);
}
