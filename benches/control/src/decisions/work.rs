//! The simulated work: latencies, errors, load, noise of each side alone, and faults of the shadow.

use mirror_common::hist::{self, BUCKETS, RATIOS};
use mirror_control::evidence::{Counts, Histogram, JudgePolicy, Pairs, Tick};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Gamma, Poisson, StandardNormal};
use statrs::distribution::{ContinuousCDF, Normal};

/// Length of a tick.
pub(crate) const TICK: f64 = 5.0;
/// Shares of the reads, ten minutes each.
pub(crate) const STEPS: [f64; 8] = [0.01, 0.05, 0.10, 0.20, 0.35, 0.50, 0.75, 0.95];
/// Ticks of a step.
pub(crate) const STEP_TICKS: usize = 120;
/// Errors of an honest server.
const ERRORS: f64 = 0.0005;
/// Honest answers that differ, though learned noise is left out.
const DIVERGED: f64 = 0.0001;
const DAY: f64 = 86_400.0;

/// What is wrong with the shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    None,
    #[serde(rename = "errors_1pct")]
    Errors1,
    #[serde(rename = "errors_0_1pct")]
    Errors01,
    #[serde(rename = "p99_50pct")]
    Tail50,
    #[serde(rename = "p99_10pct")]
    Tail10,
    #[serde(rename = "all_10pct")]
    All10,
}

impl Fault {
    pub(crate) const ALL: [Self; 5] =
        [Self::Errors1, Self::Errors01, Self::Tail50, Self::Tail10, Self::All10];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Errors1 => "errors_1pct",
            Self::Errors01 => "errors_0_1pct",
            Self::Tail50 => "p99_50pct",
            Self::Tail10 => "p99_10pct",
            Self::All10 => "all_10pct",
        }
    }

    /// The shadow's rate of errors.
    pub(crate) const fn errors(self) -> f64 {
        match self {
            Self::Errors1 => ERRORS + 0.01,
            Self::Errors01 => ERRORS + 0.001,
            _ => ERRORS,
        }
    }

    /// The shadow's latency where an honest one's is `x`. A slow tail begins at the p95 and has grown to its full extent at
    /// the p99, so that the p99 rises by exactly as much.
    fn slower(self, x: f64, p95: f64, p99: f64) -> f64 {
        let ramp = ((x / p95).ln() / (p99 / p95).ln()).clamp(0.0, 1.0);
        match self {
            Self::Tail50 => x * (1.0 + 0.5 * ramp),
            Self::Tail10 => x * (1.0 + 0.1 * ramp),
            Self::All10 => x * 1.1,
            _ => x,
        }
    }
}

/// Requests a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Steady(u32),
    /// From 10 to 10,000 in a day.
    Diurnal,
}

impl Load {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Steady(rate) => rate.to_string(),
            Self::Diurnal => "diurnal".to_owned(),
        }
    }

    fn rate(self, seconds: f64, phase: f64) -> f64 {
        match self {
            Self::Steady(rate) => f64::from(rate),
            Self::Diurnal => {
                let swing = (10_000_f64 / 10.0).ln() / 2.0;
                (10.0 * 10_000_f64).sqrt()
                    * (swing * (std::f64::consts::TAU * (seconds / DAY + phase)).sin()).exp()
            }
        }
    }
}

/// The distribution function of a side's latency, at a fine logarithmic grid.
pub(crate) struct Shape {
    cdf: Vec<f64>,
}

/// The grid: `ln` of microseconds.
const GRID_FROM: f64 = 5.0;
const GRID_TO: f64 = 19.0;
const GRID: usize = 7_000;

