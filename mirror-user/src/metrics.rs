//! Prometheus' metrics (OpenMetrics text). What is exported is read at each scrape, straight from the maps: there is no
//! second copy that could disagree.

pub mod decisions;
mod forecast;
mod resources;

use std::{collections::BTreeMap, fmt, sync::Arc};

use anyhow::Result;
use mirror_common::{
    hist,
    switch_word::{Phase, Side, SwitchWord},
    verdict::Verdict,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    api::ServerStatus,
    datapath::{Answers, Pairs, Turns},
    outlook::Told,
    resources::watch::Known,
    series::Failure,
};

/// Upper bounds of the exported latency buckets, in microseconds. The datapath's own are much finer (16 an octave).
const BOUNDS: [u64; 19] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
const CLASSES: [&str; 2] = ["read", "write"];

/// What one scrape exports of an application.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The application's name: a label of every series.
    pub app: String,
    /// The switch word.
    pub word: SwitchWord,
    /// Packets by verdict.
    pub packets: Vec<(Verdict, u64)>,
    /// What the datapath measured of turns.
    pub turns: Turns,
    /// Connections, those with both legs open, and those whose last turn is unanswered.
    pub flows: [u32; 3],
    /// Writes begun and not finished on every member.
    pub open_writes: i64,
    /// Connections whose client has seen an answer that the mirror owes, with a write open.
    pub lagging: u64,
    /// Frames held now, so far, and given up.
    pub held: [u64; 3],
    /// Legs lost, by side.
    pub legs_lost: [u64; 2],
    /// New connections that weren't taken, by side.
    pub not_taken: [u64; 2],
    /// By side: whether its circuit breaker is open, how often lost legs opened it, and probes in vain and not.
    pub breakers: [(bool, u64, [u64; 2]); 2],
    /// By side: its servers, where there are several.
    pub backends: [Vec<ServerStatus>; 2],
    /// Sweeps so far, and the seconds that they took.
    pub sweeps: (u64, f64),
    /// Moves so far: which, how it ended, how many.
    pub moves: Vec<(&'static str, &'static str, u64)>,
    /// What is known of both sides' resources.
    pub resources: Known,
    /// Failures to keep samples on disk.
    pub series_failures: BTreeMap<Failure, u64>,
    /// Of decisions.
    pub decisions: decisions::Decisions,
    /// The last forecasts, and their age in seconds.
    pub forecast: Option<(Arc<Told>, f64)>,
}

