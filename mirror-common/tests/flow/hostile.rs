//! What strangers, floods and bad servers send.

use super::*;
use mirror_common::flow::{Due, flow_state, on_sweep, sweep};
use proptest::prelude::*;

/// Longer than any of these answers lasts.
const HUGE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
const REFUSAL: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const BARE_REFUSAL: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n";

impl Scene {
    fn sweeps(&mut self) -> (Due, Step) {
        self.sweeps_as(sweep::ACT)
    }

    fn sweeps_as(&mut self, how: u32) -> (Due, Step) {
        let mut due = Due::Nothing;
        let step = self.run(|flow, terms, step| due = on_sweep(flow, how, terms, step));
        (due, step)
    }
}

/// T26: a connection whose client never answers the SYN-ACK kept its slot for hours, and the shadow its socket.
#[test]
fn a_flood_leaves_nothing_behind() {
    let mut scene = Scene::established(true);
    scene.now_ms += 9_999;
    // Nobody acknowledges it: the server says it again. That's no sign of life.
    is(&scene.syn_ack(Side::Primary, 7), Verdict::SynAckShown);
    assert_eq!(scene.sweeps().0, Due::Nothing);
    scene.now_ms += 1;
    let (due, step) = scene.sweeps();
    assert_eq!(due, Due::Emit);
    assert_eq!(step.to_leg.map(|emit| emit.flags), [tcp::RST | tcp::ACK; 2]);
    assert_eq!(step.to_client.kind, emit::NONE, "it would go to whoever the flood pretends to be");
    scene.now_ms += 2_000;
    assert_eq!(scene.sweeps().0, Due::Free);
}

/// T26: where room is scarce, whoever hasn't opened its connection within a second makes some.
#[test]
fn in_a_crowd_half_open_connections_make_room() {
    let crowd = sweep::ACT | sweep::CROWDED;
    // The client hasn't answered.
    let mut scene = Scene::established(true);
    scene.now_ms += 999;
    assert_eq!(scene.sweeps_as(crowd).0, Due::Nothing);
    scene.now_ms += 1;
    let (due, step) = scene.sweeps_as(crowd);
    is(&step, Verdict::HalfOpen);
    assert_eq!((due, step.to_client.kind), (Due::Emit, emit::NONE));
    assert_eq!(step.to_leg.map(|emit| emit.flags), [tcp::RST | tcp::ACK; 2]);
    assert_eq!(scene.sweeps().0, Due::Nothing, "without a crowd there is time for late segments");
    assert_eq!(scene.sweeps_as(crowd).0, Due::Free);
    // What a client has ended makes room soon, too.
    let mut scene = Scene::established(true);
    let reset = Segment { seq: ISS + 1, flags: tcp::RST, ..scene.segment() };
    is(&scene.client_sends(&reset), Verdict::Reset);
    scene.now_ms += 399;
    assert_eq!(scene.sweeps_as(crowd).0, Due::Nothing);
    scene.now_ms += 1;
    assert_eq!(scene.sweeps().0, Due::Nothing);
    assert_eq!(scene.sweeps_as(crowd).0, Due::Free);
    // The server hasn't: that is nobody's fault, where there is a flood.
    let mut scene = Scene::open(true);
    scene.now_ms += 1_000;
    assert_eq!(scene.sweeps().0, Due::Nothing);
    let (due, step) = scene.sweeps_as(crowd);
    is(&step, Verdict::HalfOpen);
    assert_eq!((due, step.events), (Due::Free, 0));
    // What is open stays so.
    let mut scene = Scene::established(true);
    scene.client_says(tcp::ACK, 0, 0);
    scene.now_ms += 50_000;
    assert_eq!(scene.sweeps_as(crowd).0, Due::Nothing);
}

/// T26: a client that has acknowledged its SYN-ACK, with or without a request, may be silent for long.
#[test]
fn a_silent_client_is_no_flood() {
    let mut scene = Scene::established(true);
    scene.client_says(tcp::ACK, 0, 0);
    scene.now_ms += 50_000;
    assert_eq!(scene.sweeps().0, Due::Nothing);
    let mut scene = Scene::established(false);
    is(&scene.client(0, READ, 0), Verdict::Forwarded);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    scene.now_ms += 50_000;
    assert_eq!(scene.sweeps().0, Due::Nothing);
}