impl Shape {
    /// 97 % log-normal, median 18 ms, σ 0.6; 3 % Pareto from 30 ms, exponent 2.5; and what the fault makes of it.
    pub(crate) fn new(fault: Fault) -> Self {
        let normal = Normal::standard();
        let honest = |ms: f64| {
            0.97 * normal.cdf((ms / 18.0).ln() / 0.6) + 0.03 * (1.0 - (30.0 / ms.max(30.0)).powf(2.5))
        };
        let quantile = |q: f64| bisect(0.1, 10_000.0, |ms| honest(ms) < q);
        let (p95, p99) = (quantile(0.95), quantile(0.99));
        let cdf = (0..=GRID)
            .map(|k| {
                let ms = (GRID_FROM + (GRID_TO - GRID_FROM) * k as f64 / GRID as f64).exp() / 1e3;
                honest(bisect(ms / 3.0, ms * 1.01, |x| fault.slower(x, p95, p99) < ms))
            })
            .collect();
        Self { cdf }
    }

    /// Share of requests up to so many microseconds.
    fn below(&self, us: f64) -> f64 {
        if us < 1.0 {
            return 0.0;
        }
        let at = ((us.ln() - GRID_FROM) / (GRID_TO - GRID_FROM) * GRID as f64).clamp(0.0, GRID as f64 - 1e-6);
        let k = at as usize;
        self.cdf[k] + (self.cdf[k + 1] - self.cdf[k]) * (at - k as f64)
    }

    /// The share of each bucket where everything takes `factor` times as long.
    pub(crate) fn buckets(&self, factor: f64) -> Vec<f64> {
        let edge = |bucket: usize| self.below(hist::lowest(bucket as u32) as f64 / factor);
        let mut low = edge(0);
        (0..BUCKETS)
            .map(|bucket| {
                let high = if bucket + 1 == BUCKETS { 1.0 } else { edge(bucket + 1) };
                let share = (high - low).max(0.0);
                low = high;
                share
            })
            .collect()
    }
}

fn bisect(mut low: f64, mut high: f64, is_low: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..60 {
        let middle = (low * high).sqrt();
        if is_low(middle) { low = middle } else { high = middle }
    }
    (low * high).sqrt()
}

/// One side: its shape, errors, and its own noise.
struct Side<'a> {
    shape: &'a Shape,
    errors: f64,
    /// Length of its noise, and where the first block begins.
    noise: Option<(f64, f64)>,
    /// A block each: factor of the latency, factor of the errors.
    blocks: Vec<(f64, f64)>,
    now: Option<usize>,
    buckets: Vec<f64>,
    burst: f64,
}

impl<'a> Side<'a> {
    fn new(shape: &'a Shape, errors: f64, minutes: Option<f64>, until: f64, rng: &mut StdRng) -> Self {
        let noise = minutes.map(|minutes| (minutes * 60.0, rng.random::<f64>() * minutes * 60.0));
        let count = noise.map_or(1, |(length, _)| (until / length) as usize + 2);
        let gamma = Gamma::new(2.0, 0.5).expect("a shape and a scale");
        let blocks = (0..count)
            .map(|_| match noise {
                Some(_) => ((0.03 * rng.sample::<f64, _>(StandardNormal)).exp(), gamma.sample(rng)),
                None => (1.0, 1.0),
            })
            .collect();
        Self { shape, errors, noise, blocks, now: None, buckets: Vec::new(), burst: 1.0 }
    }

    fn advance(&mut self, seconds: f64) {
        let block = self.noise.map_or(0, |(length, offset)| ((seconds + offset) / length) as usize);
        if self.now != Some(block) {
            let (factor, burst) = self.blocks[block];
            self.now = Some(block);
            self.buckets = self.shape.buckets(factor);
            self.burst = burst;
        }
    }

    fn sample(&self, requests: f64, rng: &mut StdRng) -> Counts {
        let mut latency = Histogram::default();
        let mut total = 0;
        for (bucket, share) in self.buckets.iter().enumerate() {
            let mean = share * requests;
            if mean > 0.0 {
                let count = poisson(mean, rng);
                total += count;
                latency.add(bucket, count);
            }
        }
        let errors = poisson(requests * self.errors * self.burst, rng).min(total);
        Counts { requests: total, errors, latency }
    }
}

