//! Counters to rates. A counter that went back is a restart: that step is missing, and never negative.

use std::collections::BTreeMap;

use super::{Clock, Counter, Found, Metric, Missing, Reading, Value};

/// A step in seconds that is longer tells nothing of this second: the source was away.
const LONGEST_STEP: f64 = 60.0;

/// The last reading of a side's counters.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    last: BTreeMap<Metric, Counter>,
}

impl Rates {
    /// The values of `metrics` at this reading. A metric that is missing keeps its last counter, so that a short gap costs
    /// the gap alone.
    pub fn step(&mut self, metrics: &[Metric], reading: &Reading) -> Vec<(Metric, Found<f64>)> {
        metrics.iter().map(|metric| (*metric, self.value(*metric, reading))).collect()
    }

    fn value(&mut self, metric: Metric, reading: &Reading) -> Found<f64> {
        let value = match reading.get(metric)? {
            Value::Gauge(value) => *value,
            Value::Counter(counter) => self.rate(metric, counter)?,
        };
        if (0.0..=metric.most()).contains(&value) { Ok(value) } else { Err(Missing::Impossible) }
    }

    fn rate(&mut self, metric: Metric, counter: &Counter) -> Found<f64> {
        if !counter.at.is_finite() || counter.parts.values().any(|part| !part.is_finite() || *part < 0.0) {
            return Err(Missing::Impossible);
        }
        let Some(last) = self.last.get(&metric) else {
            self.last.insert(metric, counter.clone());
            return Err(Missing::FirstReading);
        };
        let rate = between(last, counter);
        // What hasn't changed is measured from its last change on.
        if rate != Err(Missing::Unchanged) {
            self.last.insert(metric, counter.clone());
        }
        rate
    }
}

/// Growth a second of the parts that were there before, too.
fn between(last: &Counter, now: &Counter) -> Found<f64> {
    let step = now.at - last.at;
    if last.clock == Clock::Source && now.clock == Clock::Source && step == 0.0 {
        return Err(Missing::Unchanged);
    }
    if last.clock != now.clock || step <= 0.0 {
        return Err(Missing::Reset);
    }
    if step > LONGEST_STEP {
        return Err(Missing::FirstReading);
    }
    let mut grown = None;
    for (part, value) in &now.parts {
        let Some(before) = last.parts.get(part) else { continue };
        if value < before {
            return Err(Missing::Reset);
        }
        *grown.get_or_insert(0.0) += value - before;
    }
    match grown {
        Some(grown) => Ok(grown / step),
        // Nothing is there: a server without disks reads nothing. Or all is new: another one.
        None if now.parts.is_empty() && last.parts.is_empty() => Err(Missing::NotMeasured),
        None => Err(Missing::Reset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(at: f64, parts: &[(&str, f64)]) -> Counter {
        let parts = parts.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Counter { at, clock: Clock::Gateway, parts }
    }

    fn step(rates: &mut Rates, counter: Counter) -> Found<f64> {
        let mut reading = Reading::default();
        reading.set(Metric::Sent, Ok(Value::Counter(counter)));
        rates.step(&[Metric::Sent], &reading)[0].1
    }

    #[test]
    fn a_rate_is_the_growth_a_second() {
        let mut rates = Rates::default();
        assert_eq!(step(&mut rates, counter(10.0, &[("a", 100.0), ("b", 7.0)])), Err(Missing::FirstReading));
        assert_eq!(step(&mut rates, counter(12.0, &[("a", 300.0), ("b", 7.0)])), Ok(100.0));
        assert_eq!(step(&mut rates, counter(13.0, &[("a", 300.0), ("b", 7.0)])), Ok(0.0));
    }

    #[test]
    fn a_counter_that_went_back_is_missing_once_and_never_negative() {
        let mut rates = Rates::default();
        step(&mut rates, counter(1.0, &[("a", 1e6)])).unwrap_err();
        assert_eq!(step(&mut rates, counter(2.0, &[("a", 10.0)])), Err(Missing::Reset));
        assert_eq!(step(&mut rates, counter(3.0, &[("a", 15.0)])), Ok(5.0));
        // Another process under the same name: its counter may well be larger.
        assert_eq!(step(&mut rates, counter(4.0, &[("b", 9e9)])), Err(Missing::Reset));
    }

    #[test]
    fn a_part_that_is_new_or_gone_makes_no_jump() {
        let mut rates = Rates::default();
        step(&mut rates, counter(1.0, &[("a", 10.0), ("b", 500.0)])).unwrap_err();
        assert_eq!(step(&mut rates, counter(2.0, &[("a", 12.0), ("c", 1e9)])), Ok(2.0));
    }

    #[test]
    fn lies_are_impossible_and_the_next_truth_counts() {
        let mut rates = Rates::default();
        step(&mut rates, counter(1.0, &[("a", 10.0)])).unwrap_err();
        for lie in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(step(&mut rates, counter(2.0, &[("a", lie)])), Err(Missing::Impossible));
        }
        assert_eq!(step(&mut rates, counter(3.0, &[("a", 30.0)])), Ok(10.0));
        assert_eq!(step(&mut rates, counter(4.0, &[("a", 1e300)])), Err(Missing::Impossible));
        let mut reading = Reading::default();
        reading.set(Metric::Memory, Ok(Value::Gauge(-5.0)));
        assert_eq!(rates.step(&[Metric::Memory], &reading)[0].1, Err(Missing::Impossible));
    }

    #[test]
    fn a_gap_is_bridged_when_it_is_short() {
        let mut rates = Rates::default();
        step(&mut rates, counter(1.0, &[("a", 0.0)])).unwrap_err();
        let gone = rates.step(&[Metric::Sent], &Reading::missing(Missing::TooSlow));
        assert_eq!(gone, [(Metric::Sent, Err(Missing::TooSlow))]);
        assert_eq!(step(&mut rates, counter(3.0, &[("a", 8.0)])), Ok(4.0));
        assert_eq!(step(&mut rates, counter(103.0, &[("a", 9.0)])), Err(Missing::FirstReading));
    }

    #[test]
    fn what_a_source_updates_every_ten_seconds_is_known_every_ten_seconds() {
        let mut rates = Rates::default();
        let stamped = |at, value| Counter { clock: Clock::Source, ..counter(at, &[("a", value)]) };
        step(&mut rates, stamped(1e9, 50.0)).unwrap_err();
        assert_eq!(step(&mut rates, stamped(1e9, 50.0)), Err(Missing::Unchanged));
        assert_eq!(step(&mut rates, stamped(1e9 + 10.0, 150.0)), Ok(10.0));
        assert_eq!(step(&mut rates, counter(5.0, &[("a", 160.0)])), Err(Missing::Reset));
    }
}
