//! H7: answers, which of them have bodies, and where those end.

use crate::stream::{Event, Stream, events, responses};
use mirror_common::protocol::Kind;
use mirror_common::protocol::http1::{MAX_HEAD, MAX_LENGTH, Walk};

fn answer(status: &str, fields: &str, rest: &str) -> Walk {
    responses(format!("HTTP/1.1 {status}\r\n{fields}\r\n{rest}").as_bytes(), 0)
}

#[test]
fn h7_a_length_ends_an_answer_with_its_head() {
    let walk = answer("200 OK", "Content-Length: 10\r\n", "abc");
    assert_eq!((walk.answered, walk.rest(), walk.idle(), walk.last_status), (1, 7, false, 200));
    let walk = answer("200 OK", "Content-Length: 3\r\n", "abc");
    assert_eq!((walk.answered, walk.rest(), walk.idle(), walk.close), (1, 0, true, 0));
    let walk = answer("404 Not Found", "content-length:0\r\n", "HTTP/1.1 503 \r\nContent-Length: 1\r\n\r\nx");
    assert_eq!((walk.answered, walk.statuses.of(3), walk.statuses.of(4)), (2, 1, 1));
    assert_eq!((walk.first_status, walk.last_status), (404, 503));
}

#[test]
fn h7_answers_to_head_have_no_body() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    let walk = responses(head.as_bytes(), 1);
    assert_eq!((walk.answered, walk.rest(), walk.idle()), (1, 0, true));
    // Head, get, head: the mask moves on with the answers.
    let walk = responses(format!("{head}{head}0123456789{head}").as_bytes(), 0b101);
    assert_eq!((walk.answered, walk.rest(), walk.idle()), (3, 0, true));
    let walk = responses(format!("{head}{head}0123456789{head}").as_bytes(), 0b001);
    assert_eq!((walk.answered, walk.rest()), (3, 10));
    for fields in ["Transfer-Encoding: chunked\r\n", ""] {
        let walk = responses(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes(), 1);
        assert_eq!((walk.answered, walk.idle(), walk.until_close()), (1, true, false));
    }
}

