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

/// How long it is from `then` to `now`, on a clock that wraps; 0 if `then` is the later one.
///
/// A packet reads the clock before it has the flow's lock, so that another CPU's later reading may be what it finds there.
/// It would seem to be most of a clock's turn ago.
#[inline(always)]
pub const fn since(now: u32, then: u32) -> u32 {
    if lt(now, then) { 0 } else { now.wrapping_sub(then) }
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

    #[test]
    fn what_another_cpu_read_later_is_not_long_ago() {
        assert_eq!((since(7, 5), since(2, u32::MAX), since(5, 5)), (2, 3, 0));
        assert_eq!((since(5, 6), since(u32::MAX, 0)), (0, 0));
    }
}
