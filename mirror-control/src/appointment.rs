//! A cutover that an operator ordered beforehand: a window of wall-clock time, and what becomes of it when that clock is set.
//!
//! ```text
//!   ordered ──► waits ──► open ──► made, or failed
//!                 │         └─ its time is over ──► not ready
//!                 └─ the window went by unseen ───► missed
//! ```
//! The window is of the wall clock, since that is what the operator named. Set ahead into the window it opens; set ahead past
//! it, or the daemon down for all of it, it is missed, and nothing is moved. Set back before it opens, it is waited for anew;
//! once open it stays so, and ends by the monotonic clock: no clock opens a window twice or keeps one open longer than ordered.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::precondition::Precondition;

/// A window that was given no end ends so long after its begin, in milliseconds.
pub const LATE_MS: u64 = 60_000;
/// Nobody orders farther ahead, in milliseconds.
pub const FARTHEST_MS: u64 = 30 * 86_400_000;
/// The wall clock was set when it differs from the monotonic one by more, in milliseconds.
const STEP_MS: u64 = 2_000;

/// What was ordered. Times are milliseconds since 1970, UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appointment {
    /// Not before.
    pub at_ms: u64,
    /// Before that, or not at all.
    pub until_ms: u64,
    /// The migration under way makes it, once it is ready; otherwise it is made at once.
    pub by_migration: bool,
    /// By whom.
    pub who: String,
    /// Preconditions that it is made without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub despite: Vec<Precondition>,
}

/// Why an order makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Its begin, or its end.
    #[error("that time is past")]
    Past,
    /// The end.
    #[error("it would expire before it begins")]
    Backwards,
    /// The end.
    #[error("that is more than 30 days ahead")]
    TooFar,
}

impl Appointment {
    /// Checks an order's times against the wall clock, in milliseconds since 1970.
    ///
    /// # Errors
    /// What makes no sense.
    pub fn check(&self, wall_ms: u64) -> Result<(), OrderError> {
        if self.until_ms <= self.at_ms {
            return Err(OrderError::Backwards);
        }
        // What begins now was ordered a moment ago.
        if self.at_ms + STEP_MS < wall_ms || self.until_ms <= wall_ms {
            return Err(OrderError::Past);
        }
        if self.until_ms > wall_ms.saturating_add(FARTHEST_MS) { Err(OrderError::TooFar) } else { Ok(()) }
    }
}

/// What became of an order. Displayed for people, kept in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// It stands.
    Ordered(Appointment),
    /// Its window is open.
    Opened,
    /// The wall clock was set, by so many milliseconds; the order stands.
    ClockSet(i64),
    /// The shadow has the authority.
    Made,
    /// It was tried; why it failed.
    Failed(String),
    /// The window is over, and the cutover couldn't be made in it.
    NotReady,
    /// The window went by unseen: the daemon was down, or the clock was set past it.
    Missed,
    /// By whom.
    Cancelled(String),
}

impl Note {
    /// The order is done with.
    pub const fn ends(&self) -> bool {
        matches!(self, Self::Made | Self::Failed(_) | Self::NotReady | Self::Missed | Self::Cancelled(_))
    }

    /// Its name, as in events.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ordered(_) => "ordered",
            Self::Opened => "opened",
            Self::ClockSet(_) => "clock_set",
            Self::Made => "made",
            Self::Failed(_) => "failed",
            Self::NotReady => "not_ready",
            Self::Missed => "missed",
            Self::Cancelled(_) => "cancelled",
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ordered(order) => {
                write!(f, "cutover ordered by {}: from {} ", order.who, time(order.at_ms))?;
                write!(f, "until {}", time(order.until_ms))?;
                let waived: Vec<_> = order.despite.iter().map(|waived| waived.name()).collect();
                if waived.is_empty() { Ok(()) } else { write!(f, ", despite {}", waived.join(", ")) }
            }
            Self::Opened => write!(f, "the ordered cutover's time has come"),
            Self::ClockSet(ms) => {
                let way = if *ms > 0 { "ahead" } else { "back" };
                write!(f, "the clock was set {way} by {:.0} s; ", ms.unsigned_abs() as f64 / 1e3)?;
                write!(f, "the cutover stays ordered by the new time")
            }
            Self::Made => write!(f, "the ordered cutover is made"),
            Self::Failed(why) => write!(f, "the ordered cutover failed: {why}"),
            Self::NotReady => write!(f, "the ordered cutover has expired: it couldn't be made in its time"),
            Self::Missed => {
                write!(f, "the ordered cutover was missed: the daemon was down, or the clock was set past it")
            }
            Self::Cancelled(who) => write!(f, "the ordered cutover was cancelled by {who}"),
        }
    }
}

/// A time, UTC.
fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{ms} ms"), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Both clocks, in milliseconds. The monotonic one's zero is anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Since 1970, UTC; may be set.
    pub wall_ms: u64,
    /// Only goes on.
    pub monotonic_ms: u64,
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its time hasn't come.
    Waits,
    /// The cutover may be made.
    Open,
    /// It is over.
    Over,
}

/// An order that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What was ordered.
    pub order: Appointment,
    /// The window has opened; on the monotonic clock.
    opened_ms: Option<u64>,
    seen: Option<Clocks>,
}

impl Pending {
    /// One that has just been ordered, or that the journal has.
    pub const fn new(order: Appointment) -> Self {
        Self { order, opened_ms: None, seen: None }
    }

    /// Whether its window is open.
    pub const fn is_open(&self) -> bool {
        self.opened_ms.is_some()
    }

