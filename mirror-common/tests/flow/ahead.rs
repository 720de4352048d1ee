//! Authority ahead: a leg that is behind answers a read. What it owes of earlier turns is absorbed, and the client hears it from
//! that answer's first byte on.

use mirror_common::protocol::http1::status::Statuses;

use super::*;

const OTHER: &[u8] = b"HTTP/1.1 203 OK\r\ncontent-length: 3\r\n\r\nyes";
const CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
const FAILED: &[u8] = b"HTTP/1.1 500 No\r\ncontent-length: 3\r\n\r\nbad";

/// A connection whose primary has answered `turns` reads, that the client has acknowledged; the shadow owes all of them.
struct Far {
    scene: Scene,
    sent: usize,
    answered: usize,
}

impl Far {
    fn behind(turns: usize) -> Far {
        let mut far = Far { scene: Scene::established(true), sent: 0, answered: 0 };
        for _ in 0..turns {
            far.turn(READ);
        }
        far
    }

    fn turn(&mut self, request: &[u8]) {
        is(&self.asks(request), Verdict::Mirrored);
        self.primary(ANSWER);
        self.answered += ANSWER.len();
    }

    fn asks(&mut self, request: &[u8]) -> Step {
        let step = self.scene.client(self.sent, request, self.answered);
        self.sent += request.len();
        step
    }

    /// The primary answers all that was asked: what follows is behind what the client has.
    fn primary(&mut self, answer: &[u8]) -> Step {
        self.scene.server(Side::Primary, self.answered, answer, self.sent)
    }

    /// The shadow's bytes at an offset of its stream; it has acknowledged all.
    fn shadow(&mut self, offset: usize, bytes: &[u8]) -> Step {
        self.scene.server(Side::Shadow, offset, bytes, self.sent)
    }

    /// The next read is the shadow's, though it owes `turns` answers.
    fn ahead(turns: usize) -> Far {
        let mut far = Far::behind(turns);
        far.scene.word = far.scene.word.with_weight(10_000);
        is(&far.asks(READ), Verdict::MirroredAhead);
        assert!(far.scene.flow.has(Flow::AHEAD) && far.scene.flow.has(Flow::MOVED));
        assert_eq!(far.scene.flow.answerer(), Side::Shadow);
        far
    }

    /// What a step shows the client of a segment: where that begins in its view, from which byte on, and how much.
    fn shows(&self, step: &Step, bytes: &[u8]) -> (usize, Vec<u8>) {
        let e = step.to_client;
        let at = e.seq.wrapping_sub(SERVER_ISS[0] + 1) as usize;
        match e.kind {
            emit::FORWARD => (at, bytes.to_vec()),
            emit::CUT => (at, bytes[usize::from(e.skip)..][..usize::from(e.mss)].to_vec()),
            _ => (at, Vec::new()),
        }
    }
}

/// T37: such a read stayed with the primary: on a busy connection to a far shadow each of them did.
#[test]
fn what_is_owed_is_absorbed_and_the_next_answer_is_the_clients() {
    let mut far = Far::ahead(3);
    // The primary's own answer to it is nobody's.
    let step = far.primary(OTHER);
    is(&step, Verdict::Absorbed);
    assert_eq!(step.to_client.kind, emit::NONE);
    for n in 0..3 {
        let step = far.shadow(n * ANSWER.len(), ANSWER);
        is(&step, Verdict::Absorbed);
        assert_eq!(step.to_leg[1].ack, SERVER_ISS[1] + 1 + ((n + 1) * ANSWER.len()) as u32);
        assert_eq!(far.shows(&step, ANSWER).1, b"");
    }
    let step = far.shadow(3 * ANSWER.len(), OTHER);
    is(&step, Verdict::Forwarded);
    assert_eq!(far.shows(&step, OTHER), (far.answered, OTHER.to_vec()));
    assert_eq!((far.scene.flow.authority(), far.scene.flow.has(Flow::AHEAD)), (Side::Shadow, false));
    assert!(!far.scene.flow.has(Flow::MOVED));
    // A write is the primary's at once: it has answered long ago.
    far.answered += OTHER.len();
    is(&far.asks(WRITE), Verdict::Mirrored);
    assert_eq!(far.scene.flow.authority(), Side::Primary);
}

