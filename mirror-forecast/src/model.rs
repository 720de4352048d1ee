//! The models that a forecast is made of, simple ones first.

mod library;
mod naive;
mod profile;
mod regression;

use crate::season::Seasons;
use profile::Level;
use regression::Shape;

/// One way to forecast. The order is that of simplicity: at equal merit the earlier one is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    LastValue,
    SeasonalNaive,
    /// The season's profile with a level correction that fades fast, slowly or never.
    ProfileFast,
    ProfileSlow,
    ProfileFactor,
    ProfileAdded,
    /// The week's profile, with a correction that fades slowly.
    WeekProfile,
    /// An autoregression with the season's profile, on few values and on many.
    RegressionShort,
    RegressionLong,
    Ets,
    Theta,
    Mstl,
    LogMstl,
    Mfles,
}

/// All of them, by increasing cost.
pub(crate) const MODELS: [Model; 14] = [
    Model::LastValue,
    Model::SeasonalNaive,
    Model::ProfileFast,
    Model::ProfileSlow,
    Model::ProfileFactor,
    Model::ProfileAdded,
    Model::WeekProfile,
    Model::RegressionShort,
    Model::RegressionLong,
    Model::Ets,
    Model::Theta,
    Model::Mstl,
    Model::LogMstl,
    Model::Mfles,
];

/// Points that the models look back on: more costs time, and gained at most 6 % on one of four series.
const SHORT: usize = 576;
const MIDDLE: usize = 1_152;
const LONG: usize = 4_032;
/// Points that a fit wants. The crates' own minimum is lower, their parameters are noise by then.
const FEWEST: usize = 16;
/// The regressions: what they explain a value by, and how many values.
const FEW: Shape = Shape { lags: 8, rows: 2_016 };
const MANY: Shape = Shape { lags: 16, rows: LONG };
/// Cycles that a window holds whatever its points: less shows no season.
const FEWEST_CYCLES: usize = 4;
/// Newest values that are replayed: nearly as many as ETS is fitted to.
pub(crate) const REPLAYED: usize = 560;

/// What a model says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    /// Of the steps ahead.
    pub(crate) ahead: Vec<f64>,
    /// Of the newest values, each from those before it and the newest last: [`REPLAYED`] at most. Parameters are those that
    /// were fitted to all. Empty for a model that would have to be fitted anew.
    pub(crate) replay: Vec<f64>,
}

impl Said {
    /// Without a replay.
    fn of(ahead: Option<Vec<f64>>) -> Option<Self> {
        Some(Self { ahead: ahead?, replay: Vec::new() })
    }

    /// By what says the next values of any history, a number of them.
    fn by(history: &[f64], horizon: usize, next: impl Fn(&[f64], usize) -> Option<Vec<f64>>) -> Option<Self> {
        let oldest = history.len().saturating_sub(REPLAYED);
        let before = (oldest..history.len()).rev().map(|index| &history[..index]);
        let mut replay: Vec<f64> = before.map_while(|before| next(before, 1)?.first().copied()).collect();
        replay.reverse();
        Some(Self { ahead: next(history, horizon)?, replay })
    }
}

impl Model {
    /// `horizon` steps ahead, or `None` where the model doesn't fit the series.
    ///
    /// `history` is finite and scaled to a mean magnitude of about one. What comes out may explode: the caller
    /// bounds it.
    pub(crate) fn forecast(self, history: &[f64], seasons: Seasons, horizon: usize) -> Option<Said> {
        let season = seasons.shortest();
        let window = |points: usize| {
            let points = points.max(season.map_or(0, |season| FEWEST_CYCLES * season));
            latest(history, points)
        };
        let profile = |season: usize, level, half_life: f64| {
            profile::profile(history, season, level, half_life, horizon)
        };
        let replayed = |season: usize, level, half_life: f64| {
            let replay = profile::replay(history, season, level, REPLAYED);
            Some(Said { ahead: profile(season, level, half_life)?, replay })
        };
        // One step ahead they are what the profile without fading is.
        let fading = |share: f64| Said::of(profile(season?, Level::Factor, share * season? as f64));
        if self.is_fitted() && (history.len() < FEWEST || is_constant(history)) {
            return None;
        }
        match self {
            Self::LastValue => Said::by(history, horizon, naive::last_value),
            Self::SeasonalNaive => {
                let season = season?;
                Said::by(history, horizon, |history, horizon| naive::seasonal_naive(history, season, horizon))
            }
            Self::WeekProfile => replayed(seasons.week?, Level::Factor, 0.25 * season? as f64),
            Self::ProfileFast => fading(1.0 / 12.0),
            Self::ProfileSlow => fading(0.25),
            Self::ProfileFactor => replayed(season?, Level::Factor, f64::INFINITY),
            Self::ProfileAdded => replayed(season?, Level::Added, f64::INFINITY),
            Self::RegressionShort => regression::forecast(history, season, FEW, horizon),
            Self::RegressionLong => regression::forecast(history, season, MANY, horizon),
            Self::Ets => library::ets(latest(history, SHORT), horizon),
            Self::Theta => Said::of(library::theta(window(MIDDLE), season, horizon)),
            Self::Mstl => Said::of(library::mstl(window(LONG), season?, horizon)),
            Self::LogMstl => Said::of(library::log_mstl(window(LONG), season?, horizon)),
            Self::Mfles => Said::of(library::mfles(window(LONG), season?, horizon)),
        }
    }

    /// Its name, for people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::LastValue => "last value",
            Self::SeasonalNaive => "seasonal naive",
            Self::ProfileFast | Self::ProfileSlow | Self::ProfileFactor | Self::ProfileAdded => "profile",
            Self::WeekProfile => "profile of the week",
            Self::RegressionShort | Self::RegressionLong => "regression",
            Self::Ets => "ETS",
            Self::Theta => "Theta",
            Self::Mstl => "MSTL",
            Self::LogMstl => "MSTL of logarithms",
            Self::Mfles => "MFLES",
        }
    }

    /// Whether it is one of those that need no fitting, on which a forecast falls back.
    pub(crate) fn is_simple(self) -> bool {
        !self.is_fitted()
    }

    /// Whether it is fitted: on what the crates that do so take for granted.
    fn is_fitted(self) -> bool {
        use Model::{Ets, LogMstl, Mfles, Mstl, RegressionLong, RegressionShort, Theta};
        matches!(self, RegressionShort | RegressionLong | Ets | Theta | Mstl | LogMstl | Mfles)
    }
}

/// The newest `points`, or all.
fn latest(history: &[f64], points: usize) -> &[f64] {
    &history[history.len().saturating_sub(points)..]
}

fn is_constant(history: &[f64]) -> bool {
    history.windows(2).all(|pair| pair[0] == pair[1])
}
