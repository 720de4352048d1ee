//! The one parser of HTTP/1.x heads and message lengths (RFC 9112).
//!
//! It takes a connection's bytes in any pieces and says, for requests, what each may do ([`Class`]) and where
//! it ends; for responses, which are final, which carry a body and where that ends. Bodies of known length
//! are jumped over by arithmetic and never looked at.
//!
//! # One reading
//! Where the RFC and common servers differ, or servers among themselves, the parser doesn't choose: the
//! message is [`Class::Session`], and the flow opaque for its life. A laxer reading than a server's would be
//! a way to smuggle a request past the gateway. So lines end in CRLF alone, a name touches its colon, nothing
//! is folded, a length is said once and in digits.
//!
//! # In the kernel
//! The caller keeps a [`Scanner`] (16 bytes) a stream, and works on a [`Walk`] in memory that it doesn't
//! share: [`Walk::begin`], then as long as [`Walk::wants`] says so, load the window or [`Walk::step`], then
//! read the results. A step is short and its state is in the walk, not on the stack, so that a verifier,
//! which follows each state that it can tell apart, follows it once. On the host `Walk::read` is the whole
//! loop.
//!
//! ```
//! use mirror_common::protocol::{Class, Kind, http1::{Scanner, Walk}};
//!
//! let mut walk = Walk::new();
//! let mut saved = Scanner::default();
//! walk.read(Kind::Request, &saved, 0, b"POST /a HTTP/1.1\r\ncontent-le", 0);
//! assert!(walk.in_head());
//! saved = walk.scanner();
//! walk.read(Kind::Request, &saved, 0, b"ngth: 1000\r\n\r\nabc", 0);
//! assert_eq!((walk.completed, walk.class(), walk.rest()), (1, Some(Class::Write), 997));
//! ```

use super::{Class, Kind};
use status::Statuses;
use table::{is_boundary, is_final, is_head, state};

mod ends;
pub mod status;
mod step;
mod swar;
mod table;
mod target;

pub use target::{PREFIX_BYTES, TARGET_BYTES, Target};

/// Bytes of a payload that are in view at once. A power of two.
pub const WINDOW: u32 = 1024;
const WINDOW_WORDS: usize = WINDOW as usize / 8;

/// Bodies and chunks are shorter than this, in bytes: a message with a longer one is opaque, so that the sum
/// of a body's end and a window never wraps in sequence arithmetic.
pub const MAX_LENGTH: u32 = 1 << 30;

/// In place of a body's length: it is chunked, or ends with the connection.
pub const UNKNOWN_LENGTH: u32 = u32::MAX;

/// The longest head, or chunk line with its trailers, in bytes; above, the message is opaque.
pub const MAX_HEAD: u16 = 16 * 1024;

/// The most requests that may begin in one segment; with more the flow is opaque.
pub const MAX_REQUESTS: u32 = 16;

/// As many outstanding requests as it is known of each whether it is a HEAD: the answer to one has no body
/// whatever its length says (RFC 9110, 9.3.2). Where none of them is, any number may be outstanding.
pub const MAX_OUTSTANDING: u32 = u64::BITS;

/// What is known of a message whose head is under way, a bit each.
mod flag {
    /// The method is GET or HEAD.
    pub(super) const READ: u16 = 1 << 0;
    pub(super) const HEAD: u16 = 1 << 1;
    /// Something in the head makes it no plain read.
    pub(super) const ODD: u16 = 1 << 2;
    /// Content-Length was there.
    pub(super) const LENGTH: u16 = 1 << 3;
    /// Transfer-Encoding was there.
    pub(super) const CODED: u16 = 1 << 4;
    /// HTTP/1.0.
    pub(super) const OLD: u16 = 1 << 5;
    pub(super) const CLOSE: u16 = 1 << 6;
    pub(super) const KEEP_ALIVE: u16 = 1 << 7;
    /// Upgrade was there.
    pub(super) const UPGRADE: u16 = 1 << 8;
}

/// What is kept of a stream between its segments.
///
/// All zero before the first byte of a message. A body of known length isn't in it: the caller turns
/// [`Walk::rest`] into the sequence number from which the stream is to be read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Scanner {
    /// Row of the transition table.
    state: u8,
    /// Bytes of the word under way, and whether one was an underscore.
    position: u8,
    /// See `flag`.
    flags: u16,
    /// Words that the one under way may still be.
    candidates: u16,
    /// Bytes of the head, or of the chunk line, so far.
    head_bytes: u16,
    /// Content-Length, or the chunk's size, so far.
    length: u32,
    status: u16,
    spare: u16,
}

