//! Questions whose answers are awaited: what there is of a service of datagrams instead of connections.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use mirror_common::abi::{
    maps,
    six::{self, BESIDE},
    udp::{Exchange, ExchangeKey},
};

use crate::words::monotonic_ns;

/// A hash that changes while it is read is begun anew where a key was that is gone: no more of it is read than this often as much
/// as it has room for.
const ROUNDS: usize = 2;

/// Calls `take` with each exchange that is kept, and when it was read (nanoseconds of the datapath's clock). Of those that come
/// and go meanwhile one may be missed, or come twice.
pub(super) fn each(pins: &Path, mut take: impl FnMut(ExchangeKey, Exchange, u64)) -> Result<()> {
    let data = MapData::from_pin(pins.join(maps::EXCHANGES)).context("can't open the pinned exchanges")?;
    let room = data.info()?.max_entries() as usize;
    let kept: HashMap<_, ExchangeKey, Exchange> = HashMap::try_from(Map::HashMap(data))?;
    for entry in kept.iter().take(ROUNDS * room) {
        let (key, exchange) = entry?;
        take(key, exchange, monotonic_ns());
    }
    Ok(())
}

/// Who asks. `socket`: an address and a port, as they lie in a record, outside.
pub(super) fn client(key: &ExchangeKey, socket: &dyn Fn(u32, u16) -> SocketAddr) -> SocketAddr {
    match key.client.saddr {
        BESIDE => SocketAddr::new(six::address(key.six).into(), u16::from_be(key.client.sport)),
        addr => socket(addr, key.client.sport),
    }
}
