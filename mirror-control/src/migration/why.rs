//! Reasons, as people read them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Capacity, Command};
use crate::{appointment::Note, precondition::Check, throughput::Shortfall, weight};

/// Why something was decided, or waits. Displayed for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// By the weight controller.
    Weight(weight::Reason),
    /// The primary hasn't been seen for long enough to judge by.
    Learning,
    /// The shadow isn't in sync.
    OutOfSync,
    /// It is.
    InSync,
    /// A move has ended well.
    Made(String),
    /// A move failed: which, why, which attempt of how many.
    Failed(String, String, u32, u32),
    /// The end of a move that isn't waited for any more.
    Late(String),
    /// Seconds until a move is tried again.
    Retry(f64),
    /// An operator asked: what, who.
    Asked(Command, String),
    /// Ready; an operator makes the cutover.
    AwaitsOperator,
    /// Seconds of standby that are left.
    StandingBy(f64),
    /// The standby's time is over, and nothing was wrong.
    StoodBy,
    /// The health checks of the new authority have failed for so many seconds.
    Unhealthy(f64),
    /// The new authority leaves requests unanswered.
    Shortfall(Shortfall),
    /// The shadow isn't well, and isn't joined before it is: its health check fails, or its circuit breaker is open.
    Unwell,
    /// Something is wrong, and the primary is out of sync: there is no way back by itself.
    NoWayBack,
    /// The new authority has been dead for so many seconds, and the primary takes over though it lacks writes.
    AvailabilityFirst(f64),
    /// A side's capacity stands in the way of the rollback: which side, and what is wrong.
    Capacity(String, Capacity),
    /// The cutover waits for this.
    Precondition(Check),
    /// The shadow's size was decided on, in words.
    Scaling(String),
    /// How a side's circuit breaker stands, in words.
    Breaker(String),
    /// Told to end; all reads go to the primary.
    Aborting,
    /// Somebody else moved the traffic.
    Overtaken,
    /// It is over.
    Over,
    /// About a cutover that was ordered beforehand.
    Appointment(Note),
}

/// What a reason rests on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grounds {
    /// Natural logarithm of the evidence; nothing where none was compared.
    pub evidence: Option<f64>,
    /// What it has to pass, likewise.
    pub bound: f64,
    /// Requests of the shadow (compared turns, while no read has moved).
    pub samples: u64,
}

impl Why {
    /// Its name, as in the journal, in events and in metrics.
    pub fn name(&self) -> String {
        match self {
            Self::Weight(reason) => tag(reason),
            Self::Precondition(check) => check.precondition.name().into(),
            other => tag(other),
        }
    }

    /// What it rests on, where that is evidence.
    pub fn grounds(&self) -> Option<Grounds> {
        use weight::Reason::{LowTraffic, NoWorse, Undecided, Worse};
        match self {
            Self::Weight(Worse(finding)) => Some(Grounds {
                evidence: Some(finding.evidence),
                bound: finding.threshold,
                samples: finding.samples,
            }),
            Self::Weight(NoWorse(progress) | LowTraffic(progress) | Undecided(progress)) => Some(Grounds {
                evidence: progress.evidence.iter().flatten().copied().reduce(f64::min),
                bound: progress.threshold,
                samples: progress.have,
            }),
            _ => None,
        }
    }
}

/// The name of an enum's variant, as it is serialized.
fn tag(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Weight(reason) => write!(f, "{reason}"),
            Why::Learning => write!(f, "the primary hasn't been seen for long enough to judge by"),
            Why::OutOfSync => write!(f, "the shadow is out of sync"),
            Why::InSync => write!(f, "the shadow is in sync"),
            Why::Made(made) => write!(f, "{made} done"),
            Why::Failed(made, error, attempt, of) => write!(f, "{made} failed ({attempt} of {of}): {error}"),
            Why::Late(made) => write!(f, "{made} has ended; what became of it was known"),
            Why::Retry(left) => write!(f, "the next attempt is in {left:.0} s"),
            Why::Asked(command, who) => write!(f, "{} by {who}", format!("{command:?}").to_lowercase()),
            Why::AwaitsOperator => write!(f, "ready: an operator makes the cutover"),
            Why::StandingBy(left) => write!(f, "the primary stands by for {left:.0} s more"),
            Why::StoodBy => write!(f, "the standby is over, and nothing was wrong"),
            Why::Unhealthy(seconds) => {
                write!(f, "the authority's health checks have failed for {seconds:.0} s")
            }
            Why::Shortfall(shortfall) => write!(f, "{shortfall}"),
            Why::Unwell => write!(f, "the shadow isn't well: it joins when its health check is good"),
            Why::NoWayBack => write!(f, "the primary is out of sync: no rollback by itself; mirror join APP"),
            Why::AvailabilityFirst(seconds) => write!(
                f,
                "the authority's health checks have failed for {seconds:.0} s, and the primary takes over though it is out of \
                 sync: what it lacks is lost (availability_first)"
            ),
            Why::Capacity(side, capacity) => write!(f, "the {side}'s capacity: {capacity}"),
            Why::Precondition(check) => write!(f, "{check}"),
            Why::Scaling(words) | Why::Breaker(words) => write!(f, "{words}"),
            Why::Aborting => write!(f, "aborted: all reads are the primary's"),
            Why::Overtaken => write!(f, "somebody moved the traffic by hand"),
            Why::Over => write!(f, "it is over"),
            Why::Appointment(note) => write!(f, "{note}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{Finding, Metric};

    #[test]
    fn reasons_have_names_and_grounds() {
        let finding = Finding {
            metric: Metric::Errors,
            evidence: 8.5,
            threshold: 7.6,
            primary: 0.0,
            allowed: 0.001,
            shadow: 0.1,
            samples: 900,
            gross: false,
        };
        let worse = Why::Weight(weight::Reason::Worse(finding));
        assert_eq!(worse.name(), "worse");
        assert_eq!(worse.grounds(), Some(Grounds { evidence: Some(8.5), bound: 7.6, samples: 900 }));
        assert_eq!((Why::OutOfSync.name(), Why::OutOfSync.grounds()), ("out_of_sync".into(), None));
        assert_eq!(Why::Failed("join".into(), "x".into(), 1, 3).name(), "failed");
    }
}
