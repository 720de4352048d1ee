//! Windows, probes and keep-alives of two legs behind one client.

use super::*;
use proptest::prelude::*;

const FLAGS: u8 = tcp::ACK;

impl Scene {
    /// Both handshakes done, with these scales and first windows.
    fn with_scales(client: u8, servers: [u8; 2], windows: [u16; 2]) -> Scene {
        let mut scene = Scene::open_scaled(true, client);
        for side in Side::BOTH {
            let n = side as usize;
            let (seq, ack) = (SERVER_ISS[n], LEG_ISS[n] + 1);
            let flags = tcp::SYN | tcp::ACK;
            let segment =
                Segment { seq, ack, flags, scale: servers[n], window: windows[n], ..scene.segment() };
            scene.server_sends(side, &segment);
        }
        scene
    }

    /// A server acknowledges so much, and has this window.
    fn window(&mut self, side: Side, acked: usize, window: u16) -> Step {
        let n = side as usize;
        let (seq, ack) = (self.flow.legs[n].sent_max, LEG_ISS[n] + 1 + acked as u32);
        let segment = Segment { seq, ack, window, ..self.segment() };
        self.server_sends(side, &segment)
    }
}

fn scale() -> impl Strategy<Value = u8> {
    prop_oneof![Just(Segment::NO_SCALE), Just(0), Just(7), Just(14)]
}

/// What a window field and its scale say, in bytes.
fn bytes(field: u16, scale: u8) -> u64 {
    u64::from(field) << if scale == Segment::NO_SCALE { 0 } else { scale }
}

proptest! {
    /// T7: whatever the scales, the client is never shown more room than the smaller leg has, and no server more than the
    /// client has; and with room on both sides neither is told that there is none.
    #[test]
    fn windows_are_rescaled_and_rounded_down(
        client in scale(), servers in [scale(), scale()],
        windows in [20_000_u16..=u16::MAX, 20_000_u16..=u16::MAX],
    ) {
        let mut scene = Scene::with_scales(client, servers, [1_000; 2]);
        let both = |server: u8| client != Segment::NO_SCALE && server != Segment::NO_SCALE;
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        scene.window(Side::Primary, READ.len(), windows[0]);
        let step = scene.window(Side::Shadow, READ.len(), windows[1]);
        is(&step, Verdict::Raised);
        let room = |n: usize| bytes(windows[n], if both(servers[n]) { servers[n] } else { 0 });
        let shown = bytes(step.to_client.window, if both(servers[0]) { servers[0] } else { 0 });
        prop_assert!(shown <= room(0).min(room(1)), "{} of {} and {}", shown, room(0), room(1));
        prop_assert!(shown > 0);
        // The other way: the client's window, as the primary reads it.
        let window = 30_000;
        let segment = Segment { window, ..scene.segment() };
        let (seq, ack) = (scene.flow.client_next, scene.flow.view_next);
        let step = scene.client_sends(&Segment { seq, ack, ..segment });
        let client_scale = if both(servers[0]) { client } else { 0 };
        let told = bytes(step.to_leg[0].window, client_scale);
        prop_assert!(told <= bytes(window, client_scale) && told > 0);
    }
}

/// T9: a leg without room holds the client back, at the smaller right edge, which never moves back; its update opens.
#[test]
fn the_smaller_right_edge_is_shown() {
    for (shut, other) in [(Side::Primary, Side::Shadow), (Side::Shadow, Side::Primary)] {
        let mut scene = Scene::with_scales(0, [0, 0], [1_000; 2]);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        let edge = scene.flow.shown_edge;
        scene.window(other, READ.len(), 60_000);
        scene.window(shut, READ.len(), (1_000 - READ.len()) as u16);
        assert_eq!((scene.flow.shown_edge, scene.flow.shown), (edge, ISS + 1 + READ.len() as u32));
        // Less than before: the client isn't told.
        is(&scene.window(shut, READ.len(), 0), Verdict::AbsorbedAck);
        assert_eq!(scene.flow.shown_edge, edge);
        let step = scene.window(shut, READ.len(), 50_000);
        is(&step, Verdict::Raised);
        assert_eq!(step.to_client.window, 50_000);
    }
}