const _: () = assert!(size_of::<Scanner>() == 16);

impl Scanner {
    /// Goes back to a message's boundary. The zero is hidden from the compiler: where constants are written, the kernel's
    /// verifier follows what comes behind by itself, a third more in all.
    #[inline(always)]
    pub fn reset(&mut self) {
        let zero = core::hint::black_box(0_u32);
        (self.state, self.position, self.flags, self.candidates) =
            (zero as u8, zero as u8, zero as u16, zero as u16);
        (self.head_bytes, self.length, self.status, self.spare) =
            (zero as u16, zero, zero as u16, zero as u16);
    }

    /// A request's end isn't known any more: until it is answered nothing is read. The state is hidden from the compiler, as
    /// in [`Scanner::reset`].
    #[inline(always)]
    pub fn lose_end(&mut self) {
        self.reset();
        self.state = core::hint::black_box(state::UNTIL_CLOSE);
    }

    /// A stream that is never read (again), such as one taken up in its middle.
    pub const OPAQUE: Self = Self {
        state: state::OPAQUE,
        position: 0,
        flags: 0,
        candidates: 0,
        head_bytes: 0,
        length: 0,
        status: 0,
        spare: 0,
    };

    /// Whether the next byte (behind a body of known length) is the first of a message.
    #[must_use]
    pub const fn is_boundary(&self) -> bool {
        is_boundary(self.state)
    }

    /// Whether the stream's framing is lost, for good.
    #[must_use]
    pub const fn is_opaque(&self) -> bool {
        self.state == state::OPAQUE
    }

    /// Whether a head has begun and not ended.
    #[must_use]
    pub const fn in_head(&self) -> bool {
        is_head(self.state)
    }

    /// Whether a chunked body has begun and not ended.
    #[must_use]
    pub const fn in_chunks(&self) -> bool {
        !is_boundary(self.state) && !is_final(self.state) && !is_head(self.state)
    }

    /// Whether the answer under way ends with its connection; or the request with its answer.
    #[must_use]
    pub const fn until_close(&self) -> bool {
        self.state == state::UNTIL_CLOSE
    }
}

/// What a walk needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Want {
    /// Nothing: the results stand.
    Done = 0,
    /// [`Walk::ahead`] bytes of the payload from [`Walk::at`] on in [`Walk::window`], and then [`Walk::loaded`].
    Window = 1,
    /// A call of [`Walk::step`].
    Step = 2,
}

/// The reading of one segment: its place, and what was found.
///
/// Counts are of this segment alone. `completed` and the like count *heads*: a message whose head is complete
/// has a known end (except a chunked one), which may lie beyond the segment.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Walk {
    /// The payload's bytes from `window_at` on, in memory order.
    pub window: [u64; WINDOW_WORDS],
    /// Requests only: bit i set, the i-th completed here is a HEAD.
    pub heads: u64,
    /// Responses only: see [`Walk::begin`].
    head_requests: u64,
    /// Offset of the window in the payload, in bytes.
    window_at: u32,
    /// Bytes in the window, at most [`WINDOW`].
    window_len: u32,
    /// Offset in the payload of the next byte to be read, in bytes; beyond its end when a body is.
    pub at: u32,
    payload_len: u32,
    scanner: Scanner,
    /// [`Kind`], as a number.
    kind: u32,
    /// Requests whose first byte is in this segment.
    pub begun: u32,
    /// Requests whose head ends in it.
    pub completed: u32,
    /// Offset in the payload of the first request that begins here; says nothing when none does.
    pub first_begin: u32,
    /// The same of the last one.
    pub last_begin: u32,
    /// The highest class of the completed ones, as a number.
    completed_class: u32,
    /// Final answers whose end became known here: with their head where they have no body or a known length,
    /// with the last byte where they are chunked. An answer that ends with the connection isn't counted.
    pub answered: u32,
    /// Offsets in the payload behind the last of those, and behind the one before; say nothing where there were fewer.
    pub ends: [u32; 2],
    /// Interim answers (1xx).
    pub interim: u32,
    /// Statuses of the first and the last final answer whose head ends here; 0: there was none.
    pub first_status: u16,
    /// See `first_status`.
    pub last_status: u16,
    /// Offset in the payload behind the head of the answer that `first_status` is of.
    pub first_body: u32,
    /// Bytes of its body; [`UNKNOWN_LENGTH`] where its head doesn't say.
    pub first_length: u32,
    /// Answers by their heads' status.
    pub statuses: Statuses,
    /// 1 when the server said, in a final answer, that it will close the connection; or the client, in the last request that
    /// is complete here, that it asks no more on it.
    pub close: u32,
    /// 1 when a final answer's head ends here behind one of the same server's that said so here.
    pub behind_close: u32,
    /// Requests: bit 0, the last one that is complete here offers another protocol (RFC 9110, 7.8); bit 1, one begins here behind
    /// one that does: what follows is HTTP only if the server declines. Bits, for the kernel's verifier follows each branch.
    pub upgrade: u32,
}

