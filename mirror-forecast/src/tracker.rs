//! Forecasts that are kept until their time has come, and scored.

use std::{collections::VecDeque, time::Duration};

use crate::{Error, Forecast, Forecaster, MAX_HISTORY, MAX_HORIZON};

/// The series' step.
pub const STEP: Duration = Duration::from_secs(60);
/// Horizons that are scored, in steps: a minute to a day.
pub const HORIZONS: [usize; 7] = [1, 5, 15, 30, 60, 360, MAX_HORIZON];
/// Minutes that must be known before anything is forecast.
pub const FEWEST: usize = 30;
/// Levels of the pinball losses.
pub const LEVELS: [f64; 3] = [0.5, 0.9, 0.95];
/// A day of steps.
const DAY: usize = 1_440;

/// There is no forecast yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too little history: {missing} more minutes are needed")]
pub struct TooShort {
    /// Minutes that are missing.
    pub missing: usize,
}

/// How forecasts of one horizon did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Forecasts whose time has come.
    pub scored: u64,
    /// Mean absolute error over that of the value a day ago, or of the last minute's value before there is a day (Hyndman
    /// and Koehler 2006); `None` where those never erred.
    pub mase: Option<f64>,
    /// Pinball loss by [`LEVELS`], scaled likewise.
    pub pinball: Option<[f64; 3]>,
    /// Share of the values within the 90 % interval.
    pub coverage90: f64,
}

/// Forecasts a series of minutes, and scores what it forecast.
#[derive(Clone, Debug)]
pub struct Tracker {
    forecaster: Forecaster,
    /// The last day's values, the newest last.
    day: VecDeque<f64>,
    observed: u64,
    known: usize,
    tracks: [Track; HORIZONS.len()],
    naive_day: Mean,
    naive_minute: Mean,
}

/// A horizon's forecasts.
#[derive(Clone, Debug, Default)]
struct Track {
    /// Their number of steps ahead at most: one a minute.
    waiting: VecDeque<Waiting>,
    error: Mean,
    pinball: [Mean; 3],
    covered: Mean,
}

/// A forecast whose time hasn't come.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    due: u64,
    mean: f64,
    /// By [`LEVELS`].
    quantiles: [f64; 3],
    interval: (f64, f64),
}

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.sum += value;
            self.count += 1;
        }
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

impl Tracker {
    /// For what is known of the last minutes, the newest last; not finite where nothing was measured. Warmed up by
    /// forecasts from earlier minutes, which aren't scored here.
    ///
    /// # Errors
    /// As [`Forecaster::fit`].
    pub fn fit(values: &[f64]) -> Result<Self, Error> {
        let newest = &values[values.len().saturating_sub(MAX_HISTORY)..];
        let first = newest.iter().position(|value| value.is_finite()).unwrap_or(newest.len());
        let newest = &newest[first..];
        let mut tracker = Self {
            forecaster: Forecaster::fit(STEP, newest)?,
            day: VecDeque::new(),
            observed: 0,
            known: 0,
            tracks: Default::default(),
            naive_day: Mean::default(),
            naive_minute: Mean::default(),
        };
        for value in newest {
            tracker.remember(*value);
        }
        Ok(tracker)
    }

    /// The next minute's value; not finite where nothing was measured.
    pub fn observe(&mut self, value: f64) {
        self.forecaster.observe(value);
        for track in &mut self.tracks {
            track.settle(self.observed, value);
        }
        self.remember(value);
    }

    fn remember(&mut self, value: f64) {
        let error = |before: Option<&f64>| before.map_or(f64::NAN, |before| (value - before).abs());
        self.naive_minute.add(error(self.day.back()));
        if self.day.len() == DAY {
            self.naive_day.add(error(self.day.front()));
            self.day.pop_front();
        }
        self.day.push_back(value);
        self.observed += 1;
        self.known += usize::from(value.is_finite());
    }

    /// What is expected of the next minutes: as many as are known, a day at most. Kept, and scored when its time comes.
    ///
    /// # Errors
    /// If less than [`FEWEST`] minutes are known.
    pub fn forecast(&mut self) -> Result<Forecast, TooShort> {
        let too_short = TooShort { missing: FEWEST.saturating_sub(self.known).max(1) };
        if self.known < FEWEST {
            return Err(too_short);
        }
        let forecast = self.forecaster.forecast(self.known.min(MAX_HORIZON)).map_err(|_| too_short)?;
        for (track, steps) in self.tracks.iter_mut().zip(HORIZONS) {
            track.keep(&forecast, steps, self.observed);
        }
        Ok(forecast)
    }

