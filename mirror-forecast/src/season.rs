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
const PAIRS: usize = 12;
/// Bins of a day whose means are compared: single steps are too noisy to show a season.
const BINS_A_DAY: usize = 24;

/// The seasons of a series, in steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seasons {
    /// The day, if it shows.
    pub day: Option<usize>,
    /// The week, if it shows.
    pub week: Option<usize>,
}

impl Seasons {
    /// Those that the values are long enough for: two cycles. Whether they help, a forecast finds out by trying.
    pub(crate) fn possible(length: usize, step: Duration) -> Self {
        let spans = |cycle: &usize| length >= CYCLES * cycle;
        let day = steps_a_day(step);
        Self { day: day.filter(spans), week: day.map(|day| DAYS_A_WEEK * day).filter(spans) }
    }

    /// Finds them. `values` has a gap where it isn't finite.
    ///
    /// A season shows when the series resembles itself a cycle ago more than half a day (for the week: a few days)
    /// beside it. A random walk resembles its near past most, and has none.
    #[must_use]
    pub fn find(values: &[f64], step: Duration) -> Self {
        let possible = Self::possible(values.len(), step);
        let Some(day) = possible.day else { return Self::default() };
        let width = (day / BINS_A_DAY).max(1);
        let bins: Vec<f64> = values.chunks(width).map(mean).collect();
        let (day_bins, half_day) = (day / width, day / width / 2);
        let at = |lag: usize| autocorrelation(&bins, lag);
        let shows = |lag: usize, beside: &[usize]| {
            at(lag).is_some_and(|peak| {
                peak >= LEAST && beside.iter().filter_map(|lag| at(*lag)).all(|r| peak >= r + MARGIN)
            })
        };
        let week_bins = DAYS_A_WEEK * day_bins;
        let beside_week = [week_bins - 3 * day_bins, week_bins - 2 * day_bins, week_bins - half_day];
        Self {
            day: possible.day.filter(|_| shows(day_bins, &[half_day, day_bins + half_day])),
            week: possible.week.filter(|_| shows(week_bins, &beside_week)),
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

/// The mean of what was measured; NaN if nothing was.
fn mean(values: &[f64]) -> f64 {
    let known: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    // Divided before it is summed: the sum of large values isn't finite.
    if known.is_empty() { f64::NAN } else { known.iter().map(|value| value / known.len() as f64).sum() }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate;

    const STEP: Duration = Duration::from_secs(900);
    const STEPS_A_DAY: usize = 96;

    #[track_caller]
    fn found(name: &str, day: bool, week: bool) {
        for seed in 1..=5 {
            let series = generate::named(name, seed, 28 * STEPS_A_DAY, STEPS_A_DAY).expect("a known name");
            let seasons = Seasons::find(&series.values, STEP);
            assert_eq!((seasons.day.is_some(), seasons.week.is_some()), (day, week), "{name}, seed {seed}");
        }
    }

    #[test]
    fn a_day_and_a_week_are_found_where_they_are() {
        found("day", true, false);
        found("week", true, true);
        found("gaps", true, true);
    }

    #[test]
    fn noise_and_a_random_walk_have_none() {
        found("white-noise", false, false);
        found("walk", false, false);
    }

    #[test]
    fn a_step_longer_than_a_day_or_a_short_series_has_none() {
        let values = [1.0, 2.0].repeat(50);
        assert_eq!(Seasons::find(&values, Duration::from_secs(86_400)), Seasons::default());
        assert_eq!(Seasons::find(&values, Duration::from_secs(300)), Seasons::default());
    }
}
