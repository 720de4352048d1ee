//! Exported of the resources: what is known of the last second, and how often something wasn't. A value that isn't known
//! has no series.

use mirror_common::switch_word::Side;

use super::{Family, Labels, Samples, Snapshot};
use crate::resources::Metric;

/// A metric's name and help.
const fn exported(metric: Metric) -> (&'static str, &'static str) {
    match metric {
        Metric::Cpu => ("resource_cpu_cores", "CPU that the side's servers use"),
        Metric::Memory => ("resource_memory_bytes", "Memory that the side's servers use"),
        Metric::Read => ("resource_read_bytes_per_second", "Read from block devices"),
        Metric::Written => ("resource_written_bytes_per_second", "Written to block devices"),
        Metric::Received => ("resource_received_bytes_per_second", "Received from the network"),
        Metric::Sent => ("resource_sent_bytes_per_second", "Sent to the network"),
        Metric::Reads => ("reads_per_second", "Reads that the side answered to clients"),
        Metric::Writes => ("writes_per_second", "Writes that the side answered to clients"),
    }
}

impl Snapshot {
    pub(super) fn resource_families(&self) -> Vec<Family> {
        let known = |metric: &Metric| {
            let value =
                |side: &Side| Some((*side, self.resources.now[*side as usize].as_ref()?.get(*metric).ok()?));
            let labelled = |(side, value): (Side, f64)| (vec![("side", side.name().to_owned())], value);
            let (name, help) = exported(*metric);
            let samples = Side::BOTH.iter().filter_map(value).map(labelled).collect();
            Family { name, help, samples: Samples::Gauge(samples) }
        };
        let mut families: Vec<Family> = Metric::ALL.iter().map(known).collect();
        let missing = self.resources.missing.iter().map(|((side, why), count)| {
            let side = Side::from_bit(u32::from(*side)).name().to_owned();
            (vec![("side", side), ("reason", why.name().to_owned())], *count as f64)
        });
        let failures = self
            .series_failures
            .iter()
            .map(|(failure, count)| (vec![("reason", failure.name().to_owned())], *count as f64));
        let counter = |name, help, samples: Vec<(Labels, f64)>| Family {
            name,
            help,
            samples: Samples::Counter(samples),
        };
        families.push(counter(
            "resource_values_missing",
            "Values that weren't known, by reason",
            missing.collect(),
        ));
        families.push(counter(
            "series_failures",
            "Failures to keep samples on disk, by reason",
            failures.collect(),
        ));
        let steps = vec![(Labels::new(), self.resources.clock_steps as f64)];
        families.push(counter("clock_steps", "Times that the system's clock was set", steps));
        families
    }
}
