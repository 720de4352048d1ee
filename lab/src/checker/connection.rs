//! One connection of the checker, from its first request to its last.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::journal::{Entry, Kind, Writer};
use super::message::{self, Segments};
use super::stats::Stats;
use super::{Config, Event, Reason};
use crate::clock::monotonic;
use crate::wire::Dice;

/// Failures that are said one by one.
const SAID: usize = 100;

/// What all connections share. One thread has it.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) stats: RefCell<Stats>,
    /// Requests that nobody has begun yet.
    pub(super) left: Cell<u64>,
    pub(super) think: Cell<Duration>,
    pub(super) stopped: Cell<bool>,
    pub(super) paused: Cell<bool>,
    /// Told when a pause ends.
    pub(super) resumed: Notify,
    /// Connections that haven't ended, ...
    pub(super) working: Cell<usize>,
    /// ... and those of them that rest in a pause.
    pub(super) resting: Cell<usize>,
    /// What was not said yet.
    pub(super) events: RefCell<Vec<Event>>,
    pub(super) failures: RefCell<Vec<String>>,
}

impl Shared {
    pub(super) fn say_failure(&self, what: &str, reason: Reason, mid_answer: bool, detail: String) {
        let mut failures = self.failures.borrow_mut();
        if failures.len() < SAID {
            let mid = if mid_answer { ", in the middle of the answer" } else { "" };
            failures.push(format!("{what}: {reason}{mid}: {detail}"));
            let what = what.to_owned();
            self.events.borrow_mut().push(Event::Failure { what, reason, mid_answer, detail });
        }
    }

    /// Ends a pause, if there is one.
    pub(super) fn resume(&self) {
        self.paused.set(false);
        self.resumed.notify_waiters();
    }

    /// Begins up to `wanted` requests: how many may be.
    fn begin(&self, wanted: usize) -> usize {
        if self.stopped.get() {
            return 0;
        }
        let count = self.left.get().min(wanted as u64);
        self.left.set(self.left.get() - count);
        count as usize
    }
}

/// A request on its way.
struct Pending {
    kind: Kind,
    id: String,
    start_us: u64,
    window: usize,
    /// Length of the list when this request has been done.
    list_length: usize,
}

/// Why and how a request failed.
struct Failure {
    reason: Reason,
    detail: String,
}

impl Failure {
    fn io(error: &io::Error) -> Self {
        Self { reason: Reason::Reset, detail: error.to_string() }
    }
}

/// A connection and the list that it owns.
pub(super) struct Connection {
    shared: Rc<Shared>,
    pub(super) key: String,
    pub(super) stream: Rc<TcpStream>,
    journal: Option<Writer>,
    dice: Dice,
    number: u64,
    /// Numbers of the ids that were appended, in their order.
    written: Vec<u64>,
    pending: VecDeque<Pending>,
    input: Vec<u8>,
    pub(super) broken: bool,
}

impl Connection {
    pub(super) fn new(
        shared: Rc<Shared>,
        index: usize,
        key: String,
        stream: Rc<TcpStream>,
        journal: Option<Writer>,
    ) -> Self {
        let dice = Dice(shared.config.seed.wrapping_mul(1_000_003).wrapping_add(index as u64));
        Self {
            shared,
            key,
            stream,
            journal,
            dice,
            number: 0,
            written: Vec::new(),
            pending: VecDeque::new(),
            input: Vec::with_capacity(4096),
            broken: false,
        }
    }

    /// Sends requests and checks answers until there are no more to send, or the connection breaks.
    ///
    /// # Errors
    /// Only if the journal can't be written.
    pub(super) async fn work(&mut self) -> io::Result<()> {
        // Not all at once, or they would stay in step.
        let think_us = u64::try_from(self.shared.think.get().as_micros()).unwrap_or(u64::MAX - 1);
        if think_us > 0 {
            sleep(Duration::from_micros(self.dice.below(think_us + 1))).await;
        }
        loop {
            self.rest().await?;
            let count = self.shared.begin(self.shared.config.pipeline);
            if count == 0 {
                return Ok(());
            }
            if let Err(failure) = self.exchange(count).await? {
                self.fail_pending(&failure)?;
                self.broken = true;
                return Ok(());
            }
            let think = self.shared.think.get();
            if !think.is_zero() {
                sleep(think).await;
            }
        }
    }

