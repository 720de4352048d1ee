//! One step ahead: weights by what the models would have said of each of the newest values.
//!
//! A forecast made now and then is scored at few origins, and the next step is one value of each. The newest hundreds of
//! values tell far more, and cost nothing but the replay of models that are fitted anyway.

use crate::model::Said;

/// A weight is the past error to the power of minus this.
const POWER: i32 = 8;
/// Values that a model's replay is compared at, at least.
const FEWEST: usize = 48;

/// By model, 0 without a replay, 1 in sum; `None` where no model's is long enough. `values` has gaps where it isn't finite,
/// and is what all were run on otherwise.
pub(crate) fn weights(said: &[Option<Said>], values: &[f64]) -> Option<Vec<f64>> {
    let replays: Vec<&[f64]> =
        said.iter().map(|said| said.as_ref().map_or(&[][..], |said| &said.replay)).collect();
    let longest = replays.iter().map(|replay| replay.len()).max()?;
    let mut errors = vec![Error::default(); said.len()];
    for back in (1..=longest.min(values.len())).rev() {
        let value = values[values.len() - back];
        if !value.is_finite() {
            continue;
        }
        // Divided before it is summed: the sum of large errors isn't finite.
        let of = |replay: &[f64]| {
            let said = replay[replay.len().checked_sub(back)?];
            Some((value - said).abs().min(f64::MAX) / longest as f64)
        };
        let here: Vec<Option<f64>> = replays.iter().map(|replay| of(replay)).collect();
        let count = here.iter().flatten().count() as f64;
        let mean = here.iter().flatten().map(|error| error / count).sum();
        for (sum, error) in errors.iter_mut().zip(here) {
            if let Some(error) = error {
                sum.add(error, mean);
            }
        }
    }
    let errors: Vec<Option<f64>> = errors.iter().map(Error::relative).collect();
    let least = errors.iter().flatten().copied().reduce(f64::min)?.max(f64::MIN_POSITIVE);
    let raw = errors.iter().map(|error| error.map_or(0.0, |error| (least / error.max(least)).powi(POWER)));
    let raw: Vec<f64> = raw.collect();
    let sum: f64 = raw.iter().sum();
    Some(raw.iter().map(|weight| weight / sum).collect())
}

/// A model's errors, and the mean errors of all at the same values: some replay fewer.
#[derive(Debug, Clone, Copy, Default)]
struct Error {
    sum: f64,
    of_all: f64,
    count: usize,
}

impl Error {
    fn add(&mut self, error: f64, mean: f64) {
        self.sum += error;
        self.of_all += mean;
        self.count += 1;
    }

    /// `None` where there are too few; 1 where none erred.
    fn relative(&self) -> Option<f64> {
        let relative = if self.of_all > 0.0 { self.sum / self.of_all } else { 1.0 };
        (self.count >= FEWEST).then_some(relative)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(replay: Vec<f64>) -> Option<Said> {
        Some(Said { ahead: vec![0.0], replay })
    }

    #[test]
    fn the_better_replay_weighs_more_by_the_power_and_no_replay_nothing() {
        let models = [said(vec![1.0; 100]), said(vec![2.0; 100]), said(Vec::new()), None];
        let weights = weights(&models, &[0.0; 100]).expect("weights");
        assert!((weights[0] / weights[1] - 2.0_f64.powi(POWER)).abs() < 1e-6, "{weights:?}");
        assert!(weights[2] == 0.0 && weights[3] == 0.0, "{weights:?}");
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn gaps_decide_nothing_and_few_values_neither() {
        let mut values = vec![0.0; 100];
        let mut good = vec![1.0; 100];
        (values[7], good[7]) = (f64::NAN, 1e9);
        let of = weights(&[said(good), said(vec![1.1; 100])], &values).expect("weights");
        assert!(of[0] > of[1], "{of:?}");
        assert_eq!(weights(&[said(vec![1.0; FEWEST - 1])], &values), None);
        let perfect = weights(&[said(vec![0.0; 60]), said(vec![1.0; 60])], &[0.0; 60]);
        assert_eq!(perfect, Some(vec![1.0, 0.0]));
    }
}
