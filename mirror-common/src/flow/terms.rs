//! What a transition needs besides the flow and the segment: the application's shared words, and the service.

use crate::abi::{LAGS, Service};
use crate::switch_word::{Side, SwitchWord};

/// An application's writes: between two readings with the same number begun, of which the first has none open, no write was
/// under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Begun so far, modulo 2^32.
    pub begun: u32,
    /// Begun and not finished on every member.
    pub open: u32,
}

/// Connections among which order is kept: one client's, or all of the application's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group(u32);

impl Group {
    /// All.
    pub const ALL: Self = Self(0);

    /// Those of a client ([`super::Flow::who`]), and of the few that share its element.
    #[inline(always)]
    #[must_use]
    pub const fn client(who: u32) -> Self {
        // Fibonacci hashing: addresses of one network differ in their last bytes. Odd: never all.
        Self(who.wrapping_mul(0x9e37_79b1) >> (32 - LAGS.trailing_zeros()) | 1)
    }

    /// Its element of [`crate::abi::AppWords::lags`].
    #[inline(always)]
    #[must_use]
    pub const fn element(self) -> usize {
        self.0 as usize & (LAGS as usize - 1)
    }

    /// The group within which a service's requests keep their order. Without a branch, as the kernel's verifier follows each.
    #[inline(always)]
    pub(super) const fn of(service: &Service, client: Group) -> Self {
        Self(client.0 * ((service.flags / Service::ORDERED_BY_CLIENT) & 1))
    }

    /// Of two numbers, a client's and all of them, this group's: one of the two that were counted.
    #[inline(always)]
    #[must_use]
    pub const fn pick(self, client: u64, all: u64) -> u64 {
        let mine = (self.0 & 1) as u64;
        client * mine + all * (1 - mine)
    }
}

/// The application's shared words, as the datapath reaches them.
///
/// `begin_write` before `word`: a full barrier lies between, so that "no open write" read after a freeze is final.
pub trait Switch {
    /// Counts a write that may begin.
    fn begin_write(&mut self);
    /// Takes it back, or says that it is finished on every member.
    fn end_write(&mut self);
    /// Counts a connection of a client's that lags ([`super::Flow::LAGS`]).
    fn begin_lag(&mut self, client: Group);
    /// Takes it back. Returns whether it was the last one of a group.
    fn end_lag(&mut self, client: Group, of: Group) -> bool;
    /// How many of a group lag.
    fn lagging(&mut self, of: Group) -> u32;
    /// A request waits for its order in a group, at a time in milliseconds.
    fn wait(&mut self, of: Group, now_ms: u32);
    /// When one did the last time; 0: never.
    fn waited_ms(&mut self, of: Group) -> u32;
    /// The switch word; a freeze whose deadline has passed is ended first.
    fn word(&mut self) -> SwitchWord;
    /// The application's writes.
    fn writes(&mut self) -> Writes;
    /// A write's outcome at the authority isn't known, and the mirror does it.
    fn doubt(&mut self);
    /// Whether there was a [`Switch::doubt`] since the last move.
    fn in_doubt(&mut self) -> bool;
    /// Swaps the word to one without `side` among the members, if it is one and hasn't the authority. Returns whether it did.
    fn out_of_sync(&mut self, side: Side) -> bool;
}

/// What a transition needs besides the flow and the segment.
pub struct Terms<'a, S: Switch> {
    /// The application's words.
    pub switch: S,
    /// The service.
    pub service: &'a Service,
    /// Now, in milliseconds; never 0.
    pub now_ms: u32,
}
