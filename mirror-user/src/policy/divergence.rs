//! How differences of the two sides' answers are taken: the policy's section `[divergence]`.

use mirror_common::{abi::Service, protocol::http1::Target};
use serde::Deserialize;

/// What is done with differences of answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Divergence {
    /// Segments of the path by which turns are counted together, 1 to 8.
    pub segments: u32,
    /// Method and path (64 bytes at most, no query) are kept to name what differs; without it prefixes have numbers alone.
    pub capture: bool,
    /// Prefixes, as `"GET /now"`, whose bodies differ by nature. A difference of status or length counts all the same.
    pub noisy: Vec<String>,
}

impl Default for Divergence {
    fn default() -> Self {
        Self { segments: 2, capture: false, noisy: Vec::new() }
    }
}

impl Divergence {
    /// Flags of the service that say so.
    pub fn flags(&self) -> u32 {
        Service::with_segments(self.segments) | if self.capture { Service::CAPTURES } else { 0 }
    }

    /// The noisy prefixes, as the datapath hashes them.
    ///
    /// # Errors
    /// What doesn't hold.
    pub fn noisy(&self) -> Result<Vec<u32>, String> {
        if !(1..=8).contains(&self.segments) {
            return Err(format!("`segments` is {}: 1 to 8", self.segments));
        }
        self.noisy.iter().map(|text| self.hash(text)).collect()
    }

    fn hash(&self, text: &str) -> Result<u32, String> {
        let target = Target::of(format!("{text} HTTP/1.1\r\n").as_bytes(), self.segments);
        let plain = text.split_once(' ').is_some_and(|(method, path)| {
            !method.is_empty() && path.starts_with('/') && !path.contains([' ', '?'])
        });
        if plain && target.prefix_bytes as usize == text.len() {
            return Ok(target.prefix);
        }
        Err(format!(
            "`noisy` has {text:?}: a method, a blank and a path of {} segments at most, as \"GET /now\"",
            self.segments
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noisy_prefix_is_hashed_as_the_datapath_hashes_requests() {
        let noisy = |text: &str| Divergence { noisy: vec![text.into()], ..Divergence::default() }.noisy();
        let seen = Target::of(b"GET /api/now?zone=utc HTTP/1.1\r\nhost: a\r\n\r\n", 2);
        assert_eq!(noisy("GET /api/now"), Ok(vec![seen.prefix]));
        for bad in ["", "/now", "GET now", "GET /a/b/c", "GET /a?b", "GET  /a"] {
            assert!(noisy(bad).is_err(), "{bad:?}");
        }
    }
}
