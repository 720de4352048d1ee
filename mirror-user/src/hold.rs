//! Keeps held frames by flow, in order, and lets them go: on the datapath's events, when a freeze ends, and now and then.
//! Each is decided anew like a retransmission; what dies here is one that the client sends again.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use aya::maps::{HashMap as BpfHashMap, MapData, RingBuf};
use mirror_common::abi::{Entry, Event, EventKind, Tuple};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{network::Network, state::State};
use room::Room;

mod room;

/// Bytes of the virtio header before each frame.
const VNET: usize = 10;
/// IPv6's number in Ethernet.
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Held frames are tried again after this, event or not.
const AGAIN: Duration = Duration::from_millis(20);
/// How often the TAP is asked what its queue didn't take.
const ASKED: Duration = Duration::from_secs(1);

/// Bounds of what is held.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Frames of one flow.
    pub frames: usize,
    /// Bytes in all; as many again for flows that found no room before.
    pub bytes: usize,
    /// How long.
    pub time: Duration,
}

/// What the holder has counted.
#[derive(Default)]
pub struct Counts {
    /// Frames that came.
    pub held: AtomicU64,
    /// Frames in hand now, and those that are tried.
    pub now: AtomicU64,
    /// Given up: over a bound in number, bytes or time, or the TAP's queue was full.
    pub dropped: AtomicU64,
}

impl Counts {
    /// Frames in hand now or tried, so far, and given up.
    pub fn load(&self) -> [u64; 3] {
        [&self.now, &self.held, &self.dropped].map(|count| count.load(Ordering::Relaxed))
    }
}

struct Held {
    frame: Vec<u8>,
    since: Instant,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Held>,
    slot: u32,
    /// Frames that are on their way through the program. If they come back, their place is still theirs.
    released: Vec<Held>,
    tried: Option<Instant>,
    /// Woken while nothing was in hand: what that was for may still be on its way here.
    woken: bool,
}

impl Queue {
    /// Whether its frames may go on: they were woken, or have waited for a while.
    fn is_due(&mut self, woken: bool, now: Instant) -> bool {
        self.woken |= woken;
        if self.frames.is_empty() {
            return false;
        }
        self.woken || self.tried.is_none_or(|tried| now - tried >= AGAIN)
    }

    /// Its frames, those that are tried among them: whether they come back isn't known yet.
    fn held(&self) -> usize {
        self.frames.len() + self.released.len()
    }

    /// Those that were let go and haven't come back have gone on. Says how many bytes they were.
    fn gone(&mut self) -> usize {
        self.released.drain(..).map(|held| held.frame.len()).sum()
    }
}

/// What the TAP's queue didn't take, as the kernel counts it since the device was made.
struct TapQueue {
    network: Network,
    index: u32,
    dropped: u64,
    asked: Instant,
}

impl TapQueue {
    fn new(network: Network, index: u32) -> Result<Self> {
        let dropped = network.dropped(index)?;
        Ok(Self { network, index, dropped, asked: Instant::now() })
    }

    /// How many frames it dropped since the last time that it was asked; it isn't asked all the time.
    fn dropped(&mut self, now: Instant) -> u64 {
        if now - self.asked < ASKED {
            return 0;
        }
        self.asked = now;
        let dropped = self.network.dropped(self.index).unwrap_or_else(|error| {
            tracing::debug!("what the TAP's queue dropped is counted later: {error:#}");
            self.dropped
        });
        dropped.saturating_sub(std::mem::replace(&mut self.dropped, dropped))
    }
}

/// The holder: one thread.
pub struct Holder {
    tap: File,
    events: RingBuf<MapData>,
    tuples: BpfHashMap<MapData, Tuple, u64>,
    thaw: OwnedFd,
    bounds: Bounds,
    flows: HashMap<Ends, Queue>,
    room: Room,
    tap_queue: TapQueue,
    state: Arc<Mutex<State>>,
    counts: Arc<Counts>,
}

impl Holder {
    /// A holder of what comes to the TAP of that interface index; `thaw` is an eventfd that is written when a freeze has ended.
    ///
    /// # Errors
    /// When the kernel doesn't know the TAP.
    pub fn new(
        (tap, index): (File, u32),
        events: RingBuf<MapData>,
        tuples: BpfHashMap<MapData, Tuple, u64>,
        thaw: OwnedFd,
        bounds: Bounds,
        state: Arc<Mutex<State>>,
        counts: Arc<Counts>,
    ) -> Result<Self> {
        let (room, tap_queue) = (Room::new(bounds.bytes), TapQueue::new(Network::open()?, index)?);
        Ok(Self { tap, events, tuples, thaw, bounds, flows: HashMap::new(), room, tap_queue, state, counts })
    }