impl Default for Walk {
    fn default() -> Self {
        Self::new()
    }
}

impl Walk {
    /// A walk that has read nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            window: [0; WINDOW_WORDS],
            heads: 0,
            head_requests: 0,
            window_at: 0,
            window_len: 0,
            at: 0,
            payload_len: 0,
            scanner: Scanner { state: state::START, ..Scanner::OPAQUE },
            kind: Kind::Request as u32,
            begun: 0,
            completed: 0,
            first_begin: 0,
            last_begin: 0,
            completed_class: 0,
            answered: 0,
            ends: [0; 2],
            interim: 0,
            first_status: 0,
            last_status: 0,
            first_body: 0,
            first_length: 0,
            statuses: Statuses(0),
            close: 0,
            behind_close: 0,
            upgrade: 0,
        }
    }

    /// Begins the reading of a segment of `payload_len` bytes, of which the first `skip` are body of the
    /// message under way, or read already.
    ///
    /// `scanner` is what the stream's last segment left. `head_requests` (responses only) has bit i modulo
    /// [`MAX_OUTSTANDING`] set when the i-th outstanding request, counted from the oldest that isn't answered,
    /// is a HEAD.
    #[inline(always)]
    pub fn begin(&mut self, kind: Kind, scanner: &Scanner, skip: u32, payload_len: u32, head_requests: u64) {
        self.scanner = *scanner;
        if is_boundary(scanner.state) {
            self.scanner.state = start_of(kind as u32);
        }
        self.kind = kind as u32;
        self.at = skip;
        self.payload_len = payload_len;
        self.window_at = 0;
        self.window_len = 0;
        self.heads = 0;
        self.head_requests = head_requests;
        self.begun = 0;
        self.completed = 0;
        self.first_begin = 0;
        self.last_begin = 0;
        self.completed_class = 0;
        self.answered = 0;
        self.ends = [0; 2];
        self.interim = 0;
        self.first_status = 0;
        self.last_status = 0;
        self.first_body = 0;
        self.first_length = 0;
        self.statuses = Statuses(0);
        self.close = 0;
        self.behind_close = 0;
        self.upgrade = 0;
    }

    /// What the walk needs next.
    #[inline(always)]
    #[must_use]
    pub fn wants(&self) -> Want {
        if is_final(self.scanner.state) || self.at >= self.payload_len {
            Want::Done
        } else if self.at.wrapping_sub(self.window_at) < self.window_len {
            Want::Step
        } else {
            Want::Window
        }
    }

    /// Bytes that the window is to be loaded with: of the payload from `at` on, 1 to [`WINDOW`] where
    /// [`Walk::wants`] says [`Want::Window`].
    #[inline(always)]
    #[must_use]
    pub fn ahead(&self) -> u32 {
        self.payload_len.saturating_sub(self.at).min(WINDOW)
    }

    /// Notes that the window holds `bytes` bytes of the payload from `at` on.
    #[inline(always)]
    pub fn loaded(&mut self, bytes: u32) {
        self.window_at = self.at;
        self.window_len = bytes;
    }

    /// What the stream's next segment is to begin with.
    #[inline(always)]
    #[must_use]
    pub fn scanner(&self) -> Scanner {
        let at = self.scanner.state;
        if is_boundary(at) {
            Scanner { state: state::START, ..Scanner::OPAQUE }
        } else if is_final(at) {
            Scanner { state: at, ..Scanner::OPAQUE }
        } else {
            self.scanner
        }
    }

    /// Bytes beyond this segment's end that needn't be read: the rest of the last message's body, or of its
    /// chunk.
    #[inline(always)]
    #[must_use]
    pub fn rest(&self) -> u32 {
        self.at.saturating_sub(self.payload_len)
    }

    /// Whether the segment ends within a head (one byte of it at least was seen).
    #[inline(always)]
    #[must_use]
    pub fn in_head(&self) -> bool {
        self.scanner.in_head()
    }

    /// Whether the segment ends exactly between two messages.
    #[inline(always)]
    #[must_use]
    pub fn idle(&self) -> bool {
        self.scanner.is_boundary() && self.at <= self.payload_len
    }

    /// Whether the stream's framing is lost, for good.
    #[inline(always)]
    #[must_use]
    pub fn opaque(&self) -> bool {
        self.scanner.is_opaque()
    }

    /// Whether what follows can't be told apart: the framing is lost, or a request begins here behind an offer of another
    /// protocol.
    #[inline(always)]
    #[must_use]
    pub fn lost(&self) -> bool {
        self.opaque() || self.upgrade & 2 != 0
    }

    /// Whether the last request that is complete here offers another protocol.
    #[inline(always)]
    #[must_use]
    pub fn offers(&self) -> bool {
        self.upgrade & 1 != 0
    }

    /// Whether the answer under way ends with its connection.
    #[inline(always)]
    #[must_use]
    pub fn until_close(&self) -> bool {
        self.scanner.until_close()
    }

    /// Requests: the highest class of those that begin or complete here, as [`Class::from_number`] reads it.
    ///
    /// A head that isn't complete counts as a write: what it will be isn't known.
    #[inline(always)]
    #[must_use]
    pub fn class_number(&self) -> u8 {
        if self.lost() {
            Class::Session as u8
        } else if self.in_head() {
            (self.completed_class as u8).max(Class::Write as u8)
        } else {
            self.completed_class as u8
        }
    }

    /// [`Walk::class_number`] as a class; `None`: no request begins or completes here.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        Class::from_number(self.class_number())
    }

    /// The direction that is read.
    #[inline(always)]
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.kind == Kind::Response as u32 { Kind::Response } else { Kind::Request }
    }

    /// The framing can't be known or trusted: the walk ends, and no segment of the stream is read again.
    #[inline(always)]
    fn lose(&mut self) {
        self.scanner.state = state::OPAQUE;
    }
}

