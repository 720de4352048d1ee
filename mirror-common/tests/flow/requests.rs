//! What of the client's bytes goes where: what is new, what comes again, and what goes on of a segment that must wait.

use super::*;

const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\n";
const REST_OF_CHUNKED: &[u8] = b"abc\r\n0\r\n\r\n";

fn kinds(step: &Step) -> [u8; 2] {
    step.to_leg.map(|emit| emit.kind)
}

/// T25: what has no acknowledgement, or lies beyond all that the client was let send, isn't its own. Taken for it, a
/// stranger's segment would keep an idle connection's slot for as long as it liked, and reach the server.
#[test]
fn what_is_not_within_the_window_or_acknowledges_nothing_changes_nothing() {
    let beyond = |scene: &Scene| scene.flow.shown_edge.wrapping_add(65_537);
    for (flags, far) in [(tcp::PSH, false), (0, false), (tcp::ACK, true)] {
        let mut scene = Scene::established(true);
        let seq = if far { beyond(&scene) } else { scene.flow.client_next };
        let before = scene.flow;
        let segment = Segment { seq, ack: scene.flow.view_next, flags, ..scene.segment() };
        scene.now_ms += 1;
        let step = scene.client_sends(&Segment { now_ms: scene.now_ms, ..segment });
        is(&step, Verdict::OutOfWindow);
        assert_eq!((kinds(&step), step.to_client.kind, scene.flow), ([emit::NONE; 2], emit::NONE, before));
    }
    let mut opening = Scene::open(true);
    let before = opening.flow;
    is(&opening.client_says(tcp::ACK, 0, 0), Verdict::OutOfWindow);
    assert_eq!(opening.flow, before);
}

/// P4: what the client was shown as received is nobody's any more, though new bytes come in the same segment: a leg that was
/// dialled anew since would take it for the beginning of what it is fed. The client sends the new ones again by themselves.
#[test]
fn what_begins_before_the_shown_acknowledgement_is_turned_back() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    let step = scene.client(0, &[READ, READ].concat(), ANSWER.len());
    is(&step, Verdict::TurnedBack);
    assert_eq!((kinds(&step), scene.flow.turns), ([emit::NONE; 2], 1));
    assert_eq!((step.to_client.kind, step.to_client.ack), (emit::BARE, scene.flow.client_next));
}

/// T36: a read that must be asked again, and comes joined with what must wait behind it: it goes to the authority alone. Held
/// as a whole, it would wait for its own answer.
#[test]
fn a_read_that_is_asked_again_is_so_though_another_request_comes_with_it() {
    let asked_again = |returning: bool| {
        let mut scene = Scene::established(true);
        scene.word = scene.word.with_weight(10_000);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        scene.server(Side::Primary, 0, ANSWER, READ.len());
        is(&scene.says(Side::Shadow, tcp::RST, 0, READ.len()), Verdict::LegLost);
        assert!(scene.flow.has(Flow::ASK_AGAIN) && !scene.flow.has(Flow::RETURNING));
        scene.flow.set(Flow::RETURNING, returning);
        let step = scene.client(0, &[READ, WRITE].concat(), 0);
        (step, scene)
    };
    let (step, scene) = asked_again(false);
    is(&step, Verdict::PartForwarded);
    assert_eq!((kinds(&step), step.to_leg[0].mss), ([emit::CUT, emit::NONE], READ.len() as u16));
    assert_eq!(step.to_leg[0].seq, LEG_ISS[0] + 1 + READ.len() as u32, "behind what it has had");
    assert_eq!((step.hold_copy, scene.flow.has(Flow::ASK_AGAIN)), (1, false));
    let (step, scene) = asked_again(true);
    is(&step, Verdict::HeldMoved);
    assert!(scene.flow.has(Flow::ASK_AGAIN), "the leg that is waited for hasn't finished");
}

