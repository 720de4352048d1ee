//! What is expected a lead time ahead, by the forecast and by the load now, and how far that erred.

use std::collections::VecDeque;

use super::{decayed::Mean, margin::Margin};

/// Expectations that wait for their time, at most: they are that far apart.
const MAX_WAITING: f64 = 1_000.0;
/// Seconds after which what an error tells of the forecast's share counts half.
const HALF_LIFE: f64 = 3.0 * 86_400.0;
/// Seconds for which it counts that a half is the forecast's share.
const AT_FIRST: f64 = 3_600.0;
/// An expectation above the load is that much of an error: one below it leaves too little capacity.
const ABOVE: f64 = 0.1;

/// What was expected.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    due: f64,
    expected: f64,
    /// By the load alone, and by how much the forecast was more than that.
    reacting: f64,
    more: Option<f64>,
    wildness: f64,
}

/// Expects, and learns how well.
#[derive(Clone, Debug)]
pub(super) struct Expectation {
    lead: f64,
    waiting: VecDeque<Waiting>,
    pub(super) margin: Margin,
    /// When a load was last compared.
    at: Option<f64>,
    /// Means of the load over what it alone let expect, times what the forecast was more, and of that squared.
    product: Mean,
    square: Mean,
    /// Seconds that they are of.
    seconds: f64,
}

impl Expectation {
    /// For `lead` seconds ahead.
    pub(super) fn new(lead: f64) -> Self {
        Self {
            lead,
            waiting: VecDeque::new(),
            margin: Margin::new(),
            at: None,
            product: Mean::new(HALF_LIFE),
            square: Mean::new(HALF_LIFE),
            seconds: 0.0,
        }
    }

    /// The forecast's share in what is expected, 0 to 1: the one that would have erred least, by its square.
    fn share(&self) -> f64 {
        let share = (self.product.get() * self.seconds + 0.5 * self.square.get() * AT_FIRST)
            / (self.square.get() * (self.seconds + AT_FIRST));
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.5 }
    }

    /// The load that is expected a lead time from now: by the load now, and by the forecast.
    pub(super) fn expect(&mut self, at: f64, reacting: f64, forecast: Option<f64>) -> f64 {
        let more = forecast.map(|forecast| forecast - reacting);
        let expected = reacting + more.map_or(0.0, |more| self.share() * more);
        let due = at + self.lead;
        if self.waiting.back().is_none_or(|last| due >= last.due + self.lead / MAX_WAITING) {
            let wildness = self.margin.wildness();
            self.waiting.push_back(Waiting { due, expected, reacting, more, wildness });
        }
        expected
    }

    /// Compares a load with what was expected of it.
    pub(super) fn learn(&mut self, at: f64, load: f64) {
        let mut newest = None;
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.due <= at) {
            newest = Some(waiting);
        }
        let Some(Waiting { expected, reacting, more, wildness, .. }) = newest else { return };
        // A gap counts as one lead time: what wasn't compared isn't known.
        let elapsed = self.at.replace(at).map_or(self.lead, |before| (at - before).min(self.lead));
        self.margin.learn(load, expected, wildness, elapsed);
        let Some(more) = more else { return };
        let weight = if load > reacting + self.share() * more { 1.0 } else { ABOVE };
        self.product.add(weight * (load - reacting) * more, elapsed);
        self.square.add(weight * more * more, elapsed);
        self.seconds = (self.seconds + elapsed).min(HALF_LIFE);
    }
}
