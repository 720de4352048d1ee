//! What the daemon writes for the datapath: settings, services, aliases, and what is free.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, HashMap, Map, Queue};
use mirror_common::{
    abi::{
        self, Config, Service, ServiceKey, Tuple, maps, six,
        udp::{self, Silence},
    },
    switch_word::{Side, SwitchWord},
};

use super::{Datapath, Segments, pools::Server};
use crate::{
    alias::Written,
    policy::{self, Affinity, Datagrams, Endpoint, Listener, Order, Policy, WeightBy},
};

/// Ports of each side that connections which begin leave to the legs of open ones that are dialled anew.
const SPARE_PORTS: u32 = 2_048;

/// How many connections there may be at once, of `flows` slots: each takes a port of each side.
fn connections(flows: u32) -> u32 {
    flows.min(65_536 - u32::from(abi::nat::FIRST_PORT) - SPARE_PORTS)
}

/// Whether so many connections leave a quarter of the room at most.
pub(super) fn is_crowded(live: u32, flows: u32) -> bool {
    live >= connections(flows) / 4 * 3
}

/// How many clients of IPv6 may have an alias at once, of `flows` that the maps have room for: those of every connection, and
/// of as many that have just ended as there are spare ports.
fn clients(flows: u32) -> u32 {
    flows.min(connections(flows) + SPARE_PORTS)
}

/// Whether a map has room for what the policy's service has. One that was made for a service without it can't grow.
fn has_room(elements: u32, needed: bool, what: &str) -> Result<()> {
    ensure!(
        elements > 1 || !needed,
        "what is pinned was made for a service without {what}: mirror unload, then run again"
    );
    Ok(())
}