/// A body's rest, so long, and a write behind it that must wait: what the servers lack of the segment.
fn rest_of_a_body(length: usize, has: &[Side], down: bool) -> Step {
    let head = format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    let mut scene = Scene::established(true);
    scene.flow.shown_edge += 1 << 20;
    is(&scene.client(0, head.as_bytes(), 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.says(side, tcp::ACK, 0, head.len());
    }
    for side in has {
        scene.flow.leg_mut(*side).acked += length as u32;
    }
    if down {
        scene.flow.leg_mut(Side::Shadow).state = leg_state::DOWN;
    }
    scene.word = scene.word.with_frozen(true);
    scene.client(head.len(), &[&vec![b'x'; length], WRITE].concat(), 0)
}

/// It goes to those that lack it: a leg that has it all would answer each such piece with an acknowledgement, which looks
/// like a loss; and one that is down can't be sent a thing.
#[test]
fn of_a_segment_that_waits_the_known_part_goes_to_who_lacks_it() {
    for (has, down, to) in [
        (&[][..], false, [emit::CUT; 2]),
        (&[Side::Primary][..], false, [emit::NONE, emit::CUT]),
        (&[Side::Shadow][..], false, [emit::CUT, emit::NONE]),
        (&[][..], true, [emit::CUT, emit::NONE]),
    ] {
        let step = rest_of_a_body(100, has, down);
        is(&step, Verdict::PartForwarded);
        assert_eq!(kinds(&step), to, "{has:?} {down}");
    }
}

/// A part that its field can't say would leave as one of no bytes, or of a few: it waits with the rest.
#[test]
fn a_part_that_is_too_long_to_be_said_waits() {
    let step = rest_of_a_body(0xffff, &[], false);
    is(&step, Verdict::PartForwarded);
    assert_eq!(step.to_leg.map(|emit| emit.mss), [0xffff; 2]);
    let step = rest_of_a_body(0x1_0000, &[], false);
    is(&step, Verdict::HeldFrozen);
    assert_eq!(kinds(&step), [emit::NONE; 2]);
}

/// What comes again goes to the leg that lacks it, and nothing is held for one that is down and has it: the copy would take
/// room in the TAP, and come back for nothing.
#[test]
fn nothing_is_held_for_a_leg_that_lacks_nothing() {
    for (lacks, verdict, hold) in [(0, Verdict::Forwarded, 0), (1, Verdict::HeldDialling, 1)] {
        let mut scene = Scene::established(true);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        let next = scene.flow.client_next;
        let leg = scene.flow.leg_mut(Side::Shadow);
        (leg.state, leg.acked, leg.dialled_ms) = (leg_state::DOWN, next - lacks, 1_000);
        let step = scene.client(0, READ, 0);
        is(&step, verdict);
        assert_eq!((step.hold_copy, step.to_leg[0].kind), (hold, emit::FORWARD));
    }
}

/// The end of a body in chunks is known where none is missing: the next request begins without an answer to this one.
#[test]
fn chunks_without_a_hole_are_followed_to_their_end() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, CHUNKED, 0), Verdict::Mirrored);
    is(&scene.client(CHUNKED.len(), REST_OF_CHUNKED, 0), Verdict::Mirrored);
    is(&scene.client(CHUNKED.len() + REST_OF_CHUNKED.len(), READ, 0), Verdict::Mirrored);
    assert_eq!(scene.flow.turns, 2);
}

/// Over a hole they end with the answer of a server that has all: by either alone, more of the body would be taken for a
/// request, and the connection for one of another protocol, for good.
#[test]
fn chunks_with_a_hole_end_with_the_answer_to_all_of_them() {
    let hole = CHUNKED.len() + 20;
    let asked = |answers: bool, acked: usize| {
        let mut scene = Scene::established(true);
        is(&scene.client(0, CHUNKED, 0), Verdict::Mirrored);
        is(&scene.client(hole, b"xyz", 0), Verdict::Mirrored);
        scene.server(Side::Primary, 0, if answers { ANSWER } else { b"" }, acked);
        is(&scene.client(hole + 3, b"\x01\x02", 0), Verdict::Mirrored);
        (scene.flow.turns, scene.flow.has(Flow::OPAQUE))
    };
    assert_eq!(asked(false, hole + 3), (1, false), "acknowledged, and not answered");
    assert_eq!(asked(true, CHUNKED.len()), (1, false), "answered, and not acknowledged");
    assert_eq!(asked(true, hole + 3), (1, true), "what comes behind the answer is no request");
}

/// A request's rest begins no turn, and waits for none: a freeze would wait for the very write whose rest it holds.
#[test]
fn the_rest_of_a_request_does_not_wait() {
    for cut in [10, WRITE.len() - 3] {
        let mut scene = Scene::established(true);
        is(&scene.client(0, &WRITE[..cut], 0), Verdict::Mirrored);
        scene.word = scene.word.with_frozen(true);
        is(&scene.client(cut, &WRITE[cut..], 0), Verdict::Mirrored);
        assert_eq!(scene.flow.turns, 1);
    }
    let mut scene = Scene::established(true);
    is(&scene.client(0, CHUNKED, 0), Verdict::Mirrored);
    scene.word = scene.word.with_frozen(true);
    is(&scene.client(CHUNKED.len(), REST_OF_CHUNKED, 0), Verdict::Mirrored);
}

