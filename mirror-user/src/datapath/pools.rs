//! The servers of each side of each service: where they lie in the map, and which take new connections.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap};
use mirror_common::{
    abi::{
        MAX_SERVICES, Service, ServiceKey,
        backend::{MAX_BACKENDS, Pool},
        maps,
    },
    switch_word::Side,
};

use super::Datapath;

/// Where a pool lies, and the numbers in it of its side's servers, in the policy's order.
#[derive(Clone, Debug, Default)]
pub(super) struct Placed {
    /// The policy's service.
    service: u32,
    side: usize,
    index: u32,
    numbers: Vec<u32>,
}

/// A server as it lies in the map: address or alias, and port.
pub(super) type Server = (u32, u16);

/// Gives each of `wanted` a number: its own where it has one, as legs that run know it by that. What is left out keeps its
/// number, and its legs, until another server needs it; it takes no new connections. One that comes takes them, and one that
/// stays does as it did.
fn numbered(pool: &mut Pool, wanted: &[Server]) -> Result<Vec<u32>> {
    ensure!(wanted.len() <= MAX_BACKENDS, "more than {MAX_BACKENDS} servers of a side");
    let before = *pool;
    let at = |n: usize| (before.addrs[n], before.ports[n]);
    let known = |server: &Server| (0..MAX_BACKENDS).find(|n| server.0 != 0 && at(*n) == *server);
    let mut used: BTreeSet<usize> = wanted.iter().filter_map(known).collect();
    let mut takes = 0;
    let mut numbers = Vec::new();
    for server in wanted {
        let number = match known(server) {
            Some(number) => {
                takes |= before.takes & 1 << number;
                number
            }
            None => {
                let free = (0..MAX_BACKENDS).filter(|n| !used.contains(n));
                let number = free.min_by_key(|n| (before.addrs[*n] != 0, *n)).context("no number is free")?;
                takes |= 1 << number;
                number
            }
        };
        used.insert(number);
        (pool.addrs[number], pool.ports[number]) = *server;
        numbers.push(number as u32);
    }
    let all = numbers.iter().fold(0, |bits, number| bits | 1 << number);
    pool.takes = if takes == 0 { all } else { takes };
    Ok(numbers)
}

/// Where a service's pools lie: where they did, or behind what others have.
fn place(known: Option<u32>, taken: &BTreeSet<u32>) -> Result<u32> {
    let free = || (0..MAX_SERVICES).map(|n| 2 * n).find(|index| !taken.contains(index));
    known.or_else(free).context("no room for another service: mirror unload, then run again")
}

impl Datapath {
    /// Writes a service's pools; `service` learns where they lie, and of each side the server with number 0.
    pub(super) fn fill_pools(
        &mut self,
        key: ServiceKey,
        service: &mut Service,
        servers: [&[Server]; 2],
    ) -> Result<[Pool; 2]> {
        let services: HashMap<_, ServiceKey, Service> = HashMap::try_from(self.map(maps::SERVICES)?)?;
        let known = services.get(&key, 0).ok().map(|service| service.pools);
        let taken = services.iter().map(|entry| Ok(entry?.1.pools)).collect::<Result<_>>()?;
        service.pools = place(known, &taken)?;
        service.flags &= !Service::POOLED;
        let mut map: Array<_, Pool> = Array::try_from(self.map(maps::POOLS)?)?;
        let mut pools = [Pool::default(); 2];
        let mut placed = Vec::new();
        for (side, (pool, wanted)) in pools.iter_mut().zip(servers).enumerate() {
            let index = service.pools + side as u32;
            // Of a service that isn't known any more nothing is meant.
            *pool = if known.is_some() { map.get(&index, 0)? } else { Pool::default() };
            let numbers = numbered(pool, wanted)?;
            map.set(index, *pool, 0)?;
            let end = &mut service.endpoints[side];
            // Without a server of the policy's the side doesn't exist, whoever was there before.
            (end.addr, end.port) = if wanted.is_empty() { (0, 0) } else { (pool.addrs[0], pool.ports[0]) };
            if !wanted.is_empty() && numbers != [0] {
                service.flags |= Service::POOLED;
            }
            placed.push(Placed { service: service.number(), side, index, numbers });
        }
        self.placed.extend(placed);
        Ok(pools)
    }

