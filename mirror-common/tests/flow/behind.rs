//! A leg far behind the other one: reads go on without it.

use mirror_common::{
    flow::{Flow, Leg, Step},
    switch_word::Side,
    verdict::Verdict,
};

use super::{ANSWER, READ, Scene, is};

const HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n";
const HEAD_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";

/// A connection whose shadow acknowledges, and answers nothing.
struct Behind {
    scene: Scene,
    /// Bytes of the client's so far, and of the primary's answers.
    sent: usize,
    answered: usize,
}

impl Behind {
    fn new() -> Behind {
        Behind { scene: Scene::established(true), sent: 0, answered: 0 }
    }

    fn asks(&mut self, request: &[u8]) -> Step {
        let step = self.scene.client(self.sent, request, self.answered);
        self.sent += request.len();
        step
    }

    /// The primary answers what is asked; the shadow has it.
    fn turn(&mut self, request: &[u8], answer: &[u8]) {
        is(&self.asks(request), Verdict::Mirrored);
        self.scene.server(Side::Shadow, 0, b"", self.sent);
        self.scene.server(Side::Primary, self.answered, answer, self.sent);
        self.answered += answer.len();
    }
}

/// The 65th answer of a segment made the connection one that is never told apart again.
#[test]
fn a_hundred_answers_in_one_segment_settle_the_connection() {
    let mut behind = Behind::new();
    for _ in 0..100 {
        behind.turn(READ, ANSWER);
    }
    behind.scene.server(Side::Shadow, 0, &ANSWER.repeat(100), behind.sent);
    assert!(!behind.scene.flow.has(Flow::OPAQUE));
    assert_eq!(behind.scene.flow.leg(Side::Shadow).answered, 100);
}

/// Whether a request is a HEAD is known of the last 64 alone: the answer to one that was forgotten was read with a body.
#[test]
fn no_request_makes_an_outstanding_head_forgotten() {
    let mut behind = Behind::new();
    behind.turn(HEAD, HEAD_ANSWER);
    for _ in 0..63 {
        behind.turn(READ, ANSWER);
    }
    is(&behind.asks(READ), Verdict::HeldUnsettled);
    behind.sent -= READ.len();
    behind.scene.server(Side::Shadow, 0, &[HEAD_ANSWER, ANSWER].concat(), behind.sent);
    behind.turn(READ, ANSWER);
    behind.turn(READ, ANSWER);
    let at = HEAD_ANSWER.len() + ANSWER.len();
    behind.scene.server(Side::Shadow, at, &ANSWER.repeat(64), behind.sent);
    assert_eq!(behind.scene.flow.leg(Side::Shadow).answered, 66);
}

/// The same from the other end: the one that comes is the HEAD, or may become one.
#[test]
fn no_head_begins_where_it_would_be_taken_for_an_earlier_request() {
    let mut behind = Behind::new();
    for _ in 0..64 {
        behind.turn(READ, ANSWER);
    }
    is(&behind.asks(HEAD), Verdict::HeldUnsettled);
    behind.sent -= HEAD.len();
    is(&behind.asks(&HEAD[..3]), Verdict::HeldUnsettled);
    behind.sent -= 3;
    behind.turn(READ, ANSWER);
}

/// A connection that is told apart no more lost its mirror after the stall budget: one answer was never counted.
#[test]
fn a_leg_whose_answers_are_not_counted_owes_acknowledgements_alone() {
    let mut behind = Behind::new();
    behind.turn(READ, b"no HTTP");
    assert!(behind.scene.flow.has(Flow::OPAQUE));
    for _ in 0..10 {
        behind.scene.now_ms += 200;
        behind.turn(READ, ANSWER);
    }
    assert!(behind.scene.word.member(Side::Shadow));
}

/// T27: an answer of the mirror's was lost, and the gateway can't keep those behind it. The client asked on, and each timeout
/// of the mirror's server left another hole and was twice as long as the last, until the leg was lost.
#[test]
fn a_mirror_that_lost_an_answer_is_waited_for() {
    let mut behind = Behind::new();
    for _ in 0..40 {
        behind.turn(READ, ANSWER);
    }
    // The first one's is lost.
    behind.scene.server(Side::Shadow, ANSWER.len(), &ANSWER.repeat(23), behind.sent);
    is(&behind.asks(READ), Verdict::HeldUnsettled);
    behind.sent -= READ.len();
    behind.scene.server(Side::Shadow, 0, &ANSWER.repeat(24), behind.sent);
    is(&behind.asks(READ), Verdict::HeldUnsettled);
    behind.sent -= READ.len();
    let step = behind.scene.server(Side::Shadow, 24 * ANSWER.len(), ANSWER, behind.sent);
    assert_eq!(step.events & Step::WAKE, Step::WAKE);
    behind.turn(READ, ANSWER);
    is(&behind.asks(READ), Verdict::HeldUnsettled);
    behind.sent -= READ.len();
    // It has caught up: from now on it may be behind as before.
    behind.scene.server(Side::Shadow, 25 * ANSWER.len(), &ANSWER.repeat(16), behind.sent);
    for _ in 0..40 {
        behind.turn(READ, ANSWER);
    }
}

/// The same where both are HEADs: the one that is outstanding, and the one that comes.
#[test]
fn no_head_takes_the_place_of_an_outstanding_head() {
    let mut behind = Behind::new();
    behind.turn(HEAD, HEAD_ANSWER);
    for _ in 0..63 {
        behind.turn(READ, ANSWER);
    }
    is(&behind.asks(HEAD), Verdict::HeldUnsettled);
}

/// Where both have a hole, one in what nobody heard before a move and one behind it, both are waited for.
#[test]
fn two_legs_with_holes_are_waited_for_as_one_is() {
    let mut behind = Behind::new();
    for _ in 0..16 {
        behind.turn(READ, ANSWER);
    }
    for leg in &mut behind.scene.flow.legs {
        leg.flags |= Leg::HOLE;
    }
    is(&behind.asks(READ), Verdict::HeldUnsettled);
}