/// T28: a server that opens towards a leg that is being dialled is told that there is no such connection, and the leg's own
/// handshake goes on; on an open leg such a SYN means nothing. Neither changes the flow.
#[test]
fn a_simultaneous_open_is_refused() {
    for side in Side::BOTH {
        let mut scene = Scene::open(true);
        let before = scene.flow;
        let refused = scene.says(side, tcp::SYN, 0, 0);
        is(&refused, Verdict::ResetUnknownLeg);
        assert_eq!(refused.to_leg[side as usize].flags & tcp::RST, tcp::RST);
        assert_eq!((refused.to_client.kind, scene.flow), (emit::NONE, before));
        let shown = [Verdict::SynAckShown, Verdict::SynAckAbsorbed][side as usize];
        is(&scene.syn_ack(side, 7), shown);
        let before = scene.flow;
        let late = scene.says(side, tcp::SYN, 0, 0);
        is(&late, Verdict::OutOfWindow);
        assert_eq!((late.to_leg[side as usize].kind, scene.flow), (emit::NONE, before));
    }
}

/// T27: a shadow whose answer never ends is absorbed for ten seconds behind the primary's, and then it has no leg.
#[test]
fn an_endless_absorbed_answer_costs_its_leg() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    is(&scene.server(Side::Shadow, 0, HUGE, READ.len()), Verdict::Absorbed);
    let mut sent = HUGE.len();
    let mut more = |scene: &mut Scene| {
        let step = scene.server(Side::Shadow, sent, &[b'x'; 1_000], READ.len());
        sent += 1_000;
        step
    };
    // As long as the primary hasn't answered either, it isn't late.
    for _ in 0..30 {
        scene.now_ms += 400;
        is(&more(&mut scene), Verdict::Absorbed);
    }
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    for _ in 0..25 {
        is(&more(&mut scene), Verdict::Absorbed);
        scene.now_ms += 400;
    }
    is(&more(&mut scene), Verdict::LegLost);
    is(&more(&mut scene), Verdict::ResetUnknownLeg);
    // The client doesn't notice.
    is(&scene.client(READ.len(), READ, ANSWER.len()), Verdict::HeldDialling);
    assert!(scene.word.member(Side::Shadow));
}

/// The same of one that the client hears is its download, however long it takes.
#[test]
fn a_long_heard_answer_is_not_cut_off() {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    is(&scene.server(Side::Shadow, 0, HUGE, READ.len()), Verdict::Forwarded);
    let mut sent = HUGE.len();
    for _ in 0..60 {
        scene.now_ms += 400;
        is(&scene.server(Side::Shadow, sent, &[b'x'; 1_000], READ.len()), Verdict::Forwarded);
        sent += 1_000;
        is(&scene.client_says(tcp::ACK, READ.len(), sent), Verdict::Forwarded);
    }
}

/// T27: a hole in a body that nobody reads isn't repaired; one in front of a head is.
#[test]
fn holes_of_an_absorbed_body_are_acknowledged_over() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    let body = |scene: &mut Scene, at: usize| scene.server(Side::Shadow, at, &[b'x'; 100], READ.len());
    assert_eq!(body(&mut scene, 5_000).to_leg[1].ack, SERVER_ISS[1] + 1, "the head hasn't come");
    scene.server(Side::Shadow, 0, HUGE, READ.len());
    assert_eq!(body(&mut scene, 5_000).to_leg[1].ack, SERVER_ISS[1] + 1 + 5_100);
}

/// T27: nor is one in what can't be told apart, or ends with its connection: where that is, what is missing isn't known to be
/// a body's.
#[test]
fn holes_of_what_has_no_known_end_are_not_acknowledged_over() {
    let acked = |scene: &mut Scene, at: usize| {
        let step = scene.server(Side::Shadow, at + 50, b"xyz", READ.len());
        step.to_leg[1].ack.wrapping_sub(SERVER_ISS[1] + 1) as usize
    };
    let mut opaque = Scene::established(true);
    opaque.client(0, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0);
    assert!(opaque.flow.has(Flow::OPAQUE));
    let step = opaque.server(Side::Shadow, 50, b"xyz", 11);
    assert_eq!(step.to_leg[1].ack, SERVER_ISS[1] + 1);
    let mut endless = Scene::established(true);
    is(&endless.client(0, READ, 0), Verdict::Mirrored);
    let head: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    endless.server(Side::Shadow, 0, head, READ.len());
    assert_eq!(acked(&mut endless, head.len()), head.len());
}

