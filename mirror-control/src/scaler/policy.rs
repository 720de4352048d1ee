//! What may be scaled, how far and how fast.

use serde::{Deserialize, Serialize};

/// Units are whatever the driver adds and takes away: replicas, or parts of a core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScalerPolicy {
    /// Whether decisions are carried out. Otherwise they are only said.
    pub armed: bool,
    /// Fewest units.
    pub least: u32,
    /// Most units: never more, whatever the load.
    pub most: u32,
    /// What being ahead of the load may cost.
    pub budget: Option<Budget>,
    /// The forecast's quantile that counts as expected, 0 to 1.
    pub quantile: f64,
    /// What an hour short of capacity is worth, in hours of the capacity that the mean load needs.
    pub shortage_price: f64,
    /// Capacity for each unit of load while it isn't known yet how far expectations err.
    pub untried_factor: f64,
    /// Capacity goes when for so long no more was wanted.
    pub hold_seconds: f64,
}

/// What being ahead may cost. Need of the moment is always met, up to `most`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Hours of units beyond what the load needs, a day. What isn't spent in a day is lost.
    pub unit_hours_a_day: f64,
}

impl Default for ScalerPolicy {
    fn default() -> Self {
        Self {
            armed: false,
            least: 1,
            most: 10,
            budget: None,
            quantile: 0.5,
            shortage_price: 25.0,
            untried_factor: 1.5,
            hold_seconds: 300.0,
        }
    }
}

/// Why a policy makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScalerPolicyError {
    /// No capacity at all, or no room between the bounds.
    #[error("least is {least} and most is {most}: at least 1, and least isn't above most")]
    Bounds {
        /// Fewest units.
        least: u32,
        /// Most units.
        most: u32,
    },
    /// A number out of its range.
    #[error("{name} is {value}: it is from {from} to {to}")]
    Range {
        /// The field.
        name: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        from: f64,
        /// What it may be.
        to: f64,
    },
}

impl ScalerPolicy {
    /// Checks every number.
    ///
    /// # Errors
    /// The first one that makes no sense.
    pub fn validate(&self) -> Result<(), ScalerPolicyError> {
        if self.least == 0 || self.least > self.most {
            return Err(ScalerPolicyError::Bounds { least: self.least, most: self.most });
        }
        let spare = self.budget.map_or(0.0, |budget| budget.unit_hours_a_day);
        let ranges = [
            ("quantile", self.quantile, 0.01, 0.9999),
            ("shortage_price", self.shortage_price, 0.0, 1e6),
            ("untried_factor", self.untried_factor, 1.0, 10.0),
            ("hold_seconds", self.hold_seconds, 0.0, 86_400.0),
            ("unit_hours_a_day", spare, 0.0, 1e9),
        ];
        let wrong = ranges.into_iter().find(|(_, value, from, to)| !(*from..=*to).contains(value));
        wrong
            .map_or(Ok(()), |(name, value, from, to)| Err(ScalerPolicyError::Range { name, value, from, to }))
    }
}
