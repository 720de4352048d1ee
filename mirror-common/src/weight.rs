//! The weighted choice of who answers a read.

/// A share in basis points: 10,000 is all.
pub const ALL: u32 = 10_000;

/// A 64-bit finaliser (MurmurHash3's `fmix64`): every input bit reaches every output bit.
#[inline(always)]
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Whether the one that `key` stands for (a request of a flow, or a client) falls into a share of `weight` basis points.
///
/// The same key stays inside as the weight grows, so that a sticky client moves at most once while a share is raised.
#[inline(always)]
pub const fn chosen(key: u64, weight: u32) -> bool {
    let point = ((mix(key) >> 32) * ALL as u64) >> 32;
    (point as u32) < weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_the_weight() {
        for weight in [0, 1, 2_500, 5_000, 9_999, ALL] {
            let n = 200_000_u64;
            let hits = (0..n).filter(|&k| chosen(k, weight)).count() as f64;
            let share = hits / n as f64 * 1e4;
            assert!((share - f64::from(weight)).abs() < 50.0, "{weight}: {share}");
        }
    }

    #[test]
    fn a_client_moves_at_most_once_while_the_share_grows() {
        for key in 0..1_000 {
            let first = (0..=ALL).find(|&w| chosen(key, w)).unwrap();
            assert!((first..=ALL).all(|w| chosen(key, w)));
        }
    }
}