/// A server whose answers wait for one another sends them in one segment: its end alone is the client's.
#[test]
fn of_answers_in_one_segment_the_last_one_is_the_clients() {
    let mut far = Far::ahead(3);
    let bytes = [ANSWER, ANSWER, ANSWER, OTHER].concat();
    let step = far.shadow(0, &bytes);
    is(&step, Verdict::TailForwarded);
    assert_eq!(far.shows(&step, &bytes), (far.answered, OTHER.to_vec()));
    // Sent again, the same is shown again.
    let step = far.shadow(0, &bytes);
    is(&step, Verdict::TailForwarded);
    assert_eq!(far.shows(&step, &bytes), (far.answered, OTHER.to_vec()));
    // What lies before it is acknowledged.
    let step = far.shadow(0, &bytes[..2 * ANSWER.len()]);
    is(&step, Verdict::Absorbed);
    assert_eq!(step.to_leg[1].ack, SERVER_ISS[1] + 1 + 3 * ANSWER.len() as u32);
}

/// The same with every cut into two segments: the client gets just the answer, and never a byte before it.
#[test]
fn wherever_the_segments_are_cut_it_is_just_the_answer() {
    let bytes = [ANSWER, ANSWER, OTHER].concat();
    for cut in 1..bytes.len() {
        let mut far = Far::ahead(2);
        let mut shown = Vec::new();
        for (at, piece) in [(0, &bytes[..cut]), (cut, &bytes[cut..])] {
            let step = far.shadow(at, piece);
            let (begin, piece) = far.shows(&step, piece);
            assert!(piece.is_empty() || begin == far.answered + shown.len(), "cut at {cut}");
            shown.extend(piece);
        }
        assert_eq!(String::from_utf8(shown).unwrap(), String::from_utf8_lossy(OTHER), "cut at {cut}");
    }
}

/// T41: a body's end is known before its bytes are sent; nothing beyond what was sent is acknowledged.
#[test]
fn a_body_that_is_still_to_come_isnt_acknowledged() {
    let mut far = Far::ahead(1);
    let body = ANSWER.len() - 2;
    let step = far.shadow(0, &ANSWER[..body]);
    is(&step, Verdict::Absorbed);
    assert_eq!(step.to_leg[1].ack, SERVER_ISS[1] + 1 + body as u32);
    // The body's last bytes are lost; nobody would have read them.
    let step = far.shadow(ANSWER.len(), OTHER);
    is(&step, Verdict::Forwarded);
    far.answered += OTHER.len();
    let step = far.scene.client_says(tcp::ACK, far.sent, far.answered);
    assert_eq!(step.to_leg[1].ack, SERVER_ISS[1] + 1 + (ANSWER.len() + OTHER.len()) as u32);
}

/// T36: it dies, owing answers: the primary, which hasn't begun its own, answers the read.
#[test]
fn a_read_whose_leg_dies_is_the_other_ones() {
    let mut far = Far::ahead(2);
    far.shadow(0, ANSWER);
    is(&far.scene.says(Side::Shadow, tcp::RST, ANSWER.len(), far.sent), Verdict::LegLost);
    assert_eq!(
        (far.scene.flow.authority(), far.scene.flow.has(Flow::AHEAD | Flow::MOVED)),
        (Side::Primary, false)
    );
    let step = far.primary(OTHER);
    is(&step, Verdict::Forwarded);
    assert_eq!(far.shows(&step, OTHER), (far.answered, OTHER.to_vec()));
}

/// The same behind the primary's answer, which nobody has heard: it is asked again, for the client was shown no acknowledgement.
#[test]
fn a_read_that_was_answered_to_nobody_is_asked_again() {
    let mut far = Far::ahead(2);
    let begin = far.sent - READ.len();
    far.primary(OTHER);
    let step = far.scene.says(Side::Shadow, tcp::RST | tcp::ACK, 0, far.sent);
    is(&step, Verdict::LegLost);
    assert_eq!(far.scene.flow.shown, ISS + 1 + begin as u32);
    let step = far.scene.client(begin, READ, far.answered);
    is(&step, Verdict::AskedAgain);
    let step = far.scene.server(Side::Primary, far.answered + OTHER.len(), OTHER, far.sent + READ.len());
    is(&step, Verdict::Forwarded);
    assert_eq!(far.shows(&step, OTHER), (far.answered, OTHER.to_vec()));
}

