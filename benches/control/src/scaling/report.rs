//! The figures as tables and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{LEADS, method::Method, replay::Score};

/// A series' scores by lead time, a row a method.
pub(crate) struct SeriesReport {
    pub(crate) name: String,
    /// By [`LEADS`], then by [`Method::ALL`].
    pub(crate) leads: [Vec<Score>; LEADS.len()],
}

/// All figures.
pub(crate) struct Report {
    series: Vec<SeriesReport>,
}

impl Report {
    pub(crate) fn new(series: Vec<SeriesReport>) -> Self {
        Self { series }
    }

    /// The mean over the series.
    fn mean(&self, lead: usize, method: usize) -> Score {
        let count = self.series.len() as f64;
        let mean = |figure: &dyn Fn(&Score) -> f64| {
            self.series.iter().map(|series| figure(&series.leads[lead][method])).sum::<f64>() / count
        };
        Score {
            under_share: mean(&|score| score.under_share),
            capacity_to_oracle: mean(&|score| score.capacity_to_oracle),
        }
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::new();
        for series in &self.series {
            let _ = writeln!(text, "\n### {}\n{HEAD}", series.name);
            for (index, method) in Method::ALL.iter().enumerate() {
                let row = [0, 1].map(|lead: usize| series.leads[lead][index]);
                let _ = writeln!(text, "{}", table_row(&method.name(), row));
            }
        }
        let _ = writeln!(text, "\n### Mean over {} series\n{HEAD}", self.series.len());
        for (index, method) in Method::ALL.iter().enumerate() {
            let row = [0, 1].map(|lead| self.mean(lead, index));
            let _ = writeln!(text, "{}", table_row(&method.name(), row));
        }
        text
    }

    pub(crate) fn to_json(&self) -> Value {
        let ours = Method::ALL.len() - 1;
        let figures = |score: &dyn Fn(usize) -> Score| -> Value {
            let by_lead = LEADS.iter().enumerate().map(|(index, lead)| {
                let Score { under_share, capacity_to_oracle } = score(index);
                let figures = json!({ "under_share": under_share, "capacity_to_oracle": capacity_to_oracle });
                (format!("lead{lead}"), figures)
            });
            by_lead.collect()
        };
        let series = self.series.iter();
        let series: Value =
            series.map(|series| (series.name.clone(), figures(&|lead| series.leads[lead][ours]))).collect();
        json!({ "series": series, "mean": figures(&|lead| self.mean(lead, ours)) })
    }
}

/// Shares are percent of the time.
const HEAD: &str =
    "| policy | lead 60 s: % under-provisioned @ capacity to oracle | lead 10 min |\n|---|---|---|";

fn table_row(name: &str, row: [Score; LEADS.len()]) -> String {
    let [short, long] =
        row.map(|score| format!("{:.2} @ {:.2}", 100.0 * score.under_share, score.capacity_to_oracle));
    format!("| {name} | {short} | {long} |")
}
