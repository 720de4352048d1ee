//! Migrations by themselves over the control socket.

use mirror_control::{
    appointment::Appointment,
    journal::Entry,
    migration::{Command, Plan},
    precondition::Precondition,
};
use serde::{Deserialize, Serialize};

use super::forecast::Scaling;

/// How a migration stands: in `/status` and the answer of `/migration`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MigrationStatus {
    /// Where it stands.
    pub stage: String,
    /// Why it went there, or what it waits for.
    pub why: String,
    /// Nothing follows any more.
    pub over: bool,
    /// Share of the reads that it wants the shadow to answer, in percent.
    pub weight: f64,
    /// Its steps, in percent.
    pub steps: Vec<f64>,
    /// Steps back so far.
    pub steps_back: u32,
    /// Who paused it.
    pub paused_by: Option<String>,
    /// What is shown of errors, latency and divergence at this step.
    pub evidence: Vec<String>,
    /// Seconds of standby that are left.
    pub standby_seconds: Option<f64>,
}

/// Body of `/migrate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MigrateRequest {
    /// Application.
    pub app: String,
    /// Only says what would be decided by.
    #[serde(default)]
    pub dry_run: bool,
}

/// Body of `/migration/ask`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AskRequest {
    /// Application.
    pub app: String,
    /// What.
    pub command: Command,
}

/// Answer of `/migrate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Migrating {
    /// It has begun.
    pub begun: bool,
    /// What it decides by, to its end.
    pub plan: Plan,
}

/// Answer of `/migration` and of `/migration/ask`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Migrated {
    /// Nothing where there was no migration yet.
    pub migration: Option<MigrationStatus>,
    /// How the shadow is scaled, and whether both sides are large enough.
    #[serde(default)]
    pub scaling: Scaling,
}

/// Body of `/cutover/order`: a cutover in a window of time. Times are milliseconds since 1970, UTC.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderRequest {
    /// Application.
    pub app: String,
    /// Not before.
    pub at_ms: u64,
    /// Before that, or not at all.
    pub until_ms: u64,
    /// Only as a step of the migration under way.
    #[serde(default)]
    pub when_ready: bool,
    /// Preconditions that it is made without; with a migration under way there are none.
    #[serde(default)]
    pub despite: Vec<Precondition>,
}

/// Body of `/cutover/cancel`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancelRequest {
    /// Application.
    pub app: String,
}

/// A cutover that is ordered: in `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderStatus {
    /// What was ordered.
    #[serde(flatten)]
    pub order: Appointment,
    /// Its time has come: it is made as soon as it can be.
    pub open: bool,
}

/// Answer of `/cutover/order` and `/cutover/cancel`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ordered {
    /// What is ordered now, if anything.
    pub ordered: Option<OrderStatus>,
}

/// What is asked of `/history`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryRequest {
    /// Application.
    pub app: String,
    /// Entries at most.
    pub limit: usize,
}

/// Answer of `/history`: lines of the journal, the newest last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    /// Them.
    pub entries: Vec<Entry>,
}
