//! A leg is lost: who is out of sync by that, what its successor begins with, and when it is dialled.

use mirror_common::{
    abi::{Event, backend},
    flow::{Due, LossReason, flow_state, sweep},
};

use super::*;

const FIN: u8 = tcp::FIN | tcp::ACK;
const HEAD_OF_WRITE: usize = WRITE.len() - 2;

/// Both legs have answered a read, which the client has acknowledged; the next request begins behind these many bytes.
fn served() -> Scene {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    is(&scene.client_says(tcp::ACK, READ.len(), ANSWER.len()), Verdict::Forwarded);
    scene
}

/// A write crosses the mirror's close of an idle connection: its server has read nothing of it, and so it isn't owed (RFC 9112,
/// 9.6). The successor is fed that write from its first byte on.
#[test]
fn a_write_that_crosses_the_mirrors_close_is_its_successors() {
    let mut scene = served();
    is(&scene.client(READ.len(), WRITE, ANSWER.len()), Verdict::Mirrored);
    scene.now_ms += 100;
    let lost = scene.says(Side::Shadow, FIN, ANSWER.len(), READ.len());
    is(&lost, Verdict::LegLost);
    assert_eq!(lost.reason, LossReason::Closed as u8);
    assert!(scene.word.member(Side::Shadow), "it was never asked");
    let leg = scene.flow.leg(Side::Shadow);
    assert_eq!((leg.state, leg.acked), (leg_state::DOWN, ISS + 1 + READ.len() as u32));
    assert_eq!((leg.answered, leg.fed, scene.writes), (1, 1, 1));
    scene.dial(&lost);
    // The primary has it, and the client repeats what it was shown no acknowledgement of.
    scene.server(Side::Primary, ANSWER.len(), ANSWER, READ.len() + WRITE.len());
    let step = scene.client(READ.len(), WRITE, 2 * ANSWER.len());
    is(&step, Verdict::Forwarded);
    assert_eq!(step.to_leg.map(|emit| emit.kind), [emit::NONE, emit::FORWARD]);
    assert_eq!(step.to_leg[1].seq, LEG_ISS[1] + 1);
    scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
    assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (0, true));
}

/// T31: behind how many requests a server closes is told where it said so in its last answer, and nobody asked for it.
#[test]
fn a_close_that_was_said_tells_how_many_requests_were_answered() {
    const CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    const LAST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    for (request, answer, answered) in [(READ, CLOSE, 2), (READ, ANSWER, 0), (LAST, CLOSE, 0)] {
        let mut scene = served();
        let asked = READ.len() + request.len();
        is(&scene.client(READ.len(), request, ANSWER.len()), Verdict::Mirrored);
        scene.server(Side::Primary, ANSWER.len(), ANSWER, asked);
        scene.server(Side::Shadow, ANSWER.len(), answer, asked);
        let lost = scene.says(Side::Shadow, FIN, ANSWER.len() + answer.len(), asked);
        assert_eq!(lost.answered, answered);
        assert!(answered == 0 || lost.events & Step::LEG_LOST != 0);
    }
}

/// Whatever else the mirror's end may be, the write may have been begun: by a reset, behind a part of it, over an answer that is
/// missing.
#[test]
fn a_write_that_the_mirror_may_have_read_puts_it_out_of_sync() {
    for (flags, acked) in
        [(tcp::RST | tcp::ACK, READ.len()), (FIN, READ.len() + 1), (FIN, READ.len() + WRITE.len())]
    {
        let mut scene = served();
        is(&scene.client(READ.len(), WRITE, ANSWER.len()), Verdict::Mirrored);
        let lost = scene.says(Side::Shadow, flags, ANSWER.len(), acked);
        is(&lost, Verdict::LegLost);
        assert!(lost.events & Step::OUT_OF_SYNC != 0, "{flags} {acked}");
        assert!(!scene.word.member(Side::Shadow));
        assert_eq!((scene.flow.leg(Side::Shadow).state, scene.writes), (leg_state::NONE, 1));
    }
    let mut scene = Scene::established(true);
    is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    is(&scene.client(WRITE.len(), WRITE, ANSWER.len()), Verdict::Mirrored);
    is(&scene.says(Side::Shadow, FIN, 0, WRITE.len()), Verdict::LegLost);
    assert!(!scene.word.member(Side::Shadow), "of the first one it has owed the answer");
}

