//! How resources are printed: a table of both sides, and why what is missing is missing.

use std::fmt::Write as _;

use super::{BAD, DOUBTFUL, FAINT, Show, span, styled};
use crate::{
    api::resources::{MetricValues, ResourcesAnswer, SideResources},
    resources::Metric,
};

/// What isn't known.
const NONE: &str = "–";

impl Show for ResourcesAnswer {
    fn lines(&self) -> String {
        let over = span(self.since as f64);
        let mut text = format!("{:<10}", self.name);
        for side in &self.sides {
            let _ = write!(text, " {:>12} {:>12} {:>12}  ", side.side.to_uppercase(), "mean", "max");
        }
        text = text.trim_end().to_owned() + &styled(FAINT, format!("   of {over}")) + "\n";
        for metric in Metric::ALL {
            let _ = write!(text, "{:<10}", metric.name());
            for side in &self.sides {
                let values = side.metrics.iter().find(|values| values.metric == metric);
                for value in values.map_or([None; 3], |values| [values.now, values.mean, values.max]) {
                    let _ = write!(text, " {:>12}", shown(metric, value));
                }
                text += "  ";
            }
            text.truncate(text.trim_end().len());
            text += "\n";
        }
        for side in &self.sides {
            show_source(&mut text, side);
        }
        if let Some(failure) = self.kept.failure {
            let said = format!("{}: nothing is kept: {}", self.kept.path.display(), failure.help());
            let _ = writeln!(text, "{}", styled(BAD, said));
        }
        text
    }
}

/// A side's source, and each reason with the metrics that it keeps from being known.
fn show_source(text: &mut String, side: &SideResources) {
    let source = side.source.as_deref().unwrap_or("no source in the policy");
    let _ = writeln!(text, "{:<8} {}", side.side, styled(FAINT, source));
    let mut reasons: Vec<_> = side.metrics.iter().filter_map(|values| values.missing).collect();
    reasons.sort();
    reasons.dedup();
    for why in reasons {
        let hit = |values: &&MetricValues| values.missing == Some(why);
        let names: Vec<_> = side.metrics.iter().filter(hit).map(|values| values.metric.name()).collect();
        let _ = writeln!(text, "  {NONE} {}: {}", names.join(", "), styled(DOUBTFUL, why.help()));
    }
}

/// A value in its unit.
fn shown(metric: Metric, value: Option<f64>) -> String {
    let Some(value) = value else { return NONE.to_owned() };
    match metric {
        Metric::Cpu => format!("{value:.2} cores"),
        Metric::Memory => bytes(value),
        Metric::Read | Metric::Written | Metric::Received | Metric::Sent => bytes(value) + "/s",
        Metric::Reads | Metric::Writes => format!("{value:.0} /s"),
    }
}

/// Bytes in the largest unit that fits.
fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{scaled:.0} B") } else { format!("{scaled:.1} {}", UNITS[unit]) }
}
