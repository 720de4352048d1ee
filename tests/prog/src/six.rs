//! IPv6 on the stage: addresses of the links and of hosts that answer nothing, and their aliases.

use std::{net::Ipv6Addr, process::Command};

use anyhow::{Context, Result, ensure};
use aya::maps::HashMap;
use lab::net::Host;
use mirror_common::{
    abi::{
        self, Service, maps,
        six::{self, Client, words},
    },
    flow::tcp,
    switch_word::Side,
};

use crate::stage::{CLIENTS6, PORT, Stage};

/// The service's address.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);

/// Hosts of the two sides, in their order.
const SERVERS: [Host; 2] = [Host::Primary, Host::Shadow];

/// An address on the link to a host.
const fn on_link(host: Host, last: u16) -> Ipv6Addr {
    let net = match host {
        Host::Client | Host::Gateway => 1,
        Host::Primary => 2,
        Host::Shadow => 3,
    };
    Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, last)
}

/// The address of a host that is there for the gateway, and answers nothing.
pub const fn silent6(host: Host) -> Ipv6Addr {
    on_link(host, 0x50)
}

/// The gateway's address that legs to a side come from.
pub const fn nat6(side: Side) -> Ipv6Addr {
    on_link(SERVERS[side as usize], 0x101)
}

/// A client's end of a connection to the service.
pub fn client6(port: u16) -> Client {
    let (saddr, daddr) = (words(silent6(Host::Client)), words(VIP6));
    Client { saddr, daddr, sport: port.to_be(), dport: PORT }
}

/// What comes back to it.
pub fn answer_to(client: Client) -> Client {
    Client { saddr: client.daddr, daddr: client.saddr, sport: client.dport, dport: client.sport }
}

/// Runs `ip` in the gateway's namespace, in which the stage is.
fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status()?;
    ensure!(status.success(), "ip {arguments}");
    Ok(())
}

impl Stage {
    /// Gives the gateway IPv6 addresses, and the service one of them; its servers have some, too.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn with_ipv6(&mut self) -> Result<()> {
        for knob in ["all/disable_ipv6 0", "all/forwarding 1"] {
            let (name, value) = knob.split_once(' ').unwrap_or_default();
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}"), value)?;
        }
        for host in Host::ENDS {
            let (device, mac) = (host.gateway_device(), host.mac(false));
            ip(&format!("addr replace {}/64 dev {device} nodad", on_link(host, 1)))?;
            ip(&format!("neigh replace {} lladdr {mac} dev {device} nud permanent", silent6(host)))?;
        }
        for free in 0..CLIENTS6 {
            self.push(maps::FREE_CLIENTS, free)?;
        }
        let vip = self.name_vip6()?;
        self.insert(maps::PEERS, abi::fragments_of(vip), 0_u32)?;
        self.servers_of_ipv6([true; 2])
    }

    /// Gives the service's address its alias, and nothing else.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn name_vip6(&mut self) -> Result<u32> {
        self.give_alias(0, VIP6)
    }

    /// Says which sides' servers have IPv6 addresses.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn servers_of_ipv6(&mut self, which: [bool; 2]) -> Result<()> {
        let mut endpoints = [self.endpoint(0)?, self.endpoint(1)?];
        for (at, end) in endpoints.iter_mut().enumerate().filter(|(at, _)| which[*at]) {
            let first = 1 + 2 * at as u32;
            end.addr = self.give_alias(first, silent6(SERVERS[at]))?;
            end.nat = self.give_alias(first + 1, nat6(Side::BOTH[at]))?;
            self.add_peer(end)?;
        }
        self.set_service_at(six::written(0), |service| service.endpoints = endpoints)
    }

    /// Shows IPv6 servers their clients' own addresses; the service is at the primary's own address besides.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn keep_ipv6(&mut self) -> Result<()> {
        let own = six::written(1);
        let mut endpoints = [self.endpoint(0)?, self.endpoint(1)?];
        (endpoints[0].addr, endpoints[0].nat) = (own, 0);
        (endpoints[1].addr, endpoints[1].nat) = (six::written(3), 0);
        self.set_service_at(six::written(0), |service| service.endpoints = endpoints)?;
        self.set_service_at(own, |service| {
            service.endpoints = endpoints;
            service.flags |= Service::TRANSPARENT;
        })
    }

    /// How many ends lead to a client's alias.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn known_ends(&self) -> Result<usize> {
        let map = self.bpf.map(maps::CLIENT_ALIASES).context(maps::CLIENT_ALIASES)?;
        Ok(HashMap::<_, Client, u32>::try_from(map)?.keys().count())
    }

    fn give_alias(&mut self, index: u32, address: Ipv6Addr) -> Result<u32> {
        let alias = six::written(index);
        self.set(maps::ADDRESSES, index, words(address))?;
        self.insert(maps::ALIASES, words(address), alias)?;
        Ok(alias)
    }

    /// How many connections of IPv6 clients there can still be. Takes and gives back what is free.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn free_clients(&mut self) -> Result<usize> {
        let free = self.drain(maps::FREE_CLIENTS)?;
        self.refill(maps::FREE_CLIENTS, &free)?;
        Ok(free.len())
    }
}

/// Flags of a handshake's second packet.
pub const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