/// Where requests can't be told apart, what the client has yet to say may be a write's rest: a leg that is gone owes it.
#[test]
fn an_opaque_connections_mirror_is_out_of_sync_unless_its_client_has_closed() {
    for closed in [false, true] {
        let mut scene = Scene::established(true);
        scene.client(0, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0);
        assert!(scene.flow.has(Flow::OPAQUE));
        let sent = 11 + usize::from(closed);
        if closed {
            scene.client_says(FIN, 11, 0);
        }
        scene.says(Side::Shadow, tcp::ACK, 0, sent);
        is(&scene.says(Side::Shadow, tcp::RST | tcp::ACK, 0, sent), Verdict::LegLost);
        assert_eq!(scene.word.member(Side::Shadow), closed);
        assert_eq!(scene.flow.leg(Side::Shadow).state, leg_state::NONE, "none of its kind is dialled anew");
    }
}

/// A leg that comes back begins at a request's first byte, of an open connection, where its side is a member: else never.
#[test]
fn only_at_a_boundary_of_an_open_connection_a_lost_leg_has_a_successor() {
    let reset = tcp::RST | tcp::ACK;
    let state = |scene: &Scene| scene.flow.leg(Side::Shadow).state;
    let mut scene = served();
    scene.says(Side::Shadow, reset, ANSWER.len(), READ.len());
    assert_eq!(state(&scene), leg_state::DOWN);

    let mut scene = served();
    is(&scene.client(READ.len(), &READ[..9], ANSWER.len()), Verdict::Mirrored);
    scene.says(Side::Shadow, reset, ANSWER.len(), READ.len());
    assert_eq!(state(&scene), leg_state::NONE, "in the middle of a request");

    let mut scene = served();
    is(&scene.client(READ.len(), &WRITE[..HEAD_OF_WRITE], ANSWER.len()), Verdict::Mirrored);
    let acked = READ.len() + HEAD_OF_WRITE;
    scene.server(Side::Shadow, ANSWER.len(), ANSWER, acked);
    scene.says(Side::Shadow, reset, 2 * ANSWER.len(), acked);
    assert!(scene.word.member(Side::Shadow));
    assert_eq!(state(&scene), leg_state::NONE, "in the middle of what it has answered early");

    let mut scene = served();
    scene.word = scene.word.with_member(Side::Shadow, false);
    scene.says(Side::Shadow, reset, ANSWER.len(), READ.len());
    assert_eq!(state(&scene), leg_state::NONE, "out of sync");

    let mut scene = Scene::open(true);
    scene.says(Side::Shadow, reset, 0, 0);
    assert_eq!(state(&scene), leg_state::NONE, "nothing is dialled under a connection that opens");
    assert_eq!(scene.flow.state, flow_state::OPENING);
}

/// T39: who closes what it was never asked on is dialled as rarely as who refuses.
#[test]
fn a_server_that_closes_without_having_served_is_not_dialled_at_once() {
    let mut scene = Scene::established(true);
    let lost = scene.says(Side::Shadow, FIN, 0, 0);
    is(&lost, Verdict::LegLost);
    assert_eq!((lost.dial(), scene.flow.leg(Side::Shadow).dialled_ms), (None, 1_000));
    let mut scene = served();
    let lost = scene.says(Side::Shadow, FIN, ANSWER.len(), READ.len());
    is(&lost, Verdict::LegLost);
    assert_eq!((lost.dial(), scene.flow.leg(Side::Shadow).dialled_ms), (Some(Side::Shadow), 0));
}

