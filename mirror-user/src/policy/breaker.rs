//! When a side that loses leg after leg is mirrored no more: the policy's section `[breaker]`.

use std::time::Duration;

use mirror_control::breaker::BreakerPolicy;
use serde::Deserialize;

use super::duration;

/// When a side that loses leg after leg is mirrored no more, and how it comes back.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// So many legs lost within the window put the side without authority out of sync; 0: none do. Those count whose
    /// server failed: it fell silent, reset in the middle of an answer, or closed without a single one.
    pub lost_legs: u32,
    /// The window.
    #[serde(deserialize_with = "duration")]
    pub window: Duration,
    /// A side that fell out of sync, for whatever reason, is asked by the health check of `[migration]` after this time; twice as
    /// long behind each check that fails, and behind each fall that follows a join soon.
    #[serde(deserialize_with = "duration")]
    pub probe: Duration,
    /// No two health checks are further apart.
    #[serde(deserialize_with = "duration")]
    pub probe_most: Duration,
    /// A side that is well again joins by itself where no migration is under way; that needs a `join_hook`.
    pub rejoin: bool,
}

impl Default for Breaker {
    fn default() -> Self {
        let BreakerPolicy { lost_legs, window, probe, probe_most, rejoin } = BreakerPolicy::default();
        Self { lost_legs, window, probe, probe_most, rejoin }
    }
}

impl Breaker {
    /// What the breakers decide by.
    pub fn policy(&self) -> BreakerPolicy {
        let Self { lost_legs, window, probe, probe_most, rejoin } = *self;
        BreakerPolicy { lost_legs, window, probe, probe_most, rejoin }
    }

    /// What of it makes no sense, if anything; `hooked`: there is a join hook.
    pub fn fault(&self, hooked: bool) -> Option<String> {
        if self.rejoin && !hooked {
            return Some(
                "`rejoin` needs a `join_hook`: without one nothing brings a side level again".into(),
            );
        }
        self.policy().fault()
    }
}
