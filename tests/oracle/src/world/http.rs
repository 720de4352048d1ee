//! What clients and servers say to one another, and how each reads it: append-only lists, one a key, whose length and hash
//! stand in every answer.

use fastrand::Rng;
use mirror_common::{switch_word::Side, weight::mix};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The list's state.
    Get,
    /// The same, without the body.
    Head,
    /// Appends the request's id.
    Append,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Unique in its world.
    pub id: u64,
    /// The list.
    pub key: u64,
    /// What it asks for.
    pub kind: Kind,
    /// Of an [`Kind::Append`].
    pub body: Vec<u8>,
    /// The client asks no more on this connection.
    pub last: bool,
    /// It offers another protocol, which no server takes up.
    pub offers: bool,
}

impl Request {
    /// As it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let method = match self.kind {
            Kind::Get => "GET",
            Kind::Head => "HEAD",
            Kind::Append if self.id.is_multiple_of(2) => "POST",
            Kind::Append => "PUT",
        };
        let mut bytes =
            format!("{method} /{} HTTP/1.1\r\nhost: lists\r\nx-id: {}\r\n", self.key, self.id).into_bytes();
        if self.last {
            bytes.extend_from_slice(b"connection: close\r\n");
        }
        if self.offers {
            bytes.extend_from_slice(b"upgrade: h2c\r\n");
        }
        match (self.kind, self.chunk()) {
            (Kind::Append, Some(size)) => {
                bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                put_chunks(&mut bytes, &self.body, size);
            }
            (Kind::Append, None) => {
                bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", self.body.len()).as_bytes());
                bytes.extend_from_slice(&self.body);
            }
            _ => bytes.extend_from_slice(b"\r\n"),
        }
        bytes
    }

    /// Bytes of its body's chunks: a third of all bodies have such.
    pub fn chunk(&self) -> Option<usize> {
        let drawn = mix(self.id);
        (self.kind == Kind::Append && drawn.is_multiple_of(3)).then_some(1 << (drawn >> 8 & 15))
    }
}

/// A list's state: what every answer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListState {
    /// Entries.
    pub count: u64,
    /// Hash of the entries in their order.
    pub hash: u64,
}

impl ListState {
    /// The state behind one more entry.
    #[must_use]
    pub fn append(self, id: u64) -> ListState {
        ListState { count: self.count + 1, hash: mix(self.hash ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15)) }
    }
}

/// An answer, without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request's id.
    pub id: u64,
    /// Who answers.
    pub side: Side,
    /// The list's state.
    pub list: ListState,
    /// The server closes the connection behind it.
    pub close: bool,
}

/// How an answer is dressed.
#[derive(Clone, Copy, Debug)]
pub struct Dress {
    /// Bytes of the body.
    pub length: usize,
    /// Chunked, with chunks of so many bytes.
    pub chunk: Option<usize>,
    /// Without its body: to a HEAD.
    pub head: bool,
}

/// A request's body, that looks like a request now and then.
pub fn body(longest: usize, rng: &mut Rng) -> Vec<u8> {
    let length = if longest == 0 { 0 } else { rng.usize(..longest) };
    let lure = b"GET /0 HTTP/1.1\r\nhost: a\r\n\r\nPOST /0 HTTP/1.1\r\ncontent-length: 3\r\n\r\n";
    if rng.bool() {
        lure.iter().copied().cycle().take(length).collect()
    } else {
        (0..length).map(|at| b'a' + (at % 26) as u8).collect()
    }
}

/// The byte at an offset of an answer's body: looks like an answer now and then.
fn filler(id: u64, side: Side, at: usize) -> u8 {
    const LURE: &[u8] = b"\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n";
    if at % 97 < LURE.len() {
        LURE[at % 97]
    } else {
        b'a' + (mix(id ^ side as u64 ^ (at as u64) << 32) % 26) as u8
    }
}

impl Answer {
    /// As it goes over the wire.
    pub fn bytes(&self, dress: Dress) -> Vec<u8> {
        let mut bytes = format!(
            "HTTP/1.1 200 OK\r\nx-id: {}\r\nx-side: {}\r\nx-count: {}\r\nx-hash: {}\r\n",
            self.id, self.side as u8, self.list.count, self.list.hash
        )
        .into_bytes();
        if self.close {
            bytes.extend_from_slice(b"connection: close\r\n");
        }
        let body: Vec<u8> = (0..dress.length).map(|at| filler(self.id, self.side, at)).collect();
        match dress.chunk {
            Some(size) => {
                bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                if !dress.head {
                    put_chunks(&mut bytes, &body, size);
                }
            }
            None => {
                bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
                if !dress.head {
                    bytes.extend_from_slice(&body);
                }
            }
        }
        bytes
    }
}

