//! SACK over two legs: what the client is shown both servers have, and what it says reaches the authority alone.

use super::*;
use mirror_common::flow::{
    Leg,
    sack::{MAX_BLOCKS, Sack},
};
use proptest::prelude::*;

/// The head of an upload of [`PIECES`] segments of [`PIECE`] bytes.
const HEAD: &[u8] = b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 12000\r\n\r\n";
const PIECE: usize = 1_000;
const PIECES: usize = 12;

/// The first number of an upload's `n`-th piece, as the client has it.
fn piece(n: usize) -> u32 {
    ISS + 1 + (HEAD.len() + n * PIECE) as u32
}

/// A SACK option with these blocks.
fn option(blocks: &[[u32; 2]]) -> Sack {
    // What lies behind its end is what another packet left there.
    let mut sack = Sack { blocks: [[7, 1 << 20]; MAX_BLOCKS], at: 2, ..Sack::default() };
    for (to, from) in sack.blocks.iter_mut().zip(blocks) {
        (*to, sack.room) = (*from, sack.room + 1);
    }
    sack
}

/// Blocks of a step for one receiver: 0, 1 a side's server, 2 the client.
fn shown(step: &Step, to: u8) -> &[[u32; 2]] {
    let forwarded = if to == 2 { step.to_client } else { step.to_leg[usize::from(to)] }.kind == emit::FORWARD;
    let count = if forwarded && step.sack.to == to { usize::from(step.sack.count) } else { 0 };
    assert!(count <= usize::from(step.sack.room), "more blocks than room: {:?}", step.sack);
    &step.sack.blocks[..count]
}

impl Scene {
    /// Handshakes of which each end says whether it permits SACK; the shadow's verdict.
    fn sacking(client: bool, servers: [bool; 2]) -> (Scene, Step) {
        let mut scene = Scene::open(true);
        let opening = Opening { tuple: Tuple::default(), who: 0, ports: [1_024, 1_025], iss: LEG_ISS };
        let syn =
            Segment { seq: ISS, flags: tcp::SYN, window: 60_000, mss: 1_460, scale: 7, ..scene.segment() };
        let syn = Segment { permits_sack: client.into(), ..syn };
        let step = scene.run(|flow, terms, step| open(flow, &syn, &opening, terms, step));
        assert_eq!(step.to_leg.map(|e| e.permits_sack), [u8::from(client); 2]);
        let accept = |scene: &mut Scene, side: Side| {
            let n = side as usize;
            let segment = Segment {
                seq: SERVER_ISS[n],
                ack: LEG_ISS[n] + 1,
                flags: tcp::SYN | tcp::ACK,
                scale: 7,
                window: 60_000,
                permits_sack: servers[n].into(),
                ..scene.segment()
            };
            scene.server_sends(side, &segment)
        };
        let told = accept(&mut scene, Side::Primary).to_client;
        assert_eq!((told.kind, told.permits_sack), (emit::SYN, u8::from(client && servers[0])));
        let shadow = accept(&mut scene, Side::Shadow);
        (scene, shadow)
    }

    /// The same, and an upload that is on its way.
    fn uploading(servers: [bool; 2]) -> Scene {
        let (mut scene, _) = Scene::sacking(true, servers);
        is(&scene.client(0, HEAD, 0), Verdict::Mirrored);
        for n in 0..PIECES {
            is(&scene.client(HEAD.len() + n * PIECE, &[b'a'; PIECE], 0), Verdict::Mirrored);
        }
        scene
    }

    /// A server's acknowledgement with blocks, all in the client's numbers.
    fn reports(&mut self, side: Side, ack: u32, blocks: &[[u32; 2]]) -> Step {
        let offset = self.flow.leg(side).offset;
        let blocks: Vec<_> = blocks.iter().map(|block| block.map(|at| at.wrapping_add(offset))).collect();
        let seq = self.flow.leg(side).sent_max;
        let ack = ack.wrapping_add(offset);
        let segment = Segment { seq, ack, window: 60_000, sack: option(&blocks), ..self.segment() };
        self.server_sends(side, &segment)
    }
}

/// What a server has of the upload's pieces, and what it has told of.
#[derive(Clone, Default)]
struct Server {
    has: [bool; PIECES],
    told: [bool; PIECES],
}

impl Server {
    fn acked(&self) -> usize {
        self.has.iter().position(|has| !has).unwrap_or(PIECES)
    }

