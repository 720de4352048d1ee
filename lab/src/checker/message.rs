//! Requests as bytes, and answers from bytes. Pure.

use std::str::FromStr;

use super::Reason;

/// How a request is cut into segments: each piece is one `write` with `TCP_NODELAY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segments {
    /// Head and body together.
    Whole,
    /// The head, then the body.
    HeadBody,
    /// Pieces of so many bytes.
    Every(usize),
}

impl FromStr for Segments {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("every=").map(str::parse)) {
            ("whole", _) => Ok(Self::Whole),
            ("head-body", _) => Ok(Self::HeadBody),
            (_, Some(Ok(bytes))) if bytes > 0 => Ok(Self::Every(bytes)),
            _ => Err(format!("{text:?} is none of whole, head-body, every=BYTES")),
        }
    }
}

/// Appends a request to `out`; returns where its body begins.
pub(super) fn request(out: &mut Vec<u8>, method: &str, path: &str, id: &str, body: &str) -> usize {
    let mut put = |parts: &[&str]| parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    put(&[method, " ", path, " HTTP/1.1\r\nHost: lists\r\nX-Request-Id: ", id, "\r\n"]);
    if !body.is_empty() {
        put(&["Content-Length: ", &body.len().to_string(), "\r\n"]);
    }
    put(&["\r\n"]);
    let begin = out.len();
    out.extend_from_slice(body.as_bytes());
    begin
}

/// An answer's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) server: &'a str,
    pub(super) request_id: Option<&'a str>,
    pub(super) list_length: Option<usize>,
    pub(super) body: &'a [u8],
    /// Bytes of head and body.
    pub(super) length: usize,
}

/// The answer at the beginning of `bytes`; `None` if it isn't whole yet.
pub(super) fn answer(bytes: &[u8]) -> Result<Option<Answer<'_>>, Reason> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    let begin = match response.parse(bytes) {
        Ok(httparse::Status::Complete(begin)) => begin,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Reason::Malformed),
    };
    let field = |name: &str| {
        let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    // The application always says a length when it is asked for lists; a checker needs no more.
    let said =
        field("content-length").and_then(|value| value.parse::<usize>().ok()).ok_or(Reason::Malformed)?;
    let length = begin + said;
    if bytes.len() < length {
        return Ok(None);
    }
    Ok(Some(Answer {
        status: response.code.unwrap_or(0),
        server: field("x-server").unwrap_or("-"),
        request_id: field("x-request-id"),
        list_length: field("x-list-length").and_then(|value| value.parse().ok()),
        body: &bytes[begin..length],
        length,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cut_anywhere_is_not_whole() {
        let bytes = b"HTTP/1.1 200 OK\r\nX-Server: shadow\r\nX-Request-Id: a-1\r\nX-List-Length: 9\r\n\
            Content-Length: 4\r\n\r\na\nb\nHTTP/1.1 ";
        let whole = answer(bytes).unwrap().unwrap();
        assert_eq!((whole.status, whole.server, whole.body), (200, "shadow", &b"a\nb\n"[..]));
        assert_eq!((whole.request_id, whole.list_length), (Some("a-1"), Some(9)));
        assert_eq!(whole.length, bytes.len() - "HTTP/1.1 ".len());
        for cut in 0..whole.length {
            assert_eq!(answer(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(answer(b"\0\0\0\0"), Err(Reason::Malformed));
    }

    #[test]
    fn the_server_understands_the_requests() {
        let mut bytes = Vec::new();
        let begin = request(&mut bytes, "POST", "/lists/r.c1", "r.c1-7", "r.c1-7");
        let (head, length) = crate::lists::parse_head(&bytes).unwrap().unwrap();
        assert_eq!(
            (head.path.as_str(), head.request_id.as_deref(), length),
            ("/lists/r.c1", Some("r.c1-7"), begin)
        );
        assert_eq!(&bytes[begin..], b"r.c1-7");
    }
}