/// Writes a body in chunks of so many bytes (RFC 9112, 7.1).
fn put_chunks(bytes: &mut Vec<u8>, body: &[u8], size: usize) {
    for part in body.chunks(size.max(1)) {
        bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
}

/// A head's first line, its fields by name, and its length in bytes.
struct Head<'a> {
    first: &'a str,
    fields: Vec<(&'a str, &'a str)>,
    length: usize,
}

impl<'a> Head<'a> {
    /// `None` while it isn't complete.
    fn read(bytes: &'a [u8]) -> Result<Option<Head<'a>>, String> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is no text")?;
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let fields = lines.filter_map(|line| line.split_once(": ")).collect();
        Ok(Some(Head { first, fields, length: end + 4 }))
    }

    fn field(&self, name: &str) -> Option<&'a str> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Its message's body, and how many of the bytes behind the head that takes; `None` while it isn't whole.
    fn body(&self, rest: &[u8], without: bool) -> Result<Option<(Vec<u8>, usize)>, String> {
        if without {
            return Ok(Some((Vec::new(), 0)));
        }
        if self.field("transfer-encoding").is_some() {
            return unchunk(rest);
        }
        let length = self.number("content-length")? as usize;
        Ok(rest.get(..length).map(|body| (body.to_vec(), length)))
    }

    fn number(&self, name: &str) -> Result<u64, String> {
        let value = self.field(name).ok_or_else(|| format!("no {name} in {:?}", self.first))?;
        value.parse().map_err(|_| format!("{name}: {value}"))
    }
}

/// Takes a whole request from the front of what a server has read.
///
/// # Errors
/// When it isn't one: what was sent to the server isn't what the client said.
pub fn take_request(bytes: &mut Vec<u8>) -> Result<Option<Request>, String> {
    if !bytes.is_empty() && !bytes[0].is_ascii_uppercase() {
        return Err(format!("no request: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)])));
    }
    let (request, length) = {
        let Some(head) = Head::read(bytes)? else { return Ok(None) };
        let mut words = head.first.split(' ');
        let kind = match words.next() {
            Some("GET") => Kind::Get,
            Some("HEAD") => Kind::Head,
            Some("POST" | "PUT") => Kind::Append,
            _ => return Err(format!("no request: {:?}", head.first)),
        };
        let key = words.next().and_then(|path| path.strip_prefix('/')).and_then(|key| key.parse().ok());
        let key = key.ok_or_else(|| format!("no list: {:?}", head.first))?;
        let Some((body, length)) = head.body(&bytes[head.length..], kind != Kind::Append)? else {
            return Ok(None);
        };
        let last = head.field("connection") == Some("close");
        let offers = head.field("upgrade").is_some();
        let request = Request { id: head.number("x-id")?, key, kind, body, last, offers };
        (request, head.length + length)
    };
    bytes.drain(..length);
    Ok(Some(request))
}

/// Takes a whole answer from the front of what a client has read. `head`: the request was a HEAD.
///
/// # Errors
/// When it isn't one, or its body isn't what its side's server sends.
pub fn take_answer(bytes: &mut Vec<u8>, of_head: bool) -> Result<Option<Answer>, String> {
    let (answer, length) = {
        let Some(head) = Head::read(bytes)? else { return Ok(None) };
        if head.first != "HTTP/1.1 200 OK" {
            return Err(format!("no answer: {:?}", head.first));
        }
        let list = ListState { count: head.number("x-count")?, hash: head.number("x-hash")? };
        let side = Side::from_bit(head.number("x-side")? as u32);
        let close = head.field("connection") == Some("close");
        let answer = Answer { id: head.number("x-id")?, side, list, close };
        let Some((body, length)) = head.body(&bytes[head.length..], of_head)? else { return Ok(None) };
        if let Some(at) = (0..body.len()).find(|at| body[*at] != filler(answer.id, side, *at)) {
            return Err(format!("the body of the answer to {} is wrong at {at}", answer.id));
        }
        (answer, head.length + length)
    };
    bytes.drain(..length);
    Ok(Some(answer))
}

fn unchunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = bytes[at..].windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        let size = usize::from_str_radix(&line, 16).map_err(|_| format!("no chunk: {line:?}"))?;
        at += end + 2;
        if bytes.len() < at + size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&bytes[at..at + size]);
        if &bytes[at + size..at + size + 2] != b"\r\n" {
            return Err("a chunk without its end".into());
        }
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}