impl Datapath {
    /// Writes what the datapath reads. Queues and the switch word only where nothing was pinned before.
    ///
    /// # Errors
    /// When the kernel refuses a value, or what is pinned has no room for IPv6 clients and the policy has them.
    pub fn fill(&mut self, policy: &Policy, tap: u32, segments: &[Segments]) -> Result<()> {
        let Map::Array(known) = self.map(maps::CLIENTS)? else { bail!("no array of clients") };
        has_room(known.info()?.max_entries(), policy.has_six(), "an IPv6 address")?;
        let Map::HashMap(awaited) = self.map(maps::AWAITED)? else { bail!("no hash of answers") };
        has_room(awaited.info()?.max_entries(), policy.datagram_ports() > 0, "datagrams")?;
        let mut secret = [0; 8];
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())?;
        let (fresh, flows) = (self.fresh, self.flows);
        let mut config: Array<_, Config> = Array::try_from(self.map(maps::CONFIG)?)?;
        let secret = if fresh { u64::from_ne_bytes(secret) } else { config.get(&0, 0)?.secret };
        config.set(0, Config { tap, flows, secret }, 0)?;
        let aliases = self.write_aliases(policy)?;
        if !fresh {
            self.put_out_unjoined(policy, &aliases)?;
        }
        self.fill_services(policy, segments, &aliases)?;
        if !fresh {
            return Ok(());
        }
        self.push(maps::SLOTS, 0..connections(flows))?;
        if policy.has_six() {
            self.push(maps::FREE_CLIENTS, 0..clients(flows))?;
        }
        for name in [maps::PORTS_PRIMARY, maps::PORTS_SHADOW] {
            let mut ports: Vec<u32> = (u32::from(abi::nat::FIRST_PORT)..=65_535).collect();
            shuffle(&mut ports, secret ^ name.len() as u64);
            self.push(name, ports)?;
        }
        let state = SwitchWord::initial().with_sticky(policy.weight_by == WeightBy::Client);
        self.words.swap(0, SwitchWord(0), state).map_err(|_| anyhow::anyhow!("the switch word isn't new"))?;
        Ok(())
    }

    fn push(&mut self, queue: &str, elements: impl IntoIterator<Item = u32>) -> Result<()> {
        let mut queue: Queue<_, u32> = Queue::try_from(self.map(queue)?)?;
        elements.into_iter().try_for_each(|element| Ok(queue.push(element, 0)?))
    }

    /// Gives aliases to the policy's IPv6 addresses; those that were given before stay as they are.
    fn write_aliases(&mut self, policy: &Policy) -> Result<Written> {
        let mut addresses: Array<_, six::Address> = Array::try_from(self.map(maps::ADDRESSES)?)?;
        let mut written = Written::new(addresses.iter().collect::<Result<_, _>>()?);
        for address in policy.six() {
            written.give(address)?;
        }
        // First what an alias stands for: nobody may find one that stands for nothing.
        for (index, address) in written.elements() {
            addresses.set(index, address, 0)?;
        }
        let mut aliases: HashMap<_, six::Address, u32> = HashMap::try_from(self.map(maps::ALIASES)?)?;
        for (index, address) in written.elements() {
            aliases.insert(address, six::written(index), 0)?;
        }
        Ok(written)
    }

    fn fill_services(&mut self, policy: &Policy, segments: &[Segments], aliases: &Written) -> Result<()> {
        for ((number, service), segments) in (0..).zip(policy.services()).zip(segments) {
            let flags = Service::with_number(number) | flags(policy, service);
            let mut record = Service { flags, ..common(policy) };
            for (side, end) in service.sides() {
                record.endpoints[side as usize] = endpoint(end, segments[side as usize], aliases)?;
            }
            for listener in service.all() {
                self.fill_listener(service, listener, record, aliases)
                    .with_context(|| format!("the service {}", listener.vip))?;
            }
        }
        Ok(())
    }

    /// One port of one address of a service; `record` is what all of them share.
    fn fill_listener(
        &mut self,
        service: &policy::Service,
        Listener { vip, ports, datagrams }: Listener,
        mut record: Service,
        aliases: &Written,
    ) -> Result<()> {
        let mut servers = [Vec::new(), Vec::new()];
        for (side, end) in service.sides() {
            servers[side as usize] = servers_at(end, ports[side as usize], aliases)?;
        }
        if service.is_transparent(vip.ip()) {
            record.flags |= Service::TRANSPARENT;
        }
        let mut key = ServiceKey { addr: aliases.of(vip.ip())?, port: vip.port().to_be(), protocol: 6 };
        let servers = [&servers[0][..], &servers[1][..]];
        match datagrams {
            None => self.fill_service(key, record, servers),
            Some(datagrams) => {
                key.protocol = udp::PROTOCOL;
                self.fill_datagrams(key, record, servers, datagrams)
            }
        }
    }

    /// One port of datagrams, and from where to where their fragments come.
    fn fill_datagrams(
        &mut self,
        key: ServiceKey,
        mut service: Service,
        servers: [&[Server]; 2],
        datagrams: Datagrams,
    ) -> Result<()> {
        // A policy gives datagrams one server a side.
        for (end, servers) in service.endpoints.iter_mut().zip(servers) {
            (end.addr, end.port) = servers.first().copied().unwrap_or_default();
        }
        service.flags |= datagrams.flags();
        let mut silence: HashMap<_, ServiceKey, Silence> = HashMap::try_from(self.map(maps::SILENCE)?)?;
        if silence.get(&key, 0).is_err() {
            silence.insert(key, Silence::default(), 0)?;
        }
        let mut peers: HashMap<_, Tuple, u32> = HashMap::try_from(self.map(maps::PEERS)?)?;
        peers.insert(udp::fragments_of(0, key.addr), service.app, 0)?;
        for end in service.endpoints.iter().filter(|end| end.addr != 0) {
            peers.insert(udp::fragments_of(end.addr, end.nat), service.app, 0)?;
        }
        // Last: with it all is there that a question needs.
        let mut services: HashMap<_, ServiceKey, Service> = HashMap::try_from(self.map(maps::SERVICES)?)?;
        services.insert(key, service, 0)?;
        Ok(())
    }

    /// Feeds no leg to a side's servers of a service more than so many requests.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit_requests(&mut self, service: u32, side: Side, requests: u32) -> Result<()> {
        let mut services: HashMap<_, ServiceKey, Service> = HashMap::try_from(self.map(maps::SERVICES)?)?;
        let all = services.iter().collect::<Result<Vec<_>, _>>()?;
        for (key, mut known) in all.into_iter().filter(|(_, known)| known.number() == service) {
            known.endpoints[side as usize].max_requests = requests;
            services.insert(key, known, 0)?;
        }
        Ok(())
    }

    /// One port of the application, and from where its legs' packets come.
    fn fill_service(&mut self, key: ServiceKey, mut service: Service, servers: [&[Server]; 2]) -> Result<()> {
        let pools = self.fill_pools(key, &mut service, servers)?;
        let mut services: HashMap<_, ServiceKey, Service> = HashMap::try_from(self.map(maps::SERVICES)?)?;
        services.insert(key, service, 0)?;
        let mut peers: HashMap<_, Tuple, u32> = HashMap::try_from(self.map(maps::PEERS)?)?;
        peers.insert(abi::fragments_of(key.addr), service.app, 0)?;
        // What comes to a client's address without an entry may be for a connection that the kernel forwards.
        for (end, pool) in service.endpoints.iter().zip(pools).filter(|(end, _)| end.nat != 0) {
            for (saddr, sport) in pool.addrs.into_iter().zip(pool.ports).filter(|(addr, _)| *addr != 0) {
                peers.insert(Tuple { saddr, daddr: end.nat, sport, dport: 0 }, service.app, 0)?;
            }
        }
        Ok(())
    }
}

