//! How far loads rise above what was expected of them.

use std::collections::VecDeque;

/// Seconds after which a surprise counts half: so long that a quiet night doesn't forget what the day was like.
const HALF_LIFE: f64 = 12.0 * 3_600.0;
/// Seconds of comparing before anything is said.
const LEARNED: f64 = 3_600.0;
/// Expectations that wait for their time, at most: ten minutes of half seconds. The oldest goes first.
const MAX_WAITING: usize = 1_200;

/// Root mean square of the surprises, newer ones weighted more.
#[derive(Clone, Debug)]
pub(super) struct Margin {
    lead: f64,
    /// Expected loads, with the time that they are for.
    waiting: VecDeque<(f64, f64)>,
    mean_square: f64,
    /// When the last surprise was, and seconds that were compared.
    at: Option<f64>,
    compared: f64,
}

impl Margin {
    /// For expectations of `lead` seconds ahead.
    pub(super) fn new(lead: f64) -> Self {
        Self { lead, waiting: VecDeque::new(), mean_square: 0.0, at: None, compared: 0.0 }
    }

    /// Remembers what is expected a lead time from now.
    pub(super) fn expect(&mut self, at: f64, load: f64) {
        if self.waiting.len() == MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((at + self.lead, load));
    }

    /// Compares a load with what was expected of it.
    pub(super) fn learn(&mut self, at: f64, load: f64) {
        let mut expected = None;
        while let Some((_, of_then)) = self.waiting.pop_front_if(|(due, _)| *due <= at) {
            expected = Some(of_then);
        }
        let Some(expected) = expected else { return };
        let surprise = (load - expected).max(0.0).powi(2).min(f64::MAX / 4.0);
        // A gap counts as one lead time: what wasn't compared isn't known.
        let elapsed = self.at.replace(at).map_or(self.lead, |before| (at - before).min(self.lead));
        // The plain mean until half-lives have passed.
        let share = (1.0 - 0.5_f64.powf(elapsed / HALF_LIFE)).max(elapsed / (self.compared + elapsed));
        self.mean_square += if share.is_finite() { share * (surprise - self.mean_square) } else { 0.0 };
        self.compared = (self.compared + elapsed).min(HALF_LIFE);
    }

    /// In the load's unit; `None` before enough was compared.
    pub(super) fn surprise(&self) -> Option<f64> {
        (self.compared >= LEARNED).then(|| self.mean_square.sqrt())
    }
}
