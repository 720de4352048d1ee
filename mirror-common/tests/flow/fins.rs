//! Both directions of both legs and of the client end, in every order.

use super::*;
use mirror_common::flow::{Due, on_sweep, sweep};

const FIN: u8 = tcp::FIN | tcp::ACK;
const LAST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
const PLAIN: &[u8] = ANSWER;
const CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";

/// Who says FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Client,
    Server(Side),
}

const ENDS: [End; 3] = [End::Client, End::Server(Side::Primary), End::Server(Side::Shadow)];

/// Client and servers as far as their ends go.
struct Ends {
    scene: Scene,
    request: &'static [u8],
    answer: &'static [u8],
    /// Whether the client has said FIN, and was shown one.
    client: [bool; 2],
    /// By side: whether the server was told of the client's FIN, and has said its own.
    servers: [[bool; 2]; 2],
}

impl Ends {
    /// A turn that both have answered, and the client has acknowledged.
    fn after(request: &'static [u8], answer: &'static [u8]) -> Ends {
        let mut scene = Scene::established(true);
        is(&scene.client(0, request, 0), Verdict::Mirrored);
        for side in Side::BOTH {
            scene.server(side, 0, answer, request.len());
        }
        scene.client_says(tcp::ACK, request.len(), answer.len());
        Ends { scene, request, answer, client: [false; 2], servers: [[false; 2]; 2] }
    }

    /// Somebody's end, and all acknowledgements that follow from it.
    fn say(&mut self, end: End) {
        let step = match end {
            End::Client => {
                self.client[0] = true;
                let acked = self.answer.len() + usize::from(self.client[1]);
                self.scene.client_says(FIN, self.request.len(), acked)
            }
            End::Server(side) => {
                self.servers[side as usize][1] = true;
                self.server_says(side, FIN)
            }
        };
        self.carry(&step);
    }

    /// A server's segment at the end of its stream.
    fn server_says(&mut self, side: Side, flags: u8) -> Step {
        let [told, said] = self.servers[side as usize];
        let at = self.answer.len() + usize::from(said && flags & tcp::FIN == 0);
        self.scene.says(side, flags, at, self.request.len() + usize::from(told))
    }

    fn carry(&mut self, step: &Step) {
        let shown = step.to_client;
        assert_eq!((shown.flags & tcp::RST, step.to_leg[0].flags & tcp::RST), (0, 0), "{step:?}");
        let begins = shown.kind == emit::FORWARD && shown.seq == SERVER_ISS[0] + 1 + self.answer.len() as u32;
        if begins && !self.client[1] {
            self.client[1] = true;
            let offset = self.request.len() + usize::from(self.client[0]);
            let step = self.scene.client_says(tcp::ACK, offset, self.answer.len() + 1);
            self.carry(&step);
        }
        for side in Side::BOTH {
            let emit = step.to_leg[side as usize];
            if emit.kind == emit::FORWARD && self.client[0] && !self.servers[side as usize][0] {
                assert_eq!(emit.seq, LEG_ISS[side as usize] + 1 + self.request.len() as u32);
                self.servers[side as usize][0] = true;
                let step = self.server_says(side, tcp::ACK);
                self.carry(&step);
            }
        }
    }

    /// The sweep frees the slot once the late segments' time is over, and not before. What a leg owes that is no more, it loses.
    fn is_over(&mut self) {
        let mut due = Due::Nothing;
        for ms in [500, 500, 500, 499, 1] {
            assert_ne!(due, Due::Free);
            self.scene.now_ms += ms;
            self.scene.run(|flow, terms, step| due = on_sweep(flow, sweep::ACT, terms, step));
        }
        assert_eq!(due, Due::Free);
    }
}

fn orders() -> impl Iterator<Item = [End; 3]> {
    let firsts = (0..3).flat_map(|a| (0..3).map(move |b| [a, b])).filter(|[a, b]| a != b);
    firsts.map(|[a, b]| [ENDS[a], ENDS[b], ENDS[3 - a - b]])
}

/// T11: whoever closes first, the client is shown one FIN, the authority's, at its place; its own reaches each leg that is
/// left, in that leg's numbers; the shadow's is nobody's; and all is over when both have closed.
#[test]
fn ends_in_every_order() {
    for (request, answer) in [(READ, PLAIN), (READ, CLOSE), (LAST, PLAIN)] {
        let announced = request == LAST || answer == CLOSE;
        for order in orders() {
            println!("{order:?}, announced: {announced}");
            let mut ends = Ends::after(request, answer);
            for end in order {
                let before = ends.client[1];
                ends.say(end);
                assert_eq!(ends.client[1], before || end == End::Server(Side::Primary));
            }
            assert!(ends.servers[0][0], "the primary doesn't know that the client has closed");
            // A leg that closed before anyone had a word of an end is replaced, and has nothing to hear.
            let lost = !announced && order[0] == End::Server(Side::Shadow);
            assert_eq!(ends.servers[1][0], !lost);
            assert_eq!(ends.scene.flow.leg(Side::Shadow).state == leg_state::DOWN, lost);
            assert!(ends.scene.word.member(Side::Shadow));
            ends.is_over();
        }
    }
}

