//! Handshakes, of a connection and of its legs.

use mirror_common::flow::{Leg, flow_state};

use super::*;

/// T6: the SYN that comes again goes again to who hasn't answered it, and to nobody else.
#[test]
fn a_syn_that_comes_again_goes_to_who_has_not_answered() {
    let mut scene = Scene::open(true);
    let kinds = |step: &Step| step.to_leg.map(|emit| emit.kind);
    let again = scene.syn(ISS);
    is(&again, Verdict::SynAgain);
    assert_eq!(kinds(&again), [emit::SYN; 2]);
    scene.syn_ack(Side::Shadow, 7);
    assert_eq!(kinds(&scene.syn(ISS)), [emit::SYN, emit::NONE]);
}

/// The client is shown the window of the authority's SYN-ACK, which is never scaled (RFC 7323, 2.2).
#[test]
fn the_authoritys_syn_ack_is_shown_with_its_window() {
    let mut scene = Scene::open(true);
    let (seq, ack) = (SERVER_ISS[0], LEG_ISS[0] + 1);
    let answer = Segment { seq, ack, flags: tcp::SYN | tcp::ACK, window: 777, scale: 7, ..scene.segment() };
    let step = scene.server_sends(Side::Primary, &answer);
    is(&step, Verdict::SynAckShown);
    assert_eq!(step.to_client.window, 777);
    let step = scene.syn_ack(Side::Shadow, 7);
    assert_eq!(step.events & (Step::LEG_OPEN | Step::WAKE), Step::LEG_OPEN | Step::WAKE);
    // Sent again, the authority's is shown again until the client has acknowledged it; the mirror's never is.
    is(&scene.syn_ack(Side::Shadow, 7), Verdict::SynAckAbsorbed);
    is(&scene.syn_ack(Side::Primary, 7), Verdict::SynAckShown);
    is(&scene.client_says(tcp::ACK, 0, 0), Verdict::Forwarded);
    is(&scene.syn_ack(Side::Primary, 7), Verdict::SynAckAbsorbed);
}

/// T7: the client's window reaches the authority as it is, where both scale alike; one whose server doesn't scale is told as much
/// as its field can say.
#[test]
fn the_clients_window_is_told_by_the_legs_scale() {
    let mut scene = Scene::established(true);
    assert_eq!(scene.flow.client_scale(), 7);
    assert_eq!(scene.client(0, READ, 0).to_leg[0].window, 1_000);
    assert_eq!(Scene::open_scaled(true, Segment::NO_SCALE).flow.client_scale(), 0);
    let mut scene = Scene::open(true);
    scene.syn_ack(Side::Primary, 7);
    scene.syn_ack(Side::Shadow, Segment::NO_SCALE);
    scene.word = scene.word.with_weight(10_000);
    assert_eq!(scene.client(0, READ, 0).to_leg[1].window, 0xffff);
}

/// T7: a leg that is dialled later is offered what the connection has come to.
#[test]
fn a_leg_that_is_dialled_later_is_offered_the_clients_scale() {
    for (primary, offered) in [(7, 7), (Segment::NO_SCALE, Segment::NO_SCALE)] {
        let mut scene = Scene::open(false);
        scene.syn_ack(Side::Primary, primary);
        scene.word = scene.word.with_member(Side::Shadow, true);
        let mut step = scene.client(0, READ, 0);
        assert_eq!(step.dial(), Some(Side::Shadow));
        let dialled = Dialled { side: 1, port: 1_025, iss: LEG_ISS[1] };
        let segment = scene.segment();
        scene.run(|flow, terms, made| {
            on_dialled(flow, &dialled, &segment, terms, &mut step);
            *made = step;
        });
        assert_eq!((step.to_leg[1].kind, step.to_leg[1].scale), (emit::SYN, offered));
    }
}

/// A port that was claimed for a leg that isn't wanted any more goes back: nothing is sent.
#[test]
fn a_dial_that_is_not_wanted_any_more_sends_nothing() {
    let made = |verdict: Verdict, change: &dyn Fn(&mut Scene)| {
        let mut scene = Scene::established(true);
        let leg = scene.flow.leg_mut(Side::Shadow);
        (leg.state, leg.dialled_ms) = (leg_state::DOWN, 0);
        change(&mut scene);
        let dialled = Dialled { side: 1, port: 1_026, iss: LEG_ISS[1] };
        let segment = scene.segment();
        scene.run(|flow, terms, step| {
            step.end(verdict);
            on_dialled(flow, &dialled, &segment, terms, step);
        })
    };
    let unwanted: [&dyn Fn(&mut Scene); 4] = [
        &|scene| scene.flow.state = flow_state::ENDED,
        &|scene| scene.word = scene.word.with_member(Side::Shadow, false),
        &|scene| scene.flow.leg_mut(Side::Shadow).dialled_ms = scene.now_ms - 99,
        &|scene| scene.flow.leg_mut(Side::Shadow).state = leg_state::NONE,
    ];
    for change in unwanted {
        let step = made(Verdict::HeldUnsettled, change);
        is(&step, Verdict::HeldUnsettled);
        assert_eq!((step.to_leg[1].kind, step.hold_copy), (emit::NONE, 0));
    }
    // What held the packet at hand holds a copy; where nothing else came of the packet, the dial did.
    for (verdict, ends, hold) in [
        (Verdict::HeldUnsettled, Verdict::Dialled, 1),
        (Verdict::HeldCapped, Verdict::Dialled, 1),
        (Verdict::LegLost, Verdict::Dialled, 0),
        (Verdict::NoLeg, Verdict::Dialled, 0),
        (Verdict::Forwarded, Verdict::Forwarded, 0),
    ] {
        let step = made(verdict, &|_| {});
        is(&step, ends);
        assert_eq!((step.to_leg[1].kind, step.hold_copy), (emit::SYN, hold));
    }
}

