//! Who answers a turn: by the weight, and by the limit of requests on a connection.

use mirror_common::flow::Leg;

use super::*;

/// Two legs, every read the shadow's.
fn all_to_the_shadow() -> Scene {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    scene
}

/// Only a segment that is just one request goes elsewhere: what is behind it, or is still to come, has no other place to begin.
#[test]
fn only_one_whole_request_goes_elsewhere() {
    let upload: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf";
    let two = [READ, READ].concat();
    let more = [READ, &READ[..5]].concat();
    for (request, side) in [
        (READ, Side::Shadow),
        (&two, Side::Primary),
        (&more, Side::Primary),
        (&READ[..9], Side::Primary),
        (upload, Side::Primary),
    ] {
        let mut scene = all_to_the_shadow();
        is(&scene.client(0, request, 0), Verdict::Mirrored);
        assert_eq!(scene.flow.authority(), side, "{}", String::from_utf8_lossy(request));
    }
    // Nor one with which its client closes.
    let mut scene = all_to_the_shadow();
    let reading = read(Kind::Request, &scene.flow.parse, 0, 0, ISS + 1, READ);
    let (payload, ack) = (READ.len() as u32, SERVER_ISS[0] + 1);
    let segment = Segment { seq: ISS + 1, ack, payload, flags: FIN, reading, ..scene.segment() };
    is(&scene.client_sends(&segment), Verdict::Mirrored);
    assert_eq!(scene.flow.authority(), Side::Primary);
}

const FIN: u8 = tcp::FIN | tcp::ACK;

/// A leg that isn't there, or has said that it ends, answers nothing more.
#[test]
fn a_leg_that_ends_is_not_chosen() {
    for (flags, side) in [
        (0, Side::Shadow),
        (Leg::FIN, Side::Primary),
        (Leg::UNKNOWN, Side::Primary),
        (Leg::CLOSING, Side::Primary),
    ] {
        let mut scene = all_to_the_shadow();
        scene.flow.leg_mut(Side::Shadow).flags |= flags;
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        assert_eq!(scene.flow.authority(), side, "{flags}");
    }
    let mut scene = Scene::open(true);
    scene.syn_ack(Side::Primary, 7);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::HeldDialling);
    assert_eq!(scene.flow.authority(), Side::Primary);
    let mut scene = all_to_the_shadow();
    scene.word = scene.word.with_member(Side::Shadow, false).with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Forwarded);
    assert_eq!(scene.flow.authority(), Side::Primary);
}

/// Half of the reads: each side answers some turns of a connection, and some connections that differ in one number alone.
#[test]
fn the_choice_depends_on_the_turn_and_on_each_number_of_the_connection() {
    let chosen = |set: &dyn Fn(&mut Flow)| {
        let mut scene = all_to_the_shadow();
        scene.word = scene.word.with_weight(5_000);
        set(&mut scene.flow);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        scene.flow.authority()
    };
    let both = |what: &str, set: &dyn Fn(&mut Flow, u32)| {
        let sides: Vec<Side> = (0..64).map(|n| chosen(&|flow| set(flow, n))).collect();
        assert!(Side::BOTH.iter().all(|side| sides.contains(side)), "{what}: {sides:?}");
    };
    for other in [0, u32::MAX] {
        both("its first number", &|flow, n| (flow.iss, flow.tuple.saddr) = (n, other));
        both("its first number, and its port", &|flow, n| (flow.iss, flow.tuple.sport) = (n, other as u16));
        both("its address", &|flow, n| (flow.tuple.saddr, flow.iss) = (n << 16, other));
        both("its port", &|flow, n| (flow.tuple.sport, flow.iss) = (n as u16, other));
        both("its turn", &|flow, n| {
            (flow.turns, flow.iss) = (n, other);
            for leg in &mut flow.legs {
                leg.answered = n;
            }
        });
    }
}

/// By client, and whatever else is different.
#[test]
fn a_sticky_choice_depends_on_the_client_alone() {
    let chosen = |who: u32, iss: u32| {
        let mut scene = all_to_the_shadow();
        scene.word = scene.word.with_weight(5_000).with_sticky(true);
        (scene.flow.who, scene.flow.iss) = (who, iss);
        let reading = read(Kind::Request, &scene.flow.parse, 0, 0, ISS + 1, READ);
        let (payload, ack) = (READ.len() as u32, SERVER_ISS[0] + 1);
        let segment = Segment { seq: ISS + 1, ack, payload, reading, ..scene.segment() };
        is(&scene.client_sends(&segment), Verdict::Mirrored);
        scene.flow.authority()
    };
    let sides: Vec<Side> = (0..64).map(|who| chosen(who, 1)).collect();
    assert!(Side::BOTH.iter().all(|side| sides.contains(side)));
    assert_eq!(sides, (0..64).map(|who| chosen(who, 1 << (who % 32))).collect::<Vec<_>>());
}

