//! Which differences of the two sides' answers count: by path prefix, with noise learned from the primary itself.
//!
//! A difference of status or length always counts. One of the digest alone doesn't where the primary differs as often from
//! itself: dates, ids, random order. Whether it does is learned from its answers to the same target, of the same status and
//! length, between which no write began (so that what changed is not what a write changed). Until that is known of a
//! prefix its differences wait, for a bounded time; but not where so many of its bodies were equal before the first of them that
//! it isn't the application's own. Operators may name prefixes that are noisy.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
};

use mirror_common::{
    abi::Turn,
    flow::{Compared, outcome},
};
use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF};

/// Prefixes that are kept apart; what comes above is counted together under [`OTHERS`].
const MAX_PREFIXES: usize = 512;
/// Prefix of what isn't kept apart, or whose prefix isn't known.
pub const OTHERS: u32 = 0;
/// Targets whose last answer is remembered.
const MAX_TARGETS: usize = 4_096;
/// Answers of the primary to a target asked before, from which on its own changes are known.
const ENOUGH: u64 = 20;
/// Equal bodies of a prefix before its first difference, from which on that is no noise: of noise in one answer of 50 so many
/// would show none with a chance of 13 %, of one in 20 with 0.6 %.
const AGREED: u64 = 100;
/// Seconds for which a digest's difference waits for that.
const PATIENCE: f64 = 30.0;
/// Differences of a prefix that are kept as examples.
const EXAMPLES: usize = 3;
/// Coverage of the intervals of rates.
const CONFIDENCE: f64 = 0.95;

/// An exact interval of a rate (Clopper and Pearson 1934).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Hits among all; 0 of none.
    pub share: f64,
    /// From here ...
    pub low: f64,
    /// ... to here, with 95 % confidence.
    pub high: f64,
}

impl Rate {
    /// Of `hits` among `all`.
    pub fn of(hits: u64, all: u64) -> Self {
        let all = all.max(hits);
        let tail = (1.0 - CONFIDENCE) / 2.0;
        let quantile = |a: u64, b: u64, q: f64| Beta::new(a as f64, b as f64).map(|beta| beta.inverse_cdf(q));
        let low = if hits == 0 { Ok(0.0) } else { quantile(hits, all - hits + 1, tail) };
        let high = if hits == all { Ok(1.0) } else { quantile(hits + 1, all - hits, 1.0 - tail) };
        let share = if all == 0 { 0.0 } else { hits as f64 / all as f64 };
        Self { share, low: low.unwrap_or(0.0), high: high.unwrap_or(1.0) }
    }
}

/// A difference, as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// `CLOCK_MONOTONIC`, seconds.
    pub at: f64,
    /// The client.
    pub client: SocketAddr,
    /// Slot and generation of its flow.
    pub flow: (u32, u32),
    /// Whether the turn writes.
    pub writes: bool,
    /// The primary's and the shadow's status.
    pub statuses: [u16; 2],
    /// Bytes of their bodies; nothing where that isn't known.
    pub lengths: [Option<u32>; 2],
    /// Digests of their bodies, where they were compared.
    pub digests: Option<[u16; 2]>,
    /// Microseconds to their heads.
    pub us: [u32; 2],
}

impl Example {
    fn of(turn: &Turn, client: SocketAddr) -> Self {
        let compared = &turn.compared;
        let known =
            |length: u32| (length != mirror_common::protocol::http1::UNKNOWN_LENGTH).then_some(length);
        Self {
            at: seconds(turn.at),
            client,
            flow: (turn.slot, turn.generation),
            writes: compared.class != 0,
            statuses: compared.statuses,
            lengths: compared.lengths.map(known),
            digests: (compared.outcome == outcome::DIGEST).then_some(compared.digests),
            us: compared.us,
        }
    }
}