/// What isn't told apart is shown as it comes, over holes, too: the client's kernel puts it in order.
#[test]
fn of_an_opaque_connection_nothing_waits_for_what_is_missing() {
    let mut scene = Scene::established(true);
    scene.client(0, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0);
    let step = scene.server(Side::Primary, 50, b"\x16\x03\x03", 11);
    is(&step, Verdict::Forwarded);
    assert_eq!((step.to_client.kind, step.to_client.seq), (emit::FORWARD, SERVER_ISS[0] + 51));
}

/// H7: a shadow's answer that can't be told apart is none, where the primary's can: the connection was taken for one of another
/// protocol for good, and the shadow stayed in sync, whatever it did with the writes. One that is told apart on neither side
/// waits for acknowledgements alone.
#[test]
fn a_shadows_answer_that_is_none_is_owed() {
    const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";
    for (said, both) in [(&b"no HTTP"[..], false), (ENDLESS, false), (ENDLESS, true)] {
        let mut scene = Scene::established(true);
        is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
        let step = scene.server(Side::Shadow, 0, said, WRITE.len());
        assert_eq!((step.to_client.kind, scene.flow.has(Flow::OPAQUE)), (emit::NONE, false));
        is(
            &scene.server(Side::Primary, 0, if both { said } else { ANSWER }, WRITE.len()),
            Verdict::Forwarded,
        );
        assert_eq!((scene.flow.has(Flow::OPAQUE), scene.writes), (both, i64::from(!both)));
        let mut lost = 0;
        for _ in 0..3 {
            lost += u32::from(scene.sweeps().1.events & Step::OUT_OF_SYNC != 0);
            scene.now_ms += scene.service.stall_ms;
        }
        assert_eq!((lost, scene.word.member(Side::Shadow)), (u32::from(!both), both));
        assert_eq!(scene.writes, 0);
    }
}

/// T36: a shadow that falls silent in the middle of an answer that the client hears: the sweep resets the client, within the
/// budget, and that is counted.
#[test]
fn silence_in_the_middle_of_a_heard_answer_is_ended_by_the_sweep() {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    is(&scene.server(Side::Shadow, 0, HUGE, READ.len()), Verdict::Forwarded);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    scene.client_says(tcp::ACK, READ.len(), HUGE.len());
    scene.now_ms += scene.service.stall_ms - 1;
    assert_eq!(scene.sweeps().0, Due::Nothing);
    scene.now_ms += 1;
    let (due, step) = scene.sweeps();
    is(&step, Verdict::FailedMidAnswer);
    assert_eq!((due, step.to_client.flags & tcp::RST), (Due::Emit, tcp::RST));
}

/// T15: what a shadow says unasked is absorbed, is no later turn's answer, and costs nobody but its leg.
#[test]
fn the_shadows_unasked_answer_is_nobodys() {
    for refusal in [REFUSAL, BARE_REFUSAL] {
        let mut scene = Scene::established(true);
        let step = scene.server(Side::Shadow, 0, refusal, 0);
        is(&step, Verdict::Absorbed);
        assert_eq!((step.to_client.kind, scene.flow.has(Flow::OPAQUE)), (emit::NONE, false));
        assert_eq!(scene.flow.leg(Side::Shadow).answered, 0);
        is(&scene.says(Side::Shadow, tcp::FIN | tcp::ACK, refusal.len(), 0), Verdict::LegLost);
        scene.now_ms += 100;
        let step = scene.client(0, WRITE, 0);
        is(&step, Verdict::HeldDialling);
        scene.dial(&step);
        is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
        scene.server(Side::Primary, 0, ANSWER, WRITE.len());
        assert_eq!(scene.writes, 1, "the shadow hasn't answered it");
        scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
        assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (0, true));
    }
}

