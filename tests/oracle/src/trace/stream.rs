//! One direction of a connection, put together from its segments.

/// Bytes at most: a trace is looked at in memory.
const MOST: usize = 256 << 20;

/// The bytes of one direction, from its first number on.
#[derive(Debug, Default, Clone)]
pub(super) struct Stream {
    bytes: Vec<u8>,
    known: Vec<bool>,
}

impl Stream {
    /// Takes a segment in; says whether some of it had come before.
    ///
    /// # Errors
    /// The position of the first byte that came before with another content, or beyond the limit.
    pub(super) fn put(&mut self, at: u32, payload: &[u8]) -> Result<bool, usize> {
        let at = at as usize;
        let end = at + payload.len();
        if end > MOST {
            return Err(at);
        }
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
            self.known.resize(end, false);
        }
        let mut again = false;
        for (i, byte) in payload.iter().enumerate() {
            let place = at + i;
            if self.known[place] {
                again = true;
                if self.bytes[place] != *byte {
                    return Err(place);
                }
            }
            self.bytes[place] = *byte;
            self.known[place] = true;
        }
        Ok(again)
    }

    /// What has come without a hole.
    pub(super) fn whole(&self) -> &[u8] {
        let end = self.known.iter().position(|known| !known).unwrap_or(self.known.len());
        &self.bytes[..end]
    }
}

/// The first place of `text`.
pub(super) fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}