/// T9: a window probe reaches the leg that is shut, just before what it expects, and its answer is shown: so an update that
/// was lost comes again, on the way to the gateway or behind it.
#[test]
fn a_lost_window_update_comes_again_by_a_probe() {
    for shut in Side::BOTH {
        let mut scene = Scene::with_scales(0, [0, 0], [1_000; 2]);
        let body = [b'x'; 952];
        let upload = [UPLOAD, &body[..]].concat();
        assert_eq!(upload.len(), 1_000);
        is(&scene.client(0, &upload, 0), Verdict::Mirrored);
        scene.window(shut.other(), 1_000, 60_000);
        let step = scene.window(shut, 1_000, 0);
        is(&step, Verdict::Raised);
        assert_eq!(step.to_client.window, 0);
        // Its update is lost; the client probes with the byte before.
        let probe = scene.client_says(FLAGS, 999, 0);
        is(&probe, Verdict::Probe);
        let to = probe.to_leg[shut as usize];
        assert_eq!((to.kind, to.seq), (emit::FORWARD, LEG_ISS[shut as usize] + 1_000));
        let step = scene.window(shut, 1_000, 60_000);
        is(&step, Verdict::Raised);
        assert_eq!(step.to_client.window, 60_000);
        // That one is lost on its way to the client: the next probe is answered by the authority.
        is(&scene.client_says(FLAGS, 999, 0), Verdict::Probe);
        let step = scene.window(Side::Primary, 1_000, 60_000);
        is(&step, Verdict::Raised);
        assert_eq!(step.to_client.window, 60_000);
    }
}

/// T9: the stall budget doesn't run while the client itself has nothing owed, however long a window is shut.
#[test]
fn a_shut_window_alone_costs_no_leg() {
    let mut scene = Scene::with_scales(0, [0, 0], [1_000; 2]);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    for _ in 0..100 {
        scene.now_ms += 1_000;
        scene.window(Side::Shadow, READ.len(), 0);
        is(&scene.client_says(FLAGS, READ.len() - 1, ANSWER.len()), Verdict::Probe);
    }
    assert_eq!(scene.flow.leg(Side::Shadow).state, leg_state::OPEN);
}

/// T2: of acknowledgements that say nothing new, the slowest leg's are shown, as the only sign of loss; the other's aren't.
#[test]
fn only_the_slowest_legs_duplicates_are_shown() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    is(&scene.client(READ.len(), WRITE, 0), Verdict::Mirrored);
    scene.window(Side::Primary, READ.len(), 1_000);
    scene.window(Side::Shadow, 0, 1_000);
    for _ in 0..3 {
        is(&scene.window(Side::Primary, READ.len(), 1_000), Verdict::AbsorbedAck);
        let step = scene.window(Side::Shadow, 0, 1_000);
        is(&step, Verdict::Raised);
        assert_eq!((step.to_client.ack, step.to_leg[0].kind), (ISS + 1, emit::NONE));
    }
}

/// T10: a client's keep-alive goes to the authority, its answer back, and the other leg hears nothing.
#[test]
fn the_clients_keep_alive_is_the_authoritys() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    scene.client_says(FLAGS, READ.len(), ANSWER.len());
    for payload in [0, 1] {
        let seq = ISS + READ.len() as u32;
        let segment = Segment { seq, ack: scene.flow.view_next, payload, ..scene.segment() };
        let step = scene.client_sends(&segment);
        is(&step, Verdict::Probe);
        assert_eq!(step.to_leg.map(|emit| emit.kind), [emit::FORWARD, emit::NONE]);
        assert_eq!(step.to_leg[0].seq, LEG_ISS[0] + READ.len() as u32);
        let step = scene.window(Side::Primary, READ.len(), 1_000);
        is(&step, Verdict::Raised);
        assert_eq!(step.to_client.ack, scene.flow.client_next);
    }
}

