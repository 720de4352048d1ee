//! What happens, told as JSON: appended to a file, posted to webhooks.
//!
//! Who tells never waits: each receiver has a bounded queue and a thread of its own. What doesn't fit, or can't be delivered,
//! is dropped and counted. The journal has every decision all the same.

mod file;
mod webhook;

use std::{
    collections::BTreeMap,
    path::PathBuf,
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
    /// One of a side's servers isn't well any more, or is again.
    Server,
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
struct Tally {
    counts: Mutex<Counts>,
    /// The policy names it no more: what waits is tried once.
    retired: AtomicBool,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Who gets lines.
#[derive(Clone, Debug, PartialEq)]
enum Receiver {
    File(PathBuf),
    /// With its place among the webhooks.
    Webhook(usize, policy::Webhook),
}

impl Receiver {
    /// Those of a policy, in their order.
    fn all(policy: &policy::Events) -> Vec<Self> {
        let webhooks = policy.webhooks.iter().cloned().enumerate();
        let webhooks = webhooks.map(|(index, webhook)| Self::Webhook(index, webhook));
        policy.file.clone().map(Self::File).into_iter().chain(webhooks).collect()
    }

    /// Its name in metrics.
    fn name(&self) -> String {
        match self {
            Self::File(_) => "file".into(),
            Self::Webhook(index, _) => format!("webhook-{index}"),
        }
    }

    /// Begins to deliver to it.
    fn start(self, reopen: &Arc<AtomicBool>) -> Result<Sink> {
        let (sink, from) = Sink::new(self);
        let tally = Arc::clone(&sink.tally);
        match &sink.receiver {
            Self::File(path) => file::start(path, Arc::clone(reopen), from, tally)?,
            Self::Webhook(_, webhook) => webhook::start(sink.receiver.name(), webhook, from, tally)?,
        }
        Ok(sink)
    }
}

/// Where lines go.
#[derive(Debug)]
struct Sink {
    receiver: Receiver,
    to: tokio::sync::mpsc::Sender<Line>,
    tally: Arc<Tally>,
}

impl Sink {
    /// With its queue; the other end is its thread's.
    fn new(receiver: Receiver) -> (Self, tokio::sync::mpsc::Receiver<Line>) {
        let (to, from) = tokio::sync::mpsc::channel(QUEUE);
        (Self { receiver, to, tally: Arc::default() }, from)
    }

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
    told: Mutex<Telling>,
    reopen: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Telling {
    /// The next event's number.
    next: u64,
    sinks: Vec<Sink>,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Telling> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receivers of another policy, those that are new with their threads: [`Events::tell_to`].
pub struct Receivers(Vec<Result<Sink, Receiver>>);

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
        let sinks = Receiver::all(policy).into_iter().map(|receiver| receiver.start(&reopen));
        let told = Mutex::new(Telling { next: 0, sinks: sinks.collect::<Result<_>>()? });
        Ok(Self(Some(Arc::new(Inner { app: app.into(), since_ms: now_ms(), told, reopen }))))
    }

    /// Makes ready to tell whom another policy names. Who is in both goes on as it is.
    ///
    /// # Errors
    /// As [`Events::start`]; then nothing has changed.
    pub fn prepare(&self, policy: &policy::Events) -> Result<Receivers> {
        let Some(inner) = &self.0 else { return Ok(Receivers(Vec::new())) };
        let known: Vec<Receiver> = inner.lock().sinks.iter().map(|sink| sink.receiver.clone()).collect();
        let ready = Receiver::all(policy).into_iter().map(|receiver| {
            if known.contains(&receiver) { Ok(Err(receiver)) } else { receiver.start(&inner.reopen).map(Ok) }
        });
        Ok(Receivers(ready.collect::<Result<_>>()?))
    }

    /// Tells these from now on. For who isn't among them what waits is tried once.
    pub fn tell_to(&self, receivers: Receivers) {
        let Some(inner) = &self.0 else { return };
        let mut told = inner.lock();
        let mut before = std::mem::take(&mut told.sinks);
        told.sinks.extend(receivers.0.into_iter().filter_map(|receiver| match receiver {
            Ok(new) => Some(new),
            Err(known) => {
                let at = before.iter().position(|sink| sink.receiver == known)?;
                Some(before.swap_remove(at))
            }
        }));
        before.iter().for_each(|sink| sink.tally.retired.store(true, Ordering::SeqCst));
    }

    /// Tells; never waits.
    pub fn tell(&self, kind: Kind, what: Told) {
        let Some(inner) = &self.0 else { return };
        // Held until it is in every queue: their order is the numbers' order.
        let mut told = inner.lock();
        if told.sinks.is_empty() {
            return;
        }
        let event = Event {
            number: told.next,
            at_ms: now_ms(),
            since_ms: inner.since_ms,
            app: inner.app.clone(),
            kind,
            what,
        };
        told.next += 1;
        match serde_json::to_string(&event) {
            Ok(json) => {
                let line: Line = (json + "\n").into();
                told.sinks.iter().for_each(|sink| sink.send(Arc::clone(&line)));
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
        let Some(inner) = &self.0 else { return Vec::new() };
        let told = inner.lock();
        told.sinks.iter().map(|sink| (sink.receiver.name(), sink.tally.lock().clone())).collect()
    }
}

#[cfg(test)]
mod tests;
