//! Many legs lost at once are a restart, and a restarted server may have lost what was written to it.
//!
//! A server that was killed while no write was owed looks like one that closes idle connections: each leg ends by a FIN. It
//! is told from that by what comes next. A leg is dialled anew at once; who only closes connections answers, and who is
//! gone refuses. So a close alone never counts, however many there are; a refusal counts at once; a reset counts when its
//! leg isn't open again within [`GRACE_NS`] (a server may close by a reset, too). A dying process may close its connections
//! before its listening socket: then what is dialled anew is accepted by the kernel, and reset a moment later. A reset that
//! follows a close within [`DYING_NS`] is a refusal.
//!
//! The servers of a side that has several share what they store, or none of them could stand in for another. One that is
//! restarted alone takes nothing with it that was answered; only if each that takes connections loses legs at once may what
//! they share be lost.

use std::collections::{BTreeMap, VecDeque};

/// Losses further apart than this aren't "at once", in nanoseconds.
pub const WINDOW_NS: u64 = 1_000_000_000;
/// A leg that was reset has this long to be open again, in nanoseconds.
pub const GRACE_NS: u64 = 250_000_000;
/// A leg that was dialled after a close and is reset this soon after it was never served, in nanoseconds.
pub const DYING_NS: u64 = 50_000_000;
/// Fewer legs than this are no sign, whatever their share.
pub const LEAST: usize = 2;

/// How a leg was lost, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its server closed it.
    Closed,
    /// Its server reset it.
    Reset,
    /// Its server refused to be dialled.
    Refused,
}

/// The recent losses of one side. Times are nanoseconds of the monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// The side's legs go to several ports: a process each, perhaps, of which one alone may be restarted.
    several: bool,
    /// By flow (slot, generation): the last loss, when it was, and which servers lost its legs other than by a close (bits).
    lost: BTreeMap<(u32, u32), (Loss, u64, u32)>,
    /// Legs that were open, and when they were counted.
    open: VecDeque<(u64, u32)>,
}

impl Losses {
    /// The losses of a side whose legs go to so many ports.
    pub fn of(ports: usize) -> Self {
        Self { several: ports > 1, ..Self::default() }
    }

    /// A flow's leg to a server (its number, 0 where it is the only one) was lost.
    pub fn lost(&mut self, flow: (u32, u32), server: u32, loss: Loss, at: u64) {
        let dying = |last: &(Loss, u64, u32)| last.0 == Loss::Closed && at.saturating_sub(last.1) < DYING_NS;
        let loss = match loss {
            Loss::Reset if self.lost.get(&flow).is_some_and(dying) => Loss::Refused,
            loss => loss,
        };
        self.forget(at);
        let before = self.lost.get(&flow).map_or(0, |last| last.2);
        let servers = if loss == Loss::Closed { before } else { before | 1 << (server & 31) };
        self.lost.insert(flow, (loss, at, servers));
    }

    /// A flow's leg is open again. That takes back a reset, but not a refusal: its server was gone.
    pub fn opened(&mut self, flow: (u32, u32)) {
        if matches!(self.lost.get(&flow), Some((Loss::Reset, ..))) {
            self.lost.remove(&flow);
        }
    }

    /// So many legs are open.
    pub fn counted(&mut self, open: u32, at: u64) {
        self.open.push_back((at, open));
        self.forget(at);
    }

    /// Forgets all: the side has been brought level.
    pub fn clear(&mut self) {
        self.lost.clear();
        self.open.clear();
    }

    /// Whether the side's server was restarted, or is gone: more than half of the legs that were open within the window,
    /// and at least [`LEAST`], are lost; where they go to several ports, [`LEAST`] are enough. Of several servers each that
    /// `takes` connections (bits by their numbers; 0: there is one alone) must have lost one. Says how many of how many.
    pub fn restarted(&mut self, takes: u32, now: u64) -> Option<(usize, usize)> {
        self.forget(now);
        let counts = |(loss, at, _): &&(Loss, u64, u32)| match loss {
            Loss::Closed => false,
            Loss::Reset => now.saturating_sub(*at) >= GRACE_NS,
            Loss::Refused => true,
        };
        let lost = self.lost.values().filter(counts).count();
        let servers = self.lost.values().filter(counts).fold(0, |bits, loss| bits | loss.2);
        let most = self.open.iter().map(|(_, open)| *open as usize).max().unwrap_or(0);
        let legs = most.max(self.lost.len());
        (lost >= LEAST && (self.several || 2 * lost > legs) && takes & !servers == 0).then_some((lost, legs))
    }

