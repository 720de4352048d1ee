//! Requests: class, length, and what makes a stream opaque.

use crate::stream::{Event, events, requests};
use mirror_common::protocol::Class::{self, Read, Session, Write};
use mirror_common::protocol::Kind;
use mirror_common::protocol::http1::{MAX_HEAD, MAX_LENGTH, MAX_REQUESTS, Scanner, Walk};

/// The class of a head with this request line and these further lines, and the length of its body.
fn head(line: &str, fields: &[&str]) -> (Class, u32) {
    let mut text = format!("{line}\r\nHost: a\r\n");
    for field in fields {
        text += field;
        text += "\r\n";
    }
    text += "\r\n";
    let walk = requests(text.as_bytes());
    assert_eq!(walk.begun, 1, "{text:?}");
    assert_eq!(walk.completed, u32::from(!walk.opaque()), "{text:?}");
    (walk.class().expect("a class"), walk.rest())
}

fn expect_all(expected: Class, cases: &[(&str, &[&str])]) {
    for (line, fields) in cases {
        assert_eq!(head(line, fields).0, expected, "{line:?} {fields:?}");
    }
}

#[test]
fn plain_reads_are_reads() {
    expect_all(
        Read,
        &[
            ("GET / HTTP/1.1", &[]),
            ("HEAD /a/b?c=d%20&e HTTP/1.1", &[]),
            ("GET /a HTTP/1.0", &["Connection: close"]),
            ("GET /a HTTP/1.1", &["Accept: */*", "Cookie: a=b; c=\"d\"", "X-Empty:", "X_Under: score"]),
            ("GET /a HTTP/1.1", &["User-Agent: caf\u{e9}\ttab", "Range: bytes=0-1,5-"]),
            // Names and values that only look like those that matter.
            (
                "GET /a HTTP/1.1",
                &["Content-Lengt: 5", "Content-Length2: 5", "X-Content-Length: 5", "Upgrad: h2c"],
            ),
            ("GET /a HTTP/1.1", &["X-HTTP-Method-Overrid: PUT", "X-Method: PUT", "X-HTTP-Methods: PUT"]),
            ("GET /a HTTP/1.1", &["Upgrade-Insecure-Requests: 1", "TE: chunked", "Transfer: chunked"]),
            ("GET /Content-Length:/5/Upgrade: HTTP/1.1", &["Referer: http://a/ Transfer-Encoding: chunked"]),
        ],
    );
}

#[test]
fn all_else_that_is_framed_is_a_write() {
    expect_all(
        Write,
        &[
            ("POST / HTTP/1.1", &["Content-Length: 0"]),
            ("POST / HTTP/1.1", &[]),
            ("PUT / HTTP/1.1", &[]),
            ("DELETE / HTTP/1.1", &[]),
            ("OPTIONS * HTTP/1.1", &[]),
            ("TRACE / HTTP/1.1", &[]),
            ("GETS / HTTP/1.1", &[]),
            ("GE / HTTP/1.1", &[]),
            ("HEADER / HTTP/1.1", &[]),
            ("X_Y / HTTP/1.1", &[]),
            ("A-VERY-LONG-METHOD-OF-OVER-THIRTY-ONE-BYTES-GET / HTTP/1.1", &[]),
        ],
    );
}

/// H3: methods are case-sensitive, to some servers at least.
#[test]
fn h3_small_letters_in_the_method_are_a_write() {
    for line in [
        "get / HTTP/1.1",
        "Get / HTTP/1.1",
        "gET / HTTP/1.1",
        "GeT / HTTP/1.1",
        "GEt / HTTP/1.1",
        "hEAD / HTTP/1.1",
    ] {
        assert_eq!(head(line, &[]).0, Write, "{line}");
    }
}

/// H3: targets that name a host, another authority, or nothing in particular.
#[test]
fn h3_targets_that_are_no_path_are_a_write() {
    for target in ["http://b/", "*", "a", "?a", "b:80", "//caf\u{e9}"] {
        assert_eq!(head(&format!("GET {target} HTTP/1.1"), &[]).0, Write, "{target}");
    }
}

