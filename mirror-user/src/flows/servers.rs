//! Which server a connection's leg goes to, read from the pinned maps.

use std::{collections::HashMap as Known, path::Path};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use mirror_common::{
    abi::{
        Service, ServiceKey,
        backend::{self, Pool},
        maps,
    },
    flow::Flow,
    switch_word::Side,
};

use super::{Server, open};

/// The pools of each service whose servers are chosen.
pub(super) struct Servers(Known<ServiceKey, [Pool; 2]>);

impl Servers {
    /// Reads what is pinned.
    ///
    /// # Errors
    /// When the pinned maps can't be read.
    pub(super) fn open(pins: &Path) -> Result<Self> {
        let data = MapData::from_pin(pins.join(maps::SERVICES)).context("can't open the pinned services")?;
        let services: HashMap<_, ServiceKey, Service> = HashMap::try_from(Map::HashMap(data))?;
        let pools = open::<Pool>(pins, maps::POOLS)?;
        let mut known = Known::new();
        for entry in services.iter() {
            let (key, service) = entry?;
            if service.flags & Service::POOLED != 0 {
                let of = |side: Side| pools.get(&(service.pools + side as u32), 0);
                known.insert(key, [of(Side::Primary)?, of(Side::Shadow)?]);
            }
        }
        Ok(Self(known))
    }

    /// A leg's server; nothing where its side has one alone, or the flow no leg.
    pub(super) fn of(&self, flow: &Flow, side: Side) -> Option<Server> {
        let key = ServiceKey { addr: flow.tuple.daddr, port: flow.tuple.dport, protocol: 6 };
        let pool = &self.0.get(&key)?[side as usize];
        let id = flow.leg(side).port;
        let several = pool.addrs.iter().filter(|addr| **addr != 0).count() > 1;
        let number = backend::number(id) as usize;
        (several && id != 0).then(|| (pool.addrs[number], pool.ports[number]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_common::abi::Tuple;

    #[test]
    fn a_leg_says_its_server_where_there_are_several() {
        let mut pools = [Pool::default(); 2];
        pools[0].addrs[0] = 7;
        (pools[1].addrs[0], pools[1].addrs[5], pools[1].ports[5]) = (8, 9, 80);
        let servers = Servers(Known::from([(ServiceKey { addr: 1, port: 2, protocol: 6 }, pools)]));
        let mut flow = Flow { tuple: Tuple { daddr: 1, dport: 2, ..Tuple::default() }, ..Flow::default() };
        assert_eq!(servers.of(&flow, Side::Shadow), None, "no leg");
        (flow.legs[0].port, flow.legs[1].port) = (1_024, backend::with_backend(1_025, 5, 0));
        assert_eq!(servers.of(&flow, Side::Shadow), Some((9, 80)));
        assert_eq!(servers.of(&flow, Side::Primary), None, "the only one");
        flow.tuple.dport = 3;
        assert_eq!(servers.of(&flow, Side::Shadow), None, "another service");
    }
}
