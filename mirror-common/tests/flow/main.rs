//! Transitions of a flow, one at a time: what the deterministic world found broken once.

mod ahead;
mod behind;
mod borrowed;
mod broken_off;
mod chosen;
mod doubt;
mod emits;
mod fins;
mod hostile;
mod late;
mod lost;
mod measure;
mod offers;
mod opening;
mod order;
mod over;
mod pressure;
mod requests;
mod resets;
mod sack;
mod settled;
mod taken_over;
mod windows;

use std::collections::BTreeMap;

use mirror_common::{
    abi::{Endpoint, Service, Tuple},
    checksum,
    flow::{
        Dialled, Due, Emit, Flow, Group, Opening, Parse, Reading, Segment, Step, Switch, Terms, Writes, emit,
        leg_state, on_client, on_client_syn, on_dialled, on_leg, on_sweep, open, tcp, to_sum,
    },
    protocol::{Kind, http1::Walk},
    seq,
    switch_word::{Side, SwitchWord},
    verdict::Verdict,
};

mod closing;

/// The words of an application: open writes, the switch word, doubts, writes begun; connections that lag, and when a write
/// waited for that, by group.
struct Words<'a>(&'a mut i64, &'a mut SwitchWord, &'a mut u64, &'a mut u32, &'a mut Order);

/// Connections that lag, and when one waited, by group.
type Order = BTreeMap<usize, (u32, u32)>;

impl Switch for Words<'_> {
    fn begin_write(&mut self) {
        *self.0 += 1;
        *self.3 += 1;
    }
    fn writes(&mut self) -> Writes {
        Writes { begun: *self.3, open: *self.0 as u32 }
    }
    fn end_write(&mut self) {
        *self.0 -= 1;
    }
    fn begin_lag(&mut self, client: Group) {
        self.4.entry(client.element()).or_default().0 += 1;
        self.4.entry(Group::ALL.element()).or_default().0 += 1;
    }
    fn end_lag(&mut self, client: Group, of: Group) -> bool {
        self.4.entry(client.element()).or_default().0 -= 1;
        self.4.entry(Group::ALL.element()).or_default().0 -= 1;
        self.lagging(of) == 0
    }
    fn lagging(&mut self, of: Group) -> u32 {
        self.4.entry(of.element()).or_default().0
    }
    fn wait(&mut self, of: Group, now_ms: u32) {
        self.4.entry(of.element()).or_default().1 = now_ms;
    }
    fn waited_ms(&mut self, of: Group) -> u32 {
        self.4.entry(of.element()).or_default().1
    }
    fn word(&mut self) -> SwitchWord {
        *self.1
    }
    fn doubt(&mut self) {
        *self.2 += 1;
    }
    fn in_doubt(&mut self) -> bool {
        *self.2 != 0
    }
    fn out_of_sync(&mut self, side: Side) -> bool {
        let next = self.1.out_of_sync(side);
        *self.1 = next.unwrap_or(*self.1);
        next.is_some()
    }
}

/// A flow, its application, and a clock.
struct Scene {
    flow: Flow,
    service: Service,
    writes: i64,
    word: SwitchWord,
    doubts: u64,
    begun: u32,
    order: Order,
    now_ms: u32,
}

const ISS: u32 = 100;
const LEG_ISS: [u32; 2] = [7_000, 9_000];
const SERVER_ISS: [u32; 2] = [500, 800];
const READ: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const WRITE: &[u8] = b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

impl Scene {
    /// A client's SYN, with window scale 7; the shadow gets a leg if it is a member.
    fn open(shadow: bool) -> Scene {
        Scene::open_scaled(shadow, 7)
    }