    /// What lies beyond its acknowledgement, as ranges of pieces.
    fn ranges(&self) -> Vec<[usize; 2]> {
        let mut ranges: Vec<[usize; 2]> = Vec::new();
        for n in self.acked()..PIECES {
            match ranges.last_mut() {
                Some(last) if self.has[n] && last[1] == n => last[1] = n + 1,
                _ if self.has[n] => ranges.push([n, n + 1]),
                _ => {}
            }
        }
        ranges
    }
}

/// A piece reaches a server, which tells of it (or not), with its ranges turned so far.
fn event() -> impl Strategy<Value = (bool, usize, bool, usize)> {
    (any::<bool>(), 0..PIECES, any::<bool>(), 0..MAX_BLOCKS)
}

proptest! {
    /// T5: whatever each server has, tells of, and in which order, no block is shown of which one that owes hasn't told; and none
    /// that isn't above the shown acknowledgement. A server that doesn't permit SACK tells by its acknowledgement alone.
    #[test]
    fn no_block_is_shown_that_a_leg_has_not_told_of(
        events in proptest::collection::vec(event(), 1..60), shadow_permits in any::<bool>(),
    ) {
        let mut scene = Scene::uploading([true, shadow_permits]);
        let mut servers = [Server::default(), Server::default()];
        for (shadow, n, tells, turn) in events {
            let side = if shadow { Side::Shadow } else { Side::Primary };
            let server = &mut servers[side as usize];
            server.has[n] = true;
            if !tells {
                continue;
            }
            let acked = server.acked();
            let mut ranges = server.ranges();
            let turned = turn % ranges.len().max(1);
            ranges.rotate_left(turned);
            ranges.truncate(if side == Side::Shadow && !shadow_permits { 0 } else { MAX_BLOCKS });
            for [begin, end] in ranges.iter().copied().chain([[0, acked]]) {
                server.told[begin..end].fill(true);
            }
            let blocks: Vec<_> = ranges.iter().map(|range| range.map(piece)).collect();
            let ack = if acked == 0 { piece(0) } else { piece(acked) };
            let step = scene.reports(side, ack, &blocks);
            for [begin, end] in shown(&step, 2) {
                prop_assert!(seq::lt(scene.flow.shown, *begin) && seq::lt(*begin, *end), "{:?}", step.sack);
                for n in 0..PIECES {
                    let within = seq::lt(*begin, piece(n + 1)) && seq::lt(piece(n), *end);
                    let told = servers.iter().all(|server| server.told[n]);
                    prop_assert!(told || !within, "piece {} of {}:{} isn't told of by both", n, begin, end);
                }
            }
        }
    }
}

/// T5: the second server's blocks bring what both have, once: the same again would look like a duplicate (T2).
#[test]
fn what_both_servers_have_is_shown_when_the_second_tells_of_it() {
    let mut scene = Scene::uploading([true; 2]);
    let both = [[piece(2), piece(5)]];
    is(&scene.reports(Side::Primary, piece(1), &[[piece(2), piece(8)]]), Verdict::AbsorbedAck);
    let step = scene.reports(Side::Shadow, piece(1), &both);
    is(&step, Verdict::Raised);
    assert_eq!((shown(&step, 2), step.to_client.ack), (&both[..], piece(1)));
    is(&scene.reports(Side::Shadow, piece(1), &both), Verdict::AbsorbedAck);
    let step = scene.reports(Side::Shadow, piece(1), &[[piece(2), piece(6)]]);
    is(&step, Verdict::Raised);
    assert_eq!(shown(&step, 2), [[piece(2), piece(6)]]);
}

/// T5: what the one has acknowledged, the other's blocks are shown of.
#[test]
fn the_faster_legs_acknowledgement_counts_as_its_blocks() {
    let mut scene = Scene::uploading([true; 2]);
    is(&scene.reports(Side::Primary, piece(4), &[]), Verdict::AbsorbedAck);
    let step = scene.reports(Side::Shadow, piece(0), &[[piece(2), piece(3)], [piece(3) + 500, piece(6)]]);
    assert_eq!(shown(&step, 2), [[piece(2), piece(3)], [piece(3) + 500, piece(4)]]);
}

/// RFC 2883: a duplicate of what the client has sent twice is told to it each time, and what it never sent isn't.
#[test]
fn a_duplicate_is_shown_to_who_sent_it() {
    let mut scene = Scene::uploading([true; 2]);
    scene.reports(Side::Primary, piece(4), &[]);
    scene.reports(Side::Shadow, piece(4), &[]);
    for _ in 0..2 {
        let step = scene.reports(Side::Shadow, piece(4), &[[piece(1), piece(2)]]);
        is(&step, Verdict::Raised);
        assert_eq!(shown(&step, 2), [[piece(1), piece(2)]]);
    }
    let step = scene.reports(Side::Shadow, piece(4), &[[ISS - 5, ISS]]);
    is(&step, Verdict::AbsorbedAck);
    assert_eq!(shown(&step, 2), [[0; 2]; 0]);
}