/// T39: a refusal that takes longer than the gap between two dials makes no dial by itself, either; what comes next does.
#[test]
fn a_far_servers_refusal_makes_no_dial() {
    let mut scene = Scene::open(true);
    scene.syn_ack(Side::Primary, 7);
    scene.client_says(tcp::ACK, 0, 0);
    scene.now_ms += 150;
    let refusal = Segment { ack: LEG_ISS[1] + 1, flags: tcp::RST | tcp::ACK, ..scene.segment() };
    let step = scene.server_sends(Side::Shadow, &refusal);
    is(&step, Verdict::Refused);
    assert_eq!(step.dial(), None);
    let step = scene.client(0, READ, 0);
    is(&step, Verdict::HeldDialling);
    assert_eq!(step.dial(), Some(Side::Shadow));
}

/// An idle connection whose mirror goes is given one successor; one that goes too, unused, is not replaced before it is needed.
#[test]
fn while_all_is_idle_a_leg_is_replaced_once() {
    let mut scene = served();
    scene.now_ms += 5_000;
    let lost = scene.says(Side::Shadow, FIN, ANSWER.len(), READ.len());
    scene.dial(&lost);
    scene.now_ms += 5_000;
    let lost = scene.says(Side::Shadow, FIN, 0, 0);
    is(&lost, Verdict::LegLost);
    assert_eq!(lost.dial(), None);
}

/// Events name the server that was lost, as its leg's port says it, and the service. In a pool a server that fails is passed over
/// by the next dial, and one that ends what it has answered isn't.
#[test]
fn an_event_names_the_lost_server_and_a_failed_one_is_passed_over() {
    let number = 3;
    let port = backend::with_backend(1_025, number, 0);
    for (pooled, flags, owes, tries) in [
        (true, tcp::RST, true, 1),
        (true, tcp::RST, false, 0),
        (true, FIN, false, 0),
        (false, tcp::RST, true, 0),
    ] {
        let mut scene = served();
        scene.service.flags = Service::with_number(2) | if pooled { Service::POOLED } else { 0 };
        scene.flow.leg_mut(Side::Shadow).port = port;
        if owes {
            is(&scene.client(READ.len(), READ, ANSWER.len()), Verdict::Mirrored);
        }
        let lost = scene.says(Side::Shadow, flags, ANSWER.len(), READ.len());
        is(&lost, Verdict::LegLost);
        assert_eq!(lost.server, Event::server(2, number));
        assert_eq!(backend::tries(scene.flow.leg(Side::Shadow).port), tries, "{pooled} {flags} {owes}");
    }
    let mut scene = Scene::open(true);
    scene.service.flags = Service::POOLED;
    scene.syn_ack(Side::Primary, 7);
    let refusal = Segment { ack: LEG_ISS[1] + 1, flags: tcp::RST | tcp::ACK, ..scene.segment() };
    is(&scene.server_sends(Side::Shadow, &refusal), Verdict::Refused);
    assert_eq!(backend::tries(scene.flow.leg(Side::Shadow).port), 1);
}

/// What stands beside a reason in an event doesn't change its number.
#[test]
fn a_reasons_number_is_without_what_stands_beside_it() {
    let beside = [0, LossReason::FAILED, LossReason::NEVER_OPEN, LossReason::FAILED | LossReason::NEVER_OPEN];
    for reason in [LossReason::Closed, LossReason::Stalled, LossReason::Unanswered] {
        for bits in beside {
            assert_eq!(LossReason::number(u32::from(reason as u8 | bits)), reason as u32);
        }
    }
}

