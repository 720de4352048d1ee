//! Two judges in wide use, rebuilt from their documentation: Flagger's thresholds, and Kayenta's Mann-Whitney test.

use mirror_control::evidence::{Counts, Histogram, Tick};
use statrs::distribution::{ContinuousCDF, Normal};

use super::work::{STEP_TICKS, TICK};

const MINUTE_TICKS: usize = (60.0 / TICK) as usize;

#[derive(Default)]
struct Minute {
    primary: Counts,
    shadow: Counts,
}

fn merge(sum: &mut Counts, counts: &Counts) {
    sum.requests += counts.requests;
    sum.errors += counts.errors;
    sum.latency.merge(&counts.latency);
}

/// Both peers, on the same ticks. Each says once that the shadow is to be rolled back.
#[derive(Default)]
pub(crate) struct Peers {
    ticks: usize,
    minute: Minute,
    failed_checks: u32,
    /// A minute each: (primary, shadow) of errors, p50 and p99.
    series: [Vec<(f64, f64)>; 3],
    pub(crate) flagger: bool,
    pub(crate) kayenta: bool,
}

impl Peers {
    pub(crate) fn observe(&mut self, tick: &Tick) {
        merge(&mut self.minute.primary, &tick.primary);
        merge(&mut self.minute.shadow, &tick.shadow);
        self.ticks += 1;
        if self.ticks.is_multiple_of(MINUTE_TICKS) {
            let minute = std::mem::take(&mut self.minute);
            self.flagger |= self.check(&minute.shadow);
            self.note(&minute);
        }
        if self.ticks.is_multiple_of(STEP_TICKS) {
            let series = std::mem::take(&mut self.series);
            self.kayenta |= series.iter().any(|points| is_high(points));
        }
    }

    /// Flagger's defaults: success of 99 %, p99 of 500 ms, each minute; the fifth failure rolls back.
    fn check(&mut self, shadow: &Counts) -> bool {
        if shadow.requests == 0 {
            return false;
        }
        let success = 1.0 - shadow.errors as f64 / shadow.requests as f64;
        let p99 = shadow.latency.quantile_us(0.99).unwrap_or(0);
        self.failed_checks += u32::from(success < 0.99 || p99 > 500_000);
        self.failed_checks >= 5
    }

    fn note(&mut self, minute: &Minute) {
        if minute.primary.requests == 0 || minute.shadow.requests == 0 {
            return;
        }
        let rate = |counts: &Counts| counts.errors as f64 / counts.requests as f64;
        let quantile = |latency: &Histogram, q: f64| latency.quantile_us(q).unwrap_or(0) as f64;
        let (primary, shadow) = (&minute.primary, &minute.shadow);
        self.series[0].push((rate(primary), rate(shadow)));
        for (series, q) in [(1, 0.5), (2, 0.99)] {
            self.series[series].push((quantile(&primary.latency, q), quantile(&shadow.latency, q)));
        }
    }
}

/// Kayenta's rule: the lower end of the 98 % interval of the shift (Hodges and Lehmann) is above a quarter of its estimate.
fn is_high(points: &[(f64, f64)]) -> bool {
    let n = points.len();
    if n < 5 {
        return false;
    }
    let mut shifts: Vec<f64> = points.iter().flat_map(|p| points.iter().map(move |q| q.1 - p.0)).collect();
    shifts.sort_by(f64::total_cmp);
    let estimate = shifts[shifts.len() / 2];
    let (n, z) = (n as f64, Normal::standard().inverse_cdf(0.99));
    let low = n * n / 2.0 - z * (n * n * (2.0 * n + 1.0) / 12.0).sqrt();
    let lower = shifts[(low.max(0.0) as usize).min(shifts.len() - 1)];
    lower > 0.25 * estimate && lower > 0.0
}
