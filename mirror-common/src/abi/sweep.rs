//! What a sweep is asked, and what it finds.

use super::{MAX_APP_SERVICES, backend};

/// What the daemon asks of a run of the sweep program, and what the run found: 2,088 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SweepState {
    /// First slot to visit. Writer: daemon.
    pub first: u32,
    /// Slots to visit. Writer: daemon.
    pub count: u32,
    /// Flows in use among them. Writer: sweep.
    pub live: u32,
    /// Flows with both legs open. Writer: sweep.
    pub two_legs: u32,
    /// Flows that were freed. Writer: sweep.
    pub freed: u32,
    /// Flows with a counted write that isn't finished. Writer: sweep.
    pub open_writes: u32,
    /// Flows for which a packet was queued. Writer: sweep.
    pub queued: u32,
    /// What is ended besides: bits of [`crate::flow::sweep`]. Writer: daemon.
    pub how: u32,
    /// After how long a turn is unanswered, in microseconds. Writer: daemon.
    pub unanswered_us: u32,
    /// Flows whose last turn is ([`crate::flow::unanswered`]). Writer: sweep.
    pub unanswered: u32,
    /// Open legs. Writer: sweep; the daemon empties them.
    pub legs: Legs,
}

/// Open legs by [`super::Service::number`], side and server ([`backend`]).
pub type Legs = [[[u32; backend::MAX_BACKENDS]; 2]; MAX_APP_SERVICES];

const _: () = assert!(size_of::<SweepState>() == 2_088);

#[cfg(feature = "user")]
mod pod {
    #![allow(unsafe_code, reason = "marks plain records as such")]
    // SAFETY: `repr(C)` of integers without padding (asserted above), valid for every bit pattern.
    unsafe impl aya::Pod for super::SweepState {}
}