    /// The pools of one side's servers of a service, by its number: one a port and address of TCP.
    fn placed(&self, service: u32, side: Side) -> impl Iterator<Item = &Placed> {
        self.placed.iter().filter(move |placed| placed.service == service && placed.side == side as usize)
    }

    /// The numbers of a side's servers of a service, in the policy's order, and whether each takes new connections; nothing of
    /// one without TCP.
    ///
    /// # Errors
    /// When the pool can't be read.
    pub fn backends(&self, service: u32, side: Side) -> Result<Vec<(u32, bool)>> {
        let Some(placed) = self.placed(service, side).next() else { return Ok(Vec::new()) };
        let pools: Array<_, Pool> = Array::try_from(self.bpf.map(maps::POOLS).context(maps::POOLS)?)?;
        let takes = pools.get(&placed.index, 0)?.takes;
        Ok(placed.numbers.iter().map(|number| (*number, takes >> number & 1 != 0)).collect())
    }

    /// Says which of a side's servers of a service take new connections, in the policy's order.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn take_connections(&mut self, service: u32, side: Side, taking: &[bool]) -> Result<()> {
        let placed: Vec<_> = self.placed(service, side).cloned().collect();
        let mut pools: Array<_, Pool> = Array::try_from(self.map(maps::POOLS)?)?;
        for Placed { index, numbers, .. } in placed {
            let mut pool = pools.get(&index, 0)?;
            let bits = numbers.iter().zip(taking).filter(|(_, takes)| **takes);
            pool.takes = bits.fold(0, |bits, (number, _)| bits | 1 << number);
            pools.set(index, pool, 0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Server = (1, 80);
    const B: Server = (2, 80);
    const C: Server = (2, 81);

    #[test]
    fn a_server_keeps_its_number_and_its_standing_however_the_list_changes() {
        let mut pool = Pool::default();
        assert_eq!(numbered(&mut pool, &[A, B]).unwrap(), [0, 1]);
        assert_eq!(pool.takes, 0b11);
        pool.takes = 0b01;
        assert_eq!(numbered(&mut pool, &[C, B, A]).unwrap(), [2, 1, 0]);
        assert_eq!(pool.takes, 0b101, "B still gets none, and who comes does");
        assert_eq!(numbered(&mut pool, &[B, C]).unwrap(), [1, 2]);
        assert_eq!((pool.addrs[0], pool.takes), (1, 0b100), "A keeps its legs and gets no new ones");
        assert_eq!(numbered(&mut pool, &[B]).unwrap(), [1]);
        assert_eq!(pool.takes, 0b10, "to try is better than to refuse");
    }

    #[test]
    fn a_number_is_used_again_only_where_none_is_free() {
        let mut pool = Pool::default();
        let servers: Vec<Server> = (1..=16).map(|n| (n, 80)).collect();
        assert_eq!(numbered(&mut pool, &servers).unwrap(), (0..16).collect::<Vec<_>>());
        let mut others = servers.clone();
        others[4] = (99, 80);
        assert_eq!(numbered(&mut pool, &others).unwrap()[4], 4);
        assert_eq!(pool.takes, 0xffff);
        assert!(numbered(&mut pool, &[&servers[..], &[A]].concat()).is_err());
    }

    #[test]
    fn a_service_keeps_its_place_and_another_gets_a_free_one() {
        let taken = BTreeSet::from([0, 4]);
        assert_eq!(place(Some(4), &taken).unwrap(), 4);
        assert_eq!(place(None, &taken).unwrap(), 2);
        let full = (0..MAX_SERVICES).map(|n| 2 * n).collect();
        assert!(place(None, &full).unwrap_err().to_string().contains("mirror unload"));
    }
}
