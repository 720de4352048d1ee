//! A client breaks a request off in its middle.

use super::*;
use mirror_common::flow::{flow_state, sweep};

const FIN: u8 = tcp::FIN | tcp::ACK;
const RST: u8 = tcp::RST | tcp::ACK;
const HEAD: &[u8] = b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n";
const REFUSAL: &[u8] = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno";

impl Scene {
    /// An upload that has begun: so much of its body has gone to both, and been acknowledged by both. Returns how many bytes of
    /// the client's stream there are.
    fn upload(&mut self, offset: usize, body: usize) -> usize {
        let bytes = [HEAD, &vec![b'a'; body]].concat();
        is(&self.client(offset, &bytes, 0), Verdict::Mirrored);
        for side in Side::BOTH {
            let said = self.flow.leg(side).rcv_nxt.wrapping_sub(SERVER_ISS[side as usize] + 1) as usize;
            self.says(side, tcp::ACK, said, offset + bytes.len());
        }
        assert_eq!(self.writes, 1);
        offset + bytes.len()
    }

    /// Nothing is waited for, and no side is the worse for it.
    fn is_forgotten(&self) {
        assert_eq!((self.writes, self.doubts, self.word.member(Side::Shadow)), (0, 0, true));
    }

    /// As often as the daemon does, for so long.
    fn swept_for(&mut self, ms: u32) -> Due {
        let mut due = Due::Nothing;
        for _ in 0..ms / 50 {
            self.now_ms += 50;
            self.run(|flow, terms, step| due = on_sweep(flow, sweep::ACT, terms, step));
            if due == Due::Free {
                break;
            }
        }
        due
    }
}

/// T42: an upload that its client reset was waited for, and put the shadow out of sync when the stall budget was over.
#[test]
fn a_request_that_is_reset_in_its_middle_is_reset_at_both_and_waited_for_by_nobody() {
    for (body, stalled) in [(0, 0), (500, 0), (999, 0), (500, 100)] {
        let mut scene = Scene::established(true);
        let sent = scene.upload(0, body);
        if stalled > 0 {
            // On its way to the servers, and acknowledged by none.
            is(&scene.client(sent, &vec![b'b'; stalled], 0), Verdict::Mirrored);
        }
        let step = scene.client_says(RST, sent, 0);
        is(&step, Verdict::Reset);
        assert_eq!(step.to_leg.map(|emit| emit.flags), [RST; 2]);
        assert_eq!(step.to_leg.map(|emit| emit.seq), LEG_ISS.map(|iss| iss + 1 + sent as u32));
        scene.is_forgotten();
        assert_eq!(scene.swept_for(5_000), Due::Free);
        scene.is_forgotten();
    }
}

/// The same in the middle of its head.
#[test]
fn a_head_that_is_reset_in_its_middle_is_waited_for_by_nobody() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, &HEAD[..20], 0), Verdict::Mirrored);
    assert_eq!(scene.writes, 1);
    is(&scene.client_says(RST, 20, 0), Verdict::Reset);
    scene.is_forgotten();
}

/// T42: a whole write before it is still owed: its leg is followed until it has answered that, and that alone.
#[test]
fn what_came_whole_before_it_is_waited_for() {
    for answers in [true, false] {
        let mut scene = Scene::established(true);
        scene.client(0, WRITE, 0);
        let sent = scene.upload(WRITE.len(), 10);
        scene.server(Side::Primary, 0, ANSWER, sent);
        let step = scene.client_says(RST, sent, ANSWER.len());
        is(&step, Verdict::Reset);
        assert_eq!(step.to_leg.map(|emit| emit.kind), [emit::BARE, emit::NONE]);
        assert_eq!(scene.writes, 1);
        if answers {
            let step = scene.server(Side::Shadow, 0, ANSWER, sent);
            assert_eq!(step.to_leg[1].flags, RST);
            scene.is_forgotten();
        } else {
            scene.says(Side::Shadow, tcp::RST, 0, sent);
            assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (0, false));
        }
    }
}

