//! Ends: of the leg that answers, of the one that is waited for, and those that the client is told of.

use super::*;
use mirror_common::flow::{Due, Leg, LossReason, on_sweep, sweep};

const CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";

impl Scene {
    /// A server's segment without payload.
    pub(super) fn says(&mut self, side: Side, flags: u8, offset: usize, acked: usize) -> Step {
        let n = side as usize;
        let seq = SERVER_ISS[n] + 1 + offset as u32;
        let ack = LEG_ISS[n] + 1 + acked as u32;
        let segment = Segment { seq, ack, flags, ..self.segment() };
        self.run(|flow, terms, step| {
            on_leg(flow, side, &segment, terms, step);
        })
    }

    /// Dials the leg that a step asks for, and lets its server answer.
    pub(super) fn dial(&mut self, asked: &Step) {
        let side = asked.dial().expect("a dial was asked for");
        let dialled = Dialled { side: side as u32, port: 1_026, iss: LEG_ISS[side as usize] };
        let segment = self.segment();
        self.run(|flow, terms, step| on_dialled(flow, &dialled, &segment, terms, step));
        is(&self.syn_ack(side, 7), Verdict::SynAckAbsorbed);
    }

    /// The shadow was asked a read and is lost; the primary, which is in the middle of its own answer, is waited for.
    pub(super) fn returning() -> (Scene, Step) {
        let mut scene = Scene::established(true);
        scene.word = scene.word.with_weight(10_000);
        // So late that a leg may be dialled again, and not so long that the flow is idle.
        scene.now_ms += 60;
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        scene.now_ms += 60;
        scene.server(Side::Primary, 0, &ANSWER[..10], READ.len());
        let lost = scene.says(Side::Shadow, tcp::RST, 0, 0);
        is(&lost, Verdict::LegLost);
        assert!(scene.flow.has(Flow::RETURNING) && scene.flow.has(Flow::ASK_AGAIN));
        (scene, lost)
    }

    /// The client repeats its read: it goes to `side` once more.
    fn asks_again(&mut self, side: Side) {
        let step = self.client(0, READ, 0);
        is(&step, Verdict::AskedAgain);
        assert_eq!(step.to_leg[side as usize].kind, emit::FORWARD);
    }
}

/// T36: the lost leg's successor was lost, too, and with it that the read has to be asked again: the client waited for ever.
#[test]
fn a_read_is_asked_again_though_its_leg_is_lost_twice() {
    let (mut scene, lost) = Scene::returning();
    scene.dial(&lost);
    is(&scene.says(Side::Shadow, tcp::RST, 0, 0), Verdict::LegLost);
    scene.server(Side::Primary, 10, &ANSWER[10..], READ.len());
    assert_eq!(scene.flow.authority(), Side::Primary);
    scene.asks_again(Side::Primary);
}

