//! Whether a side carries what is forecast: a precondition of the cutover, and of a rollback from what is merely worse.

use std::fmt;

use mirror_common::switch_word::Side;
use serde::{Deserialize, Serialize};

use super::Why;

/// What a side has, beside what is forecast that it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capacity {
    /// Enough.
    Enough,
    /// Too little.
    Short {
        /// Of what, with its unit.
        resource: String,
        /// What is needed.
        needs: f64,
        /// What there is.
        has: f64,
    },
    /// What it needs isn't known: why.
    Unknown(String),
}

impl Capacity {
    /// Of one resource.
    #[must_use]
    pub fn of(resource: &str, needs: f64, has: f64) -> Self {
        if needs <= has { Self::Enough } else { Self::Short { resource: resource.into(), needs, has } }
    }

    /// Of two resources: the one that stands in the way, and what is short before what isn't known.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Short { .. }, _) | (Self::Unknown(_), Self::Enough | Self::Unknown(_)) => self,
            _ => other,
        }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enough => write!(f, "enough for what is forecast"),
            Self::Short { resource, needs, has } => {
                write!(f, "too small for what is forecast: {needs:.2} {resource} needed, {has:.2} there")
            }
            Self::Unknown(why) => write!(f, "whether it is enough isn't known: {why}"),
        }
    }
}

/// Why traffic doesn't go back to the primary from a shadow that answers, but worse: it is known to be too small.
pub(super) fn too_small_to_go_back(capacity: &[Option<Capacity>; 2]) -> Option<Why> {
    let primary = capacity[Side::Primary as usize].as_ref();
    let short = primary.filter(|capacity| matches!(capacity, Capacity::Short { .. }))?;
    Some(Why::Capacity(Side::Primary.name().into(), short.clone()))
}
