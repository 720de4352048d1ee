//! What a server needs for a request rate: a line, learned from what it used at the rates that it had.
//!
//! ```text
//!  usage = idle + read cost x reads a second + write cost x writes a second + noise;  no cost is negative
//! ```
//! Bayesian linear regression (Gelman and others, Bayesian Data Analysis, chapter 14). Of each cost it is assumed at first
//! that it alone may explain all usage: what the rates can't tell apart (the idle cost, as long as the rate is always the
//! same) stays uncertain, and becomes certain while the server's share grows. docs/STATISTICS.md says more.

use nalgebra::{Matrix3, Vector3};
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF as _, StudentsT};

/// Samples with requests before anything is said.
pub const FEWEST_SAMPLES: u32 = 10;
/// Samples after which one counts half: a day of minutes.
const HALF_LIFE: f64 = 1_440.0;
/// Noise that is assumed at least, as a share of the usage: meters are coarse, and no server is a line.
const LEAST_NOISE: f64 = 0.01;
/// Beyond the rates that were seen, each doubling adds this share of what depends on the rate to the standard deviation.
const EACH_DOUBLING: f64 = 0.05;
/// The rate of requests that an unseen rate is compared with, at least.
const LEAST_RATE: f64 = 1e-3;
/// Which of the three costs may be other than 0: all sets of them.
const SUBSETS: u8 = 8;

/// Requests a second that a server works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Reads a second.
    pub reads: f64,
    /// Writes a second.
    pub writes: f64,
}

impl Rates {
    fn total(self) -> f64 {
        self.reads + self.writes
    }

    fn is_possible(self) -> bool {
        [self.reads, self.writes].iter().all(|rate| rate.is_finite() && *rate >= 0.0)
    }
}

/// There is no telling yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("not known yet: {missing} more samples with requests are needed")]
pub struct NotKnown {
    /// Samples with requests that are needed at least.
    pub missing: u32,
}

/// Learns one resource of one server, in constant space.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// Sums of 1, reads and writes times each other, of those times the usage, and of its square; older ones weigh less.
    products: Matrix3<f64>,
    with_usage: Vector3<f64>,
    usage_squared: f64,
    /// Samples with requests so far.
    busy: u32,
    /// The highest rate that was seen, in requests a second.
    most_seen: f64,
}

/// What a rate needs, with its uncertainty: Student's t.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    mean: f64,
    deviation: f64,
    freedom: f64,
}

impl Demand {
    /// Takes in what was used, in the resource's unit, at which rates. What isn't finite, or negative, isn't a sample.
    pub fn observe(&mut self, rates: Rates, usage: f64) {
        if !rates.is_possible() || !usage.is_finite() || usage < 0.0 {
            return;
        }
        let keep = 0.5_f64.powf(1.0 / HALF_LIFE);
        let sample = vector(rates);
        self.products = self.products * keep + sample * sample.transpose();
        self.with_usage = self.with_usage * keep + sample * usage;
        self.usage_squared = self.usage_squared * keep + usage * usage;
        if rates.total() > 0.0 {
            self.busy = self.busy.saturating_add(1);
        }
        self.most_seen = self.most_seen.max(rates.total());
    }

    /// The highest rate that was seen, in requests a second.
    #[must_use]
    pub fn most_seen(&self) -> f64 {
        self.most_seen
    }

    /// What these rates need.
    ///
    /// # Errors
    /// When too little was seen, or the rates are none.
    pub fn cost(&self, rates: Rates) -> Result<Cost, NotKnown> {
        let missing = FEWEST_SAMPLES.saturating_sub(self.busy);
        let fit = self.fit().filter(|_| missing == 0 && rates.is_possible());
        fit.map(|fit| fit.cost(rates, self.most_seen)).ok_or(NotKnown { missing: missing.max(1) })
    }