/// T11: half-closed by its client, a connection is answered; an end that overtakes its answer waits for it.
#[test]
fn a_half_closed_connection_is_answered_to_its_end() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
    is(&scene.client_says(FIN, WRITE.len(), 0), Verdict::Mirrored);
    let all = WRITE.len() + 1;
    is(&scene.says(Side::Primary, FIN, ANSWER.len(), all), Verdict::BeyondHead);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, all);
        scene.says(side, FIN, ANSWER.len(), all);
    }
    assert_eq!((scene.writes, scene.word.member(Side::Shadow)), (0, true));
    assert_eq!(scene.flow.view_next, SERVER_ISS[0] + 2 + ANSWER.len() as u32);
}

/// T11: an end that was absorbed or shown, and comes again, is acknowledged again.
#[test]
fn an_end_that_comes_again_is_acknowledged_again() {
    let mut ends = Ends::after(READ, CLOSE);
    for end in [End::Server(Side::Shadow), End::Server(Side::Primary), End::Client] {
        ends.say(end);
    }
    let step = ends.scene.says(Side::Shadow, FIN, CLOSE.len(), READ.len() + 1);
    assert_eq!(step.to_leg[1].ack, SERVER_ISS[1] + 2 + CLOSE.len() as u32);
    let step = ends.scene.says(Side::Primary, FIN, CLOSE.len(), READ.len() + 1);
    assert_eq!(
        (step.to_client.kind, step.to_client.seq),
        (emit::FORWARD, SERVER_ISS[0] + 1 + CLOSE.len() as u32)
    );
    let step = ends.scene.client_says(FIN, READ.len(), CLOSE.len() + 1);
    is(&step, Verdict::TurnedBack);
    assert_eq!(step.to_client.ack, ISS + 2 + READ.len() as u32);
}

/// T11: a client that says that its request is the last waits for the connection's end, of which its server needn't say a word;
/// an HTTP/1.0 client always does. The end of a shadow that answered was taken for its own, and the client waited for ever.
#[test]
fn the_end_that_the_client_has_asked_for_is_shown_whoever_answers() {
    let old: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
    for (request, first) in [LAST, old].into_iter().flat_map(|request| Side::BOTH.map(|side| (request, side)))
    {
        let mut scene = Scene::established(true);
        scene.word = scene.word.with_weight(10_000);
        is(&scene.client(0, request, 0), Verdict::Mirrored);
        assert_eq!(scene.flow.authority(), Side::Shadow);
        for side in [first, first.other()] {
            scene.server(side, 0, ANSWER, request.len());
            let step = scene.says(side, FIN, ANSWER.len(), request.len());
            assert_eq!(step.to_client.kind == emit::FORWARD, side == Side::Shadow, "{step:?}");
            assert_eq!(step.events & Step::LEG_LOST, 0);
        }
        assert!(scene.flow.has(Flow::CLOSING));
    }
}

/// A request that crosses its server's close of an idle connection waited for as long as its client did.
#[test]
fn a_request_that_crosses_the_close_is_reset() {
    for shadow in [false, true] {
        let mut scene = Scene::established(shadow);
        scene.client(0, WRITE, 0);
        scene.server(Side::Primary, 0, ANSWER, WRITE.len());
        let step = scene.says(Side::Primary, FIN, ANSWER.len(), WRITE.len());
        assert_eq!(step.to_client.kind, emit::FORWARD, "{step:?}");
        let asks = |scene: &mut Scene, acked: usize| scene.client(WRITE.len(), READ, ANSWER.len() + acked);
        is(&asks(&mut scene, 0), Verdict::HeldUnsettled);
        if shadow {
            // The mirror still owes the write: it isn't the one to be reset.
            is(&asks(&mut scene, 1), Verdict::HeldUnsettled);
            scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
        }
        let step = asks(&mut scene, 1);
        is(&step, Verdict::Reset);
        assert_eq!((step.to_client.flags & tcp::RST, scene.writes), (tcp::RST, 0));
        assert!(scene.word.member(Side::Shadow) == shadow);
    }
}

/// No server does what comes behind the last request (RFC 9112, 9.6); the connection's end is on its way.
#[test]
fn a_request_behind_the_last_one_is_nobodys() {
    let mut ends = Ends::after(LAST, PLAIN);
    is(&ends.scene.client(LAST.len(), READ, PLAIN.len()), Verdict::HeldUnsettled);
    ends.say(End::Server(Side::Primary));
    assert!(ends.client[1]);
}
