//! One's complement sums of the Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// Folds a sum of 16-bit words to 16 bits.
#[inline(always)]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The sum of a 32-bit word as it lies in memory: its halves needn't be added before the sum is folded (RFC 1071, 2 (B)).
#[inline(always)]
pub const fn word(x: u32) -> u64 {
    x as u64
}

/// What `from` becoming `to` adds to a sum. Add it to a running difference.
#[inline(always)]
pub const fn diff32(from: u32, to: u32) -> u64 {
    word(!from) + word(to)
}

/// The same for a 16-bit word.
#[inline(always)]
pub const fn diff16(from: u16, to: u16) -> u64 {
    (!from) as u64 + to as u64
}

/// A checksum field after `diff` was added to what it sums (RFC 1624, equation 3).
#[inline(always)]
pub const fn update(field: u16, diff: u64) -> u16 {
    !fold(!field as u64 + diff)
}

/// The sum of a body to which a piece is appended whose own sum is `piece`; `odd`: behind an odd number of bytes, where every
/// byte of the piece stands in the other half of its word (RFC 1071, 2).
///
/// However a body is cut, its sum is the same.
#[inline(always)]
pub const fn append(sum: u16, piece: u16, odd: bool) -> u16 {
    let shift = (odd as u32) << 3;
    // Swapping the bytes of a word is rotating it by eight bits.
    fold(sum as u64 + piece.rotate_left(shift) as u64)
}

/// What is left of a sum without a piece of what it sums, as in [`append`].
#[inline(always)]
pub const fn without(sum: u16, piece: u16, odd: bool) -> u16 {
    append(sum, !piece, odd)
}

/// A sum as it is compared: there are two ways to write zero.
#[inline(always)]
pub const fn digest(sum: u16) -> u16 {
    if sum == 0xffff { 0 } else { sum }
}

/// The checksum of `bytes`, for host tests and for frames made from nothing. A lone last byte is padded.
pub fn of(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// The sum of `bytes`.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0;
    for pair in bytes.chunks(2) {
        let low = pair.first().copied().unwrap_or(0);
        let high = pair.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_ne_bytes([low, high]));
    }
    fold(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_equals_summing_anew() {
        let mut bytes: [u8; 40] = core::array::from_fn(|i| (i * 37 + 11) as u8);
        let field = of(&bytes);
        let from = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let to = 0xdead_beef_u32;
        bytes[4..8].copy_from_slice(&to.to_ne_bytes());
        assert_eq!(update(field, diff32(from, to)), of(&bytes));
    }

    #[test]
    fn a_sum_is_put_together_and_taken_apart_at_any_place() {
        let bytes: [u8; 41] = core::array::from_fn(|i| (i * 73 + 5) as u8);
        for cut in 0..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            let whole = append(sum(head), sum(tail), cut % 2 == 1);
            assert_eq!(digest(whole), digest(sum(&bytes)), "at {cut}");
            assert_eq!(digest(without(whole, sum(tail), cut % 2 == 1)), digest(sum(head)), "at {cut}");
        }
    }
}
