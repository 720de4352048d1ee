//! What the daemon says of both sides' resources.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use axum::{
    Json,
    extract::{Query, State as Extract},
};
use mirror_common::switch_word::Side;

use super::{
    Shared,
    serve::{App, Refused, check_name},
};
use crate::{
    api::resources::{MetricValues, ResourcesAnswer, ResourcesRequest, SideResources},
    resources::{
        Metric, Missing,
        watch::{Counted, Known},
    },
    series::{Fold, Grid, KEEP_MINUTES, KEEP_SECONDS, Resolution, Series},
};

/// Cells of a series that is shown.
const CELLS: u64 = 600;

/// Begins to watch.
///
/// # Errors
/// When there is no thread to be had.
pub(super) fn start(shared: &Arc<Shared>) -> Result<()> {
    let own = Arc::clone(shared);
    shared.resources.start(&shared.mover.policy(), move || counted(&own))
}

/// Turns that each side answered so far, and its bytes.
fn counted(shared: &Shared) -> Counted {
    let turns = shared.turns()?;
    let of = |side: usize| {
        let [reads, writes] = &turns.shown[side];
        let carried = &turns.carried;
        [reads.count(), writes.count(), carried.requests[side], carried.answers[side]]
    };
    Some([of(0), of(1)])
}

/// Answers `/resources`.
pub(super) async fn resources(
    Extract(shared): Extract<App>,
    Query(ask): Query<ResourcesRequest>,
) -> Result<Json<ResourcesAnswer>, Refused> {
    check_name(&shared, &ask.app)?;
    if !(1..=KEEP_MINUTES).contains(&ask.since) {
        return Err(anyhow!("{} s can't be looked back: 1 s to 14 days", ask.since).into());
    }
    Ok(tokio::task::spawn_blocking(move || Json(answer(&shared, ask.since))).await?)
}

fn answer(shared: &Shared, since: u64) -> ResourcesAnswer {
    let watch = &shared.resources;
    let known = watch.known();
    let series = watch.keeper.series();
    let side = |side: Side| {
        let now = known.now[side as usize].as_ref();
        let window = now.map(|now| Window::new(since, now.at));
        let of = |metric| values(side, metric, &known, series.as_ref().zip(window.as_ref()));
        let missing = known.missing.iter().filter(|((of, _), _)| *of == side as u8);
        SideResources {
            side: side.name().into(),
            source: watch.sources[side as usize].clone(),
            at: now.map(|now| now.at),
            metrics: Metric::ALL.into_iter().map(of).collect(),
            missing: missing.map(|((_, why), count)| (*why, *count)).collect(),
        }
    };
    ResourcesAnswer {
        name: shared.mover.name.as_str().into(),
        since,
        sides: Side::BOTH.into_iter().map(side).collect(),
        kept: watch.keeper.kept(),
        clock_steps: known.clock_steps,
    }
}

/// The grid over the last seconds, the newest one with them.
struct Window {
    resolution: Resolution,
    grid: Grid,
}

impl Window {
    fn new(since: u64, now: u64) -> Self {
        let (resolution, least) =
            if since <= KEEP_SECONDS { (Resolution::Second, 1) } else { (Resolution::Minute, 60) };
        let step = since.div_ceil(CELLS).next_multiple_of(least);
        let cells = since.div_ceil(step);
        let from = (now + 1).saturating_sub(cells * step).next_multiple_of(least);
        Self { resolution, grid: Grid { from, step, cells: cells as usize } }
    }
}

fn values(side: Side, metric: Metric, known: &Known, from: Option<(&Series, &Window)>) -> MetricValues {
    let now = known.now[side as usize].as_ref().map_or(Err(Missing::FirstReading), |now| now.get(metric));
    let read = |fold| {
        from.and_then(|(series, window)| {
            series.read((side, metric), window.resolution, fold, window.grid).ok()
        })
        .unwrap_or_default()
    };
    let series: Vec<Option<f64>> = read(Fold::Mean);
    let seen: Vec<f64> = series.iter().copied().flatten().collect();
    let mean = (!seen.is_empty()).then(|| seen.iter().sum::<f64>() / seen.len() as f64);
    let grid = from.map(|(_, window)| window.grid);
    MetricValues {
        metric,
        unit: metric.unit().into(),
        now: now.ok(),
        missing: now.err(),
        mean,
        max: read(Fold::Max).into_iter().flatten().reduce(f64::max),
        from: grid.map_or(0, |grid| grid.from),
        step: grid.map_or(0, |grid| grid.step),
        series,
    }
}
