//! A client's connection over two legs, in lock-step: every request goes to both, one of them answers.
//!
//! The transition functions take the flow (under its lock) and one segment, change the flow, and say in a [`Step`] which
//! packets leave. They are pure but for [`Switch`], through which they count writes and read the switch word at the one
//! moment at which it is known that a turn begins. They return the verdict's number, which stands in the step too: a kernel
//! subprogram must leave something of its own in the result's register.
//!
//! Client's numbers: leg = client + [`Leg::offset`]. Server's numbers: client's view = leg + [`Flow::delta`], fixed while
//! the leg is the authority.

mod answers;
mod broken_off;
mod client;
mod clock;
mod close;
mod handshake;
mod icmp;
mod leg;
mod loss;
mod measure;
mod offer;
mod order;
mod pressure;
mod redial;
pub mod sack;
mod settled;
mod step;
pub mod tcp;
mod terms;
mod to_leg;
mod turn;

pub use broken_off::incomplete;
pub use client::on_client;
pub use clock::{Due, on_sweep, sweep};
pub use handshake::{Opening, on_client_syn, open};
pub use icmp::{LEAST_MTU, Quote, on_client_error, on_leg_error};
pub use leg::on_leg;
pub use loss::LossReason;
pub use measure::{Compared, Measured, may_compare, outcome, pair, to_sum, unanswered};
pub use redial::{Dialled, on_dialled};
pub use step::{Emit, Step, emit};
pub use terms::{Group, Switch, Terms, Writes};

use crate::abi::Tuple;
use crate::protocol::http1::{Scanner, status::Statuses};
use crate::switch_word::Side;
use sack::Sack;

/// The kernel's own lock type: BTF finds it by this name.
#[allow(non_camel_case_types, reason = "the verifier looks the type up by this name")]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct bpf_spin_lock {
    /// The kernel's.
    pub val: u32,
}

/// How far a stream has been read: 20 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parse {
    /// State within a head; idle at a message's boundary.
    pub scanner: Scanner,
    /// Sequence number of the next byte that must be looked at; what lies before it is body, or has been read.
    pub at: u32,
}

/// States of a [`Leg`].
pub mod leg_state {
    /// The flow has no such leg.
    pub const NONE: u8 = 0;
    /// A SYN was sent; bytes from [`super::Leg::acked`] on are owed.
    pub const DIALLING: u8 = 1;
    /// Established.
    pub const OPEN: u8 = 2;
    /// Gone; bytes from [`super::Leg::acked`] on are owed to the next one.
    pub const DOWN: u8 = 3;
}

/// One side's half of a flow: 76 bytes. Every field is the datapath's, under the flow's lock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leg {
    /// How far the answers have been read.
    pub parse: Parse,
    /// [`leg_state`].
    pub state: u8,
    /// Window scale of the server; 0 without the option.
    pub scale: u8,
    /// [`Leg::FIN`] and others.
    pub flags: u8,
    /// Window scale that the server applies to what we tell it. While it is dialled: what it is offered, the client's or
    /// [`Segment::NO_SCALE`]; then 0 unless both offered one.
    pub told: u8,
    /// The port that the leg comes from ([`crate::abi::nat`]).
    pub port: u32,
    /// Leg's number = client's number + offset.
    pub offset: u32,
    /// What the server has acknowledged, in the client's numbers. While the leg isn't open: of the first byte that it is fed.
    pub acked: u32,
    /// Right edge of the server's window, in the client's numbers.
    pub edge: u32,
    /// What we have acknowledged to the server, in its numbers; the authority's is the client's.
    pub rcv_nxt: u32,
    /// Highest number that the server has sent, its FIN included.
    pub sent_max: u32,
    /// Turns whose answer's end is known, counted like [`Flow::turns`].
    pub answered: u32,
    /// Turns fed to this leg since it was dialled.
    pub fed: u32,
    /// The clock: the client's number that must be acknowledged, ...
    pub mark: u32,
    /// ... the turn that must be answered, ...
    pub mark_turn: u32,
    /// ... since when, in milliseconds; 0: the leg isn't behind.
    pub behind_since: u32,
    /// When the last SYN was sent, in milliseconds.
    pub dialled_ms: u32,
    /// When the server sent the last time, in milliseconds.
    pub heard_ms: u32,
}

impl Leg {
    /// The server's FIN has been seen.
    pub const FIN: u8 = 1;
    /// Where its answer ends is not known: the flow never settles again.
    pub const UNKNOWN: u8 = 2;
    /// An answer said that the connection will be closed.
    pub const CLOSING: u8 = 4;
    /// Its server permits SACK, as it was asked.
    pub const SACK: u8 = 8;
    /// Something of its server's came behind a hole over an answer's head, while nobody heard it, and it hasn't caught up since.
    pub const HOLE: u8 = 16;
    /// Its server's last segment isn't acknowledged yet: the next packet to it brings that.
    pub const OWES_ACK: u8 = 32;

