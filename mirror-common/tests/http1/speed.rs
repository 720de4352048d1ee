//! What a head costs: steps (asserted, for each is a callback in the kernel) and, on request, nanoseconds on the host.

use crate::stream::Stream;
use mirror_common::protocol::Kind;
use mirror_common::protocol::http1::{Scanner, Walk};
use std::hint::black_box;
use std::time::Instant;

/// A request as curl sends it, 134 bytes long.
fn short() -> String {
    let head =
        "GET /index.html?a=b HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n";
    format!("{head}X-Request-Id: {}\r\n\r\n", "7".repeat(134 - head.len() - 18))
}

/// A request as a browser sends it, 1,457 bytes long.
fn long() -> String {
    let mut head =
        String::from("GET /account/orders?page=2&sort=date HTTP/1.1\r\nHost: shop.example.com\r\n");
    for (name, length) in [
        ("Connection", 0),
        ("Cache-Control", 9),
        ("User-Agent", 111),
        ("Accept", 135),
        ("Sec-Fetch-Site", 11),
        ("Sec-Fetch-Mode", 8),
        ("Sec-Fetch-Dest", 8),
        ("Referer", 64),
        ("Accept-Encoding", 17),
        ("Accept-Language", 35),
        ("If-None-Match", 34),
    ] {
        let value = if length == 0 { "keep-alive".to_owned() } else { "v".repeat(length) };
        head += &format!("{name}: {value}\r\n");
    }
    let cookie = "c".repeat(1457 - head.len() - 12);
    format!("{head}Cookie: {cookie}\r\n\r\n")
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 24 Nov 2026 20:41:35 GMT\r\n\
    Content-Type: text/plain\r\nContent-Length: 1024\r\nConnection: keep-alive\r\nETag: \"6564-400\"\r\n\
    Accept-Ranges: bytes\r\n\r\n";

fn heads() -> [(&'static str, Kind, String, u32); 3] {
    [
        ("request, 134 B", Kind::Request, short(), 8),
        ("request, 1,457 B", Kind::Request, long(), 27),
        ("answer, 192 B", Kind::Response, ANSWER.to_owned(), 10),
    ]
}

#[test]
fn heads_take_few_steps() {
    for (name, kind, head, most) in heads() {
        let mut stream = Stream::new(kind);
        let steps = stream.walk.read(kind, &Scanner::default(), 0, head.as_bytes(), 0);
        assert_eq!((stream.walk.completed + stream.walk.answered, stream.walk.opaque()), (1, false));
        assert!(steps <= most, "{name}: {steps} steps");
    }
    assert_eq!((short().len(), long().len()), (134, 1457));
}

/// `cargo test --release -p mirror-common --test http1 -- --ignored --nocapture nanoseconds`
#[test]
#[ignore = "prints, asserts nothing"]
#[allow(clippy::disallowed_methods, reason = "it measures")]
fn nanoseconds_a_head() {
    const ROUNDS: u32 = 200_000;
    for (name, kind, head, _) in heads() {
        let mut walk = Walk::new();
        let mut best = f64::MAX;
        for _ in 0..7 {
            let begin = Instant::now();
            for _ in 0..ROUNDS {
                black_box(walk.read(kind, &Scanner::default(), 0, black_box(head.as_bytes()), 0));
            }
            best = best.min(begin.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
        }
        println!(
            "{name}: {best:.0} ns, {} steps",
            walk.read(kind, &Scanner::default(), 0, head.as_bytes(), 0)
        );
    }
}