/// T5: a server that doesn't permit SACK is counted, and its duplicate acknowledgements stay the client's sign of loss.
#[test]
fn a_leg_without_sack_counts_by_its_acknowledgement() {
    let (_, step) = Scene::sacking(true, [true, false]);
    is(&step, Verdict::SynAckWithoutSack);
    let mut scene = Scene::uploading([true, false]);
    let step = scene.reports(Side::Primary, piece(1), &[[piece(2), piece(8)]]);
    assert_eq!((step.verdict, shown(&step, 2)), (Verdict::AbsorbedAck as u8, &[][..]));
    is(&scene.reports(Side::Shadow, piece(1), &[]), Verdict::Raised);
    is(&scene.reports(Side::Shadow, piece(1), &[]), Verdict::Raised);
    is(&scene.reports(Side::Shadow, piece(4), &[]), Verdict::AbsorbedAck);
    let step = scene.reports(Side::Primary, piece(1), &[[piece(2), piece(8)]]);
    assert_eq!(shown(&step, 2), [[piece(2), piece(4)]]);
}

/// T5: without the client's, or the authority's, nobody speaks of it.
#[test]
fn where_an_end_does_not_permit_sack_no_block_is_shown() {
    for (client, servers) in [(false, [true; 2]), (true, [false, true])] {
        let (mut scene, _) = Scene::sacking(client, servers);
        is(&scene.client(0, HEAD, 0), Verdict::Mirrored);
        is(&scene.client(HEAD.len(), &[b'a'; PIECE], 0), Verdict::Mirrored);
        for side in Side::BOTH {
            let step = scene.reports(side, ISS + 1, &[[piece(0), piece(1)]]);
            assert_eq!(shown(&step, 2), [[0; 2]; 0]);
        }
    }
}

/// T5: the client's blocks are about the authority's bytes, and reach that one alone, in its numbers.
#[test]
fn the_clients_blocks_reach_the_authority_alone() {
    let mut scene = Scene::uploading([true; 2]);
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n";
    scene.server(Side::Primary, 0, half, HEAD.len());
    let begin = SERVER_ISS[0] + 1 + half.len() as u32;
    scene.server(Side::Primary, half.len(), &[b'b'; 2_000], HEAD.len());
    let blocks = [[begin + 1_000, begin + 2_000], [begin + 5_000, begin + 6_000]];
    let (seq, ack) = (scene.flow.client_next, begin);
    // Its blocks are of both its data and its bare acknowledgements.
    for payload in [0, 1_000] {
        let segment = Segment { seq: seq - payload, ack, payload, sack: option(&blocks), ..scene.segment() };
        let step = scene.client_sends(&segment);
        if payload == 0 {
            assert_eq!(shown(&step, 0), [[begin + 1_000, begin + 2_000]], "what nobody sent is no news");
        }
        assert_eq!(shown(&step, 1), [[0; 2]; 0]);
    }
    // Moved: what lies before the first byte that it was shown is the old authority's.
    (scene.flow.shown_from, scene.flow.delta) = (begin + 1_500, 0);
    let segment = Segment { seq, ack, sack: option(&blocks), ..scene.segment() };
    assert_eq!(shown(&scene.client_sends(&segment), 0), [[0; 2]; 0]);
}

/// T5: a leg that is gone has nothing of what it told of: its successor owes it, and nothing of it is shown any more.
#[test]
fn what_a_lost_leg_had_is_not_shown_again() {
    let (mut scene, _) = Scene::sacking(true, [true; 2]);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    is(&scene.client_says(tcp::ACK, READ.len(), ANSWER.len()), Verdict::Forwarded);
    let begin = ISS + 1 + READ.len() as u32;
    scene.reports(Side::Shadow, begin, &[]);
    is(&scene.client(READ.len(), HEAD, ANSWER.len()), Verdict::Mirrored);
    scene.reports(Side::Shadow, begin, &[[begin + 10, begin + 20]]);
    assert!(scene.flow.has(Flow::KEPT));
    let reset = Segment {
        seq: scene.flow.legs[1].sent_max,
        ack: begin.wrapping_add(scene.flow.legs[1].offset),
        flags: tcp::RST | tcp::ACK,
        ..scene.segment()
    };
    let step = scene.server_sends(Side::Shadow, &reset);
    assert_ne!(step.verdict, Verdict::OutOfWindow as u8);
    assert!(!scene.flow.has(Flow::KEPT));
    let step = scene.reports(Side::Primary, begin, &[[begin + 10, begin + 20]]);
    let owes = scene.flow.legs[1].state != leg_state::NONE;
    assert_eq!(shown(&step, 2).is_empty(), owes, "{:?}", scene.flow.legs[1]);
}