fn poisson(mean: f64, rng: &mut StdRng) -> u64 {
    if mean <= 0.0 {
        return 0;
    }
    if mean < 0.05 {
        // By inversion: nearly always none.
        let (mut u, mut p, mut k) = (rng.random::<f64>(), (-mean).exp(), 0);
        while u > p && k < 20 {
            u -= p;
            k += 1;
            p *= mean / k as f64;
        }
        return k;
    }
    if mean > 150.0 {
        let z: f64 = rng.sample(StandardNormal);
        return (mean + mean.sqrt() * z).round().max(0.0) as u64;
    }
    Poisson::new(mean).map_or(0, |poisson| poisson.sample(rng) as u64)
}

/// A migration's world: the primary, the shadow, the load.
pub(crate) struct World<'a> {
    load: Load,
    phase: f64,
    now: f64,
    primary: Side<'a>,
    shadow: Side<'a>,
    rng: StdRng,
}

/// How a world is made.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) load: Load,
    /// How long each side's noise lasts.
    pub(crate) noise_minutes: Option<f64>,
    pub(crate) fault: Fault,
    pub(crate) honest: &'a Shape,
    pub(crate) shape: &'a Shape,
    pub(crate) hours: f64,
}

impl<'a> World<'a> {
    pub(crate) fn new(setting: Setting<'a>, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let until = setting.hours * 3600.0 + 4.0 * 3600.0;
        let minutes = setting.noise_minutes;
        let phase = rng.random::<f64>();
        let primary = Side::new(setting.honest, ERRORS, minutes, until, &mut rng);
        let shadow = Side::new(setting.shape, setting.fault.errors(), minutes, until, &mut rng);
        Self { load: setting.load, phase, now: 0.0, primary, shadow, rng }
    }

    /// A minute of the primary alone.
    pub(crate) fn minute(&mut self) -> Counts {
        self.primary.advance(self.now);
        let requests = self.load.rate(self.now, self.phase) * 60.0;
        self.now += 60.0;
        self.primary.sample(requests, &mut self.rng)
    }

    /// A tick in which the shadow answers a share of the reads; at 0 every turn is compared, and the primary's answer is used.
    pub(crate) fn tick(&mut self, share: f64) -> Tick {
        self.primary.advance(self.now);
        self.shadow.advance(self.now);
        let requests = self.load.rate(self.now, self.phase) * TICK;
        self.now += TICK;
        if share > 0.0 {
            let primary = self.primary.sample(requests * (1.0 - share), &mut self.rng);
            let shadow = self.shadow.sample(requests * share, &mut self.rng);
            return Tick { seconds: TICK, moved: true, primary, shadow, pairs: Pairs::default() };
        }
        let primary = self.primary.sample(requests, &mut self.rng);
        let shadow = self.shadow.sample(requests, &mut self.rng);
        let compared = primary.requests.min(shadow.requests);
        let ratios: Vec<u64> =
            self.ratios().iter().map(|share| poisson(share * compared as f64, &mut self.rng)).collect();
        let (shadow_slower, primary_slower) = JudgePolicy::default().order(&ratios, &primary.latency);
        let pairs = Pairs {
            compared,
            known: compared,
            errors_primary_only: primary.errors,
            errors_shadow_only: shadow.errors,
            shadow_slower,
            primary_slower,
            diverged: poisson(compared as f64 * DIVERGED, &mut self.rng),
        };
        Tick { seconds: TICK, moved: false, primary, shadow, pairs }
    }

    /// The share of the pairs, by how many buckets the shadow's latency is above the primary's. The latencies are independent.
    fn ratios(&self) -> [f64; RATIOS] {
        let mut ratios = [0.0; RATIOS];
        for (k, p) in self.primary.buckets.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            for (j, s) in self.shadow.buckets.iter().enumerate().filter(|(_, share)| **share > 0.0) {
                ratios[(j + RATIOS / 2).saturating_sub(k).min(RATIOS - 1)] += p * s;
            }
        }
        ratios
    }
}