    /// How the forecasts of each of [`HORIZONS`] did so far.
    #[must_use]
    pub fn scores(&self) -> [Score; HORIZONS.len()] {
        let scale = self.naive_day.get().or(self.naive_minute.get()).filter(|scale| *scale > 0.0);
        std::array::from_fn(|index| {
            let track = &self.tracks[index];
            let scaled = |mean: Mean| Some(mean.get()? / scale?);
            let [middle, high, higher] = track.pinball.map(scaled);
            Score {
                scored: track.covered.count,
                mase: scaled(track.error),
                pinball: middle.zip(high).zip(higher).map(|((a, b), c)| [a, b, c]),
                coverage90: track.covered.get().unwrap_or(0.0),
            }
        })
    }
}

impl Track {
    /// `observed`: the index of the first minute that is forecast.
    fn keep(&mut self, forecast: &Forecast, steps: usize, observed: u64) {
        let Some(step) = steps.checked_sub(1).filter(|step| *step < forecast.horizon()) else { return };
        let (Some(mean), Some(interval)) = (forecast.mean().get(step), forecast.interval90(step)) else {
            return;
        };
        let quantile = |level| forecast.quantile(step, level).unwrap_or(*mean);
        let due = observed + step as u64;
        // Asked twice in a minute it is one forecast, the later one.
        if self.waiting.back().is_some_and(|last| last.due == due) {
            self.waiting.pop_back();
        }
        self.waiting.push_back(Waiting { due, mean: *mean, quantiles: LEVELS.map(quantile), interval });
    }

    fn settle(&mut self, index: u64, value: f64) {
        let Some(said) = self.waiting.pop_front_if(|waiting| waiting.due <= index) else { return };
        if !value.is_finite() || said.due != index {
            return;
        }
        self.error.add((value - said.mean).abs());
        for ((level, quantile), mean) in LEVELS.into_iter().zip(said.quantiles).zip(&mut self.pinball) {
            let above = value - quantile;
            mean.add((level * above).max((level - 1.0) * above));
        }
        self.covered.add(f64::from(u8::from((said.interval.0..=said.interval.1).contains(&value))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate;

    fn minutes(name: &str, count: usize) -> Vec<f64> {
        generate::named(name, 3, count, DAY).expect("a known name").values
    }

    #[test]
    fn it_says_how_much_history_is_missing_and_reaches_as_far_as_it_has() {
        let mut tracker = Tracker::fit(&[f64::NAN, 1.0, f64::NAN]).expect("a tracker");
        assert_eq!(tracker.forecast().map(drop), Err(TooShort { missing: 29 }));
        for minute in 0..29 {
            tracker.observe(f64::from(minute));
        }
        assert_eq!(tracker.forecast().map(|forecast| forecast.horizon()), Ok(30));
    }

    #[test]
    fn each_forecast_is_scored_when_its_minute_has_come() {
        let values = minutes("walk", 300);
        let mut tracker = Tracker::fit(&values[..200]).expect("a tracker");
        assert!(tracker.scores().iter().all(|score| score.scored == 0 && score.mase.is_none()));
        for value in &values[200..] {
            tracker.forecast().expect("enough history");
            tracker.observe(*value);
        }
        let scored: Vec<u64> = tracker.scores().iter().map(|score| score.scored).collect();
        assert_eq!(scored, [100, 96, 86, 71, 41, 0, 0]);
        let next = tracker.scores()[0];
        assert!((0.8..=1.0).contains(&next.coverage90), "{next:?}");
        assert!(next.mase.is_some_and(|mase| (0.5..1.5).contains(&mase)), "{next:?}");
        assert!(next.pinball.is_some_and(|[half, _, most]| most < half), "{next:?}");
    }

    #[test]
    fn a_gap_is_not_scored_and_does_not_shift_what_follows() {
        let mut tracker = Tracker::fit(&[5.0; 40]).expect("a tracker");
        for minute in 0..20 {
            tracker.forecast().expect("enough history");
            tracker.observe(if minute % 2 == 0 { f64::NAN } else { 5.0 });
        }
        let scores = tracker.scores();
        assert_eq!((scores[0].scored, scores[1].scored), (10, 8));
        assert!(scores[0].coverage90 == 1.0 && scores[0].mase.is_none(), "{scores:?}");
    }

    #[test]
    fn a_forecast_made_twice_counts_once() {
        let mut tracker = Tracker::fit(&[5.0; 40]).expect("a tracker");
        let _ = (tracker.forecast(), tracker.forecast());
        tracker.observe(5.0);
        assert_eq!(tracker.scores()[0].scored, 1);
    }
}