    /// The same with another window scale.
    fn open_scaled(shadow: bool, scale: u8) -> Scene {
        let end = |addr| Endpoint { addr, ..Endpoint::default() };
        let service =
            Service { endpoints: [end(1), end(2)], stall_ms: 500, idle_ms: 60_000, ..Service::default() };
        let word = SwitchWord::initial().with_member(Side::Shadow, shadow);
        let mut scene = Scene {
            flow: Flow::default(),
            service,
            writes: 0,
            word,
            doubts: 0,
            begun: 0,
            order: Order::new(),
            now_ms: 1_000,
        };
        let opening = Opening {
            tuple: Tuple::default(),
            who: 0,
            ports: [1_024, if shadow { 1_025 } else { 0 }],
            iss: LEG_ISS,
        };
        let syn = Segment { seq: ISS, flags: tcp::SYN, window: 1_000, mss: 1_460, scale, ..scene.segment() };
        scene.run(|flow, terms, step| open(flow, &syn, &opening, terms, step));
        scene
    }

    /// The same, with every handshake done.
    fn established(shadow: bool) -> Scene {
        let mut scene = Scene::open(shadow);
        scene.syn_ack(Side::Primary, 7);
        if shadow {
            scene.syn_ack(Side::Shadow, 7);
        }
        scene
    }

    fn segment(&self) -> Segment {
        Segment {
            flags: tcp::ACK,
            window: 1_000,
            scale: Segment::NO_SCALE,
            now_ms: self.now_ms,
            ..Segment::default()
        }
    }

    /// A segment of the client's without payload, at an offset of its stream; it has acknowledged so many of the answers'.
    fn client_says(&mut self, flags: u8, offset: usize, acked: usize) -> Step {
        let seq = ISS + 1 + offset as u32;
        let ack = SERVER_ISS[0] + 1 + acked as u32;
        let segment = Segment { seq, ack, flags, ..self.segment() };
        self.client_sends(&segment)
    }

    fn client_sends(&mut self, segment: &Segment) -> Step {
        self.run(|flow, terms, step| {
            on_client(flow, segment, terms, step);
        })
    }

    fn server_sends(&mut self, side: Side, segment: &Segment) -> Step {
        self.run(|flow, terms, step| {
            on_leg(flow, side, segment, terms, step);
        })
    }

    /// A SYN of the client's.
    fn syn(&mut self, seq: u32) -> Step {
        let syn = Segment { seq, flags: tcp::SYN, mss: 1_460, scale: 7, ..self.segment() };
        self.run(|flow, terms, step| {
            on_client_syn(flow, &syn, terms, step);
        })
    }

    fn run(&mut self, act: impl FnOnce(&mut Flow, &mut Terms<'_, Words<'_>>, &mut Step)) -> Step {
        let switch =
            Words(&mut self.writes, &mut self.word, &mut self.doubts, &mut self.begun, &mut self.order);
        let mut terms = Terms { switch, service: &self.service, now_ms: self.now_ms };
        let mut step = Step::default();
        let before = self.flow;
        act(&mut self.flow, &mut terms, &mut step);
        emits::make_sense(&before, &self.flow, &step);
        step
    }

    fn syn_ack(&mut self, side: Side, scale: u8) -> Step {
        let n = side as usize;
        let (seq, ack) = (SERVER_ISS[n], LEG_ISS[n] + 1);
        let segment = Segment { seq, ack, flags: tcp::SYN | tcp::ACK, scale, ..self.segment() };
        self.run(|flow, terms, step| {
            on_leg(flow, side, &segment, terms, step);
        })
    }

    /// The client's bytes from an offset of its stream on; it has acknowledged so many of the answers'.
    fn client(&mut self, offset: usize, payload: &[u8], acked: usize) -> Step {
        let seq = ISS + 1 + offset as u32;
        let ack = SERVER_ISS[0] + 1 + acked as u32;
        let segment = Segment { seq, ack, payload: payload.len() as u32, ..self.segment() };
        let reading = read(Kind::Request, &self.flow.parse, self.flow.completed, 0, seq, payload);
        let segment = Segment { reading, ..segment };
        self.run(|flow, terms, step| {
            on_client(flow, &segment, terms, step);
        })
    }

