//! What one segment leads to: the packets that leave, and what is told of it.

use super::measure::Measured;
use super::sack::Sack;
use crate::verdict::{Action, Verdict};

/// Kinds of [`Emit`].
pub mod emit {
    /// Nothing leaves.
    pub const NONE: u8 = 0;
    /// The packet at hand, its payload, with the numbers given, and the flags given if there are any.
    pub const FORWARD: u8 = 1;
    /// A packet of 40 bytes made from it: no payload, no options, flags as given.
    pub const BARE: u8 = 2;
    /// A SYN or SYN-ACK made from it: `mss`, `permits_sack` and `scale` as options, nothing else. For the packet at hand when
    /// that is a SYN too, and for dials.
    pub const SYN: u8 = 3;
    /// As [`FORWARD`], but of the payload only `mss` bytes, from its byte `skip` on. What is more than one segment is so by its
    /// last byte, behind more than [`LITTLE`]: the kernel takes a packet's first bytes away, and leaves it what it is.
    pub const CUT: u8 = 4;
    /// So few bytes (TCP's header, and what is before it) can't be taken from a super-packet's payload: its checksum is left to a
    /// device that goes by where it was, and would be written among what stays.
    pub const LITTLE: u32 = 34;
    /// The ICMP error at hand, the packet that it quotes with the sequence number given.
    pub const ERROR: u8 = 5;
}

/// A packet that leaves: 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emit {
    /// Sequence number, in the receiver's numbers.
    pub seq: u32,
    /// Acknowledgement number, in the receiver's numbers.
    pub ack: u32,
    /// For a leg: its port ([`crate::abi::nat`]).
    pub port: u32,
    /// Window field.
    pub window: u16,
    /// For [`emit::SYN`]; for [`emit::CUT`] the bytes of payload that stay.
    pub mss: u16,
    /// For [`emit::CUT`]: bytes of payload before those.
    pub skip: u16,
    /// [`emit`].
    pub kind: u8,
    /// [`tcp`] flags, for all but [`emit::FORWARD`], which keeps the packet's own where this is 0.
    pub flags: u8,
    /// For [`emit::SYN`]; [`super::Segment::NO_SCALE`]: no option.
    pub scale: u8,
    /// For [`emit::SYN`]: 1: SACK-permitted is among the options.
    pub permits_sack: u8,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<Emit>() == 24);

impl Emit {
    /// Whether it is the packet at hand with its payload, or a piece of that, and not one made from it.
    #[inline(always)]
    pub fn carries(&self) -> bool {
        self.kind == emit::FORWARD || self.kind == emit::CUT
    }
}

/// What one segment leads to. At most one packet leaves to each end for one that came: two as a rule, three where a leg is ended
/// beside; and a copy may be held.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// By side.
    pub to_leg: [Emit; 2],
    /// To the client.
    pub to_client: Emit,
    /// [`Verdict`] as a number: see [`Step::verdict`].
    pub verdict: u8,
    /// A copy of the packet as it came goes into the TAP.
    pub hold_copy: u8,
    /// [`Step::WAKE`] and others.
    pub events: u8,
    /// 1 + the side that must be dialled: the caller gets a port and calls [`on_dialled`]; 0: none.
    pub dial: u8,
    /// [`LossReason`] of an event that tells of a lost leg.
    pub reason: u8,
    /// The side of the events.
    pub side: u8,
    /// Its server ([`crate::abi::Event::server`]).
    pub server: u8,
    /// What the order over connections asks of the request that begins ([`super::order`]).
    pub order: u8,
    /// Where a server closes its leg, as its last answer said: how many requests it has answered on it. 0: otherwise.
    pub answered: u32,
    /// What the packet's SACK option becomes in those that keep its options: the blocks to one receiver, NOPs to any other.
    pub sack: Sack,
    /// What it had to tell of turns.
    pub measured: Measured,
}

impl Step {
    /// What is held of the flow may go on.
    pub const WAKE: u8 = 1;
    /// A leg was lost.
    pub const LEG_LOST: u8 = 2;
    /// A leg opened.
    pub const LEG_OPEN: u8 = 4;
    /// A side fell out of sync.
    pub const OUT_OF_SYNC: u8 = 8;
    /// A write began that overtakes: while another connection lagged ([`super::Flow::LAGS`]).
    pub const OVERTAKES: u8 = 16;
    /// No connection lags any more, and a write waits for that.
    pub const CAUGHT_UP: u8 = 32;

    /// Ends the step with a verdict.
    #[inline(always)]
    pub fn end(&mut self, verdict: Verdict) {
        self.verdict = verdict as u8;
    }

    /// Whether the packet at hand itself must wait.
    #[inline(always)]
    pub(super) fn held(&self) -> bool {
        matches!(Verdict::from_number(self.verdict).map(Verdict::action), Some(Action::Hold))
    }
}