/// H3: the method may be another, by header; an underscore is a hyphen to gateway interfaces.
#[test]
fn h3_method_override_is_a_write() {
    for name in [
        "X-HTTP-Method",
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "x-http-method-override",
        "X_HTTP_METHOD_OVERRIDE",
        "X-Http_Method",
    ] {
        assert_eq!(head("GET / HTTP/1.1", &[&format!("{name}: DELETE")]).0, Write, "{name}");
    }
}

/// H3: where the end of the message, or of a line, is read differently by someone.
#[test]
fn h3_ambiguous_framing_is_a_session() {
    let get = "GET / HTTP/1.1";
    let cases: &[&[&str]] = &[
        &["Transfer-Encoding: identity"],
        &["Transfer-Encoding:"],
        &["Transfer-Encoding: chunked;x"],
        &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        &["Transfer_Encoding: chunked"],
        &["TRANSFER-ENCODING:\tgzip, chunked"],
        &["Content-Length: 5", "Transfer-Encoding: chunked"],
        &["Transfer-Encoding: chunked", "Content-Length: 5"],
        &["Content-Length: 5", "Content-Length: 5"],
        &["Content-Length: 5", "content-length: 6"],
        &["Content_Length: 5"],
        &["Content-Length: 5, 5"],
        &["Content-Length: +5"],
        &["Content-Length: -5"],
        &["Content-Length: 0x5"],
        &["Content-Length: 5a"],
        &["Content-Length: 5 5"],
        &["Content-Length: 5\t"],
        &["Content-Length:\t5"],
        &["Content-Length: 5;"],
        &["Content-Length:"],
        &["Content-Length: "],
        &["Content-Length : 5"],
        &["Content-Length\t: 5"],
        &["Host : a"],
        &[" Host: a"],
        &["\tfolded"],
        &["A: b", " folded"],
        &[": empty"],
        &["no colon"],
        &["nocolon"],
        &["A(b): c"],
        &["A\u{e9}: c"],
        &["A\"b: c"],
        &["A@b: c"],
        &["A[b: c"],
        &["A: b\u{0}c"],
        &["A: b\u{7f}c"],
        &["A: b\u{1}c"],
        &["A: b\rc"],
        &["A: b\nContent-Length: 5"],
        &["A: b\r\rContent-Length: 5"],
        &["A\n"],
        &["A\u{0}: b"],
    ];
    for fields in cases {
        assert_eq!(head(get, fields).0, Session, "{fields:?}");
    }
}

