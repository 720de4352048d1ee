//! What the datapath tells the daemon of flows and applications.

use super::{MAX_APP_SERVICES, backend};

/// What happened to a flow or an application: 32 bytes of [`super::maps::EVENTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at: u64,
    /// [`EventKind`].
    pub kind: u32,
    /// Index in [`super::maps::APPS`].
    pub app: u32,
    /// The flow's slot and generation.
    pub slot: u32,
    /// See `slot`.
    pub generation: u32,
    /// The side that it is about, where it is about one: bits 0–7; bits 8–15 the server ([`Event::server`]); of a lost leg bits
    /// 16–31 [`Event::answered`].
    pub side: u32,
    /// [`crate::flow::LossReason`] where a leg was lost, with [`crate::flow::LossReason::FAILED`] where its server failed, and
    /// [`crate::flow::LossReason::NEVER_OPEN`] where it never answered a SYN.
    pub reason: u32,
}

impl Event {
    /// The number of the server that it is about, of its service's ([`backend`]).
    pub const fn backend(&self) -> u32 {
        self.side >> 8 & (backend::MAX_BACKENDS as u32 - 1)
    }

    /// The number of the service that it is about ([`super::Service::number`]).
    pub const fn service(&self) -> u32 {
        self.side >> 12 & (MAX_APP_SERVICES as u32 - 1)
    }

    /// How many requests the server has answered on a leg that it closes as its last answer said: 65,535 at most. 0: otherwise.
    pub const fn answered(&self) -> u32 {
        self.side >> 16
    }

    /// The bits that say so.
    #[inline(always)]
    pub const fn with_answered(answered: u32) -> u32 {
        if answered < 1 << 16 { answered << 16 } else { 0xffff << 16 }
    }

    /// The bits that say which server it is.
    #[inline(always)]
    pub const fn server(service: u32, backend: u32) -> u8 {
        (service << 4 | backend & (backend::MAX_BACKENDS as u32 - 1)) as u8
    }
}

/// Kinds of [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// Packets of the flow that are held may go on now.
    Wake = 1,
    /// A leg was lost.
    LegLost = 2,
    /// A leg is open.
    LegOpen = 3,
    /// A side fell out of sync.
    OutOfSync = 4,
    /// A freeze's deadline passed and the datapath ended it.
    Thawed = 5,
    /// No free slot, or no free port.
    TableFull = 6,
    /// No connection lags any more: writes that are held for their order may go on.
    CaughtUp = 7,
}
