//! A mean in which older values count less.

/// The plain mean until its half-life has passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mean {
    half_life: f64,
    mean: f64,
    seconds: f64,
}

impl Mean {
    /// A value counts half after so many seconds.
    pub(super) const fn new(half_life: f64) -> Self {
        Self { half_life, mean: 0.0, seconds: 0.0 }
    }

    /// Takes in what was for so many seconds. What isn't finite is left out.
    pub(super) fn add(&mut self, value: f64, seconds: f64) {
        let share = (1.0 - 0.5_f64.powf(seconds / self.half_life)).max(seconds / (self.seconds + seconds));
        // Not by their difference, which may be infinite.
        let mean = (1.0 - share) * self.mean + share * value;
        if mean.is_finite() {
            self.mean = mean;
            self.seconds = (self.seconds + seconds).min(self.half_life);
        }
    }

    /// 0 without any.
    pub(super) fn get(&self) -> f64 {
        self.mean
    }
}