/// T5: a block that grows at its beginning is news, though it ends where the one before did.
#[test]
fn a_block_that_begins_earlier_is_shown_again() {
    let mut scene = Scene::uploading([true; 2]);
    scene.reports(Side::Primary, piece(1), &[[piece(2), piece(8)]]);
    for begin in [4, 3, 2] {
        let step = scene.reports(Side::Shadow, piece(1), &[[piece(begin), piece(6)]]);
        is(&step, Verdict::Raised);
        assert_eq!(shown(&step, 2), [[piece(begin), piece(6)]]);
    }
}

/// T5: blocks of an acknowledgement that came late are no news, nor are those of a server that said nothing of SACK.
#[test]
fn blocks_of_old_and_of_unasked_for_options_are_not_believed() {
    let both = [[piece(3), piece(5)]];
    let mut scene = Scene::uploading([true; 2]);
    scene.reports(Side::Primary, piece(2), &both);
    scene.reports(Side::Shadow, piece(2), &[]);
    assert_eq!(shown(&scene.reports(Side::Shadow, piece(1), &both), 2), [[0; 2]; 0], "it is behind");
    assert_eq!(shown(&scene.reports(Side::Shadow, piece(2), &both), 2), both);
    let mut scene = Scene::uploading([true, false]);
    scene.reports(Side::Primary, piece(1), &both);
    assert_eq!(
        shown(&scene.reports(Side::Shadow, piece(1), &both), 2),
        [[0; 2]; 0],
        "it doesn't permit SACK"
    );
}

/// T5: whichever of four blocks both have.
#[test]
fn each_of_four_blocks_counts() {
    let all = [0, 1, 2, 3].map(|n| [piece(2 + 2 * n), piece(3 + 2 * n)]);
    for n in 0..4 {
        let mut scene = Scene::uploading([true; 2]);
        scene.reports(Side::Primary, piece(1), &[all[n]]);
        let step = scene.reports(Side::Shadow, piece(1), &all);
        is(&step, Verdict::Raised);
        assert_eq!(shown(&step, 2), [all[n]]);
        for m in n + 1..4 {
            let mut scene = Scene::uploading([true; 2]);
            scene.reports(Side::Primary, piece(1), &[all[n], all[m]]);
            assert_eq!(shown(&scene.reports(Side::Shadow, piece(1), &all), 2), [all[n], all[m]]);
        }
    }
}

/// T5: the client's blocks go to a leg that it hears, and that permits SACK; and not those of an older acknowledgement.
#[test]
fn the_clients_blocks_are_the_heard_legs_at_its_last_acknowledgement() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n";
    let answering = || {
        let mut scene = Scene::uploading([true; 2]);
        scene.server(Side::Primary, 0, half, HEAD.len());
        scene.server(Side::Primary, half.len(), &[b'b'; 4_000], HEAD.len());
        scene
    };
    let begin = SERVER_ISS[0] + 1 + half.len() as u32;
    let block = [begin + 3_000, begin + 4_000];
    let says = |scene: &mut Scene, ack: u32| {
        let segment = Segment { seq: scene.flow.client_next, ack, sack: option(&[block]), ..scene.segment() };
        let step = scene.client_sends(&segment);
        shown(&step, 0).to_vec()
    };
    let mut scene = answering();
    assert_eq!(says(&mut scene, begin + 1_000), [block]);
    assert_eq!(says(&mut scene, begin), [[0; 2]; 0], "older");
    let mut scene = answering();
    scene.flow.legs[0].flags &= !Leg::SACK;
    assert_eq!(says(&mut scene, begin), [[0; 2]; 0], "its server doesn't permit SACK");
    let mut scene = answering();
    scene.flow.set(Flow::RETURNING, true);
    assert_eq!(says(&mut scene, begin), [[0; 2]; 0], "nobody is heard");
}

/// T5: where one leg is all that there is, its blocks are the client's; of a duplicate only the first block tells.
#[test]
fn a_lone_legs_blocks_are_shown_as_they_are() {
    let mut scene = Scene::uploading([true; 2]);
    scene.flow.legs[1].state = leg_state::NONE;
    let step = scene.reports(Side::Primary, piece(4), &[[piece(5), piece(6)], [piece(1), piece(2)]]);
    assert_eq!(shown(&step, 2), [[piece(5), piece(6)]]);
}

