//! Reasons, as people read them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Capacity, Command};
use crate::{appointment::Note, weight};

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
    /// Something is wrong, and the primary is out of sync: there is no way back by itself.
    NoWayBack,
    /// A side's capacity stands in the way: which side, and what is wrong.
    Capacity(String, Capacity),
    /// The shadow's size was decided on, in words.
    Scaling(String),
    /// Told to end; all reads go to the primary.
    Aborting,
    /// Somebody else moved the traffic.
    Overtaken,
    /// It is over.
    Over,
    /// About a cutover that was ordered beforehand.
    Appointment(Note),
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
            Why::NoWayBack => write!(f, "the primary is out of sync: no rollback by itself; mirror join APP"),
            Why::Capacity(side, capacity) => write!(f, "the {side}'s capacity: {capacity}"),
            Why::Scaling(words) => write!(f, "{words}"),
            Why::Aborting => write!(f, "aborted: all reads are the primary's"),
            Why::Overtaken => write!(f, "somebody moved the traffic by hand"),
            Why::Over => write!(f, "it is over"),
            Why::Appointment(note) => write!(f, "{note}"),
        }
    }
}