/// T15: the primary's 408 is the client's; a write that crosses it is done by neither.
#[test]
fn behind_the_primarys_unasked_answer_nothing_begins() {
    let mut scene = Scene::established(true);
    let step = scene.server(Side::Primary, 0, REFUSAL, 0);
    is(&step, Verdict::Forwarded);
    assert_eq!(step.to_client.kind, emit::FORWARD);
    let step = scene.client(0, WRITE, 0);
    is(&step, Verdict::HeldUnsettled);
    assert_eq!((step.to_leg.map(|emit| emit.kind), scene.writes), ([emit::NONE; 2], 0));
    let step = scene.says(Side::Primary, tcp::FIN | tcp::ACK, REFUSAL.len(), 0);
    is(&step, Verdict::Forwarded);
    assert_eq!(step.to_client.kind, emit::FORWARD);
    // As long as it may not have heard that, it isn't told more.
    is(&scene.client(0, WRITE, REFUSAL.len()), Verdict::HeldUnsettled);
    let step = scene.client(0, WRITE, REFUSAL.len() + 1);
    is(&step, Verdict::Reset);
    assert_eq!((step.to_client.flags & tcp::RST, scene.writes), (tcp::RST, 0));
    assert_eq!(step.to_leg.map(|emit| emit.flags & tcp::RST), [tcp::RST; 2]);
    assert_eq!(scene.flow.state, flow_state::ENDED);
}

/// T15: a primary that answers unasked, and goes on, can't be told apart any more: both legs, one authority, for life.
#[test]
fn a_primary_that_speaks_out_of_turn_is_followed_blindly() {
    let mut scene = Scene::established(true);
    is(&scene.server(Side::Primary, 0, BARE_REFUSAL, 0), Verdict::Forwarded);
    assert!(scene.flow.has(Flow::OPAQUE));
    is(&scene.client(0, WRITE, BARE_REFUSAL.len()), Verdict::Mirrored);
}

const UPLOAD: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 54\r\n\r\n";
const TOO_LARGE: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// T16: an upload that is refused early goes on to be one request: its body, which looks like two, begins no turn.
#[test]
fn an_early_answer_ends_no_request() {
    for both in [true, false] {
        let mut scene = Scene::established(true);
        is(&scene.client(0, UPLOAD, 0), Verdict::Mirrored);
        is(&scene.server(Side::Primary, 0, TOO_LARGE, UPLOAD.len()), Verdict::Forwarded);
        if both {
            scene.server(Side::Shadow, 0, TOO_LARGE, UPLOAD.len());
        }
        assert_eq!(scene.writes, i64::from(!both), "one answer is owed");
        let body = [READ, READ].concat();
        assert_eq!(body.len(), 54);
        for (n, piece) in body.chunks(27).enumerate() {
            is(&scene.client(UPLOAD.len() + 27 * n, piece, TOO_LARGE.len()), Verdict::Mirrored);
        }
        assert_eq!(scene.flow.turns, 1);
        // Behind it, nothing: the server has said that it closes.
        let end = UPLOAD.len() + body.len();
        is(&scene.client(end, WRITE, TOO_LARGE.len()), Verdict::HeldUnsettled);
        if !both {
            scene.server(Side::Shadow, 0, ANSWER, end);
        }
        assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (0, true));
    }
}

/// T38: the shadow's lost SYN is sent again with the client's next packet, or by the sweep.
#[test]
fn a_lost_syn_is_sent_again_by_whatever_comes_next() {
    let mut scene = Scene::open(true);
    scene.syn_ack(Side::Primary, 7);
    assert_eq!(scene.client_says(tcp::ACK, 0, 0).to_leg[1].kind, emit::NONE, "it may only be far");
    scene.now_ms += 200;
    let first = scene.client(0, READ, 0).to_leg[1];
    assert_eq!((first.kind, first.seq, first.mss, first.scale), (emit::SYN, LEG_ISS[1], 1_460, 7));
    scene.now_ms += 200;
    let (due, step) = scene.sweeps();
    assert_eq!((due, step.to_leg[1]), (Due::Emit, first));
    scene.now_ms += 200;
    assert_eq!(scene.client_says(tcp::ACK, READ.len(), 0).to_leg[1], first);
    is(&scene.syn_ack(Side::Shadow, 7), Verdict::SynAckAbsorbed);
}

