//! What no test can beat: log(1/α) over the information a request.
//!
//! A test that is wrong with probability α at most needs, on average, evidence of log(1/α); a request brings the divergence of
//! the two hypotheses (Wald). α is shared by three metrics. The primary's distribution isn't known but measured at the same
//! time, by the share of the requests that it answers: both samples are told from their mixture.

use statrs::distribution::{Discrete, NegativeBinomial};

use super::work::{Fault, STEP_TICKS, STEPS, Shape, TICK};

/// Requests of the shadow that the best test needs at a steady load of so many requests a second.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Bound {
    /// By one number: the errors, or the exceedances of the primary's p99.
    pub(crate) exceedances: f64,
    /// By the whole histogram. The same for errors.
    pub(crate) whole_histogram: f64,
    /// For errors: where each side's errors come in the bursts of the noisy work, and both the bursts' law and the primary's
    /// rate are known exactly.
    pub(crate) noisy: Option<f64>,
}

impl Bound {
    /// The one that the best known judges were measured against.
    pub(crate) fn usual(&self, fault: Fault) -> f64 {
        if fault == Fault::All10 { self.whole_histogram } else { self.exceedances }
    }
}

pub(crate) fn bound(fault: Fault, honest: &Shape, alpha: f64, rate: f64) -> Bound {
    let enough = (3.0 / alpha).ln();
    if matches!(fault, Fault::Errors1 | Fault::Errors01) {
        let (p, s) = (Fault::None.errors(), fault.errors());
        let errors = requests(&[p, 1.0 - p], &[s, 1.0 - s], enough, rate);
        let noisy = Some(requests_in_bursts(p, s, enough, rate));
        return Bound { exceedances: errors, whole_histogram: errors, noisy };
    }
    let (p, s) = (honest.buckets(1.0), Shape::new(fault).buckets(1.0));
    let mut below = 0.0;
    let cut = p.iter().position(|share| {
        below += share;
        below >= 0.99
    });
    let beyond = |shares: &[f64]| shares[cut.map_or(0, |cut| cut + 1)..].iter().sum::<f64>();
    let (tail, fat) = (beyond(&p), beyond(&s));
    Bound {
        exceedances: requests(&[tail, 1.0 - tail], &[fat, 1.0 - fat], enough, rate),
        whole_histogram: requests(&p, &s, enough, rate),
        noisy: None,
    }
}

/// The same for errors that come in bursts: a minute's count is negative binomial, of shape 2, and brings the divergence of two
/// such counts.
fn requests_in_bursts(primary: f64, shadow: f64, enough: f64, rate: f64) -> f64 {
    let (mut information, mut served) = (0.0, 0.0);
    for step in STEPS {
        let requests = step * rate * 60.0;
        let law = |errors: f64| {
            NegativeBinomial::new(2.0, 2.0 / (2.0 + requests * errors)).expect("a mean above 0")
        };
        let (usual, bad) = (law(primary), law(shadow));
        let most = (requests * shadow * 20.0) as u64 + 50;
        let each: f64 = (0..most).map(|n| bad.pmf(n) * (bad.ln_pmf(n) - usual.ln_pmf(n))).sum();
        let minutes = ((enough - information) / each).min(10.0);
        information += each * minutes;
        served += requests * minutes;
        if information + 1e-9 >= enough {
            break;
        }
    }
    served
}

/// Requests of the shadow until the information passes `enough`, on the schedule of the steps.
fn requests(primary: &[f64], shadow: &[f64], enough: f64, rate: f64) -> f64 {
    let (mut information, mut served) = (0.0, 0.0);
    for step in STEPS {
        let (mine, theirs) = (step * rate * TICK, (1.0 - step) * rate * TICK);
        let each: f64 = primary
            .iter()
            .zip(shadow)
            .map(|(&p, &s)| {
                let mixed = step * s + (1.0 - step) * p;
                let part = |x: f64, n: f64| if x > 0.0 { n * x * (x / mixed).ln() } else { 0.0 };
                part(s, mine) + part(p, theirs)
            })
            .sum();
        let ticks = ((enough - information) / each).min(STEP_TICKS as f64);
        information += each * ticks;
        served += mine * ticks;
        if information + 1e-9 >= enough {
            break;
        }
    }
    served
}
