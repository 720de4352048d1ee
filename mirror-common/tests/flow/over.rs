//! A connection that is over, or ends: who still waits for what, and who is told of it.

use super::*;
use mirror_common::{
    abi::Event,
    flow::{Due, Leg, flow_state, on_sweep, sweep},
};

const FIN: u8 = tcp::FIN | tcp::ACK;

impl Scene {
    /// What the sweep is due, and does.
    fn sweep_over(&mut self, how: u32) -> (Due, Step) {
        let mut due = Due::Nothing;
        let step = self.run(|flow, terms, step| due = on_sweep(flow, how, terms, step));
        (due, step)
    }

    /// A write that the primary has answered, and whose client has reset its connection: the shadow still owes it.
    fn reset_behind_a_write() -> Scene {
        let mut scene = Scene::established(true);
        is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
        scene.server(Side::Primary, 0, ANSWER, WRITE.len());
        is(&scene.client_says(tcp::RST, WRITE.len(), ANSWER.len()), Verdict::Reset);
        assert_eq!((scene.flow.state, scene.writes), (flow_state::ENDED, 1));
        scene
    }
}

/// The mirror has the stall budget for what it owes: until then its connection's slot is kept, and no write is taken for
/// lost.
#[test]
fn a_write_that_is_owed_behind_the_connections_end_is_waited_for() {
    let mut scene = Scene::reset_behind_a_write();
    scene.now_ms += scene.service.stall_ms - 1;
    assert_eq!(scene.sweep_over(sweep::ACT).0, Due::Nothing);
    assert!(scene.word.member(Side::Shadow));
    scene.now_ms += 1;
    assert_eq!(scene.sweep_over(sweep::ACT).0, Due::Free);
    assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (0, false));
}

/// An acknowledgement isn't the answer: whoever was reset by it might do the write or not.
#[test]
fn a_leg_that_owes_a_write_is_not_reset_before_it_has_answered() {
    let mut scene = Scene::reset_behind_a_write();
    let step = scene.says(Side::Shadow, tcp::ACK, 0, WRITE.len());
    is(&step, Verdict::Absorbed);
    assert_eq!((scene.flow.leg(Side::Shadow).state, scene.writes), (leg_state::OPEN, 1));
    let step = scene.server(Side::Shadow, 0, &ANSWER[..20], WRITE.len());
    assert_eq!((step.to_leg[1].flags & tcp::RST, scene.writes), (0, 1), "it is in its middle");
}

/// One whose answer had begun has done the write, though it is cut off: the next freeze waits for nothing.
#[test]
fn an_answer_that_is_cut_off_behind_its_head_finishes_its_write() {
    let mut scene = Scene::reset_behind_a_write();
    scene.server(Side::Shadow, 0, &ANSWER[..ANSWER.len() - 1], WRITE.len());
    assert_eq!(scene.writes, 1, "its end may still come");
    is(&scene.says(Side::Shadow, tcp::RST, ANSWER.len() - 1, WRITE.len()), Verdict::LegLost);
    assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (0, true));
}

/// Whoever puts the mirror out of sync says so, and of which service: nobody else would tell the operator.
#[test]
fn out_of_sync_is_told_with_the_side_and_the_service() {
    let told = |step: &Step| (step.events & Step::OUT_OF_SYNC != 0, step.side, step.server);
    let service = Service::with_number(5);
    let mut scene = Scene::reset_behind_a_write();
    scene.service.flags = service;
    let step = scene.says(Side::Shadow, tcp::RST, 0, WRITE.len());
    assert_eq!(told(&step), (true, Side::Shadow as u8, Event::server(5, 0)));
    let mut scene = Scene::established(true);
    (scene.service.flags, scene.doubts) = (service, 1);
    is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
    let step = scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    assert_eq!(told(&step), (true, Side::Shadow as u8, Event::server(5, 0)));
    let mut scene = Scene::reset_behind_a_write();
    (scene.service.flags, scene.now_ms) = (service, scene.now_ms + scene.service.stall_ms);
    let (due, step) = scene.sweep_over(0);
    assert_eq!((due, told(&step)), (Due::Free, (true, Side::Shadow as u8, Event::server(5, 0))));
}

