//! What the shadow may be worse by and still be as good: a longer way, slower machines, a few errors more.
//!
//! What is tested is then "the shadow's time less the allowance is stochastically no greater than the primary's", and "the
//! shadow's rate of errors is at most the primary's and the allowance". Both hold for every load and every rate.

use mirror_common::hist::{BUCKETS, RATIOS, bucket, lowest};

use super::{Histogram, JudgePolicy};

impl JudgePolicy {
    /// Microseconds that the shadow may take for what takes the primary so many.
    pub(super) fn allowed_us(&self, us: f64) -> f64 {
        us * self.latency_allowance_factor + self.latency_allowance_us
    }

    /// The primary's microseconds for which the shadow may take so many; less than 0 where it always may.
    pub(super) fn less_allowed_us(&self, us: f64) -> f64 {
        (us - self.latency_allowance_us) / self.latency_allowance_factor
    }

    /// Pairs in which the shadow took longer than is allowed, and those in which it took less.
    ///
    /// `ratios` has a count for each bucket of [`mirror_common::hist::ratio`]; `primary` the primary's latencies in the same
    /// turns. Which of them belong together isn't known: as many of the slower pairs as can be explained by the allowance
    /// are taken to be (the shortest of the primary's times may belong to the largest ratios), and as many ties and slower
    /// ones as could be faster are taken for faster. Where both sides are equal but for the allowance, a pair is therefore
    /// at most as likely counted as slower as it is as faster. Without any allowance it is the pairs' order, less the ties.
    pub fn order(&self, ratios: &[u64], primary: &Histogram) -> (u64, u64) {
        let tie = RATIOS / 2;
        let at = |k: usize| ratios.get(k).copied().unwrap_or(0);
        let steps_up = |from: usize, us: f64| {
            (bucket(us.min(f64::from(u32::MAX)) as u32) as usize).saturating_sub(from).min(tie)
        };
        // By bucket of the primary's: the most steps up that are allowed, and the number of steps below which it is faster.
        let edges = |k: usize| (lowest(k as u32) as f64, lowest(k as u32 + 1) as f64 - 1.0);
        let allowed = |k: usize| steps_up(k, self.allowed_us(edges(k).1)) + 1;
        let faster = |k: usize| {
            let us = self.allowed_us(edges(k).0);
            if us > edges(k).0 { steps_up(k, us) + 1 } else { 0 }
        };
        let explained = |below: &dyn Fn(usize) -> usize, first: usize| {
            // Turns of the primary whose pair may lie up to so many steps, from the largest ratio down.
            let mut reach = vec![0_u64; tie + 2];
            for (k, &count) in primary.buckets().iter().enumerate().take(BUCKETS - 1).filter(|(_, n)| **n > 0)
            {
                reach[below(k)] += count;
            }
            let (mut could, mut taken) = (0, 0);
            for steps in (first..=tie).rev() {
                could += reach[steps + 1];
                taken += at(tie + steps).min(could - taken);
            }
            taken
        };
        let longer: u64 = (1..tie).map(|steps| at(tie + steps)).sum();
        let shorter: u64 = (0..tie).map(at).sum();
        (longer - explained(&allowed, 1).min(longer), shorter + explained(&faster, 0))
    }
}

#[cfg(test)]
mod tests;