/// Its server closes with answers owed, as one does at its limit: the read is the other one's. So is it where that one's server
/// has said that it will close, too: then the connection's end isn't on its way, for the client has heard of neither.
#[test]
fn a_close_without_the_answer_is_a_lost_leg() {
    for primary in [ANSWER, CLOSE] {
        let mut far = Far::ahead(1);
        far.primary(primary);
        far.shadow(0, ANSWER);
        let step = far.scene.says(Side::Shadow, tcp::FIN | tcp::ACK, ANSWER.len(), far.sent);
        is(&step, Verdict::LegLost);
        assert!(!far.scene.flow.has(Flow::AHEAD));
        assert!(far.scene.flow.has(Flow::ASK_AGAIN));
    }
}

/// The primary may end its leg at its limit meanwhile: it is dialled anew, and the client hears the answer all the same.
#[test]
fn the_old_authority_may_close_while_nobody_hears_it() {
    let mut far = Far::ahead(1);
    far.primary(ANSWER);
    let at = far.answered + ANSWER.len();
    is(&far.scene.says(Side::Primary, tcp::FIN | tcp::ACK, at, far.sent), Verdict::LegLost);
    assert_eq!(far.scene.flow.leg(Side::Primary).state, leg_state::DOWN);
    let bytes = [ANSWER, OTHER].concat();
    let step = far.shadow(0, &bytes);
    is(&step, Verdict::TailForwarded);
    assert_eq!(far.shows(&step, &bytes), (far.answered, OTHER.to_vec()));
}

/// P5: a write is never given ahead. It waits for an answer that is under way, whoever gives it; and behind the answer it is the
/// word's authority's.
#[test]
fn a_write_waits_and_is_never_given_ahead() {
    let mut far = Far::ahead(2);
    is(&far.asks(WRITE), Verdict::HeldMoved);
    assert_eq!(far.scene.writes, 0);
    let mut far = Far::behind(1);
    far.scene.word = far.scene.word.with_authority(Side::Shadow);
    is(&far.asks(WRITE), Verdict::HeldUnsettled);
    assert!(!far.scene.flow.has(Flow::AHEAD));
}

/// The way back is the same: the word's authority is behind. What follows waits here, too.
#[test]
fn the_words_authority_may_be_the_one_that_is_behind() {
    let mut far = Far::behind(2);
    far.scene.word = far.scene.word.with_authority(Side::Shadow).with_weight(10_000);
    is(&far.asks(READ), Verdict::MirroredAhead);
    assert!(!far.scene.flow.has(Flow::MOVED));
    is(&far.asks(READ), Verdict::HeldMoved);
    far.sent -= READ.len();
    let bytes = [ANSWER, ANSWER, OTHER].concat();
    let step = far.shadow(0, &bytes);
    is(&step, Verdict::TailForwarded);
    assert_eq!(far.shows(&step, &bytes), (far.answered, OTHER.to_vec()));
}

/// Only what the client has whole was finished: a read behind an answer that it hasn't acknowledged stays where it was.
#[test]
fn behind_an_answer_that_the_client_has_not_acknowledged_nothing_is_given_ahead() {
    let mut far = Far::behind(2);
    far.scene.word = far.scene.word.with_weight(10_000);
    far.answered -= 1;
    is(&far.asks(READ), Verdict::KeptUnsettled);
}

