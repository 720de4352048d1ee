//! What each path answers.

use std::cell::RefCell;

use super::super::http::{Answer, Head, Method};
use super::super::store::{Store, StoreError};
use crate::clock::monotonic;

/// Bytes of a body that is kept whole. A body for `/sink` isn't.
pub(super) const LARGEST_BODY: usize = 512 << 20;
/// The largest body of `/chunked/N`.
const LARGEST_CHUNKED: u64 = 16 << 20;

/// A body, as its path wants it.
#[derive(Debug)]
pub(super) enum Body {
    /// All bytes.
    Whole(Vec<u8>),
    /// Only its length and its CRC-32.
    Digest { length: u64, crc: crc32fast::Hasher },
}

impl Body {
    /// The kind of body that the request's path wants.
    pub(super) fn of(head: &Head) -> Self {
        if head.path == "/sink" {
            Self::Digest { length: 0, crc: crc32fast::Hasher::new() }
        } else {
            Self::Whole(Vec::new())
        }
    }

    /// Takes some bytes; `false` if they are too many.
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Whole(body) => {
                let fits = body.len() + bytes.len() <= LARGEST_BODY;
                if fits {
                    body.extend_from_slice(bytes);
                }
                fits
            }
            Self::Digest { length, crc } => {
                *length += bytes.len() as u64;
                crc.update(bytes);
                true
            }
        }
    }
}

/// The answer that doesn't wait for the request's body, if the path has one; the connection ends behind it.
pub(super) fn early(head: &Head) -> Option<Answer> {
    (head.path == "/refuse").then(|| Answer::text("413 Content Too Large", "too large\n"))
}

/// The answer. `sunk` is what was said of the last body that `/sink` had.
pub(super) fn answer(store: &RefCell<Store>, sunk: &RefCell<String>, head: &Head, body: &Body) -> Answer {
    let (first, rest) = match head.path.trim_start_matches('/').split_once('/') {
        Some((first, rest)) => (first, rest),
        None => (head.path.trim_start_matches('/'), ""),
    };
    let read = matches!(head.method, Method::Get | Method::Head);
    match (first, read, head.method) {
        ("ping", true, _) => Answer::text("200 OK", "pong\n"),
        // As long each time, and never the same.
        ("now", true, _) => Answer::text("200 OK", format!("{:020}\n", monotonic().as_nanos())),
        ("lists", true, _) => list(&store.borrow(), rest, &head.query),
        ("lists", _, Method::Post) => append(&mut store.borrow_mut(), rest, body),
        ("dump", true, _) => Answer::text("200 OK", store.borrow().dump()),
        ("load", _, Method::Put | Method::Post) => load(&mut store.borrow_mut(), body),
        ("bytes", true, _) => match rest.parse() {
            Ok(length) => Answer { pattern: length, ..Answer::text("200 OK", "") },
            Err(_) => bad("say how many: /bytes/1024\n"),
        },
        ("chunked", true, _) => match rest.parse::<u64>() {
            Ok(length) if length <= LARGEST_CHUNKED => {
                Answer { chunk: Some(1000), ..Answer::text("200 OK", pattern(0, length as usize)) }
            }
            _ => bad("say how many, at most 16777216: /chunked/1024\n"),
        },
        ("sink", true, _) => Answer::json("200 OK", sunk.borrow().clone()),
        ("sink", _, Method::Post | Method::Put) => sink(body, sunk),
        ("delay", ..) => Answer::text("200 OK", "late\n"),
        ("lists" | "ping" | "now" | "dump" | "load" | "bytes" | "chunked" | "sink", ..) => {
            Answer::text("405 Method Not Allowed", "not this method\n")
        }
        _ => Answer::text("404 Not Found", "no such path\n"),
    }
}

/// Milliseconds that `/delay/MS` asks for.
pub(super) fn asked_delay_ms(head: &Head) -> u64 {
    head.path.strip_prefix("/delay/").and_then(|ms| ms.parse().ok()).unwrap_or(0)
}

/// `length` bytes of the pattern of `/bytes`, from `offset` on: byte number i is i modulo 251.
pub(super) fn pattern(offset: u64, length: usize) -> Vec<u8> {
    (offset..).take(length).map(|at| (at % 251) as u8).collect()
}

fn list(store: &Store, key: &str, query: &str) -> Answer {
    let list = store.list(key);
    let tail = query.split('&').find_map(|pair| pair.strip_prefix("tail="));
    let shown = match tail.map(str::parse::<usize>) {
        None => list,
        Some(Ok(count)) => &list[list.len() - count.min(list.len())..],
        Some(Err(_)) => return bad("tail is a number\n"),
    };
    let mut body = String::with_capacity(shown.iter().map(|id| id.len() + 1).sum());
    for id in shown {
        body.push_str(id);
        body.push('\n');
    }
    Answer::text("200 OK", body).with("X-List-Length", list.len())
}

fn append(store: &mut Store, key: &str, body: &Body) -> Answer {
    let Body::Whole(body) = body else { return bad("no body\n") };
    let Ok(id) = std::str::from_utf8(body).map(str::trim_end) else { return bad("the id is no text\n") };
    match store.append(key, id) {
        Ok(length) => {
            // Not who says it: on both sides the same writes make the same answers.
            let said = serde_json::json!({ "key": key, "id": id, "length": length });
            Answer::json("200 OK", format!("{said}\n")).with("X-List-Length", length)
        }
        Err(error) => refused(&error),
    }
}

fn load(store: &mut Store, body: &Body) -> Answer {
    let Body::Whole(body) = body else { return bad("no body\n") };
    let Ok(text) = std::str::from_utf8(body) else { return bad("the dump is no text\n") };
    match store.load(text) {
        Ok(count) => Answer::json("200 OK", format!("{{\"loaded\":{count}}}\n")),
        Err(error) => refused(&error),
    }
}

fn sink(body: &Body, sunk: &RefCell<String>) -> Answer {
    let Body::Digest { length, crc } = body else { return bad("no body\n") };
    let said = format!("{{\"length\":{length},\"crc32\":\"{:08x}\"}}\n", crc.clone().finalize());
    sunk.replace(said.clone());
    Answer::json("200 OK", said)
}

fn bad(why: &'static str) -> Answer {
    Answer::text("400 Bad Request", why)
}

fn refused(error: &StoreError) -> Answer {
    let status = match error {
        StoreError::File { .. } => "500 Internal Server Error",
        StoreError::Word { .. } | StoreError::Line { .. } => "400 Bad Request",
    };
    Answer::text(status, format!("{error}\n"))
}
