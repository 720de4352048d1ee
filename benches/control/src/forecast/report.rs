//! The figures as tables and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    HORIZONS,
    method::Method,
    score::{Score, Scores},
};

/// A series' scores, a row a method.
pub(crate) struct SeriesReport {
    pub(crate) name: String,
    /// By [`Method::ALL`].
    pub(crate) rows: Vec<Scores>,
}

impl SeriesReport {
    fn ours(&self, horizon: usize) -> Score {
        self.rows[Method::ALL.len() - 1].0[horizon]
    }

    /// Our error against the best baseline's.
    fn ratio(&self, horizon: usize) -> f64 {
        let best = self.rows[..Method::BASELINES]
            .iter()
            .map(|row| row.0[horizon].mase)
            .fold(f64::INFINITY, f64::min);
        self.ours(horizon).mase / best
    }
}

/// All figures.
pub(crate) struct Report {
    series: Vec<SeriesReport>,
    seconds_20000: f64,
    seconds_20000_warm_up: f64,
}

impl Report {
    pub(crate) fn new(series: Vec<SeriesReport>, seconds_20000: f64, seconds_20000_warm_up: f64) -> Self {
        Self { series, seconds_20000, seconds_20000_warm_up }
    }

    /// Geometric mean over the series of [`SeriesReport::ratio`].
    fn geomean(&self, horizon: usize) -> f64 {
        let logs: f64 = self.series.iter().map(|series| series.ratio(horizon).ln()).sum();
        (logs / self.series.len() as f64).exp()
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::new();
        for series in &self.series {
            let _ = writeln!(text, "\n### {}\n{HEAD}", series.name);
            for (method, row) in Method::ALL.iter().zip(&series.rows) {
                let _ = writeln!(text, "{}", table_row(method.name(), &row.0));
            }
            let ratios = [0, 1, 2].map(|horizon| format!("{:.2}", series.ratio(horizon)));
            let _ = writeln!(text, "\nOurs against the best of the first three: {}.", ratios.join(" / "));
        }
        let _ = writeln!(text, "\n### Median over {} series\n{HEAD}", self.series.len());
        for (index, method) in Method::ALL.iter().enumerate() {
            let scores: Vec<Score> = (0..HORIZONS.len()).map(|horizon| self.median(index, horizon)).collect();
            let _ = writeln!(text, "{}", table_row(method.name(), &scores));
        }
        let means = [0, 1, 2].map(|horizon| format!("{:.3}", self.geomean(horizon)));
        let _ = writeln!(
            text,
            "\nOurs against the best of last value, seasonal naive and ETS on each series, geometric mean: {}.\n\
             A forecast of a day from 20,000 values: {:.2} s of one core; the warm-up before the first: {:.1} s.",
            means.join(" / "),
            self.seconds_20000,
            self.seconds_20000_warm_up,
        );
        text
    }

    fn median(&self, method: usize, horizon: usize) -> Score {
        let over = |value: &dyn Fn(&Score) -> f64| {
            let mut values: Vec<f64> =
                self.series.iter().map(|series| value(&series.rows[method].0[horizon])).collect();
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            if values.len().is_multiple_of(2) {
                values[middle - 1].midpoint(values[middle])
            } else {
                values[middle]
            }
        };
        Score {
            mase: over(&|score| score.mase),
            pinball: [0, 1, 2].map(|level| over(&|score| score.pinball[level])),
            coverage90: over(&|score| score.coverage90),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let by_horizon = |figure: &dyn Fn(usize) -> Value| -> Value {
            HORIZONS.iter().enumerate().map(|(index, steps)| (format!("h{steps}"), figure(index))).collect()
        };
        let figures = |series: &SeriesReport| {
            by_horizon(&|horizon| {
                let score = series.ours(horizon);
                let [p50, p90, p95] = score.pinball;
                json!({
                    "mase": score.mase, "p50": p50, "p90": p90, "p95": p95,
                    "coverage90": score.coverage90, "ratio_to_best_baseline": series.ratio(horizon),
                })
            })
        };
        let series: Value = self.series.iter().map(|series| (series.name.clone(), figures(series))).collect();
        json!({
            "series": series,
            "geomean": by_horizon(&|horizon| json!(self.geomean(horizon))),
            "seconds_20000": self.seconds_20000,
            "seconds_20000_warm_up": self.seconds_20000_warm_up,
        })
    }
}

const HEAD: &str =
    "| method | MASE 1 / 12 / 72 steps | P50 | P90 | P95 | 90 % covers |\n|---|---|---|---|---|---|";

fn table_row(name: &str, scores: &[Score]) -> String {
    let join = |value: &dyn Fn(&Score) -> f64| {
        scores.iter().map(|score| format!("{:.3}", value(score))).collect::<Vec<_>>().join(" / ")
    };
    let covers: Vec<String> = scores.iter().map(|score| format!("{:.0}", 100.0 * score.coverage90)).collect();
    format!(
        "| {name} | {} | {} | {} | {} | {} |",
        join(&|score| score.mase),
        join(&|score| score.pinball[0]),
        join(&|score| score.pinball[1]),
        join(&|score| score.pinball[2]),
        covers.join(" / "),
    )
}
