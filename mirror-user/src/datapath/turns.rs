//! What the kernel measures of turns, read from its per-CPU maps.

use std::array;

use anyhow::{Context, Result};
use aya::maps::PerCpuArray;
use mirror_common::{
    abi::{Carried, maps},
    flow::{Measured, pair},
    hist,
    protocol::http1::status,
    switch_word::Side,
};

use super::Datapath;

/// Answers of a side to turns of a class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// By bucket of [`mirror_common::hist`].
    pub latency: Vec<u64>,
    /// By the class of their status: 1xx to 5xx. Heads are counted, interim ones too.
    pub statuses: [u64; status::CLASSES],
}

impl Answers {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.latency.iter().sum()
    }

    /// Of them with an error of the server's own.
    pub fn errors(&self) -> u64 {
        self.statuses[status::SERVER_ERRORS as usize]
    }
}

/// Compared turns of a class: both legs answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// How many there are.
    pub compared: u64,
    /// Of them with an error of the primary's alone.
    pub primary_erred: u64,
    /// With an error of the shadow's alone.
    pub shadow_erred: u64,
    /// With two statuses.
    pub status_differs: u64,
    /// With the same status, length and digest.
    pub equal: u64,
    /// With the same status and two lengths.
    pub length_differs: u64,
    /// With the same status and length, and two digests.
    pub digest_differs: u64,
    /// Records of differences that weren't sent.
    pub records_lost: u64,
    /// Writes alone, compared or not: those that began while another connection's answered write wasn't finished on the other
    /// side.
    pub overtaking: u64,
    /// By bucket of [`hist::ratio`].
    pub ratios: Vec<u64>,
}

/// Everything that was measured since the maps were made. Indices: side, then class (0 reads, 1 writes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// What clients were shown.
    pub shown: [[Answers; 2]; 2],
    /// Those to compared turns, timed to their heads.
    pub compared: [[Answers; 2]; 2],
    /// Compared turns, by class.
    pub pairs: [Pairs; 2],
    /// Bytes of payload, by side.
    pub carried: Carried,
}

/// Element by element; what was counted is never less than before.
fn less(now: &[u64], before: &[u64]) -> Vec<u64> {
    now.iter().enumerate().map(|(i, n)| n - before.get(i).copied().unwrap_or(0).min(*n)).collect()
}

impl Answers {
    fn since(&self, before: &Self) -> Self {
        Self {
            latency: less(&self.latency, &before.latency),
            statuses: array::from_fn(|class| self.statuses[class].saturating_sub(before.statuses[class])),
        }
    }
}

impl Pairs {
    /// Turns that differ, in whatever.
    pub fn differing(&self) -> u64 {
        self.status_differs + self.length_differs + self.digest_differs
    }

    /// Turns of which a difference of any kind would have been seen.
    pub fn known(&self) -> u64 {
        self.equal + self.differing()
    }

    /// Turns with equal statuses whose bodies couldn't be compared, or aren't over.
    pub fn unknown(&self) -> u64 {
        self.compared.saturating_sub(self.known())
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            compared: self.compared.saturating_sub(before.compared),
            primary_erred: self.primary_erred.saturating_sub(before.primary_erred),
            shadow_erred: self.shadow_erred.saturating_sub(before.shadow_erred),
            status_differs: self.status_differs.saturating_sub(before.status_differs),
            equal: self.equal.saturating_sub(before.equal),
            length_differs: self.length_differs.saturating_sub(before.length_differs),
            digest_differs: self.digest_differs.saturating_sub(before.digest_differs),
            records_lost: self.records_lost.saturating_sub(before.records_lost),
            overtaking: self.overtaking.saturating_sub(before.overtaking),
            ratios: less(&self.ratios, &before.ratios),
        }
    }
}

impl Turns {
    /// The slowest read and the slowest write that clients were answered, in microseconds, rounded up to their buckets' ends.
    pub fn slowest_us(&self) -> [Option<f64>; 2] {
        [0, 1].map(|class: usize| {
            let buckets = Side::BOTH.iter().filter_map(|side| {
                let latency = &self.shown[*side as usize][class].latency;
                latency.iter().rposition(|count| *count > 0)
            });
            buckets.max().map(|bucket| (hist::lowest(bucket as u32 + 1) - 1) as f64)
        })
    }

