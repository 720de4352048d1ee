//! How far loads rise above what is expected of them, and the margin that is worth its price.
//!
//! ```text
//!  margin = the m of least m / mean load + price x P(surprise > m)
//! ```
//! That is the newsvendor's rule (Arrow, Harris and Marschak 1951), with the surprises that there were in place of a
//! distribution: where a bit more margin no longer saves the shortage that it costs, it ends. So single spikes of many times
//! the load don't rule, as they do a multiple of the surprises' root mean square.

use super::decayed::Mean;

/// Seconds after which a surprise counts half: a quiet weekend doesn't forget what the week was like.
const HALF_LIFE: f64 = 2.0 * 86_400.0;
/// Seconds of comparing before anything is said.
const LEARNED: f64 = 3_600.0;
/// Seconds after which a surprise counts half in what they are like of late.
const LATELY: f64 = 3_600.0;
/// Share of the usual surprise that is there however calm it is of late.
const CALM: f64 = 0.5;
/// The histogram's bins, in proportion: from millionths (of cores) to terabytes. Smaller surprises are none.
const BINS: usize = 512;
const BINS_AN_OCTAVE: f64 = 8.0;
/// The first bin ends at 2 to the power of it.
const LEAST_OCTAVE: f64 = -20.0;

/// The distribution of the surprises, in bounded space.
#[derive(Clone, Debug)]
pub(super) struct Margin {
    /// Seconds by surprise, newer ones weighted more, and of all.
    histogram: [f64; BINS],
    seconds: f64,
    load: Mean,
    /// How far loads were from what was expected, usually and of late.
    usually: Mean,
    lately: Mean,
}

impl Margin {
    pub(super) fn new() -> Self {
        Self {
            histogram: [0.0; BINS],
            seconds: 0.0,
            load: Mean::new(HALF_LIFE),
            usually: Mean::new(HALF_LIFE),
            lately: Mean::new(LATELY),
        }
    }

    /// How far surprises reach now against what they usually do: wild times last. About 1.
    pub(super) fn wildness(&self) -> f64 {
        let usually = self.usually.get();
        let wildness = ((self.lately.get() + CALM * usually) / ((1.0 + CALM) * usually)).sqrt();
        if wildness.is_normal() { wildness } else { 1.0 }
    }

    /// Compares a load with what was expected of it, at that [`Self::wildness`]; `elapsed` seconds after the one before.
    pub(super) fn learn(&mut self, load: f64, expected: f64, wildness: f64, elapsed: f64) {
        self.load.add(load, elapsed);
        let surprise = load - expected;
        let octave = (surprise / wildness).log2();
        let keep = 0.5_f64.powf(elapsed / HALF_LIFE);
        self.histogram.iter_mut().for_each(|seconds| *seconds *= keep);
        self.seconds = self.seconds * keep + elapsed;
        let bin = ((octave - LEAST_OCTAVE) * BINS_AN_OCTAVE).ceil();
        // Not a number where it was no surprise.
        if bin >= 0.0 {
            self.histogram[(bin as usize).min(BINS - 1)] += elapsed;
        }
        self.usually.add(surprise.abs(), elapsed);
        self.lately.add(surprise.abs(), elapsed);
    }

    /// The margin, in the load's unit, where an hour short is worth `price` hours of the mean load's capacity; `None` before
    /// enough was compared.
    pub(super) fn worth(&self, price: f64) -> Option<f64> {
        if self.seconds < LEARNED * 0.99 {
            return None;
        }
        let of_load = self.load.get().max(f64::MIN_POSITIVE);
        let of_time = price / self.seconds;
        let (mut best, mut margin, mut beyond) = (f64::INFINITY, 0.0, 0.0);
        for bin in (0..BINS).rev() {
            let surprise = (LEAST_OCTAVE + bin as f64 / BINS_AN_OCTAVE).exp2();
            let cost = surprise / of_load + of_time * beyond;
            if cost < best {
                (best, margin) = (cost, surprise);
            }
            beyond += self.histogram[bin];
        }
        if of_time * beyond <= best {
            margin = 0.0;
        }
        Some(margin * self.wildness())
    }
}
