//! What each side's server needs for the requests that it works on, learned from its resources, minute by minute.
//!
//! In lock-step a member of the mirroring works on all requests of the flows that it has a leg of, whoever answers them.

use mirror_common::switch_word::Side;
use mirror_forecast::demand::{Cost, Demand, NotKnown, Rates};
use serde::{Deserialize, Serialize};

use crate::resources::{Metric, Sample};

/// Seconds that one sample is the mean of.
const MINUTE: f64 = 60.0;
/// Share of them for which a metric must be known: some sources update every few seconds.
const KNOWN: f64 = 0.25;
/// Metrics of a source.
const METRICS: usize = Metric::OF_SOURCE.len();

/// What was learned of both sides.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Learner {
    /// By side and metric.
    demands: [[Demand; METRICS]; 2],
    /// What runs isn't kept.
    #[serde(skip)]
    running: [Minute; 2],
}

/// The minute that runs.
#[derive(Clone, Debug, Default)]
struct Minute {
    seconds: f64,
    looks: u32,
    reads: f64,
    writes: f64,
    /// Sum and count of what is known, by metric.
    used: [(f64, u32); METRICS],
}

impl Learner {
    /// Takes in one look at a side: the seconds since the last one, what it worked on (`None`: that isn't known, or it isn't
    /// a member), and what is known of its resources. True when a minute has ended, and is learned from.
    pub fn look(&mut self, side: Side, seconds: f64, worked_on: Option<Rates>, sample: &Sample) -> bool {
        let minute = &mut self.running[side as usize];
        let Some(rates) = worked_on else {
            // A minute that it wasn't there for, or not all of it, tells nothing.
            *minute = Minute::default();
            return false;
        };
        minute.seconds += seconds;
        minute.looks += 1;
        minute.reads += rates.reads;
        minute.writes += rates.writes;
        for (metric, (sum, count)) in Metric::OF_SOURCE.into_iter().zip(&mut minute.used) {
            if let Ok(value) = sample.get(metric) {
                *sum += value;
                *count += 1;
            }
        }
        if minute.seconds + 1e-6 < MINUTE {
            return false;
        }
        let minute = std::mem::take(minute);
        let looks = f64::from(minute.looks);
        let rates = Rates { reads: minute.reads / looks, writes: minute.writes / looks };
        for (demand, (sum, count)) in self.demands[side as usize].iter_mut().zip(minute.used) {
            if f64::from(count) >= KNOWN * looks {
                demand.observe(rates, sum / f64::from(count));
            }
        }
        true
    }

    /// What a side needs of a source's metric at these rates.
    ///
    /// # Errors
    /// How many minutes are missing.
    pub fn cost(&self, side: Side, metric: Metric, rates: Rates) -> Result<Cost, NotKnown> {
        match self.demands[side as usize].get(metric as usize) {
            Some(demand) => demand.cost(rates),
            None => Err(NotKnown { missing: u32::MAX }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Missing;

    fn sample(cpu: Option<f64>) -> Sample {
        let mut values = [Err(Missing::NoSource); Metric::ALL.len()];
        values[Metric::Cpu as usize] = cpu.ok_or(Missing::Gone);
        Sample { at: 0, values }
    }

    fn rates(reads: f64) -> Option<Rates> {
        Some(Rates { reads, writes: 0.0 })
    }

    #[test]
    fn minutes_are_learned_from_and_each_metric_by_itself() {
        let mut learner = Learner::default();
        let mut ended = 0;
        for second in 0..1_200 {
            let load = f64::from(second / 60 + 1);
            ended += u32::from(learner.look(Side::Shadow, 1.0, rates(load), &sample(Some(0.1 * load))));
        }
        assert_eq!(ended, 20);
        let cost = learner.cost(Side::Shadow, Metric::Cpu, Rates { reads: 40.0, writes: 0.0 });
        assert!(cost.is_ok_and(|cost| (cost.mean() - 4.0).abs() < 0.2), "{cost:?}");
        let of = |side, metric| learner.cost(side, metric, Rates::default()).map(drop);
        assert_eq!(of(Side::Shadow, Metric::Memory), Err(NotKnown { missing: 10 }));
        assert_eq!(of(Side::Primary, Metric::Cpu), Err(NotKnown { missing: 10 }));
        assert!(of(Side::Shadow, Metric::Reads).is_err(), "no source gives that");
        let kept: Learner = serde_json::from_str(&serde_json::to_string(&learner).unwrap()).unwrap();
        assert!(kept.cost(Side::Shadow, Metric::Cpu, Rates::default()).is_ok());
    }

    #[test]
    fn a_minute_that_it_was_not_a_member_for_and_one_whose_source_is_dead_teach_nothing() {
        let mut learner = Learner::default();
        for second in 0..1_200 {
            let member = second % 60 != 30;
            learner.look(Side::Shadow, 1.0, rates(10.0).filter(|_| member), &sample(Some(1.0)));
            learner.look(Side::Primary, 1.0, rates(10.0), &sample((second % 60 < 10).then_some(1.0)));
        }
        for side in Side::BOTH {
            assert!(learner.cost(side, Metric::Cpu, Rates::default()).is_err(), "{side:?}");
        }
    }
}