#[test]
fn h7_204_and_304_have_no_body() {
    for (status, fields) in [
        ("204 No Content", ""),
        ("204 No Content", "Content-Length: 0\r\n"),
        ("304 Not Modified", ""),
        ("304 Not Modified", "Content-Length: 10\r\n"),
        ("304 Not Modified", "Transfer-Encoding: chunked\r\n"),
    ] {
        let walk = answer(status, fields, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((walk.answered, walk.idle(), walk.last_status), (2, true, 200), "{status} {fields}");
    }
    assert!(answer("204 No Content", "Content-Length: 5\r\n", "").opaque());
    assert!(answer("204 No Content", "Transfer-Encoding: chunked\r\n", "").opaque());
}

/// H6: interim answers end nothing.
#[test]
fn h6_interim_answers_do_not_count() {
    let walk = answer("100 Continue", "", "");
    assert_eq!((walk.answered, walk.interim, walk.idle(), walk.first_status), (0, 1, true, 0));
    let walk = answer(
        "103 Early Hints",
        "Link: </a>\r\n",
        "HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    );
    assert_eq!((walk.answered, walk.interim, walk.rest(), walk.first_status), (1, 2, 2, 200));
    // Before the answer to a HEAD, too.
    let walk = responses(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 1);
    assert_eq!((walk.answered, walk.rest()), (1, 0));
    assert!(answer("100 Continue", "Content-Length: 5\r\n", "").opaque());
    assert!(answer("100 Continue", "Transfer-Encoding: chunked\r\n", "").opaque());
}

/// H5: what follows 101 is no HTTP.
#[test]
fn h5_switching_protocols_is_opaque() {
    let walk = answer("101 Switching Protocols", "Upgrade: websocket\r\nConnection: Upgrade\r\n", "\x01\x02");
    assert!(walk.opaque());
    assert_eq!((walk.answered, walk.first_status), (1, 101), "the last answer that is one");
    assert!(responses(b"HTTP/1.1 101 \r\n\r\n", 0).opaque());
    // An offer isn't a switch.
    let walk = answer("200 OK", "Upgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n", "");
    assert_eq!((walk.answered, walk.close), (1, 0));
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

#[test]
fn h7_chunks_are_followed_to_their_end() {
    let body = "5\r\nHTTP/\r\nA;name=\"v\"\r\n0123456789\r\n0\r\n\r\n";
    let walk = answer("200 OK", CHUNKED, body);
    assert_eq!((walk.answered, walk.idle(), walk.last_status), (1, true, 200));
    for end in 1..body.len() {
        let walk = answer("200 OK", CHUNKED, &body[..end]);
        assert_eq!(
            (walk.answered, walk.idle(), walk.in_head(), walk.opaque()),
            (0, false, false, false),
            "{end}"
        );
    }
    let walk = answer("200 OK", CHUNKED, "1000\r\nabc");
    assert_eq!((walk.answered, walk.rest(), walk.idle()), (0, 0x1000 - 3, false));
    let walk = answer("500 X", CHUNKED, "0\r\nA: b\r\nContent-Length: 77\r\n\r\nHTTP/1.1 204 \r\n\r\n");
    assert_eq!((walk.answered, walk.statuses.of(4), walk.idle()), (2, 1, true));
    let walk = answer("200 OK", "transfer-encoding:ChunKed \r\n", "aBc\r\n");
    assert_eq!(walk.rest(), 0xabc);
}

/// Only the second of two answers to (get, head) has no body, also when the first's chunks come in several
/// segments.
#[test]
fn h7_the_mask_counts_from_the_answer_under_way() {
    let mut stream = Stream::new(Kind::Response);
    assert_eq!(stream.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n", 0b10).answered, 0);
    let walk = stream.feed(b"abc\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 0b10);
    assert_eq!((walk.answered, walk.idle(), walk.first_status), (2, true, 200));
}

#[test]
fn h7_bad_chunks_are_opaque() {
    for body in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "0x5\r\n",
        " 5\r\n",
        "5 \r\n",
        "5\n",
        "5\r\r",
        "5\r\nabcde\n",
        "5\r\nabcdefg",
        "5;a\n",
        "5;a\x01\r\n",
        "40000000\r\n",
        "100000005\r\n",
        "0\r\n A: b\r\n",
        "0\r\nA b\r\n",
        "0\r\nA: b\n",
        "0\r\n\r\r",
        "0\r\n: b",
    ] {
        assert!(answer("200 OK", CHUNKED, body).opaque(), "{body:?}");
    }
    assert_eq!(answer("200 OK", CHUNKED, "3fffffff\r\n").rest(), MAX_LENGTH - 1);
    assert!(answer("200 OK", CHUNKED, &format!("5;{}", "x".repeat(usize::from(MAX_HEAD)))).opaque());
    assert!(
        answer("200 OK", CHUNKED, &format!("0\r\n{}", "A: b\r\n".repeat(usize::from(MAX_HEAD) / 6 + 1)))
            .opaque()
    );
}

#[test]
fn h7_many_chunks_are_no_long_head() {
    let walk = answer("200 OK", CHUNKED, &format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(10_000)));
    assert_eq!((walk.answered, walk.idle()), (1, true));
}

#[test]
fn h7_an_answer_without_length_ends_with_its_connection() {
    for line in ["HTTP/1.1 200 OK", "HTTP/1.0 200 OK"] {
        let mut stream = Stream::new(Kind::Response);
        let walk =
            stream.feed(format!("{line}\r\nContent-Type: a\r\n\r\nHTTP/1.1 204 \r\n\r\n").as_bytes(), 0);
        assert_eq!(
            (walk.answered, walk.until_close(), walk.idle(), walk.last_status, walk.close),
            (0, true, false, 200, 1)
        );
        let walk = stream.feed(b"HTTP/1.1 204 \r\n\r\n", 0);
        assert_eq!((walk.answered, walk.until_close(), walk.last_status), (0, true, 0));
    }
}

#[test]
fn h7_ambiguous_answers_are_opaque() {
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked;a\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunke\r\n",
        "Transfer-Encoding: chunkedx\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding:\tchunked\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: a\r\n",
        "Content-Length:\r\n",
        "Content-Length : 5\r\n",
        " folded\r\n",
        "A: b\n",
    ] {
        let walk = answer("200 OK", fields, "");
        assert!(walk.opaque() && walk.answered == 0, "{fields:?}");
    }
    assert!(responses(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0).opaque());
    // No client takes an underscore for a hyphen.
    assert_eq!(
        answer("200 OK", "Content_Length: 5\r\nTransfer_Encoding: x\r\nContent-Length: 1\r\n", "").rest(),
        1
    );
}

#[test]
fn bad_status_lines_are_opaque() {
    for line in [
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 600 OK",
        "HTTP/1.1 000 OK",
        "HTTP/1.1 0200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "HTTP 200 OK",
        "\r\nHTTP/1.1 200 OK",
        " HTTP/1.1 200 OK",
        "HTTP/1.1 200 O\x01",
        "HTTP/1.1 200\tOK",
        "GET / HTTP/1.1",
    ] {
        let walk = responses(format!("{line}\r\nContent-Length: 0\r\n\r\n").as_bytes(), 0);
        assert!(walk.opaque() && walk.answered == 0, "{line:?}");
    }
    for line in ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.0 599 a b\u{e9}\t"] {
        assert_eq!(
            responses(format!("{line}\r\nContent-Length: 0\r\n\r\n").as_bytes(), 0).answered,
            1,
            "{line:?}"
        );
    }
}

#[test]
fn close_is_seen_in_final_answers() {
    let close = |line: &str, fields: &str| {
        responses(format!("{line}\r\nContent-Length: 0\r\n{fields}\r\n").as_bytes(), 0).close
    };
    for fields in [
        "Connection: close\r\n",
        "connection:CLOSE\r\n",
        "Connection: a, close\r\n",
        "Connection: close,a\r\n",
        "Connection: close , a\r\n",
        "Connection:\t,, close\t\r\n",
        "Connection: a\r\nConnection: close\r\n",
        "Connection: keep-alive\r\nConnection: close\r\n",
    ] {
        assert_eq!(close("HTTP/1.1 200 OK", fields), 1, "{fields:?}");
    }
    for fields in [
        "",
        "Connection: keep-alive\r\n",
        "Connection: closed\r\n",
        "Connection: clos\r\n",
        "Connection: xclose\r\n",
        "Connection: \"close\"\r\n",
        "Connection: c close2\r\n",
        "Connections: close\r\n",
        "Connection:\r\n",
    ] {
        assert_eq!(close("HTTP/1.1 200 OK", fields), 0, "{fields:?}");
    }
    assert_eq!(close("HTTP/1.0 200 OK", ""), 1);
    assert_eq!(close("HTTP/1.0 200 OK", "Connection: Keep-Alive\r\n"), 0);
    assert_eq!(answer("100 Continue", "Connection: close\r\n", "").close, 0);
    // Of one answer, not of the next.
    let mut stream = Stream::new(Kind::Response);
    assert_eq!(stream.feed(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 0).close, 1);
    assert_eq!(stream.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0).close, 0);
}

/// A server that was behind sends all at once: as many as the largest segment holds.
#[test]
fn a_segment_may_hold_any_number_of_answers() {
    let text = "HTTP/1.1 204 \r\n\r\n";
    let walk = responses(text.repeat(4_000).as_bytes(), 0);
    assert_eq!((walk.answered, walk.idle()), (4_000, true));
}

#[test]
fn heads_of_answers_are_bounded() {
    let long = format!("A: {}\r\nContent-Length: 0\r\n", "x".repeat(usize::from(MAX_HEAD)));
    assert!(answer("200 OK", &long, "").opaque());
}

#[test]
fn events_come_at_their_bytes() {
    let text =
        b"HTTP/1.1 100 A\r\n\r\nHTTP/1.1 502 B\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let expected = [(17, Event::Interim), (63, Event::Answer(502, false)), (74, Event::Answered)];
    assert_eq!(events(Kind::Response, text, 0), expected);
}
