//! Reads both sides' sources every second. A source that hangs, lies or is gone costs its own values alone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mirror_common::switch_word::Side;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Clock, Counter, Found, Metric, Missing, Reading, Sample, Value, cgroup::Group, process::Tree,
    prometheus::Endpoint, rates::Rates,
};
use crate::{
    policy::{Policy, Resources},
    series::keeper::Keeper,
};

/// Sources are read this often.
const TICK: Duration = Duration::from_secs(1);
/// A source may take this long: less than a tick, so that the next one isn't late.
const DEADLINE: Duration = Duration::from_millis(800);

/// What was known longer ago isn't known now.
const STALE: Duration = Duration::from_secs(5);

/// What the gateway itself counts of each side so far, as [`COUNTED`]. `None`: the counters can't be read now.
pub type Counted = Option<[[u64; 4]; 2]>;

/// Turns that it answered, and bytes of payload towards its server and from it: these stand for the network of a source that
/// has none.
const COUNTED: [Metric; 4] = [Metric::Reads, Metric::Writes, Metric::Received, Metric::Sent];

/// What is known of both sides.
#[derive(Debug)]
pub struct Watch {
    /// Where samples are kept.
    pub keeper: Keeper,
    /// What the policy names, by side.
    pub sources: [Option<String>; 2],
    known: Mutex<Known>,
}

/// The last second's samples, and what was missing so far.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// By side; `None` before the first.
    pub now: [Option<Sample>; 2],
    /// Values that were missing so far, by side and reason.
    pub missing: BTreeMap<(u8, Missing), u64>,
    /// Steps of the wall clock so far.
    pub clock_steps: u64,
    /// When that was.
    pub at: Option<Instant>,
}

impl Known {
    /// Should the seconds stop, the last one doesn't stand for all that follow.
    fn seen_from(mut self, now: Instant) -> Self {
        if self.at.is_some_and(|at| now.saturating_duration_since(at) > STALE) {
            for sample in self.now.iter_mut().flatten() {
                sample.values = [Err(Missing::TooSlow); Metric::ALL.len()];
            }
        }
        self
    }
}

impl Watch {
    /// Nothing is known yet.
    pub fn new(policy: &Policy, keeper: Keeper) -> Self {
        let named = |resources: Option<&Resources>| resources.map(ToString::to_string);
        let sources = sources(policy).map(named);
        Self { keeper, sources, known: Mutex::default() }
    }

    /// What is known now.
    pub fn known(&self) -> Known {
        self.lock().clone().seen_from(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // What is behind it is whole at any time.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches for ever, in a thread of its own; `counted` asks for the gateway's counters.
    ///
    /// # Errors
    /// When there is no thread, or no client, to be had.
    pub fn start(
        self: &Arc<Self>,
        policy: &Policy,
        counted: impl Fn() -> Counted + Send + 'static,
    ) -> anyhow::Result<()> {
        let clock = Wall::start();
        let [primary, shadow] = sources(policy).map(|resources| Source::new(resources, clock.started));
        let sides = [Reader::new(primary?), Reader::new(shadow?)];
        let watch = Arc::clone(self);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("resources".into())
            .spawn(move || runtime.block_on(watch.run(sides, clock, counted)))?;
        Ok(())
    }

    async fn run(&self, mut sides: [Reader; 2], mut clock: Wall, counted: impl Fn() -> Counted) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let at = clock.now();
            let [primary, shadow] = &mut sides;
            let (primary, shadow) = tokio::join!(primary.source.read(), shadow.source.read());
            let counted = counted();
            let counted_at = clock.started.elapsed().as_secs_f64();
            let mut samples = Vec::new();
            for (side, reading) in Side::BOTH.into_iter().zip([primary, shadow]) {
                let counted = counted.map(|counted| counted[side as usize]);
                samples.push((side, sides[side as usize].sample(at, &reading, counted, counted_at)));
            }
            self.learn(&samples, clock.steps);
            self.keeper.keep(samples);
        }
    }

    fn learn(&self, samples: &[(Side, Sample)], clock_steps: u64) {
        let mut known = self.lock();
        if known.clock_steps != clock_steps {
            tracing::warn!("the system's clock was set: the series have a gap, or a second twice");
        }
        known.clock_steps = clock_steps;
        known.at = Some(Instant::now());
        for (side, sample) in samples {
            for why in sample.values.iter().filter_map(|value| value.err()) {
                *known.missing.entry((*side as u8, why)).or_default() += 1;
            }
            known.now[*side as usize] = Some(sample.clone());
        }
    }
}

