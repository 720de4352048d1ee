//! Forecasts of the application's request rates from the series on disk.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mirror_common::switch_word::Side;
use mirror_forecast::{
    Forecast, MAX_HISTORY,
    demand::Rates,
    tracker::{HORIZONS, STEP, Score, TooShort, Tracker},
};

use crate::{
    resources::Metric,
    series::{Failure, Fold, Grid, Resolution, Series},
};

/// Classes of requests, each a series of its own.
pub const CLASSES: [Metric; 2] = [Metric::Reads, Metric::Writes];
/// Minutes that are kept to be drawn.
const DRAWN: usize = 1_440;
/// Steps ahead of which it is kept what was expected, to be drawn beside what came.
pub const KEPT_AHEAD: usize = 10;
/// Seconds after a minute's end at which it is on disk.
const FOLDED: u64 = 2;

/// The last forecasts, as they are told.
#[derive(Clone, Debug)]
pub struct Told {
    /// When they were made.
    pub at: Instant,
    /// Their first minute begins then, in seconds since 1970.
    pub from: u64,
    /// Seconds of the clock that a minute takes: 60, but in tests.
    pub minute: u64,
    /// Time that making them took.
    pub took: Duration,
    /// By class.
    pub classes: [ClassTold; 2],
}

/// Of one class.
#[derive(Clone, Debug)]
pub struct ClassTold {
    /// What is expected, or how much history is missing.
    pub forecast: Result<Forecast, TooShort>,
    /// How earlier ones did.
    pub scores: [Score; HORIZONS.len()],
    /// The last day's minutes, the newest last; NaN in a gap.
    pub recent: Vec<f64>,
    /// What had been expected of each of them, [`KEPT_AHEAD`] minutes before its end.
    pub expected: Vec<Option<Expected>>,
}

/// Of a minute: the expected value, and the ends of the 90 % interval.
pub type Expected = [f64; 3];

impl Told {
    /// The rates that aren't exceeded with probability `level` that many seconds from now; each class by itself, so that
    /// together they are rather above. `age` is that of the forecast. Nothing behind the end of what is forecast.
    pub fn rates(&self, age: f64, ahead: f64, level: f64) -> Option<Rates> {
        let step = ((age + ahead) / STEP.as_secs_f64()).ceil().max(1.0) as usize - 1;
        let of = |class: usize| self.classes[class].forecast.as_ref().ok()?.quantile(step, level);
        Some(Rates { reads: of(0)?, writes: of(1)? })
    }

    /// The highest such rates, class by class, of the minutes from now on for that many seconds, as far as they are forecast.
    pub fn most(&self, seconds: f64, level: f64) -> Option<Rates> {
        let steps = (seconds / STEP.as_secs_f64()).ceil().max(1.0) as usize;
        let of = |class: usize| {
            let forecast = self.classes[class].forecast.as_ref().ok()?;
            (0..steps.min(forecast.horizon()))
                .filter_map(|step| forecast.quantile(step, level))
                .reduce(f64::max)
        };
        Some(Rates { reads: of(0)?, writes: of(1)? })
    }
}

/// Forecasts minute by minute. A minute is shorter where the clock is made to run faster.
#[derive(Debug)]
pub struct Outlook {
    minute: u64,
    trackers: [Tracker; 2],
    recent: [VecDeque<f64>; 2],
    /// Begins of minutes, rising, and what was expected of them.
    expected: [VecDeque<(u64, Expected)>; 2],
    /// Begin of the next minute that is to be observed, in seconds since 1970.
    next: u64,
}

