//! A client that breaks its request off in the middle.

use fastrand::Rng;

use super::{Client, Kind, Packet, Settings};

/// How it does that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// By a RST.
    Reset,
    /// By a FIN.
    Close,
    /// Its machine dies.
    Vanish,
}

/// A request that is going to be broken off.
#[derive(Clone, Copy, Debug)]
pub(super) struct BreakOff {
    /// When, in microseconds.
    pub(super) at: u64,
    how: How,
}

/// What is sent of a request that will be broken off: at least a byte, and not all. `None`: it will not.
/// `alone`: nothing else was asked.
pub(super) fn plan(
    bytes: usize,
    alone: bool,
    now: u64,
    settings: &Settings,
    rng: &mut Rng,
) -> Option<(usize, BreakOff)> {
    if rng.u32(..100) >= settings.broken_off {
        return None;
    }
    let how = match rng.u32(..8) {
        // With answers unacknowledged its connection would live for as long as a server sends them again.
        0 if alone => How::Vanish,
        1..4 => How::Close,
        _ => How::Reset,
    };
    let gap = [1, 2_000, 300_000][rng.usize(..3)];
    Some((rng.usize(1..bytes), BreakOff { at: now + rng.u64(..gap), how }))
}

impl Client {
    /// Whether its machine knows nothing any more of the connection from a port, and says nothing of it.
    pub fn has_vanished(&self, port: u16) -> bool {
        let current = self.tcp.as_ref().is_some_and(|tcp| tcp.out.sport == port);
        self.vanished.contains(&port) && !current
    }

    /// Breaks the connection off, if it is time to. What was asked before may be done or not; the request that isn't whole never
    /// is. All of it is asked again on another connection.
    pub(super) fn break_off(&mut self, now: u64, to: &mut Vec<Packet>) {
        let Some(broken) = self.broken_off.take_if(|broken| broken.at <= now) else { return };
        let Some(tcp) = &mut self.tcp else { return };
        match broken.how {
            How::Reset => tcp.abort(to),
            How::Close => tcp.close(now, to),
            How::Vanish => self.vanished.push(tcp.out.sport),
        }
        if broken.how == How::Vanish {
            (self.tcp, self.input) = (None, Vec::new());
        } else {
            self.leave(now);
        }
        let whole = self.waiting.len().saturating_sub(1);
        let appends = self.waiting.iter().take(whole).filter(|w| w.request.kind == Kind::Append);
        self.unsure.insert(self.key, appends.map(|w| w.request.id).collect());
        self.again.append(&mut self.waiting);
    }
}