fn sources(policy: &Policy) -> [Option<&Resources>; 2] {
    Side::BOTH.map(|side| policy.resources(side))
}

/// One side's source with its counters.
#[derive(Debug)]
struct Reader {
    source: Source,
    rates: Rates,
}

impl Reader {
    fn new(source: Source) -> Self {
        Self { source, rates: Rates::default() }
    }

    fn sample(&mut self, at: u64, reading: &Reading, counted: Option<[u64; 4]>, counted_at: f64) -> Sample {
        let mut values: [Found<f64>; Metric::ALL.len()] = [Err(Missing::NotMeasured); Metric::ALL.len()];
        let mut reading = reading.clone();
        for (n, metric) in COUNTED.into_iter().enumerate() {
            // A source that is dead for now is missing: its network isn't another one meanwhile.
            let stands_in = !Metric::OF_SOURCE.contains(&metric)
                || matches!(
                    reading.get(metric),
                    Err(Missing::NoSource | Missing::NotMeasured | Missing::SharedNetwork)
                );
            let counter = |counted: [u64; 4]| {
                let parts = BTreeMap::from([("gateway".to_owned(), counted[n] as f64)]);
                Value::Counter(Counter { at: counted_at, clock: Clock::Gateway, parts })
            };
            if stands_in {
                reading.set(metric, counted.map(counter).ok_or(Missing::Gone));
            }
        }
        for (metric, value) in self.rates.step(&Metric::ALL, &reading) {
            values[metric as usize] = value;
        }
        Sample { at, values }
    }
}

/// A source of the policy.
#[derive(Debug)]
enum Source {
    None,
    Files(Files),
    Prometheus(Endpoint, Instant),
}

/// A source that is read from files: in a thread that may hang.
#[derive(Debug)]
struct Files {
    what: Arc<Kind>,
    started: Instant,
    running: Option<JoinHandle<Reading>>,
}

#[derive(Debug)]
enum Kind {
    Group(Group),
    Tree(Tree),
}

impl Source {
    fn new(resources: Option<&Resources>, started: Instant) -> anyhow::Result<Self> {
        let files = |kind| Self::Files(Files { what: Arc::new(kind), started, running: None });
        Ok(match resources {
            None => Self::None,
            Some(Resources::Cgroup(path)) => files(Kind::Group(Group::new(path.clone()))),
            Some(Resources::Process(id)) => files(Kind::Tree(Tree::new(id.clone()))),
            Some(Resources::Prometheus(scrape)) => {
                Self::Prometheus(Endpoint::new(scrape.clone(), DEADLINE)?, started)
            }
        })
    }

    async fn read(&mut self) -> Reading {
        match self {
            Self::None => Reading::missing(Missing::NoSource),
            Self::Files(files) => files.read().await,
            Self::Prometheus(endpoint, started) => endpoint.read(|| started.elapsed().as_secs_f64()).await,
        }
    }
}

impl Files {
    async fn read(&mut self) -> Reading {
        // One that hangs is waited for again: one thread a source hangs at most.
        let mut running = self.running.take().unwrap_or_else(|| {
            let (what, started) = (Arc::clone(&self.what), self.started);
            spawn_blocking(move || {
                let at = started.elapsed().as_secs_f64();
                match &*what {
                    Kind::Group(group) => group.read(at),
                    Kind::Tree(tree) => tree.read(at),
                }
            })
        });
        match timeout(DEADLINE, &mut running).await {
            Ok(Ok(reading)) => reading,
            Ok(Err(_)) => Reading::missing(Missing::Malformed),
            Err(_) => {
                self.running = Some(running);
                Reading::missing(Missing::TooSlow)
            }
        }
    }
}

/// Seconds since 1970, which go on evenly while the system's clock does.
#[derive(Debug)]
struct Wall {
    started: Instant,
    /// Seconds since 1970 at the start, as of the last step.
    start: f64,
    steps: u64,
}

/// The system's clock may drift this far from the monotonic one, in seconds, before it is followed.
const DRIFT: f64 = 1.5;

impl Wall {
    fn start() -> Self {
        let started = Instant::now();
        Self { started, start: system(), steps: 0 }
    }

    fn now(&mut self) -> u64 {
        let elapsed = self.started.elapsed().as_secs_f64();
        self.at(elapsed, system())
    }

