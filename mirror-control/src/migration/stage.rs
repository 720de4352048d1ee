//! Where a migration stands, and how that is called.

use serde::{Deserialize, Serialize};

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The shadow is brought level.
    Joining,
    /// Every write goes to both; every read is the primary's, and compared.
    Mirroring,
    /// A share of the reads is the shadow's.
    Shifting,
    /// The last step has held; the cutover may be made.
    Ready,
    /// The cutover is under way.
    CuttingOver,
    /// The shadow has the authority, the primary is kept in step.
    Standby,
    /// The rollback is under way.
    RollingBack,
    /// The primary isn't needed any more.
    Finalized,
    /// The primary has the authority again.
    RolledBack,
    /// Given up, or told to; every read is the primary's.
    Aborted,
}

impl Stage {
    /// All, in the order of their going.
    pub const ALL: [Self; 10] = [
        Self::Joining,
        Self::Mirroring,
        Self::Shifting,
        Self::Ready,
        Self::CuttingOver,
        Self::Standby,
        Self::RollingBack,
        Self::Finalized,
        Self::RolledBack,
        Self::Aborted,
    ];

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Joining => "Joining",
            Stage::Mirroring => "Mirroring",
            Stage::Shifting => "Shifting",
            Stage::Ready => "Ready",
            Stage::CuttingOver => "CuttingOver",
            Stage::Standby => "Standby",
            Stage::RollingBack => "RollingBack",
            Stage::Finalized => "Finalized",
            Stage::RolledBack => "RolledBack",
            Stage::Aborted => "Aborted",
        }
    }

    /// Nothing follows any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Stage::Finalized | Stage::RolledBack | Stage::Aborted)
    }
}
