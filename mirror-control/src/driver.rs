//! Drivers: what brings a shadow up, changes its size and takes it down again. Only what a driver is, and the plan that it
//! carries out; a driver itself reaches the system and lives elsewhere.
//!
//! ```text
//!              plan ──► provision ──► (healthy, describe, scale)* ──► destroy
//!                          │ fails                                       ▲
//!                          └── what it had made is removed               │
//!                    a crash leaves a record: provision goes on, destroy removes
//! ```

mod plan;

use std::{net::SocketAddrV4, time::Duration};

use serde::{Deserialize, Serialize};

pub use plan::{Check, Egress, Group, Link, OwnCopy, Plan, Program, Start, Step, Wanted};

/// How much of the machine an instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of a core.
    pub cpu_millicores: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// A step that was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// What was done, in words.
    pub what: String,
    /// The time that it took, in milliseconds.
    pub ms: f64,
}

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// A crash left it half made, or half removed.
    Unfinished,
    /// It was made, and doesn't run (any more).
    Stopped,
    /// It runs.
    Running,
}

/// An instance as it is found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The application.
    pub app: String,
    /// Name of the driver that made it.
    pub driver: String,
    /// Where it serves.
    pub address: SocketAddrV4,
    /// Where it stands.
    pub standing: Standing,
    /// Its first process, while that runs.
    pub pid: Option<u32>,
    /// The limits that the system has now, read back; `None` while it has none.
    pub limits: Option<Limits>,
    /// Where what it says is kept.
    pub log: String,
}

/// Why something wasn't done, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {advice}")]
pub struct Failure {
    /// What went wrong.
    pub what: String,
    /// What to do.
    pub advice: String,
}

impl Failure {
    /// A failure in words.
    pub fn new(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), advice: advice.into() }
    }
}

/// Brings shadows up and down. A shadow is known by its application's name. Calls for one application don't overlap: a
/// driver refuses the second.
pub trait Driver {
    /// Its name, as plans and policies say it.
    fn name(&self) -> &'static str;

    /// How long capacity takes from the wish to the effect: what a forecast must look ahead.
    fn lead_time(&self) -> Duration;

    /// What would be done for a shadow; nothing is changed.
    ///
    /// # Errors
    /// What can't be had here.
    fn plan(&self, wanted: &Wanted) -> Result<Plan, Failure>;

    /// Carries a plan out, and says each step when it is done. What is there already is left as it is; what a crash left is
    /// completed.
    ///
    /// # Errors
    /// When a step fails: all that was made is removed by then, unless the shadow had been complete before.
    fn provision(&self, plan: &Plan, said: &mut dyn FnMut(&Done)) -> Result<Instance, Failure>;

    /// Changes the limits of a running instance, and returns those that the system then has, read back.
    ///
    /// # Errors
    /// When there is no such instance, or the system refuses: the limits are as before then.
    fn scale(&self, app: &str, limits: Limits) -> Result<Limits, Failure>;

    /// What there is for an application.
    ///
    /// # Errors
    /// When it can't be found out.
    fn describe(&self, app: &str) -> Result<Option<Instance>, Failure>;

    /// Asks the instance itself, once, by its plan's check.
    ///
    /// # Errors
    /// Why it isn't healthy.
    fn healthy(&self, app: &str) -> Result<(), Failure>;

    /// Removes all that there is for an application, what a crash left included. False: there was nothing.
    ///
    /// # Errors
    /// What is still there.
    fn destroy(&self, app: &str, said: &mut dyn FnMut(&Done)) -> Result<bool, Failure>;
}