    /// Whole seconds: ticks come a moment late, never early, so they are rounded from the start on.
    fn at(&mut self, elapsed: f64, system: f64) -> u64 {
        if (self.start + elapsed - system).abs() > DRIFT {
            self.start = system - elapsed;
            self.steps += 1;
        }
        (self.start.round() + elapsed.round()).max(0.0) as u64
    }
}

fn system() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ProcessId;

    /// C8: seconds go by the monotonic clock.
    #[test]
    fn seconds_go_on_evenly_and_a_step_of_the_clock_is_counted() {
        let mut wall = Wall { started: Instant::now(), start: 1_000.4, steps: 0 };
        // Ticks come a moment late.
        let seen: Vec<u64> = [0.0, 1.001, 2.02, 3.3].map(|at| wall.at(at, 1_000.4 + at)).into();
        assert_eq!((seen, wall.steps), (vec![1_000, 1_001, 1_002, 1_003], 0));
        assert_eq!((wall.at(4.0, 500.0), wall.steps), (500, 1));
        assert_eq!((wall.at(5.0, 501.0), wall.steps), (501, 1));
        assert_eq!((wall.at(6.0, 9_000.0), wall.steps), (9_000, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_hangs_is_too_slow_each_second_and_hangs_one_thread() {
        let mut files = Files {
            what: Arc::new(Kind::Tree(Tree::new(ProcessId::File("/nowhere/shop.pid".into())))),
            started: Instant::now(),
            running: None,
        };
        let (answer, hanging) = tokio::sync::oneshot::channel();
        files.running = Some(tokio::spawn(async { hanging.await.unwrap_or_default() }));
        for _ in 0..3 {
            assert_eq!(files.read().await, Reading::missing(Missing::TooSlow));
        }
        assert!(files.running.is_some(), "another one was begun");
        answer.send(Reading::missing(Missing::Denied)).unwrap();
        assert_eq!(files.read().await, Reading::missing(Missing::Denied), "it is heard when it comes");
        assert!(files.running.is_none(), "the next second asks anew");
    }

    #[test]
    fn a_side_has_rates_of_what_it_answered_whatever_its_source_says() {
        let mut reader = Reader::new(Source::None);
        let gone = Reading::missing(Missing::NoSource);
        let first = reader.sample(7, &gone, Some([100, 10, 0, 0]), 1.0);
        assert_eq!(first.get(Metric::Reads), Err(Missing::FirstReading));
        let second = reader.sample(8, &gone, Some([150, 10, 4_000, 9_000]), 2.0);
        assert_eq!((second.get(Metric::Reads), second.get(Metric::Writes)), (Ok(50.0), Ok(0.0)));
        assert_eq!((second.get(Metric::Received), second.get(Metric::Sent)), (Ok(4_000.0), Ok(9_000.0)));
        assert_eq!(second.get(Metric::Cpu), Err(Missing::NoSource));
        assert_eq!(reader.sample(9, &gone, None, 3.0).get(Metric::Reads), Err(Missing::Gone));
    }

    #[test]
    fn the_gateways_bytes_stand_for_a_network_that_no_source_has_and_not_for_a_dead_source() {
        for (why, stands_in) in [
            (Missing::NoSource, true),
            (Missing::NotMeasured, true),
            (Missing::SharedNetwork, true),
            (Missing::Unreachable, false),
            (Missing::TooSlow, false),
        ] {
            let mut reader = Reader::new(Source::None);
            let mut source = Reading::missing(Missing::Gone);
            source.set(Metric::Sent, Err(why));
            reader.sample(7, &source, Some([0; 4]), 1.0);
            let sent = reader.sample(8, &source, Some([0, 0, 0, 700]), 2.0).get(Metric::Sent);
            assert_eq!(sent, if stands_in { Ok(700.0) } else { Err(why) }, "{why:?}");
        }
    }

    #[test]
    fn the_last_second_does_not_stand_for_those_that_never_came() {
        let at = Instant::now();
        let sample = Sample { at: 7, values: [Ok(1.0); Metric::ALL.len()] };
        let known = Known { now: [Some(sample), None], at: Some(at), ..Known::default() };
        let later =
            |seconds| known.clone().seen_from(at + Duration::from_secs(seconds)).now[0].clone().unwrap();
        assert_eq!(later(2).get(Metric::Cpu), Ok(1.0));
        assert_eq!(later(60).get(Metric::Cpu), Err(Missing::TooSlow));
    }
}
