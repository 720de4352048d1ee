//! The authority's leg is lost in the middle of a write: the mirror does it, and may have to take over.

use mirror_common::{
    flow::{Due, Segment, Step, emit, flow_state, leg_state, on_leg, on_sweep, sweep, tcp},
    switch_word::Side,
    verdict::Verdict,
};

use super::{ANSWER, LEG_ISS, SERVER_ISS, Scene, WRITE, is};

/// The primary, which has the authority, resets its leg.
fn die(scene: &mut Scene) -> Step {
    let ack = LEG_ISS[0] + 1 + WRITE.len() as u32;
    let reset = Segment { seq: SERVER_ISS[0] + 1, ack, flags: tcp::RST | tcp::ACK, ..scene.segment() };
    scene.run(|flow, terms, step| {
        on_leg(flow, Side::Primary, &reset, terms, step);
    })
}

/// A killed authority put the mirror out of sync by every write that was under way: nobody was left to take over.
#[test]
fn the_mirror_does_what_a_dead_authority_was_asked_and_stays_in_sync() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
    let step = die(&mut scene);
    is(&step, Verdict::Reset);
    assert_eq!((step.to_client.flags & tcp::RST, step.to_leg[1].kind), (tcp::RST, emit::NONE));
    assert_eq!((scene.flow.state, scene.flow.leg(Side::Shadow).state), (flow_state::ENDED, leg_state::OPEN));
    assert!(Side::BOTH.iter().all(|side| !scene.flow.hears(*side)), "from here on nobody is heard");
    assert_eq!((scene.writes, scene.doubts, scene.word.member(Side::Shadow)), (1, 1, true));
    let step = scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
    assert_eq!(step.to_client.kind, emit::NONE, "nobody hears it");
    assert_eq!((scene.writes, scene.flow.leg(Side::Shadow).state), (0, leg_state::NONE));
    assert!(scene.word.member(Side::Shadow));
}

#[test]
fn an_authority_that_answers_another_write_lives_and_the_mirror_is_out_of_sync() {
    let mut scene = Scene::established(true);
    scene.doubts = 1;
    is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
    assert!(scene.word.member(Side::Shadow), "not by the question alone");
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    assert!(!scene.word.member(Side::Shadow));
}

#[test]
fn a_mirror_that_never_answers_what_is_in_doubt_is_out_of_sync() {
    let mut scene = Scene::established(true);
    scene.client(0, WRITE, 0);
    die(&mut scene);
    let ack = LEG_ISS[1] + 1 + WRITE.len() as u32;
    let reset = Segment { seq: SERVER_ISS[1] + 1, ack, flags: tcp::RST | tcp::ACK, ..scene.segment() };
    scene.run(|flow, terms, step| {
        on_leg(flow, Side::Shadow, &reset, terms, step);
    });
    assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (0, false));
}

/// An authority that hangs resets nothing: a rollback waited for its answers for ever.
#[test]
fn what_waits_for_a_hung_authority_is_ended_when_it_is_given_up() {
    let mut scene = Scene::established(true);
    scene.client(0, WRITE, 0);
    scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
    let mut due = Due::Nothing;
    scene.run(|flow, terms, step| due = on_sweep(flow, 0, terms, step));
    assert_eq!((due, scene.writes), (Due::Nothing, 1), "an authority has all the time that it wants");
    scene.run(|flow, terms, step| due = on_sweep(flow, sweep::GIVE_UP, terms, step));
    assert_eq!((due, scene.writes), (Due::Emit, 1), "without a packet nothing is done");
    let step = scene.run(|flow, terms, step| due = on_sweep(flow, sweep::ACT | sweep::GIVE_UP, terms, step));
    assert_eq!((step.to_client.flags & tcp::RST, scene.writes, scene.doubts), (tcp::RST, 0, 1));
    assert!(scene.word.member(Side::Shadow));
}
