//! What a request asks for, as two numbers: a hash of its method and whole target, and one of their prefix.
//!
//! Turns of one prefix are counted together; answers to one target can be held against each other. No text is kept.

use super::swar::{equal, first};
use crate::weight::mix;

/// Bytes of a request that are looked at: of a longer target the prefix alone is known.
pub const TARGET_BYTES: u32 = 256;

/// Bytes of method and prefix at most.
pub const PREFIX_BYTES: u32 = 64;

/// The reading of a request line, eight bytes at a time: [`Target::begin`], then [`Target::step`] as long as it says so.
///
/// A prefix ends where the path's segments end that are asked for, before its query, or at [`PREFIX_BYTES`].
///
/// ```
/// use mirror_common::protocol::http1::Target;
///
/// let of = |request: &[u8]| Target::of(request, 2);
/// let (one, other) = (of(b"GET /api/users/1?a HTTP/1.1\r\n"), of(b"GET /api/users/2 HTTP/1.1\r\n"));
/// assert_eq!((one.prefix, one.prefix_bytes), (other.prefix, "GET /api/users".len() as u32));
/// assert_ne!(one.whole, other.whole);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Target {
    hash: u64,
    at: u32,
    spaces: u32,
    slashes: u32,
    segments: u32,
    /// Hash of method and target; 0: not known.
    pub whole: u32,
    /// Hash of method and prefix; 0: not known.
    pub prefix: u32,
    /// Bytes of method, space and prefix.
    pub prefix_bytes: u32,
    /// Zero.
    pub pad: u32,
}

impl Target {
    /// Before the first byte of a request. `segments`: of the path, that a prefix has.
    #[inline(always)]
    pub fn begin(&mut self, segments: u32) {
        self.hash = 0;
        self.at = 0;
        self.spaces = 0;
        self.slashes = 0;
        self.segments = segments;
        self.whole = 0;
        self.prefix = 0;
        self.prefix_bytes = 0;
    }

    /// Bytes that were read.
    #[inline(always)]
    #[must_use]
    pub const fn at(&self) -> u32 {
        self.at
    }

    /// Takes the next eight bytes, as they lie in memory, of which the first `have` are the request's. Returns whether there
    /// is more to read.
    #[inline(always)]
    pub fn step(&mut self, word: u64, have: u32) -> bool {
        let word = u64::from_le(word);
        let mut ends = equal(word, b' ') | equal(word, b'/') | equal(word, b'?');
        for _ in 0..8 {
            if ends == 0 || self.whole != 0 {
                break;
            }
            let place = first(ends);
            ends &= ends.wrapping_sub(1);
            if place < have {
                self.end(word, place);
            }
        }
        self.hash = mix(self.hash ^ word).wrapping_add(1);
        self.at += 8;
        if self.at >= PREFIX_BYTES && self.prefix == 0 {
            self.prefix = not_zero(self.hash);
            self.prefix_bytes = PREFIX_BYTES;
        }
        self.whole == 0 && have >= 8 && self.at < TARGET_BYTES
    }

    /// A blank, a slash or a question mark.
    #[inline(always)]
    fn end(&mut self, word: u64, place: u32) {
        let byte = (word >> (place * 8)) as u8;
        if byte == b' ' {
            self.spaces += 1;
        } else if byte == b'/' && self.spaces == 1 {
            self.slashes += 1;
        }
        let before = word & !(u64::MAX << (place * 8));
        let hash = not_zero(mix(self.hash ^ before).wrapping_add(u64::from(place)));
        let closes = (byte == b'?' && self.spaces == 1) || self.spaces > 1 || self.slashes > self.segments;
        if closes && self.prefix == 0 {
            self.prefix = hash;
            self.prefix_bytes = self.at + place;
        }
        if self.spaces > 1 {
            self.whole = hash;
        }
    }

    /// The whole reading, on the host.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn of(request: &[u8], segments: u32) -> Self {
        let mut target = Self::default();
        target.begin(segments);
        for bytes in request.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(bytes) {
                *to = *from;
            }
            if !target.step(u64::from_ne_bytes(word), bytes.len() as u32) {
                break;
            }
        }
        target
    }
}

/// 0 means that nothing is known.
#[inline(always)]
const fn not_zero(hash: u64) -> u32 {
    let low = hash as u32;
    if low == 0 { 1 } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix_of(request: &str, segments: u32) -> &str {
        &request[..Target::of(request.as_bytes(), segments).prefix_bytes as usize]
    }

    #[test]
    fn a_prefix_ends_behind_its_segments_and_before_the_query() {
        assert_eq!(prefix_of("GET /a/b/c HTTP/1.1\r\n", 1), "GET /a");
        assert_eq!(prefix_of("GET /a/b/c HTTP/1.1\r\n", 2), "GET /a/b");
        assert_eq!(prefix_of("GET /a?x=/b HTTP/1.1\r\n", 2), "GET /a");
        assert_eq!(prefix_of("DELETE / HTTP/1.1\r\n", 2), "DELETE /");
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(300));
        let target = Target::of(long.as_bytes(), 2);
        assert_eq!((target.prefix_bytes, target.whole), (PREFIX_BYTES, 0));
        assert_eq!(Target::of(b"GET /cut", 2).whole, 0, "its end hasn't come");
    }

    #[test]
    fn equal_prefixes_hash_alike_wherever_they_end_in_a_word() {
        for pad in 0..20 {
            let path = format!("/{}", "p".repeat(pad));
            let of = |rest: &str| Target::of(format!("GET {path}{rest} HTTP/1.1\r\n").as_bytes(), 1);
            assert_eq!(of("/1").prefix, of("").prefix, "{path}");
            assert_eq!(of("/1").prefix, of("?q").prefix, "{path}");
            assert_ne!(of("/1").whole, of("/2").whole, "{path}");
            assert_ne!(of("q").prefix, of("").prefix, "{path}");
        }
        assert_ne!(Target::of(b"GET /a HTTP/1.1", 1).prefix, Target::of(b"PUT /a HTTP/1.1", 1).prefix);
    }
}
