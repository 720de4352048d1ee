//! As much of HTTP/1.1 (RFC 9112) as the application speaks. Pure: bytes in, bytes out.

use thiserror::Error;

/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// The most header fields.
const MOST_FIELDS: usize = 64;

/// Why a request can't be understood. Its connection can't be used any more: nobody knows where the next one begins.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HttpError {
    /// Not HTTP.
    #[error("not an HTTP/1.1 request: {0}")]
    Syntax(#[from] httparse::Error),
    /// A head that goes on and on.
    #[error("a head of more than {LONGEST_HEAD} bytes")]
    HeadTooLong,
    /// Both ways to give a length, two lengths, or a length that isn't a number (RFC 9112, 6.3).
    #[error("no clear length of the body")]
    Length,
    /// A chunk that isn't one.
    #[error("a bad chunk")]
    Chunk,
}

/// The methods that the application knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Other,
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What is to be done.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
    /// How the body ends.
    pub body: BodyReader,
    /// Whether the client waits for a `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the connection shall stay open after the answer.
    pub keep_alive: bool,
}

/// Reads a head at the beginning of `bytes`: it and its length, or `None` if it isn't whole yet.
///
/// # Errors
/// [`HttpError`]
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, HttpError> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = request.parse(bytes)? else {
        return if bytes.len() > LONGEST_HEAD { Err(HttpError::HeadTooLong) } else { Ok(None) };
    };
    let target = request.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut head = Head {
        method: match request.method.unwrap_or("") {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            _ => Method::Other,
        },
        path: path.to_owned(),
        query: query.to_owned(),
        request_id: None,
        body: BodyReader::Length(0),
        expects_continue: false,
        keep_alive: request.version == Some(1),
    };
    let (mut content_length, mut chunked) = (None, false);
    for field in request.headers.iter() {
        let value = std::str::from_utf8(field.value).unwrap_or("").trim();
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let length: u64 = value.parse().map_err(|_| HttpError::Length)?;
            if content_length.replace(length).is_some_and(|other| other != length) {
                return Err(HttpError::Length);
            }
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(HttpError::Length);
            }
            chunked = true;
        } else if is("expect") {
            head.expects_continue = value.eq_ignore_ascii_case("100-continue");
        } else if is("connection") {
            for option in value.split(',').map(str::trim) {
                if option.eq_ignore_ascii_case("close") {
                    head.keep_alive = false;
                } else if option.eq_ignore_ascii_case("keep-alive") {
                    head.keep_alive = true;
                }
            }
        } else if is("x-request-id") {
            head.request_id = Some(value.to_owned());
        }
    }
    head.body = match (content_length, chunked) {
        (Some(_), true) => return Err(HttpError::Length),
        (Some(length), false) => BodyReader::Length(length),
        (None, true) => BodyReader::Chunked(Chunk::Size),
        (None, false) => BodyReader::Length(0),
    };
    Ok(Some((head, length)))
}

/// Where the reading of a body stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyReader {
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks (RFC 9112, 7.1).
    Chunked(Chunk),
}

/// Where the reading of a chunked body stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// Before a line with a size.
    Size,
    /// Inside a chunk: so many bytes to come.
    Data(u64),
    /// Behind a chunk's bytes, before its line end.
    End,
    /// Behind the last chunk: trailer fields, up to an empty line.
    Trailer,
    /// Behind everything.
    Done,
}

impl BodyReader {
    /// Whether the whole body has been read.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::Done))
    }

    /// Reads on: gives the body's bytes in `bytes` to `sink`, and returns how many bytes it took from the connection.
    ///
    /// # Errors
    /// [`HttpError::Chunk`]
    pub fn read(&mut self, bytes: &[u8], mut sink: impl FnMut(&[u8])) -> Result<usize, HttpError> {
        match self {
            Self::Length(left) => {
                let take = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                sink(&bytes[..take]);
                *left -= take as u64;
                Ok(take)
            }
            Self::Chunked(chunk) => {
                let mut taken = 0;
                while let Some(step) = chunk.step(&bytes[taken..], &mut sink)? {
                    taken += step;
                }
                Ok(taken)
            }
        }
    }
}

