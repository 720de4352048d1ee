//! Counts and latencies by window, by server, and by kind of request.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::journal::Kind;

/// The longest latency that is told from longer ones: a minute.
const LONGEST_US: u64 = 60_000_000;
/// Relative precision of the quantiles: three digits.
const DIGITS: u8 = 3;

/// Quantiles of some latencies, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The greatest.
    pub max_us: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        }
    }
}

/// What one server answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ServerLatency {
    /// The server's share of all answered reads, 0 to 1.
    pub read_share: f64,
    /// Its reads.
    pub reads: Latency,
    /// Its writes.
    pub writes: Latency,
}

/// The slowest request of a window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Slowest {
    /// Microseconds.
    pub us: u64,
    /// Its id.
    pub id: String,
}

/// All requests that began under one mark.
#[derive(Debug, Clone, Serialize)]
pub struct WindowSummary {
    /// The mark.
    pub name: String,
    /// By the names in `X-Server`.
    pub servers: BTreeMap<String, ServerLatency>,
    /// Requests without the right answer.
    pub failed: u64,
    /// The slowest that was answered.
    pub slowest: Slowest,
}

/// The last second.
#[derive(Debug, Clone, Serialize)]
pub struct Tick {
    /// Seconds since the first request.
    pub seconds: f64,
    /// The mark.
    pub window: String,
    /// Requests answered so far.
    pub requests: u64,
    /// Requests failed so far.
    pub failed: u64,
    /// Answers in the last second, as a rate.
    pub requests_per_second: f64,
    /// Connections that can be used.
    pub connections: usize,
    /// TCP segments sent again so far.
    pub retransmissions: u64,
    /// What each server answered in the last second.
    pub servers: BTreeMap<String, ServerLatency>,
}

/// Latencies of one server in one window.
#[derive(Debug, Clone)]
struct Tally {
    reads: Histogram<u64>,
    writes: Histogram<u64>,
}

impl Tally {
    fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST_US, DIGITS)
                .expect("these bounds and digits are within the crate's")
        };
        Self { reads: histogram(), writes: histogram() }
    }

    fn record(&mut self, kind: Kind, us: u64) {
        match kind {
            Kind::Read => self.reads.saturating_record(us),
            Kind::Write => self.writes.saturating_record(us),
        }
    }
}

/// One window.
#[derive(Debug, Clone, Default)]
struct Window {
    name: String,
    /// By the server's index.
    tallies: Vec<Tally>,
    failed: u64,
    slowest: Slowest,
}

impl Window {
    fn record(&mut self, server: usize, kind: Kind, us: u64) {
        while self.tallies.len() <= server {
            self.tallies.push(Tally::new());
        }
        self.tallies[server].record(kind, us);
    }

    fn servers(&self, names: &[String]) -> BTreeMap<String, ServerLatency> {
        let all_reads: u64 = self.tallies.iter().map(|tally| tally.reads.len()).sum();
        let share = |reads: u64| if all_reads == 0 { 0.0 } else { reads as f64 / all_reads as f64 };
        let seen =
            names.iter().zip(&self.tallies).filter(|(_, tally)| tally.reads.len() + tally.writes.len() > 0);
        seen.map(|(name, tally)| {
            let latency = ServerLatency {
                read_share: share(tally.reads.len()),
                reads: Latency::of(&tally.reads),
                writes: Latency::of(&tally.writes),
            };
            (name.clone(), latency)
        })
        .collect()
    }
}

/// All counts of a run.
#[derive(Debug)]
pub(super) struct Stats {
    servers: Vec<String>,
    windows: Vec<Window>,
    current: usize,
    second: Window,
    pub(super) sent: u64,
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) failed: u64,
    pub(super) failed_mid_answer: u64,
}

impl Stats {
    pub(super) fn new() -> Self {
        Self {
            servers: Vec::new(),
            windows: vec![Window { name: "start".into(), ..Window::default() }],
            current: 0,
            second: Window::default(),
            sent: 0,
            reads: 0,
            writes: 0,
            failed: 0,
            failed_mid_answer: 0,
        }
    }

    /// The window in which a request begins now.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    pub(super) fn window_name(&self, window: usize) -> &str {
        &self.windows[window].name
    }

    /// From now on requests belong to the window `name`, which may have been there before.
    pub(super) fn mark(&mut self, name: &str) {
        self.current = self.windows.iter().position(|window| window.name == name).unwrap_or_else(|| {
            self.windows.push(Window { name: name.to_owned(), ..Window::default() });
            self.windows.len() - 1
        });
    }

    pub(super) fn answered(&mut self, window: usize, server: &str, kind: Kind, us: u64, id: &str) {
        let server = self.servers.iter().position(|name| name == server).unwrap_or_else(|| {
            self.servers.push(server.to_owned());
            self.servers.len() - 1
        });
        match kind {
            Kind::Read => self.reads += 1,
            Kind::Write => self.writes += 1,
        }
        self.second.record(server, kind, us);
        let window = &mut self.windows[window];
        window.record(server, kind, us);
        if us > window.slowest.us {
            window.slowest = Slowest { us, id: id.to_owned() };
        }
    }

    pub(super) fn failed(&mut self, window: usize, mid_answer: bool) {
        self.failed += 1;
        self.failed_mid_answer += u64::from(mid_answer);
        self.windows[window].failed += 1;
    }

    /// The last second, which ends here.
    pub(super) fn tick(
        &mut self,
        seconds: f64,
        lasted: f64,
        connections: usize,
        retransmissions: u64,
    ) -> Tick {
        let servers = self.second.servers(&self.servers);
        let answers: u64 = servers.values().map(|server| server.reads.count + server.writes.count).sum();
        for tally in &mut self.second.tallies {
            tally.reads.reset();
            tally.writes.reset();
        }
        Tick {
            seconds,
            window: self.windows[self.current].name.clone(),
            requests: self.reads + self.writes,
            failed: self.failed,
            requests_per_second: answers as f64 / lasted,
            connections,
            retransmissions,
            servers,
        }
    }

    pub(super) fn windows(&self) -> Vec<WindowSummary> {
        let summary = |window: &Window| WindowSummary {
            name: window.name.clone(),
            servers: window.servers(&self.servers),
            failed: window.failed,
            slowest: window.slowest.clone(),
        };
        self.windows.iter().map(summary).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_counted_by_window_and_a_window_can_be_entered_again() {
        let mut stats = Stats::new();
        for (mark, server) in [("w50", "primary"), ("w50", "shadow"), ("w0", "primary"), ("w50", "shadow")] {
            stats.mark(mark);
            let window = stats.current();
            stats.answered(window, server, Kind::Read, 100, "x");
            stats.answered(window, "primary", Kind::Write, 100, "x");
        }
        let windows = stats.windows();
        let share = |name: &str, server: &str| {
            let window = windows.iter().find(|window| window.name == name).unwrap();
            window.servers.get(server).map(|server| server.read_share)
        };
        assert_eq!(share("w50", "shadow"), Some(2.0 / 3.0));
        assert_eq!((share("w0", "primary"), share("w0", "shadow")), (Some(1.0), None));
        assert_eq!(windows.len(), 3, "start, w50, w0");
    }

    #[test]
    fn a_tick_counts_only_its_second() {
        let mut stats = Stats::new();
        stats.answered(0, "primary", Kind::Read, 100, "x");
        assert_eq!(stats.tick(1.0, 0.5, 1, 0).requests_per_second, 2.0);
        let second = stats.tick(2.0, 1.0, 1, 0);
        assert_eq!((second.requests, second.servers.len()), (1, 0));
    }
}
