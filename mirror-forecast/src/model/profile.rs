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
    let before: Option<Vec<f64>> =
        (end - LEVEL_STEPS..end).map(|index| phase_mean(history, season, index)).collect();
    let correction = Correction::of(&history[end - LEVEL_STEPS..], &before?, level);
    (0..horizon)
        .map(|step| {
            let mean = phase_mean(history, season, end + step % season)?;
            Some(correction.apply(mean, 0.5_f64.powf(step as f64 / half_life)))
        })
        .collect()
}

/// What [`profile`] would have said of the newest values, of `steps` at most, each from those before it; the newest last.
pub(super) fn replay(history: &[f64], season: usize, level: Level, steps: usize) -> Vec<f64> {
    let length = history.len();
    let first = length.saturating_sub(steps).max(season + LEVEL_STEPS);
    let start = first - LEVEL_STEPS;
    // Each once: they lie a season apart in memory.
    let means: Vec<f64> = (start..length).map_while(|index| phase_mean(history, season, index)).collect();
    let seen = history.get(start..).unwrap_or_default();
    let next = |(seen, means): (&[f64], &[f64])| {
        Some(Correction::of(seen, &means[..LEVEL_STEPS], level).apply(*means.last()?, 1.0))
    };
    seen.windows(LEVEL_STEPS).zip(means.windows(LEVEL_STEPS + 1)).filter_map(next).collect()
}

/// What the last steps were beside their profile.
enum Correction {
    Added(f64),
    Factor(f64),
}

impl Correction {
    fn of(seen: &[f64], profile: &[f64], level: Level) -> Self {
        let (mut sum, mut expected, mut weights, mut weight) = (0.0, 0.0, 0.0, 1.0);
        for (value, mean) in seen.iter().zip(profile).rev() {
            weight *= LEVEL_WEIGHT;
            sum += weight * value;
            expected += weight * mean;
            weights += weight;
        }
        if level == Level::Factor && sum > 0.0 && expected > 0.0 {
            Self::Factor((sum / expected).clamp(MOST_FACTOR.recip(), MOST_FACTOR))
        } else {
            Self::Added((sum - expected) / weights)
        }
    }

    /// The profile's mean, corrected by a share of it.
    fn apply(&self, mean: f64, share: f64) -> f64 {
        match self {
            Self::Added(shift) => mean + share * shift,
            Self::Factor(factor) => mean * (1.0 + share * (factor - 1.0)),
        }
    }
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
