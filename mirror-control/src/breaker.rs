//! A circuit breaker a side: one that goes on losing legs is mirrored no more, and is asked now and then whether it is well.
//!
//! ```text
//!             fell out: too many legs lost, a write owed, a restart
//!   Closed ─────────────────────────────────────────────────────────► Open ◄──────────┐
//!      ▲                                                                │ probe: well  │ probe: not well, or a join failed
//!      └───────────────── joined ◄───────────────────── HalfOpen ◄──────┴──────────────┘
//! ```
//! While no write is owed, lost legs alone put no side out of sync: each is dialled again, and lost again, at every request.
//! That costs clients stall budgets, and the other side's reads come back late. So [`BreakerPolicy::lost_legs`] of them within
//! [`BreakerPolicy::window`] are enough. Every fall counts, whatever its reason: who joins and falls again and again waits
//! twice as long each time. (Closed, open and half-open: M. Nygard, Release It!, 2nd edition, 2018, chapter 5.)
//!
//! The authority has no breaker: nobody else could answer in its place.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Legs that can be counted at most.
pub const MOST_LEGS: u32 = 100_000;
/// A side that has been in sync for so many of the longest waits has no falls any more.
const CALM: u64 = 10;

/// When a breaker opens, and how it closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// So many legs lost within the window open it; 0: it never opens by itself.
    pub lost_legs: u32,
    /// The window.
    pub window: Duration,
    /// From the first fall to its first probe.
    pub probe: Duration,
    /// The longest time between two probes.
    pub probe_most: Duration,
    /// The side joins again by itself as soon as a probe finds it well.
    pub rejoin: bool,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            // A host that is busy for half a second costs healthy servers their legs, too.
            lost_legs: 0,
            window: Duration::from_secs(10),
            probe: Duration::from_secs(1),
            probe_most: Duration::from_secs(60),
            rejoin: false,
        }
    }
}

impl BreakerPolicy {
    /// What of it makes no sense, if anything.
    pub fn fault(&self) -> Option<String> {
        if self.lost_legs > MOST_LEGS {
            return Some(format!(
                "`lost_legs` is {}: {MOST_LEGS} at most, 0 to switch it off",
                self.lost_legs
            ));
        }
        (self.probe_most < self.probe).then(|| "`probe_most` is shorter than `probe`".into())
    }
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// The side is mirrored, or nobody expects it to be.
    #[default]
    Closed,
    /// It fell out, and no probe has found it well.
    Open,
    /// It fell out, and the last probe found it well: it may join.
    HalfOpen,
}

impl Standing {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// One side's breaker. Times are nanoseconds of the monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    policy: BreakerPolicy,
    standing: Standing,
    /// By service: when the last legs were lost, and by which server (its number), [`BreakerPolicy::lost_legs`] at most.
    lost: BTreeMap<u32, VecDeque<(u64, u32)>>,
    /// Falls without a calm time between them.
    falls: u32,
    joined_at: u64,
    /// Between a probe that isn't good and the next one.
    wait: u64,
    probe_at: u64,
}

