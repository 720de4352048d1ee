//! The simplest forecasts: what a better one has to beat, and what is left when there are few points.

/// The last value, held.
pub(super) fn last_value(history: &[f64], horizon: usize) -> Option<Vec<f64>> {
    history.last().map(|last| vec![*last; horizon])
}

/// The value of a season ago, again and again. Needs a whole season.
pub(super) fn seasonal_naive(history: &[f64], season: usize, horizon: usize) -> Option<Vec<f64>> {
    let cycle = history.len().checked_sub(season).map(|start| &history[start..])?;
    (season > 0).then(|| cycle.iter().copied().cycle().take(horizon).collect())
}
