//! What no test can beat: log(1/α) over the information a request.
//!
//! A test that is wrong with probability α at most needs, on average, evidence of log(1/α); a request brings the divergence of
//! the two hypotheses (Wald). α is shared by three metrics. The primary's distribution isn't known but measured at the same
//! time, by the share of the requests that it answers: both samples are told from their mixture.

use super::work::{Fault, STEP_TICKS, STEPS, Shape, TICK};

/// Requests of the shadow that the best test needs at a steady load of so many requests a second.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Bound {
    /// By one number: the errors, or the exceedances of the primary's p99.
    pub(crate) exceedances: f64,
    /// By the whole histogram. The same for errors.
    pub(crate) whole_histogram: f64,
}

pub(crate) fn bound(fault: Fault, honest: &Shape, alpha: f64, rate: f64) -> Bound {
    let enough = (3.0 / alpha).ln();
    if matches!(fault, Fault::Errors1 | Fault::Errors01) {
        let (p, s) = (Fault::None.errors(), fault.errors());
        let errors = requests(&[p, 1.0 - p], &[s, 1.0 - s], enough, rate);
        return Bound { exceedances: errors, whole_histogram: errors };
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
    }
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
