//! TCP options (RFC 9293, 3.1; RFC 7323, 2; RFC 2018, 2 and 3).

/// Longest option block, in bytes.
pub const MAX: usize = 40;
/// Room that a walk needs: a power of two, so that an offset within it can be told by its bits.
pub const ROOM: usize = 64;

/// A walk over a header's options, one of them a step. What a handshake over two legs keeps, and where SACK's blocks are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// Where the next option begins.
    at: u32,
    /// Bytes of options.
    len: u32,
    /// Maximum segment size; 0: absent.
    pub mss: u16,
    /// Window scale; [`Options::NO_SCALE`]: absent. RFC 7323: what is above 14 counts as 14.
    pub scale: u8,
    /// 1 with SACK-permitted.
    pub permits_sack: u8,
    /// Where the SACK option begins.
    pub sack_at: u8,
    /// Blocks that it has, 1 to 4; 0: there is no such option.
    pub blocks: u8,
    /// 0 if the options contradict their own lengths, or SACK comes twice.
    pub valid: u8,
    /// Zero.
    pub pad: u8,
}

impl Options {
    /// No window scale option.
    pub const NO_SCALE: u8 = 0xff;

    /// Begins with `len` bytes of options, at most [`MAX`].
    #[inline(always)]
    pub fn begin(&mut self, len: u32) {
        *self = Options { len, scale: Options::NO_SCALE, valid: 1, ..Options::default() };
    }

    /// Reads the next option. False: that was all.
    #[inline(always)]
    pub fn step(&mut self, block: &[u8; ROOM]) -> bool {
        let at = self.at;
        if at >= self.len || at >= MAX as u32 {
            return false;
        }
        let byte = |ahead: u32| block[(at + ahead) as usize & (ROOM - 1)];
        let kind = byte(0);
        if kind <= 1 {
            self.at = at + 1;
            return kind == 1;
        }
        let size = u32::from(byte(1));
        if size < 2 || at + size > self.len {
            self.valid = 0;
            return false;
        }
        match (kind, size) {
            (2, 4) => self.mss = u16::from_be_bytes([byte(2), byte(3)]),
            (3, 3) => self.scale = if byte(2) > 14 { 14 } else { byte(2) },
            (4, 2) => self.permits_sack = 1,
            (5, 10 | 18 | 26 | 34) => {
                self.valid &= (self.blocks == 0) as u8;
                self.sack_at = at as u8;
                self.blocks = (size >> 3) as u8;
            }
            _ => {}
        }
        self.at = at + size;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Options {
        let mut block = [0; ROOM];
        block[..bytes.len()].copy_from_slice(bytes);
        let mut options = Options::default();
        options.begin(bytes.len() as u32);
        while options.step(&block) {}
        options
    }

    #[test]
    fn a_linux_syn() {
        let syn = read(&[2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]);
        assert_eq!((syn.mss, syn.scale, syn.permits_sack, syn.valid), (1_460, 7, 1, 1));
        assert_eq!(syn.blocks, 0);
    }

    #[test]
    fn truncated_and_zero_lengths_are_refused() {
        assert_eq!(read(&[2, 4, 5]).valid, 0);
        assert_eq!(read(&[8, 0, 1, 1]).valid, 0);
        assert_eq!(read(&[1, 1, 1, 2]).valid, 0);
        assert_eq!(read(&[3, 3, 200, 0]).scale, 14);
        assert_eq!(read(&[0, 2, 4]).valid, 1);
        let none = read(&[]);
        assert_eq!((none.mss, none.scale, none.permits_sack, none.valid), (0, Options::NO_SCALE, 0, 1));
    }

    #[test]
    fn blocks_are_found_where_they_are() {
        let mut bytes = [1_u8; 36];
        (bytes[2], bytes[3]) = (5, 34);
        let found = read(&bytes);
        assert_eq!((found.sack_at, found.blocks, found.valid), (2, 4, 1));
        (bytes[2], bytes[3]) = (5, 18);
        let found = read(&bytes);
        assert_eq!((found.sack_at, found.blocks, found.valid), (2, 2, 1));
        // Neither half a block nor none is one, and a second option hides the first.
        (bytes[2], bytes[3]) = (5, 12);
        assert_eq!((read(&bytes).blocks, read(&bytes).valid), (0, 1));
        assert_eq!((read(&[5, 2, 1, 1]).blocks, read(&[5, 2, 1, 1]).valid), (0, 1));
        (bytes[2], bytes[3], bytes[20], bytes[21]) = (5, 10, 5, 10);
        assert_eq!(read(&bytes).valid, 0);
    }
}
