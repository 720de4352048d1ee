//! What each model has been worth, a bucket of horizons apart, and the weights that follow.

use std::collections::VecDeque;

use crate::{
    history::History,
    interval::{Movement, Residual, Stretch},
    model::MODELS,
};

/// Horizon buckets end (exclusive) after these many steps, the last at the horizon's end: what is true of the
/// next step isn't true of tonight's.
const ENDS: [usize; 9] = [1, 3, 6, 12, 24, 48, 96, 192, usize::MAX];
/// Buckets.
pub(crate) const BUCKETS: usize = ENDS.len();
/// A weight is the past error to the power of minus this.
const POWER: i32 = 8;
/// Scored origins that weights are made of, and that intervals are. The oldest goes first.
const SCORED: usize = 120;
const CALIBRATING: usize = 60;
/// A simple model alone takes over if it did better than the weighted median by this factor on this many origins.
const FALL_BACK: f64 = 1.05;
const FALL_BACK_ORIGINS: usize = 20;
/// And if that is no chance: the difference is so many of its standard errors (Diebold and Mariano 1995).
const FALL_BACK_ERRORS: f64 = 2.0;
/// Origins that wait to be scored, at most. Nearer ones than this share of the horizon aren't scored at all: those
/// that wait would have to go before their last value is known.
const PENDING: usize = 96;

/// The bucket of a step (0 is the next one).
pub(crate) fn bucket_of(step: usize) -> usize {
    ENDS.iter().position(|end| step < *end).unwrap_or(BUCKETS - 1)
}

/// A forecast made in the past: what each model said, and what they said together.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The index of the first value forecast.
    pub(crate) at: u64,
    /// By model; `None` for one that didn't fit the series.
    pub(crate) models: Vec<Option<Vec<f64>>>,
    /// What all said together, by their weights.
    pub(crate) blend: Vec<f64>,
    /// What was forecast: the blend, or the model that it fell back on.
    pub(crate) mean: Vec<f64>,
    /// The ends of the 90 % interval.
    pub(crate) intervals: Vec<(f64, f64)>,
    /// How much the series moved then.
    pub(crate) movement: Movement,
    /// Buckets scored already.
    pub(crate) scored: usize,
}

/// How well an origin's bucket did.
#[derive(Debug, Clone)]
struct Score {
    /// The origin's index.
    at: u64,
    /// How much of it isn't told by the origin before it, 0 to 1: those that overlap tell of the same values.
    fresh: f64,
    /// Mean absolute error by model, and of the blend.
    models: Vec<Option<f64>>,
    blend: f64,
    /// A step each.
    residuals: Vec<Residual>,
    /// Shares of the values below and above the interval.
    missed: (f64, f64),
}

/// Past origins and their scores.
#[derive(Debug, Clone)]
pub(crate) struct Scores {
    pending: VecDeque<Origin>,
    buckets: [VecDeque<Score>; BUCKETS],
    stretches: [Stretch; BUCKETS],
}

impl Scores {
    pub(crate) fn new() -> Self {
        Self {
            pending: VecDeque::new(),
            buckets: std::array::from_fn(|_| VecDeque::new()),
            stretches: [Stretch::default(); BUCKETS],
        }
    }

    /// Remembers a forecast until its values are known, unless the last one remembered is too near.
    pub(crate) fn remember(&mut self, origin: Origin) {
        let stride = origin.mean.len().div_ceil(PENDING) as u64;
        if self.pending.back().is_some_and(|last| origin.at < last.at + stride) {
            return;
        }
        if self.pending.len() == PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(origin);
    }

    /// Scores every bucket whose last value is known by now.
    pub(crate) fn settle(&mut self, history: &History) {
        for origin in &mut self.pending {
            while let Some(steps) = bucket_steps(origin.scored, origin.mean.len()) {
                if origin.at + steps.end as u64 > history.next_index() {
                    break;
                }
                let end = steps.end;
                if let Some(mut score) = score(origin, steps, history) {
                    let bucket = &mut self.buckets[origin.scored];
                    let apart = bucket.back().map(|last| score.at.saturating_sub(last.at) as f64);
                    score.fresh = apart.map_or(1.0, |apart| (apart / end as f64).min(1.0));
                    self.stretches[origin.scored].learn(score.missed, score.fresh);
                    if bucket.len() == SCORED {
                        bucket.pop_front();
                    }
                    bucket.push_back(score);
                }
                origin.scored += 1;
            }
        }
        self.pending.retain(|origin| bucket_steps(origin.scored, origin.mean.len()).is_some());
    }

