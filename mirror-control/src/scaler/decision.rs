//! What is wanted, and why, for people to read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a decision rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The forecast asks for the most.
    Forecast,
    /// The load and its trend do.
    Load,
    /// How far expectations err isn't known yet: a fixed factor of the load, or the forecast if that is more.
    Untried,
    /// Less would do, but not for long enough.
    Held,
    /// The policy's fewest.
    Least,
    /// The policy's most.
    Most,
    /// The budget is spent: the load of the moment alone.
    Budget,
    /// Neither load nor forecast, or no load and the forecast asks for less: what there is stays.
    NoLoad,
    /// What a unit carries isn't known: what there is stays.
    NoUnit,
    /// The clock stood still or went back: what there is stays.
    Clock,
}

impl Cause {
    /// For people.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::Forecast => "the forecast asks for it",
            Self::Load => "the load and its trend ask for it",
            Self::Untried => {
                "expectations aren't compared for an hour yet: a fixed factor of the load, or the forecast if that is more"
            }
            Self::Held => "less would do, but not for long enough",
            Self::Least => "the policy's fewest",
            Self::Most => "the policy's most",
            Self::Budget => "the budget is spent: the load of the moment alone",
            Self::NoLoad => "the load isn't measured: what there is stays",
            Self::NoUnit => "what a unit carries isn't measured: what there is stays",
            Self::Clock => "the clock stood still or went back: what there is stays",
        }
    }
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Units that there are.
    pub current: u32,
    /// Units that are wanted.
    pub wanted: u32,
    /// Why so many.
    pub cause: Cause,
    /// The load that is expected a lead time ahead.
    pub expected: Option<f64>,
    /// The load now.
    pub load: Option<f64>,
    /// The lead time.
    pub lead_seconds: f64,
    /// Whether the policy lets it be done.
    pub armed: bool,
}

impl Decision {
    /// The units to scale to: `None` when nothing is to be done, or the policy isn't armed.
    #[must_use]
    pub fn to_do(&self) -> Option<u32> {
        (self.armed && self.wanted != self.current).then_some(self.wanted)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let would = if self.armed { "" } else { "dry run: would " };
        if self.wanted == self.current {
            write!(f, "{would}keep {} units", self.current)?;
        } else {
            write!(f, "{would}scale from {} to {} units", self.current, self.wanted)?;
        }
        write!(f, ": {}", self.cause.help())?;
        if let (Some(expected), Some(load)) = (self.expected, self.load) {
            let lead = self.lead_seconds;
            write!(f, " (load {load:.1}, {expected:.1} expected in {lead:.0} s)")?;
        }
        Ok(())
    }
}
