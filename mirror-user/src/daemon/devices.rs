//! Follows the devices that the policy's addresses are reached by. A shadow may be provisioned, or provisioned anew, while the
//! daemon runs: its link is another device then, even under the same name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, anyhow};

use super::{Shared, devices_of};
use crate::network::Network;

/// A new device is seen this late.
const AGAIN: Duration = Duration::from_secs(1);

/// Attaches to devices as they come.
pub(super) struct Follower {
    network: Network,
    attached: BTreeMap<String, u32>,
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
        let indices: BTreeMap<_, _> = all.iter().map(|device| (&device.name, device.index)).collect();
        self.attached.retain(|name, index| indices.get(name) == Some(index));
        for name in devices_of(&policy, &self.network, &all)? {
            if self.attached.contains_key(&name) {
                continue;
            }
            let said = shared.datapath.lock().map_err(|_| poisoned())?.attach(&name, policy.hook)?;
            tracing::info!("{said}");
            let mut devices = shared.devices.lock().map_err(|_| poisoned())?;
            devices.retain(|device| !device.starts_with(&format!("{name}:")));
            devices.push(said);
            if let Some(index) = indices.get(&name) {
                self.attached.insert(name, *index);
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
