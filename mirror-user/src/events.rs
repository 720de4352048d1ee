//! What happens, told as JSON: appended to a file, posted to webhooks.
//!
//! Who tells never waits: each receiver has a bounded queue and a thread of its own. What doesn't fit, or can't be delivered,
//! is dropped and counted. The journal has every decision all the same.

mod file;
mod webhook;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use mirror_control::migration::Grounds;
use serde::{Deserialize, Serialize};

use crate::{moves::Phases, policy};

/// Events that wait for a receiver.
const QUEUE: usize = 1_024;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The migration decided something, or was told to.
    Decision,
    /// The migration went on to another stage.
    Phase,
    /// Something doesn't work as it should.
    Fault,
    /// A side has every answered write.
    InSync,
    /// A side hasn't.
    OutOfSync,
    /// A join, done or not.
    Join,
    /// An operator's change of the weight.
    Weight,
    /// A cutover, done or not.
    Cutover,
    /// A cutover's rehearsal: nothing moved.
    Rehearsal,
    /// A rollback, done or not.
    Rollback,
    /// Something became of a cutover that was ordered beforehand.
    Order,
    /// A side's circuit breaker opened, found it well, or closed.
    Breaker,
}

/// One event. Fields that say nothing of it are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up by one from the daemon's start. Who gets one twice can tell.
    pub number: u64,
    /// Milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// When the daemon started, likewise.
    pub since_ms: u64,
    /// The application.
    pub app: String,
    /// What kind of thing.
    pub kind: Kind,
    /// What is known of it.
    #[serde(flatten)]
    pub what: Told,
}

/// What is known of an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Why, for people.
    pub reason: String,
    /// The reason's name, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// The side that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<String>,
    /// `done`, `refused` or `aborted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Stage of the migration from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Share of the reads that the shadow is wanted to answer, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// What is done about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// Evidence, bound and sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounds: Option<Grounds>,
    /// How long each phase of a move took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
}

impl Told {
    /// With nothing but a reason.
    pub fn reason(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }
}

/// What became of a receiver's events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By [`Outcome`].
    pub by: BTreeMap<Outcome, u64>,
    /// Attempts that failed and were made again.
    pub retries: u64,
    /// Waiting now.
    pub queued: u64,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was taken.
    Delivered,
    /// The queue was full.
    QueueFull,
    /// The attempts are used up.
    Failed,
    /// It was refused: again would be no better.
    Rejected,
}

impl Outcome {
    /// All.
    pub const ALL: [Self; 4] = [Self::Delivered, Self::QueueFull, Self::Failed, Self::Rejected];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::QueueFull => "queue_full",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        }
    }
}

/// A receiver's counts, shared with its thread.
#[derive(Debug, Default)]
struct Tally(Mutex<Counts>);

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One left the queue.
    fn ended(&self, outcome: Outcome) {
        let mut counts = self.lock();
        counts.queued = counts.queued.saturating_sub(1);
        *counts.by.entry(outcome).or_default() += 1;
    }
}

/// One line of JSON, shared by the queues.
type Line = Arc<str>;

/// Where lines go.
#[derive(Debug)]
struct Sink {
    name: String,
    to: tokio::sync::mpsc::Sender<Line>,
    tally: Arc<Tally>,
}

impl Sink {
    fn send(&self, line: Line) {
        let mut counts = self.tally.lock();
        match self.to.try_send(line) {
            Ok(()) => counts.queued += 1,
            Err(_) => *counts.by.entry(Outcome::QueueFull).or_default() += 1,
        }
    }
}

/// Who is told. A clone tells the same; the default tells nobody.
#[derive(Clone, Debug, Default)]
pub struct Events(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    app: String,
    since_ms: u64,
    next: Mutex<u64>,
    sinks: Vec<Sink>,
    reopen: Arc<AtomicBool>,
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Events {
    /// Begins to tell whom the policy names.
    ///
    /// # Errors
    /// When there is no thread to be had, or the file can't be opened.
    pub fn start(policy: &policy::Events, app: &str) -> Result<Self> {
        let reopen = Arc::new(AtomicBool::new(false));
        let mut sinks = Vec::new();
        if let Some(path) = &policy.file {
            sinks.push(file::start(path, Arc::clone(&reopen))?);
        }
        for (index, webhook) in policy.webhooks.iter().enumerate() {
            sinks.push(webhook::start(index, webhook)?);
        }
        let inner = Inner { app: app.into(), since_ms: now_ms(), next: Mutex::new(0), sinks, reopen };
        Ok(Self(Some(Arc::new(inner))))
    }

    /// Tells; never waits.
    pub fn tell(&self, kind: Kind, what: Told) {
        let Some(inner) = self.0.as_ref().filter(|inner| !inner.sinks.is_empty()) else { return };
        // Held until it is in every queue: their order is the numbers' order.
        let mut next = inner.next.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event {
            number: *next,
            at_ms: now_ms(),
            since_ms: inner.since_ms,
            app: inner.app.clone(),
            kind,
            what,
        };
        *next += 1;
        match serde_json::to_string(&event) {
            Ok(json) => {
                let line: Line = (json + "\n").into();
                inner.sinks.iter().for_each(|sink| sink.send(Arc::clone(&line)));
            }
            Err(error) => tracing::error!("an event can't be written: {error}"),
        }
    }

    /// Lets the file be opened anew before the next line.
    pub fn reopen(&self) {
        if let Some(inner) = &self.0 {
            inner.reopen.store(true, Ordering::SeqCst);
        }
    }

    /// What became of each receiver's events, by its name: `file`, `webhook-0` and so on.
    pub fn counts(&self) -> Vec<(String, Counts)> {
        let sinks = self.0.as_ref().map(|inner| inner.sinks.as_slice()).unwrap_or_default();
        sinks.iter().map(|sink| (sink.name.clone(), sink.tally.lock().clone())).collect()
    }
}

/// A receiver with its queue; the other end is its thread's.
fn sink(name: String) -> (Sink, tokio::sync::mpsc::Receiver<Line>) {
    let (to, from) = tokio::sync::mpsc::channel(QUEUE);
    (Sink { name, to, tally: Arc::default() }, from)
}

#[cfg(test)]
mod tests;