    /// Waits until a pause is over, with the journal written so far.
    async fn rest(&mut self) -> io::Result<()> {
        if !self.shared.paused.get() {
            return Ok(());
        }
        self.journal.as_mut().map_or(Ok(()), Writer::flush)?;
        let shared = &self.shared;
        shared.resting.set(shared.resting.get() + 1);
        while shared.paused.get() {
            shared.resumed.notified().await;
        }
        shared.resting.set(shared.resting.get() - 1);
        Ok(())
    }

    /// Sends `count` requests and receives their answers. The inner error breaks the connection.
    async fn exchange(&mut self, count: usize) -> io::Result<Result<(), Failure>> {
        let mut bytes = Vec::with_capacity(256);
        let mut cuts = Vec::new();
        for _ in 0..count {
            self.prepare(&mut bytes, &mut cuts);
        }
        if let Err(error) = self.send(&bytes, &cuts).await {
            return Ok(Err(Failure::io(&error)));
        }
        while !self.pending.is_empty() {
            match self.take_answer()? {
                Ok(true) => {}
                Ok(false) => {
                    if let Err(failure) = self.receive().await {
                        return Ok(Err(failure));
                    }
                }
                Err(failure) => return Ok(Err(failure)),
            }
        }
        if self.input.is_empty() {
            return Ok(Ok(()));
        }
        let detail = format!("{} bytes behind the last answer", self.input.len());
        self.shared.say_failure(&self.key, Reason::Unasked, false, detail.clone());
        Ok(Err(Failure { reason: Reason::Unasked, detail }))
    }

    /// Appends the next request to `bytes`, and to `cuts` where its head ends.
    fn prepare(&mut self, bytes: &mut Vec<u8>, cuts: &mut Vec<usize>) {
        self.number += 1;
        let config = &self.shared.config;
        let id = format!("{}-{}", self.key, self.number);
        let kind = if self.dice.hit(config.write_fraction) { Kind::Write } else { Kind::Read };
        let cut = match kind {
            Kind::Write => {
                self.written.push(self.number);
                message::request(bytes, "POST", &format!("/lists/{}", self.key), &id, &id)
            }
            Kind::Read => match &config.read_path {
                Some(path) => message::request(bytes, "GET", path, &id, ""),
                None => {
                    let path = format!("/lists/{}?tail={}", self.key, config.tail);
                    message::request(bytes, "GET", &path, &id, "")
                }
            },
        };
        cuts.push(cut);
        let mut stats = self.shared.stats.borrow_mut();
        stats.sent += 1;
        let window = stats.current();
        let (start_us, list_length) = (now_us(), self.written.len());
        self.pending.push_back(Pending { kind, id, start_us, window, list_length });
    }

    async fn send(&self, bytes: &[u8], cuts: &[usize]) -> io::Result<()> {
        match self.shared.config.segments {
            Segments::Whole => self.write_all(bytes).await,
            Segments::HeadBody => {
                let mut from = 0;
                for cut in cuts.iter().copied().chain([bytes.len()]) {
                    self.write_all(&bytes[from..cut]).await?;
                    from = cut;
                }
                Ok(())
            }
            Segments::Every(size) => {
                for piece in bytes.chunks(size) {
                    self.write_all(piece).await?;
                }
                Ok(())
            }
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<(), Failure> {
        let limit = self.shared.config.timeout;
        let late = || Failure { reason: Reason::Timeout, detail: format!("no answer in {limit:?}") };
        loop {
            // Bytes that come aren't an answer yet: one that never ends is late, too.
            let begun_us = self.pending.front().map_or_else(now_us, |pending| pending.start_us);
            let waited = Duration::from_micros(now_us().saturating_sub(begun_us));
            let left = limit.checked_sub(waited).ok_or_else(late)?;
            match self.stream.try_read_buf(&mut self.input) {
                Ok(0) => {
                    return Err(Failure {
                        reason: Reason::Closed,
                        detail: "the connection was closed".into(),
                    });
                }
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Failure::io(&error)),
            }
            match timeout(left, self.stream.readable()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Failure::io(&error)),
                Err(_) => return Err(late()),
            }
        }
    }