/// T36: a client that waits for its last answer was reset as one that waits for its connection's end alone: both legs were
/// lost, the second one when it had been dialled anew to be asked again.
#[test]
fn a_last_read_is_asked_again_though_both_legs_are_lost() {
    const LAST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    scene.now_ms += 60;
    is(&scene.client(0, LAST, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, CLOSE, LAST.len());
    is(&scene.says(Side::Primary, tcp::FIN | tcp::ACK, CLOSE.len(), LAST.len()), Verdict::FinAbsorbed);
    scene.now_ms += 60;
    let lost = scene.says(Side::Shadow, tcp::RST, 0, 0);
    is(&lost, Verdict::LegLost);
    scene.dial(&lost);
    assert_eq!((lost.dial(), scene.flow.authority()), (Some(Side::Primary), Side::Primary));
    scene.word = scene.word.with_authority(Side::Shadow);
    scene.now_ms += 120;
    let lost = scene.says(Side::Primary, tcp::RST, 0, 0);
    is(&lost, Verdict::LegLost);
    scene.dial(&lost);
    assert_eq!((lost.dial(), scene.flow.authority()), (Some(Side::Shadow), Side::Shadow));
    let step = scene.client(0, LAST, 0);
    is(&step, Verdict::AskedAgain);
    assert_eq!(step.to_leg[Side::Shadow as usize].kind, emit::FORWARD);
}

/// The leg that is waited for was lost, and the other one was gone: nobody was dialled any more.
#[test]
fn when_the_leg_that_is_waited_for_is_lost_the_other_one_is_dialled() {
    let (mut scene, _) = Scene::returning();
    // As if it had been out of sync meanwhile.
    scene.flow.leg_mut(Side::Shadow).state = leg_state::NONE;
    scene.word = scene.word.with_authority(Side::Shadow);
    let lost = scene.says(Side::Primary, tcp::RST, 10, 0);
    is(&lost, Verdict::LegLost);
    scene.dial(&lost);
    assert_eq!(scene.flow.authority(), Side::Shadow);
    scene.asks_again(Side::Shadow);
}

/// T36: it was silent, and the other one, being gone, was no measure of that.
#[test]
fn a_leg_that_is_waited_for_is_lost_when_it_is_silent() {
    let (mut scene, _) = Scene::returning();
    scene.word = scene.word.with_authority(Side::Shadow);
    let sweep = |scene: &mut Scene| {
        let mut due = Due::Nothing;
        let step = scene.run(|flow, terms, step| due = on_sweep(flow, sweep::ACT, terms, step));
        (due, step)
    };
    assert_eq!(sweep(&mut scene).0, Due::Nothing);
    scene.now_ms += scene.service.stall_ms;
    let (due, lost) = sweep(&mut scene);
    assert_eq!(due, Due::Emit);
    assert_eq!(lost.dial(), Some(Side::Shadow));
}

/// The client closed behind its last read; the leg that was to answer it again had answered, and closed.
#[test]
fn a_leg_that_has_closed_is_dialled_anew_to_be_asked_again() {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    let fin =
        Segment { seq: ISS + 1 + READ.len() as u32, flags: tcp::FIN | tcp::ACK, ack: 501, ..scene.segment() };
    scene.run(|flow, terms, step| {
        on_client(flow, &fin, terms, step);
    });
    scene.server(Side::Primary, 0, ANSWER, READ.len() + 1);
    is(&scene.says(Side::Primary, tcp::FIN | tcp::ACK, ANSWER.len(), READ.len() + 1), Verdict::FinAbsorbed);
    let lost = scene.says(Side::Shadow, tcp::RST, 0, 0);
    is(&lost, Verdict::LegLost);
    scene.dial(&lost);
    assert_eq!(scene.flow.authority(), Side::Primary);
}

/// A write behind an answer that announces the close was done, and the client, which may, sent it again elsewhere.
#[test]
fn behind_an_announced_close_nothing_is_begun() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Shadow, 0, ANSWER, READ.len());
    is(&scene.server(Side::Primary, 0, CLOSE, READ.len()), Verdict::Forwarded);
    is(&scene.client(READ.len(), WRITE, CLOSE.len()), Verdict::HeldUnsettled);
    assert_eq!((scene.flow.turns, scene.writes), (1, 0));
}

/// The mirror had done a write that the authority never will, and was taken for in sync while that went on working.
#[test]
fn a_write_that_the_authority_closes_upon_is_in_doubt() {
    for flags in [tcp::FIN | tcp::ACK, tcp::RST] {
        let mut scene = Scene::established(true);
        is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
        scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
        assert!(scene.word.member(Side::Shadow));
        scene.says(Side::Primary, flags, 0, 0);
        assert!(scene.word.member(Side::Shadow), "it may have to take over");
        assert_eq!((scene.doubts, scene.writes), (1, 0));
    }
}

