//! How a provisioned shadow is scaled ahead of its load: the policy's section `[scale]`.

use std::time::Duration;

use mirror_control::{
    driver::Limits,
    scaler::{Budget, ScalerPolicy},
};
use serde::Deserialize;

use super::{
    defaults, duration,
    process::{Bytes, Cores, Process},
};

/// Cores that are added and taken away at once, in thousandths.
pub const CPU_STEP: u32 = 50;
/// Memory that is added and taken away at once, in bytes.
pub const MEMORY_STEP: u64 = 16 << 20;

/// How the shadow of `[shadow.process]` is scaled, ahead of what is forecast. Without this table it keeps its size.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Whether decisions are carried out. Otherwise they are only said: a dry run.
    #[serde(default)]
    pub armed: bool,
    /// Cores that it has at least; none: those that it is provisioned with.
    pub cpu_least: Option<Cores>,
    /// Cores that it has at most.
    pub cpu_most: Cores,
    /// Memory that it has at least; none: that which it is provisioned with.
    pub memory_least: Option<Bytes>,
    /// Memory that it has at most.
    pub memory_most: Bytes,
    /// How long before the need the size must be there. The driver's own time, where that is longer.
    #[serde(default = "defaults::ahead", deserialize_with = "duration")]
    pub ahead: Duration,
    /// The quantile of the forecast that counts as expected, 0.01 to 0.9999.
    #[serde(default = "defaults::quantile")]
    pub quantile: f64,
    /// The share of its size that the expected need may fill, 0.1 to 1.
    #[serde(default = "defaults::utilisation")]
    pub utilisation: f64,
    /// It gets smaller when for so long no more was wanted.
    #[serde(default = "defaults::hold", deserialize_with = "duration")]
    pub hold: Duration,
    /// Core hours beyond the need of the moment that being ahead may cost a day; none: any number.
    pub core_hours_a_day: Option<f64>,
}

impl Scale {
    /// What the scaler of the processor time goes by, in steps of [`CPU_STEP`].
    pub fn cpu(&self, provisioned: Limits) -> ScalerPolicy {
        let least = self.cpu_least.map_or(provisioned.cpu_millicores, Cores::millicores);
        let a_step = f64::from(CPU_STEP) / 1e3;
        let budget = self.core_hours_a_day.map(|hours| Budget { unit_hours_a_day: hours / a_step });
        self.policy(least.div_ceil(CPU_STEP), self.cpu_most.millicores() / CPU_STEP, budget)
    }

    /// What the scaler of the memory goes by, in steps of [`MEMORY_STEP`].
    pub fn memory(&self, provisioned: Limits) -> ScalerPolicy {
        let least = self.memory_least.map_or(provisioned.memory_bytes, Bytes::get);
        let steps = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        self.policy(steps(least.div_ceil(MEMORY_STEP)), steps(self.memory_most.get() / MEMORY_STEP), None)
    }

    fn policy(&self, least: u32, most: u32, budget: Option<Budget>) -> ScalerPolicy {
        ScalerPolicy {
            armed: self.armed,
            least,
            most,
            budget,
            quantile: self.quantile,
            hold_seconds: self.hold.as_secs_f64(),
            ..ScalerPolicy::default()
        }
    }

    /// Says what doesn't hold.
    pub(super) fn fault(&self, process: Option<&Process>) -> Option<String> {
        let Some(process) = process else {
            return Some("only a shadow with [shadow.process] is scaled".into());
        };
        if !(0.1..=1.0).contains(&self.utilisation) {
            return Some(format!("`utilisation` is {}: it is from 0.1 to 1", self.utilisation));
        }
        let limits = process.limits();
        let of = |what: &str, policy: ScalerPolicy| {
            let steps = "in steps of 0.05 cores and 16MiB";
            policy.validate().err().map(|error| format!("{what}, {steps}: {error}"))
        };
        of("cpu", self.cpu(limits)).or_else(|| of("memory", self.memory(limits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    const PROVISIONED: &str = include_str!("../../../policies/provisioned.toml");

    fn parsed(table: &str) -> Result<Policy, String> {
        let text = format!("{PROVISIONED}\n[scale]\n{table}");
        Policy::parse("x.toml", &text).map_err(|invalid| format!("{:?}", miette::Report::from(*invalid)))
    }

    #[test]
    fn left_out_it_is_a_dry_run_that_never_makes_it_smaller_than_it_was_made() {
        let policy =
            parsed("cpu_most = 4\nmemory_most = \"2GiB\"\ncore_hours_a_day = 2.0").expect("it holds");
        let (scale, limits) =
            (policy.scale.as_ref().expect("a table"), policy.wanted().expect("a process").limits);
        let (cpu, memory) = (scale.cpu(limits), scale.memory(limits));
        assert!(!cpu.armed);
        assert_eq!((cpu.least, cpu.most, memory.least, memory.most), (30, 80, 32, 128));
        assert_eq!(cpu.budget, Some(Budget { unit_hours_a_day: 40.0 }));
    }

    #[test]
    fn bounds_and_shares_are_checked() {
        for (table, said) in [
            ("cpu_most = 1\nmemory_most = \"2GiB\"", "least is 30 and most is 20"),
            ("cpu_most = 4\nmemory_most = \"256MiB\"", "least is 32 and most is 16"),
            ("cpu_most = 4\nmemory_most = \"2GiB\"\nutilisation = 1.5", "from 0.1 to 1"),
            ("cpu_most = 4\nmemory_most = \"2GiB\"\nquantile = 1.0", "quantile is 1"),
        ] {
            let refused = parsed(table).map(drop).expect_err("a refusal");
            assert!(refused.contains(said), "{refused}");
        }
    }
}
