//! `mirror doctor`: whether this host can run the gateway, and what to type where it can't.
//!
//! [`gather`] looks; what it found is judged by pure functions ([`host`], [`way`]), which tests feed with captured text.

mod gather;
mod host;
mod way;

use std::path::Path;

use serde::Serialize;

use crate::policy::Policy;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Fine.
    Ok,
    /// It works, but not as well as it could, or not for long.
    Warning,
    /// It won't work.
    Failure,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at.
    pub check: String,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to type, or to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Line {
    fn new(check: &str, level: Level, found: impl Into<String>) -> Self {
        Self { check: check.into(), level, found: found.into(), advice: None }
    }

    fn ok(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, found)
    }

    fn warning(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..Self::new(check, Level::Warning, found) }
    }

    fn failure(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..Self::new(check, Level::Failure, found) }
    }
}

/// Looks at the host, and with a policy at all that it names.
pub fn examine(policy: Option<&Policy>, pins: &Path) -> Vec<Line> {
    let mut lines = host::judge(&gather::host(pins));
    if let Some(policy) = policy {
        lines.push(host::memory(policy.flows.get(), policy.has_six(), &gather::read("/proc/meminfo")));
        match gather::way(policy) {
            Ok(facts) => lines.extend(way::judge(policy, &facts)),
            Err(error) => {
                lines.push(Line::failure("network", format!("{error:#}"), "ip addr; ip route"));
            }
        }
    }
    lines
}

/// Fails early, and with what to type, where a capability is missing.
///
/// # Errors
/// When one is.
pub fn need_capabilities() -> anyhow::Result<()> {
    let missing = host::missing(&gather::read("/proc/self/status"));
    anyhow::ensure!(missing.is_empty(), "without {}: {}", missing.join(", "), host::GRANT);
    Ok(())
}

/// The worst of all.
pub fn worst(lines: &[Line]) -> Level {
    let has = |level| lines.iter().any(|line| line.level == level);
    if has(Level::Failure) {
        Level::Failure
    } else if has(Level::Warning) {
        Level::Warning
    } else {
        Level::Ok
    }
}