/// T14: the leg that lacked a request went, and the client repeated for ever what the other one had long had.
#[test]
fn what_only_a_gone_leg_lacked_is_acknowledged_when_it_is_repeated() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    scene.word = scene.word.with_member(Side::Shadow, false);
    is(&scene.client(READ.len(), READ, ANSWER.len()), Verdict::Forwarded);
    let step = scene.client(0, READ, ANSWER.len());
    is(&step, Verdict::TurnedBack);
    assert_eq!(step.to_client.ack, ISS + 1 + READ.len() as u32);
}

/// T11: a FIN that overtook the answer before it would put the mirror out for a write that was answered.
#[test]
fn a_fin_that_overtakes_its_answer_waits_for_it() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
    let fin = tcp::FIN | tcp::ACK;
    is(&scene.says(Side::Primary, fin, ANSWER.len(), WRITE.len()), Verdict::BeyondHead);
    is(&scene.server(Side::Primary, 0, ANSWER, WRITE.len()), Verdict::Forwarded);
    is(&scene.says(Side::Primary, fin, ANSWER.len(), WRITE.len()), Verdict::Forwarded);
    assert!(scene.word.member(Side::Shadow));
}

/// What a new connection's end tells of the authority's server, if anything.
fn not_taken(step: &Step) -> Option<(u8, u8)> {
    (step.events & Step::LEG_LOST != 0).then_some((step.side, step.reason))
}

/// Refused or unanswered: no answer says so, and no leg is left that could be lost.
#[test]
fn a_new_connection_that_its_server_does_not_take_is_told_of_as_the_authoritys() {
    let told = Some((Side::Shadow as u8, LossReason::NotTaken as u8));
    let refusal = |scene: &Scene, side: Side| {
        let ack = LEG_ISS[side as usize] + 1;
        Segment { ack, flags: tcp::RST | tcp::ACK, ..scene.segment() }
    };
    let mut scene = Scene::open(true);
    scene.flow.authority = Side::Shadow as u8;
    let stray = Segment { ack: LEG_ISS[1] + 2, ..refusal(&scene, Side::Shadow) };
    assert_eq!(not_taken(&scene.server_sends(Side::Shadow, &stray)), None, "nobody's");
    let step = scene.server_sends(Side::Shadow, &refusal(&scene, Side::Shadow));
    is(&step, Verdict::Reset);
    assert_eq!((not_taken(&step), step.to_client.flags), (told, tcp::RST | tcp::ACK));
    let step = scene.server_sends(Side::Shadow, &refusal(&scene, Side::Shadow));
    assert_eq!(not_taken(&step), None, "once");

    let mut scene = Scene::open(true);
    scene.flow.authority = Side::Shadow as u8;
    let mut due = Due::Nothing;
    scene.now_ms += 9_999;
    let step = scene.run(|flow, terms, step| due = on_sweep(flow, sweep::ACT, terms, step));
    assert_eq!((due, not_taken(&step)), (Due::Nothing, None));
    scene.now_ms += 1;
    let step = scene.run(|flow, terms, step| due = on_sweep(flow, sweep::ACT, terms, step));
    assert_eq!((due, not_taken(&step)), (Due::Free, told));

    let mut scene = Scene::established(true);
    scene.now_ms += scene.service.idle_ms;
    let step = scene.run(|flow, terms, step| due = on_sweep(flow, sweep::ACT, terms, step));
    assert_eq!((due, not_taken(&step)), (Due::Free, None), "it was taken");
}

