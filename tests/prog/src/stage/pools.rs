//! Several servers of a side.

use anyhow::Result;
use mirror_common::{
    abi::{Endpoint, Service, backend::Pool, maps},
    switch_word::Side,
};

use super::Stage;

impl Stage {
    /// Gives a side these servers besides server 0, which it has; all take connections. The service is as at first, with these
    /// flags more.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_backends(&mut self, side: Side, others: &[(u32, u16)], flags: u32) -> Result<()> {
        let end = self.endpoint(side as usize)?;
        let mut pool = Pool { takes: (2 << others.len()) - 1, ..Pool::default() };
        (pool.addrs[0], pool.ports[0]) = (end.addr, end.port);
        for (n, (addr, port)) in others.iter().enumerate() {
            (pool.addrs[n + 1], pool.ports[n + 1]) = (*addr, *port);
            self.add_peer(&Endpoint { addr: *addr, port: *port, ..end })?;
        }
        self.set(maps::POOLS, side as u32, pool)?;
        self.set_service(|service| service.flags |= Service::POOLED | flags)
    }

    /// Says which of a side's servers take connections (bits by their numbers).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_takes(&mut self, side: Side, takes: u32) -> Result<()> {
        let pool: Pool = self.get(maps::POOLS, side as u32)?;
        self.set(maps::POOLS, side as u32, Pool { takes, ..pool })
    }

    /// Address and port of a side's server by its number.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn backend(&self, side: Side, number: u32) -> Result<(u32, u16)> {
        if number == 0 {
            let end = self.endpoint(side as usize)?;
            return Ok((end.addr, end.port));
        }
        let pool: Pool = self.get(maps::POOLS, side as u32)?;
        Ok((pool.addrs[number as usize], pool.ports[number as usize]))
    }
}
