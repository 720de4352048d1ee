//! A byte stream and its segments: feeds the parser as a gateway does, and keeps what it keeps.

use mirror_common::protocol::http1::{Scanner, WINDOW, Walk};
use mirror_common::protocol::{Class, Kind};

/// One direction of a connection.
pub(crate) struct Stream {
    pub(crate) kind: Kind,
    pub(crate) walk: Walk,
    pub(crate) scanner: Scanner,
    /// Bytes to come that needn't be read.
    pub(crate) rest: u32,
    segments: usize,
}

impl Stream {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, walk: Walk::new(), scanner: Scanner::default(), rest: 0, segments: 0 }
    }

    /// Reads one segment. A segment that is body from end to end isn't shown to the parser at all.
    pub(crate) fn feed(&mut self, payload: &[u8], head_requests: u64) -> &Walk {
        // What an earlier packet left in the window must never be read: bytes that would go on with what is there.
        let stale = b"\n5eT\r :0"[self.segments % 8];
        self.segments += 1;
        let last = payload.len() % WINDOW as usize / 8;
        for word in self.walk.window.iter_mut().skip(last).take(2) {
            *word = u64::from_ne_bytes([stale; 8]);
        }
        let steps = self.walk.read(self.kind, &self.scanner, self.rest, payload, head_requests);
        assert!(steps as usize <= payload.len(), "{steps} steps for {} bytes", payload.len());
        self.scanner = self.walk.scanner();
        self.rest = self.walk.rest();
        &self.walk
    }
}

/// What a stream's parser said at one of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Begun,
    /// A request's head ended; its class, whether it is a HEAD, its body's length, whether it is said to be the last.
    Request(Class, bool, u32, bool),
    /// A final answer's head ended; status, whether the server will close.
    Answer(u16, bool),
    Answered,
    Interim,
    /// A request whose head ended offers another protocol.
    Offers,
    UntilClose,
    Opaque,
}

/// What the parser says when it is fed byte by byte: each event with its byte's offset. The reference for
/// other splits.
///
/// `heads`: bit i set, the i-th request of the whole stream (at most 64) is a HEAD.
pub(crate) fn events(kind: Kind, bytes: &[u8], heads: u64) -> Vec<(usize, Event)> {
    let mut stream = Stream::new(kind);
    let mut events = Vec::new();
    let mut answered = 0;
    for (offset, byte) in bytes.iter().enumerate() {
        let before = stream.scanner;
        let body = stream.rest > 0;
        let walk = stream.feed(&[*byte], heads.checked_shr(answered).unwrap_or(0));
        let mut note = |event| events.push((offset, event));
        if walk.begun == 1 {
            note(Event::Begun);
        }
        if walk.completed == 1 {
            let class = walk.class().expect("a class");
            note(Event::Request(class, walk.heads == 1, walk.rest(), walk.close == 1));
        }
        if walk.offers() {
            note(Event::Offers);
        }
        if walk.last_status != 0 {
            note(Event::Answer(walk.last_status, walk.close == 1));
        }
        if walk.answered == 1 {
            note(Event::Answered);
        }
        if walk.interim == 1 {
            note(Event::Interim);
        }
        if walk.until_close() && !before.until_close() {
            note(Event::UntilClose);
        }
        if walk.opaque() && !before.is_opaque() {
            note(Event::Opaque);
        }
        answered += walk.answered;
        assert!(
            !body || (walk.begun, walk.completed, walk.answered) == (0, 0, 0),
            "something seen in a body"
        );
    }
    events
}

/// Reads the whole of `bytes` as one segment of requests.
pub(crate) fn requests(bytes: &[u8]) -> Walk {
    let mut stream = Stream::new(Kind::Request);
    stream.feed(bytes, 0);
    stream.walk
}

/// Reads the whole of `bytes` as one segment of responses.
pub(crate) fn responses(bytes: &[u8], head_requests: u64) -> Walk {
    let mut stream = Stream::new(Kind::Response);
    stream.feed(bytes, head_requests);
    stream.walk
}