    /// Whether it is in the middle of an answer: of what was read, its server hasn't sent all.
    #[inline(always)]
    pub fn in_answer(&self) -> bool {
        crate::seq::lt(self.sent_max, self.parse.at)
    }

    /// Whether its server waits for an acknowledgement ([`Leg::OWES_ACK`]).
    #[inline(always)]
    pub fn owes_ack(&self) -> bool {
        self.state == leg_state::OPEN && self.flags & Leg::OWES_ACK != 0
    }
}

/// States of a [`Flow`].
pub mod flow_state {
    /// The slot is free.
    pub const FREE: u8 = 0;
    /// The client's SYN was sent on.
    pub const OPENING: u8 = 1;
    /// The client's handshake is done.
    pub const OPEN: u8 = 2;
    /// The client sees it as ended; a leg may still owe an answer.
    pub const ENDED: u8 = 3;
}

/// A client's connection: the value of a slot. Written by the datapath alone, under the lock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Guards all that follows.
    pub lock: bpf_spin_lock,
    /// Which use of the slot this is; raised when it is freed.
    pub generation: u32,
    /// Addresses and ports of the client's segments.
    pub tuple: Tuple,
    /// By what the client is told from others, from whichever port it connects ([`crate::abi::six::who`]): of IPv4 its address.
    pub who: u32,
    /// [`flow_state`].
    pub state: u8,
    /// The [`Side`] that the client hears.
    pub authority: u8,
    /// [`Flow::client_scale`] in the lower half, [`Flow::shown_scale`] in the upper one.
    pub scales: u8,
    /// Since when the leg without authority has held a request back, in units of 256 ms; 0: it doesn't.
    pub pressed_since: u8,
    /// [`Flow::MOVED`] and others.
    pub flags: u32,
    /// The client's first sequence number.
    pub iss: u32,
    /// Behind the client's last byte that was sent on, its FIN included.
    pub client_next: u32,
    /// The acknowledgement shown to the client. Never goes back.
    pub shown: u32,
    /// The right edge shown to the client. Never goes back.
    pub shown_edge: u32,
    /// What the client has acknowledged, in its view.
    pub client_acked: u32,
    /// Behind the last byte that the client was shown, in its view.
    pub view_next: u32,
    /// Client's view = the authority's number + delta.
    pub delta: u32,
    /// First number of the authority that the client is shown; what lies before it was absorbed.
    pub shown_from: u32,
    /// Where the last turn's answer begins, in the client's view.
    pub turn_view: u32,
    /// The client's number at which the last turn began.
    pub turn_begin: u32,
    /// Turns begun.
    pub turns: u32,
    /// Turns begun when the last one that writes had been.
    pub write_turn: u32,
    /// Turns whose request's head is complete.
    pub completed: u32,
    /// What the compared turn asks for, hashed: [`crate::protocol::http1::Target`]; 0: not known.
    pub target: u32,
    /// Print of the blocks that the client was shown last ([`Sack::print`]).
    pub shown_sack: u32,
    /// Zero.
    pub pad: u32,
    /// Bit n modulo [`MAX_OUTSTANDING`](crate::protocol::http1::MAX_OUTSTANDING): the n-th request is a HEAD.
    pub heads: u64,
    /// How far the requests have been read.
    pub parse: Parse,
    /// The client's last window field, unscaled.
    pub client_window: u16,
    /// The segment size that both sides may use, in bytes.
    pub mss: u16,
    /// When the last packet came, in milliseconds.
    pub last_ms: u32,
    /// When the last turn began, in microseconds.
    pub turn_us: u32,
    /// When the flow began, in milliseconds.
    pub opened_ms: u32,
    /// The turn of which both answers are compared, counted like [`Flow::turns`].
    pub compared_turn: u32,
    /// When it began, in microseconds.
    pub compared_us: u32,
    /// How long each side took to its answer's head, in microseconds.
    pub answer_us: [u32; 2],
    /// How long each side's body is, in bytes.
    pub lengths: [u32; 2],
    /// The prefix of what it asks for, hashed; 0: not known.
    pub prefix: u32,
    /// The sums of both bodies, as far as they have come.
    pub body_sums: [u16; 2],
    /// The status that the leg answered with that answered first.
    pub first_status: u16,
    /// [`Writes::begun`] when it began, modulo 65,536.
    pub clock: u16,
    /// With [`Flow::KEPT`]: blocks of the last acknowledgement of one leg, the one that is ahead ([`sack`]), in the client's
    /// numbers.
    pub kept: [[u32; 2]; 3],
    /// By [`Side`].
    pub legs: [Leg; 2],
}

impl Flow {
    /// The client's window scale; 0 without the option.
    #[inline(always)]
    pub const fn client_scale(&self) -> u8 {
        self.scales & 15
    }

