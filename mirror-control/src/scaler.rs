//! How much capacity is wanted, a driver's lead time ahead.
//!
//! ```text
//!  expected = a mean of the forecast at now + lead and of load now + its trend, weighted as would have erred least;
//!             the latter alone for leads of a minute or less
//!  wanted   = (expected + margin) / what a unit carries, rounded up; never less than the load now needs
//!  margin   = the m of least m / mean load + price x P(load - expected > m), by the past
//! ```
//! Up at once, down when nothing has asked for more for a while. Both are learned, so that one setting serves calm and wild
//! loads. docs/STATISTICS.md has the figures.

mod decayed;
mod decision;
mod expectation;
mod margin;
mod policy;

use std::{collections::VecDeque, time::Duration};

pub use decision::{Cause, Decision};
pub use policy::{Budget, ScalerPolicy, ScalerPolicyError};

use expectation::Expectation;

/// The load's trend is that of a minute, and drawn on for so long at most: of less it is noise, farther out too.
const TREND: f64 = 60.0;
/// Loads that the trend is taken from, at most.
const MAX_RECENT: usize = 120;
/// Days and hours, in seconds.
const DAY: f64 = 86_400.0;
const HOUR: f64 = 3_600.0;
/// Room against rounding: 3.0000000001 units are 3.
const ROUNDING: f64 = 1e-9;

/// What is known at one time. Loads are of one metric: requests a second, cores, bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Seconds on a clock that never goes back.
    pub at: f64,
    /// The load now; `None` where nothing was measured.
    pub load: Option<f64>,
    /// What is forecast for `at` plus the lead time: the quantile that the policy names.
    pub forecast: Option<f64>,
    /// The load that one unit of capacity carries, as measured.
    pub unit: Option<f64>,
    /// Units that there are, or are on their way.
    pub current: u32,
}

/// Decides on capacity, from what is seen every few seconds.
#[derive(Clone, Debug)]
pub struct Scaler {
    policy: ScalerPolicy,
    lead: f64,
    expectation: Expectation,
    /// The last minute's loads with their times, oldest first.
    recent: VecDeque<(f64, f64)>,
    /// The newest time seen.
    at: Option<f64>,
    /// What was wanted and when, within the hold time: falling, newest last.
    held: VecDeque<(f64, u32)>,
    /// Unit-seconds that may still be spent on being ahead.
    spare: f64,
}

impl Scaler {
    /// For a driver with that lead time.
    ///
    /// # Errors
    /// If the policy makes no sense.
    pub fn new(policy: ScalerPolicy, lead: Duration) -> Result<Self, ScalerPolicyError> {
        policy.validate()?;
        let spare = policy.budget.map_or(0.0, |budget| budget.unit_hours_a_day * HOUR);
        let lead = lead.as_secs_f64();
        Ok(Self {
            policy,
            lead,
            expectation: Expectation::new(lead),
            recent: VecDeque::new(),
            at: None,
            held: VecDeque::new(),
            spare,
        })
    }