/// T39: a closed port is dialled once in 100 ms, however much the client sends; its RST makes no SYN.
#[test]
fn a_closed_port_makes_no_storm() {
    let mut scene = Scene::established(true);
    let mut dialled = 0;
    is(&scene.says(Side::Shadow, tcp::RST, 0, 0), Verdict::LegLost);
    for n in 0..1_000 {
        scene.now_ms += 1;
        let step = scene.client(n * READ.len(), READ, n * ANSWER.len());
        if let Some(side) = step.dial() {
            dialled += 1;
            let dialled = Dialled { side: side as u32, port: 1_026, iss: LEG_ISS[1] };
            let segment = scene.segment();
            scene.run(|flow, terms, step| on_dialled(flow, &dialled, &segment, terms, step));
            let ack = LEG_ISS[1] + 1;
            let refusal = Segment { ack, flags: tcp::RST | tcp::ACK, ..scene.segment() };
            let step = scene.server_sends(Side::Shadow, &refusal);
            is(&step, Verdict::Refused);
            assert_eq!((step.dial(), step.to_leg[1].kind), (None, emit::NONE));
        }
        scene.server(Side::Primary, n * ANSWER.len(), ANSWER, (n + 1) * READ.len());
    }
    assert!((1..=10).contains(&dialled), "{dialled} dials in a second");
}

/// T25: bytes whose acknowledgement nobody who sees the connection would send got a right one from the gateway: the legs'
/// servers couldn't tell. Nor has a SYN, whatever else it says, a place in an open connection.
#[test]
fn blind_bytes_are_not_made_plausible() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
    let before = scene.flow;
    for acked in [u32::MAX - (1 << 27), 1 << 30] {
        let step = scene.client(READ.len(), WRITE, acked as usize);
        is(&step, Verdict::TurnedBack);
        assert_eq!(step.to_leg.map(|emit| emit.kind), [emit::NONE; 2]);
    }
    is(&scene.client_says(tcp::SYN | tcp::ACK, READ.len(), ANSWER.len()), Verdict::TurnedBack);
    assert_eq!(scene.flow, before);
    is(&scene.client(READ.len(), WRITE, 0), Verdict::Mirrored);
}

/// A segment of somebody who doesn't see the connection: at least one of its numbers is far from what it could be.
fn off_path() -> impl Strategy<Value = (u32, u32, u8, u16)> {
    let far = (1_u32 << 27)..(1 << 31);
    (far.clone(), far, 0_u8..64, 0_u16..200)
}

proptest! {
    /// T25: who guesses addresses and ports, but not the numbers, changes nothing but a counter, and hears no more than where
    /// the connection stands.
    #[test]
    fn off_path_segments_change_nothing(
        (far, behind, flags, payload) in off_path(), which in 0..3_usize, ahead in any::<bool>()
    ) {
        let mut scene = Scene::established(true);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        scene.server(Side::Primary, 0, ANSWER, READ.len());
        scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
        let at = scene.flow.client_next;
        // Either the sequence number is wrong, or the acknowledgement is.
        let seq = if ahead { at.wrapping_add(far) } else { at };
        let ack = if ahead { scene.flow.client_acked } else { scene.flow.client_acked.wrapping_sub(behind) };
        let flags = if ahead { flags } else { (flags | tcp::ACK) & !tcp::RST };
        let before = scene.flow;
        scene.now_ms += 1;
        let segment = Segment { flags, payload: u32::from(payload), ..scene.segment() };
        let step = match which {
            0 => scene.client_sends(&Segment { seq, ack, ..segment }),
            n => {
                let leg = before.legs[n - 1];
                let seq = leg.sent_max.wrapping_add(far);
                scene.server_sends(Side::BOTH[n - 1], &Segment { seq, ack: at.wrapping_add(leg.offset), ..segment })
            }
        };
        prop_assert_eq!(step.to_leg.map(|emit| emit.kind), [emit::NONE; 2]);
        prop_assert!(step.to_client.kind == emit::NONE || step.to_client.flags == tcp::ACK);
        prop_assert_eq!(scene.flow.state, flow_state::OPEN);
        scene.flow.last_ms = before.last_ms;
        scene.flow.set(Flow::QUIET, before.has(Flow::QUIET));
        prop_assert_eq!(scene.flow, before);
    }
}