    /// The window scale that the client was told; 0 without the option.
    #[inline(always)]
    pub const fn shown_scale(&self) -> u8 {
        self.scales >> 4
    }

    /// The last turn is a read that another side than the switch word's was asked, and its answer hasn't begun.
    pub const MOVED: u32 = 1;
    /// The flow has a counted write that isn't finished.
    pub const COUNTED: u32 = 2;
    /// Requests can't be told apart (any more): both legs, one authority, for life.
    pub const OPAQUE: u32 = 4;
    /// The client has sent its FIN.
    pub const CLIENT_FIN: u32 = 8;
    /// A client's probe was sent on: its answer is shown.
    pub const PROBED: u32 = 16;
    /// A request is held that the flow hasn't taken in: it waits for what segments of either server bring. (A copy for a leg
    /// that is dialled waits for that alone.)
    pub const HELD: u32 = 32;
    /// The authority's leg is lost; the other takes over when it has finished.
    pub const RETURNING: u32 = 64;
    /// The read of the last turn must be asked of the authority again.
    pub const ASK_AGAIN: u32 = 128;
    /// The client's SYN carried a window scale.
    pub const CLIENT_SCALES: u32 = 256;
    /// The last turn began with a write.
    pub const TURN_WRITES: u32 = 512;
    /// The last turn's latency is yet to be counted.
    pub const TIMED: u32 = 1024;
    /// Nothing had come for a while before the segment at hand.
    pub const QUIET: u32 = 2048;
    /// The client has been told of its connection's end once, and has said nothing since.
    pub const TOLD_ONCE: u32 = 4096;
    /// The primary's answer to the compared turn is awaited.
    pub const PRIMARY_COMPARED: u32 = 8192;
    /// The shadow's is.
    pub const SHADOW_COMPARED: u32 = 16384;
    /// Either is.
    pub const COMPARING: u32 = Flow::PRIMARY_COMPARED | Flow::SHADOW_COMPARED;
    /// The compared turn writes.
    pub const COMPARED_WRITES: u32 = 32768;
    /// The client was told that its connection closes: by an answer, or by a FIN. No server does what it sends behind that.
    pub const CLOSING: u32 = 65536;
    /// The primary's answer to the compared turn is being summed.
    pub const PRIMARY_SUMMED: u32 = 1 << 17;
    /// The shadow's is.
    pub const SHADOW_SUMMED: u32 = 1 << 18;
    /// Either is.
    pub const SUMMING: u32 = Flow::PRIMARY_SUMMED | Flow::SHADOW_SUMMED;
    /// The compared turn's bodies can't be compared: a length isn't known, or a part went by uncounted.
    pub const UNSUMMED: u32 = 1 << 19;
    /// A write was under way beside it: what the two sides answered may be of two states.
    pub const DISTURBED: u32 = 1 << 20;
    /// The last request said that no other comes on the connection (RFC 9112, 9.6): each server ends it behind its answer,
    /// and needn't say so.
    pub const LAST_ASKED: u32 = 1 << 21;
    /// The client's SYN permits SACK; and so did the authority's SYN-ACK, where that was shown.
    pub const SACK: u32 = 1 << 22;
    /// [`Flow::kept`] means something.
    pub const KEPT: u32 = 1 << 23;
    /// It is the shadow's.
    pub const KEPT_OF_SHADOW: u32 = 1 << 24;
    /// The client has seen something of an answer that the other side hasn't given yet, while a write is counted. Never without
    /// [`Flow::COUNTED`].
    pub const LAGS: u32 = 1 << 25;
    /// The mirror has given the last request up before it was whole: it is out of sync as soon as that is.
    pub const GIVEN_UP: u32 = 1 << 26;
    /// The last turn is the only one that writes of those that are counted.
    pub const LONE_WRITE: u32 = 1 << 27;

    /// The last turn's authority is the other side than the one that the client hears. That one's leg is behind: what it still
    /// owes of earlier turns is absorbed, and it is heard from the first byte of this turn's answer on. Until then nobody is.
    pub const AHEAD: u32 = 1 << 28;
    /// The last request offers another protocol (RFC 9110, 7.8), and not every leg has answered that: what the client sends next
    /// may be HTTP, or not.
    pub const OFFERED: u32 = 1 << 29;
    /// Every leg has declined such an offer on this connection.
    pub const DECLINED: u32 = 1 << 30;

    /// The leg of a side.
    #[inline(always)]
    pub fn leg(&self, side: Side) -> &Leg {
        &self.legs[side as usize & 1]
    }

    /// The leg of a side.
    #[inline(always)]
    pub fn leg_mut(&mut self, side: Side) -> &mut Leg {
        &mut self.legs[side as usize & 1]
    }