    /// `None` where the sums can't be solved for: nothing was seen, or numbers beyond all servers.
    fn fit(&self) -> Option<Fit> {
        let count = self.products[(0, 0)];
        let total_squared = self.products[(1, 1)] + 2.0 * self.products[(1, 2)] + self.products[(2, 2)];
        let usage_scale = (self.usage_squared / count).sqrt();
        let rate_scale = (total_squared / count).sqrt();
        if !usage_scale.is_finite() || !rate_scale.is_normal() {
            return None;
        }
        // A resource that was never used has no scale; it costs nothing whatever that is.
        let usage_scale = if usage_scale > 0.0 { usage_scale } else { 1.0 };
        let scale = Vector3::new(1.0, 1.0 / rate_scale, 1.0 / rate_scale);
        let products = self.products.component_mul(&(scale * scale.transpose()));
        let with_usage = self.with_usage.component_mul(&scale) / usage_scale;
        let squared = self.usage_squared / usage_scale.powi(2);
        // The noise, by least squares; a grain on the diagonal where the rates can't be told apart.
        let grain = Matrix3::identity() * (count * 1e-9);
        let line = (products + grain).cholesky()?.solve(&with_usage);
        let rest = squared - 2.0 * line.dot(&with_usage) + line.dot(&(products * line));
        let freedom = (count - 3.0).max(1.0);
        let noise = (rest / freedom).max(LEAST_NOISE.powi(2));
        // Each cost, scaled, has a variance of 1 before anything is seen.
        let precision = products + Matrix3::identity() * noise;
        let costs = without_negatives(&precision, &with_usage)?;
        let spread = precision.try_inverse()?;
        Some(Fit { costs, spread, noise, freedom, usage_scale, rate_scale })
    }
}

fn vector(rates: Rates) -> Vector3<f64> {
    Vector3::new(1.0, rates.reads, rates.writes)
}

/// The costs that fit best of those that aren't negative: every set of costs that may be other than 0 is tried.
fn without_negatives(precision: &Matrix3<f64>, with_usage: &Vector3<f64>) -> Option<Vector3<f64>> {
    let of = |subset: u8| {
        let is_in = |index: usize| subset & (1 << index) != 0;
        // A row of the identity and a 0 keep a cost at 0.
        let matrix = Matrix3::from_fn(|row, column| match (is_in(row) && is_in(column), row == column) {
            (true, _) => precision[(row, column)],
            (false, same) => f64::from(u8::from(same)),
        });
        let wanted = Vector3::from_fn(|row, _| if is_in(row) { with_usage[row] } else { 0.0 });
        let costs = matrix.cholesky()?.solve(&wanted);
        let loss = 0.5 * costs.dot(&(precision * costs)) - costs.dot(with_usage);
        (costs.iter().all(|cost| *cost >= 0.0) && loss.is_finite()).then_some((loss, costs))
    };
    (0..SUBSETS).filter_map(of).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, costs)| costs)
}

/// Costs in the scales of usage and rate.
struct Fit {
    costs: Vector3<f64>,
    /// Their covariance over the noise's variance.
    spread: Matrix3<f64>,
    noise: f64,
    freedom: f64,
    usage_scale: f64,
    rate_scale: f64,
}

impl Fit {
    fn cost(&self, rates: Rates, most_seen: f64) -> Cost {
        let at = vector(rates).component_div(&Vector3::new(1.0, self.rate_scale, self.rate_scale));
        let mean = self.costs.dot(&at);
        let doublings = (rates.total() / most_seen.max(LEAST_RATE)).log2().max(0.0);
        let beyond = EACH_DOUBLING * doublings * (mean - self.costs[0]);
        let variance = self.noise * (1.0 + at.dot(&(self.spread * at))) + beyond.powi(2);
        Cost {
            mean: mean * self.usage_scale,
            deviation: variance.sqrt() * self.usage_scale,
            freedom: self.freedom,
        }
    }
}

impl Cost {
    /// The expected need.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The need that isn't exceeded with probability `level` (cut off at 0.0001 and 0.9999); never below 0.
    #[must_use]
    pub fn quantile(&self, level: f64) -> f64 {
        let level = if level.is_nan() { 0.5 } else { level.clamp(1e-4, 0.9999) };
        let deviations = StudentsT::new(0.0, 1.0, self.freedom).map_or(0.0, |t| t.inverse_cdf(level));
        (self.mean + deviations * self.deviation).max(0.0)
    }
}

#[cfg(test)]
mod tests;