/// What is known of the turns of a prefix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prefix {
    /// Compared turns; those that weren't recorded are taken to be like the next recorded one.
    pub turns: u64,
    /// Of them with two statuses.
    pub status: u64,
    /// With two lengths.
    pub length: u64,
    /// With two digests alone.
    pub digest: u64,
    /// Whose bodies couldn't be compared.
    pub unknown: u64,
    /// Answers of the primary to a target that it had answered before with the same status and length, without a write between.
    pub repeats: u64,
    /// Of them with another digest.
    pub changed: u64,
    /// An operator named it.
    pub named: bool,
    /// The last differences, the newest last.
    pub examples: VecDeque<Example>,
    /// Compared bodies that were equal before the first two digests.
    agreed: u64,
    /// Digests' differences that wait, ...
    waiting: u64,
    /// ... since when, in seconds.
    since: f64,
    last: f64,
}

/// What is made of a prefix's differences of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// They count.
    Counts,
    /// They are the application's own: the primary differs as often from itself.
    Noisy,
    /// An operator said that they are.
    Named,
    /// Not known yet.
    Learning,
}

impl Prefix {
    /// How often it differs, noise left out.
    pub fn rate(&self, standing: Standing) -> Rate {
        let digest = if standing == Standing::Counts { self.digest } else { 0 };
        Rate::of(self.status + self.length + digest, self.turns)
    }

    /// What is made of its differences of digests.
    pub fn standing(&self, now: f64) -> Standing {
        if self.named {
            return Standing::Named;
        }
        if self.repeats < ENOUGH {
            if self.agreed >= AGREED {
                return Standing::Counts;
            }
            let waits = self.waiting > 0 && now - self.since < PATIENCE;
            return if waits || self.digest == 0 { Standing::Learning } else { Standing::Counts };
        }
        let own = Rate::of(self.changed, self.repeats);
        let differs = Rate::of(self.digest, self.turns - self.unknown);
        if self.changed > 1 && differs.low <= own.high { Standing::Noisy } else { Standing::Counts }
    }
}

/// The primary's last answer to a target.
#[derive(Clone, Copy)]
struct Answer {
    clock: u32,
    status: u16,
    length: u32,
    digest: u16,
}

