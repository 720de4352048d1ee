//! What must be over before the next turn is another side's, and who waits for that.

use mirror_common::flow::{Leg, flow_state};

use super::*;

const FIN: u8 = tcp::FIN | tcp::ACK;

/// A read that both have answered, and its client has acknowledged; the next write would be the shadow's.
fn moved() -> Scene {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    scene.word = scene.word.with_authority(Side::Shadow);
    scene
}

fn writes(scene: &mut Scene) -> Step {
    scene.client(READ.len(), WRITE, ANSWER.len())
}

/// Any of this keeps the next write where it waits: a server that has said that it ends, or whose answer's end isn't known; and
/// one that hasn't acknowledged what it has answered.
#[test]
fn a_write_waits_until_both_legs_are_settled() {
    let mut scene = moved();
    is(&writes(&mut scene), Verdict::Mirrored);
    assert_eq!(scene.flow.authority(), Side::Shadow);
    for side in Side::BOTH {
        for flag in [Leg::FIN, Leg::UNKNOWN, Leg::CLOSING] {
            let mut scene = moved();
            scene.flow.leg_mut(side).flags |= flag;
            is(&writes(&mut scene), Verdict::HeldUnsettled);
        }
        let mut scene = moved();
        scene.flow.leg_mut(side).acked -= 1;
        is(&writes(&mut scene), Verdict::HeldUnsettled);
        let mut scene = moved();
        // Behind what it has been sent, its next answer wouldn't begin where this one's was read to.
        scene.flow.leg_mut(side).parse.at += 1;
        is(&writes(&mut scene), Verdict::HeldUnsettled);
    }
}

/// A read isn't given ahead to a leg that ends, nor to one that couldn't tell where its answer begins.
#[test]
fn a_leg_that_ends_is_given_nothing_ahead() {
    let behind = |flags: u8| {
        let mut scene = Scene::established(true);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        scene.server(Side::Primary, 0, ANSWER, READ.len());
        scene.word = scene.word.with_authority(Side::Shadow).with_weight(10_000);
        scene.flow.leg_mut(Side::Shadow).flags |= flags;
        scene.client(READ.len(), READ, ANSWER.len())
    };
    is(&behind(0), Verdict::MirroredAhead);
    for flags in [Leg::FIN, Leg::UNKNOWN, Leg::CLOSING] {
        is(&behind(flags), Verdict::KeptUnsettled);
    }
}

/// What is held is let go by a segment of a server's that may have settled it, and not while a leg is dialled.
#[test]
fn what_is_held_is_let_go_where_no_leg_is_dialled() {
    let wakes = |held: bool, dialled: Option<Side>| {
        let mut scene = Scene::established(true);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        scene.flow.set(Flow::HELD, held);
        if let Some(side) = dialled {
            scene.flow.leg_mut(side).state = leg_state::DIALLING;
        }
        let side = dialled.map_or(Side::Shadow, Side::other);
        scene.server(side, 0, ANSWER, READ.len()).events & Step::WAKE != 0
    };
    assert!(wakes(true, None));
    assert!(!wakes(false, None));
    assert!(!wakes(true, Some(Side::Shadow)) && !wakes(true, Some(Side::Primary)));
}

/// Whoever is asked next, a turn that is under way elsewhere comes first.
#[test]
fn nothing_begins_while_a_turn_is_under_way_elsewhere() {
    for flag in [Flow::MOVED, Flow::ASK_AGAIN, Flow::AHEAD] {
        let mut scene = Scene::established(true);
        scene.flow.set(flag, true);
        is(&scene.client(0, READ, 0), Verdict::HeldMoved);
    }
}

/// A lone write is one that was counted by itself.
#[test]
fn of_two_writes_in_one_segment_none_is_alone() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
    assert!(scene.flow.has(Flow::LONE_WRITE));
    is(&scene.client(WRITE.len(), WRITE, 0), Verdict::Mirrored);
    assert!(!scene.flow.has(Flow::LONE_WRITE));
    let mut scene = Scene::established(true);
    is(&scene.client(0, &[WRITE, WRITE].concat(), 0), Verdict::Mirrored);
    assert!(!scene.flow.has(Flow::LONE_WRITE));
}

/// The word's authority may lose a leg that nobody waits for, where the client still hears the other one.
#[test]
fn the_new_authority_may_lose_a_leg_that_nobody_waits_for() {
    let lost = |change: &dyn Fn(&mut Flow)| {
        let mut scene = moved();
        scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
        change(&mut scene.flow);
        scene.says(Side::Shadow, tcp::RST, ANSWER.len(), READ.len())
    };
    is(&lost(&|_| {}), Verdict::LegLost);
    for flag in [Flow::OPAQUE, Flow::RETURNING, Flow::ASK_AGAIN] {
        is(&lost(&|flow| flow.set(flag, true)), Verdict::Reset);
    }
}

