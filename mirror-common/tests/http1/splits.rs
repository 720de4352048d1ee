//! H2: however a stream is cut, it says the same; and no bytes at all make the parser panic or linger.

use crate::stream::{Stream, check_split, events};
use mirror_common::protocol::Kind;
use proptest::prelude::*;

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: something long enough to be skipped over\r\n\r\n",
    "HEAD /index.html?a=b HTTP/1.0\r\nConnection: close\r\n\r\n",
    "POST /form HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 21\r\n\r\nGET / HTTP/1.1\r\n\r\nabc",
    "PUT /a HTTP/1.1\r\nX-HTTP-Method-Override: PATCH\r\ncontent-length:0\r\n\r\n",
    "GET /a HTTP/1.1\r\nX-Method-Override: PATCH\r\nExpect: x\r\nConnection: keep-alive, close\r\n\r\n",
    "get /a HTTP/1.1\r\nContent-Lengths: 5\r\nUpgrades: x\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n1A;x=y\r\nabcdefghijklm\
     nopqrstuvwxyz\r\n0\r\nA: b\r\n\r\n",
];

const ODD_REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcdef\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent_Length: 5\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\nContent-Length: 5\r\n\r\n",
];

const RESPONSES: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 11\r\nServer: something\r\n\r\nhello world",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\nConnection: close\r\n\r\n4\r\nwiki\r\n1A;x=y\r\n",
    "abcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: a long value\r\n\r\n",
    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 101 Switching\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\nuntil the end",
];

fn at_every_byte(kind: Kind, bytes: &[u8], heads: u64) {
    for cut in 1..bytes.len() {
        check_split(kind, bytes, heads, &[cut]);
    }
    check_split(kind, bytes, heads, &(1..bytes.len()).collect::<Vec<_>>());
    check_split(kind, bytes, heads, &[]);
}

#[test]
fn h2_requests_split_at_every_byte() {
    at_every_byte(Kind::Request, REQUESTS.concat().as_bytes(), 0);
    for odd in ODD_REQUESTS {
        at_every_byte(Kind::Request, format!("{}{odd}{}", REQUESTS[0], REQUESTS[0]).as_bytes(), 0);
    }
}

#[test]
fn h2_responses_split_at_every_byte() {
    at_every_byte(Kind::Response, RESPONSES[..7].concat().as_bytes(), 0);
    for last in &RESPONSES[7..] {
        at_every_byte(Kind::Response, format!("{}{last}{}", RESPONSES[0], RESPONSES[0]).as_bytes(), 0);
    }
}

/// The events themselves: a guard against a reference that agrees because it sees nothing.
#[test]
fn the_streams_hold_what_they_should() {
    assert_eq!(events(Kind::Request, REQUESTS.concat().as_bytes(), 0).len(), 2 * REQUESTS.len());
    // Five final answers with a head and an end, one interim.
    assert_eq!(events(Kind::Response, RESPONSES[..7].concat().as_bytes(), 0).len(), 2 * 5 + 1);
}

/// Messages in any order, some with a byte changed.
fn stream_of(parts: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let message = prop::sample::select(parts);
    let change = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    prop::collection::vec((message, change), 1..10).prop_map(|messages| {
        messages
            .into_iter()
            .flat_map(|(text, change)| {
                let mut bytes = text.as_bytes().to_vec();
                if let Some((at, byte)) = change {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                bytes
            })
            .collect()
    })
}

fn cuts(most: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::btree_set(0..most, 0..12).prop_map(|set| set.into_iter().collect())
}

fn within(cuts: &[usize], length: usize) -> Vec<usize> {
    cuts.iter().copied().filter(|&cut| cut < length).collect()
}

/// Bytes that reach further into the grammar than random ones do.
fn nearly_http() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "GET ",
            "HTTP/1.1",
            " ",
            "\r\n",
            "\r",
            "\n",
            ":",
            "/",
            "HTTP/1.1 200 OK\r\n",
            "Content-Length",
            "5",
            "chunked",
            "Transfer-Encoding: ",
            "0\r\n",
            "a",
            ",",
            ";",
            "Connection: ",
            "close",
            "\r\n\r\n",
            "_",
            "\t",
            "CONNECT",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..200).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn h2_requests_split_anywhere(bytes in stream_of(REQUESTS), cuts in cuts(600)) {
        check_split(Kind::Request, &bytes, 0, &within(&cuts, bytes.len()));
    }

    #[test]
    fn h2_odd_requests_split_anywhere(bytes in stream_of(ODD_REQUESTS), cuts in cuts(200)) {
        check_split(Kind::Request, &bytes, 0, &within(&cuts, bytes.len()));
    }

    #[test]
    fn h2_responses_split_anywhere(bytes in stream_of(RESPONSES), cuts in cuts(600), heads in any::<u64>()) {
        check_split(Kind::Response, &bytes, heads, &within(&cuts, bytes.len()));
    }

    #[test]
    fn h2_nearly_http_split_anywhere(bytes in nearly_http(), cuts in cuts(600), heads in any::<u64>()) {
        for kind in [Kind::Request, Kind::Response] {
            check_split(kind, &bytes, heads, &within(&cuts, bytes.len()));
        }
    }

    /// The number of steps is asserted where a segment is fed.
    #[test]
    fn no_bytes_panic_or_linger(
        segments in prop::collection::vec((nearly_http(), any::<prop::sample::Index>()), 1..5),
        heads in any::<u64>(),
    ) {
        for kind in [Kind::Request, Kind::Response] {
            let mut stream = Stream::new(kind);
            for (bytes, skip) in &segments {
                stream.rest = stream.rest.max(skip.index(8) as u32 / 7);
                let walk = stream.feed(bytes, heads);
                prop_assert!(walk.completed <= walk.begun + 1);
                prop_assert!(walk.opaque() || walk.until_close() || walk.at >= bytes.len() as u32);
            }
        }
    }
}