impl Outlook {
    /// From all that is kept, up to `now` (seconds since 1970). `minute`: its seconds of the clock.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn from_series(series: &Series, minute: u64, now: u64) -> Result<Self, Failure> {
        let next = complete(minute, now);
        let from = next.saturating_sub(minute * MAX_HISTORY as u64);
        let values = read(series, minute, from, ((next - from) / minute) as usize)?;
        let tracker = |values: &[f64]| Tracker::fit(values).map_err(|_| Failure::Corrupt);
        let trackers = [tracker(&values[0])?, tracker(&values[1])?];
        let newest =
            |values: Vec<f64>| values[values.len().saturating_sub(DRAWN)..].iter().copied().collect();
        Ok(Self { minute, trackers, recent: values.map(newest), expected: Default::default(), next })
    }

    /// Whether a minute is complete that wasn't observed yet, or the clock was set so that all begins anew.
    pub fn is_due(&self, now: u64) -> bool {
        complete(self.minute, now) != self.next
    }

    /// Whether the clock was set: back, or ahead beyond all history.
    pub fn is_lost(&self, now: u64) -> bool {
        let complete = complete(self.minute, now);
        complete < self.next || complete - self.next > self.minute * MAX_HISTORY as u64
    }

    /// Observes the minutes that are complete by now.
    ///
    /// # Errors
    /// When the disk fails; they are observed the next time.
    pub fn catch_up(&mut self, series: &Series, now: u64) -> Result<(), Failure> {
        let count = complete(self.minute, now).saturating_sub(self.next) / self.minute;
        let values = read(series, self.minute, self.next, count as usize)?;
        for ((tracker, recent), values) in self.trackers.iter_mut().zip(&mut self.recent).zip(&values) {
            for value in values {
                tracker.observe(*value);
                if recent.len() == DRAWN {
                    recent.pop_front();
                }
                recent.push_back(*value);
            }
        }
        self.next += count * self.minute;
        Ok(())
    }

    /// Forecasts: for a thread that may take seconds.
    pub fn tell(&mut self) -> Told {
        let begun = Instant::now();
        let [reads, writes] = &mut self.trackers;
        let [forecast_reads, forecast_writes] = [reads, writes].map(Tracker::forecast);
        self.keep(0, &forecast_reads);
        self.keep(1, &forecast_writes);
        let of = |class: usize, forecast| ClassTold {
            forecast,
            expected: self.expected_of_recent(class),
            scores: self.trackers[class].scores(),
            recent: self.recent[class].iter().copied().collect(),
        };
        Told {
            at: begun,
            from: self.next,
            minute: self.minute,
            took: begun.elapsed(),
            classes: [of(0, forecast_reads), of(1, forecast_writes)],
        }
    }

    fn keep(&mut self, class: usize, forecast: &Result<Forecast, TooShort>) {
        let step = KEPT_AHEAD - 1;
        let Ok(forecast) = forecast else { return };
        let (Some(mean), Some((low, high))) = (forecast.mean().get(step), forecast.interval90(step)) else {
            return;
        };
        let kept = &mut self.expected[class];
        if kept.len() == DRAWN {
            kept.pop_front();
        }
        kept.push_back((self.next + self.minute * step as u64, [*mean, low, high]));
    }

    fn expected_of_recent(&self, class: usize) -> Vec<Option<Expected>> {
        let minutes = self.recent[class].len() as u64;
        let mut kept = self.expected[class].iter().peekable();
        let begins = (1..=minutes).rev().map(|ago| self.next.saturating_sub(ago * self.minute));
        begins
            .map(|begin| {
                while kept.next_if(|(of, _)| *of < begin).is_some() {}
                kept.peek().filter(|(of, _)| *of == begin).map(|(_, expected)| *expected)
            })
            .collect()
    }
}

/// Begin of the first minute that isn't complete, or not on disk yet.
fn complete(minute: u64, now: u64) -> u64 {
    // Whole minutes are folded behind their end; parts of them are read as seconds.
    let now = if minute < STEP.as_secs() { now } else { now.saturating_sub(FOLDED) };
    now / minute * minute
}

