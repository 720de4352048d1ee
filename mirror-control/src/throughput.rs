//! Does the authority still answer what it is asked? A server that swallows requests makes no errors, and its latency is
//! never known: the turns are missing.
//!
//! Fewer answers alone are no sign: load falls by itself. So clients must be seen to wait, too, and that it isn't what they ask
//! for that takes so long: only turns count that the other side, which gets every request, has answered long ago.

use std::fmt;

use mirror_common::switch_word::Side;
use serde::{Deserialize, Serialize};

/// Seconds for which a tick's part in the usual falls to 1/e.
const MEMORY: f64 = 600.0;
/// Seconds of the past without which nothing is usual.
const LEAST_PAST: f64 = 60.0;
/// Looks that it takes at least: one that came late shows nothing.
const LEAST_TICKS: u32 = 3;
/// As many times the usual count of unanswered turns is no news.
const USUAL_TURNS: f64 = 2.0;

/// What is taken for a sign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThroughputPolicy {
    /// Share of the usual answers a second below which they have dropped.
    pub drop: f64,
    /// Seconds after which a turn is unanswered that the other side has answered, and the authority hasn't begun to.
    pub unanswered_seconds: f64,
    /// Unanswered turns at once, on average, beyond twice their usual number, without which no drop is a sign.
    pub turns: u32,
    /// Seconds on end for which the answers have dropped.
    pub seconds: f64,
}

impl Default for ThroughputPolicy {
    fn default() -> Self {
        Self { drop: 0.5, unanswered_seconds: 2.0, turns: 5, seconds: 10.0 }
    }
}

impl ThroughputPolicy {
    /// Checks every number.
    ///
    /// # Errors
    /// The name of the first one that is out of range.
    pub fn validate(&self) -> Result<(), &'static str> {
        let bad = [
            (!(0.0..1.0).contains(&self.drop), "throughput.drop"),
            (!(0.1..=600.0).contains(&self.unanswered_seconds), "throughput.unanswered_seconds"),
            (self.turns == 0, "throughput.turns"),
            (!(1.0..=3_600.0).contains(&self.seconds), "throughput.seconds"),
        ];
        bad.iter().find(|(bad, _)| *bad).map_or(Ok(()), |(_, name)| Err(name))
    }
}

/// What was seen of clients' turns in a short time, a second as a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answered {
    /// Its length.
    pub seconds: f64,
    /// Who has the authority at its end.
    pub authority: Side,
    /// Turns whose answer clients were shown in it, whichever side's.
    pub answered: u64,
    /// Turns that are unanswered at its end ([`ThroughputPolicy::unanswered_seconds`]).
    pub unanswered: u32,
}

/// The answers have dropped, and clients wait for them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shortfall {
    /// Usual answers a second.
    pub usual: f64,
    /// Answers a second since they dropped.
    pub answered: f64,
    /// Turns at once, on average, that wait though the other side has answered them.
    pub unanswered: f64,
    /// Seconds for which it has been so.
    pub seconds: f64,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { usual, answered, unanswered, seconds } = self;
        write!(
            f,
            "{answered:.1} answers a second beside {usual:.1} for {seconds:.0} s, and {unanswered:.0} turns wait that the other \
             side has answered"
        )
    }
}

/// Sums whose older parts fade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Faded {
    seconds: f64,
    answered: f64,
    unanswered: f64,
}

/// Answers a second, and unanswered turns at once.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rates {
    answered: f64,
    unanswered: f64,
}

impl Faded {
    /// `memory`: seconds for which a tick's part falls to 1/e.
    fn add(&mut self, tick: &Answered, memory: f64) {
        let fade = (-tick.seconds / memory).exp();
        let add = |sum: &mut f64, more: f64| *sum = *sum * fade + more;
        add(&mut self.seconds, tick.seconds);
        add(&mut self.answered, tick.answered as f64);
        add(&mut self.unanswered, f64::from(tick.unanswered) * tick.seconds);
    }

    /// Of the ticks so far; there is one.
    fn rates(&self) -> Rates {
        Rates { answered: self.answered / self.seconds, unanswered: self.unanswered / self.seconds }
    }
}

/// The drop that is going on, under one authority. Clients that give up come again, all at once perhaps: how many wait is
/// a mean, over the policy's seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Drop {
    authority: Side,
    ticks: u32,
    seconds: f64,
    answered: f64,
    waiting: Faded,
    /// What was usual when it began.
    usual: Rates,
}

impl Drop {
    fn new(authority: Side, usual: Rates) -> Self {
        Self { authority, ticks: 0, seconds: 0.0, answered: 0.0, waiting: Faded::default(), usual }
    }

    fn add(&mut self, tick: &Answered, memory: f64) {
        self.ticks = self.ticks.saturating_add(1);
        self.seconds += tick.seconds;
        self.answered += tick.answered as f64;
        self.waiting.add(tick, memory);
    }

    /// Whether it has lasted, and those that wait explain it: more than usual, and more of them than were answered in the
    /// time that they have waited at least.
    fn shown(&self, policy: &ThroughputPolicy) -> Option<Shortfall> {
        let now = self.waiting.rates();
        let shown = self.ticks >= LEAST_TICKS
            && self.seconds >= policy.seconds
            && now.unanswered >= f64::from(policy.turns) + USUAL_TURNS * self.usual.unanswered
            && now.unanswered > now.answered * policy.unanswered_seconds;
        shown.then(|| Shortfall {
            usual: self.usual.answered,
            answered: self.answered / self.seconds,
            unanswered: now.unanswered,
            seconds: self.seconds,
        })
    }
}

/// The answers' past, and the drop that is going on. One for each migration; it watches all of it, so that what is usual is
/// known when the authority changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    usual: Faded,
    #[serde(skip)]
    drop: Option<Drop>,
}

impl Throughput {
    /// Takes a tick in. One whose length is no length, or 0, isn't one.
    pub fn observe(&mut self, policy: &ThroughputPolicy, tick: &Answered) {
        if !(tick.seconds.is_finite() && tick.seconds > 0.0) {
            return;
        }
        // What the last authority left undone says nothing about this one.
        let going_on = self.drop.filter(|drop| drop.authority == tick.authority);
        let known = (self.usual.seconds >= LEAST_PAST).then(|| Drop::new(tick.authority, self.usual.rates()));
        self.drop = going_on.or(known).filter(|drop| {
            let rate = tick.answered as f64 / tick.seconds;
            rate < policy.drop * drop.usual.answered
        });
        if let Some(drop) = &mut self.drop {
            drop.add(tick, policy.seconds);
        }
        // A drop that nobody acted on is the usual load in the end.
        self.usual.add(tick, MEMORY);
    }

    /// The drop, once it is shown.
    pub fn shortfall(&self, policy: &ThroughputPolicy) -> Option<Shortfall> {
        self.drop.and_then(|drop| drop.shown(policy))
    }
}

#[cfg(test)]
mod tests;
