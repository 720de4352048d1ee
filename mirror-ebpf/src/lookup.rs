//! Services, entries, slots and ports: how a packet finds its flow, and how a flow is made and unmade.

use mirror_common::{
    abi::{
        BLOCK, Endpoint, Entry, EventKind, Service, ServiceKey, Tuple, backend, fragments_of, nat,
        six::is_client,
        udp::{self, Silence},
    },
    switch_word::Side,
    verdict::Verdict,
    weight,
};

use crate::{
    atomic, count,
    decide::Target,
    maps::{
        BUSY, CONFIG, FLOWS, PEERS, POOLS, PORTS_PRIMARY, PORTS_SHADOW, SERVICES, SILENCE, SLOTS, Scratch,
        TUPLES,
    },
    six,
};

const NOEXIST: u64 = 1;

/// Mixed into whatever nobody outside may guess.
#[inline(always)]
pub fn secret() -> u64 {
    CONFIG.get(0).map_or(0, |config| config.secret)
}

#[inline(always)]
fn of_protocol(protocol: u16, addr: u32, port: u16) -> Option<&'static Service> {
    let key = ServiceKey { addr, port, protocol };
    // SAFETY: the daemon changes services by whole entries; a torn read is as good as a packet that came earlier.
    unsafe { SERVICES.get(&key) }
}

/// The service of connections that an address and port belong to.
#[inline(always)]
pub fn service(addr: u32, port: u16) -> Option<&'static Service> {
    of_protocol(6, addr, port)
}

/// The service of datagrams that an address and port belong to.
#[inline(always)]
pub fn datagram_service(addr: u32, port: u16) -> Option<&'static Service> {
    of_protocol(udp::PROTOCOL, addr, port)
}

/// Since when a service's sides have answered nothing.
#[inline(always)]
pub fn silence(addr: u32, port: u16) -> Option<*mut Silence> {
    SILENCE.get_ptr_mut(ServiceKey { addr, port, protocol: udp::PROTOCOL })
}

/// Whether a fragment may be of a datagram of ours.
#[inline(always)]
pub fn is_datagrams_fragment(tuple: &Tuple) -> bool {
    let (question, answer) = (udp::fragments_of(0, tuple.daddr), udp::fragments_of(tuple.saddr, tuple.daddr));
    // SAFETY: only whether they exist is asked.
    unsafe { PEERS.get(&question).is_some() || PEERS.get(&answer).is_some() }
}

/// The service of the flow whose packet is at hand.
#[inline(always)]
pub fn of_client(scratch: &Scratch) -> Option<&'static Service> {
    service(scratch.client.daddr, scratch.client.dport)
}

/// Whether an address is a service's.
#[inline(always)]
pub fn is_service(addr: u32) -> bool {
    // SAFETY: only whether it exists is asked.
    unsafe { PEERS.get(&fragments_of(addr)) }.is_some()
}

/// Whether legs run from where a packet comes from to where it goes.
#[inline(always)]
pub fn is_peer(tuple: &Tuple) -> bool {
    let peer = Tuple { dport: 0, ..*tuple };
    // SAFETY: only whether it exists is asked.
    unsafe { PEERS.get(&peer) }.is_some()
}

/// The flow that a packet's addresses belong to.
#[inline(always)]
pub fn target(tuple: &Tuple) -> Option<Target> {
    // SAFETY: the value is one word.
    let entry = Entry(unsafe { *TUPLES.get(tuple)? });
    let flow = FLOWS.get_ptr_mut(entry.slot())?;
    Some(Target { flow, slot: entry.slot(), generation: entry.generation(), from: entry.from() })
}

#[inline(always)]
fn pop_port(side: u32) -> u32 {
    let popped = if side == 0 { PORTS_PRIMARY.pop() } else { PORTS_SHADOW.pop() };
    match popped {
        Ok(Some(port)) => port,
        _ => 0,
    }
}

/// Gives a port back, behind all others.
#[inline(always)]
fn push_port(side: u32, port: u32) {
    if port & nat::CLIENTS == 0 {
        let port = u32::from(nat::port(port));
        let _ = if side == 0 { PORTS_PRIMARY.push(port, 0) } else { PORTS_SHADOW.push(port, 0) };
    }
}