impl Breaker {
    /// A closed one.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// From now on it goes by another policy; how it stands it stands.
    pub fn goes_by(&mut self, policy: BreakerPolicy) {
        for lost in self.lost.values_mut() {
            while lost.len() > policy.lost_legs as usize {
                lost.pop_front();
            }
        }
        self.policy = policy;
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Falls without a calm time between them.
    pub fn falls(&self) -> u32 {
        self.falls
    }

    /// A leg was lost because a server of a service on the side failed; the numbers are 0 where it is the only one.
    pub fn lost(&mut self, service: u32, server: u32, at: u64) {
        if self.policy.lost_legs == 0 {
            return;
        }
        let lost = self.lost.entry(service).or_default();
        if lost.len() >= self.policy.lost_legs as usize {
            lost.pop_front();
        }
        lost.push_back((at, server));
    }

    /// Whether so many legs were lost, in all services, that the side must fall out. Of a service's several servers each that
    /// takes connections (bits by their numbers, by service; 0, or nothing: there is one alone) must have lost one, or that
    /// service's don't count: a server that fails alone is its health check's to take out.
    pub fn trips(&self, takes: &[u32], now: u64) -> bool {
        if self.policy.lost_legs == 0 || self.standing != Standing::Closed {
            return false;
        }
        let old = |(at, _): &(u64, u32)| now.saturating_sub(*at) >= nanoseconds(self.policy.window);
        let count = |(service, lost): (&u32, &VecDeque<(u64, u32)>)| {
            let recent = lost.range(lost.partition_point(old)..);
            let servers = recent.clone().fold(0, |bits, (_, server)| bits | 1 << (server & 31));
            let takes = takes.get(*service as usize).copied().unwrap_or(0);
            if takes & !servers == 0 { recent.len() } else { 0 }
        };
        self.lost.iter().map(count).sum::<usize>() >= self.policy.lost_legs as usize
    }

    /// The side fell out of sync, for whatever reason.
    pub fn fell(&mut self, now: u64) {
        let most = nanoseconds(self.policy.probe_most);
        if now.saturating_sub(self.joined_at) >= most.saturating_mul(CALM) {
            self.falls = 0;
        }
        let longer = 1_u64.checked_shl(self.falls).unwrap_or(u64::MAX);
        self.falls = self.falls.saturating_add(1);
        self.wait = nanoseconds(self.policy.probe).saturating_mul(longer).min(most);
        self.probe_at = now.saturating_add(self.wait);
        self.standing = Standing::Open;
        self.lost.clear();
    }

    /// The side is in sync.
    pub fn joined(&mut self, now: u64) {
        self.standing = Standing::Closed;
        self.joined_at = now;
        self.lost.clear();
    }

    /// The side was put out on purpose: nobody expects it back.
    pub fn released(&mut self) {
        *self = Self::new(self.policy.clone());
    }

    /// Whether the side is to be asked now whether it is well.
    pub fn probe_is_due(&self, now: u64) -> bool {
        self.standing != Standing::Closed && now >= self.probe_at
    }

    /// How long until the next probe; nothing where none is to come.
    pub fn next_probe(&self, now: u64) -> Option<Duration> {
        let left = Duration::from_nanos(self.probe_at.saturating_sub(now));
        (self.standing != Standing::Closed).then_some(left)
    }

    /// A probe was answered, or a join failed (`well` is false then). Returns whether that is news.
    pub fn probed(&mut self, well: bool, now: u64) -> bool {
        if self.standing == Standing::Closed {
            return false;
        }
        let was = self.standing;
        let most = nanoseconds(self.policy.probe_most);
        if well {
            self.standing = Standing::HalfOpen;
            self.probe_at = now.saturating_add(most);
        } else {
            self.standing = Standing::Open;
            self.wait = self.wait.saturating_mul(2).min(most);
            self.probe_at = now.saturating_add(self.wait);
        }
        self.standing != was
    }

    /// Whether a join that nobody asks for may be made.
    pub fn may_join(&self) -> bool {
        self.standing != Standing::Open
    }

    /// Whether the policy wants the side back now, without being asked.
    pub fn rejoins(&self) -> bool {
        self.policy.rejoin && self.standing == Standing::HalfOpen
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: u64 = 1_000_000_000;
    /// A daemon's clock doesn't begin at nought.
    const START: u64 = 100_000 * S;

    #[test]
    fn one_server_of_several_that_fails_alone_trips_nothing() {
        let mut breaker = breaker(3);
        (0..9).for_each(|n| breaker.lost(0, 1, START + n));
        assert!(breaker.trips(&[0], START + 9) && !breaker.trips(&[0b110], START + 9));
        breaker.lost(0, 2, START + 9);
        assert!(breaker.trips(&[0b110], START + 9) && !breaker.trips(&[0b1110], START + 9));
    }

    #[test]
    fn what_the_services_of_a_side_lose_is_counted_together() {
        let mut breaker = breaker(4);
        (0..2).for_each(|n| breaker.lost(0, 0, START + n));
        (0..2).for_each(|n| breaker.lost(3, 0, START + n));
        let takes = [0b1, 0b1, 0b1, 0b11];
        assert!(!breaker.trips(&takes, START + 2), "service 3 has another server, which goes on");
        assert!(breaker.trips(&takes[..3], START + 2));
        breaker.lost(3, 1, START + 2);
        assert!(breaker.trips(&takes, START + 2));
        assert!(!breaker.trips(&takes, START + 10 * S + 1), "those of then are too old by now");
    }

    #[test]
    fn another_policy_counts_what_was_lost_before_it() {
        let mut breaker = breaker(20);
        (0..7).for_each(|n| breaker.lost(0, 0, START + n));
        assert!(!breaker.trips(&[0], START + 7));
        breaker.goes_by(BreakerPolicy { lost_legs: 5, ..BreakerPolicy::default() });
        assert!(breaker.trips(&[0], START + 7));
        breaker.goes_by(BreakerPolicy { lost_legs: 0, ..BreakerPolicy::default() });
        assert!(!breaker.trips(&[0], START + 7), "off");
        breaker.fell(START + 8);
        breaker.goes_by(BreakerPolicy::default());
        assert_eq!(breaker.standing(), Standing::Open);
    }

    fn breaker(lost_legs: u32) -> Breaker {
        let mut breaker = Breaker::new(BreakerPolicy { lost_legs, rejoin: true, ..BreakerPolicy::default() });
        breaker.joined(START);
        breaker
    }

    #[test]
    fn so_many_legs_within_the_window_open_it_and_no_fewer() {
        let mut breaker = breaker(3);
        for second in [0, 4, 11] {
            breaker.lost(0, 0, START + second * S);
            assert!(!breaker.trips(&[0], START + second * S), "{second} s");
        }
        breaker.lost(0, 0, START + 13 * S);
        assert!(breaker.trips(&[0], START + 13 * S), "the last three within nine seconds");
        assert!(!breaker.trips(&[0], START + 14 * S), "a second later the first of them is too old");
    }

    #[test]
    fn switched_off_it_never_opens_by_itself_but_counts_falls() {
        let mut breaker = breaker(0);
        (0..1_000).for_each(|_| breaker.lost(0, 0, START));
        assert!(!breaker.trips(&[0], START));
        breaker.fell(START + S);
        assert_eq!((breaker.standing(), breaker.falls()), (Standing::Open, 1));
    }

    #[test]
    fn probes_back_off_to_their_bound_and_a_good_one_lets_it_join() {
        let mut breaker = breaker(3);
        breaker.fell(START);
        assert!(!breaker.probe_is_due(START + S - 1) && breaker.probe_is_due(START + S));
        let mut now = START + S;
        let waits: Vec<u64> = (0..8)
            .map(|_| {
                assert!(!breaker.probed(false, now) && !breaker.may_join());
                let wait = breaker.next_probe(now).unwrap().as_secs();
                now += wait * S;
                wait
            })
            .collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(breaker.probed(true, now) && breaker.may_join() && breaker.rejoins());
        assert!(!breaker.probed(true, now + 60 * S), "that it is still well is no news");
        assert!(breaker.probed(false, now + 120 * S), "that it isn't any more is");
        breaker.joined(now);
        assert_eq!((breaker.standing(), breaker.next_probe(now)), (Standing::Closed, None));
    }

    #[test]
    fn who_joins_and_falls_again_and_again_waits_longer_each_time_until_it_has_been_calm() {
        let mut breaker = breaker(3);
        let mut now = START;
        let mut waits = Vec::new();
        for _ in 0..8 {
            breaker.fell(now);
            let wait = breaker.next_probe(now).unwrap().as_secs();
            waits.push(wait);
            now += wait * S;
            breaker.probed(true, now);
            breaker.joined(now);
            now += 5 * S;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        now += 600 * S;
        breaker.fell(now);
        assert_eq!((breaker.falls(), breaker.next_probe(now).unwrap().as_secs()), (1, 1));
    }

    #[test]
    fn a_join_that_fails_is_no_better_than_a_bad_probe() {
        let mut breaker = breaker(3);
        breaker.fell(START);
        assert!(breaker.probed(true, START + S) && breaker.rejoins());
        assert!(breaker.probed(false, START + S) && !breaker.rejoins() && !breaker.may_join());
        assert_eq!(breaker.next_probe(START + S).unwrap().as_secs(), 2);
    }

    #[test]
    fn who_was_put_out_on_purpose_is_not_asked() {
        let mut breaker = breaker(3);
        breaker.fell(START);
        breaker.released();
        assert!(!breaker.probe_is_due(u64::MAX) && !breaker.rejoins() && breaker.may_join());
        assert!(!breaker.probed(true, START) && breaker.standing() == Standing::Closed);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        assert_eq!(BreakerPolicy::default().fault(), None);
        let short = BreakerPolicy { probe_most: Duration::from_millis(1), ..BreakerPolicy::default() };
        assert!(short.fault().unwrap().contains("probe_most"));
        let many = BreakerPolicy { lost_legs: MOST_LEGS + 1, ..BreakerPolicy::default() };
        assert!(many.fault().unwrap().contains("lost_legs"));
    }

    proptest! {
        /// Whatever happens in whatever order: bounded memory, waits within their bounds, and no joining by itself before a
        /// probe that found it well.
        #[test]
        fn it_stays_within_its_bounds(steps in proptest::collection::vec((0..6_u32, 0..90_u64), 1..300)) {
            let mut breaker = breaker(4);
            let mut now = START;
            let mut well = false;
            for (what, after) in steps {
                now += after * S / 2;
                match what {
                    0 | 1 => breaker.lost(0, 0, now),
                    2 => { breaker.fell(now); well = false }
                    3 => breaker.joined(now),
                    4 => { breaker.probed(true, now); well = true }
                    _ => { breaker.probed(false, now); well = false }
                }
                prop_assert!(breaker.lost.len() <= 1 && breaker.lost.values().all(|lost| lost.len() <= 4));
                prop_assert!(!breaker.rejoins() || well);
                if breaker.standing() != Standing::Closed {
                    prop_assert!(breaker.next_probe(now).unwrap() <= breaker.policy.probe_most);
                    prop_assert!(breaker.wait >= S && !breaker.trips(&[0], now));
                }
            }
        }
    }
}