    /// A server's bytes; it has acknowledged so many of the client's.
    fn server(&mut self, side: Side, offset: usize, payload: &[u8], acked: usize) -> Step {
        let n = side as usize;
        let seq = SERVER_ISS[n] + 1 + offset as u32;
        let ack = LEG_ISS[n] + 1 + acked as u32;
        let leg = self.flow.leg(side);
        let heads = self.flow.heads.rotate_right(leg.answered & 63);
        let reading = read(Kind::Response, &leg.parse, leg.answered, heads, seq, payload);
        let segment = Segment { seq, ack, payload: payload.len() as u32, reading, ..self.segment() };
        let segment = summed(&self.flow, side, segment, payload);
        self.run(|flow, terms, step| {
            on_leg(flow, side, &segment, terms, step);
        })
    }
}

/// As the kernel reads a payload before it takes the lock.
fn read(kind: Kind, parse: &Parse, base: u32, heads: u64, seq: u32, payload: &[u8]) -> Reading {
    let skip = parse.at.wrapping_sub(seq);
    if (skip as usize) >= payload.len() {
        return Reading::default();
    }
    let mut walk = Walk::new();
    walk.read(kind, &parse.scanner, skip, payload, heads);
    let at = seq.wrapping_add(payload.len() as u32).wrapping_add(walk.rest());
    let mut flags = Reading::DONE;
    for (flag, on) in [
        (Reading::OPAQUE, walk.lost()),
        (Reading::CLOSE, walk.close != 0),
        (Reading::IN_HEAD, walk.in_head()),
        (Reading::BEHIND_CLOSE, walk.behind_close != 0),
        (Reading::UPGRADE, walk.offers()),
    ] {
        flags |= if on { flag } else { 0 };
    }
    Reading {
        heads: walk.heads,
        before: *parse,
        after: Parse { scanner: walk.scanner(), at },
        base,
        begun: walk.begun,
        completed: walk.completed,
        answered: walk.answered,
        ends: walk.ends.map(|end| seq.wrapping_add(end)),
        class: walk.class_number(),
        status: walk.last_status,
        first_status: walk.first_status,
        body_at: seq.wrapping_add(walk.first_body),
        body_length: walk.first_length,
        statuses: walk.statuses,
        flags,
        ..Reading::default()
    }
}

/// As the kernel sums a server's payload before it takes the lock.
fn summed(flow: &Flow, side: Side, mut segment: Segment, payload: &[u8]) -> Segment {
    let (from, bytes) = to_sum(flow, side, &segment);
    let at = from.wrapping_sub(segment.seq) as usize;
    let sum = if bytes == 0 { 0 } else { checksum::sum(&payload[at..][..bytes as usize]) };
    segment.reading = Reading { sum_at: from, summed: bytes, sum, ..segment.reading };
    segment
}

fn is(step: &Step, verdict: Verdict) {
    assert_eq!(Verdict::from_number(step.verdict), Some(verdict));
}

/// T12: a RST of the port's last connection, within the window by chance, ended the new one.
#[test]
fn a_clients_reset_within_the_window_is_asked_back_and_only_the_exact_one_is_believed() {
    let mut scene = Scene::established(true);
    let reset = |seq| Segment { seq, flags: tcp::RST, ..Segment::default() };
    let near = reset(ISS + 1 + 500);
    let step = scene.run(|flow, terms, step| {
        on_client(flow, &near, terms, step);
    });
    is(&step, Verdict::TurnedBack);
    let exact = reset(ISS + 1);
    let step = scene.run(|flow, terms, step| {
        on_client(flow, &exact, terms, step);
    });
    is(&step, Verdict::Reset);
}

/// T7: the shadow was told windows unscaled, and took them for scaled ones, where only the primary doesn't scale.
#[test]
fn a_leg_is_told_windows_by_the_scale_that_its_own_syn_offered() {
    let mut scene = Scene::open(true);
    scene.syn_ack(Side::Primary, Segment::NO_SCALE);
    scene.syn_ack(Side::Shadow, 7);
    assert_eq!((scene.flow.leg(Side::Primary).told, scene.flow.leg(Side::Shadow).told), (0, 7));
}

