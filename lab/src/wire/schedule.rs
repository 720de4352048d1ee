//! When each frame leaves: delay, loss, reordering and duplication from a seed. Pure: the clock is an argument.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What happens to the frames of one direction. All zero: a plain cable.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    /// Microseconds that each frame takes.
    pub delay_us: u64,
    /// Up to this many microseconds more, evenly spread; the order is kept.
    pub jitter_us: u64,
    /// Share of the frames that are lost, 0 to 1.
    pub loss: f64,
    /// Share of the frames that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// Share of the frames that are overtaken by those behind them, 0 to 1.
    pub reorder: f64,
    /// Microseconds that an overtaken frame is late.
    pub reorder_us: u64,
    /// Megabits a second that the link carries; 0: no limit. What comes faster waits, and nothing is lost for that.
    pub mbits: u64,
}

/// A verdict on one frame, in place of the dice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Delayed like all frames, but neither lost nor doubled nor overtaken.
    Pass,
    /// As the dice of the [`Fault`] fall.
    Dice,
    /// Lost.
    Drop,
    /// Arrives twice.
    Duplicate,
    /// Late by this much, and overtaken.
    Late(Duration),
}

/// Frames of one direction that went each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Came in.
    pub seen: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Sent twice on purpose.
    pub duplicated: u64,
    /// Overtaken on purpose.
    pub reordered: u64,
    /// Lost because too many were under way.
    pub overflowed: u64,
    /// Went out, copies too.
    pub sent: u64,
}

/// Frames that may be under way in one direction.
const LIMIT: usize = 20_000;

/// The frames under way in one direction.
#[derive(Debug)]
pub(super) struct Schedule {
    under_way: BinaryHeap<Due>,
    last_due: Option<Instant>,
    /// When the last frame has been sent whole, at the link's rate.
    busy_until: Option<Instant>,
    number: u64,
    dice: Dice,
    pub(super) counts: Counts,
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            under_way: BinaryHeap::new(),
            last_due: None,
            busy_until: None,
            number: 0,
            dice: Dice(seed),
            counts: Counts::default(),
        }
    }

    /// Takes a frame that came in `now`.
    pub(super) fn take(&mut self, frame: &[u8], fault: &Fault, fate: Fate, now: Instant) {
        self.counts.seen += 1;
        // The dice are thrown for each frame and each fault, so that a seed means the same whatever the fates are.
        let (lost, doubled, overtaken) =
            (self.dice.hit(fault.loss), self.dice.hit(fault.duplicate), self.dice.hit(fault.reorder));
        let jitter = Duration::from_micros(self.dice.below(fault.jitter_us.saturating_add(1)));
        let (lost, doubled, late) = match fate {
            Fate::Pass => (false, false, None),
            Fate::Dice => (lost, doubled, overtaken.then(|| Duration::from_micros(fault.reorder_us))),
            Fate::Drop => (true, false, None),
            Fate::Duplicate => (false, true, None),
            Fate::Late(by) => (false, false, Some(by)),
        };
        if lost {
            self.counts.lost += 1;
            return;
        }
        let mut due =
            self.sent(frame.len(), fault.mbits, now) + Duration::from_micros(fault.delay_us) + jitter;
        if let Some(late) = late {
            self.counts.reordered += 1;
            due += late;
        } else {
            due = self.last_due.map_or(due, |last| last.max(due));
            self.last_due = Some(due);
        }
        self.push(frame, due);
        if doubled {
            self.counts.duplicated += 1;
            self.push(frame, due);
        }
    }

    /// When a frame that comes `now` has been sent whole, behind those before it.
    fn sent(&mut self, bytes: usize, mbits: u64, now: Instant) -> Instant {
        if mbits == 0 {
            return now;
        }
        let begins = self.busy_until.map_or(now, |until| until.max(now));
        // A bit takes 1,000 / mbits nanoseconds.
        let sent = begins + Duration::from_nanos(bytes as u64 * 8_000 / mbits);
        self.busy_until = Some(sent);
        sent
    }

    fn push(&mut self, frame: &[u8], at: Instant) {
        if self.under_way.len() >= LIMIT {
            self.counts.overflowed += 1;
            return;
        }
        self.number += 1;
        self.under_way.push(Due { at, number: self.number, frame: frame.into() });
    }

    /// The next frame whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<Box<[u8]>> {
        if self.under_way.peek()?.at > now {
            return None;
        }
        self.under_way.pop().map(|due| due.frame)
    }

    /// When the next frame is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.under_way.peek().map(|due| due.at)
    }
}

