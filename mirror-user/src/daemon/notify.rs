//! What the service manager is told (sd_notify); nothing where there is none.

use std::sync::Arc;

use sd_notify::NotifyState;

use super::{Shared, serve::App};

/// The daemon serves, or leaves.
pub(super) fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("the service manager can't be told: {error}");
    }
}

/// Tells the watchdog, twice in its time, that the daemon lives: as long as the sweep goes on.
pub(super) fn keep_watchdog(shared: &App) {
    let Some(time) = sd_notify::watchdog_enabled() else { return };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let mut seen = 0;
        let mut ticks = tokio::time::interval(time / 2);
        loop {
            ticks.tick().await;
            let sweeps = sweeps(&shared);
            if sweeps > seen {
                seen = sweeps;
                tell(NotifyState::Watchdog);
            } else {
                tracing::warn!("no sweep since the last look: the watchdog isn't told");
            }
        }
    });
}

fn sweeps(shared: &Shared) -> u64 {
    shared.state.lock().map_or(0, |state| state.sweeps)
}