/// The address that a side's server sees.
#[inline(always)]
pub fn source(end: &Endpoint, client: &Tuple) -> u32 {
    if end.nat == 0 { client.saddr } else { end.nat }
}

/// The addresses of a leg's packets as they come from its server.
#[inline(always)]
fn leg_tuple(service: &Service, side: u32, client: &Tuple, port: u32) -> Tuple {
    let (saddr, sport) = server(service, side, port);
    let daddr = source(&service.endpoints[side as usize & 1], client);
    Tuple { saddr, daddr, sport, dport: nat::port(port).to_be() }
}

/// Address and port of the server that a leg goes to.
#[inline(always)]
pub fn server(service: &Service, side: u32, port: u32) -> (u32, u16) {
    let number = backend::number(port);
    if number == 0 {
        let end = &service.endpoints[side as usize & 1];
        return (end.addr, end.port);
    }
    let found = mirror_server(service.pools.wrapping_add(side & 1), number);
    (found as u32, (found >> 32) as u16)
}

/// A server of a pool: address (bits 0–31) and port (32–47). A function of its own to the verifier, as
/// [`crate::carry::mirror_send`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mirror_server(pool: u32, number: u32) -> u64 {
    let Some(pool) = POOLS.get(pool) else { return 0 };
    let number = number as usize & (backend::MAX_BACKENDS - 1);
    u64::from(pool.addrs[number]) | u64::from(pool.ports[number]) << 32
}

/// The number of the server of a pool that a new leg goes to: [`backend::choose`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mirror_choose(pool: u32, key: u64, skip: u32) -> u32 {
    POOLS.get(pool).map_or(0, |pool| backend::choose(pool.takes, key, skip))
}

/// What the port id of a new leg has beside its port: the server, chosen of those that take connections. `who`: by what the
/// client is told from others. `last`: the port id of the leg before it, or 0.
#[inline(always)]
fn chosen(service: &Service, side: u32, client: &Tuple, who: u32, last: u32) -> u32 {
    if service.flags & Service::POOLED == 0 {
        return 0;
    }
    let port = if service.flags & Service::BY_CLIENT == 0 { Some(client.sport) } else { None };
    let tries = backend::tries(last);
    let key = backend::key(secret(), who, port);
    backend::with_backend(0, mirror_choose(service.pools.wrapping_add(side & 1), key, tries), tries)
}

/// Takes a leg's entry away and gives its port back.
#[inline(always)]
pub fn release(service: &Service, side: u32, client: &Tuple, port: u32) {
    if port != 0 {
        let tuple = leg_tuple(service, side, client, port);
        let _ = TUPLES.remove(&tuple);
        if is_client(tuple.daddr) {
            six::mirror_hide(tuple.daddr, tuple.saddr, ports(&tuple));
        }
        push_port(side, port);
    }
}

/// A leg's first sequence number (RFC 6528): a secret's hash of its addresses and a clock of 4 µs, so that it lies above
/// the port's last.
#[inline(always)]
fn first_number(service: &Service, side: u32, port: u32, now_ns: u64) -> u32 {
    let (addr, _) = server(service, side, port);
    let key = (u64::from(addr) << 32) | u64::from(port);
    (weight::mix(key ^ secret()) as u32).wrapping_add((now_ns >> 12) as u32)
}

/// A leg's ports, as [`six::mirror_show`] takes them, of a packet from its server.
#[inline(always)]
fn ports(tuple: &Tuple) -> u32 {
    u32::from(tuple.dport) | u32::from(tuple.sport) << 16
}

/// Claims the ends of a leg, as its server's packets have them. False: they are taken.
#[inline(always)]
fn show(tuple: &Tuple, entry: Entry) -> bool {
    if TUPLES.insert(tuple, &entry.0, NOEXIST).is_err() {
        return false;
    }
    if !is_client(tuple.daddr) || six::mirror_show(tuple.daddr, tuple.saddr, ports(tuple)) != 0 {
        return true;
    }
    let _ = TUPLES.remove(tuple);
    false
}