    /// What is wanted now, and why. Nothing is done by it: a decision that isn't armed is for people to read.
    pub fn decide(&mut self, seen: &Seen) -> Decision {
        let known = |value: Option<f64>| value.filter(|value| value.is_finite() && *value >= 0.0);
        let unit = known(seen.unit).filter(|unit| *unit > 0.0);
        let is_new = seen.at.is_finite() && self.at.is_none_or(|at| seen.at > at);
        // As far as the trend reaches it tells more than a forecast, whose steps are longer.
        let load = known(seen.load);
        let forecast = known(seen.forecast).filter(|_| load.is_none() || self.lead > TREND);
        if !is_new {
            return self.keep(seen, Cause::Clock);
        }
        let before = self.at.replace(seen.at);
        let elapsed = seen.at - before.unwrap_or(seen.at);
        if before.is_none() {
            // What there is at first was wanted by somebody.
            self.hold_current(seen);
        }
        if let Some(load) = load {
            self.expectation.learn(seen.at, load);
        }
        let reacting = load.map(|load| self.reacting(seen.at, load));
        let Some(most) = forecast.into_iter().chain(reacting).reduce(f64::max) else {
            return self.keep_blind(seen, Cause::NoLoad);
        };
        let Some(unit) = unit else { return self.keep_blind(seen, Cause::NoUnit) };
        let mean = reacting.map_or(most, |reacting| self.expectation.expect(seen.at, reacting, forecast));
        let units = |load: f64| (load / unit - ROUNDING).ceil().clamp(0.0, f64::from(u32::MAX)) as u32;
        let is_ahead = forecast.is_some_and(|forecast| reacting.is_none_or(|now| forecast > now));
        let (expected, margin, mut cause) = match self.expectation.margin.worth(self.policy.shortage_price) {
            Some(margin) => (mean, margin, if is_ahead { Cause::Forecast } else { Cause::Load }),
            // What it errs by isn't known yet.
            None => {
                let untried = self.policy.untried_factor * load.unwrap_or(0.0);
                (most, (untried - most).max(0.0), Cause::Untried)
            }
        };
        let ahead = (expected + margin).max(load.unwrap_or(0.0));
        let mut wanted = units(ahead);
        let needed = load.map_or(0, units);
        if let Some(budget) = self.policy.budget {
            let bound =
                needed.saturating_add(self.afford(budget, elapsed, seen.current.saturating_sub(needed)));
            if wanted > bound {
                (wanted, cause) = (bound, Cause::Budget);
            }
        }
        let (wanted, cause) = self.bounded(wanted, cause);
        // What isn't measured is no reason to take capacity away.
        if load.is_none() && wanted < seen.current {
            return self.keep_blind(seen, Cause::NoLoad);
        }
        let held = self.hold(seen.at, wanted);
        let cause = if held > wanted && held <= seen.current { Cause::Held } else { cause };
        Decision { expected: Some(expected), ..self.decision(seen, held, cause) }
    }

    /// The load now and its trend, a lead time ahead or as far as a trend goes. A falling one counts as level.
    fn reacting(&mut self, at: f64, load: f64) -> f64 {
        while self.recent.front().is_some_and(|(then, _)| at - then > TREND)
            || self.recent.len() == MAX_RECENT
        {
            self.recent.pop_front();
        }
        let rise = self.recent.front().map_or(0.0, |(then, before)| (load - before) / (at - then));
        self.recent.push_back((at, load));
        load + rise.max(0.0) * self.lead.min(TREND)
    }

    /// Pays for the units that were ahead, and returns how many may be: what is wanted once is kept for a hold time.
    fn afford(&mut self, budget: Budget, elapsed: f64, ahead: u32) -> u32 {
        let a_day = budget.unit_hours_a_day * HOUR;
        self.spare = (self.spare + elapsed * (a_day / DAY - f64::from(ahead))).clamp(0.0, a_day);
        (self.spare / self.policy.hold_seconds.max(1.0)) as u32
    }

    fn bounded(&self, wanted: u32, cause: Cause) -> (u32, Cause) {
        if wanted > self.policy.most {
            (self.policy.most, Cause::Most)
        } else if wanted < self.policy.least {
            (self.policy.least, Cause::Least)
        } else {
            (wanted, cause)
        }
    }

    /// The most that was wanted within the hold time.
    fn hold(&mut self, at: f64, wanted: u32) -> u32 {
        while self.held.back().is_some_and(|(_, before)| *before <= wanted) {
            self.held.pop_back();
        }
        self.held.push_back((at, wanted));
        while self.held.front().is_some_and(|(then, _)| at - then > self.policy.hold_seconds) {
            self.held.pop_front();
        }
        self.held.front().map_or(wanted, |(_, most)| *most)
    }

    /// The same where something isn't measured: the hold time begins anew, since nobody saw what was wanted meanwhile.
    fn keep_blind(&mut self, seen: &Seen, cause: Cause) -> Decision {
        self.hold_current(seen);
        self.keep(seen, cause)
    }

    fn hold_current(&mut self, seen: &Seen) {
        let (current, _) = self.bounded(seen.current, Cause::Held);
        self.hold(seen.at, current);
    }

    /// What there is stays, within the bounds.
    fn keep(&self, seen: &Seen, cause: Cause) -> Decision {
        let (wanted, cause) = self.bounded(seen.current, cause);
        self.decision(seen, wanted, cause)
    }

    fn decision(&self, seen: &Seen, wanted: u32, cause: Cause) -> Decision {
        Decision {
            current: seen.current,
            wanted,
            cause,
            expected: None,
            load: seen.load,
            lead_seconds: self.lead,
            armed: self.policy.armed,
        }
    }
}

#[cfg(test)]
mod tests;