/// A side's servers as they lie in the maps; `port`: where they listen, if not each at its own.
pub(super) fn servers_at(end: &Endpoint, port: Option<u16>, aliases: &Written) -> Result<Vec<Server>> {
    let at = |server: &SocketAddr| Ok((aliases.of(server.ip())?, port.unwrap_or(server.port()).to_be()));
    end.servers().iter().map(at).collect()
}

/// What all services of an application share.
fn common(policy: &Policy) -> Service {
    Service {
        stall_ms: policy.stall.as_millis() as u32,
        idle_ms: policy.idle.as_millis() as u32,
        pressure_ms: policy.pressure.ms(policy.pressure_budget),
        ..Service::default()
    }
}

fn flags(policy: &Policy, service: &policy::Service) -> u32 {
    let of = |holds: bool, flag: u32| if holds { flag } else { 0 };
    policy.divergence.flags()
        | of(policy.has_shadow(), Service::SHADOWED)
        | of(policy.durable, Service::DURABLE)
        | of(policy.order != Order::Connection, Service::ORDERED)
        | of(policy.order == Order::Client, Service::ORDERED_BY_CLIENT)
        | of(service.affinity == Affinity::Client, Service::BY_CLIENT)
}

/// What all servers of a side share.
fn endpoint(side: &Endpoint, mss: u16, aliases: &Written) -> Result<abi::Endpoint> {
    Ok(abi::Endpoint {
        nat: side.nat().own().map_or(Ok(0), |nat| aliases.of(nat))?,
        mss,
        max_requests: side.max_requests,
        ..abi::Endpoint::default()
    })
}

/// Fisher and Yates', by a seeded mixer: ports must not be predictable from outside.
fn shuffle(ports: &mut [u32], mut seed: u64) {
    for i in (1..ports.len()).rev() {
        seed = mirror_common::weight::mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
        ports.swap(i, (seed % (i as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::{clients, connections, has_room, shuffle};

    /// T25: which port comes next is as good as chance to who doesn't know the secret.
    #[test]
    fn ports_come_in_an_order_that_the_secret_makes() {
        let order = |secret| {
            let mut ports: Vec<u32> = (1_024..=65_535).collect();
            shuffle(&mut ports, secret);
            ports
        };
        let (one, other) = (order(1), order(2));
        let alike = one.iter().zip(&other).filter(|(one, other)| one == other).count();
        let in_a_row = one.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count();
        // By chance one of each.
        assert!(alike < 10 && in_a_row < 10, "{alike} in the same place, {in_a_row} in a row");
        let mut all = one;
        all.sort_unstable();
        assert!(all.into_iter().eq(1_024..=65_535), "each port once");
    }

    /// T26, T29: however many connections begin, those that are open find ports for legs that are dialled anew.
    #[test]
    fn new_connections_leave_ports_to_the_legs_of_open_ones() {
        assert_eq!([1_024, 65_536, 4_194_304].map(connections), [1_024, 62_464, 62_464]);
        assert_eq!([1_024, 65_536, 4_194_304].map(clients), [1_024, 64_512, 64_512]);
    }

    #[test]
    fn a_service_gets_its_first_ipv6_address_with_new_maps_alone() {
        let refused = has_room(1, true, "an IPv6 address").unwrap_err().to_string();
        assert!(refused.contains("without an IPv6 address: mirror unload"), "{refused}");
        for (clients, has_six) in [(1, false), (1_024, true), (1_024, false)] {
            has_room(clients, has_six, "an IPv6 address").unwrap();
        }
    }
}