/// Claims a port for a leg: the client's own where its server sees the client's address, else the oldest free one whose
/// addresses aren't taken. `who` and `last` as in [`chosen`]. 0: none.
#[inline(always)]
fn claim(service: &Service, side: u32, client: &Tuple, who: u32, entry: Entry, last: u32) -> u32 {
    let server = chosen(service, side, client, who, last);
    if service.endpoints[side as usize & 1].nat == 0 {
        let own = u32::from(u16::from_be(client.sport)) | nat::CLIENTS | server;
        let tuple = leg_tuple(service, side, client, own);
        if show(&tuple, entry) {
            return own;
        }
    }
    for _ in 0..3 {
        let port = pop_port(side);
        if port == 0 {
            return 0;
        }
        let port = port | server;
        let tuple = leg_tuple(service, side, client, port);
        if show(&tuple, entry) {
            return port;
        }
        push_port(side, port);
    }
    0
}

/// Claims slot, ports and entries for a new connection: `scratch.opening` is filled. An error is the verdict.
#[inline(always)]
pub fn make(scratch: &mut Scratch, service: &Service, second: bool, me: Side) -> Result<Target, Verdict> {
    let slot = match SLOTS.pop() {
        Ok(Some(slot)) => slot,
        _ => {
            count::event(EventKind::TableFull, service.app, 0, 0, 0, 0);
            return Err(Verdict::TableFull);
        }
    };
    let Some(flow) = FLOWS.get_ptr_mut(slot) else { return Err(Verdict::TableFull) };
    // SAFETY: a popped slot is nobody else's.
    let generation = unsafe { (*flow).generation };
    if TUPLES.insert(&scratch.tuple, &Entry::new(slot, generation, 2).0, NOEXIST).is_err() {
        let _ = SLOTS.push(slot, 0);
        return Err(Verdict::PortCollision);
    }
    scratch.opening.tuple = scratch.tuple;
    let who = six::mirror_who(scratch.tuple.saddr);
    scratch.opening.who = who;
    for side in 0..2_u32 {
        let asked = service.endpoints[side as usize].addr != 0 && (second || side == me as u32);
        let mut port = 0;
        if asked {
            port = claim(service, side, &scratch.tuple, who, Entry::new(slot, generation, side), 0);
            if port == 0 && side == me as u32 {
                release(service, 0, &scratch.tuple, scratch.opening.ports[0]);
                let _ = TUPLES.remove(&scratch.tuple);
                let _ = SLOTS.push(slot, 0);
                count::event(EventKind::TableFull, service.app, slot, generation, side, 0);
                return Err(Verdict::PortsFull);
            }
        }
        scratch.opening.ports[side as usize] = port;
        // By the client's own number none must be shifted.
        let own = port & nat::CLIENTS != 0;
        scratch.opening.iss[side as usize] =
            if own { scratch.seg.seq } else { first_number(service, side, port, scratch.now_ns) };
    }
    count_slot(slot, 1);
    Ok(Target { flow, slot, generation, from: 2 })
}

/// Claims a port for a leg that is dialled anew: `scratch.dialled` is filled.
#[inline(always)]
pub fn make_leg(scratch: &mut Scratch, service: &Service, side: u32, target: Target) -> bool {
    // SAFETY: a hint: who else dials the leg meanwhile is found out under the lock. Who the client is never changes.
    let (last, who) = unsafe { ((*target.flow).legs[side as usize & 1].port, (*target.flow).who) };
    let entry = Entry::new(target.slot, target.generation, side);
    let port = claim(service, side, &scratch.client, who, entry, last);
    scratch.dialled.side = side;
    scratch.dialled.port = port;
    scratch.dialled.iss = first_number(service, side, port, scratch.now_ns);
    port != 0
}

/// Takes a freed flow's entries away and gives slot and ports back.
#[inline(always)]
pub fn unmake(client: &Tuple, service: &Service, ports: [u32; 2], slot: u32) {
    let _ = TUPLES.remove(client);
    release(service, 0, client, ports[0]);
    release(service, 1, client, ports[1]);
    count_slot(slot, u64::MAX);
    let _ = SLOTS.push(slot, 0);
}

/// Counts a slot as used (1), or as free again (-1).
#[inline(always)]
fn count_slot(slot: u32, by: u64) {
    if let Some(busy) = BUSY.get_ptr_mut(slot / BLOCK) {
        // SAFETY: a map's value that every program changes by atomics only.
        unsafe { atomic::add(busy, by) };
    }
}
