//! Servers that swallow requests, and loads that fall by themselves.

use std::collections::VecDeque;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

/// Clients in front of an authority, second by second. Requests come at a rate; of those that aren't answered each is given
/// up after a time.
struct Clients {
    rng: StdRng,
    /// Requests a second.
    load: f64,
    /// Connections at most: who waits asks for nothing more. Nothing: new ones come for every request.
    connections: Option<usize>,
    /// Share of the requests that is answered.
    answers: f64,
    /// Seconds after which a client gives up.
    patience: usize,
    /// Requests that wait: how many began, so many seconds ago.
    waiting: VecDeque<usize>,
}

impl Clients {
    fn new(load: f64, connections: Option<usize>) -> Self {
        let rng = StdRng::seed_from_u64(7);
        Self { rng, load, connections, answers: 1.0, patience: 30, waiting: VecDeque::new() }
    }

    fn second(&mut self, policy: &ThroughputPolicy) -> Answered {
        let mut free = self.connections.unwrap_or(usize::MAX) - self.waiting.iter().sum::<usize>();
        let (mut answered, mut swallowed) = (0, 0);
        let noise = 1.0 + 0.3 * (self.rng.random::<f64>() - 0.5);
        for _ in 0..(self.load * noise) as usize {
            if free == 0 {
                break;
            }
            if self.rng.random_bool(self.answers) {
                answered += 1;
            } else {
                swallowed += 1;
                free -= 1;
            }
        }
        self.waiting.push_front(swallowed);
        self.waiting.truncate(self.patience);
        let unanswered = self.waiting.iter().skip(policy.unanswered_seconds as usize).sum::<usize>();
        Answered { seconds: 1.0, authority: Side::Shadow, answered, unanswered: unanswered as u32 }
    }
}

/// Watches for so many seconds; what is found, and when.
fn watch(clients: &mut Clients, seen: &mut Throughput, seconds: u32) -> Option<(u32, Shortfall)> {
    let policy = ThroughputPolicy::default();
    (0..seconds).find_map(|second| {
        let tick = clients.second(&policy);
        seen.observe(&policy, &tick);
        seen.shortfall(&policy).map(|shortfall| (second, shortfall))
    })
}

#[test]
fn a_server_that_swallows_requests_is_found_within_seconds() {
    // All of them, or nine of ten; clients that wait for their connection, and clients that come anew; few and many.
    for answers in [0.0, 0.1] {
        for (load, connections) in [(1_000.0, Some(50)), (1_000.0, None), (20.0, Some(12)), (8.0, None)] {
            for patience in [5, 30, 600] {
                let mut clients = Clients { patience, ..Clients::new(load, connections) };
                let mut seen = Throughput::default();
                assert_eq!(watch(&mut clients, &mut seen, 900), None);
                clients.answers = answers;
                let found = watch(&mut clients, &mut seen, 60);
                let (second, shortfall) = found.unwrap_or_else(|| {
                    panic!("{answers} of {load}/s on {connections:?} connections, patience {patience} s: {seen:?}")
                });
                assert!(second <= 25, "after {second} s: {shortfall}");
                assert!((shortfall.usual - load).abs() < 0.3 * load, "{shortfall}");
            }
        }
    }
}

#[test]
fn load_that_falls_by_itself_is_no_sign() {
    // At once, or within an hour; with none that wait, or as many as always.
    for (swallowed, floor) in [(0.0, 0.1), (0.0, 0.0), (0.01, 0.1)] {
        for seconds in [1.0, 60.0, 3_600.0] {
            let mut clients = Clients::new(1_000.0, None);
            clients.answers = 1.0 - swallowed;
            let mut seen = Throughput::default();
            assert_eq!(watch(&mut clients, &mut seen, 1_200), None);
            for second in 0..7_200 {
                clients.load = 1_000.0 * (1.0 - f64::from(second) / seconds).max(floor);
                assert_eq!(watch(&mut clients, &mut seen, 1), None, "{swallowed} {floor} {seconds}");
            }
        }
    }
}

#[test]
fn turns_that_wait_are_no_sign_while_as_many_are_answered() {
    let mut clients = Clients::new(500.0, None);
    let mut seen = Throughput::default();
    watch(&mut clients, &mut seen, 900);
    clients.answers = 0.9;
    assert_eq!(watch(&mut clients, &mut seen, 600), None, "the judge's to say");
}

#[test]
fn nothing_is_found_without_a_past_and_by_one_late_look() {
    let policy = ThroughputPolicy::default();
    let mut seen = Throughput::default();
    let good = Answered { seconds: 1.0, authority: Side::Shadow, answered: 100, unanswered: 0 };
    let bad = Answered { seconds: 30.0, answered: 0, unanswered: 50, ..good };
    (0..59).for_each(|_| seen.observe(&policy, &good));
    seen.observe(&policy, &bad);
    assert_eq!(seen.drop, None, "59 s are no past");
    let mut seen = Throughput::default();
    (0..600).for_each(|_| seen.observe(&policy, &good));
    seen.observe(&policy, &bad);
    seen.observe(&policy, &bad);
    assert_eq!(seen.shortfall(&policy), None);
    seen.observe(&policy, &bad);
    assert!(seen.shortfall(&policy).is_some());
    seen.observe(&policy, &Answered { authority: Side::Primary, ..bad });
    assert_eq!(seen.shortfall(&policy), None, "another authority");
}

#[test]
fn a_tick_that_is_none_changes_nothing() {
    let policy = ThroughputPolicy::default();
    let mut seen = Throughput::default();
    for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        seen.observe(&policy, &Answered { seconds, authority: Side::Primary, answered: 7, unanswered: 7 });
    }
    assert_eq!(seen, Throughput::default());
}
