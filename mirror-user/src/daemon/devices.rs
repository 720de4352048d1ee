//! Follows the devices that the policy's addresses are reached by. A shadow may be provisioned, or provisioned anew, while the
//! daemon runs: its link is another device then, even under the same name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, anyhow};

use super::{Shared, devices_of};
use crate::{
    device,
    network::{Device, Network},
};

/// A new device is seen this late.
const AGAIN: Duration = Duration::from_secs(1);

/// A device as it was attached to: when something of that changes, it is again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    index: u32,
    /// It takes the tags off frames of VLANs above it.
    hides_vlans: bool,
}

impl Seen {
    fn of(one: &Device, all: &[Device]) -> Self {
        // A driver that doesn't say has no such feature.
        let hides_vlans = one.is_below_vlans(all) && device::takes_tags_off(&one.name).unwrap_or(false);
        Self { index: one.index, hides_vlans }
    }
}

/// Attaches to devices as they come.
pub(super) struct Follower {
    network: Network,
    attached: BTreeMap<String, Seen>,
}

impl Follower {
    /// A follower of no device yet.
    pub(super) fn new(network: Network) -> Self {
        Self { network, attached: BTreeMap::new() }
    }

    /// Attaches to what is new since the last look.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn look(&mut self, shared: &Shared) -> Result<()> {
        let policy = shared.mover.policy();
        let poisoned = || anyhow!("poisoned");
        let all = self.network.devices()?;
        let there: BTreeMap<_, _> = all.iter().map(|one| (&one.name, Seen::of(one, &all))).collect();
        self.attached.retain(|name, seen| there.get(name) == Some(seen));
        for name in devices_of(&policy, &self.network, &all)? {
            if self.attached.contains_key(&name) {
                continue;
            }
            let seen = there.get(&name).copied();
            let hides_vlans = seen.is_some_and(|seen| seen.hides_vlans);
            let said =
                shared.datapath.lock().map_err(|_| poisoned())?.attach(&name, policy.hook, hides_vlans)?;
            tracing::info!("{said}");
            let mut devices = shared.devices.lock().map_err(|_| poisoned())?;
            devices.retain(|device| !device.starts_with(&format!("{name}:")));
            devices.push(said);
            if let Some(seen) = seen {
                self.attached.insert(name, seen);
            }
        }
        Ok(())
    }

    /// Looks again and again; trouble is said once.
    pub(super) fn run(mut self, shared: &Arc<Shared>) {
        let mut last = String::new();
        loop {
            std::thread::sleep(AGAIN);
            let trouble = self.look(shared).err().map(|error| format!("{error:#}")).unwrap_or_default();
            if !trouble.is_empty() && trouble != last {
                let Ok(mut state) = shared.state.lock() else { return };
                state.say(format!("can't attach: {trouble}"));
            }
            last = trouble;
        }
    }
}
