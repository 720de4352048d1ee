//! Whether a write was owed when a side fell out of sync: read from the bytes that went to its servers and came back.

use std::collections::BTreeSet;

use super::http::take_request;

const MARK: &[u8] = b"HTTP/1.1\r\nhost: lists\r\nx-id: ";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nx-id: ";

fn find(bytes: &[u8], what: &[u8]) -> Vec<usize> {
    let hits = bytes.windows(what.len()).enumerate().filter(|(_, window)| *window == what);
    hits.map(|(at, _)| at + what.len()).collect()
}

fn number(bytes: &[u8]) -> Option<u64> {
    let end = bytes.iter().position(|byte| *byte == b'\r')?;
    std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()
}

/// The appends whose heads are in a stream of requests; `None` while its last head isn't complete: what it is isn't known.
pub(super) fn appends(bytes: &[u8]) -> Option<BTreeSet<u64>> {
    let mut ids = BTreeSet::new();
    let mut seen = 0;
    for at in find(bytes, MARK) {
        let line =
            bytes[seen..at - MARK.len()].iter().rposition(|byte| *byte == b' ').map(|_| &bytes[seen..at]);
        // The method is the line's first letter: GET, HEAD, or POST and PUT.
        let begin =
            line.and_then(|line| line.windows(2).rposition(|two| two == b" /")).map(|space| seen + space);
        let writes = begin.is_some_and(|space| {
            matches!(bytes[..space].last(), Some(b'T'))
                && space >= 3
                && (bytes[..space].ends_with(b"PUT") || bytes[..space].ends_with(b"POST"))
        });
        if let Some(id) = number(&bytes[at..])
            && writes
        {
            ids.insert(id);
        }
        seen = at;
    }
    let last = find(bytes, b"host: lists\r\n").last().copied().unwrap_or(0);
    let whole = bytes[last..].windows(4).any(|four| four == b"\r\n\r\n");
    whole.then_some(ids)
}

/// The requests that a stream has whole.
pub(super) fn whole(mut bytes: Vec<u8>) -> Vec<u64> {
    let mut ids = Vec::new();
    while let Ok(Some(request)) = take_request(&mut bytes) {
        ids.push(request.id);
    }
    ids
}

/// The requests that a stream of answers answers, chunked ones to their end.
pub(super) fn answered(bytes: &[u8]) -> BTreeSet<u64> {
    let heads = find(bytes, ANSWER);
    let mut ids = BTreeSet::new();
    for (n, at) in heads.iter().enumerate() {
        let end = heads.get(n + 1).map_or(bytes.len(), |next| next - ANSWER.len());
        let answer = &bytes[*at..end];
        let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let chunked = find(&answer[..head], b"transfer-encoding").len() == 1;
        let whole = !chunked
            || answer.ends_with(b"\r\n0\r\n\r\n")
            || answer[head..].starts_with(b"\r\n\r\n0\r\n\r\n");
        if whole && let Some(id) = number(answer) {
            ids.insert(id);
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_and_answers_are_found() {
        let head =
            |method: &str, id: u32| format!("{method} /3 HTTP/1.1\r\nhost: lists\r\nx-id: {id}\r\n\r\n");
        let stream = [head("GET", 1), head("PUT", 2), head("POST", 3), head("HEAD", 4)].concat();
        assert_eq!(appends(stream.as_bytes()), Some(BTreeSet::from([2, 3])));
        assert_eq!(appends(&stream.as_bytes()[..stream.len() - 2]), None);
        let answers = "HTTP/1.1 200 OK\r\nx-id: 7\r\n\r\nHTTP/1.1 200 OK\r\nx-id: 8\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab";
        assert_eq!(answered(answers.as_bytes()), BTreeSet::from([7]));
    }
}
