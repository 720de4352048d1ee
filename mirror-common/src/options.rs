//! TCP options of a SYN (RFC 9293, 3.1; RFC 7323, 2).

/// Longest option block, in bytes.
pub const MAX: usize = 40;

/// The two options that a handshake over two legs keeps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SynOptions {
    /// Maximum segment size; 0: absent.
    pub mss: u16,
    /// Window scale; [`SynOptions::NO_SCALE`]: absent. RFC 7323: what is above 14 counts as 14.
    pub scale: u8,
    /// 0 if the block contradicts its own lengths.
    pub valid: u8,
}

impl SynOptions {
    /// No window scale option.
    pub const NO_SCALE: u8 = 0xff;
}

/// Reads an option block of `len` bytes (at most [`MAX`]; what lies behind is ignored).
#[inline(always)]
pub fn scan(block: &[u8; MAX], len: u32) -> SynOptions {
    let mut found = SynOptions { mss: 0, scale: SynOptions::NO_SCALE, valid: 1 };
    let mut next = 0_u32;
    for i in 0..MAX {
        let at = i as u32;
        if at >= len {
            break;
        }
        if at < next {
            continue;
        }
        let kind = block[i];
        match kind {
            0 => break,
            1 => next = at + 1,
            _ => {
                let size = u32::from(if i + 1 < MAX { block[i + 1] } else { 0 });
                if size < 2 || at + size > len {
                    found.valid = 0;
                    break;
                }
                if kind == 2 && size == 4 && i + 3 < MAX {
                    found.mss = u16::from_be_bytes([block[i + 2], block[i + 3]]);
                }
                if kind == 3 && size == 3 && i + 2 < MAX {
                    let scale = block[i + 2];
                    found.scale = if scale > 14 { 14 } else { scale };
                }
                next = at + size;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> SynOptions {
        let mut block = [0; MAX];
        block[..bytes.len()].copy_from_slice(bytes);
        scan(&block, bytes.len() as u32)
    }

    #[test]
    fn a_linux_syn() {
        let syn = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(read(&syn), SynOptions { mss: 1_460, scale: 7, valid: 1 });
    }

    #[test]
    fn truncated_and_zero_lengths_are_refused() {
        assert_eq!(read(&[2, 4, 5]).valid, 0);
        assert_eq!(read(&[8, 0, 1, 1]).valid, 0);
        assert_eq!(read(&[1, 1, 1, 2]).valid, 0);
        assert_eq!(read(&[3, 3, 200, 0]).scale, 14);
        assert_eq!(read(&[0, 2, 4]).valid, 1);
        assert_eq!(read(&[]), SynOptions { mss: 0, scale: SynOptions::NO_SCALE, valid: 1 });
    }
}
