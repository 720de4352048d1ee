//! Which servers the pinned datapath sends to.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use mirror_common::abi::{Service, ServiceKey, Tuple, maps};

use crate::alias::Names;

/// Their addresses, whatever policy they are of.
///
/// # Errors
/// When nothing of this layout is pinned.
pub fn servers(pins: &Path) -> Result<BTreeSet<IpAddr>> {
    let names = Names::open(pins)?;
    let services: HashMap<_, ServiceKey, Service> = open(pins, maps::SERVICES)?;
    let peers: HashMap<_, Tuple, u32> = open(pins, maps::PEERS)?;
    let mut found = Vec::new();
    for service in services.iter() {
        found.extend(service?.1.endpoints.map(|end| end.addr));
    }
    for peer in peers.keys() {
        found.push(peer?.saddr);
    }
    // 0: a side that isn't there, or a service's own address.
    Ok(found.into_iter().filter(|addr| *addr != 0).map(|addr| names.socket(addr, 0).ip()).collect())
}

fn open<K: aya::Pod, V: aya::Pod>(pins: &Path, name: &str) -> Result<HashMap<MapData, K, V>> {
    let data =
        MapData::from_pin(pins.join(name)).with_context(|| format!("can't open the pinned map {name}"))?;
    Ok(HashMap::try_from(Map::HashMap(data))?)
}
