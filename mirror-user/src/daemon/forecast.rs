//! Forecasts while the daemon runs: made by a thread of their own, which may take seconds, and told to all others.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use axum::{
    Json,
    extract::{Query, State as Extract},
};
use mirror_common::switch_word::Side;
use mirror_forecast::{
    MAX_HORIZON,
    demand::Rates,
    tracker::{HORIZONS, STEP},
};

use super::{
    Shared,
    serve::{App, Refused, check_name},
};
use crate::{
    api::forecast::{
        ClassForecast, ForecastAnswer, ForecastRequest, HorizonForecast, Need, Scaling, SideDemand,
    },
    demand::Learner,
    outlook::{CLASSES, ClassTold, Outlook, Told},
    resources::{Metric, watch::Known},
};

/// It looks this often whether a minute is complete.
const LOOK: Duration = Duration::from_millis(500);
/// It rests for so many times what it took.
const REST: f64 = 19.0;
/// A forecast that is older, in seconds of the migration's clock, isn't one any more.
const STALE: f64 = 600.0;
/// Spans that needs are told for, in seconds.
const HOUR: f64 = 3_600.0;
const DAY: f64 = 86_400.0;
/// The level that needs are told at, beside the expected ones.
const HIGH: f64 = 0.95;

/// What the daemon's threads tell each other of forecasts and sizes.
pub(super) struct Board {
    told: Mutex<Option<Arc<Told>>>,
    learner: Mutex<Learner>,
    scaling: Mutex<Scaling>,
    /// How many times faster than the clock time passes.
    pub(super) rate: f64,
}

impl Board {
    pub(super) fn new(learner: Learner, rate: f64) -> Self {
        Self { told: Mutex::default(), learner: Mutex::new(learner), scaling: Mutex::default(), rate }
    }

    /// The last forecasts with their age in seconds.
    pub(super) fn last(&self) -> Option<(Arc<Told>, f64)> {
        let told = lock(&self.told).clone()?;
        let age = told.at.elapsed().as_secs_f64() * self.rate;
        Some((told, age))
    }

    /// The same, unless they are stale.
    pub(super) fn told(&self) -> Option<(Arc<Told>, f64)> {
        self.last().filter(|(_, age)| *age <= STALE)
    }

    pub(super) fn learner(&self) -> MutexGuard<'_, Learner> {
        lock(&self.learner)
    }

    pub(super) fn scaling(&self) -> Scaling {
        lock(&self.scaling).clone()
    }

    pub(super) fn tell_scaling(&self, scaling: Scaling) {
        *lock(&self.scaling) = scaling;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the whole application is asked now; nothing where either side's part isn't known.
pub(super) fn rates_now(known: &Known) -> Option<Rates> {
    let of = |metric: Metric| {
        let side = |side: Side| known.now[side as usize].as_ref()?.get(metric).ok();
        Some(side(Side::Primary)? + side(Side::Shadow)?)
    };
    Some(Rates { reads: of(CLASSES[0])?, writes: of(CLASSES[1])? })
}

/// Begins to forecast.
///
/// # Errors
/// When there is no thread to be had.
pub(super) fn start(shared: &Arc<Shared>) -> Result<()> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("forecast".into()).spawn(move || {
        let mut outlook = None;
        loop {
            std::thread::sleep(LOOK);
            let took = step(&shared, &mut outlook);
            // It stays a small part of a core, however long the history.
            std::thread::sleep(took.mul_f64(REST));
        }
    })?;
    Ok(())
}

/// Makes forecasts when a minute is complete, and returns the time that they took. Without the series on disk there are
/// none, and the last ones get stale.
fn step(shared: &Shared, outlook: &mut Option<Outlook>) -> Duration {
    let now = shared.resources.known().now[0].as_ref().map(|sample| sample.at);
    let (Some(series), Some(now)) = (shared.resources.keeper.series(), now) else {
        return Duration::ZERO;
    };
    let minute = (STEP.as_secs_f64() / shared.board.rate).round().max(1.0) as u64;
    if outlook.as_ref().is_some_and(|outlook| outlook.is_lost(now)) {
        *outlook = None;
    }
    if outlook.as_ref().is_some_and(|outlook| !outlook.is_due(now)) {
        return Duration::ZERO;
    }
    let ready = match outlook.as_mut() {
        Some(outlook) => outlook.catch_up(&series, now),
        None => Outlook::from_series(&series, minute, now).map(|fitted| *outlook = Some(fitted)),
    };
    match (ready, outlook) {
        (Ok(()), Some(outlook)) => {
            let told = outlook.tell();
            let took = told.took;
            *lock(&shared.board.told) = Some(Arc::new(told));
            took
        }
        (Err(failure), _) => {
            tracing::warn!("no forecast: {}", failure.help());
            Duration::ZERO
        }
        (Ok(()), None) => Duration::ZERO,
    }
}

