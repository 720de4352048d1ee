//! Offers of another protocol (RFC 9110, 7.8), which servers decline as a rule, or take up with 101.

use super::*;

const OFFER: &[u8] =
    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n";
const FRAME: &[u8] = b"\x81\x02hi";

/// Two legs, every read the shadow's, and a client that has made an offer: the authority's to answer all the same.
fn offered() -> Scene {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, OFFER, 0), Verdict::Mirrored);
    assert_eq!((scene.flow.authority(), scene.writes), (Side::Primary, 1));
    scene
}

/// P1, H5: a server may drop what comes behind an offer that it hasn't answered.
#[test]
fn what_follows_an_offer_waits_until_both_have_declined_it() {
    let mut scene = offered();
    scene.server(Side::Primary, 0, ANSWER, OFFER.len());
    is(&scene.client(OFFER.len(), WRITE, ANSWER.len()), Verdict::HeldUnsettled);
    let let_go = scene.server(Side::Shadow, 0, ANSWER, OFFER.len());
    assert!(let_go.events & Step::WAKE != 0);
    is(&scene.client(OFFER.len(), WRITE, ANSWER.len()), Verdict::Mirrored);
    assert!(!scene.flow.has(Flow::OPAQUE) && scene.flow.has(Flow::DECLINED));
    assert_eq!(scene.writes, 1, "its writes are counted as any other's");
}

/// Java's `HttpClient` makes its offer with each request: its reads move all the same.
#[test]
fn an_offer_behind_a_declined_one_is_a_read_and_waited_for() {
    let mut scene = offered();
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, OFFER.len());
    }
    is(&scene.client(OFFER.len(), OFFER, ANSWER.len()), Verdict::Mirrored);
    assert_eq!((scene.flow.authority(), scene.writes), (Side::Shadow, 0));
    scene.server(Side::Shadow, ANSWER.len(), ANSWER, 2 * OFFER.len());
    is(&scene.client(2 * OFFER.len(), READ, 2 * ANSWER.len()), Verdict::HeldUnsettled);
    scene.server(Side::Primary, ANSWER.len(), ANSWER, 2 * OFFER.len());
    is(&scene.client(2 * OFFER.len(), READ, 2 * ANSWER.len()), Verdict::Mirrored);
}

#[test]
fn one_that_both_take_up_makes_the_connection_opaque_once_both_have() {
    let mut scene = offered();
    is(&scene.server(Side::Primary, 0, SWITCHED, OFFER.len()), Verdict::Forwarded);
    assert_eq!((scene.flow.has(Flow::OPAQUE), scene.writes), (false, 1));
    is(&scene.client(OFFER.len(), FRAME, SWITCHED.len()), Verdict::HeldUnsettled);
    is(&scene.server(Side::Primary, SWITCHED.len(), FRAME, OFFER.len()), Verdict::Forwarded);
    scene.server(Side::Shadow, 0, SWITCHED, OFFER.len());
    assert_eq!((scene.flow.has(Flow::OPAQUE), scene.writes), (true, 0));
    is(&scene.client(OFFER.len(), FRAME, SWITCHED.len()), Verdict::Mirrored);
    is(&scene.server(Side::Shadow, SWITCHED.len(), FRAME, OFFER.len()), Verdict::Absorbed);
}

/// P2: nobody waits longer than a leg's budget for its word.
#[test]
fn a_mirror_that_says_nothing_to_it_is_lost_and_the_connection_goes_on() {
    for answer in [SWITCHED, ANSWER] {
        let mut scene = offered();
        scene.server(Side::Primary, 0, answer, OFFER.len());
        scene.says(Side::Shadow, tcp::ACK, 0, OFFER.len());
        for lost in [0, Step::LEG_LOST] {
            scene.now_ms += 300;
            let step = scene.server(Side::Primary, 0, &answer[..1], OFFER.len());
            is(&step, Verdict::Forwarded);
            assert_eq!(step.events & Step::LEG_LOST, lost);
        }
        assert!(!scene.word.member(Side::Shadow), "it owes a write, for all that is known");
        let frame = if answer == ANSWER { READ } else { FRAME };
        is(&scene.client(OFFER.len(), frame, answer.len()), Verdict::Forwarded);
        assert_eq!(scene.flow.has(Flow::OPAQUE), answer == SWITCHED);
        assert_eq!(scene.writes, 0);
    }
}

#[test]
fn where_they_disagree_the_authoritys_word_counts() {
    let mut scene = offered();
    scene.server(Side::Primary, 0, SWITCHED, OFFER.len());
    scene.server(Side::Shadow, 0, ANSWER, OFFER.len());
    assert_eq!((scene.flow.has(Flow::OPAQUE), scene.writes), (true, 0));
    is(&scene.client(OFFER.len(), FRAME, SWITCHED.len()), Verdict::Mirrored);

    let mut scene = offered();
    scene.server(Side::Primary, 0, ANSWER, OFFER.len());
    scene.server(Side::Shadow, 0, SWITCHED, OFFER.len());
    assert!(!scene.flow.has(Flow::OPAQUE | Flow::DECLINED));
    is(&scene.client(OFFER.len(), WRITE, ANSWER.len()), Verdict::Mirrored);
    assert_eq!(scene.writes, 1, "which the shadow will never answer");
}

/// H1: what a client sends behind its offer at once is told apart by nobody.
#[test]
fn a_request_in_the_same_segment_makes_the_connection_opaque() {
    let mut scene = Scene::established(true);
    scene.client(0, &[OFFER, READ].concat(), 0);
    assert!(scene.flow.has(Flow::OPAQUE));
}

/// Where one server alone was asked, its word is all that there is to wait for.
#[test]
fn without_a_mirror_one_word_is_enough() {
    let mut scene = Scene::established(false);
    is(&scene.client(0, OFFER, 0), Verdict::Forwarded);
    scene.server(Side::Primary, 0, ANSWER, OFFER.len());
    is(&scene.client(OFFER.len(), WRITE, ANSWER.len()), Verdict::Forwarded);
}

/// A server that closes without a word has said that it will never say one: what the client asks behind that is reset, as it
/// is on every connection that its server has closed, and doesn't wait for as long as its client does.
#[test]
fn a_server_that_closes_upon_an_offer_says_no_more() {
    let mut scene = offered();
    scene.server(Side::Shadow, 0, ANSWER, OFFER.len());
    is(&scene.says(Side::Primary, tcp::FIN | tcp::ACK, 0, OFFER.len()), Verdict::Forwarded);
    is(&scene.client(OFFER.len(), READ, 1), Verdict::Reset);
}

/// A body in chunks with an offer, over a hole: its answers say both, where it ends, and that nothing was taken up.
#[test]
fn an_offer_whose_chunks_have_a_hole_is_settled_by_its_answers() {
    let offer = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\ntransfer-encoding: chunked\r\n\r\n3\r\n";
    let mut scene = Scene::established(true);
    is(&scene.client(0, offer, 0), Verdict::Mirrored);
    let sent = offer.len() + 23;
    is(&scene.client(sent - 3, b"xyz", 0), Verdict::Mirrored);
    assert!(scene.flow.has(Flow::OFFERED) && scene.flow.parse.scanner.until_close());
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, sent);
    }
    assert!(!scene.flow.has(Flow::OFFERED) && !scene.flow.parse.scanner.until_close());
    is(&scene.client(sent, READ, ANSWER.len()), Verdict::Mirrored);
    assert_eq!(scene.flow.turns, 2);
}