/// T16: a side that has answered before the request was whole may have done something: the other one must answer, too.
#[test]
fn what_one_side_has_answered_early_is_owed_by_the_other() {
    for answers in [true, false] {
        let mut scene = Scene::established(true);
        let sent = scene.upload(0, 10);
        scene.server(Side::Primary, 0, REFUSAL, sent);
        is(&scene.client_says(RST, sent, REFUSAL.len()), Verdict::Reset);
        assert_eq!((scene.writes, scene.flow.state), (1, flow_state::ENDED));
        if answers {
            scene.server(Side::Shadow, 0, REFUSAL, sent);
        } else {
            assert_eq!(scene.swept_for(600), Due::Free);
        }
        assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (0, answers));
    }
}

/// T11: a client's end in the middle of its request is both servers' to judge; what they make of it was in doubt, and the next
/// write put the shadow out of sync.
#[test]
fn a_request_that_ends_with_its_connection_is_waited_for_by_nobody() {
    for (body, flags) in [(500, FIN), (500, RST), (999, FIN), (0, FIN)] {
        let mut scene = Scene::established(true);
        let sent = scene.upload(0, body);
        is(&scene.client_says(FIN, sent, 0), Verdict::Mirrored);
        scene.is_forgotten();
        for side in Side::BOTH {
            scene.says(side, flags, 0, sent + 1);
        }
        scene.client_says(tcp::ACK, sent + 1, 1);
        assert_eq!(scene.swept_for(5_000), Due::Free);
        scene.is_forgotten();
    }
}

/// An authority that died in the middle of an upload left the mirror with a write that it could never end: out of sync, with
/// nobody to take over.
#[test]
fn an_authority_that_is_lost_in_the_middle_of_a_request_leaves_no_doubt() {
    let mut scene = Scene::established(true);
    let sent = scene.upload(0, 500);
    let step = scene.says(Side::Primary, RST, 0, sent);
    is(&step, Verdict::Reset);
    assert_eq!((step.to_client.flags, step.to_leg[1].flags), (RST, RST));
    scene.is_forgotten();
    scene.swept_for(1_000);
    scene.is_forgotten();
}

/// An authority that waited for the rest for long enough closes, and has done nothing: nor may the mirror, should it come.
#[test]
fn what_the_authority_gave_up_before_it_was_whole_never_is_so_at_the_mirror() {
    let mut scene = Scene::established(true);
    let sent = scene.upload(0, 500);
    let step = scene.says(Side::Primary, FIN, 0, sent);
    is(&step, Verdict::Forwarded);
    assert_eq!(step.to_leg[1].flags, RST);
    scene.is_forgotten();
    let step = scene.client(sent, &[b'a'; 500], 1);
    assert_eq!(step.to_leg.map(|emit| emit.kind), [emit::FORWARD, emit::NONE]);
    scene.is_forgotten();
}

/// A mirror that gives a request up before it is whole lacks nothing yet: it does when the rest comes, and before the authority
/// can have done it.
#[test]
fn a_mirror_that_gave_a_request_up_is_out_of_sync_when_it_is_whole() {
    for (flags, rest) in [(FIN, 0), (FIN, 499), (FIN, 500), (RST, 0), (RST, 500)] {
        let mut scene = Scene::established(true);
        let sent = scene.upload(0, 500);
        is(&scene.says(Side::Shadow, flags, 0, sent), Verdict::LegLost);
        assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (1, true));
        if rest > 0 {
            is(&scene.client(sent, &vec![b'a'; rest], 0), Verdict::Forwarded);
        }
        assert_eq!(scene.word.member(Side::Shadow), rest < 500);
        if rest < 500 {
            is(&scene.client_says(RST, sent, 0), Verdict::Reset);
            scene.is_forgotten();
        }
    }
}

/// A client that falls silent in the middle of its request: nothing is lost with it, however its connection ends.
#[test]
fn a_client_that_vanished_in_the_middle_of_its_request_costs_nobody_anything() {
    let mut scene = Scene::established(true);
    scene.upload(0, 500);
    assert_ne!(scene.swept_for(59_000), Due::Free);
    assert_eq!(scene.writes, 1);
    assert_eq!(scene.swept_for(2_000), Due::Free);
    scene.is_forgotten();
}

