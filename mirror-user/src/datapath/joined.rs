//! Servers that have never joined. A policy that the daemon is started with may name others than the last one did: what is pinned
//! says that the mirror is in sync, and that is true of the servers of then alone.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap};
use mirror_common::{
    abi::{
        App, Service, ServiceKey,
        backend::{MAX_BACKENDS, Pool},
        maps, udp,
    },
    switch_word::Side,
};

use super::{Datapath, fill::servers_at, pools::Server};
use crate::{alias::Written, policy::Policy};

/// Times that the word is read again where somebody else has just changed it.
const TRIES: usize = 16;

/// Whether servers stand in for none that were there before.
fn are_new(servers: &[Server], known: &BTreeSet<Server>) -> bool {
    !servers.is_empty() && servers.iter().all(|server| !known.contains(server))
}

impl Datapath {
    /// Puts the side without authority out of sync where a port of the policy has servers there of which none was there before.
    /// One that was is enough: the servers of a side share what they store. To be called before the policy's are written.
    ///
    /// # Errors
    /// When the maps can't be read.
    pub(super) fn put_out_unjoined(&mut self, policy: &Policy, aliases: &Written) -> Result<()> {
        for _ in 0..TRIES {
            let word = self.words.load(0);
            let mirror = word.authority().other();
            let Some(out) = word.out_of_sync(mirror) else { return Ok(()) };
            let known = self.known(mirror)?;
            let mut new = false;
            for service in policy.services() {
                let Some(end) = service.side(mirror) else { continue };
                for listener in service.all() {
                    new |= are_new(&servers_at(end, listener.ports[mirror as usize], aliases)?, &known);
                }
            }
            if !new {
                return Ok(());
            }
            if self.words.swap(0, word, out).is_ok() {
                self.words.keep_reason(0, App::UNJOINED);
                tracing::warn!("the {} is out of sync: servers there have never joined", mirror.name());
                return Ok(());
            }
        }
        bail!("the switch word changes all the time")
    }

    /// The servers of a side that the pinned maps know.
    fn known(&self, side: Side) -> Result<BTreeSet<Server>> {
        let services: HashMap<_, ServiceKey, Service> =
            HashMap::try_from(self.bpf.map(maps::SERVICES).context(maps::SERVICES)?)?;
        let pools: Array<_, Pool> = Array::try_from(self.bpf.map(maps::POOLS).context(maps::POOLS)?)?;
        let mut known = BTreeSet::new();
        for entry in services.iter() {
            let (key, service) = entry?;
            let end = service.endpoints[side as usize];
            known.insert((end.addr, end.port));
            // A service of datagrams has no pool.
            if key.protocol == udp::PROTOCOL {
                continue;
            }
            let pool = pools.get(&(service.pools + side as u32), 0)?;
            known.extend((0..MAX_BACKENDS).map(|n| (pool.addrs[n], pool.ports[n])));
        }
        known.remove(&(0, 0));
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_that_was_there_stands_for_the_others() {
        let known = BTreeSet::from([(1, 80), (2, 80)]);
        assert!(!are_new(&[(3, 80), (2, 80)], &known));
        assert!(are_new(&[(3, 80), (2, 81)], &known), "another port is another process");
        assert!(!are_new(&[], &known), "nobody is to join");
    }
}