/// The shadow has answered the client, and is lost before the client has acknowledged that: the primary is waited for.
fn half_heard() -> Scene {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    is(&scene.server(Side::Shadow, 0, ANSWER, READ.len()), Verdict::Forwarded);
    is(&scene.says(Side::Shadow, tcp::RST, ANSWER.len(), READ.len()), Verdict::LegLost);
    assert!(scene.flow.has(Flow::RETURNING) && !scene.flow.has(Flow::ASK_AGAIN));
    scene
}

/// The shadow owes an answer, which will be overdue in a millisecond; the next request is the primary's to answer.
fn nearly_overdue() -> Scene {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    is(&scene.server(Side::Primary, 0, ANSWER, READ.len()), Verdict::Forwarded);
    is(&scene.says(Side::Shadow, tcp::ACK, 0, READ.len()), Verdict::Raised);
    scene.now_ms += scene.service.stall_ms - 1;
    scene
}

/// T4: an answer by which its mirror's loss was noticed became the acknowledgement that goes with that, and came to the client
/// a timeout later.
#[test]
fn the_answer_by_which_a_mirror_is_found_late_goes_on() {
    let mut scene = nearly_overdue();
    is(&scene.client(READ.len(), READ, ANSWER.len()), Verdict::Mirrored);
    scene.now_ms += 1;
    let step = scene.server(Side::Primary, ANSWER.len(), ANSWER, 2 * READ.len());
    is(&step, Verdict::Forwarded);
    assert!(step.events & Step::LEG_LOST != 0);
    assert_eq!(
        (step.reason, step.dial()),
        ((LossReason::Stalled as u8) | LossReason::FAILED, Some(Side::Shadow))
    );
    let (kind, ack) = (step.to_client.kind, step.to_client.ack);
    assert_eq!(
        (kind, ack),
        (emit::FORWARD, ISS + 1 + 2 * READ.len() as u32),
        "with all that may be known now"
    );
}

/// So does a request, to the other leg alone; and one that must wait waits as a copy, beside what the loss makes.
#[test]
fn the_request_by_which_a_mirror_is_found_late_goes_on() {
    let mut scene = nearly_overdue();
    scene.now_ms += 1;
    let step = scene.client(READ.len(), READ, ANSWER.len());
    is(&step, Verdict::Mirrored);
    assert_eq!(step.to_leg.map(|emit| emit.kind), [emit::FORWARD, emit::NONE]);
    assert_eq!((step.events & Step::LEG_LOST, step.dial()), (Step::LEG_LOST, Some(Side::Shadow)));

    let mut frozen = nearly_overdue();
    frozen.word = frozen.word.with_frozen(true);
    frozen.now_ms += 1;
    let step = frozen.client(READ.len(), WRITE, ANSWER.len());
    is(&step, Verdict::LegLost);
    assert_eq!((step.hold_copy, frozen.writes), (1, 0), "it waits");
}

/// The window beside such an acknowledgement is what is left behind it: with the old one the client would be let send more
/// than the leg has room for.
#[test]
fn the_answer_by_which_a_mirror_is_found_late_tells_of_the_room_that_is_left() {
    let long =
        [READ[..READ.len() - 2].to_vec(), b"x: ".to_vec(), vec![b'y'; 1_000], b"\r\n\r\n".to_vec()].concat();
    let mut scene = nearly_overdue();
    is(&scene.client(READ.len(), &long, ANSWER.len()), Verdict::Mirrored);
    let sent = READ.len() + long.len();
    scene.now_ms += 1;
    // The mirror would have room for more.
    scene.flow.leg_mut(Side::Shadow).edge += 64_000;
    let step = scene.server(Side::Primary, ANSWER.len(), ANSWER, sent);
    is(&step, Verdict::Forwarded);
    assert!(step.events & Step::LEG_LOST != 0);
    assert_eq!(u32::from(step.to_client.window), (scene.flow.shown_edge - scene.flow.shown) >> 7);
}

