//! Sequence numbers compare modulo 2^32 (RFC 9293, 3.4).

/// `a < b`.
#[inline(always)]
pub const fn lt(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// `a <= b`.
#[inline(always)]
pub const fn le(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) <= 0
}

/// The later of two.
#[inline(always)]
pub const fn max(a: u32, b: u32) -> u32 {
    if lt(a, b) { b } else { a }
}

/// The earlier of two.
#[inline(always)]
pub const fn min(a: u32, b: u32) -> u32 {
    if lt(a, b) { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_over_the_wrap() {
        assert!(lt(u32::MAX, 0) && lt(u32::MAX - 5, 3) && !lt(3, u32::MAX));
        assert!(le(7, 7) && !lt(7, 7));
        assert_eq!(max(u32::MAX, 1), 1);
        assert_eq!(min(u32::MAX, 1), u32::MAX);
    }
}