    /// Runs until the TAP fails.
    ///
    /// # Errors
    /// When the TAP or the kernel fails.
    pub fn run(mut self) -> Result<()> {
        loop {
            let wait = if self.flows.is_empty() { Duration::from_secs(1) } else { AGAIN / 4 };
            self.wait(wait)?;
            let all = self.thawed();
            let (caught_up, woken) = self.read_events();
            // Behind the events: what they wake came before them.
            self.take_in()?;
            self.let_go(all || caught_up, &woken)?;
            let dropped = self.tap_queue.dropped(Instant::now());
            self.counts.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
    }

    fn wait(&self, time: Duration) -> Result<()> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.tap.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.thaw.as_fd(), PollFlags::IN),
        ];
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a freeze has ended since the last look.
    fn thawed(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&self.thaw, &mut count).is_ok()
    }

    fn take_in(&mut self) -> Result<()> {
        let mut buffer = vec![0; 70_000];
        for _ in 0..4_096 {
            match self.tap.read(&mut buffer) {
                Ok(n) => self.keep(&buffer[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn keep(&mut self, frame: &[u8]) {
        let Some((ends, tuple)) = ends_of(frame) else { return };
        let entry = tuple.and_then(|tuple| self.tuples.get(&tuple, 0).ok());
        let queue = self.flows.entry(ends).or_default();
        queue.slot = entry.map_or(0, |entry| Entry(entry).slot());
        if queue.frames.iter().any(|held| held.frame == frame) {
            return;
        }
        if let Some(at) = queue.released.iter().position(|held| held.frame == frame) {
            queue.frames.push_back(queue.released.remove(at));
            return;
        }
        self.counts.held.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if queue.held() >= self.bounds.frames || !self.room.take(ends, frame.len(), now) {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.frames.push_back(Held { frame: frame.to_vec(), since: now });
    }

    /// Whether no connection lags any more, and the slots of the flows whose frames may go on.
    fn read_events(&mut self) -> (bool, Vec<u32>) {
        let (mut caught_up, mut woken) = (false, Vec::new());
        while let Some(item) = self.events.next() {
            let Some(event) = event_of(&item) else { continue };
            let wakes = [EventKind::Wake as u32, EventKind::LegOpen as u32, EventKind::LegLost as u32];
            if wakes.contains(&event.kind) {
                woken.push(event.slot);
            }
            caught_up |= event.kind == EventKind::CaughtUp as u32;
            if let Ok(mut state) = self.state.lock() {
                state.note(&event);
            }
        }
        (caught_up, woken)
    }

    /// Writes back what may go: every frame of a woken flow; all after a freeze, and when no connection lags any more; and each
    /// that has waited for a while.
    fn let_go(&mut self, all: bool, woken: &[u32]) -> Result<()> {
        let now = Instant::now();
        for queue in self.flows.values_mut() {
            if !queue.is_due(all || woken.contains(&queue.slot), now) {
                continue;
            }
            (queue.tried, queue.woken) = (Some(now), false);
            self.room.give_back(queue.gone());
            for held in queue.frames.drain(..) {
                if now - held.since > self.bounds.time {
                    self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                    self.room.give_back(held.frame.len());
                    continue;
                }
                if let Err(error) = (&self.tap).write(&held.frame) {
                    tracing::debug!("a held frame can't be let go: {error}");
                    self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                }
                queue.released.push(held);
            }
        }
        self.flows.retain(|_, queue| {
            let kept = !queue.frames.is_empty() || queue.tried.is_some_and(|tried| now - tried < 2 * AGAIN);
            if !kept {
                self.room.give_back(queue.gone());
            }
            kept
        });
        let held = self.flows.values().map(|queue| queue.held() as u64).sum();
        self.counts.now.store(held, Ordering::Relaxed);
        Ok(())
    }
}

/// Addresses and ports of a frame as they lie in it; zeros behind those of IPv4.
type Ends = [u8; 36];

/// The ends of a frame behind its virtio header, and what its connection is known by. IPv6 has datagrams alone: in a held segment
/// there are aliases.
fn ends_of(frame: &[u8]) -> Option<(Ends, Option<Tuple>)> {
    let frame = frame.get(VNET..)?;
    if frame.get(12..14)? == IPV6 {
        return Some((frame.get(22..58)?.try_into().ok()?, None));
    }
    let bytes = frame.get(26..38)?;
    let mut ends = [0; 36];
    ends[..12].copy_from_slice(bytes);
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    Some((ends, Some(Tuple { saddr: word(0)?, daddr: word(4)?, sport: half(8)?, dport: half(10)? })))
}

fn event_of(bytes: &[u8]) -> Option<Event> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let at = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
    Some(Event {
        at,
        kind: word(8)?,
        app: word(12)?,
        slot: word(16)?,
        generation: word(20)?,
        side: word(24)?,
        reason: word(28)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 20 ms a status was read between the two, that said that nothing is held.
    #[test]
    fn a_frame_that_is_tried_is_held_until_it_has_not_come_back() {
        let mut queue = Queue::default();
        queue.frames.push_back(Held { frame: vec![1, 2], since: Instant::now() });
        assert_eq!(queue.held(), 1);
        queue.released.extend(queue.frames.drain(..));
        assert_eq!(queue.held(), 1);
        assert_eq!((queue.gone(), queue.held()), (2, 0));
    }

    /// What wakes a frame may be faster than the frame: it was tried again only when its time had come.
    #[test]
    fn a_frame_that_comes_behind_what_wakes_it_goes_on_at_once() {
        let now = Instant::now();
        let held = || Held { frame: vec![1], since: now };
        let mut queue = Queue { tried: Some(now), ..Queue::default() };
        queue.frames.push_back(held());
        assert!(!queue.is_due(false, now), "it was tried just now");
        assert!(queue.is_due(false, now + AGAIN));
        queue.frames.clear();
        assert!(!queue.is_due(true, now), "nothing is in hand");
        queue.frames.push_back(held());
        assert!(queue.is_due(false, now));
    }
}
