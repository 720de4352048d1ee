//! A link that delays, loses, reorders and duplicates frames on purpose.
//!
//! The kernel's own `netem` isn't everywhere. Between the two veth pairs of an impaired link this program copies frames
//! from one packet socket to the other, each when its time has come.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

mod schedule;

use crate::net::Namespace;
use crate::packet_socket::PacketSocket;
pub(crate) use schedule::Dice;
use schedule::Schedule;
pub use schedule::{Counts, Fate, Fault};

/// The largest frame: an MTU of 9,216 with its headers.
const LARGEST: usize = 9_300;
/// Frames taken from one socket before the other gets its turn.
const BURST: usize = 64;

/// A direction of the link, seen from the host at its far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the host to the gateway.
    FromHost,
    /// From the gateway to the host.
    ToHost,
}

/// What happens to a link's frames.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Impairment {
    /// From the host to the gateway.
    pub from_host: Fault,
    /// From the gateway to the host.
    pub to_host: Fault,
    /// Seed of the dice.
    pub seed: u64,
}

impl Impairment {
    /// The same in both directions.
    pub fn both(fault: Fault, seed: u64) -> Self {
        Self { from_host: fault, to_host: fault, seed }
    }

    /// A host `round_trip_us` away, half of it in each direction, and nothing else.
    pub fn round_trip(round_trip_us: u64) -> Self {
        Self::both(Fault { delay_us: round_trip_us / 2, ..Fault::default() }, 0)
    }
}

/// Looks at each frame (from the Ethernet header on) and decides.
pub type Filter = Box<dyn FnMut(Direction, &[u8]) -> Fate + Send>;

struct Control {
    impairment: Impairment,
    filter: Option<Filter>,
    from_host: Counts,
    to_host: Counts,
    failed: Option<String>,
}

/// A running link. Dropped, it forwards nothing any more.
pub struct Wire {
    control: Arc<Mutex<Control>>,
    stop: std::os::fd::OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("impairment", &lock(&self.control).impairment).finish_non_exhaustive()
    }
}

impl Wire {
    /// Forwards between the devices `far` (towards the host) and `near` (towards the gateway) of `namespace`.
    ///
    /// # Errors
    /// If there is no such device, or the caller lacks `CAP_NET_RAW`.
    pub fn start(namespace: &Namespace, far: &str, near: &str, impairment: Impairment) -> Result<Self> {
        let open = || Self::start_here(far, near, impairment);
        namespace.run(open)?.with_context(|| format!("in {}", namespace.name()))
    }

    /// The same between devices of the network namespace that the calling thread is in.
    ///
    /// # Errors
    /// As [`Wire::start`].
    pub fn start_here(far: &str, near: &str, impairment: Impairment) -> Result<Self> {
        let open =
            |device| PacketSocket::open(device).with_context(|| format!("open a packet socket on {device}"));
        let sockets = [open(far)?, open(near)?];
        let (wake, stop) = pipe_with(PipeFlags::CLOEXEC).context("make a pipe")?;
        let control = Arc::new(Mutex::new(Control {
            impairment,
            filter: None,
            from_host: Counts::default(),
            to_host: Counts::default(),
            failed: None,
        }));
        let shared = Arc::clone(&control);
        let thread = std::thread::Builder::new()
            .name("wire".into())
            .spawn(move || {
                if let Err(error) = forward(&sockets, &wake, &shared) {
                    lock(&shared).failed = Some(error.to_string());
                }
            })
            .context("start a thread")?;
        Ok(Self { control, stop, thread: Some(thread) })
    }

    /// Changes what happens to frames from now on; those under way keep their times. The dice go on.
    pub fn set(&self, impairment: Impairment) {
        lock(&self.control).impairment = impairment;
    }

    /// Asks `filter` about each frame from now on.
    pub fn set_filter(&self, filter: impl FnMut(Direction, &[u8]) -> Fate + Send + 'static) {
        lock(&self.control).filter = Some(Box::new(filter));
    }

    /// Asks nobody any more.
    pub fn clear_filter(&self) {
        lock(&self.control).filter = None;
    }

    /// What was counted so far in a direction.
    ///
    /// # Errors
    /// If the link has broken down.
    pub fn counts(&self, direction: Direction) -> Result<Counts> {
        let control = lock(&self.control);
        if let Some(error) = &control.failed {
            return Err(anyhow!("the link broke down: {error}"));
        }
        Ok(match direction {
            Direction::FromHost => control.from_host,
            Direction::ToHost => control.to_host,
        })
    }

    /// Waits until the link breaks down: for a program that does nothing else.
    ///
    /// # Errors
    /// Always, in the end: the reason.
    pub fn join(mut self) -> Result<()> {
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the link's thread panicked"))?;
        }
        self.counts(Direction::ToHost).map(drop)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Only fails when the thread has gone already.
            let _ = write(&self.stop, &[0]);
            let _ = thread.join();
        }
    }
}

fn lock(control: &Mutex<Control>) -> MutexGuard<'_, Control> {
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies frames until something can be read from `wake`.
fn forward(sockets: &[PacketSocket; 2], wake: &impl AsFd, control: &Mutex<Control>) -> io::Result<()> {
    let seed = lock(control).impairment.seed;
    // What came from socket 0 (the host's) leaves by socket 1, and the other way round.
    let mut schedules = [Schedule::new(seed), Schedule::new(!seed)];
    let directions = [Direction::FromHost, Direction::ToHost];
    let mut buffer = vec![0; LARGEST];
    loop {
        let next = schedules.iter().filter_map(Schedule::next).min();
        let ready = wait(sockets, wake, next)?;
        if ready[2] {
            let _ = read(wake, &mut [0_u8; 1][..]);
            return Ok(());
        }
        for way in 0..2 {
            if ready[way] {
                take_burst(&sockets[way], &mut schedules[way], directions[way], control, &mut buffer)?;
            }
        }
        for way in 0..2 {
            let schedule = &mut schedules[way];
            while let Some(frame) = schedule.due(Instant::now()) {
                if sockets[1 - way].send(&frame)? {
                    schedule.counts.sent += 1;
                } else {
                    schedule.counts.overflowed += 1;
                }
            }
        }
        let mut control = lock(control);
        control.from_host = schedules[0].counts;
        control.to_host = schedules[1].counts;
    }
}

/// Waits for frames, for the next frame's time or for the end. Which of the three descriptors can be read?
fn wait(sockets: &[PacketSocket; 2], wake: &impl AsFd, next: Option<Instant>) -> io::Result<[bool; 3]> {
    let timeout = next.map(|at| {
        let left = at.saturating_duration_since(Instant::now());
        Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
    });
    let mut polled = [
        PollFd::new(&sockets[0], PollFlags::IN),
        PollFd::new(&sockets[1], PollFlags::IN),
        PollFd::new(wake, PollFlags::IN),
    ];
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok([0, 1, 2].map(|index: usize| !polled[index].revents().is_empty()))
}

fn take_burst(
    socket: &PacketSocket,
    schedule: &mut Schedule,
    direction: Direction,
    control: &Mutex<Control>,
    buffer: &mut [u8],
) -> io::Result<()> {
    for _ in 0..BURST {
        let Some(length) = socket.receive(buffer)? else { break };
        let frame = &buffer[..length];
        let mut control = lock(control);
        let fault = match direction {
            Direction::FromHost => control.impairment.from_host,
            Direction::ToHost => control.impairment.to_host,
        };
        let fate = control.filter.as_mut().map_or(Fate::Dice, |filter| filter(direction, frame));
        drop(control);
        schedule.take(frame, &fault, fate, Instant::now());
    }
    Ok(())
}