/// A mirror that answers no SYN loses the leg: with something to send when the stall budget is over, else when a handshake's time
/// is. Nothing is owed by it that the client saw answered.
#[test]
fn a_mirror_that_never_answers_a_syn_is_told_of_as_the_mirrors() {
    let never = LossReason::Stalled as u8 | LossReason::FAILED | LossReason::NEVER_OPEN;
    let told = Some((Side::Shadow as u8, never));
    let opened = || {
        let mut scene = Scene::open(true);
        scene.syn_ack(Side::Primary, 7);
        scene.client_says(tcp::ACK, 0, 0);
        scene
    };
    let sweeps = |scene: &mut Scene, until_ms: u32| {
        scene.now_ms = until_ms;
        not_taken(&scene.run(|flow, terms, step| {
            on_sweep(flow, sweep::ACT, terms, step);
        }))
    };
    let mut idle = opened();
    assert_eq!([10_999, 11_000].map(|at| sweeps(&mut idle, at)), [None, told]);
    assert!(idle.word.member(Side::Shadow));
    assert_eq!(sweeps(&mut idle, 11_001), None, "once");

    let mut asked = opened();
    asked.client(0, READ, 0);
    let until = asked.now_ms + asked.service.stall_ms;
    assert_eq!([until - 1, until].map(|at| sweeps(&mut asked, at)), [None, told]);
    assert!(asked.word.member(Side::Shadow));

    let mut open = opened();
    open.syn_ack(Side::Shadow, 7);
    open.client(0, READ, 0);
    let until = open.now_ms + open.service.stall_ms;
    let silent = Some((Side::Shadow as u8, LossReason::Stalled as u8 | LossReason::FAILED));
    open.server(Side::Primary, 0, ANSWER, READ.len());
    assert_eq!([until - 1, until].map(|at| sweeps(&mut open, at)), [None, silent], "one that fell silent");
}

/// Whether the step tells of a lost leg, and that its server failed.
fn failed(step: &Step) -> bool {
    assert_ne!(step.events & Step::LEG_LOST, 0);
    step.reason & LossReason::FAILED != 0
}

/// A leg's end is its server's failure where it owes an answer: so the circuit breaker counts no ordinary close.
#[test]
fn a_server_fails_by_a_reset_that_owes_an_answer_and_not_by_one_behind_it() {
    let mut scene = Scene::established(true);
    scene.client(0, READ, 0);
    assert!(failed(&scene.says(Side::Shadow, tcp::RST, 0, 0)));
    let mut scene = Scene::established(true);
    scene.client(0, READ, 0);
    scene.server(Side::Shadow, 0, ANSWER, READ.len());
    assert!(!failed(&scene.says(Side::Shadow, tcp::RST, ANSWER.len(), READ.len())));
    let mut idle = Scene::established(true);
    assert!(!failed(&idle.says(Side::Shadow, tcp::RST, 0, 0)), "nothing was asked of it");
}

#[test]
fn a_server_fails_by_a_close_only_where_it_has_answered_nothing_at_all() {
    let fin = tcp::FIN | tcp::ACK;
    let mut scene = Scene::established(true);
    scene.client(0, READ, 0);
    assert!(failed(&scene.says(Side::Shadow, fin, 0, READ.len())), "it took the request and closed");
    let mut scene = Scene::established(true);
    scene.client(0, READ, 0);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    scene.client(READ.len(), READ, ANSWER.len());
    let closed = scene.says(Side::Shadow, fin, ANSWER.len(), READ.len());
    assert!(!failed(&closed), "it has answered once, and the next request came as it closed");
}

/// A leg that is waited for and can't take over: it is down, or its server has closed it.
#[test]
fn what_no_leg_can_be_asked_again_ends_the_connection() {
    let ends = |state: u8, flags: u8| {
        let (mut scene, _) = Scene::returning();
        scene.word = scene.word.with_authority(Side::Shadow);
        scene.now_ms += scene.service.stall_ms;
        let leg = scene.flow.leg_mut(Side::Primary);
        (leg.state, leg.heard_ms, leg.dialled_ms) = (state, 1_620, 1_620);
        leg.flags |= flags;
        let step = scene.run(|flow, terms, step| {
            on_sweep(flow, sweep::ACT, terms, step);
        });
        step.to_client.flags & tcp::RST != 0
    };
    assert!(ends(leg_state::DOWN, 0));
    assert!(ends(leg_state::OPEN, Leg::FIN));
    assert!(!ends(leg_state::OPEN, 0));
}