    /// The side that the client hears.
    #[inline(always)]
    pub fn authority(&self) -> Side {
        Side::from_bit(self.authority as u32)
    }

    /// The side whose answer to the last turn is the client's: the one that it hears, or will hear ([`Flow::AHEAD`]).
    #[inline(always)]
    pub fn answerer(&self) -> Side {
        Side::from_bit(u32::from(self.authority) ^ u32::from(self.has(Flow::AHEAD)))
    }

    /// Whether what a side's server sends is shown to the client.
    #[inline(always)]
    pub fn hears(&self, side: Side) -> bool {
        u32::from(self.authority) == side as u32 && !self.has(Flow::RETURNING | Flow::AHEAD)
    }

    /// Whether a flag is set.
    #[inline(always)]
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Sets or clears a flag.
    #[inline(always)]
    pub fn set(&mut self, flag: u32, on: bool) {
        if on { self.flags |= flag } else { self.flags &= !flag }
    }
}

/// What one reading of a segment's payload found; filled before the lock is taken, from [`crate::protocol`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The parser as it was when the payload was read: must still be so under the lock, else the reading is void.
    pub before: Parse,
    /// The parser behind this segment.
    pub after: Parse,
    /// Bit i: the i-th request whose head was completed here is a HEAD.
    pub heads: u64,
    /// [`Flow::completed`] (requests), [`Leg::answered`] (answers) as it was when the payload was read.
    pub base: u32,
    /// Requests begun here.
    pub begun: u32,
    /// Requests whose head was completed here.
    pub completed: u32,
    /// Answers whose end became known here.
    pub answered: u32,
    /// The numbers behind the last of them, and behind the one before; say nothing where there were fewer.
    pub ends: [u32; 2],
    /// Answers by their heads' status.
    pub statuses: Statuses,
    /// Highest class of the requests begun or completed here: [`crate::protocol::Class`] as a number, 0 none.
    pub class: u8,
    /// [`Reading::DONE`] and others.
    pub flags: u8,
    /// Status of the last answer whose head was read here; 0: none.
    pub status: u16,
    /// Status of the first.
    pub first_status: u16,
    /// Answers: the sum of [`Reading::summed`] bytes of body.
    pub sum: u16,
    /// Answers: number of the first byte of the first one's body, ...
    pub body_at: u32,
    /// ... and its length, [`crate::protocol::http1::UNKNOWN_LENGTH`] where it isn't known.
    pub body_length: u32,
    /// Answers: number of the first byte that was summed.
    pub sum_at: u32,
    /// How many were; 0: none.
    pub summed: u32,
    /// Requests: what the first one that begins here asks for, hashed; 0: not known.
    pub target: u32,
    /// The same of its prefix.
    pub prefix: u32,
}

impl Reading {
    /// The payload was read.
    pub const DONE: u8 = 1;
    /// What follows can't be told apart.
    pub const OPAQUE: u8 = 2;
    /// The answer ends with the connection.
    pub const UNTIL_CLOSE: u8 = 4;
    /// Answers: the server said that it will close. Requests: the client said that it asks no more.
    pub const CLOSE: u8 = 8;
    /// In a head: its end hasn't come yet.
    pub const IN_HEAD: u8 = 16;
    /// Answers: one comes behind another by which the server said that it will close.
    pub const BEHIND_CLOSE: u8 = 32;
    /// Requests: the last one that is complete here offers another protocol.
    pub const UPGRADE: u8 = 64;
}

/// One TCP segment as it came in, numbers in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// What its payload says.
    pub reading: Reading,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningless without [`tcp::ACK`].
    pub ack: u32,
    /// Bytes of payload.
    pub payload: u32,
    /// Now, in milliseconds; never 0.
    pub now_ms: u32,
    /// Now, in microseconds.
    pub now_us: u32,
    /// Window field, unscaled.
    pub window: u16,
    /// SYN and SYN-ACK: maximum segment size; 0 without the option.
    pub mss: u16,
    /// [`tcp`] flags.
    pub flags: u8,
    /// SYN and SYN-ACK: window scale; [`Segment::NO_SCALE`] without the option.
    pub scale: u8,
    /// SYN and SYN-ACK: 1 with SACK-permitted.
    pub permits_sack: u8,
    /// Zero.
    pub pad: u8,
    /// The SACK option as it came.
    pub sack: Sack,
}

impl Segment {
    /// No window scale option.
    pub const NO_SCALE: u8 = 0xff;

    /// Whether a flag is set.
    #[inline(always)]
    pub fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The number behind its last byte, SYN and FIN counted.
    #[inline(always)]
    pub fn end(&self) -> u32 {
        let phantom = (self.flags & tcp::FIN != 0) as u32 + (self.flags & tcp::SYN != 0) as u32;
        self.seq.wrapping_add(self.payload).wrapping_add(phantom)
    }
}
