//! How a migration goes by itself: the policy's section `[migration]`.

use std::time::Duration;

use mirror_control::{
    driver::Check,
    evidence::JudgePolicy,
    migration::{MovePolicy, Plan},
    throughput::ThroughputPolicy,
    weight::WeightPolicy,
};
use serde::Deserialize;

use super::{Protocol, Service, duration, process::Health};

/// Steps, times and bounds of a migration by itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Migration {
    /// Shares of the reads, in percent, rising.
    pub steps: Vec<f64>,
    /// Least time at a step.
    #[serde(deserialize_with = "duration")]
    pub dwell: Duration,
    /// Least time of comparing before the first read moves.
    #[serde(deserialize_with = "duration")]
    pub dark: Duration,
    /// After a step back the share isn't raised for so long.
    #[serde(deserialize_with = "duration")]
    pub cool_down: Duration,
    /// Steps back, joins and cutovers that may fail before an operator has to look, each.
    pub attempts: u32,
    /// Time between two attempts at a move.
    #[serde(deserialize_with = "duration")]
    pub retry: Duration,
    /// Who makes the cutover once all is ready.
    pub cutover: Cutover,
    /// How long the primary stays in standby behind the cutover.
    #[serde(deserialize_with = "duration")]
    pub standby: Duration,
    /// How long the new authority's health checks may fail before traffic rolls back.
    #[serde(deserialize_with = "duration")]
    pub unhealthy: Duration,
    /// Whether a primary that is out of sync takes over all the same when the new authority is dead and itself is well: what
    /// only the dead one has is lost. Said aloud where it happens.
    pub availability_first: bool,
    /// Path of the health check, by GET, of services that have no `health` of their own, and in `[[services]]` no UDP at their
    /// first port; without it a DNS query is one where the service's first port has such datagrams, and elsewhere a TCP
    /// connection.
    pub health: Option<String>,
    /// Share of the compared answers that may differ, in percent: below it has to be shown for each step and the cutover, and
    /// the share goes back where a fifth of it is shown to be passed. Without it the two numbers of `[migration.judge]` hold.
    pub max_divergence: Option<f64>,
    /// What the shadow may be worse by, and how sure one must be (docs/STATISTICS.md).
    pub judge: JudgePolicy,
    /// From when on the new authority's answers are too few, and traffic rolls back (docs/STATISTICS.md).
    pub throughput: ThroughputPolicy,
}

/// Who makes the cutover.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Cutover {
    /// `mirror cutover APP`.
    #[default]
    Ask,
    /// The daemon, as soon as the last step has held.
    Auto,
}

impl Default for Migration {
    fn default() -> Self {
        let seconds = Duration::from_secs_f64;
        let (weight, moves) = (WeightPolicy::default(), MovePolicy::default());
        Self {
            steps: weight.steps.iter().map(|step| f64::from(*step) / 100.0).collect(),
            dwell: seconds(weight.dwell_seconds),
            dark: seconds(weight.dark_seconds),
            cool_down: seconds(weight.cool_down_seconds),
            attempts: moves.attempts,
            retry: seconds(moves.retry_seconds),
            cutover: Cutover::default(),
            standby: seconds(moves.standby_seconds),
            unhealthy: seconds(moves.unhealthy_seconds),
            availability_first: moves.availability_first,
            health: None,
            max_divergence: None,
            judge: JudgePolicy::default(),
            throughput: ThroughputPolicy::default(),
        }
    }
}

impl Migration {
    /// How the health of a service's servers is checked, which may have others beside it.
    pub(super) fn check(&self, service: &Service, has_others: bool) -> Check {
        match (&service.health, &self.health) {
            (Some(Health::Tcp), _) => Check::Tcp,
            (Some(Health::Http(path)), _) => Check::Http(path.clone()),
            // Among others a service of datagrams has no path only because they have one.
            (None, Some(path)) if !(has_others && service.protocol == Protocol::Udp) => {
                Check::Http(path.clone())
            }
            (None, _) if service.asks_dns() => Check::Dns,
            (None, _) => Check::Tcp,
        }
    }

    /// After how long a turn is unanswered, in microseconds.
    pub fn unanswered_us(&self) -> u32 {
        (self.throughput.unanswered_seconds * 1e6) as u32
    }

    /// What the shadow may be worse by.
    pub fn judge(&self) -> JudgePolicy {
        let mut judge = self.judge.clone();
        if let Some(percent) = self.max_divergence {
            judge.divergence_margin = percent / 100.0;
            judge.divergence_allowance = judge.divergence_margin / 5.0;
        }
        judge
    }

    /// The plan that it makes.
    ///
    /// # Errors
    /// What doesn't hold.
    pub fn plan(&self) -> Result<Plan, String> {
        if let Some(health) = &self.health
            && (!health.starts_with('/') || health.bytes().any(|byte| byte <= b' ' || byte == 0x7f))
        {
            return Err(format!("`health` is {health:?}: a path begins with / and has no blanks"));
        }
        let plan = Plan {
            weight: WeightPolicy {
                steps: self.steps.iter().map(|percent| (percent * 100.0).round() as u32).collect(),
                dwell_seconds: self.dwell.as_secs_f64(),
                dark_seconds: self.dark.as_secs_f64(),
                cool_down_seconds: self.cool_down.as_secs_f64(),
                max_attempts: self.attempts,
            },
            judge: self.judge(),
            throughput: self.throughput.clone(),
            cutover_by_itself: self.cutover == Cutover::Auto,
            moves: MovePolicy {
                attempts: self.attempts,
                retry_seconds: self.retry.as_secs_f64(),
                standby_seconds: self.standby.as_secs_f64(),
                unhealthy_seconds: self.unhealthy.as_secs_f64(),
                availability_first: self.availability_first,
            },
        };
        plan.validate().map_err(|error| error.to_string())?;
        Ok(plan)
    }
}