    /// What came since an earlier reading.
    pub fn since(&self, before: &Self) -> Self {
        let answers = |now: &[[Answers; 2]; 2], before: &[[Answers; 2]; 2]| {
            [0, 1].map(|side| [0, 1].map(|class: usize| now[side][class].since(&before[side][class])))
        };
        let bytes =
            |now: [u64; 2], before: [u64; 2]| [0, 1].map(|side| now[side].saturating_sub(before[side]));
        Self {
            shown: answers(&self.shown, &before.shown),
            compared: answers(&self.compared, &before.compared),
            pairs: [0, 1].map(|class: usize| self.pairs[class].since(&before.pairs[class])),
            carried: Carried {
                requests: bytes(self.carried.requests, before.carried.requests),
                answers: bytes(self.carried.answers, before.carried.answers),
            },
        }
    }
}

impl Datapath {
    /// What was measured of turns so far, over all CPUs: some 5,000 look-ups, a few milliseconds.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn turns(&self) -> Result<Turns> {
        let latency = self.per_cpu(maps::LATENCY)?;
        let responses = self.per_cpu(maps::RESPONSES)?;
        let counts = self.per_cpu(maps::PAIRS)?;
        let ratios = self.per_cpu(maps::RATIOS)?;
        let answers = |row: u32| -> Result<Answers> {
            let first = row * hist::BUCKETS as u32;
            let mut statuses = [0; status::CLASSES];
            for (class, count) in (0..).zip(&mut statuses) {
                *count = sum(&responses, row * status::CLASSES as u32 + class)?;
            }
            Ok(Answers { latency: sums(&latency, first, hist::BUCKETS as u32)?, statuses })
        };
        let both = |row: fn(u32, u32) -> u32| -> Result<[[Answers; 2]; 2]> {
            let side = |side: u32| Ok::<_, anyhow::Error>([answers(row(side, 0))?, answers(row(side, 1))?]);
            Ok([side(0)?, side(1)?])
        };
        let pairs = |class: u32| -> Result<Pairs> {
            let one = |kind: u32| sum(&counts, class * pair::COUNTERS + kind);
            Ok(Pairs {
                compared: one(pair::COMPARED)?,
                primary_erred: one(pair::PRIMARY_ERRED)?,
                shadow_erred: one(pair::SHADOW_ERRED)?,
                status_differs: one(pair::STATUS_DIFFERS)?,
                equal: one(pair::EQUAL)?,
                length_differs: one(pair::LENGTH_DIFFERS)?,
                digest_differs: one(pair::DIGEST_DIFFERS)?,
                records_lost: one(pair::RECORDS_LOST)?,
                overtaking: one(pair::OVERTAKING)?,
                ratios: sums(&ratios, class * hist::RATIOS as u32, hist::RATIOS as u32)?,
            })
        };
        Ok(Turns {
            shown: both(Measured::shown)?,
            compared: both(Measured::compared)?,
            pairs: [pairs(0)?, pairs(1)?],
            carried: self.carried()?,
        })
    }

    fn carried(&self) -> Result<Carried> {
        let map = self.bpf.map(maps::CARRIED).context("no map CARRIED")?;
        let each = PerCpuArray::<_, Carried>::try_from(map)?.get(&0, 0)?;
        let sum =
            |of: fn(&Carried) -> [u64; 2]| [0, 1].map(|side| each.iter().map(|cpu| of(cpu)[side]).sum());
        Ok(Carried { requests: sum(|cpu| cpu.requests), answers: sum(|cpu| cpu.answers) })
    }

    pub(super) fn per_cpu(&self, name: &str) -> Result<PerCpuArray<&aya::maps::MapData, u64>> {
        Ok(PerCpuArray::try_from(self.bpf.map(name).with_context(|| format!("no map {name}"))?)?)
    }
}

fn sum(map: &PerCpuArray<&aya::maps::MapData, u64>, index: u32) -> Result<u64> {
    Ok(map.get(&index, 0)?.iter().sum())
}

fn sums(map: &PerCpuArray<&aya::maps::MapData, u64>, first: u32, count: u32) -> Result<Vec<u64>> {
    (first..first + count).map(|index| sum(map, index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_a_difference_is_that_of_either_side() {
        let mut before = Turns::default();
        for answers in before.shown.iter_mut().flatten() {
            answers.latency = vec![0; hist::BUCKETS];
        }
        let [primary, shadow] = [Side::Primary as usize, Side::Shadow as usize];
        before.shown[primary][0].latency[hist::bucket(9_000_000) as usize] = 3;
        let mut now = before.clone();
        assert_eq!(now.since(&before).slowest_us(), [None, None], "what was slow before isn't the move's");
        now.shown[primary][0].latency[hist::bucket(400) as usize] += 7;
        now.shown[shadow][0].latency[hist::bucket(25_000) as usize] += 1;
        let [read, write] = now.since(&before).slowest_us();
        assert!(read.is_some_and(|us| (25_000.0..25_000.0 * 17.0 / 16.0).contains(&us)), "{read:?}");
        assert_eq!(write, None);
    }
}