    /// Weights of the models in that bucket, 0 for the absent, 1 in sum.
    ///
    /// A model without a score counts as the worst that has one; without any score all count alike.
    pub(crate) fn weights(&self, bucket: usize, present: &[bool]) -> Vec<f64> {
        let errors: Vec<Option<f64>> = (0..MODELS.len())
            .map(|model| self.relative_error(bucket, model).filter(|_| present[model]))
            .collect();
        let worst = errors.iter().flatten().copied().fold(0.0, f64::max);
        let least = errors.iter().flatten().copied().fold(worst, f64::min);
        let weight = |error: f64| {
            // Relative to the best: a power of a tiny error would overflow.
            if error <= 0.0 { 1.0 } else { (least.max(worst * 1e-6) / error).min(1.0).powi(POWER) }
        };
        let raw: Vec<f64> = present
            .iter()
            .zip(&errors)
            .map(|(present, error)| if *present { weight(error.unwrap_or(worst)) } else { 0.0 })
            .collect();
        let sum: f64 = raw.iter().sum();
        raw.iter().map(|weight| if sum > 0.0 { weight / sum } else { 0.0 }).collect()
    }

    /// The simple model that did better than the blend in that bucket, if there is one.
    pub(crate) fn fall_back(&self, bucket: usize, present: &[bool]) -> Option<usize> {
        let scores = &self.buckets[bucket];
        if scores.len() < FALL_BACK_ORIGINS {
            return None;
        }
        let simple = (0..MODELS.len()).filter(|model| MODELS[*model].is_simple() && present[*model]);
        let better = simple.filter_map(|model| Some((model, lead_over_blend(scores, model)?)));
        better.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(model, _)| model)
    }

    /// Residuals of the newest forecasts in that bucket.
    pub(crate) fn residuals(&self, bucket: usize) -> Vec<Residual> {
        let newest = self.buckets[bucket].iter().rev().take(CALIBRATING);
        newest.flat_map(|score| score.residuals.iter().copied()).collect()
    }

    /// How far the interval of that bucket has to be stretched.
    pub(crate) fn stretch(&self, bucket: usize) -> Stretch {
        self.stretches[bucket]
    }

    /// The model's error against the mean of all: each origin counts alike, however wild its time was.
    fn relative_error(&self, bucket: usize, model: usize) -> Option<f64> {
        let errors: Vec<f64> =
            self.buckets[bucket].iter().filter_map(|score| score.relative(model)).collect();
        (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64)
    }
}

impl Score {
    /// The model's error over the mean of all models'; 1 where none erred.
    fn relative(&self, model: usize) -> Option<f64> {
        let error = self.models[model]?;
        let count = self.models.iter().flatten().count() as f64;
        // Divided before it is summed: the sum of large errors isn't finite.
        let mean: f64 = self.models.iter().flatten().map(|error| error / count).sum();
        Some(if mean > 0.0 { error / mean } else { 1.0 })
    }
}

/// By how much a model's mean absolute error was below the blend's, if it was so by enough, and not by chance.
fn lead_over_blend(scores: &VecDeque<Score>, model: usize) -> Option<f64> {
    let errors: Option<Vec<f64>> = scores.iter().map(|score| score.models[model]).collect();
    let errors = errors?;
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / errors.len() as f64;
    let (blend, alone) =
        (mean(&mut scores.iter().map(|score| score.blend)), mean(&mut errors.iter().copied()));
    let lead = blend - alone;
    let leads = scores.iter().zip(&errors).map(|(score, error)| score.blend - error);
    let variance = mean(&mut leads.map(|one| (one - lead).powi(2)));
    let independent: f64 = scores.iter().map(|score| score.fresh).sum();
    let is_chance = lead < FALL_BACK_ERRORS * (variance / independent).sqrt();
    (alone * FALL_BACK < blend && !is_chance).then_some(lead)
}

/// The steps of a bucket within a horizon; `None` behind its end.
fn bucket_steps(bucket: usize, horizon: usize) -> Option<std::ops::Range<usize>> {
    let start = if bucket == 0 { 0 } else { *ENDS.get(bucket - 1)? };
    (start < horizon && bucket < BUCKETS).then(|| start..ENDS[bucket].min(horizon))
}

/// `None` if all its values fell into a gap.
fn score(origin: &Origin, steps: std::ops::Range<usize>, history: &History) -> Option<Score> {
    let known: Vec<(usize, f64)> = steps
        .filter_map(|step| Some((step, history.get(origin.at + step as u64)?)))
        .filter(|(_, value)| value.is_finite())
        .collect();
    if known.is_empty() {
        return None;
    }
    let share = |is_missed: &dyn Fn(usize, f64) -> bool| {
        let missed = known.iter().filter(|(step, value)| is_missed(*step, *value)).count();
        missed as f64 / known.len() as f64
    };
    let mean_error = |forecast: &Vec<f64>| {
        // Divided before it is summed: the sum of large errors isn't finite.
        let errors = known.iter().map(|(step, value)| (value - forecast[*step]).abs() / known.len() as f64);
        errors.sum::<f64>().min(f64::MAX)
    };
    let residual = |(step, value): &(usize, f64)| Residual {
        error: value - origin.mean[*step],
        movement: origin.movement.for_step(*step),
    };
    Some(Score {
        at: origin.at,
        fresh: 1.0,
        models: origin.models.iter().map(|forecast| forecast.as_ref().map(mean_error)).collect(),
        blend: mean_error(&origin.blend),
        residuals: known.iter().map(residual).filter(|residual| residual.error.is_finite()).collect(),
        missed: (
            share(&|step, value| value < origin.intervals[step].0),
            share(&|step, value| value > origin.intervals[step].1),
        ),
    })
}