/// Two turns on a connection is all that a server takes: in its last answer it says that it will close.
fn limited(side: Side) -> Scene {
    let mut scene = Scene::established(true);
    scene.service.endpoints[side as usize].max_requests = 2;
    scene
}

impl Scene {
    /// A request that both answer, and its client acknowledges.
    fn turn(&mut self, n: usize) {
        is(&self.client(n * READ.len(), READ, n * ANSWER.len()), Verdict::Mirrored);
        for side in Side::BOTH {
            self.server(side, n * ANSWER.len(), ANSWER, (n + 1) * READ.len());
        }
    }
}

/// The client must not hear the mirror's word that it will close: its last answer is absorbed, and its successor takes the turn
/// behind it.
#[test]
fn a_mirror_that_has_reached_its_limit_is_replaced() {
    let mut scene = limited(Side::Shadow);
    scene.turn(0);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(READ.len(), READ, ANSWER.len()), Verdict::Mirrored);
    assert_eq!(scene.flow.authority(), Side::Primary, "the shadow's last answer would tell of its end");
    scene.server(Side::Primary, ANSWER.len(), ANSWER, 2 * READ.len());
    let third = |scene: &mut Scene| scene.client(2 * READ.len(), READ, 2 * ANSWER.len());
    is(&third(&mut scene), Verdict::HeldCapped);
    scene.server(Side::Shadow, ANSWER.len(), ANSWER, 2 * READ.len());
    let asked = third(&mut scene);
    is(&asked, Verdict::HeldDialling);
    let leg = scene.flow.leg(Side::Shadow);
    assert_eq!((leg.state, leg.acked), (leg_state::DOWN, ISS + 1 + 2 * READ.len() as u32));
    scene.dial(&asked);
    assert_eq!(scene.flow.leg(Side::Shadow).fed, 1);
}

/// A read that the mirror answers at its limit would be its last: the authority takes over before.
#[test]
fn the_authority_takes_over_before_the_limit() {
    let mut scene = limited(Side::Shadow);
    scene.word = scene.word.with_weight(10_000);
    scene.turn(0);
    assert_eq!(scene.flow.authority(), Side::Shadow);
    is(&scene.client(READ.len(), READ, ANSWER.len()), Verdict::Mirrored);
    assert_eq!(scene.flow.authority(), Side::Primary);
    // Where it isn't settled, the turn waits.
    let mut scene = limited(Side::Shadow);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.server(Side::Shadow, 0, ANSWER, READ.len());
    is(&scene.client(READ.len(), READ, ANSWER.len() - 1), Verdict::HeldCapped);
}

/// The limit is the one of the side that isn't the word's authority; below it, and without one, nothing waits.
#[test]
fn the_limit_is_the_other_sides() {
    let mut scene = limited(Side::Primary);
    for n in 0..4 {
        scene.turn(n);
    }
    let mut scene = limited(Side::Primary);
    scene.word = scene.word.with_authority(Side::Shadow);
    for n in 0..2 {
        scene.turn(n);
    }
    let asked = scene.client(2 * READ.len(), READ, 2 * ANSWER.len());
    is(&asked, Verdict::HeldDialling);
    assert_eq!((asked.dial(), scene.flow.authority()), (Some(Side::Primary), Side::Shadow));
}

/// Several requests in one segment can't be divided: a fresh leg takes them, though they are more than its server does.
#[test]
fn a_fresh_leg_takes_more_than_its_limit_at_once() {
    let mut scene = limited(Side::Shadow);
    let three = [READ; 3].concat();
    is(&scene.client(0, &three, 0), Verdict::Mirrored);
    assert_eq!(scene.flow.leg(Side::Shadow).fed, 3);
    let mut scene = limited(Side::Shadow);
    scene.turn(0);
    let step = scene.client(READ.len(), &three, ANSWER.len());
    is(&step, Verdict::HeldDialling);
    assert_eq!(step.dial(), Some(Side::Shadow), "one that has been fed is replaced first");
}

/// A side joins a connection that was there before at its next turn: where it has a server, and is a member.
#[test]
fn a_side_joins_at_a_boundary() {
    let joins = |member: bool, addr: u32, word: fn(SwitchWord) -> SwitchWord| {
        let mut scene = Scene::established(false);
        scene.word = word(scene.word.with_member(Side::Shadow, member));
        scene.service.endpoints[1].addr = addr;
        scene.client(0, READ, 0).dial()
    };
    assert_eq!(joins(true, 2, |word| word), Some(Side::Shadow));
    assert_eq!(joins(true, 0, |word| word), None);
    assert_eq!(joins(false, 2, |word| word), None);
}
