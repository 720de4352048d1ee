//! What becomes of a mirror that holds clients back without being late.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// What becomes of a mirror's leg that holds a request back for `pressure_budget`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Pressure {
    /// Nothing: long requests go at the slower side's pace.
    #[default]
    Wait,
    /// It is lost; as it has only a part of the request, its side is out of sync.
    DropLeg,
}

/// A time from 1 to 60 seconds, as `"10s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(Duration);

impl Budget {
    const LEAST: Duration = Duration::from_secs(1);
    /// The datapath's clock for it has a minute.
    const MOST: Duration = Duration::from_secs(60);

    /// The time.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let budget = super::parse_duration(&text).map_err(de::Error::custom)?;
        if (Self::LEAST..=Self::MOST).contains(&budget) {
            return Ok(Self(budget));
        }
        Err(de::Error::custom(format!("`{text}` is no budget: write a time from 1s to 60s")))
    }
}

impl Pressure {
    /// As the datapath has it, in milliseconds; 0: for ever.
    pub fn ms(self, budget: Budget) -> u32 {
        match self {
            Self::Wait => 0,
            Self::DropLeg => budget.get().as_millis() as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Both {
        #[serde(default)]
        pressure: Pressure,
        #[serde(default)]
        pressure_budget: Budget,
    }

    fn ms(text: &str) -> Result<u32, String> {
        let both: Both = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        Ok(both.pressure.ms(both.pressure_budget))
    }

    #[test]
    fn who_waits_has_no_budget() {
        assert_eq!(ms(""), Ok(0));
        assert_eq!(ms("pressure = \"wait\"\npressure_budget = \"5s\""), Ok(0));
        assert_eq!(ms("pressure = \"drop-leg\""), Ok(10_000));
        assert_eq!(ms("pressure = \"drop-leg\"\npressure_budget = \"60s\""), Ok(60_000));
    }

    #[test]
    fn a_budget_has_bounds() {
        for wrong in ["999ms", "61s", "soon"] {
            let text = format!("pressure = \"drop-leg\"\npressure_budget = \"{wrong}\"");
            assert!(ms(&text).is_err_and(|what| what.contains(wrong)), "{wrong}");
        }
    }
}