/// T5: kept are the blocks of the leg that is ahead, as long as they say more than its acknowledgement; and only what the client
/// has sent.
#[test]
fn the_blocks_of_the_leg_that_is_ahead_are_kept() {
    let kept = |scene: &Scene| (scene.flow.has(Flow::KEPT_OF_SHADOW), scene.flow.kept.map(|kept| kept[1]));
    let mut scene = Scene::uploading([true; 2]);
    let beyond = [piece(9), scene.flow.client_next + 1];
    scene.reports(Side::Shadow, piece(1), &[[piece(2), piece(3)], [piece(5), piece(8)], beyond]);
    let shadows = (true, [piece(3), piece(8), 0]);
    assert_eq!(kept(&scene), shadows);
    scene.reports(Side::Primary, piece(1), &[[piece(2), piece(7)]]);
    assert_eq!(kept(&scene), shadows, "the primary's reach less far");
    scene.reports(
        Side::Primary,
        piece(1),
        &[[piece(2), piece(9)], [piece(0), piece(1)], [piece(4), piece(3)]],
    );
    assert_eq!(kept(&scene), (false, [piece(9), 0, 0]));
    // What lies behind its acknowledgement says nothing any more.
    scene.reports(Side::Primary, piece(9), &[]);
    scene.reports(Side::Primary, piece(9), &[[piece(10), piece(11)]]);
    scene.reports(Side::Shadow, piece(1), &[[piece(2), piece(3)]]);
    assert_eq!(kept(&scene), (false, [piece(11), 0, 0]));
    scene.reports(Side::Primary, piece(12), &[]);
    scene.reports(Side::Shadow, piece(1), &[[piece(2), piece(3)]]);
    assert_eq!(kept(&scene), (true, [piece(3), 0, 0]));
}

/// T5: each of the client's four blocks reaches the authority.
#[test]
fn four_blocks_of_the_clients_reach_the_authority() {
    let mut scene = Scene::uploading([true; 2]);
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n";
    scene.server(Side::Primary, 0, half, HEAD.len());
    scene.server(Side::Primary, half.len(), &[b'b'; 9_000], HEAD.len());
    let begin = SERVER_ISS[0] + 1 + half.len() as u32;
    let blocks = [1, 3, 5, 7].map(|n| [begin + 1_000 * n, begin + 1_000 * n + 500]);
    let says = |scene: &mut Scene, blocks: &[[u32; 2]]| {
        let segment =
            Segment { seq: scene.flow.client_next, ack: begin, sack: option(blocks), ..scene.segment() };
        let step = scene.client_sends(&segment);
        shown(&step, 0).to_vec()
    };
    assert_eq!(says(&mut scene, &blocks), blocks);
    let unsent = [begin + 9_001, begin + 9_500];
    assert_eq!(says(&mut scene, &[blocks[0], unsent, unsent, blocks[1]]), blocks[..2]);
}

/// T5: whichever bit of a block's numbers is another one, it is news; of the second one, too.
#[test]
fn a_block_that_differs_in_any_bit_is_shown() {
    const ROUND: u32 = 1 << 13;
    let mut scene = Scene::uploading([true; 2]);
    scene.reports(Side::Primary, piece(1), &[[piece(2), piece(11)]]);
    let mut is_news = |blocks: &[[u32; 2]]| {
        let step = scene.reports(Side::Shadow, piece(1), blocks);
        is(&step, Verdict::Raised);
        assert_eq!(shown(&step, 2), blocks);
    };
    for bit in (0..12).map(|n| 1 << n) {
        for end in [ROUND, ROUND | bit] {
            is_news(&[[piece(2), end]]);
        }
        for begin in [ROUND, ROUND | bit] {
            is_news(&[[piece(2), piece(3)], [begin, piece(11)]]);
        }
    }
}

/// T5: what lies behind an option's end is another packet's: not a server's block, however well it would fit.
#[test]
fn what_lies_behind_an_options_end_is_not_kept() {
    let mut scene = Scene::uploading([true; 2]);
    let leg = scene.flow.legs[0];
    let own = |n: usize| piece(n).wrapping_add(leg.offset);
    let mut sack = option(&[[own(2), own(3)]]);
    sack.blocks[1] = [own(5), own(6)];
    let segment = Segment { seq: leg.sent_max, ack: own(1), window: 60_000, sack, ..scene.segment() };
    scene.server_sends(Side::Primary, &segment);
    assert_eq!(scene.flow.kept, [[piece(2), piece(3)], [0; 2], [0; 2]]);
}