/// A connection that ends though its authority lives leaves nothing in doubt: what the mirror hasn't answered it may never
/// do, and it is out of sync. Taken for doubtful, it would stay a member until the authority's next write was answered.
#[test]
fn an_end_without_the_authoritys_loss_puts_the_mirror_out_of_sync() {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    is(&scene.says(Side::Shadow, tcp::RST, ANSWER.len(), READ.len()), Verdict::LegLost);
    assert!(scene.flow.has(Flow::RETURNING));
    // As if the word had moved beside a write that the primary owes.
    scene.word = scene.word.with_authority(Side::Shadow);
    scene.flow.set(Flow::COUNTED, true);
    (scene.flow.write_turn, scene.writes, scene.now_ms) = (2, 1, scene.now_ms + scene.service.stall_ms);
    let (due, step) = scene.sweep_over(sweep::ACT);
    assert_eq!(due, Due::Emit);
    is(&step, Verdict::FailedMidAnswer);
    assert_eq!((scene.doubts, scene.writes, scene.word.member(Side::Primary)), (0, 0, false));
}

/// A slot is free two seconds behind the last end: of the client, of each leg, acknowledged by each. As long as one is
/// missing, its segment finds its connection.
#[test]
fn a_slot_is_kept_until_every_end_is_said_and_acknowledged() {
    let over = |change: &dyn Fn(&mut Flow)| {
        let mut scene = Scene::established(true);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        is(&scene.client_says(FIN, READ.len(), 0), Verdict::Mirrored);
        for side in Side::BOTH {
            scene.server(side, 0, ANSWER, READ.len() + 1);
            scene.says(side, FIN, ANSWER.len(), READ.len() + 1);
        }
        scene.client_says(tcp::ACK, READ.len() + 1, ANSWER.len() + 1);
        change(&mut scene.flow);
        scene.service.stall_ms = 100_000;
        scene.now_ms += 1_999;
        assert_ne!(scene.sweep_over(sweep::ACT).0, Due::Free, "late segments may come");
        scene.now_ms += 1;
        scene.sweep_over(sweep::ACT).0 == Due::Free
    };
    assert!(over(&|_| {}));
    assert!(!over(&|flow| flow.set(Flow::CLIENT_FIN, false)));
    assert!(!over(&|flow| flow.client_acked -= 1));
    for n in 0..2 {
        assert!(!over(&|flow| flow.legs[n].flags &= !Leg::FIN), "{n} hasn't closed");
        assert!(!over(&|flow| flow.legs[n].acked -= 1), "{n} hasn't acknowledged the client's end");
        assert!(!over(&|flow| flow.legs[n].state = leg_state::DIALLING));
        for state in [leg_state::NONE, leg_state::DOWN] {
            assert!(over(&|flow| flow.legs[n].state = state));
        }
    }
}

/// An end that overtakes the answer to a read is the client's at once, whose own kernel puts it behind: held back, it would
/// come a timeout later.
#[test]
fn an_end_that_overtakes_a_reads_answer_is_shown() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    let step = scene.says(Side::Primary, FIN, ANSWER.len(), READ.len());
    is(&step, Verdict::Forwarded);
    assert_eq!(step.to_client.seq, SERVER_ISS[0] + 1 + ANSWER.len() as u32);
    let step = scene.server(Side::Primary, 0, ANSWER, READ.len());
    is(&step, Verdict::Forwarded);
    assert_eq!((step.to_client.kind, step.to_client.seq), (emit::FORWARD, SERVER_ISS[0] + 1));
}

/// How far ahead of what was seen a server's segment is believed: 64 MiB, more than any window.
#[test]
fn a_servers_number_is_believed_within_any_window() {
    for (ahead, verdict) in [(1 << 26, Verdict::AbsorbedAck), ((1 << 26) + 1, Verdict::OutOfWindow)] {
        is(&Scene::established(true).says(Side::Primary, tcp::ACK, ahead, 0), verdict);
    }
}

/// Without a crowd a client that never finished opening its connection is no half-open one of a flood, nor is in a crowd what
/// is given up for another reason.
#[test]
fn only_a_crowds_half_open_connection_is_counted_as_one() {
    let mut scene = Scene::established(true);
    scene.now_ms += 10_000;
    let (due, step) = scene.sweep_over(sweep::ACT);
    assert_eq!(due, Due::Emit);
    is(&step, Verdict::Reset);
    let mut scene = Scene::established(true);
    is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
    let (due, step) = scene.sweep_over(sweep::ACT | sweep::CROWDED | sweep::GIVE_UP);
    assert_eq!(due, Due::Emit);
    is(&step, Verdict::Reset);
}
