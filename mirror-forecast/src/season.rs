//! Seasons, found from the data: a day, a week, both or none.

use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);
const DAYS_A_WEEK: usize = 7;
/// Whole cycles that must have been seen.
const CYCLES: usize = 2;
/// How far the correlation at the season's lag stands above that beside it.
const MARGIN: f64 = 0.05;
/// Correlation below which there is nothing to follow.
const LEAST: f64 = 0.1;
/// Pairs that a correlation is computed from, at least.
const PAIRS: usize = 24;

/// The seasons of a series, in steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seasons {
    /// The day, if it shows.
    pub day: Option<usize>,
    /// The week, if it shows.
    pub week: Option<usize>,
}

impl Seasons {
    /// Finds them. `values` has a gap where it isn't finite.
    ///
    /// A season shows when the series resembles itself a cycle ago more than half a cycle (a day: at night) or a
    /// few days (a week) beside it. A random walk resembles its near past most, and has none.
    #[must_use]
    pub fn find(values: &[f64], step: Duration) -> Self {
        let Some(day) = steps_a_day(step) else { return Self::default() };
        let week = day * DAYS_A_WEEK;
        let at = |lag: usize| autocorrelation(values, lag);
        let shows = |lag: usize, beside: &[usize]| {
            values.len() >= CYCLES * lag
                && at(lag).is_some_and(|peak| {
                    peak >= LEAST && beside.iter().filter_map(|lag| at(*lag)).all(|r| peak >= r + MARGIN)
                })
        };
        Self {
            day: shows(day, &[day / 2, day + day / 2]).then_some(day),
            week: shows(week, &[week - 3 * day, week - 2 * day, week - day / 2]).then_some(week),
        }
    }

    /// The shorter one.
    pub(crate) fn shortest(self) -> Option<usize> {
        self.day.or(self.week)
    }
}

/// Steps of a day, if a step divides it into enough to have a shape.
fn steps_a_day(step: Duration) -> Option<usize> {
    let steps = DAY.as_nanos().checked_div(step.as_nanos())?;
    usize::try_from(steps).ok().filter(|steps| *steps >= 4)
}

/// Correlation of the series with itself `lag` steps ago, over pairs without a gap.
fn autocorrelation(values: &[f64], lag: usize) -> Option<f64> {
    let pairs = || {
        let later = values.get(lag..).unwrap_or_default();
        values.iter().zip(later).filter(|(a, b)| a.is_finite() && b.is_finite())
    };
    let count = pairs().count();
    if count < PAIRS {
        return None;
    }
    let (sum_a, sum_b) = pairs().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
    let (mean_a, mean_b) = (sum_a / count as f64, sum_b / count as f64);
    let (mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0);
    for (a, b) in pairs() {
        let (a, b) = (a - mean_a, b - mean_b);
        aa += a * a;
        bb += b * b;
        ab += a * b;
    }
    let correlation = ab / (aa * bb).sqrt();
    correlation.is_finite().then_some(correlation)
}