/// Takes in what the kernel tells of compared turns.
#[derive(Default)]
pub struct Divergence {
    prefixes: BTreeMap<u32, Prefix>,
    named: BTreeSet<u32>,
    targets: BTreeMap<u32, Answer>,
    order: VecDeque<u32>,
    /// Digests' differences that were told of.
    told: u64,
    /// Of them those that count.
    counted: u64,
    /// Of them noise.
    noise: u64,
    /// Digests' differences that the kernel counted, and told of too many, since the first [`Divergence::tick`].
    kernel: u64,
    lost: u64,
    /// What [`Divergence::tick`] has returned in all.
    returned: u64,
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl Divergence {
    /// Nothing is known yet but the prefixes (hashed) that an operator named as noisy.
    pub fn new(named: impl IntoIterator<Item = u32>) -> Self {
        Self { named: named.into_iter().collect(), ..Self::default() }
    }

    /// A turn that the kernel told of. `outside`: who its client is outside of the datapath.
    pub fn observe(&mut self, turn: &Turn, outside: impl FnOnce(&Turn) -> SocketAddr) {
        let compared = &turn.compared;
        let key = self.key(compared.prefix);
        let named = self.named.contains(&key);
        let repeat = self.repeat(compared);
        let now = seconds(turn.at);
        let prefix = self.prefixes.entry(key).or_default();
        prefix.named = named;
        prefix.last = now;
        prefix.turns += 1 + u64::from(compared.unrecorded);
        if let Some(changed) = repeat {
            prefix.repeats += 1;
            prefix.changed += u64::from(changed);
        }
        if compared.outcome == outcome::DIGEST && prefix.digest == 0 {
            prefix.agreed = (prefix.turns - 1).saturating_sub(prefix.unknown + prefix.status + prefix.length);
        }
        let different = match compared.outcome {
            outcome::STATUS => &mut prefix.status,
            outcome::LENGTH => &mut prefix.length,
            outcome::DIGEST => &mut prefix.digest,
            outcome::UNKNOWN => {
                prefix.unknown += 1 + u64::from(compared.unrecorded);
                return;
            }
            _ => return,
        };
        *different += 1;
        if prefix.examples.len() == EXAMPLES {
            prefix.examples.pop_front();
        }
        prefix.examples.push_back(Example::of(turn, outside(turn)));
        if compared.outcome == outcome::DIGEST {
            self.told += 1;
            if prefix.waiting == 0 {
                prefix.since = now;
            }
            prefix.waiting += 1;
        }
    }

    /// The prefix under which a turn is counted. With too many the one goes that was seen least lately.
    fn key(&mut self, prefix: u32) -> u32 {
        if prefix == OTHERS || self.prefixes.contains_key(&prefix) || self.prefixes.len() < MAX_PREFIXES {
            return prefix;
        }
        let settled = self.prefixes.iter().filter(|(key, known)| **key != OTHERS && known.waiting == 0);
        let oldest = settled.min_by(|one, other| one.1.last.total_cmp(&other.1.last)).map(|(key, _)| *key);
        match oldest {
            Some(key) => self.prefixes.remove(&key).map_or(OTHERS, |_| prefix),
            None => OTHERS,
        }
    }

    /// Whether the primary answered the same target before, comparably, and differently.
    fn repeat(&mut self, compared: &Compared) -> Option<bool> {
        let Compared { target, class, outcome: came, statuses, lengths, digests, clock, .. } = *compared;
        let summed = came == outcome::EQUAL || came == outcome::DIGEST;
        if target == 0 || class != 0 || !summed {
            return None;
        }
        let now = Answer { clock, status: statuses[0], length: lengths[0], digest: digests[0] };
        let before = self.targets.insert(target, now);
        if before.is_none() {
            self.order.push_back(target);
            if self.order.len() > MAX_TARGETS
                && let Some(oldest) = self.order.pop_front()
            {
                self.targets.remove(&oldest);
            }
        }
        let before = before?;
        // No write was under way beside either of them, and none came between.
        let comparable = (before.clock, before.status, before.length) == (now.clock, now.status, now.length);
        comparable.then_some(before.digest != now.digest)
    }

    /// Decides what can be decided, at a time in seconds: what waited counts, is noise, or waits on.
    pub fn settle(&mut self, now: f64) {
        for prefix in self.prefixes.values_mut().filter(|prefix| prefix.waiting > 0) {
            let decided = match prefix.standing(now) {
                Standing::Learning => continue,
                Standing::Counts => &mut self.counted,
                Standing::Noisy | Standing::Named => &mut self.noise,
            };
            *decided += std::mem::take(&mut prefix.waiting);
        }
    }

    /// Digests' differences that count since the last tick, of `digests` that the kernel has counted since and `lost` records
    /// that it didn't send: those are taken to be like the ones that were told.
    pub fn tick(&mut self, digests: u64, lost: u64) -> u64 {
        self.kernel += digests;
        self.lost += lost;
        let unseen = self.kernel.saturating_sub(self.told).min(self.lost);
        let known = self.counted + self.noise;
        let like = if known == 0 {
            unseen
        } else {
            (unseen as f64 * self.counted as f64 / known as f64).ceil() as u64
        };
        let all = self.counted + like;
        let new = all.saturating_sub(self.returned);
        self.returned += new;
        new
    }

    /// Begins to count anew for [`Divergence::tick`]: what was learned stays.
    pub fn begin(&mut self) {
        self.kernel = self.told;
        self.lost = 0;
        self.returned = self.counted;
    }

    /// Digests' differences that count, are noise, wait.
    pub fn digests(&self) -> [u64; 3] {
        [self.counted, self.noise, self.prefixes.values().map(|prefix| prefix.waiting).sum()]
    }

    /// The prefixes, those that differ most surely first.
    pub fn top(&self, now: f64) -> Vec<(u32, &Prefix, Standing, Rate)> {
        let mut all: Vec<_> = self
            .prefixes
            .iter()
            .map(|(key, prefix)| {
                let standing = prefix.standing(now);
                (*key, prefix, standing, prefix.rate(standing))
            })
            .collect();
        all.sort_by(|one, other| other.3.low.total_cmp(&one.3.low).then(other.1.turns.cmp(&one.1.turns)));
        all
    }
}

#[cfg(test)]
mod tests;