/// An acknowledgement by which a mirror is found late waits for nothing, nor does what must wait on a connection that ends.
#[test]
fn what_need_not_wait_is_not_held_by_a_loss() {
    let mut scene = nearly_overdue();
    scene.now_ms += 1;
    let step = scene.says(Side::Primary, tcp::ACK, ANSWER.len(), READ.len());
    is(&step, Verdict::LegLost);
    assert_eq!(step.hold_copy, 0);

    let mut ending = half_heard();
    ending.now_ms += ending.service.stall_ms;
    let step = ending.client(READ.len(), WRITE, ANSWER.len() - 1);
    is(&step, Verdict::FailedMidAnswer);
    assert_eq!((step.hold_copy, ending.flow.state), (0, flow_state::ENDED));
}

/// What only a lost leg had may be on its way: the client has the stall budget to acknowledge it, and then the other one goes on.
#[test]
fn what_a_lost_leg_has_shown_is_waited_for() {
    let mut scene = half_heard();
    scene.now_ms += scene.service.stall_ms - 1;
    assert_eq!(scene.swept(sweep::ACT), (Due::Emit, Verdict::AckedLate));
    is(&scene.client_says(tcp::ACK, READ.len(), ANSWER.len()), Verdict::Forwarded);
    assert_eq!((scene.flow.authority(), scene.flow.has(Flow::RETURNING)), (Side::Primary, false));
    is(&scene.client(READ.len(), WRITE, ANSWER.len()), Verdict::HeldDialling);
}

/// Nobody can send it again: a client that lacks it for longer is told so.
#[test]
fn what_nobody_has_any_more_ends_the_connection() {
    let mut scene = half_heard();
    scene.now_ms += scene.service.stall_ms;
    assert_eq!(scene.swept(0).0, Due::Emit);
    assert_eq!(scene.flow.state, flow_state::OPEN, "without a packet nothing is done");
    let mut due = Due::Nothing;
    let step = scene.run(|flow, terms, step| due = on_sweep(flow, sweep::ACT, terms, step));
    is(&step, Verdict::FailedMidAnswer);
    assert_eq!((step.side, step.reason & LossReason::Stalled as u8), (1, LossReason::Stalled as u8));
    assert_eq!((step.to_client.flags, scene.flow.state), (tcp::RST | tcp::ACK, flow_state::ENDED));
}

impl Scene {
    fn swept(&mut self, how: u32) -> (Due, Verdict) {
        let mut due = Due::Nothing;
        let step = self.run(|flow, terms, step| due = on_sweep(flow, how, terms, step));
        (due, Verdict::from_number(step.verdict).expect("a verdict"))
    }
}

/// The client hears the shadow's answer in two pieces, and is in its middle when that is lost: nobody can go on with it.
#[test]
fn in_the_middle_of_an_answer_the_connection_ends() {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    scene.server(Side::Shadow, 0, &ANSWER[..10], READ.len());
    let step = scene.says(Side::Shadow, tcp::RST, 10, READ.len());
    is(&step, Verdict::FailedMidAnswer);
    assert_eq!(step.to_client.flags, tcp::RST | tcp::ACK);
}

/// The write's head alone has come: what a lost mirror owes of it is nothing, until the rest comes.
#[test]
fn the_head_of_a_write_is_owed_by_nobody() {
    let mut scene = served();
    is(&scene.client(READ.len(), &WRITE[..HEAD_OF_WRITE], ANSWER.len()), Verdict::Mirrored);
    let acked = READ.len() + HEAD_OF_WRITE;
    is(&scene.says(Side::Shadow, tcp::RST | tcp::ACK, ANSWER.len(), acked), Verdict::LegLost);
    assert!(scene.word.member(Side::Shadow) && scene.flow.has(Flow::GIVEN_UP));
    scene.client(READ.len() + HEAD_OF_WRITE, &WRITE[HEAD_OF_WRITE..], ANSWER.len());
    assert!(!scene.word.member(Side::Shadow));
}
