//! Latency buckets: HDR-like, 16 to an octave, from 1 µs to 60 s and more.

/// Sub-buckets of an octave, as a power of two: the relative error is at most 1/16.
const SUB_BITS: u32 = 4;

/// Number of buckets.
pub const BUCKETS: usize = 512;

/// The bucket of a latency in microseconds. The last bucket takes all that is longer (over half an hour).
#[inline(always)]
pub const fn bucket(us: u32) -> u32 {
    if us < (2 << SUB_BITS) {
        return us;
    }
    let octave = 31 - us.leading_zeros();
    let sub = (us >> (octave - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    let index = ((octave - SUB_BITS + 1) << SUB_BITS) + sub;
    if index < BUCKETS as u32 { index } else { BUCKETS as u32 - 1 }
}

/// Number of buckets of [`ratio`].
pub const RATIOS: usize = 256;

/// The bucket of the ratio of two latencies, in microseconds: 128 is one to one, each step above means that the shadow took
/// a sixteenth of an octave longer.
#[inline(always)]
pub const fn ratio(primary: u32, shadow: u32) -> u32 {
    let steps = bucket(shadow).wrapping_sub(bucket(primary)).wrapping_add(128);
    if (steps as i32) < 0 {
        0
    } else if steps > 255 {
        255
    } else {
        steps
    }
}

/// The smallest latency, in microseconds, that falls into a bucket.
pub const fn lowest(bucket: u32) -> u64 {
    if bucket < (2 << SUB_BITS) {
        return bucket as u64;
    }
    let octave = (bucket >> SUB_BITS) + SUB_BITS - 1;
    let sub = (bucket & ((1 << SUB_BITS) - 1)) as u64;
    (1_u64 << octave) + (sub << (octave - SUB_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_begins_where_it_says_and_none_is_wider_than_a_sixteenth() {
        for b in 0..BUCKETS as u32 - 64 {
            let low = lowest(b);
            if low > u64::from(u32::MAX) {
                break;
            }
            assert_eq!(bucket(low as u32), b);
            let width = lowest(b + 1) - low;
            assert!(width <= (low / 16).max(1), "bucket {b}: {low} + {width}");
        }
        assert!(bucket(60_000_000) < BUCKETS as u32 - 1);
        assert!(bucket(u32::MAX) < BUCKETS as u32);
    }

    #[test]
    fn a_ratio_tells_who_was_slower_and_by_how_much() {
        assert_eq!(ratio(700, 700), 128);
        assert_eq!(ratio(1_000, 2_000), 144, "an octave");
        assert_eq!(ratio(2_000, 1_000), 112);
        assert_eq!(ratio(1, u32::MAX), 255);
        assert_eq!(ratio(u32::MAX, 1), 0);
    }
}