/// Checks that `bytes`, cut at `cuts`, say at each segment's end exactly what they say byte by byte.
pub(crate) fn check_split(kind: Kind, bytes: &[u8], heads: u64, cuts: &[usize]) {
    let expected = events(kind, bytes, heads);
    let mut stream = Stream::new(kind);
    let mut answered = 0;
    let mut from = 0;
    for &to in cuts.iter().chain([&bytes.len()]) {
        let walk = stream.feed(&bytes[from..to], heads.checked_shr(answered).unwrap_or(0)).clone();
        let here: Vec<_> = expected.iter().filter(|(at, _)| (from..to).contains(at)).collect();
        check_segment(&walk, from, &here);
        answered += walk.answered;
        from = to;
    }
    // And the end is the same state.
    let mut single = Stream::new(kind);
    let mut answered = 0;
    for byte in bytes {
        answered += single.feed(&[*byte], heads.checked_shr(answered).unwrap_or(0)).answered;
    }
    assert_eq!((stream.scanner, stream.rest), (single.scanner, single.rest));
}

fn check_segment(walk: &Walk, from: usize, here: &[&(usize, Event)]) {
    let count = |wanted: fn(&Event) -> bool| here.iter().filter(|(_, event)| wanted(event)).count() as u32;
    assert_eq!(walk.begun, count(|event| matches!(event, Event::Begun)), "begun");
    assert_eq!(walk.completed, count(|event| matches!(event, Event::Request(..))), "completed");
    assert_eq!(walk.answered, count(|event| matches!(event, Event::Answered)), "answered");
    assert_eq!(walk.interim, count(|event| matches!(event, Event::Interim)), "interim");
    let statuses = [
        count(|event| matches!(event, Event::Interim | Event::Answer(..200, _))),
        count(|event| matches!(event, Event::Answer(200..300, _))),
        count(|event| matches!(event, Event::Answer(300..400, _))),
        count(|event| matches!(event, Event::Answer(400..500, _))),
        count(|event| matches!(event, Event::Answer(500.., _))),
    ];
    assert_eq!([0, 1, 2, 3, 4].map(|class| walk.statuses.of(class)), statuses, "statuses");
    assert!(!here.iter().any(|(_, event)| *event == Event::Opaque) || walk.opaque(), "opaque");

    let begins: Vec<u32> =
        here.iter().filter(|(_, event)| *event == Event::Begun).map(|(at, _)| (at - from) as u32).collect();
    if let (Some(first), Some(last)) = (begins.first(), begins.last()) {
        assert_eq!((walk.first_begin, walk.last_begin), (*first, *last));
    }
    let heads = here
        .iter()
        .filter_map(|(_, event)| if let Event::Request(_, head, ..) = event { Some(*head) } else { None })
        .enumerate()
        .fold(0, |bits, (i, head)| bits | u64::from(head) << i);
    assert_eq!(walk.heads, heads, "heads");

    if walk.kind() == Kind::Request {
        let classes = here
            .iter()
            .filter_map(|(_, event)| if let Event::Request(class, ..) = event { Some(*class) } else { None });
        let open = walk.in_head().then_some(Class::Write);
        let offer = here.iter().position(|(_, event)| *event == Event::Offers);
        let behind_offer = offer.is_some_and(|n| here[n..].iter().any(|(_, event)| *event == Event::Begun));
        assert_eq!(walk.lost(), walk.opaque() || behind_offer, "lost");
        let lost = walk.lost().then_some(Class::Session);
        assert_eq!(walk.class(), classes.chain(open).chain(lost).max(), "class");
    }
    let statuses: Vec<_> = here
        .iter()
        .filter_map(
            |(_, event)| {
                if let Event::Answer(status, close) = event { Some((*status, *close)) } else { None }
            },
        )
        .collect();
    assert_eq!(walk.first_status, statuses.first().map_or(0, |(status, _)| *status));
    assert_eq!(walk.last_status, statuses.last().map_or(0, |(status, _)| *status));
    let last = here.iter().rev().find_map(|(_, event)| match event {
        Event::Request(.., close) => Some(*close),
        _ => None,
    });
    let closes = last.unwrap_or_else(|| statuses.iter().any(|(_, close)| *close));
    assert_eq!(walk.close == 1, closes, "close");
}