/// An empty line between two requests is neither (RFC 9112, 2.2), and asks nothing of a turn that is under way.
#[test]
fn an_empty_line_between_requests_begins_no_turn() {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    assert!(scene.flow.has(Flow::MOVED));
    is(&scene.client(READ.len(), b"\r\n", 0), Verdict::Mirrored);
    assert_eq!(scene.flow.turns, 1);
}

/// The last request's body says nothing of the next one: behind it none is done (RFC 9112, 9.6).
#[test]
fn the_body_of_the_last_request_does_not_make_another_one_its_last() {
    const LAST: &[u8] =
        b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\n";
    let mut scene = Scene::established(true);
    is(&scene.client(0, LAST, 0), Verdict::Mirrored);
    is(&scene.client(LAST.len(), REST_OF_CHUNKED, 0), Verdict::Mirrored);
    is(&scene.client(LAST.len() + REST_OF_CHUNKED.len(), READ, 0), Verdict::HeldUnsettled);
}

/// What is said of a request that is held for a leg is that, whoever answers it; of one that went to both, who does.
#[test]
fn a_held_request_is_told_of_as_held() {
    let kept = |state: u8| {
        let mut scene = Scene::established(true);
        scene.word = scene.word.with_weight(10_000);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        scene.server(Side::Primary, 0, ANSWER, READ.len());
        scene.server(Side::Shadow, 0, ANSWER, READ.len());
        // Its client hasn't acknowledged all: the next read stays where it was, and would be the primary's.
        scene.word = scene.word.with_weight(0);
        let leg = scene.flow.leg_mut(Side::Primary);
        (leg.state, leg.dialled_ms) = (state, 1_000);
        scene.client(READ.len(), READ, 0)
    };
    is(&kept(leg_state::OPEN), Verdict::KeptUnsettled);
    is(&kept(leg_state::DIALLING), Verdict::HeldDialling);
}

/// What waits for a leg's handshake is a copy, and is let go by that alone: the servers' segments woke the daemon, each of
/// one long answer, until the client went on, and for as long as the connection lasted where it is told apart no more.
#[test]
fn what_waits_for_a_handshake_is_woken_by_nothing_else() {
    const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for says in [READ, HELLO] {
        let mut scene = Scene::open(true);
        scene.syn_ack(Side::Primary, 7);
        is(&scene.client(0, says, 0), Verdict::HeldDialling);
        assert_eq!(scene.syn_ack(Side::Shadow, 7).events & Step::WAKE, Step::WAKE);
        is(&scene.client(0, says, 0), Verdict::Mirrored);
        assert_eq!(scene.flow.has(Flow::OPAQUE), says == HELLO);
        let answer = |scene: &mut Scene, at: usize, asked: usize| {
            let step = scene.server(Side::Primary, at, ANSWER, asked);
            is(&step, Verdict::Forwarded);
            assert_eq!(step.events & Step::WAKE, 0);
        };
        answer(&mut scene, 0, says.len());
        // The client goes on.
        is(&scene.client(says.len(), says, ANSWER.len()), Verdict::Mirrored);
        assert!(!scene.flow.has(Flow::HELD));
        answer(&mut scene, ANSWER.len(), 2 * says.len());
    }
}

/// As long as a leg is dialled, what comes for it waits.
#[test]
fn what_comes_while_a_leg_is_dialled_waits_with_what_came_before() {
    const UPLOAD: &[u8] = b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab";
    let mut scene = Scene::open(true);
    scene.syn_ack(Side::Primary, 7);
    is(&scene.client(0, UPLOAD, 0), Verdict::HeldDialling);
    is(&scene.client(UPLOAD.len(), b"cd", 0), Verdict::HeldDialling);
    assert!(!scene.flow.has(Flow::HELD), "it was taken in");
    is(&scene.client(0, UPLOAD, 0), Verdict::HeldDialling);
    scene.syn_ack(Side::Shadow, 7);
    is(&scene.client(0, UPLOAD, 0), Verdict::Mirrored);
    is(&scene.client(UPLOAD.len(), b"cd", 0), Verdict::Mirrored);
}
