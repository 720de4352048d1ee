//! The same heads through another parser, `httparse` (which is laxer): what ours takes, that one takes too
//! and reads the same; and ours takes what is well formed.

use crate::stream::{requests, responses};
use mirror_common::protocol::Class;
use proptest::prelude::*;

/// What a request's head says by another reading: its length, whether it is a plain read, its body's length.
fn by_httparse(bytes: &[u8]) -> Option<(usize, bool, u32)> {
    // It refuses targets that are no UTF-8. To us they are as odd as all beyond ASCII.
    let line = bytes.iter().position(|&byte| byte == b'\r')?;
    let ascii = bytes[..line].is_ascii();
    let mut bytes = bytes.to_vec();
    bytes[..line].iter_mut().for_each(|byte| *byte = if byte.is_ascii() { *byte } else { b'~' });
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = request.parse(&bytes).ok()? else { return None };
    let lengths: Vec<_> = named(request.headers, "content-length").collect();
    let body =
        lengths.first().map_or(Some(0), |value| std::str::from_utf8(value).ok()?.trim().parse().ok())?;
    let odd = ["expect", "x-http-method", "x-http-method-override", "x-method-override"];
    let read = matches!(request.method?, "GET" | "HEAD")
        && request.path?.starts_with('/')
        && ascii
        && body == 0
        && !request.headers.iter().any(|field| odd.contains(&&*hyphened(field.name)));
    let framed = lengths.len() < 2
        && named(request.headers, "transfer-encoding").next().is_none()
        && request.method? != "CONNECT";
    framed.then_some((length, read, body))
}

fn hyphened(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

fn named<'a>(fields: &'a [httparse::Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// The same of a response: length of its head, status, body: a length, `None` for chunked or until close.
fn answer_by_httparse(bytes: &[u8]) -> Option<(usize, u16, Option<u32>)> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = response.parse(bytes).ok()? else { return None };
    let status = response.code?;
    let chunked = named(response.headers, "transfer-encoding").next().is_some();
    let stated = named(response.headers, "content-length").next();
    let stated = stated.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
    let body = if matches!(status, 100..200 | 204 | 304) {
        Some(0)
    } else if chunked {
        None
    } else {
        stated
    };
    Some((length, status, body))
}

fn check_request(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let walk = requests(bytes);
    if walk.completed == 0 {
        return Ok(false);
    }
    let end = (1..=bytes.len()).find(|&end| requests(&bytes[..end]).completed == 1).expect("an end");
    let walk = requests(&bytes[..end]);
    prop_assert_eq!(
        Some((end, walk.class() == Some(Class::Read), walk.rest())),
        by_httparse(bytes),
        "{:?}",
        String::from_utf8_lossy(bytes)
    );
    Ok(true)
}

fn check_response(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let ended = |walk: &mirror_common::protocol::http1::Walk| walk.last_status != 0 || walk.interim != 0;
    let Some(end) = (1..=bytes.len()).find(|&end| ended(&responses(&bytes[..end], 0))) else {
        return Ok(false);
    };
    let walk = responses(&bytes[..end], 0);
    let body = (walk.answered == 1 || walk.interim == 1).then_some(walk.rest());
    let (length, status, expected) =
        answer_by_httparse(bytes).expect("the other parser takes what ours takes");
    prop_assert_eq!((end, body), (length, expected), "{:?}", String::from_utf8_lossy(bytes));
    prop_assert!(walk.last_status == status || (walk.interim == 1 && status < 200));
    Ok(true)
}

fn token() -> impl Strategy<Value = String> {
    "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,24}"
}

fn field() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => token(),
        2 => prop::sample::select(vec!["Host", "Accept", "Expect", "X-HTTP-Method", "x_method_override", "Connection"])
            .prop_map(str::to_owned),
    ];
    (name, "[ \t]{0,2}[!-~\u{80}-\u{ff}]?[ -~\t]{0,40}").prop_map(|(name, value)| format!("{name}:{value}"))
}

/// Well-formed requests that are no session.
fn request() -> impl Strategy<Value = String> {
    let method =
        prop_oneof![Just("GET".to_owned()), Just("HEAD".to_owned()), Just("POST".to_owned()), token()];
    let target = prop_oneof![3 => "/[!-~]{0,60}", 1 => "[!-~]{1,20}"];
    let length = prop::option::of((
        prop::sample::select(vec!["Content-Length", "content-length", "CONTENT-LENGTH"]),
        0..MAX,
    ));
    (method, target, 0..2, prop::collection::vec(field(), 0..12), length, any::<prop::sample::Index>())
        .prop_map(|(method, target, minor, mut fields, length, place)| {
            if let Some((name, length)) = length {
                fields.insert(place.index(fields.len() + 1), format!("{name}: {length}"));
            }
            let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
            format!("{method} {target} HTTP/1.{minor}\r\n{fields}\r\n")
        })
}

const MAX: u32 = mirror_common::protocol::http1::MAX_LENGTH;

fn response() -> impl Strategy<Value = String> {
    let framing = prop_oneof![
        Just(String::new()),
        Just("Transfer-Encoding: chunked\r\n".to_owned()),
        (0..MAX).prop_map(|length| format!("Content-Length: {length}\r\n")),
    ];
    let status = prop_oneof![Just(200u16), Just(204), Just(304), 102..600u16];
    (status, "( [ -~]{0,20})?", prop::collection::vec(field(), 0..6), framing, any::<bool>()).prop_map(
        |(status, reason, fields, framing, first)| {
            let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
            let fields = if first { framing + &fields } else { fields + &framing };
            format!("HTTP/1.1 {status}{reason}\r\n{fields}\r\n")
        },
    )
}

/// One byte changed, one taken out, or one put in.
fn mutated(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b" \t\r\n:,;_-\0\x7f5".to_vec())];
    (text, prop::collection::vec((any::<prop::sample::Index>(), byte, 0..3), 0..3)).prop_map(
        |(text, changes)| {
            let mut bytes = text.into_bytes();
            for (at, byte, how) in changes {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => _ = bytes.remove(at),
                }
            }
            bytes
        },
    )
}

/// Fields that make a well-formed request a session, or a response opaque, by our choice.
fn is_choice(text: &str) -> bool {
    text.lines().skip(1).any(|line| {
        let name = line.split(':').next().unwrap_or_default();
        matches!(&*hyphened(name), "transfer-encoding" | "content-length")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn h3_what_is_well_formed_is_taken_and_read_the_same(text in request()) {
        prop_assume!(!text.starts_with("CONNECT "));
        prop_assert!(check_request(text.as_bytes())?, "refused: {text:?}");
    }

    #[test]
    fn h3_what_is_taken_of_damaged_requests_is_read_the_same(bytes in mutated(request())) {
        check_request(&bytes)?;
    }

    #[test]
    fn h7_well_formed_answers_are_taken_and_read_the_same(text in response()) {
        let framed_without_body = (text.starts_with("HTTP/1.1 1") || text.starts_with("HTTP/1.1 204")) && is_choice(&text);
        prop_assume!(!framed_without_body);
        prop_assert!(check_response(text.as_bytes())?, "refused: {text:?}");
    }

    #[test]
    fn h7_what_is_taken_of_damaged_answers_is_read_the_same(bytes in mutated(response())) {
        check_response(&bytes)?;
    }
}