/// T10: the authority's keep-alive is the client's to answer; the other leg's is answered at once, and nobody else hears it.
#[test]
fn the_servers_keep_alives() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    scene.client_says(FLAGS, READ.len(), ANSWER.len());
    let step = scene.says(Side::Primary, FLAGS, ANSWER.len() - 1, READ.len());
    is(&step, Verdict::Probe);
    assert_eq!((step.to_client.kind, step.to_client.seq), (emit::FORWARD, scene.flow.view_next - 1));
    let answer = scene.client_says(FLAGS, READ.len(), ANSWER.len());
    is(&answer, Verdict::Forwarded);
    assert_eq!(answer.to_leg.map(|emit| emit.kind), [emit::FORWARD, emit::NONE]);
    let step = scene.says(Side::Shadow, FLAGS, ANSWER.len() - 1, READ.len());
    is(&step, Verdict::Absorbed);
    assert_eq!((step.to_client.kind, step.to_leg[1].kind), (emit::NONE, emit::BARE));
    assert_eq!(step.to_leg[1].ack, SERVER_ISS[1] + 1 + ANSWER.len() as u32);
}

/// A head whose body is 952 bytes.
const UPLOAD: &[u8] = b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 952\r\n\r\n";

/// T8: of three segment sizes, and what the policy says of each path, the least is what either end is told.
#[test]
fn the_least_segment_size_is_offered_to_both_ends() {
    for (client, policy, server, least) in [
        (1_460, [0, 0], 1_460, 1_460),
        (1_460, [0, 1_400], 1_460, 1_400),
        (1_200, [1_300, 1_400], 1_460, 1_200),
        (0, [0, 0], 1_460, 536),
        (1_460, [0, 0], 536, 536),
    ] {
        let mut scene = Scene::open(true);
        for (end, mss) in scene.service.endpoints.iter_mut().zip(policy) {
            end.mss = mss;
        }
        let syn = Segment { seq: ISS, flags: tcp::SYN, mss: client, ..scene.segment() };
        let opening = Opening { tuple: Tuple::default(), who: 0, ports: [1_024, 1_025], iss: LEG_ISS };
        let step = scene.run(|flow, terms, step| open(flow, &syn, &opening, terms, step));
        let offered = step.to_leg.map(|emit| emit.mss);
        assert!(
            offered.iter().all(|mss| *mss == offered[0] && (*mss == least || server == least)),
            "{offered:?}"
        );
        let flags = tcp::SYN | tcp::ACK;
        let answer =
            Segment { seq: SERVER_ISS[0], ack: LEG_ISS[0] + 1, flags, mss: server, ..scene.segment() };
        assert_eq!(scene.server_sends(Side::Primary, &answer).to_client.mss, least);
    }
}

/// A number that stood still seemed to lie ahead of the authority's bytes when 2 GiB had come behind it: they were absorbed, and
/// the connection hung. So it did at 4 GiB, where what had been acknowledged seemed too far from what was seen.
#[test]
fn a_connection_goes_on_behind_any_number_of_bytes() {
    const PIECE: u32 = 1 << 20;
    let mut scene = Scene::established(true);
    scene.client(0, READ, 0);
    let head: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    is(&scene.server(Side::Primary, 0, head, READ.len()), Verdict::Forwarded);
    let mut next = SERVER_ISS[0] + 1 + head.len() as u32;
    for piece in 0..5 << 10 {
        let ack = LEG_ISS[0] + 1 + READ.len() as u32;
        let segment = Segment { seq: next, ack, payload: PIECE, ..scene.segment() };
        is(&scene.server_sends(Side::Primary, &segment), Verdict::Forwarded);
        next = next.wrapping_add(PIECE);
        let ack = Segment { seq: ISS + 1 + READ.len() as u32, ack: next, ..scene.segment() };
        let step = scene.client_sends(&ack);
        assert_eq!(step.to_leg[0].ack, next, "behind {piece} MiB");
    }
}

/// RFC 9293, 3.8.6.2.2: of a window that opens the client is told where it is by two segments, or where it had no room for one.
#[test]
fn a_window_that_opens_by_little_is_not_told() {
    for (room, by, verdict) in [
        (10_000, 2_919, Verdict::AbsorbedAck),
        (10_000, 2_920, Verdict::Raised),
        (1_459, 1, Verdict::Raised),
        (1_460, 1, Verdict::AbsorbedAck),
        (1_460, 0, Verdict::AbsorbedAck),
    ] {
        let mut scene = Scene::with_scales(0, [0, 0], [1_000; 2]);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        for side in Side::BOTH {
            scene.window(side, READ.len(), room);
        }
        scene.window(Side::Shadow, READ.len(), room + by);
        is(&scene.window(Side::Primary, READ.len(), room + by), verdict);
    }
}

