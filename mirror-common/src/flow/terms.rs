//! What a transition needs besides the flow and the segment: the application's shared words, and the service.

use crate::abi::Service;
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

/// The application's shared words, as the datapath reaches them.
///
/// `begin_write` before `word`: a full barrier lies between, so that "no open write" read after a freeze is final.
pub trait Switch {
    /// Counts a write that may begin.
    fn begin_write(&mut self);
    /// Takes it back, or says that it is finished on every member.
    fn end_write(&mut self);
    /// Counts a connection that lags ([`super::Flow::LAGS`]).
    fn begin_lag(&mut self);
    /// Takes it back. Returns whether it was the last one.
    fn end_lag(&mut self) -> bool;
    /// How many lag.
    fn lagging(&mut self) -> u32;
    /// A write waits for its order, at a time in milliseconds.
    fn wait(&mut self, now_ms: u32);
    /// When one did the last time; 0: never.
    fn waited_ms(&mut self) -> u32;
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
