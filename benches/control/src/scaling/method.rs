//! The policies compared: what each wants at a tick.

use std::time::Duration;

use anyhow::Result;
use mirror_control::scaler::{Scaler, ScalerPolicy, Seen};

use super::{HOLD, PEAK_UNITS, TICK, load::Load};

/// Units, at most: room for forecasts above the peak.
const MOST: u32 = 2 * PEAK_UNITS as u32;
/// Kubernetes leaves the number as it is where utilisation is that near the target.
const TOLERANCE: f64 = 0.1;

/// A way to choose the number of units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Method {
    /// The largest need before scoring began.
    FixedPeak,
    /// The horizontal pod autoscaler's rule at a target utilisation.
    Kubernetes(f64),
    /// A factor of the load now.
    Factor(f64),
    /// A quantile of the forecast alone.
    Forecast(f64),
    /// The larger one of that quantile and a factor of the load now.
    Hybrid(f64, f64),
    Ours,
}

impl Method {
    pub(crate) const ALL: [Self; 9] = [
        Self::FixedPeak,
        Self::Kubernetes(0.7),
        Self::Kubernetes(0.6),
        Self::Kubernetes(0.5),
        Self::Factor(1.25),
        Self::Forecast(0.95),
        Self::Forecast(0.98),
        Self::Hybrid(0.8, 1.25),
        Self::Ours,
    ];

    pub(crate) fn name(self) -> String {
        match self {
            Self::FixedPeak => "fixed peak".to_owned(),
            Self::Kubernetes(target) => format!("Kubernetes' rule at {target}"),
            Self::Factor(factor) => format!("{factor} x now"),
            Self::Forecast(level) => format!("forecast, quantile {level}"),
            Self::Hybrid(level, factor) => format!("max(forecast {level}, {factor} x now)"),
            Self::Ours => "**ours**".to_owned(),
        }
    }
}

/// A method at work. But for ours it wants units before the hold time is applied.
pub(crate) struct Chooser<'a> {
    load: &'a Load,
    method: Method,
    /// Ticks of the lead time.
    lead: usize,
    scaler: Scaler,
}

impl<'a> Chooser<'a> {
    /// # Errors
    /// If our policy makes no sense.
    pub(crate) fn new(load: &'a Load, method: Method, lead: u32) -> Result<Self> {
        let policy = ScalerPolicy {
            armed: true,
            least: 1,
            most: MOST,
            hold_seconds: f64::from(HOLD),
            ..ScalerPolicy::default()
        };
        let scaler = Scaler::new(policy, Duration::from_secs(lead.into()))?;
        Ok(Self { load, method, lead: (lead / TICK) as usize, scaler })
    }

    /// Units wanted at a tick, where `ordered` were wanted before and `ready` are there.
    pub(crate) fn wanted(&mut self, tick: usize, ordered: u32, ready: u32) -> u32 {
        let load = self.load;
        let now = load.at(tick);
        let ahead = |level| load.forecast(tick, self.lead, level);
        let units = |wanted: Option<f64>| wanted.map_or(ordered, |wanted| load.units(wanted));
        let wanted = match self.method {
            Method::FixedPeak => load.units(load.peak_so_far()),
            Method::Kubernetes(target) => now.map_or(ordered, |now| {
                let utilisation = now / load.unit / f64::from(ready);
                let is_near = (utilisation / target - 1.0).abs() <= TOLERANCE;
                if is_near { ordered } else { load.units(now / target) }
            }),
            Method::Factor(factor) => units(now.map(|now| factor * now)),
            Method::Forecast(level) => units(ahead(level)),
            Method::Hybrid(level, factor) => {
                let both = ahead(level).into_iter().chain(now.map(|now| factor * now));
                units(both.reduce(f64::max))
            }
            Method::Ours => {
                let seen = Seen {
                    at: tick as f64 * f64::from(TICK),
                    load: now,
                    forecast: ahead(ScalerPolicy::default().quantile),
                    unit: Some(load.unit),
                    current: ordered,
                };
                self.scaler.decide(&seen).wanted
            }
        };
        wanted.clamp(1, MOST)
    }
}
