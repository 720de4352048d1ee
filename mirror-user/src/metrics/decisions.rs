//! Exported of everything that decides: the migration, its judge, orders, and who is told.

use std::collections::BTreeMap;

use mirror_control::{
    evidence::{Finding, Verdict},
    migration::Stage,
};

use super::{Family, Labels, Samples, Snapshot};
use crate::{api::migration::MigrationStatus, events};

/// What the judge can say, and what stands where there is none yet.
const VERDICTS: [&str; 5] = ["learning", "low_traffic", "undecided", "no_worse", "worse"];

/// A verdict's name.
pub const fn verdict_name(verdict: Option<&Verdict>) -> &'static str {
    match verdict {
        None => VERDICTS[0],
        Some(Verdict::LowTraffic(_)) => VERDICTS[1],
        Some(Verdict::Undecided(_)) => VERDICTS[2],
        Some(Verdict::NoWorse(_)) => VERDICTS[3],
        Some(Verdict::Worse(_)) => VERDICTS[4],
    }
}

/// What the migration's thread counts.
#[derive(Clone, Debug, Default)]
pub struct Decided {
    /// The judge's last word.
    pub verdict: &'static str,
    /// Its words so far.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Decisions that changed something, or answered somebody, by the reason's name.
    pub decisions: BTreeMap<String, u64>,
    /// Rollbacks that were begun, likewise.
    pub rollbacks: BTreeMap<String, u64>,
    /// What is shown at this step.
    pub findings: Vec<Finding>,
}

/// What one scrape exports of decisions.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    /// How the migration stands, if there was one.
    pub migration: Option<MigrationStatus>,
    /// What was counted.
    pub decided: Decided,
    /// A cutover is ordered.
    pub ordered: bool,
    /// What became of events, by receiver.
    pub events: Vec<(String, events::Counts)>,
}

impl Snapshot {
    pub(super) fn decision_families(&self) -> Vec<Family> {
        let all = &self.decisions;
        let counted = |label: &'static str, counts: &BTreeMap<String, u64>| -> Vec<(Labels, f64)> {
            counts.iter().map(|(name, count)| (vec![(label, name.clone())], *count as f64)).collect()
        };
        let verdicts = VERDICTS.iter().map(|name| {
            let count = all.decided.verdicts.get(name).copied().unwrap_or_default();
            (vec![("verdict", (*name).to_owned())], count as f64)
        });
        let mut families = self.migration_families();
        families.extend([
            counter("verdicts", "Looks of the judge by what it said", verdicts.collect()),
            counter(
                "decisions",
                "Decisions of migrations that changed something or answered somebody, by reason",
                counted("reason", &all.decided.decisions),
            ),
            counter(
                "rollbacks",
                "Rollbacks that a migration began, by reason",
                counted("reason", &all.decided.rollbacks),
            ),
            gauge(
                "evidence_log",
                "Natural logarithm of the evidence that the shadow is worse, by metric",
                self.findings(|finding| finding.evidence),
            ),
            gauge(
                "evidence_bound_log",
                "From this natural logarithm on it is called worse",
                self.findings(|finding| finding.threshold),
            ),
            gauge(
                "evidence_samples",
                "Requests that the evidence of this step rests on",
                self.findings(|finding| finding.samples as f64),
            ),
            gauge("cutover_ordered", "1: a cutover is ordered beforehand", one(flag(all.ordered))),
        ]);
        families.extend(self.event_families());
        families
    }

    fn findings(&self, value: impl Fn(&Finding) -> f64) -> Vec<(Labels, f64)> {
        let label = |finding: &Finding| vec![("metric", finding.metric.name().to_owned())];
        // What is over is judged no more.
        let judged = self.decisions.migration.as_ref().is_some_and(|migration| !migration.over);
        let findings = self.decisions.decided.findings.iter().filter(|_| judged);
        findings.map(|finding| (label(finding), value(finding))).collect()
    }

    fn migration_families(&self) -> Vec<Family> {
        let migration = self.decisions.migration.as_ref();
        let of = |value: fn(&MigrationStatus) -> Option<f64>| -> Vec<(Labels, f64)> {
            migration.and_then(value).map(|value| (Labels::new(), value)).into_iter().collect()
        };
        let stages = Stage::ALL.iter().filter_map(|stage| {
            let stands = migration?.stage == stage.name();
            Some((vec![("stage", stage.name().to_owned())], flag(stands)))
        });
        vec![
            gauge("migration_stage", "1: the migration by itself stands there", stages.collect()),
            gauge(
                "migration_weight_ratio",
                "Share of the reads that it wants the shadow to answer",
                of(|migration| Some(migration.weight / 100.0)),
            ),
            gauge(
                "migration_step",
                "Step that it stands at, from 1; 0 before the first",
                of(|migration| {
                    let at = migration.steps.iter().position(|step| *step == migration.weight);
                    Some(at.map_or(0.0, |at| at as f64 + 1.0))
                }),
            ),
            gauge("migration_steps", "Steps that it has", of(|m| Some(m.steps.len() as f64))),
            gauge("migration_steps_back", "Steps back so far", of(|m| Some(f64::from(m.steps_back)))),
            gauge(
                "migration_paused",
                "1: it takes no step forward",
                of(|m| Some(flag(m.paused_by.is_some()))),
            ),
            gauge("migration_standby_left_seconds", "Standby that is left", of(|m| m.standby_seconds)),
        ]
    }

    fn event_families(&self) -> Vec<Family> {
        let label = |name: &str| vec![("receiver", name.to_owned())];
        let events = &self.decisions.events;
        let ended = events.iter().flat_map(|(name, counts)| {
            let labels = |result: &str| [label(name), vec![("result", result.to_owned())]].concat();
            events::Outcome::ALL.map(|outcome| {
                let count = counts.by.get(&outcome).copied().unwrap_or_default();
                (labels(outcome.name()), count as f64)
            })
        });
        let each = |value: fn(&events::Counts) -> u64| -> Vec<(Labels, f64)> {
            events.iter().map(|(name, counts)| (label(name), value(counts) as f64)).collect()
        };
        vec![
            counter("events", "Events by receiver and by what became of them", ended.collect()),
            counter(
                "event_retries",
                "Attempts at telling a receiver that failed and were made again",
                each(|counts| counts.retries),
            ),
            gauge("events_queued", "Events that wait for a receiver", each(|counts| counts.queued)),
        ]
    }
}

fn gauge(name: &'static str, help: &'static str, samples: Vec<(Labels, f64)>) -> Family {
    Family { name, help, samples: Samples::Gauge(samples) }
}

fn counter(name: &'static str, help: &'static str, samples: Vec<(Labels, f64)>) -> Family {
    Family { name, help, samples: Samples::Counter(samples) }
}

fn one(value: f64) -> Vec<(Labels, f64)> {
    vec![(Labels::new(), value)]
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}