/// A move that may break requests off does so to those that their clients haven't sent whole, and to no others.
#[test]
fn a_move_breaks_off_what_waits_for_its_client_alone() {
    let broken_off = |scene: &mut Scene| {
        let how = sweep::ACT | sweep::BREAK_OFF;
        let mut due = Due::Nothing;
        scene.run(|flow, terms, step| due = on_sweep(flow, sweep::BREAK_OFF, terms, step));
        let looked = due;
        let step = scene.run(|flow, terms, step| due = on_sweep(flow, how, terms, step));
        assert_eq!(looked, due);
        (due, step)
    };
    let mut scene = Scene::established(true);
    scene.upload(0, 500);
    let (due, step) = broken_off(&mut scene);
    is(&step, Verdict::BrokenOff);
    assert_eq!((due, step.to_client.flags), (Due::Emit, RST));
    assert_eq!(step.to_leg.map(|emit| emit.flags), [RST; 2]);
    scene.is_forgotten();
    // Whole; or answered by one; or behind a whole one.
    let mut whole = Scene::established(true);
    whole.client(0, WRITE, 0);
    let mut answered = Scene::established(true);
    let sent = answered.upload(0, 500);
    answered.server(Side::Primary, 0, REFUSAL, sent);
    let mut behind = Scene::established(true);
    behind.client(0, WRITE, 0);
    behind.upload(WRITE.len(), 500);
    for scene in [&mut whole, &mut answered, &mut behind] {
        let (due, step) = broken_off(scene);
        assert_eq!((due, step.to_client.kind, scene.writes), (Due::Nothing, emit::NONE, 1));
    }
}

/// A request that was sent ahead began in the segment that ended the one that the mirror had given up: nobody noticed its end.
#[test]
fn a_mirror_that_gave_a_request_up_is_out_of_sync_when_the_next_one_begins() {
    let mut scene = Scene::established(true);
    let sent = scene.upload(0, 500);
    is(&scene.says(Side::Shadow, FIN, 0, sent), Verdict::LegLost);
    assert!(scene.word.member(Side::Shadow));
    scene.client(sent, &[&vec![b'a'; 500], HEAD].concat(), 0);
    assert!(!scene.word.member(Side::Shadow));
}

/// T42: a client that closes while it is answered, and resets as the rest comes, has a whole request at both servers: the one
/// that has answered has done it, and the other one is followed until it has, too.
#[test]
fn a_whole_request_whose_client_resets_in_its_answer_is_still_owed() {
    let mut scene = Scene::established(true);
    scene.client(0, READ, 0);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    scene.says(Side::Shadow, tcp::ACK, 0, READ.len());
    let asked = READ.len() + WRITE.len();
    for (i, piece) in WRITE.chunks(16).enumerate() {
        is(&scene.client(READ.len() + 16 * i, piece, ANSWER.len()), Verdict::Mirrored);
    }
    let (head, body) = ANSWER.split_at(ANSWER.len() - 2);
    scene.server(Side::Primary, ANSWER.len(), head, asked);
    let told = ANSWER.len() + head.len();
    scene.client_says(FIN, asked, told);
    scene.server(Side::Primary, told, body, asked + 1);
    let step = scene.client_says(tcp::RST, READ.len(), told);
    is(&step, Verdict::Reset);
    assert_eq!(step.to_leg[1].kind, emit::NONE);
    assert_eq!(scene.writes, 1);
}

const CHUNKED: &[u8] = b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";

/// T16: a whole request of chunks is owed, one that isn't whole is not.
#[test]
fn an_upload_in_chunks_that_is_reset_is_owed_where_it_is_whole() {
    for sent in [CHUNKED.len(), CHUNKED.len() - 1, CHUNKED.len() - 8] {
        let mut scene = Scene::established(true);
        is(&scene.client(0, &CHUNKED[..sent], 0), Verdict::Mirrored);
        assert_eq!(scene.writes, 1);
        let whole = sent == CHUNKED.len();
        if whole {
            scene.server(Side::Primary, 0, ANSWER, sent);
        }
        is(&scene.client_says(RST, 0, if whole { ANSWER.len() } else { 0 }), Verdict::Reset);
        if !whole {
            scene.is_forgotten();
            continue;
        }
        assert_eq!((scene.writes, scene.flow.state), (1, flow_state::ENDED));
        scene.server(Side::Shadow, 0, ANSWER, sent);
        scene.is_forgotten();
    }
}