    fn forget(&mut self, now: u64) {
        let recent = |at: u64| now.saturating_sub(at) < WINDOW_NS;
        self.lost.retain(|_, (_, at, _)| recent(*at));
        // The newest stays: it says how many there were before nobody counted any more.
        while self.open.len() > 1 && !recent(self.open[0].0) {
            self.open.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn with_open(open: u32) -> Losses {
        let mut losses = Losses::default();
        losses.counted(open, 10_000 * MS);
        losses
    }

    #[test]
    fn a_server_that_is_gone_refuses_most_of_its_legs_at_once() {
        let mut losses = with_open(10);
        for slot in 0..5 {
            losses.lost((slot, 0), 0, Loss::Refused, 10_100 * MS);
        }
        assert_eq!(losses.restarted(0, 10_100 * MS), None, "half is not most");
        losses.lost((5, 0), 0, Loss::Refused, 10_101 * MS);
        assert_eq!(losses.restarted(0, 10_101 * MS), Some((6, 10)));
        losses.opened((5, 0));
        assert_eq!(
            losses.restarted(0, 10_102 * MS),
            Some((6, 10)),
            "that it is back doesn't give its memory back"
        );
        losses.clear();
        assert_eq!(losses.restarted(0, 10_103 * MS), None);
    }

    #[test]
    fn a_flow_that_is_refused_again_and_again_is_one_leg() {
        let mut losses = with_open(3);
        for n in 0..9 {
            losses.lost((1, 0), 0, Loss::Refused, (10_000 + 100 * n) * MS);
        }
        assert_eq!(losses.restarted(0, 10_801 * MS), None);
        assert_eq!(with_open(1).restarted(0, 10_001 * MS), None);
    }

    #[test]
    fn one_process_of_several_is_restarted_behind_few_legs() {
        let mut losses = Losses::of(2);
        losses.counted(100, 10_000 * MS);
        losses.lost((1, 0), 0, Loss::Refused, 10_001 * MS);
        assert_eq!(losses.restarted(0, 10_001 * MS), None);
        losses.lost((2, 0), 0, Loss::Refused, 10_002 * MS);
        assert_eq!(losses.restarted(0, 10_002 * MS), Some((2, 100)));
        losses.clear();
        losses.lost((1, 0), 0, Loss::Refused, 10_003 * MS);
        losses.lost((2, 0), 0, Loss::Refused, 10_003 * MS);
        assert!(losses.restarted(0, 10_003 * MS).is_some(), "it still serves several ports");
    }

    /// T31: servers of a side share what they store.
    #[test]
    fn one_server_of_several_takes_nothing_with_it_but_all_of_them_do() {
        let mut losses = with_open(10);
        for slot in 0..8 {
            losses.lost((slot, 0), 1, Loss::Refused, 10_001 * MS);
        }
        assert_eq!(losses.restarted(0b110, 10_002 * MS), None, "server 2 goes on");
        losses.lost((8, 0), 2, Loss::Closed, 10_003 * MS);
        assert_eq!(losses.restarted(0b110, 10_004 * MS), None, "a close is no loss");
        losses.lost((0, 0), 2, Loss::Refused, 10_100 * MS);
        assert_eq!(
            losses.restarted(0b110, 10_101 * MS),
            Some((8, 10)),
            "dialled anew, it was refused there too"
        );
        assert_eq!(losses.restarted(0b1110, 10_101 * MS), None, "server 3 goes on");
    }

    #[test]
    fn a_server_that_closes_by_resets_and_answers_again_was_not_restarted() {
        let mut losses = with_open(8);
        for slot in 0..8 {
            losses.lost((slot, 0), 0, Loss::Reset, 10_001 * MS);
        }
        assert_eq!(losses.restarted(0, 10_200 * MS), None, "they have a moment to be dialled anew");
        for slot in 0..8 {
            losses.opened((slot, 0));
        }
        assert_eq!(losses.restarted(0, 10_900 * MS), None);
    }

    #[test]
    fn resets_that_nobody_makes_good_are_a_restart() {
        let mut losses = with_open(8);
        for slot in 0..5 {
            losses.lost((slot, 0), 0, Loss::Reset, 10_001 * MS);
        }
        assert_eq!(losses.restarted(0, 10_250 * MS), None);
        assert_eq!(losses.restarted(0, 10_251 * MS), Some((5, 8)));
        assert_eq!(losses.restarted(0, 11_001 * MS), None, "a second later they are old");
    }

    #[test]
    fn closes_never_count_but_a_reset_right_behind_one_does() {
        let mut losses = with_open(8);
        for slot in 0..8 {
            losses.lost((slot, 0), 0, Loss::Closed, 10_001 * MS);
        }
        assert_eq!(losses.restarted(0, 10_030 * MS), None);
        for slot in 0..8 {
            losses.opened((slot, 0));
            losses.lost((slot, 0), 0, Loss::Reset, 10_040 * MS);
            losses.opened((slot, 0));
        }
        assert_eq!(losses.restarted(0, 10_101 * MS), Some((8, 8)));
    }

    proptest! {
        /// However legs are lost and open again: never at fewer than two distinct flows, never at half or less.
        #[test]
        fn it_takes_two_and_most(steps in proptest::collection::vec((0..5_u32, 0..6_u32, 0..400_u64), 1..200)) {
            let mut losses = Losses::default();
            let mut now = 5_000 * MS;
            let mut refused = std::collections::BTreeSet::new();
            for (what, slot, after) in steps {
                now += after * MS;
                match what {
                    0 => { refused.insert(slot); losses.lost((slot, 0), 0, Loss::Refused, now) }
                    1 => { refused.insert(slot); losses.lost((slot, 0), 0, Loss::Reset, now) }
                    2 => losses.opened((slot, 0)),
                    3 => losses.lost((slot, 0), 0, Loss::Closed, now),
                    _ => losses.counted(slot, now),
                }
                if let Some((lost, legs)) = losses.restarted(0, now) {
                    prop_assert!(lost >= LEAST && 2 * lost > legs && lost <= refused.len());
                }
            }
        }
    }
}