/// So does one that is the connection's last: a server that is asked to end it does, whoever is heard.
#[test]
fn the_last_request_is_not_given_ahead() {
    let mut far = Far::behind(2);
    far.scene.word = far.scene.word.with_weight(10_000);
    is(&far.asks(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"), Verdict::KeptUnsettled);
}

/// Nor is an acknowledgement of the client's shown to a leg that it hasn't heard, nor to one that it hears no more.
#[test]
fn meanwhile_the_clients_acknowledgements_are_nobodys() {
    let mut far = Far::ahead(2);
    let step = far.scene.client_says(tcp::ACK, far.sent, far.answered);
    is(&step, Verdict::NoLeg);
}

/// A hostile shadow answers more than it was asked: that is never shown. It is lost by its clock, and the read is the other's.
#[test]
fn more_answers_than_were_asked_for_are_not_taken() {
    let mut far = Far::ahead(1);
    far.primary(ANSWER);
    let bytes = [ANSWER, OTHER, OTHER].concat();
    is(&far.shadow(0, &bytes), Verdict::BeyondHead);
    assert!(far.scene.flow.has(Flow::AHEAD));
    for _ in 0..3 {
        far.scene.now_ms += 300;
        far.scene.client_says(tcp::ACK, far.sent, far.answered);
    }
    assert_eq!(far.scene.flow.leg(Side::Shadow).state, leg_state::DOWN);
    assert!(far.scene.flow.has(Flow::ASK_AGAIN) && !far.scene.flow.has(Flow::AHEAD));
}

/// One that says of an earlier answer, which nobody hears, that it will close, and answers on: the client would have been told of
/// neither, and waited for ever behind it. An honest one ends.
#[test]
fn what_comes_behind_a_close_that_nobody_heard_is_not_taken() {
    for pieces in [vec![[CLOSE, OTHER].concat()], vec![CLOSE.to_vec(), OTHER.to_vec()]] {
        let mut far = Far::ahead(1);
        let mut at = 0;
        let mut step = Step::default();
        for piece in pieces {
            step = far.shadow(at, &piece);
            at += piece.len();
        }
        is(&step, Verdict::BeyondHead);
        assert!(far.scene.flow.has(Flow::AHEAD) && !far.scene.flow.has(Flow::CLOSING));
    }
    // Its own is heard.
    let mut far = Far::ahead(1);
    is(&far.shadow(0, &[ANSWER, CLOSE].concat()), Verdict::TailForwarded);
    assert!(far.scene.flow.has(Flow::CLOSING));
}

/// Behind a long body that nobody hears, the client would wait long: such a read stays where it was.
#[test]
fn the_rest_of_a_long_body_isnt_waited_for() {
    let head: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
    let mut far = Far::behind(1);
    far.shadow(0, head);
    far.scene.word = far.scene.word.with_weight(10_000);
    is(&far.asks(READ), Verdict::KeptUnsettled);
}

/// What is measured: errors that nobody heard aren't the client's, and one that it heard is.
#[test]
fn only_the_error_that_the_client_hears_is_counted_as_shown() {
    let mut far = Far::ahead(2);
    assert_eq!(far.primary(FAILED).measured.statuses, Statuses(0));
    let bytes = [FAILED, FAILED, OTHER].concat();
    let heard = far.shadow(0, &bytes).measured.statuses;
    assert_eq!((heard.of(4), heard), (0, Statuses::one(200)), "of three answers the last one alone");
    let mut far = Far::ahead(2);
    let bytes = [ANSWER, FAILED, FAILED].concat();
    let measured = far.shadow(0, &bytes).measured;
    assert_eq!((measured.statuses, measured.statuses_row), (Statuses::one(500), 2));
}

/// An answer so short that what comes in one packet with it can't be made a packet by itself ([`emit::LITTLE`]).
const LITTLE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A packet larger than a segment stays one. Behind a little it becomes one segment: the rest comes again.
#[test]
fn a_long_tail_is_shown_whole_and_behind_a_little_one_segment_of_it() {
    let long = [b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n".to_vec(), vec![b'x'; 5_000]].concat();
    let mut far = Far::ahead(1);
    let bytes = [ANSWER, &long].concat();
    let step = far.shadow(0, &bytes);
    is(&step, Verdict::TailForwarded);
    assert_eq!(far.shows(&step, &bytes), (far.answered, long.clone()));
    assert!(step.measured.ended != 0, "its end was seen");

    let mut far = Far::ahead(1);
    let bytes = [LITTLE, &long].concat();
    let step = far.shadow(0, &bytes);
    is(&step, Verdict::TailForwarded);
    assert_eq!(far.shows(&step, &bytes), (far.answered, long[..1_460].to_vec()));
    let at = LITTLE.len() + 1_460;
    let step = far.shadow(at, &bytes[at..]);
    is(&step, Verdict::Forwarded);
    assert_eq!(far.shows(&step, &bytes[at..]), (far.answered + 1_460, long[1_460..].to_vec()));
}

/// What the client hears first is told of by its own status: not by the one before it, where its own head isn't whole yet.
#[test]
fn the_status_is_the_heard_answers_own() {
    let status = |last: &[u8]| {
        let mut far = Far::ahead(1);
        far.shadow(0, &[ANSWER, last].concat()).measured.statuses
    };
    assert_eq!(status(OTHER), Statuses::one(203));
    assert_eq!(status(b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"), Statuses::one(500));
    assert_eq!(status(&FAILED[..9]), Statuses(0));
    assert_eq!(status(b"HTTP/1.1 100 Continue\r\n\r\n"), Statuses(0));
}

/// An end that comes with a tail of which a part alone is shown isn't shown with that; one that was announced is, with the rest.
#[test]
fn an_end_waits_for_the_rest_of_a_long_tail() {
    let long =
        [b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2000\r\n\r\n".to_vec(), vec![b'x'; 2_000]];
    let long = long.concat();
    let bytes = [LITTLE, &long].concat();
    let fin = tcp::FIN | tcp::ACK;
    let mut far = Far::ahead(1);
    let step = far.scene.server_flags(Side::Shadow, 0, &bytes, far.sent, fin);
    is(&step, Verdict::TailForwarded);
    assert_eq!(
        (far.shows(&step, &bytes), step.to_client.flags),
        ((far.answered, long[..1_460].to_vec()), tcp::ACK)
    );
    assert_eq!(far.scene.flow.view_next, SERVER_ISS[0] + 1 + (far.answered + 1_460) as u32);
    let at = LITTLE.len() + 1_460;
    let step = far.scene.server_flags(Side::Shadow, at, &bytes[at..], far.sent, fin);
    is(&step, Verdict::Forwarded);
    assert_eq!(far.scene.flow.view_next, SERVER_ISS[0] + 2 + (far.answered + long.len()) as u32);
    // A tail that fits is shown whole, and its end with it.
    let short = [ANSWER, CLOSE].concat();
    let mut far = Far::ahead(1);
    let step = far.scene.server_flags(Side::Shadow, 0, &short, far.sent, fin);
    is(&step, Verdict::TailForwarded);
    assert_eq!(step.to_client.flags, fin);
    assert_eq!(far.scene.flow.view_next, SERVER_ISS[0] + 2 + (far.answered + CLOSE.len()) as u32);
}

/// On the way back the answerer is the word's authority again: its server is told of the client's window, and the read is
/// nobody else's to ask for.
#[test]
fn ahead_on_the_way_back_the_answerer_is_the_primary() {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    is(&scene.server(Side::Shadow, 0, ANSWER, READ.len()), Verdict::Forwarded);
    scene.word = scene.word.with_weight(0);
    let step = scene.client(READ.len(), READ, ANSWER.len());
    is(&step, Verdict::MirroredAhead);
    assert_eq!((scene.flow.answerer(), scene.flow.has(Flow::MOVED)), (Side::Primary, false));
    assert_eq!(step.to_leg.map(|emit| emit.window), [1_000, 0xffff]);
}

/// A leg that is behind can be expected to go on in the middle of an answer that was asked for: of its head, or of its body.
/// In the middle of one that wasn't, nobody knows what comes next.
#[test]
fn a_leg_in_the_middle_of_an_owed_answer_catches_up_and_of_another_one_does_not() {
    for piece in [&ANSWER[..10], &ANSWER[..ANSWER.len() - 2]] {
        let mut far = Far::behind(1);
        far.shadow(0, piece);
        far.scene.word = far.scene.word.with_weight(10_000);
        is(&far.asks(READ), Verdict::MirroredAhead);
    }
    let mut far = Far::behind(1);
    far.shadow(0, &[ANSWER, &ANSWER[..10]].concat());
    far.scene.word = far.scene.word.with_weight(10_000);
    is(&far.asks(READ), Verdict::KeptUnsettled);
}

/// A client that has closed behind its read waits for it all the same: an answerer that ends without it is lost, and the read
/// asked again. The end of the one that nobody hears any more is nobody's.
#[test]
fn behind_the_clients_end_the_answerer_alone_is_missed() {
    let fin = tcp::FIN | tcp::ACK;
    for (side, verdict) in [(Side::Shadow, Verdict::LegLost), (Side::Primary, Verdict::FinAbsorbed)] {
        let mut far = Far::ahead(1);
        is(&far.scene.client_says(fin, far.sent, far.answered), Verdict::Mirrored);
        far.primary(ANSWER);
        far.shadow(0, ANSWER);
        let at = if side == Side::Primary { far.answered + ANSWER.len() } else { ANSWER.len() };
        is(&far.scene.says(side, fin, at, far.sent + 1), verdict);
    }
}

/// A tail that is just a segment is shown whole behind a little, and its end with it.
#[test]
fn a_tail_of_just_a_segment_is_shown_with_its_end() {
    let head: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1000\r\n\r\n";
    let head = String::from_utf8_lossy(head).replace("1000", &format!("{:04}", 1_460 - head.len()));
    let tail = [head.as_bytes(), &vec![b'x'; 1_460 - head.len()]].concat();
    let bytes = [LITTLE, &tail].concat();
    let fin = tcp::FIN | tcp::ACK;
    let mut far = Far::ahead(1);
    let step = far.scene.server_flags(Side::Shadow, 0, &bytes, far.sent, fin);
    is(&step, Verdict::TailForwarded);
    assert_eq!((far.shows(&step, &bytes), step.to_client.flags), ((far.answered, tail), fin));
}