impl Chunk {
    /// One step; `None` if there is nothing to be done before more bytes come.
    fn step(&mut self, bytes: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<Option<usize>, HttpError> {
        let line = || -> Result<Option<&[u8]>, HttpError> {
            match bytes.windows(2).position(|pair| pair == b"\r\n") {
                Some(end) => Ok(Some(&bytes[..end])),
                None if bytes.len() > LONGEST_HEAD => Err(HttpError::Chunk),
                None => Ok(None),
            }
        };
        match *self {
            Self::Size => {
                let Some(line) = line()? else { return Ok(None) };
                let digits = line.split(|byte| *byte == b';').next().unwrap_or(line);
                let digits = std::str::from_utf8(digits).map_err(|_| HttpError::Chunk)?.trim();
                if digits.starts_with('+') {
                    return Err(HttpError::Chunk);
                }
                let size = u64::from_str_radix(digits, 16).map_err(|_| HttpError::Chunk)?;
                *self = if size == 0 { Self::Trailer } else { Self::Data(size) };
                Ok(Some(line.len() + 2))
            }
            Self::Data(left) => {
                let take = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                if take == 0 {
                    return Ok(None);
                }
                sink(&bytes[..take]);
                *self = if left == take as u64 { Self::End } else { Self::Data(left - take as u64) };
                Ok(Some(take))
            }
            Self::End => match bytes {
                [b'\r', b'\n', ..] => {
                    *self = Self::Size;
                    Ok(Some(2))
                }
                [] | [b'\r'] => Ok(None),
                _ => Err(HttpError::Chunk),
            },
            Self::Trailer => {
                let Some(line) = line()? else { return Ok(None) };
                if line.is_empty() {
                    *self = Self::Done;
                }
                Ok(Some(line.len() + 2))
            }
            Self::Done => Ok(None),
        }
    }
}

/// An answer, before it is bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For example `200 OK`.
    pub status: &'static str,
    /// The media type.
    pub content_type: &'static str,
    /// Further header lines, each with its line end.
    pub fields: String,
    /// The body.
    pub body: Vec<u8>,
    /// Send the body in chunks of about this many bytes instead of with a length.
    pub chunk: Option<usize>,
    /// So many bytes of a pattern follow the body; whoever sends the answer makes them as it goes.
    pub pattern: u64,
}

impl Answer {
    /// An answer of plain text.
    pub fn text(status: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            content_type: "text/plain",
            fields: String::new(),
            body: body.into(),
            chunk: None,
            pattern: 0,
        }
    }

    /// An answer in JSON.
    pub fn json(status: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { content_type: "application/json", ..Self::text(status, body) }
    }

    /// Adds a header field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        use std::fmt::Write as _;
        // Writing to a string can't fail.
        let _ = write!(self.fields, "{name}: {value}\r\n");
        self
    }

    /// Appends the bytes of the answer to `out`; `head_only` for an answer to HEAD.
    pub fn write_to(
        &self,
        out: &mut Vec<u8>,
        server: &str,
        request_id: Option<&str>,
        close: bool,
        head_only: bool,
    ) {
        let mut put = |parts: &[&str]| parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        put(&["HTTP/1.1 ", self.status, "\r\nServer: lists\r\nX-Server: ", server, "\r\n"]);
        if let Some(id) = request_id {
            put(&["X-Request-Id: ", id, "\r\n"]);
        }
        put(&[&self.fields, "Content-Type: ", self.content_type, "\r\n"]);
        if close {
            put(&["Connection: close\r\n"]);
        }
        match self.chunk {
            None => {
                let length = self.body.len() as u64 + self.pattern;
                put(&["Content-Length: ", &length.to_string(), "\r\n\r\n"]);
            }
            Some(_) => put(&["Transfer-Encoding: chunked\r\n\r\n"]),
        }
        if head_only {
            return;
        }
        match self.chunk {
            None => out.extend_from_slice(&self.body),
            Some(size) => {
                for chunk in self.body.chunks(size.max(1)) {
                    out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    out.extend_from_slice(chunk);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\n\r\n");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_cut_anywhere_is_not_whole() {
        let bytes =
            b"POST /lists/k?x=1 HTTP/1.1\r\nHost: a\r\nX-Request-Id: 7\r\nContent-Length: 3\r\n\r\nabc";
        let (head, length) = parse_head(bytes).unwrap().unwrap();
        assert_eq!(&bytes[length..], b"abc");
        assert_eq!((head.method, head.path.as_str(), head.query.as_str()), (Method::Post, "/lists/k", "x=1"));
        assert_eq!((head.request_id.as_deref(), head.body), (Some("7"), BodyReader::Length(3)));
        assert!(head.keep_alive && !head.expects_continue);
        for cut in 0..length {
            assert_eq!(parse_head(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_length_that_is_not_clear_is_refused() {
        for fields in [
            "Content-Length: 3\r\nContent-Length: 4",
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Content-Length: -1",
            "Content-Length: 3, 3",
            "Transfer-Encoding: gzip, chunked",
        ] {
            let bytes = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
            assert_eq!(parse_head(bytes.as_bytes()), Err(HttpError::Length), "{fields}");
        }
    }

    #[test]
    fn chunks_are_read_wherever_they_are_cut() {
        let bytes =
            b"4\r\nWiki\r\n6;name=value\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nA: b\r\n\r\nGET /";
        for step in 1..bytes.len() {
            let (mut body, mut reader) = (Vec::new(), BodyReader::Chunked(Chunk::Size));
            let (mut at, mut end) = (0, 0);
            while !reader.is_done() {
                end = (end + step).min(bytes.len());
                at += reader.read(&bytes[at..end], |piece| body.extend_from_slice(piece)).unwrap();
            }
            assert_eq!(body, b"Wikipedia in \r\n\r\nchunks.", "in steps of {step}");
            assert_eq!(&bytes[at..], b"GET /", "in steps of {step}");
        }
    }

    #[test]
    fn a_bad_chunk_is_refused() {
        for bytes in ["x\r\n", "4\r\nWikiped", "+4\r\nWiki\r\n"] {
            let mut reader = BodyReader::Chunked(Chunk::Size);
            assert_eq!(reader.read(bytes.as_bytes(), |_| ()), Err(HttpError::Chunk), "{bytes:?}");
        }
    }
}
