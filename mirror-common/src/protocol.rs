//! Framing of the application protocols: where a message ends, and what a request may do.
//!
//! One parser a protocol, for class, request length and answer length alike: two readings of the same bytes
//! would themselves be the smuggling bug. The parsers run over TCP payload as it comes, keep their state in
//! plain records, and are the same code in the kernel and on the host.

pub mod http1;

/// What a request may do, from the gateway's point of view.
///
/// Ordered: the class of several requests in one segment is the highest of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Changes nothing, and its framing is beyond doubt: either side may answer it.
    Read = 1,
    /// May change state, or isn't known not to: both sides get it, the authority answers.
    Write = 2,
    /// Framing that can't be known or must not be trusted: the flow is opaque for its life.
    Session = 3,
}

impl Class {
    /// The class with this number; `None` for 0 (no request) and for anything that is no class.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Read),
            2 => Some(Self::Write),
            3 => Some(Self::Session),
            _ => None,
        }
    }
}

/// The direction of a byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// From the client.
    Request = 0,
    /// From a server.
    Response = 1,
}
