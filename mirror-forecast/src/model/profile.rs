//! The season's profile, moved to the present level.
//!
//! The profile is the weighted mean of the same phase in earlier cycles, the nearest counting most. The level
//! correction is what the last steps were beside their own profile; it fades, or it stays.

/// Cycles that a profile looks back.
const CYCLES: usize = 15;
/// Weight of a cycle against the one after it.
const CYCLE_WEIGHT: f64 = 0.85;
/// Steps that the present level is read from, and the weight of each against the one after it.
const LEVEL_STEPS: usize = 6;
const LEVEL_WEIGHT: f64 = 0.7;
/// A level as a factor lies between one over this and this.
const MOST_FACTOR: f64 = 10.0;

/// How the level corrects the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// A sum.
    Added,
    /// A factor: the profile grows with the level.
    Factor,
}

/// The profile with a correction that loses half of itself in `half_life` steps (infinite: it stays).
///
/// `None` with less than a season and the steps that show the level.
pub(super) fn profile(
    history: &[f64],
    season: usize,
    level: Level,
    half_life: f64,
    horizon: usize,
) -> Option<Vec<f64>> {
    if season == 0 || history.len() < season + LEVEL_STEPS {
        return None;
    }
    let end = history.len();
    let (mut seen, mut expected, mut weights) = (0.0, 0.0, 0.0);
    for back in 1..=LEVEL_STEPS {
        let weight = LEVEL_WEIGHT.powf(back as f64);
        seen += weight * history[end - back];
        expected += weight * phase_mean(history, season, end - back)?;
        weights += weight;
    }
    let shift = (seen - expected) / weights;
    let factor = (seen / expected).clamp(MOST_FACTOR.recip(), MOST_FACTOR);
    let is_factor = level == Level::Factor && seen > 0.0 && expected > 0.0;
    (0..horizon)
        .map(|step| {
            let mean = phase_mean(history, season, end + step % season)?;
            let left = 0.5_f64.powf(step as f64 / half_life);
            Some(if is_factor { mean * (1.0 + left * (factor - 1.0)) } else { mean + left * shift })
        })
        .collect()
}

/// The weighted mean of the cycles before `index`, which may lie a season behind the end.
pub(super) fn phase_mean(history: &[f64], season: usize, index: usize) -> Option<f64> {
    let (mut sum, mut weights, mut weight) = (0.0, 0.0, 1.0);
    for cycle in 1..=CYCLES {
        let Some(at) = index.checked_sub(cycle * season) else { break };
        weight *= CYCLE_WEIGHT;
        if let Some(value) = history.get(at) {
            sum += weight * value;
            weights += weight;
        }
    }
    (weights > 0.0).then(|| sum / weights)
}