/// The state before the first byte of a message of this kind.
#[inline(always)]
const fn start_of(kind: u32) -> u8 {
    if kind == Kind::Response as u32 { state::RESPONSE_START } else { state::START }
}

#[cfg(not(target_arch = "bpf"))]
impl Walk {
    /// Reads a whole segment: the loop that the kernel's programs write down themselves. Arguments as of
    /// [`Walk::begin`]. Returns the steps that it took, fewer than the payload has bytes.
    ///
    /// A payload of 4 GiB and more is cut.
    pub fn read(
        &mut self,
        kind: Kind,
        scanner: &Scanner,
        skip: u32,
        payload: &[u8],
        head_requests: u64,
    ) -> u32 {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.begin(kind, scanner, skip, length, head_requests);
        let mut steps = 0;
        loop {
            match self.wants() {
                Want::Done => return steps,
                Want::Window => self.load(payload),
                Want::Step => {
                    self.step();
                    steps += 1;
                }
            }
        }
    }

    /// Fills the window from `at` on.
    fn load(&mut self, payload: &[u8]) {
        let ahead = payload.get(self.at as usize..).unwrap_or_default();
        let ahead = ahead.get(..WINDOW as usize).unwrap_or(ahead);
        for (word, bytes) in self.window.iter_mut().zip(ahead.chunks(8)) {
            // What lies behind the last byte stays, as it does where the kernel copies.
            let mut whole = word.to_ne_bytes();
            for (to, from) in whole.iter_mut().zip(bytes) {
                *to = *from;
            }
            *word = u64::from_ne_bytes(whole);
        }
        self.loaded(ahead.len() as u32);
    }
}
