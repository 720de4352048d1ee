//! Load series by a seed, for tests and benches: each stresses one property.
//!
//! They guard against settings that fit a few real series only. The same name and seed give the same values on
//! every machine.

use std::f64::consts::TAU;

use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha8Rng};
use rand_distr::{Distribution as _, Exp1, StandardNormal};

/// What a series is made of. All shares are of the level.
#[derive(Debug, Clone, Copy)]
struct Recipe {
    name: &'static str,
    /// Amplitude of the day: a wave with a steeper morning.
    day: f64,
    /// What a weekend's load loses.
    weekend: f64,
    /// What the level gains from begin to end.
    trend: f64,
    /// Chance a step of a new level, between half and double the first.
    shift: f64,
    /// Standard deviation of noise that grows with the load, and of noise that doesn't.
    factor_noise: f64,
    noise: f64,
    /// Standard deviation of a step of the level's walk (of its logarithm), and what the walk keeps of itself.
    walk: f64,
    keep: f64,
    /// Chance a step of a burst, several times the level, that fades within an hour.
    burst: f64,
    /// Chance a step to switch between working and idle.
    switch: f64,
    /// Chance a step of the begin of a gap of up to two hours.
    gap: f64,
}

const PLAIN: Recipe = Recipe {
    name: "",
    day: 0.0,
    weekend: 0.0,
    trend: 0.0,
    shift: 0.0,
    factor_noise: 0.0,
    noise: 0.05,
    walk: 0.0,
    keep: 1.0,
    burst: 0.0,
    switch: 0.0,
    gap: 0.0,
};

const RECIPES: [Recipe; 10] = [
    Recipe { name: "day", day: 0.5, ..PLAIN },
    Recipe { name: "week", day: 0.5, weekend: 0.5, factor_noise: 0.1, ..PLAIN },
    Recipe { name: "trend", day: 0.3, trend: 1.5, ..PLAIN },
    Recipe { name: "shifts", day: 0.3, shift: 1.0 / 700.0, ..PLAIN },
    Recipe { name: "factor-noise", day: 0.6, factor_noise: 0.25, walk: 0.01, keep: 0.995, ..PLAIN },
    Recipe { name: "bursts", day: 0.4, burst: 1.0 / 150.0, ..PLAIN },
    Recipe { name: "on-off", switch: 1.0 / 120.0, noise: 0.02, ..PLAIN },
    Recipe { name: "gaps", day: 0.5, weekend: 0.3, gap: 1.0 / 150.0, ..PLAIN },
    Recipe { name: "walk", walk: 0.02, noise: 0.01, ..PLAIN },
    Recipe { name: "white-noise", noise: 0.2, ..PLAIN },
];

/// The level that all begin with.
const LEVEL: f64 = 1_000.0;
/// What a burst leaves of itself a step, and the load of one that idles.
const BURST_KEEPS: f64 = 0.7;
const IDLE: f64 = 0.1;
/// Steps of a gap, at most.
const LONGEST_GAP: usize = 24;

/// A generated series.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The property that it stresses.
    pub name: &'static str,
    /// Never negative; NaN in a gap.
    pub values: Vec<f64>,
}

/// One series a property, of that many values, `steps_a_day` of them a day.
#[must_use]
pub fn all(seed: u64, length: usize, steps_a_day: usize) -> Vec<Generated> {
    let make = |(index, recipe): (usize, &Recipe)| {
        let mut random = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(index as u64));
        Generated { name: recipe.name, values: recipe.values(length, steps_a_day.max(1), &mut random) }
    };
    RECIPES.iter().enumerate().map(make).collect()
}

/// The one of that name.
#[must_use]
pub fn named(name: &str, seed: u64, length: usize, steps_a_day: usize) -> Option<Generated> {
    all(seed, length, steps_a_day).into_iter().find(|series| series.name == name)
}

/// What changes from step to step.
struct State {
    level: f64,
    walk: f64,
    burst: f64,
    is_idle: bool,
    gap_left: usize,
}

impl Recipe {
    fn values(&self, length: usize, steps_a_day: usize, random: &mut ChaCha8Rng) -> Vec<f64> {
        let mut state = State { level: 1.0, walk: 0.0, burst: 0.0, is_idle: false, gap_left: 0 };
        (0..length)
            .map(|index| {
                self.advance(&mut state, random);
                let trend = 1.0 + self.trend * index as f64 / length as f64;
                let idle = if state.is_idle { IDLE } else { 1.0 };
                let season = self.season(index, steps_a_day);
                let load = trend * state.level * season * idle * state.walk.exp() + state.burst;
                let noise = self.factor_noise * load * normal(random) + self.noise * normal(random);
                let value = (LEVEL * (load + noise)).max(0.0);
                if state.gap_left > 0 { f64::NAN } else { value }
            })
            .collect()
    }

    /// Draws the same number of values whatever happens, so that series differ in their properties alone.
    fn advance(&self, state: &mut State, random: &mut ChaCha8Rng) {
        state.walk = self.keep * state.walk + self.walk * normal(random);
        let new_level = 2.0_f64.powf(random.random_range(-1.0..1.0));
        if random.random::<f64>() < self.shift {
            state.level = new_level;
        }
        let size: f64 = Exp1.sample(random);
        state.burst *= BURST_KEEPS;
        if random.random::<f64>() < self.burst {
            state.burst += 1.0 + size;
        }
        if random.random::<f64>() < self.switch {
            state.is_idle = !state.is_idle;
        }
        let gap = random.random_range(1..=LONGEST_GAP);
        state.gap_left = state.gap_left.saturating_sub(1);
        if random.random::<f64>() < self.gap {
            state.gap_left = gap;
        }
    }

    fn season(&self, index: usize, steps_a_day: usize) -> f64 {
        let phase = TAU * index as f64 / steps_a_day as f64;
        let wave = 0.8 * phase.sin() + 0.2 * (2.0 * phase).sin();
        let is_weekend = index / steps_a_day % 7 >= 5;
        (1.0 + self.day * wave) * if is_weekend { 1.0 - self.weekend } else { 1.0 }
    }
}

fn normal(random: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_series_again_and_another_one_others() {
        let bits = |seed| -> Vec<Vec<u64>> {
            let bits = |series: &Generated| series.values.iter().map(|value| value.to_bits()).collect();
            all(seed, 500, 288).iter().map(bits).collect()
        };
        assert_eq!(bits(1), bits(1));
        assert_ne!(bits(1), bits(2));
    }

    #[test]
    fn only_gaps_have_gaps_and_nothing_is_negative() {
        for series in all(7, 3_000, 288) {
            let gaps = series.values.iter().filter(|value| value.is_nan()).count();
            assert_eq!(gaps > 0, series.name == "gaps", "{}", series.name);
            assert!(series.values.iter().all(|value| value.is_nan() || *value >= 0.0), "{}", series.name);
        }
    }
}
