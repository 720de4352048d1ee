//! The newest values of a series, with gaps, in bounded space.

use std::collections::VecDeque;

/// What is kept and what the models see of it.
#[derive(Debug, Clone)]
pub(crate) struct History {
    values: VecDeque<f64>,
    capacity: usize,
    /// Values ever observed: the index of the next one.
    observed: u64,
}

impl History {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { values: VecDeque::new(), capacity, observed: 0 }
    }

    /// Appends a value. What isn't finite is a gap; the oldest goes when there is no room.
    pub(crate) fn push(&mut self, value: f64) {
        if self.values.len() == self.capacity {
            self.values.pop_front();
        }
        self.values.push_back(if value.is_finite() { value } else { f64::NAN });
        self.observed += 1;
    }

    /// The index of the next value, counted from the first ever.
    pub(crate) fn next_index(&self) -> u64 {
        self.observed
    }

    /// The value of that index; `None` if it was forgotten or is to come, NaN in a gap.
    pub(crate) fn get(&self, index: u64) -> Option<f64> {
        let back = usize::try_from(self.observed.checked_sub(index)?).ok()?;
        self.values.len().checked_sub(back).and_then(|at| self.values.get(at)).copied()
    }

    /// All values kept, oldest first, gaps as NaN.
    pub(crate) fn to_vec(&self) -> Vec<f64> {
        self.values.iter().copied().collect()
    }
}

/// Gaps filled: by the mean of a season before and after if there is one, else on a line between the neighbours.
///
/// Gaps at the ends hold the nearest value. Empty if nothing was ever measured.
pub(crate) fn fill_gaps(values: &[f64], season: Option<usize>) -> Vec<f64> {
    let Some(first) = values.iter().position(|value| value.is_finite()) else { return Vec::new() };
    let mut filled = values.to_vec();
    filled[..first].fill(values[first]);
    let mut at = first;
    while let Some(offset) = values[at + 1..].iter().position(|value| value.is_finite()) {
        let next = at + 1 + offset;
        fill_one(&mut filled, values, season, at, next);
        at = next;
    }
    let last = filled[at];
    for index in at + 1..filled.len() {
        filled[index] = season.and_then(|season| Some(filled[index.checked_sub(season)?])).unwrap_or(last);
    }
    filled
}

/// Fills what lies between two measured neighbours.
fn fill_one(filled: &mut [f64], values: &[f64], season: Option<usize>, before: usize, after: usize) {
    for (offset, gap) in filled[before + 1..after].iter_mut().enumerate() {
        let share = (offset + 1) as f64 / (after - before) as f64;
        let line = (1.0 - share) * values[before] + share * values[after];
        let index = before + 1 + offset;
        *gap = season.and_then(|season| same_phase(values, index, season)).unwrap_or(line);
    }
}

/// The mean of the values a season before and after, as far as they were measured.
fn same_phase(values: &[f64], index: usize, season: usize) -> Option<f64> {
    let neighbours = [index.checked_sub(season), index.checked_add(season)];
    let seen: Vec<f64> = neighbours
        .iter()
        .filter_map(|at| values.get((*at)?).copied().filter(|value| value.is_finite()))
        .collect();
    (!seen.is_empty()).then(|| seen.iter().map(|value| value / seen.len() as f64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: f64 = f64::NAN;

    #[test]
    fn the_oldest_is_forgotten_and_an_index_stays_what_it_was() {
        let mut history = History::new(2);
        for value in [1.0, 2.0, f64::INFINITY, 4.0] {
            history.push(value);
        }
        assert_eq!((history.next_index(), history.get(3), history.get(1)), (4, Some(4.0), None));
        assert!(history.get(2).is_some_and(f64::is_nan) && history.get(4).is_none());
    }

    #[test]
    fn gaps_lie_on_a_line_or_repeat_the_season() {
        assert_eq!(fill_gaps(&[GAP, 2.0, GAP, 4.0, GAP], None), [2.0, 2.0, 3.0, 4.0, 4.0]);
        assert_eq!(
            fill_gaps(&[1.0, 9.0, 1.0, GAP, 1.0, 7.0, GAP, GAP], Some(2))[3..],
            [8.0, 1.0, 7.0, 1.0, 7.0]
        );
        assert!(fill_gaps(&[GAP, GAP], Some(1)).is_empty());
    }
}
