//! Exported of forecasts: what is expected, how sure, how old it is, and how earlier ones did.

use mirror_forecast::tracker::{HORIZONS, STEP, Score};

use super::{CLASSES, Family, Labels, Samples, Snapshot};
use crate::outlook::ClassTold;

/// Quantiles that are exported: the middle, and the ends of the 90 % interval.
const QUANTILES: [f64; 3] = [0.05, 0.5, 0.95];

impl Snapshot {
    pub(super) fn forecast_families(&self) -> Vec<Family> {
        let gauge = |name, help, samples| Family { name, help, samples: Samples::Gauge(samples) };
        let age = self.forecast.iter().map(|(_, age)| (Labels::new(), *age));
        let scored = self.horizons(|told, at| vec![(None, told.scores[at].scored as f64)]);
        vec![
            gauge("forecast_age_seconds", "Since the last forecasts were made", age.collect()),
            gauge(
                "forecast_requests_per_second",
                "Requests a second that are expected so many seconds ahead of the forecast, by class; not exceeded with the \
                 probability of the quantile",
                self.horizons(|told, at| {
                    let of = |level| {
                        Some((Some(level), told.forecast.as_ref().ok()?.quantile(HORIZONS[at] - 1, level)?))
                    };
                    QUANTILES.into_iter().filter_map(of).collect()
                }),
            ),
            Family {
                name: "forecasts_scored",
                help: "Forecasts of a horizon whose time has come",
                samples: Samples::Counter(scored),
            },
            gauge(
                "forecast_mase",
                "Their mean absolute error over that of the value a day before, or a minute before where there is no day",
                self.scores(|score| score.mase),
            ),
            gauge(
                "forecast_coverage_ratio",
                "Share of the values that came within the 90 % interval",
                self.scores(|score| (score.scored > 0).then_some(score.coverage90)),
            ),
        ]
    }

    /// Values of each class and horizon, with the quantile that they are, if they are one.
    fn horizons(&self, values: impl Fn(&ClassTold, usize) -> Vec<(Option<f64>, f64)>) -> Vec<(Labels, f64)> {
        let mut all = Vec::new();
        for (told, class) in self.forecast.iter().flat_map(|(told, _)| told.classes.iter().zip(CLASSES)) {
            for (at, steps) in HORIZONS.iter().enumerate() {
                for (quantile, value) in values(told, at) {
                    let seconds = *steps as u64 * STEP.as_secs();
                    let mut labels =
                        vec![("class", class.to_owned()), ("horizon_seconds", seconds.to_string())];
                    labels.extend(quantile.map(|quantile| ("quantile", quantile.to_string())));
                    all.push((labels, value));
                }
            }
        }
        all
    }

    fn scores(&self, value: fn(&Score) -> Option<f64>) -> Vec<(Labels, f64)> {
        self.horizons(|told, at| value(&told.scores[at]).map(|value| (None, value)).into_iter().collect())
    }
}