type Labels = Vec<(&'static str, String)>;

/// A metric with its series.
struct Family {
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

enum Samples {
    Counter(Vec<(Labels, f64)>),
    Gauge(Vec<(Labels, f64)>),
    Histogram(Vec<(Labels, Buckets)>),
}

/// Sum in seconds, count, and each bound in seconds with what lies between it and the one before.
struct Buckets {
    sum: f64,
    count: u64,
    between: Vec<(f64, u64)>,
}

/// Merges the datapath's buckets into the exported ones. One that a bound cuts is counted below the higher bound; the sum
/// takes each latency for the middle of its bucket: wrong by at most 1/32.
fn coarse(fine: &[u64]) -> Buckets {
    let mut between: Vec<(f64, u64)> = BOUNDS.iter().map(|us| (*us as f64 / 1e6, 0)).collect();
    between.push((f64::INFINITY, 0));
    let mut sum = 0.0;
    for (bucket, count) in fine.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (low, high) = (hist::lowest(bucket as u32), hist::lowest(bucket as u32 + 1) - 1);
        let place = BOUNDS.iter().position(|bound| high <= *bound).unwrap_or(BOUNDS.len());
        between[place].1 += count;
        sum += *count as f64 * (low + high) as f64 / 2e6;
    }
    Buckets { sum, count: fine.iter().sum(), between }
}

/// Counts of answers by side, class, and the class of their status.
fn responses(answers: &[[Answers; 2]; 2]) -> Vec<(Labels, f64)> {
    let mut all = Vec::new();
    for side in Side::BOTH {
        for (class, answers) in CLASSES.iter().zip(&answers[side as usize]) {
            for (first, count) in (1..).zip(answers.statuses) {
                let labels = vec![
                    ("side", side.name().to_owned()),
                    ("class", (*class).to_owned()),
                    ("status", format!("{first}xx")),
                ];
                all.push((labels, count as f64));
            }
        }
    }
    all
}

impl Snapshot {
    /// The text that a scrape gets.
    ///
    /// # Errors
    /// Never in practice: text is written to memory.
    pub fn text(self) -> Result<String> {
        let mut registry = Registry::with_prefix("mirror");
        registry
            .sub_registry_with_label(("app".into(), self.app.clone().into()))
            .register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn by_side(value: impl Fn(Side) -> f64) -> Vec<(Labels, f64)> {
        Side::BOTH.iter().map(|side| (vec![("side", side.name().into())], value(*side))).collect()
    }

    /// A value a server, of the sides that have several.
    fn by_server(&self, value: fn(&ServerStatus) -> f64) -> Vec<(Labels, f64)> {
        let of = |side: Side| {
            self.backends[side as usize].iter().map(move |server| {
                let mut labels = vec![("side", side.name().into()), ("server", server.address.to_string())];
                labels.extend(server.service.clone().map(|service| ("service", service)));
                (labels, value(server))
            })
        };
        Side::BOTH.into_iter().flat_map(of).collect()
    }

    fn probes(&self) -> Vec<(Labels, f64)> {
        let labels = |side: Side, result: &str| vec![("side", side.name().into()), ("result", result.into())];
        let of = |side: Side| {
            let [bad, well] = self.breakers[side as usize].2;
            [(labels(side, "unwell"), bad as f64), (labels(side, "well"), well as f64)]
        };
        Side::BOTH.into_iter().flat_map(of).collect()
    }

    /// A value a side and class, from the answers that clients were shown.
    fn answers<T>(&self, value: impl Fn(&Answers) -> T) -> Vec<(Labels, T)> {
        let mut all = Vec::new();
        for side in Side::BOTH {
            for (class, name) in CLASSES.iter().enumerate() {
                let labels = vec![("side", side.name().to_owned()), ("class", (*name).to_owned())];
                all.push((labels, value(&self.turns.shown[side as usize][class])));
            }
        }
        all
    }

    fn payload(&self) -> Vec<(Labels, f64)> {
        let of = |side: Side| {
            let labels =
                |direction: &str| vec![("side", side.name().into()), ("direction", direction.into())];
            let (carried, n) = (&self.turns.carried, side as usize);
            [(labels("requests"), carried.requests[n] as f64), (labels("answers"), carried.answers[n] as f64)]
        };
        Side::BOTH.into_iter().flat_map(of).collect()
    }

    fn families(&self) -> Vec<Family> {
        let counter = |name, help, samples| Family { name, help, samples: Samples::Counter(samples) };
        let gauge = |name, help, samples| Family { name, help, samples: Samples::Gauge(samples) };
        let one = |value: f64| vec![(Labels::new(), value)];
        let flag = |on: bool| f64::from(u8::from(on));
        let packets = self.packets.iter().map(|(v, n)| (vec![("verdict", v.name().into())], *n as f64));
        let phases = Phase::ALL
            .iter()
            .map(|phase| (vec![("phase", phase.name().to_owned())], flag(*phase == self.word.phase())));
        let moves = self.moves.iter().map(|(wanted, result, n)| {
            (vec![("move", (*wanted).to_owned()), ("result", (*result).to_owned())], *n as f64)
        });
        let latency = self.answers(|shown| coarse(&shown.latency));
        let compared = |value: fn(&Pairs) -> u64| -> Vec<(Labels, f64)> {
            let labels = |class: &str| vec![("class", class.to_owned())];
            CLASSES.iter().zip(&self.turns.pairs).map(|(class, p)| (labels(class), value(p) as f64)).collect()
        };
        vec![
            counter("packets", "Packets by what became of them", packets.collect()),
            Family {
                name: "turn_latency_seconds",
                help: "From a request's first byte to its answer's last, by the side that the client heard and its class",
                samples: Samples::Histogram(latency),
            },
            counter(
                "responses",
                "Answers that clients were shown, by side, class and the class of their status",
                responses(&self.turns.shown),
            ),
            counter(
                "compared_responses",
                "Answers to compared turns, shown or not, likewise",
                responses(&self.turns.compared),
            ),
            counter(
                "payload_bytes",
                "Payload towards each side's server and from it, shown or not; what was sent again is counted again",
                self.payload(),
            ),
            counter(
                "compared_turns",
                "Turns of which both sides' answers were compared",
                compared(|pairs| pairs.compared),
            ),
            counter(
                "differing_turns",
                "Compared turns whose answers differ in status, length or digest, noise included",
                compared(Pairs::differing),
            ),
            gauge("flows", "Connections", one(f64::from(self.flows[0]))),
            gauge("flows_two_legs", "Connections with both legs open", one(f64::from(self.flows[1]))),
            gauge(
                "flows_unanswered",
                "Connections that wait for an answer that the side without authority has given",
                one(f64::from(self.flows[2])),
            ),
            gauge(
                "open_writes",
                "Writes begun and not finished on every member",
                one(self.open_writes as f64),
            ),
            gauge(
                "lagging",
                "Connections whose client has seen an answer that the mirror owes, with a write open",
                one(self.lagging as f64),
            ),
            counter(
                "overtaking_writes",
                "Writes that began while another connection lagged",
                one(self.turns.pairs[1].overtaking as f64),
            ),
            gauge(
                "weight_ratio",
                "Share of the reads that the shadow answers",
                one(f64::from(self.word.weight()) / 1e4),
            ),
            gauge(
                "authority",
                "1: the side answers writes",
                Self::by_side(|side| flag(side == self.word.authority())),
            ),
            gauge(
                "in_sync",
                "1: the side has every answered write",
                Self::by_side(|side| flag(self.word.member(side))),
            ),
            gauge("phase", "1: the migration stands there", phases.collect()),
            gauge("frozen", "1: writes wait", one(flag(self.word.frozen()))),
            gauge("epoch", "Changes of the switch word so far", one(f64::from(self.word.epoch()))),
            counter(
                "legs_lost",
                "Legs that were lost",
                Self::by_side(|side| self.legs_lost[side as usize] as f64),
            ),
            counter(
                "connections_not_taken",
                "New connections that the side's server refused or didn't answer",
                Self::by_side(|side| self.not_taken[side as usize] as f64),
            ),
            gauge(
                "server_well",
                "1: the server's health checks find it well, where its side has several",
                self.by_server(|server| f64::from(u8::from(server.well))),
            ),
            gauge(
                "server_connections",
                "Open connections to a server, where its side has several",
                self.by_server(|server| f64::from(server.connections)),
            ),
            gauge(
                "breaker_open",
                "1: the side fell out of sync, and no probe has found it well since",
                Self::by_side(|side| flag(self.breakers[side as usize].0)),
            ),
            counter(
                "breaker_trips",
                "How often lost legs opened the side's circuit breaker",
                Self::by_side(|side| self.breakers[side as usize].1 as f64),
            ),
            counter("breaker_probes", "Probes of sides that fell out, by what they found", self.probes()),
            gauge("frames_held", "Frames that wait", one(self.held[0] as f64)),
            counter("hold_frames", "Frames that had to wait", one(self.held[1] as f64)),
            counter(
                "hold_dropped",
                "Frames that waited in vain: TCP sends them again",
                one(self.held[2] as f64),
            ),
            counter("sweeps", "Visits of all flows", one(self.sweeps.0 as f64)),
            counter("sweep_seconds", "Time that they took", one(self.sweeps.1)),
            counter("moves", "Joins, cutovers, rehearsals and rollbacks by how they ended", moves.collect()),
        ]
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let decided = self.decision_families().into_iter().chain(self.forecast_families());
        for family in self.families().into_iter().chain(self.resource_families()).chain(decided) {
            let kind = match family.samples {
                Samples::Counter(_) => MetricType::Counter,
                Samples::Gauge(_) => MetricType::Gauge,
                Samples::Histogram(_) => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            match &family.samples {
                Samples::Counter(samples) => {
                    for (labels, value) in samples {
                        ConstCounter::new(*value).encode(metric.encode_family(labels)?)?;
                    }
                }
                Samples::Gauge(samples) => {
                    for (labels, value) in samples {
                        ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
                    }
                }
                Samples::Histogram(samples) => {
                    for (labels, b) in samples {
                        metric
                            .encode_family(labels)?
                            .encode_histogram::<NoLabelSet>(b.sum, b.count, &b.between, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
