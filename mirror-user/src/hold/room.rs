//! Room for what is held, and whose turn it is where there isn't enough.
//!
//! What finds no room is deferred: its client's TCP sends it again, after 0.2 s or more, and each time that it must do so it
//! waits twice as long. So a flow that found none once finds more the next time: as much again is kept for those.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::Ends;

/// A flow that found no room is remembered for this long: a far client's TCP tries again after seconds.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Flows that are remembered at most.
const MOST: usize = 65_536;

/// The bytes that are held.
pub(super) struct Room {
    /// Bytes that any flow may fill.
    bytes: usize,
    used: usize,
    /// Flows that found no room, and when.
    refused: HashMap<Ends, Instant>,
}

impl Room {
    /// Room for so many bytes, and for as many again of flows that found none before.
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes, used: 0, refused: HashMap::new() }
    }

    /// Takes room for a flow's frame of so many bytes, if there is any.
    pub(super) fn take(&mut self, ends: Ends, bytes: usize, now: Instant) -> bool {
        let again = self.refused.get(&ends).is_some_and(|at| now - *at < REMEMBERED);
        let bound = if again { 2 * self.bytes } else { self.bytes };
        if self.used + bytes > bound {
            self.remember(ends, now);
            return false;
        }
        self.refused.remove(&ends);
        self.used += bytes;
        true
    }

    /// A frame of so many bytes is held no more.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.used -= bytes;
    }

    fn remember(&mut self, ends: Ends, now: Instant) {
        if self.refused.len() >= MOST {
            self.refused.retain(|_, at| now - *at < REMEMBERED);
        }
        if self.refused.len() < MOST || self.refused.contains_key(&ends) {
            self.refused.insert(ends, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(n: u32) -> Ends {
        let mut ends = [0; 36];
        ends[..4].copy_from_slice(&n.to_ne_bytes());
        ends
    }

    /// T35: two in a row would be 0.6 s, and the next 1.4.
    #[test]
    fn who_found_no_room_finds_some_the_next_time() {
        let now = Instant::now();
        let mut room = Room::new(100);
        assert!(room.take(flow(1), 90, now));
        assert!(!room.take(flow(2), 11, now));
        let later = now + REMEMBERED / 2;
        assert!(!room.take(flow(3), 11, later), "it's this one's first time");
        assert!(room.take(flow(2), 11, later));
        assert!(!room.take(flow(2), 11, later), "it has had its turn");
        assert!(room.take(flow(4), 10, later) || room.used > 100, "no more than others");
        assert!(!room.take(flow(3), 100, later), "all of both is 200");
        assert!(room.take(flow(3), 99, later));
        room.give_back(90);
        room.give_back(11);
        assert!(!room.take(flow(5), 2, later) && room.take(flow(6), 1, later));
    }

    #[test]
    fn who_was_refused_long_ago_is_as_everyone() {
        let now = Instant::now();
        let mut room = Room::new(100);
        assert!(room.take(flow(1), 100, now) && !room.take(flow(2), 1, now));
        assert!(!room.take(flow(2), 1, now + REMEMBERED));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut room = Room::new(0);
        for n in 0..=MOST as u32 {
            assert!(!room.take(flow(n), 1, now));
        }
        assert_eq!(room.refused.len(), MOST);
        assert!(!room.take(flow(MOST as u32 + 1), 1, now + REMEMBERED));
        assert_eq!(room.refused.len(), 1, "those that are over make room");
    }
}