/// Answers `/forecast`.
pub(super) async fn forecast(
    Extract(shared): Extract<App>,
    Query(ask): Query<ForecastRequest>,
) -> Result<Json<ForecastAnswer>, Refused> {
    check_name(&shared, &ask.app)?;
    Ok(tokio::task::spawn_blocking(move || Json(answer(&shared))).await?)
}

fn answer(shared: &Shared) -> ForecastAnswer {
    let (told, age) = shared.board.last().unzip();
    let classes = told.iter().flat_map(|told| CLASSES.into_iter().zip(&told.classes));
    let now = rates_now(&shared.resources.known());
    let learner = shared.board.learner();
    let demand = Side::BOTH.map(|side| SideDemand {
        side: side.name().into(),
        needs: Metric::OF_SOURCE.map(|metric| need(&learner, side, metric, now, told.as_deref())).into(),
    });
    ForecastAnswer {
        name: shared.mover.name.as_str().into(),
        age_seconds: age,
        took_seconds: told.as_ref().map(|told| told.took.as_secs_f64()),
        from: told.as_ref().map(|told| told.from),
        classes: classes.map(|(metric, class)| class_forecast(metric, class)).collect(),
        demand: demand.into(),
        scaling: shared.board.scaling(),
    }
}

fn class_forecast(metric: Metric, told: &ClassTold) -> ClassForecast {
    let forecast = told.forecast.as_ref().ok();
    let path = forecast.map(|forecast| {
        let step = |(step, mean): (usize, &f64)| {
            let (low, high) = forecast.interval90(step).unwrap_or((*mean, *mean));
            [*mean, low, high]
        };
        forecast.mean().iter().enumerate().map(step).collect()
    });
    let horizons = HORIZONS.into_iter().zip(told.scores).map(|(steps, score)| {
        let step = steps - 1;
        let reached = forecast.filter(|forecast| step < forecast.horizon());
        HorizonForecast {
            seconds: steps as u64 * STEP.as_secs(),
            mean: reached.map(|forecast| forecast.mean()[step]),
            interval90: reached.and_then(|forecast| forecast.interval90(step)).map(|(low, high)| [low, high]),
            fell_back_on: reached.and_then(|forecast| forecast.fallen_back(step)).map(Into::into),
            scored: score.scored,
            mase: score.mase,
            pinball: score.pinball,
            coverage90: (score.scored > 0).then_some(score.coverage90),
        }
    });
    ClassForecast {
        class: metric.name().into(),
        missing_minutes: told.forecast.as_ref().err().map(|short| short.missing),
        history: told.recent.iter().map(|value| value.is_finite().then_some(*value)).collect(),
        expected: told.expected.clone(),
        path: path.unwrap_or_default(),
        horizons: horizons.collect(),
    }
}

fn need(learner: &Learner, side: Side, metric: Metric, now: Option<Rates>, told: Option<&Told>) -> Need {
    let known = learner.cost(side, metric, Rates::default());
    let of = |rates: Option<(Rates, Rates)>| {
        let (expected, high) = rates?;
        let cost = |rates| learner.cost(side, metric, rates).ok();
        Some([cost(expected)?.mean(), cost(high)?.quantile(HIGH)])
    };
    let within = |seconds: f64| Some((told?.most(seconds, 0.5)?, told?.most(seconds, HIGH)?));
    let reaches =
        |class: &ClassTold| class.forecast.as_ref().is_ok_and(|forecast| forecast.horizon() == MAX_HORIZON);
    let whole_day = told.is_some_and(|told| told.classes.iter().all(reaches));
    Need {
        metric,
        missing_samples: known.err().map(|unknown| unknown.missing),
        now: of(now.map(|now| (now, now))),
        hour: of(within(HOUR)),
        day: of(within(DAY).filter(|_| whole_day)),
    }
}