/// A refusal ends the connection whose turn waits for just that leg, and no other.
#[test]
fn a_refused_leg_is_the_connections_end_where_its_turn_waits_for_it() {
    for (held, lacks, verdict) in [
        (true, false, Verdict::Reset),
        (false, false, Verdict::Refused),
        // One that the primary answers waits for it, too.
        (true, true, Verdict::Refused),
    ] {
        let mut scene = moved();
        scene.client_says(tcp::ACK, READ.len(), ANSWER.len());
        let leg = scene.flow.leg_mut(Side::Shadow);
        leg.state = leg_state::DIALLING;
        leg.acked -= u32::from(lacks);
        let ack = leg.acked.wrapping_add(leg.offset);
        scene.flow.set(Flow::HELD, held);
        let refusal = Segment { ack, flags: tcp::RST | tcp::ACK, ..scene.segment() };
        is(&scene.server_sends(Side::Shadow, &refusal), verdict);
    }
}

/// The mirror's end is absorbed where it is the end that the client will see, or nothing is told apart.
#[test]
fn the_mirrors_end_is_absorbed_where_the_client_will_see_it() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    scene.word = scene.word.with_authority(Side::Shadow);
    is(&scene.says(Side::Shadow, FIN, 0, WRITE.len()), Verdict::FinAbsorbed);
    let mut scene = moved();
    scene.word = scene.word.with_authority(Side::Primary);
    scene.flow.set(Flow::OPAQUE, true);
    is(&scene.says(Side::Shadow, FIN, ANSWER.len(), READ.len()), Verdict::FinAbsorbed);
    assert_eq!(scene.flow.state, flow_state::OPEN);
}

/// A client that has closed, and has all, waits for the end alone: where the other leg has none to say, it is told by a reset.
#[test]
fn a_client_that_waits_for_the_end_alone_is_told_of_it() {
    for (ended, verdict) in [(true, Verdict::FailedMidAnswer), (false, Verdict::LegLost)] {
        let mut scene = Scene::established(true);
        scene.word = scene.word.with_weight(10_000);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        is(&scene.client_says(FIN, READ.len(), 0), Verdict::Mirrored);
        let all = READ.len() + 1;
        for side in Side::BOTH {
            scene.server(side, 0, ANSWER, all);
        }
        scene.client_says(tcp::ACK, all, ANSWER.len());
        if ended {
            is(&scene.says(Side::Primary, FIN, ANSWER.len(), all), Verdict::FinAbsorbed);
        }
        is(&scene.says(Side::Shadow, tcp::RST, ANSWER.len(), all), verdict);
    }
}

/// One that has said that its request is the last waits for the end, too, which the lost leg's server would have said.
#[test]
fn behind_the_last_answer_a_lost_leg_is_the_connections_end() {
    const LAST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, LAST, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, LAST.len());
    }
    scene.client_says(tcp::ACK, LAST.len(), ANSWER.len());
    is(&scene.says(Side::Shadow, tcp::RST, ANSWER.len(), LAST.len()), Verdict::Reset);
    assert_eq!(scene.flow.state, flow_state::ENDED);
}

/// A keep-alive reaches the leg that is heard alone: what the other one's server is owed, it is owed still.
#[test]
fn what_reaches_one_leg_brings_the_other_nothing() {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    assert_ne!(scene.flow.leg(Side::Primary).flags & Leg::OWES_ACK, 0);
    scene.server(Side::Shadow, 0, ANSWER, READ.len());
    let probe = scene.client_says(tcp::ACK, READ.len() - 1, 0);
    is(&probe, Verdict::Probe);
    assert_eq!(probe.to_leg.map(|emit| emit.kind), [emit::NONE, emit::FORWARD]);
    assert_ne!(scene.flow.leg(Side::Primary).flags & Leg::OWES_ACK, 0);
}

/// A read behind the body of the turn before, of the same leg, hasn't been answered by that body's rest: it may be
/// asked of the other one until its own answer begins.
#[test]
fn the_rest_of_the_last_answer_does_not_answer_the_next_read() {
    let cut = ANSWER.len() - 2;
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    is(&scene.server(Side::Shadow, 0, &ANSWER[..cut], READ.len()), Verdict::Forwarded);
    is(&scene.client(READ.len(), READ, cut), Verdict::Mirrored);
    is(&scene.server(Side::Shadow, cut, &ANSWER[cut..], 2 * READ.len()), Verdict::Forwarded);
    assert!(scene.flow.has(Flow::MOVED));
    scene.client_says(tcp::ACK, 2 * READ.len(), ANSWER.len());
    is(&scene.says(Side::Shadow, tcp::RST, ANSWER.len(), 2 * READ.len()), Verdict::LegLost);
    is(&scene.server(Side::Primary, ANSWER.len(), ANSWER, 2 * READ.len()), Verdict::Forwarded);
}
