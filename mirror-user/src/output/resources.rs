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
pub(super) fn shown(metric: Metric, value: Option<f64>) -> String {
    let Some(value) = value else { return NONE.to_owned() };
    match metric {
        Metric::Cpu => format!("{value:.2} cores"),
        Metric::Memory => bytes(value),
        Metric::Read | Metric::Written | Metric::Received | Metric::Sent => bytes(value) + "/s",
        Metric::Reads | Metric::Writes => format!("{value:.1} /s"),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        resources::Missing,
        series::{Failure, keeper::Kept},
    };

    fn side(name: &str, source: Option<&str>, known: &[(Metric, f64)], why: Missing) -> SideResources {
        let values = |metric: Metric| {
            let now = known.iter().find(|(of, _)| *of == metric).map(|(_, value)| *value);
            MetricValues {
                metric,
                unit: metric.unit().into(),
                now,
                missing: now.is_none().then_some(why),
                mean: now.map(|now| now / 2.0),
                max: now,
                from: 0,
                step: 1,
                series: Vec::new(),
            }
        };
        SideResources {
            side: name.into(),
            source: source.map(Into::into),
            at: Some(7),
            metrics: Metric::ALL.into_iter().map(values).collect(),
            missing: BTreeMap::new(),
        }
    }

    #[test]
    fn a_table_reads_like_this() {
        let known = [
            (Metric::Cpu, 1.5),
            (Metric::Memory, 3.0 * 1_073_741_824.0),
            (Metric::Sent, 900.0),
            (Metric::Reads, 1_200.0),
        ];
        let answer = ResourcesAnswer {
            name: "shop".into(),
            since: 600,
            sides: vec![
                side("primary", Some("process 12"), &known, Missing::Denied),
                side("shadow", None, &[(Metric::Reads, 0.0), (Metric::Writes, 0.0)], Missing::NoSource),
            ],
            kept: Kept {
                path: "/var/lib/mirror/shop.series".into(),
                failure: Some(Failure::Full),
                failures: BTreeMap::new(),
            },
            clock_steps: 0,
        };
        let text = anstream::adapter::strip_str(&answer.lines()).to_string();
        let expected = "\
shop            PRIMARY         mean          max         SHADOW         mean          max   of 10 min
cpu          1.50 cores   0.75 cores   1.50 cores              –            –            –
memory          3.0 GiB      1.5 GiB      3.0 GiB              –            –            –
read                  –            –            –              –            –            –
written               –            –            –              –            –            –
received              –            –            –              –            –            –
sent            900 B/s      450 B/s      900 B/s              –            –            –
reads         1200.0 /s     600.0 /s    1200.0 /s         0.0 /s       0.0 /s       0.0 /s
writes                –            –            –         0.0 /s       0.0 /s       0.0 /s
primary  process 12
  – read, written, received, writes: the gateway may not read it: another user's process needs CAP_SYS_PTRACE
shadow   no source in the policy
  – cpu, memory, read, written, received, sent: the policy names no source: [primary.resources], [shadow.resources]
/var/lib/mirror/shop.series: nothing is kept: the disk is full: make room; it is tried again every minute
";
        assert_eq!(text, expected);
    }

    #[test]
    fn bytes_have_one_unit() {
        let shown = [0.0, 1_023.0, 1_024.0, 1_572_864.0, 5e15].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "4547.5 TiB"]);
    }
}