#[derive(Debug)]
struct Due {
    at: Instant,
    number: u64,
    frame: Box<[u8]>,
}

impl Ord for Due {
    /// The heap's greatest is the first that is due; among equals, the one that came first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Due {}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough for dice.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// True in `share` of the throws.
    pub(crate) fn hit(&mut self, share: f64) -> bool {
        // 53 bits fill a double exactly.
        let throw = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        throw < share
    }

    /// A number below `bound`, which isn't 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(fault: Fault, frames: u16, seed: u64) -> (Vec<u16>, Counts) {
        let start = Instant::now();
        let mut schedule = Schedule::new(seed);
        for number in 0..frames {
            let now = start + Duration::from_micros(u64::from(number) * 10);
            schedule.take(&number.to_be_bytes(), &fault, Fate::Dice, now);
        }
        let mut out = Vec::new();
        while let Some(frame) = schedule.due(start + Duration::from_secs(60)) {
            out.push(u16::from_be_bytes([frame[0], frame[1]]));
        }
        (out, schedule.counts)
    }

    #[test]
    fn a_plain_cable_changes_nothing() {
        assert_eq!(run(Fault::default(), 1000, 1).0, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn jitter_keeps_the_order() {
        let fault = Fault { delay_us: 500, jitter_us: 5_000, ..Fault::default() };
        assert_eq!(run(fault, 1000, 2).0, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_frame_is_not_due_before_its_delay() {
        let fault = Fault { delay_us: 20_000, ..Fault::default() };
        let start = Instant::now();
        let mut schedule = Schedule::new(1);
        schedule.take(&[1], &fault, Fate::Dice, start);
        assert_eq!(schedule.due(start + Duration::from_micros(19_999)), None);
        assert_eq!(schedule.next(), Some(start + Duration::from_millis(20)));
        assert!(schedule.due(start + Duration::from_millis(20)).is_some());
    }

    #[test]
    fn frames_leave_no_faster_than_the_link_carries_them() {
        let fault = Fault { mbits: 10, delay_us: 500, ..Fault::default() };
        let start = Instant::now();
        let mut schedule = Schedule::new(3);
        for _ in 0..3 {
            schedule.take(&[0; 1_250], &fault, Fate::Dice, start);
        }
        // 10,000 bits are a millisecond's.
        for frame in 1..=3 {
            let due = start + Duration::from_micros(frame * 1_000 + 500);
            assert_eq!(schedule.next(), Some(due));
            assert!(schedule.due(due).is_some());
        }
        let late = start + Duration::from_secs(1);
        schedule.take(&[0; 1_250], &fault, Fate::Dice, late);
        assert_eq!(schedule.next(), Some(late + Duration::from_micros(1_500)));
    }

    #[test]
    fn shares_are_near_what_was_asked_for_and_repeat_with_the_seed() {
        let fault = Fault { loss: 0.1, duplicate: 0.1, reorder: 0.1, reorder_us: 55, ..Fault::default() };
        let (out, counts) = run(fault, 20_000, 7);
        for (what, count) in
            [("lost", counts.lost), ("duplicated", counts.duplicated), ("reordered", counts.reordered)]
        {
            assert!((1_600..2_400).contains(&count), "{what}: {count} of 20,000");
        }
        assert_eq!(out.len() as u64, 20_000 - counts.lost + counts.duplicated);
        let overtaken = out.windows(2).filter(|pair| pair[1] < pair[0]).count() as u64;
        assert!(
            overtaken > counts.reordered / 2,
            "{overtaken} steps back for {} late frames",
            counts.reordered
        );
        assert_eq!(out, run(fault, 20_000, 7).0, "the same seed");
        assert_ne!(out, run(fault, 20_000, 8).0, "another seed");
    }

    #[test]
    fn a_fate_stands_above_the_dice() {
        let fault = Fault { loss: 1.0, ..Fault::default() };
        let now = Instant::now();
        let mut schedule = Schedule::new(1);
        schedule.take(&[1], &fault, Fate::Dice, now);
        schedule.take(&[2], &fault, Fate::Duplicate, now);
        schedule.take(&[3], &fault, Fate::Drop, now);
        schedule.take(&[4], &fault, Fate::Pass, now);
        let out: Vec<u8> = std::iter::from_fn(|| schedule.due(now).map(|frame| frame[0])).collect();
        assert_eq!(out, [2, 2, 4]);
    }
}