/// RFC 9293, 3.10.7.1: what belongs to no leg is reset in its sender's numbers, and a reset isn't answered.
#[test]
fn what_belongs_to_no_leg_is_reset() {
    let mut scene = Scene::established(true);
    scene.flow.leg_mut(Side::Shadow).state = leg_state::NONE;
    let stray = scene.says(Side::Shadow, tcp::ACK, 0, 5);
    is(&stray, Verdict::ResetUnknownLeg);
    let told = stray.to_leg[1];
    assert_eq!((told.kind, told.flags, told.seq, told.port), (emit::BARE, tcp::RST, LEG_ISS[1] + 6, 1_025));
    let reset = scene.says(Side::Shadow, tcp::RST, 0, 5);
    is(&reset, Verdict::ResetUnknownLeg);
    assert_eq!(reset.to_leg[1].kind, emit::NONE);
    // So is the client's, behind its connection's end.
    scene.flow.state = flow_state::ENDED;
    let stray = scene.client_says(tcp::ACK, 0, 7);
    is(&stray, Verdict::ResetStale);
    let told = stray.to_client;
    assert_eq!((told.kind, told.flags, told.seq), (emit::BARE, tcp::RST, SERVER_ISS[0] + 8));
    let reset = scene.client_says(tcp::RST, 0, 7);
    is(&reset, Verdict::ResetStale);
    assert_eq!(reset.to_client.kind, emit::NONE);
}

/// A server's reset stands behind what was lost on its way from it.
#[test]
fn a_reset_behind_a_hole_is_believed() {
    let mut scene = Scene::established(true);
    is(&scene.says(Side::Shadow, tcp::RST, 1_000, 0), Verdict::LegLost);
}

/// A reading that isn't of what the connection has come to meanwhile is void, whatever differs; nothing is taken over.
#[test]
fn a_void_reading_is_deferred() {
    let voids: [fn(Reading) -> Reading; 3] = [
        |reading| Reading { flags: reading.flags & !Reading::DONE, ..reading },
        |reading| Reading { before: Parse { at: reading.before.at - 1, ..reading.before }, ..reading },
        |reading| Reading { base: reading.base + 1, ..reading },
    ];
    for void in voids {
        let mut scene = Scene::established(true);
        let reading = void(read(Kind::Request, &scene.flow.parse, 0, 0, ISS + 1, READ));
        let (payload, ack) = (READ.len() as u32, SERVER_ISS[0] + 1);
        let segment = Segment { seq: ISS + 1, ack, payload, reading, ..scene.segment() };
        is(&scene.client_sends(&segment), Verdict::DeferredRaced);
        assert_eq!((scene.flow.turns, scene.flow.client_next), (0, ISS + 1));
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        for side in Side::BOTH {
            let leg = *scene.flow.leg(side);
            let reading = void(read(Kind::Response, &leg.parse, 0, 0, leg.rcv_nxt, ANSWER));
            let ack = scene.flow.client_next.wrapping_add(leg.offset);
            let payload = ANSWER.len() as u32;
            let segment = Segment { seq: leg.rcv_nxt, ack, payload, reading, ..scene.segment() };
            let step = scene.server_sends(side, &segment);
            is(&step, Verdict::DeferredRaced);
            assert_eq!((step.to_client.kind, scene.flow.leg(side).rcv_nxt), (emit::NONE, leg.rcv_nxt));
        }
    }
}

/// A hole over an answer's head: the authority's isn't shown over, the mirror's isn't acknowledged over.
#[test]
fn nothing_is_taken_over_a_hole_that_hides_a_head() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    let step = scene.server(Side::Primary, 10, &ANSWER[10..], READ.len());
    is(&step, Verdict::BeyondHead);
    assert_eq!(step.to_client.kind, emit::NONE);
    let step = scene.server(Side::Shadow, 10, &ANSWER[10..], READ.len());
    assert_eq!(step.to_leg[1].ack, SERVER_ISS[1] + 1);
    assert_ne!(scene.flow.leg(Side::Shadow).flags & Leg::HOLE, 0);
}

/// T13: a client that is done may use its port again where the authority's leg has gone; not while another one takes over.
#[test]
fn behind_a_gone_authority_a_newer_syn_is_a_new_connection() {
    for (state, returning, begins) in
        [(leg_state::NONE, false, true), (leg_state::DOWN, false, true), (leg_state::NONE, true, false)]
    {
        let mut scene = Scene::established(true);
        is(&scene.client_says(tcp::FIN | tcp::ACK, 0, 0), Verdict::Mirrored);
        for side in Side::BOTH {
            scene.says(side, tcp::ACK, 0, 1);
        }
        scene.flow.leg_mut(Side::Primary).state = state;
        scene.flow.set(Flow::RETURNING, returning);
        assert_eq!(scene.syn(ISS + 5).dial == 0xff, begins, "{state} {returning}");
    }
}