/// T16: an upload whose length isn't known beforehand ends where its chunks do, and it is a write, whatever its method.
#[test]
fn t16_chunks_of_a_request_are_followed_to_their_end() {
    let next = "GET / HTTP/1.1\r\n\r\n";
    let body = "3\r\nabc\r\n1;x=\"y\"\r\nd\r\n0\r\nA: b\r\n\r\n";
    for method in ["POST", "GET", "HEAD"] {
        let text = format!("{method} /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let walk = requests(text.as_bytes());
        assert_eq!(
            (walk.class(), walk.begun, walk.completed, walk.idle()),
            (Some(Write), 1, 1, true),
            "{text:?}"
        );
        let walk = requests(format!("{text}{next}").as_bytes());
        assert_eq!((walk.begun, walk.completed, walk.last_begin), (2, 2, text.len() as u32));
        for end in text.len() - body.len()..text.len() {
            let walk = requests(&text.as_bytes()[..end]);
            assert_eq!(
                (walk.completed, walk.idle(), walk.opaque(), walk.answered),
                (1, false, false, 0),
                "{end}"
            );
        }
    }
    let head = "PUT / HTTP/1.1\r\ntransfer-encoding: CHUNKED\r\n\r\n";
    let walk = requests(format!("{head}1000\r\nabc").as_bytes());
    assert_eq!((walk.rest(), walk.class()), (0x1000 - 3, Some(Write)));
    let walk = requests(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(walk.class(), Some(Session), "HTTP/1.0 has no chunks");
    for bad in ["g\r\n", "5\n", "3\r\nabcd\r\n", "40000000\r\n", "0\r\n A: b\r\n", "1\r\na\n"] {
        assert_eq!(requests(format!("{head}{bad}").as_bytes()).class(), Some(Session), "{bad:?}");
    }
}

/// H3: request lines that some servers take and others refuse.
#[test]
fn h3_odd_request_lines_are_a_session() {
    let cases: &[&[u8]] = &[
        b" GET / HTTP/1.1\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\n\r\n",
        b"\nGET / HTTP/1.1\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\n\r\n",
        b"GET /\tHTTP/1.1\r\n\r\n",
        b"GET /  HTTP/1.1\r\n\r\n",
        b"GET / b HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1 \r\n\r\n",
        b"GET / HTTP/1.1\n\r\n",
        b"GET / HTTP/1.1\r\r\n\r\n",
        b"GET / HTTP/1.1\r\n\n",
        b"GET / HTTP/1.1\r\n\r\r",
        b"GET / HTTP/1.2\r\n\r\n",
        b"GET / HTTP/1.10\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"GET / HTTP/01.1\r\n\r\n",
        b"GET / http/1.1\r\n\r\n",
        b"GET / HTTQ/1.1\r\n\r\n",
        b"GET / ICY/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET /\x7f HTTP/1.1\r\n\r\n",
        b"GE(T / HTTP/1.1\r\n\r\n",
        b"G\xe9T / HTTP/1.1\r\n\r\n",
        b"\xff\xfe",
        b"\x00",
    ];
    for bytes in cases {
        let walk = requests(bytes);
        assert_eq!(
            (walk.class(), walk.completed),
            (Some(Session), 0),
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
    }
}

/// H5: what follows is no HTTP/1, or not for long.
#[test]
fn h5_other_protocols_are_a_session() {
    let cases: &[&[u8]] = &[
        b"CONNECT a:443 HTTP/1.1\r\n\r\n",
        b"CONNECT ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for bytes in cases {
        assert_eq!(requests(bytes).class(), Some(Session), "{:?}", String::from_utf8_lossy(bytes));
    }
    // Another method that merely begins so.
    assert_eq!(head("CONNECTED / HTTP/1.1", &[]).0, Write);
}

/// H5: an offer is a request like any other until it is taken up; what comes behind it at once can't be told apart.
#[test]
fn h5_an_offer_of_another_protocol_is_told_and_nothing_behind_it() {
    let offer = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUPGRADE:websocket\r\n\r\n";
    let plain = "GET / HTTP/1.1\r\nUpgrade-Insecure-Requests: 1\r\n\r\n";
    for (text, class, offers) in [
        (offer.to_owned(), Read, true),
        (offer.replace("GET", "POST"), Write, true),
        (plain.to_owned(), Read, false),
        ([plain, offer].concat(), Read, true),
        ([offer, plain].concat(), Session, false),
    ] {
        let walk = requests(text.as_bytes());
        assert_eq!((walk.class(), walk.offers()), (Some(class), offers), "{text:?}");
        assert_eq!(walk.lost(), class == Session, "{text:?}");
    }
}

/// Opaque is for life: nothing that follows is read.
#[test]
fn a_session_stays_one() {
    let mut stream = crate::stream::Stream::new(Kind::Request);
    assert!(stream.feed(b"CONNECT a:443 HTTP/1.1\r\n\r\n", 0).opaque());
    let walk = stream.feed(b"GET / HTTP/1.1\r\n\r\n", 0);
    assert_eq!((walk.begun, walk.completed, walk.class(), walk.rest()), (0, 0, Some(Session), 0));
    let before = stream.scanner;
    assert!(before.is_opaque() && stream.feed(b"x", 0).scanner() == before);
    // The same for a stream that is taken up in its middle.
    let mut walk = Walk::new();
    walk.read(Kind::Request, &Scanner::OPAQUE, 0, b"GET / HTTP/1.1\r\n\r\n", 0);
    assert_eq!((walk.class(), walk.begun), (Some(Session), 0));
}

/// H1: a write hidden behind a read.
#[test]
fn h1_the_class_of_a_segment_is_its_highest() {
    let get = "GET / HTTP/1.1\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    for (text, class, count) in [
        (format!("{get}{get}"), Read, 2),
        (format!("{get}{post}"), Write, 2),
        (format!("{post}{get}"), Write, 2),
        (format!("{get}{post}{get}"), Write, 3),
        (format!("{get}POS"), Write, 1),
        (format!("{get}G"), Write, 1),
        (format!("{get}CONNECT a HTTP/1.1\r\n\r\n"), Session, 1),
    ] {
        let walk = requests(text.as_bytes());
        assert_eq!((walk.class(), walk.completed), (Some(class), count), "{text:?}");
    }
    let walk = requests(format!("{get}{post}{get}").as_bytes());
    assert_eq!((walk.first_begin, walk.last_begin), (0, (get.len() + post.len()) as u32));
    assert!(walk.idle());
}

#[test]
fn heads_are_noted_by_their_place() {
    let walk = requests(b"HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\nHEAD / HTT");
    assert_eq!((walk.heads, walk.completed, walk.begun), (0b101, 3, 4));
}

/// RFC 9112, 9.3 and 9.6.
#[test]
fn the_last_request_says_so() {
    let last = |line: &str, fields: &str| requests(format!("{line}\r\n{fields}\r\n").as_bytes()).close;
    assert_eq!(last("GET / HTTP/1.1", ""), 0);
    assert_eq!(last("GET / HTTP/1.1", "Connection: keep-alive\r\n"), 0);
    assert_eq!(last("GET / HTTP/1.1", "Connection: TE, Close\r\n"), 1);
    assert_eq!(last("POST / HTTP/1.1", "Content-Length: 9\r\nconnection: close\r\n"), 1);
    assert_eq!(last("GET / HTTP/1.0", ""), 1);
    assert_eq!(last("GET / HTTP/1.0", "Connection: Keep-Alive\r\n"), 0);
    // What comes behind it counts.
    assert_eq!(requests(b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n").close, 0);
}

/// H2: not enough bytes to know.
#[test]
fn h2_an_incomplete_head_counts_as_a_write() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for end in 1..text.len() {
        let walk = requests(&text[..end]);
        assert_eq!((walk.class(), walk.completed, walk.begun), (Some(Write), 0, 1), "{end}");
        assert!(walk.in_head() && !walk.idle());
    }
    assert_eq!(requests(text).class(), Some(Read));
    assert_eq!(requests(b"").class(), None);
}

/// H4: a read has no body, and says nothing of one, or that it is empty.
#[test]
fn h4_a_get_with_a_body_is_a_write() {
    for length in [1, 5, 70_000] {
        let field = format!("Content-Length: {length}");
        assert_eq!(head("GET / HTTP/1.1", &[&field]), (Write, length));
        assert_eq!(head("HEAD / HTTP/1.1", &[&field]), (Write, length));
    }
    assert_eq!(head("GET / HTTP/1.1", &["Content-Length: 0"]), (Read, 0));
    assert_eq!(head("GET / HTTP/1.1", &["Expect: 100-continue"]).0, Write);
}

#[test]
fn lengths_are_jumped_over_and_bounded() {
    assert_eq!(head("POST / HTTP/1.1", &["Content-Length: 12345 "]), (Write, 12_345));
    assert_eq!(head("POST / HTTP/1.1", &["CONTENT-LENGTH:007"]), (Write, 7));
    assert_eq!(
        head("POST / HTTP/1.1", &[&format!("Content-Length: {}", MAX_LENGTH - 1)]),
        (Write, MAX_LENGTH - 1)
    );
    for length in [u64::from(MAX_LENGTH), 1 << 32, (1 << 32) + 5, u64::MAX] {
        assert_eq!(head("POST / HTTP/1.1", &[&format!("Content-Length: {length}")]).0, Session, "{length}");
    }
    let digits = "9".repeat(400);
    assert_eq!(head("POST / HTTP/1.1", &[&format!("Content-Length: {digits}")]).0, Session);
}

/// H6, T16: a body is a body, whatever it looks like.
#[test]
fn h6_a_body_that_is_a_request_is_a_body() {
    let body = "GET /secret HTTP/1.1\r\nHost: a\r\n\r\n";
    let text =
        format!("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let walk = requests(text.as_bytes());
    assert_eq!((walk.begun, walk.completed, walk.rest(), walk.idle()), (1, 1, 0, true));
    // The same where the body comes later, as it does after 100-continue.
    let mut stream = crate::stream::Stream::new(Kind::Request);
    let at = text.len() - body.len();
    assert_eq!(stream.feed(&text.as_bytes()[..at], 0).rest(), body.len() as u32);
    let walk = stream.feed(format!("{body}PUT / HTTP/1.1\r\n\r\n").as_bytes(), 0);
    assert_eq!((walk.begun, walk.completed, walk.first_begin), (1, 1, body.len() as u32));
}

#[test]
fn a_segment_that_is_all_body_is_done_at_once() {
    let mut walk = Walk::new();
    for skip in [4, 5, 1000] {
        assert_eq!(walk.read(Kind::Request, &Scanner::default(), skip, b"GET ", 0), 0);
        assert_eq!((walk.rest(), walk.begun, walk.class(), walk.idle()), (skip - 4, 0, None, skip == 4));
    }
}

#[test]
fn heads_are_bounded() {
    let head = |filler: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(filler));
    let bare = head(0).len();
    let fits = usize::from(MAX_HEAD) - bare;
    assert_eq!(requests(head(fits).as_bytes()).class(), Some(Read));
    assert_eq!(requests(head(fits + 1).as_bytes()).class(), Some(Session));
    // And over many segments, with lines that are never skipped.
    let mut stream = crate::stream::Stream::new(Kind::Request);
    stream.feed(b"GET / HTTP/1.1\r\n", 0);
    let lines = (1..).find(|_| stream.feed(b"1:\r\n", 0).opaque()).unwrap();
    assert_eq!(lines * 4 + 16, usize::from(MAX_HEAD) + 4);
    // A body doesn't count.
    let long = usize::from(MAX_HEAD) * 2;
    let text = format!(
        "POST / HTTP/1.1\r\nContent-Length: {long}\r\n\r\n{}GET / HTTP/1.1\r\n\r\n",
        "x".repeat(long)
    );
    assert_eq!(requests(text.as_bytes()).completed, 2);
}

#[test]
fn messages_a_segment_are_bounded() {
    let get = "GET / HTTP/1.1\r\n\r\n";
    let most = MAX_REQUESTS as usize;
    let walk = requests(get.repeat(most).as_bytes());
    assert_eq!((walk.completed, walk.class()), (MAX_REQUESTS, Some(Read)));
    let walk = requests(get.repeat(most + 1).as_bytes());
    assert_eq!((walk.completed, walk.class()), (MAX_REQUESTS, Some(Session)));
}

#[test]
fn events_come_at_their_bytes() {
    let text = b"HEAD /a HTTP/1.1\r\n\r\nPUT /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nabGET";
    let expected = [
        (0, Event::Begun),
        (19, Event::Request(Read, true, 0, false)),
        (20, Event::Begun),
        (57, Event::Request(Write, false, 2, false)),
        (60, Event::Begun),
    ];
    assert_eq!(events(Kind::Request, text, 0), expected);
}
