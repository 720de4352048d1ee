//! The end of a leg that answers reads for the switch word's authority: it is no client's, but where the client waits for it.

use mirror_common::flow::{LossReason, flow_state};

use super::*;

const FIN: u8 = tcp::FIN | tcp::ACK;
const CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
const UNTIL_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nall that comes";

impl Scene {
    /// A server's bytes with flags of their own; it has acknowledged so many of the client's.
    pub(super) fn server_flags(
        &mut self,
        side: Side,
        offset: usize,
        payload: &[u8],
        acked: usize,
        flags: u8,
    ) -> Step {
        let n = side as usize;
        let seq = SERVER_ISS[n] + 1 + offset as u32;
        let ack = LEG_ISS[n] + 1 + acked as u32;
        let leg = self.flow.leg(side);
        let reading = read(Kind::Response, &leg.parse, leg.answered, 0, seq, payload);
        let payload = payload.len() as u32;
        let segment = Segment { seq, ack, payload, flags, reading, ..self.segment() };
        self.server_sends(side, &segment)
    }
}

/// The shadow has answered a read for the client, and the primary has answered it, too, if it has.
fn answered(answer: &[u8], finished: bool) -> Scene {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    if finished {
        scene.server(Side::Primary, 0, ANSWER, READ.len());
    }
    is(&scene.server(Side::Shadow, 0, answer, READ.len()), Verdict::Forwarded);
    assert_eq!(scene.flow.authority(), Side::Shadow);
    scene
}

/// It closes behind its answer, which the client has: the primary goes on, and the client hears nothing of that.
#[test]
fn behind_its_answer_the_other_one_takes_over() {
    let mut scene = answered(ANSWER, true);
    scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
    let step = scene.says(Side::Shadow, FIN, ANSWER.len(), READ.len());
    is(&step, Verdict::LegLost);
    assert_eq!((step.to_client.kind, step.reason), (emit::NONE, LossReason::Closed as u8));
    assert_eq!((scene.flow.authority(), scene.flow.has(Flow::RETURNING)), (Side::Primary, false));
    assert_eq!(scene.flow.view_next, SERVER_ISS[0] + 1 + ANSWER.len() as u32);
    scene.word = scene.word.with_weight(0);
    let step = scene.client(READ.len(), READ, ANSWER.len());
    assert_eq!((step.to_leg[0].kind, step.dial()), (emit::FORWARD, Some(Side::Shadow)));
    is(&scene.server(Side::Primary, ANSWER.len(), ANSWER, 2 * READ.len()), Verdict::Forwarded);
}

/// Its end waits, and comes again, where the other one couldn't go on: the client lacks something, or the primary's answer isn't
/// over, or what lies before the end is missing, or its answer is.
#[test]
fn where_the_other_one_cannot_go_on_its_end_waits() {
    let waits = |scene: &mut Scene, offset: usize| {
        let known = |flow: &Flow| {
            flow.legs.map(|leg| (leg.state, leg.flags, leg.rcv_nxt, leg.sent_max, leg.answered))
        };
        let before = scene.flow;
        let step = scene.says(Side::Shadow, FIN, offset, READ.len());
        is(&step, Verdict::BeyondHead);
        assert_eq!(step.to_client.kind, emit::NONE);
        assert_eq!((known(&scene.flow), scene.flow.view_next), (known(&before), before.view_next));
    };
    let mut lacks = answered(ANSWER, true);
    waits(&mut lacks, ANSWER.len());
    let mut busy = answered(ANSWER, false);
    busy.client_says(tcp::ACK, READ.len(), ANSWER.len());
    waits(&mut busy, ANSWER.len());
    let mut hole = answered(ANSWER, true);
    hole.client_says(tcp::ACK, READ.len(), ANSWER.len());
    waits(&mut hole, ANSWER.len() + 3);
    let mut silent = Scene::established(true);
    silent.word = silent.word.with_weight(10_000);
    is(&silent.client(0, READ, 0), Verdict::Mirrored);
    silent.server(Side::Primary, 0, ANSWER, READ.len());
    waits(&mut silent, 0);
}

/// Where the primary has no leg any more, a new one takes over.
#[test]
fn where_the_other_one_has_gone_its_successor_takes_over() {
    let mut scene = answered(ANSWER, true);
    scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
    scene.flow.leg_mut(Side::Primary).state = leg_state::NONE;
    scene.now_ms += 60;
    let lost = scene.says(Side::Shadow, FIN, ANSWER.len(), READ.len());
    is(&lost, Verdict::LegLost);
    assert_eq!(lost.dial(), Some(Side::Primary));
    scene.dial(&lost);
    assert_eq!(scene.flow.authority(), Side::Primary);
}

/// An answer's last segment brings its server's end, too: the answer is shown, and the end isn't.
#[test]
fn an_end_behind_an_answers_last_byte_is_cut_off() {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    let step = scene.server_flags(Side::Shadow, 0, ANSWER, READ.len(), FIN | tcp::PSH);
    is(&step, Verdict::Forwarded);
    assert_eq!((step.to_client.kind, step.to_client.flags), (emit::FORWARD, tcp::ACK | tcp::PSH));
    assert_eq!(scene.flow.view_next, SERVER_ISS[0] + 1 + ANSWER.len() as u32);
    // It comes again, alone.
    scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
    is(&scene.says(Side::Shadow, FIN, ANSWER.len(), READ.len()), Verdict::LegLost);
}

/// The client waits for this end: it was told of it, or only this ends the answer, or it has closed itself, or nothing is told
/// apart any more, or the leg is the authority's own.
#[test]
fn the_end_that_the_client_waits_for_is_shown() {
    let shown = |scene: &mut Scene, offset: usize, acked: usize| {
        let step = scene.says(Side::Shadow, FIN, offset, acked);
        is(&step, Verdict::Forwarded);
        assert_eq!((step.to_client.kind, step.to_client.flags), (emit::FORWARD, 0));
        assert_eq!(scene.flow.view_next, SERVER_ISS[0] + 2 + offset as u32);
        assert_eq!(scene.flow.state, flow_state::OPEN);
    };
    for answer in [CLOSE, UNTIL_CLOSE] {
        let mut scene = answered(answer, true);
        scene.client_says(tcp::ACK, READ.len(), answer.len());
        shown(&mut scene, answer.len(), READ.len());
    }
    let mut closed = answered(ANSWER, true);
    closed.client_says(FIN, READ.len(), ANSWER.len());
    shown(&mut closed, ANSWER.len(), READ.len() + 1);
    let mut opaque = answered(ANSWER, true);
    opaque.client_says(tcp::ACK, READ.len(), ANSWER.len());
    opaque.flow.set(Flow::OPAQUE, true);
    shown(&mut opaque, ANSWER.len(), READ.len());
    let mut own = answered(ANSWER, true);
    own.word = own.word.with_authority(Side::Shadow);
    own.client_says(tcp::ACK, READ.len(), ANSWER.len());
    shown(&mut own, ANSWER.len(), READ.len());
}

/// The client is told that the connection closes by the answer, or by the end itself: nothing begins behind either.
#[test]
fn behind_a_shown_end_nothing_begins() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    assert!(!scene.flow.has(Flow::CLOSING));
    is(&scene.says(Side::Primary, FIN, ANSWER.len(), READ.len()), Verdict::Forwarded);
    assert!(scene.flow.has(Flow::CLOSING));
    is(&scene.client(READ.len(), WRITE, ANSWER.len()), Verdict::HeldUnsettled);
}