    /// Looks at the clocks. Returns where it stands, and what has to be said.
    pub fn look(&mut self, now: Clocks) -> (Turn, Vec<Note>) {
        let mut notes = Vec::new();
        if let Some(before) = self.seen.replace(now) {
            let passed = now.monotonic_ms.saturating_sub(before.monotonic_ms) as i64;
            let set = now.wall_ms as i64 - before.wall_ms as i64 - passed;
            if set.unsigned_abs() > STEP_MS {
                notes.push(Note::ClockSet(set));
            }
        }
        let length = self.order.until_ms.saturating_sub(self.order.at_ms);
        let over = match self.opened_ms {
            Some(opened) if now.monotonic_ms.saturating_sub(opened) >= length => Some(Note::NotReady),
            Some(_) if now.wall_ms >= self.order.until_ms => Some(Note::NotReady),
            None if now.wall_ms >= self.order.until_ms => Some(Note::Missed),
            _ => None,
        };
        if let Some(over) = over {
            notes.push(over);
            return (Turn::Over, notes);
        }
        if self.opened_ms.is_none() {
            if now.wall_ms < self.order.at_ms {
                return (Turn::Waits, notes);
            }
            self.opened_ms = Some(now.monotonic_ms);
            notes.push(Note::Opened);
        }
        (Turn::Open, notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_800_000_000_000;

    fn pending() -> Pending {
        let order = Appointment {
            at_ms: AT,
            until_ms: AT + 600_000,
            by_migration: true,
            who: "ann".into(),
            despite: Vec::new(),
        };
        Pending::new(order)
    }

    /// Seconds from the window's begin on the wall clock, and seconds of the monotonic one.
    fn look(pending: &mut Pending, wall: i64, monotonic: u64) -> (Turn, Vec<Note>) {
        let wall_ms = (AT as i64 + wall * 1_000) as u64;
        pending.look(Clocks { wall_ms, monotonic_ms: monotonic * 1_000 })
    }

    #[test]
    fn it_waits_opens_once_and_expires() {
        let mut pending = pending();
        assert_eq!(look(&mut pending, -2, 10), (Turn::Waits, vec![]));
        assert_eq!(look(&mut pending, -1, 11), (Turn::Waits, vec![]));
        assert_eq!(look(&mut pending, 0, 12), (Turn::Open, vec![Note::Opened]));
        assert_eq!(look(&mut pending, 1, 13), (Turn::Open, vec![]));
        assert_eq!(look(&mut pending, 599, 611), (Turn::Open, vec![]));
        assert_eq!(look(&mut pending, 600, 612), (Turn::Over, vec![Note::NotReady]));
    }

    #[test]
    fn a_clock_that_is_set_back_before_the_time_is_waited_for() {
        let mut pending = pending();
        look(&mut pending, -1, 10);
        assert_eq!(look(&mut pending, -3_600, 11), (Turn::Waits, vec![Note::ClockSet(-3_600_000)]));
        assert_eq!(look(&mut pending, -3_599, 12), (Turn::Waits, vec![]));
    }

    /// C8: an ordered move's window goes by the monotonic clock.
    #[test]
    fn a_clock_that_is_set_back_in_the_window_neither_shuts_it_nor_keeps_it_open() {
        let mut pending = pending();
        look(&mut pending, 0, 10);
        assert_eq!(look(&mut pending, -3_600, 11), (Turn::Open, vec![Note::ClockSet(-3_601_000)]));
        assert_eq!(look(&mut pending, -3_002, 609).0, Turn::Open);
        assert_eq!(look(&mut pending, -3_001, 610), (Turn::Over, vec![Note::NotReady]));
    }

    #[test]
    fn a_clock_that_is_set_ahead_into_the_window_opens_it_and_past_it_misses_it() {
        let mut into = pending();
        look(&mut into, -3_600, 10);
        assert_eq!(look(&mut into, 5, 11), (Turn::Open, vec![Note::ClockSet(3_604_000), Note::Opened]));
        let mut past = pending();
        look(&mut past, -3_600, 10);
        assert_eq!(look(&mut past, 601, 11), (Turn::Over, vec![Note::ClockSet(4_200_000), Note::Missed]));
    }

    #[test]
    fn a_daemon_that_comes_back_keeps_what_it_can() {
        assert_eq!(look(&mut pending(), -5, 0).0, Turn::Waits);
        assert_eq!(look(&mut pending(), 30, 0), (Turn::Open, vec![Note::Opened]));
        assert_eq!(look(&mut pending(), 700, 0), (Turn::Over, vec![Note::Missed]));
    }

    #[test]
    fn orders_that_make_no_sense_are_refused() {
        let order = |at_ms, until_ms| Appointment { at_ms, until_ms, ..pending().order };
        assert_eq!(order(AT, AT + 1).check(AT - 1), Ok(()));
        assert_eq!(order(AT, AT + 5_000).check(AT + 1_000), Ok(()), "now");
        assert_eq!(order(AT, AT).check(AT - 1), Err(OrderError::Backwards));
        assert_eq!(order(AT, AT + 60_000).check(AT + 3_000), Err(OrderError::Past));
        assert_eq!(order(AT, AT + 1).check(AT + 1), Err(OrderError::Past));
        assert_eq!(order(AT, AT + FARTHEST_MS).check(AT - 1), Err(OrderError::TooFar));
    }

    #[test]
    fn what_is_said_names_times_and_people() {
        let said = Note::Ordered(pending().order).to_string();
        assert_eq!(said, "cutover ordered by ann: from 2027-01-15T08:00:00Z until 2027-01-15T08:10:00Z");
        assert!(Note::ClockSet(-90_000).to_string().contains("set back by 90 s"));
    }
}