/// What both sides together were asked, by class: NaN where either isn't known.
fn read(series: &Series, minute: u64, from: u64, cells: usize) -> Result<[Vec<f64>; 2], Failure> {
    let resolution = if minute < STEP.as_secs() { Resolution::Second } else { Resolution::Minute };
    let grid = Grid { from, step: minute, cells };
    let of = |metric: Metric| -> Result<Vec<f64>, Failure> {
        let primary = series.read((Side::Primary, metric), resolution, Fold::Mean, grid)?;
        let shadow = series.read((Side::Shadow, metric), resolution, Fold::Mean, grid)?;
        let sum = |(primary, shadow): (Option<f64>, Option<f64>)| {
            primary.zip(shadow).map_or(f64::NAN, |(p, s)| p + s)
        };
        Ok(primary.into_iter().zip(shadow).map(sum).collect())
    };
    Ok([of(CLASSES[0])?, of(CLASSES[1])?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{Missing, Sample};

    /// Seconds from 1000 minutes on; both sides answer, the shadow a tenth.
    fn keep(series: &mut Series, seconds: std::ops::Range<u64>) {
        for second in seconds {
            let sample = |rate: f64| {
                let mut values = [Err(Missing::NoSource); Metric::ALL.len()];
                values[Metric::Reads as usize] = Ok(rate);
                values[Metric::Writes as usize] = Ok(rate / 4.0);
                Sample { at: 60_000 + second, values }
            };
            series.keep(&[(Side::Primary, sample(90.0)), (Side::Shadow, sample(10.0))]).unwrap();
        }
    }

    #[test]
    fn the_rate_of_both_sides_is_forecast_from_what_is_kept_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut series = Series::open(&folder.path().join("shop.series")).unwrap();
        keep(&mut series, 0..100);
        let mut outlook = Outlook::from_series(&series, 2, 60_100).unwrap();
        assert!(!outlook.is_due(60_101) && outlook.is_due(60_102));
        // A gap of ten seconds is borne.
        keep(&mut series, 110..200);
        outlook.catch_up(&series, 60_200).unwrap();
        let told = outlook.tell();
        assert_eq!((told.from, told.minute), (60_200, 2));
        let rates = told.rates(30.0, 300.0, 0.5).unwrap();
        assert!((rates.reads - 100.0).abs() < 1e-6 && (rates.writes - 25.0).abs() < 1e-6, "{rates:?}");
        assert!(told.classes[0].recent.iter().filter(|value| value.is_nan()).count() >= 5);
        assert!(told.rates(0.0, 86_400.0, 0.5).is_none(), "nobody knows a day from two hours");
        assert!(told.most(86_400.0, 0.9).is_some_and(|most| most.reads >= 100.0 - 1e-6));
        assert!(told.classes[0].expected.iter().all(Option::is_none), "its time hasn't come");
        keep(&mut series, 200..260);
        outlook.catch_up(&series, 60_260).unwrap();
        let told = outlook.tell();
        let came = &told.classes[0];
        let known: Vec<usize> =
            (0..came.recent.len()).filter(|&minute| came.expected[minute].is_some()).collect();
        // Of the minute from 60,218 on; the last that is known begins at 60,258.
        assert_eq!(known, [came.recent.len() - 21]);
        let [mean, low, high] = came.expected[known[0]].unwrap();
        assert!((mean - came.recent[known[0]]).abs() < 1e-6 && low <= mean && mean <= high);
        assert!(outlook.is_lost(59_000) && outlook.is_lost(9_000_000) && !outlook.is_lost(60_300));
    }

    #[test]
    fn minutes_are_read_where_the_clock_is_the_clock() {
        let folder = tempfile::tempdir().unwrap();
        let mut series = Series::open(&folder.path().join("shop.series")).unwrap();
        keep(&mut series, 0..301);
        let mut outlook = Outlook::from_series(&series, 60, 60_302).unwrap();
        assert!(!outlook.is_due(60_361) && outlook.is_due(60_362));
        assert_eq!(outlook.tell().classes[0].forecast.as_ref().err(), Some(&TooShort { missing: 25 }));
        assert_eq!(outlook.recent[0].iter().filter(|value| value.is_finite()).count(), 5);
    }
}