/// T2: what acknowledges all is no sign of loss, nor is a window that has changed.
#[test]
fn only_the_very_same_acknowledgement_is_a_sign_of_loss() {
    let mut scene = Scene::with_scales(0, [0, 0], [1_000; 2]);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    is(&scene.window(Side::Shadow, 0, 1_000), Verdict::Raised);
    is(&scene.window(Side::Shadow, 0, 900), Verdict::AbsorbedAck);
    for side in Side::BOTH {
        scene.window(side, READ.len(), 1_000);
    }
    for side in Side::BOTH {
        is(&scene.window(side, READ.len(), 1_000), Verdict::AbsorbedAck);
    }
}

/// T9: a leg with less room than one unit of the client's window field is shut to the client: its probe goes there, too.
#[test]
fn a_leg_with_less_room_than_the_field_can_say_is_probed() {
    for (room, probed) in [(127, emit::FORWARD), (128, emit::NONE)] {
        let mut scene = Scene::established(true);
        is(&scene.client(0, READ, 0), Verdict::Mirrored);
        for side in Side::BOTH {
            scene.server(side, 0, ANSWER, READ.len());
        }
        scene.client_says(FLAGS, READ.len(), ANSWER.len());
        scene.flow.leg_mut(Side::Shadow).edge = scene.flow.client_next + room;
        let probe = scene.client_says(FLAGS, READ.len() - 1, ANSWER.len());
        is(&probe, Verdict::Probe);
        assert_eq!(probe.to_leg.map(|emit| emit.kind), [emit::FORWARD, probed]);
    }
}

/// T1: what one leg lacks isn't shown, whichever the client hears; and one that is gone lacks nothing.
#[test]
fn the_acknowledgement_is_that_of_the_slower_leg_and_not_of_one_that_is_gone() {
    for gone in [false, true] {
        for slow in Side::BOTH {
            for heard in Side::BOTH {
                if gone && heard == slow {
                    continue;
                }
                let mut scene = Scene::established(true);
                is(&scene.client(0, READ, 0), Verdict::Mirrored);
                scene.flow.authority = heard as u8;
                if gone {
                    scene.flow.leg_mut(slow).state = leg_state::NONE;
                }
                let step = scene.window(slow.other(), READ.len(), 1_000);
                is(&step, if gone { Verdict::Raised } else { Verdict::AbsorbedAck });
                let shown = ISS + 1 + if gone { READ.len() as u32 } else { 0 };
                assert_eq!(scene.flow.shown, shown, "{slow:?} {heard:?}");
                if gone {
                    assert_eq!((step.to_client.kind, step.to_client.ack), (emit::BARE, shown));
                }
            }
        }
    }
}

/// T7: the room of a leg that is left alone may be more than the client's field can say by the scale that it was told: cut
/// off above, such a window would look shut.
#[test]
fn more_room_than_the_field_can_say_is_shown_as_the_most() {
    let mut scene = Scene::with_scales(7, [0, 14], [1_000; 2]);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    scene.flow.leg_mut(Side::Primary).state = leg_state::NONE;
    let step = scene.window(Side::Shadow, READ.len(), 1_024);
    is(&step, Verdict::Raised);
    assert_eq!(step.to_client.window, 0xffff);
}

/// Where what the client sent beyond its window is acknowledged, and no room is left, none is shown: by the wrap it would be
/// the most.
#[test]
fn an_edge_behind_the_acknowledgement_is_no_room() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.window(side, READ.len(), 1_000);
    }
    let edge = scene.flow.shown - 1;
    scene.flow.shown_edge = edge;
    for leg in &mut scene.flow.legs {
        leg.edge = edge;
    }
    let step = scene.client(0, READ, 0);
    is(&step, Verdict::TurnedBack);
    assert_eq!(step.to_client.window, 0);
}