/// A connection from before a join hung on its next write when the authority had moved meanwhile: it had no leg there.
#[test]
fn a_connection_without_a_leg_at_the_authority_dials_one() {
    let mut scene = Scene::established(false);
    scene.word = scene.word.with_member(Side::Shadow, true).with_authority(Side::Shadow);
    let mut step = scene.client(0, WRITE, 0);
    is(&step, Verdict::HeldUnsettled);
    assert_eq!(step.dial(), Some(Side::Shadow));
    let dialled = Dialled { side: 1, port: 1_025, iss: LEG_ISS[1] };
    let segment = scene.segment();
    let mut made = std::mem::take(&mut step);
    scene.run(|flow, terms, _| on_dialled(flow, &dialled, &segment, terms, &mut made));
    is(&made, Verdict::Dialled);
    assert_eq!((made.to_leg[1].kind, made.hold_copy), (emit::SYN, 1));
    scene.syn_ack(Side::Shadow, 7);
    is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
    assert_eq!((scene.flow.authority(), scene.writes), (Side::Shadow, 1));
}

/// A mirror that had done a write and closed was waited for by every freeze, while its leg was down.
#[test]
fn a_write_is_finished_when_its_leg_has_answered_and_is_gone() {
    let mut scene = Scene::established(true);
    is(&scene.client(0, WRITE, 0), Verdict::Mirrored);
    scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
    let seq = SERVER_ISS[1] + 1 + ANSWER.len() as u32;
    let ack = LEG_ISS[1] + 1 + WRITE.len() as u32;
    let fin = Segment { seq, ack, flags: tcp::FIN | tcp::ACK, ..scene.segment() };
    let step = scene.run(|flow, terms, step| {
        on_leg(flow, Side::Shadow, &fin, terms, step);
    });
    is(&step, Verdict::LegLost);
    assert_eq!((scene.flow.leg(Side::Shadow).state, scene.writes), (leg_state::DOWN, 1));
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    assert_eq!(scene.writes, 0);
    assert!(scene.word.member(Side::Shadow));
}

/// T13: the port's next connection cut a lingering leg off in the middle of what it owed, and nobody was told.
#[test]
fn a_syn_waits_for_the_old_connections_write() {
    let mut scene = Scene::established(true);
    scene.client(0, WRITE, 0);
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    let reset = Segment { seq: ISS + 1 + WRITE.len() as u32, flags: tcp::RST, ..scene.segment() };
    is(
        &scene.run(|flow, terms, step| {
            on_client(flow, &reset, terms, step);
        }),
        Verdict::Reset,
    );
    let syn = Segment { seq: 50_000, flags: tcp::SYN, ..scene.segment() };
    is(
        &scene.run(|flow, terms, step| {
            on_client_syn(flow, &syn, terms, step);
        }),
        Verdict::HeldUnsettled,
    );
    scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
    let step = scene.run(|flow, terms, step| {
        on_client_syn(flow, &syn, terms, step);
    });
    assert_eq!(step.dial, 0xff);
}

/// T14, T34: a client's retransmission joined a read that nobody had got with a write that waited for its answer: both waited
/// for ever.
#[test]
fn of_a_joined_retransmission_the_known_part_goes_on() {
    let mut scene = Scene::established(true);
    scene.word = scene.word.with_weight(10_000);
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    assert!(scene.flow.has(Flow::MOVED));
    let step = scene.client(0, &[READ, WRITE].concat(), 0);
    is(&step, Verdict::PartForwarded);
    let cut = (emit::CUT, READ.len() as u16, tcp::ACK | tcp::PSH);
    assert_eq!(step.to_leg.map(|e| (e.kind, e.mss, e.flags)), [cut; 2]);
    assert_eq!((step.hold_copy, scene.writes), (1, 0));
}