/// The step in the middle of a bucket.
pub(crate) fn typical_step(bucket: usize) -> usize {
    let start = if bucket == 0 { 0 } else { ENDS[bucket - 1] };
    start.midpoint(ENDS[bucket].min(2 * start + 1)) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers and settles 30 origins of one step: the first model errs by 1, the rest by 2, the blend by what is given.
    fn scored(blend: f64) -> Scores {
        scored_by(|_| blend)
    }

    fn scored_by(blend: impl Fn(usize) -> f64) -> Scores {
        let (mut scores, mut history) = (Scores::new(), History::new(100));
        for index in 0..30 {
            let blend = blend(index);
            let models =
                (0..MODELS.len()).map(|model| Some(vec![if model == 0 { 1.0 } else { 2.0 }])).collect();
            scores.remember(Origin {
                at: history.next_index(),
                models,
                blend: vec![blend],
                mean: vec![blend],
                intervals: vec![(1.0, 2.0)],
                movement: Movement::of(&[]),
                scored: 0,
            });
            history.push(0.0);
            scores.settle(&history);
        }
        scores
    }

    #[test]
    fn the_better_model_weighs_more_by_the_power() {
        let present = [true; MODELS.len()];
        let weights = scored(1.5).weights(0, &present);
        assert!((weights[0] / weights[1] - 2.0_f64.powi(POWER)).abs() < 1e-9);
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let even = Scores::new().weights(0, &present);
        assert!(even.iter().all(|weight| (weight - 1.0 / MODELS.len() as f64).abs() < 1e-9));
    }

    #[test]
    fn an_absent_model_weighs_nothing() {
        let mut present = [true; MODELS.len()];
        present[0] = false;
        assert_eq!(scored(1.5).weights(0, &present)[0].to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn a_simple_model_that_did_better_takes_over() {
        let present = [true; MODELS.len()];
        assert_eq!(scored(1.5).fall_back(0, &present), Some(0));
        assert_eq!(scored(1.02).fall_back(0, &present), None);
        assert_eq!(Scores::new().fall_back(0, &present), None);
    }

    #[test]
    fn a_simple_model_that_did_better_by_chance_does_not() {
        let present = [true; MODELS.len()];
        let better = scored_by(|index| if index % 2 == 0 { 1.1 } else { 1.3 });
        let by_chance = scored_by(|index| if index % 2 == 0 { 0.0 } else { 2.4 });
        assert_eq!((better.fall_back(0, &present), by_chance.fall_back(0, &present)), (Some(0), None));
    }

    #[test]
    fn a_spike_that_all_fail_on_decides_nothing() {
        let present = [true; MODELS.len()];
        let mut scores = scored(1.5);
        let before = scores.weights(0, &present);
        let mut spike = scores.buckets[0][0].clone();
        spike.models = (0..MODELS.len()).map(|model| Some(if model == 0 { 1.001e6 } else { 1e6 })).collect();
        scores.buckets[0].push_back(spike);
        let after = scores.weights(0, &present);
        assert!(after[0] > 5.0 * after[1] && after[0] < before[0], "{before:?} {after:?}");
    }

    #[test]
    fn misses_on_one_side_stretch_that_side() {
        let stretch = scored(1.5).stretch(0);
        let mut expected = Stretch::default();
        for _ in 0..30 {
            expected.learn((1.0, 0.0), 1.0);
        }
        assert_eq!(stretch, expected);
        assert_ne!(stretch, Stretch::default());
    }

    #[test]
    fn origins_too_near_for_the_room_are_not_remembered() {
        let mut scores = Scores::new();
        for at in 0..2_000 {
            let values = vec![0.0; 1_440];
            let intervals = vec![(0.0, 0.0); 1_440];
            let (blend, mean) = (values.clone(), values);
            scores.remember(Origin {
                at,
                models: Vec::new(),
                blend,
                mean,
                intervals,
                movement: Movement::of(&[]),
                scored: 0,
            });
        }
        assert_eq!(scores.pending.len(), PENDING);
        assert!(scores.pending.back().is_some_and(|last| last.at > 1_900));
        assert!(scores.pending[1].at - scores.pending[0].at >= 15);
    }
}
