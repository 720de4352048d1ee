//! Eight bytes at a time: which of a word's bytes change nothing.

use super::table::skip;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x80 * ONES;
const LOWS: u64 = 0x7f * ONES;

/// The high bit of each byte of `bytes` that may not be skipped in the way `how`.
///
/// The sums are of seven bits a byte, so that none carries into the next.
#[inline(always)]
pub(super) const fn stops(bytes: u64, how: u8) -> u64 {
    let low = bytes & LOWS;
    // Up to 0x1f the sum with 0x60 stays below 0x80; 0x7f is the one that reaches it by one more.
    let stops = match how {
        skip::TEXT => (!(low + 0x60 * ONES) | (low + ONES)) & !bytes,
        skip::VISIBLE => !(low + 0x5f * ONES) | (low + ONES) | bytes,
        skip::NAME => !(letters(bytes) | equal(bytes, b'-')),
        _ => HIGHS,
    };
    stops & HIGHS
}

/// The high bit of each byte that equals `wanted`.
#[inline(always)]
pub(super) const fn equal(bytes: u64, wanted: u8) -> u64 {
    let other = bytes ^ (wanted as u64 * ONES);
    !(((other & LOWS) + LOWS) | other) & HIGHS
}

/// The high bit of each byte that is a letter.
#[inline(always)]
const fn letters(bytes: u64) -> u64 {
    let small = (bytes & LOWS) | (0x20 * ONES);
    let from_a = small + (0x80 - b'a' as u64) * ONES;
    let past_z = small + (0x7f - b'z' as u64) * ONES;
    from_a & !past_z & !bytes & HIGHS
}

/// The number of the lowest byte whose high bit is set; one is. (The target has no instruction for it.)
#[inline(always)]
pub(super) const fn first(stops: u64) -> u32 {
    let lowest = (stops & stops.wrapping_neg()) >> 7;
    (lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_skip(byte: u8, how: u8) -> bool {
        match how {
            skip::TEXT => byte >= 0x20 && byte != 0x7f,
            skip::VISIBLE => (0x21..0x7f).contains(&byte),
            skip::NAME => byte.is_ascii_alphabetic() || byte == b'-',
            _ => false,
        }
    }

    /// Every pair of neighbours at every place: a carry or a borrow out of a byte would show.
    #[test]
    fn stops_are_what_byte_by_byte_gives() {
        for how in [skip::NOTHING, skip::TEXT, skip::VISIBLE, skip::NAME] {
            for pair in 0..=u16::MAX {
                for place in 0..7 {
                    let mut bytes = [b'x'; 8];
                    bytes[place..place + 2].copy_from_slice(&pair.to_le_bytes());
                    let expected = bytes.map(|byte| if may_skip(byte, how) { 0 } else { 0x80 });
                    let got = stops(u64::from_le_bytes(bytes), how);
                    assert_eq!(got.to_le_bytes(), expected, "{bytes:x?} {how}");
                    if let Some(at) = expected.iter().position(|&stop| stop != 0) {
                        assert_eq!(first(got) as usize, at, "{bytes:x?} {how}");
                    }
                }
            }
        }
    }
}