/// P1: what an opaque connection asks for isn't known. Where its client resets it, the mirror must have what the authority has.
#[test]
fn of_an_opaque_connection_that_is_reset_the_mirror_must_have_what_the_authority_has() {
    let connect = b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n";
    for (acked, fin, remains) in [
        ([0, 0], false, true),
        ([connect.len(), 0], false, false),
        ([0, connect.len()], false, true),
        ([connect.len(); 2], false, true),
        ([connect.len() + 1, connect.len()], true, true),
        ([connect.len() + 1, 0], true, false),
    ] {
        let mut scene = Scene::established(true);
        scene.client(0, connect, 0);
        assert!(scene.flow.has(Flow::OPAQUE) && scene.writes == 0);
        if fin {
            scene.client_says(FIN, connect.len(), 0);
        }
        for side in Side::BOTH {
            scene.says(side, tcp::ACK, 0, acked[side as usize]);
        }
        let at = acked[0].min(acked[1]);
        is(&scene.client_says(RST, at, 0), Verdict::Reset);
        assert_eq!(scene.word.member(Side::Shadow), remains, "{acked:?}");
    }
}

/// T16: where an upload in chunks ends isn't known while some of it is missing. It goes on at the pace of any other, is owed as
/// any other, and ends where its answer does.
#[test]
fn a_hole_in_chunks_holds_nothing_back_and_the_answer_ends_it() {
    let mut scene = Scene::established(true);
    let (first, whole) = (CHUNKED.len() - 12, CHUNKED.len());
    is(&scene.client(0, &CHUNKED[..first], 0), Verdict::Mirrored);
    is(&scene.client(first + 6, &CHUNKED[first + 6..], 0), Verdict::Mirrored);
    is(&scene.client(first, &CHUNKED[first..first + 6], 0), Verdict::Mirrored);
    assert_eq!((scene.writes, scene.flow.has(Flow::OPAQUE)), (1, false));
    scene.server(Side::Primary, 0, ANSWER, whole);
    assert_eq!(scene.writes, 1, "the shadow owes it");
    scene.server(Side::Shadow, 0, ANSWER, whole);
    assert_eq!(scene.writes, 0);
    is(&scene.client(whole, READ, ANSWER.len()), Verdict::Mirrored);
    assert_eq!((scene.flow.turns, scene.flow.has(Flow::OPAQUE)), (2, false));
}

/// T16: the rest of a body that was answered early is no request.
#[test]
fn behind_a_hole_the_rest_of_a_body_that_was_answered_early_is_no_request() {
    let mut scene = Scene::established(true);
    let (first, second) = (CHUNKED.len() - 12, CHUNKED.len() - 3);
    scene.client(0, &CHUNKED[..first], 0);
    scene.client(first + 6, &CHUNKED[first + 6..second], 0);
    scene.client(first, &CHUNKED[first..first + 6], 0);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, second);
    }
    is(&scene.client(second, &CHUNKED[second..], ANSWER.len()), Verdict::Mirrored);
    assert!(scene.flow.has(Flow::OPAQUE) && scene.writes == 0);
}

/// A move breaks off what alone is owed: though a leg is behind in reads before it, which nobody waits for; and where there
/// is one leg only, which has answered the write before.
#[test]
fn what_is_owed_beside_it_is_no_write() {
    let broken_off = |scene: &mut Scene| {
        let how = sweep::ACT | sweep::BREAK_OFF;
        let step = scene.run(|flow, terms, step| {
            on_sweep(flow, how, terms, step);
        });
        step.verdict == Verdict::BrokenOff as u8
    };
    let mut behind = Scene::established(true);
    for n in 0..2 {
        is(&behind.client(n * READ.len(), READ, n * ANSWER.len()), Verdict::Mirrored);
        behind.server(Side::Primary, n * ANSWER.len(), ANSWER, (n + 1) * READ.len());
    }
    is(&behind.client(2 * READ.len(), HEAD, 2 * ANSWER.len()), Verdict::Mirrored);
    assert!(broken_off(&mut behind));
    let mut alone = Scene::established(false);
    alone.client(0, WRITE, 0);
    alone.client(WRITE.len(), HEAD, 0);
    assert!(!broken_off(&mut alone), "it owes the first one, too");
    alone.server(Side::Primary, 0, ANSWER, WRITE.len());
    assert!(broken_off(&mut alone));
}
