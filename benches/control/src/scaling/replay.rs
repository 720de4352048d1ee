//! Capacity that comes late, and what it was worth.

use std::collections::VecDeque;

use anyhow::{Result, ensure};

use super::{
    HOLD, TICK,
    load::Load,
    method::{Chooser, Method},
};

/// What a method did on a series.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Score {
    /// Share of the ticks with fewer units than the load needed.
    pub(crate) under_share: f64,
    /// Unit-ticks against those that an oracle has: just what each tick needs.
    pub(crate) capacity_to_oracle: f64,
}

/// Replays a load with capacity that comes `lead` seconds after it is wanted.
///
/// # Errors
/// If nothing could be scored.
pub(crate) fn replay(load: &Load, method: Method, lead: u32) -> Result<Score> {
    let mut chooser = Chooser::new(load, method, lead)?;
    let lead = (lead / TICK) as usize;
    // Ours holds by itself.
    let hold = if method == Method::Ours { 0 } else { (HOLD / TICK) as usize };
    // The newest of `recent` are the last wishes, before holding; `coming` holds what is on its way.
    let (mut recent, mut coming) = (VecDeque::new(), VecDeque::new());
    let mut ordered = load.at(0).map_or(1, |now| load.units(now));
    let mut ready = ordered;
    let (mut ticks, mut under, mut capacity, mut needed) = (0_u64, 0_u64, 0_u64, 0_u64);
    for tick in 0..load.ticks() {
        recent.push_back(chooser.wanted(tick, ordered, ready));
        if recent.len() > hold + 1 {
            recent.pop_front();
        }
        ordered = recent.iter().copied().max().unwrap_or(ordered);
        coming.push_back(ordered);
        if coming.len() > lead {
            ready = coming.pop_front().unwrap_or(ready);
        }
        let Some(now) = load.at(tick).filter(|_| tick >= load.first_scored()) else { continue };
        let need = load.units(now);
        ticks += 1;
        under += u64::from(ready < need);
        capacity += u64::from(ready);
        needed += u64::from(need);
    }
    ensure!(ticks > 0, "nothing was measured in the part that is scored");
    Ok(Score {
        under_share: under as f64 / ticks as f64,
        capacity_to_oracle: capacity as f64 / needed as f64,
    })
}