    /// Checks the next answer, if it is whole: `false` if not. The inner error breaks the connection.
    fn take_answer(&mut self) -> io::Result<Result<bool, Failure>> {
        let answer = match message::answer(&self.input) {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(Ok(false)),
            Err(reason) => {
                let seen = String::from_utf8_lossy(&self.input[..self.input.len().min(80)]).into_owned();
                return Ok(Err(Failure { reason, detail: format!("{seen:?}") }));
            }
        };
        let Some(pending) = self.pending.front() else { return Ok(Ok(false)) };
        let wrong = check(&self.shared.config, &self.key, &self.written, pending, &answer);
        if let Some(failure) = wrong.as_ref().filter(|failure| failure.reason.is_fatal()) {
            return Ok(Err(Failure { reason: failure.reason, detail: failure.detail.clone() }));
        }
        let (server, length) = (answer.server.to_owned(), answer.length);
        self.input.drain(..length);
        if let Some(pending) = self.pending.pop_front() {
            self.end(pending, &server, wrong.map(|failure| (failure, false)))?;
        }
        Ok(Ok(true))
    }

    /// Counts and journals the end of a request.
    fn end(&mut self, pending: Pending, server: &str, failed: Option<(Failure, bool)>) -> io::Result<()> {
        let latency_us = now_us().saturating_sub(pending.start_us);
        let mut stats = self.shared.stats.borrow_mut();
        let failed = match failed {
            None => {
                stats.answered(pending.window, server, pending.kind, latency_us, &pending.id);
                None
            }
            Some((failure, mid_answer)) => {
                stats.failed(pending.window, mid_answer);
                self.shared.say_failure(&pending.id, failure.reason, mid_answer, failure.detail);
                Some((failure.reason.to_string(), mid_answer))
            }
        };
        let Some(journal) = &mut self.journal else { return Ok(()) };
        journal.add(&Entry {
            kind: pending.kind,
            id: pending.id,
            start_us: pending.start_us,
            latency_us,
            server: server.to_owned(),
            window: stats.window_name(pending.window).to_owned(),
            failed,
        })
    }

    /// All requests that wait for an answer have failed. Only the first one's answer can have begun.
    fn fail_pending(&mut self, failure: &Failure) -> io::Result<()> {
        let mut mid_answer = !self.input.is_empty();
        while let Some(pending) = self.pending.pop_front() {
            let failure = Failure { reason: failure.reason, detail: failure.detail.clone() };
            self.end(pending, "-", Some((failure, mid_answer)))?;
            mid_answer = false;
        }
        Ok(())
    }

    /// Looks whether the connection is still open and quiet, and writes the rest of the journal.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if !self.broken {
            let mut rest = [0; 64];
            let seen = match self.stream.try_read(&mut rest) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(error) => Some((Reason::Reset, error.to_string())),
                Ok(0) => Some((Reason::Closed, "closed while it was idle".to_owned())),
                Ok(count) => Some((Reason::Unasked, format!("{count} bytes that nobody asked for"))),
            };
            if let Some((reason, detail)) = seen {
                self.shared.say_failure(&self.key, reason, false, detail);
                self.broken = true;
            }
        }
        self.journal.take().map_or(Ok(()), Writer::finish)
    }
}

/// What is wrong with an answer.
fn check(
    config: &Config,
    key: &str,
    written: &[u64],
    pending: &Pending,
    answer: &message::Answer<'_>,
) -> Option<Failure> {
    let failure = |reason, detail| Some(Failure { reason, detail });
    let own_list = pending.kind == Kind::Write || config.read_path.is_none();
    // A server that isn't the lab's doesn't echo ids: only a wrong one counts there.
    if answer.request_id.map_or(own_list && answer.status == 200, |id| id != pending.id) {
        return failure(Reason::WrongId, format!("{:?} instead of {:?}", answer.request_id, pending.id));
    }
    if answer.status != 200 {
        let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(80)]);
        return failure(Reason::WrongStatus, format!("{} {body:?}", answer.status));
    }
    if !own_list {
        return None;
    }
    if answer.list_length != Some(pending.list_length) {
        let (seen, expected) = (answer.list_length, pending.list_length);
        return failure(
            Reason::WrongList,
            format!("{}: length {seen:?} instead of {expected}", answer.server),
        );
    }
    if pending.kind == Kind::Read {
        let from = pending.list_length - config.tail.min(pending.list_length);
        let tail = &written[from..pending.list_length];
        let expected: String = tail.iter().map(|number| format!("{key}-{number}\n")).collect();
        if answer.body != expected.as_bytes() {
            let seen = String::from_utf8_lossy(answer.body);
            return failure(
                Reason::WrongList,
                format!("{}: {seen:?} instead of {expected:?}", answer.server),
            );
        }
    }
    None
}

fn now_us() -> u64 {
    u64::try_from(monotonic().as_micros()).unwrap_or(u64::MAX)
}
