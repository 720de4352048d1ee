//! IPv6 at the edges of the datapath: a packet of ours is made an IPv4 packet between aliases where it comes in, and an IPv6
//! packet where it leaves for an alias ([`mirror_common::abi::six`]). At TC alone: XDP leaves IPv6 to it.
//!
//! The kernel moves the headers (`bpf_skb_change_proto`), which bears super-packets and checksums that are left to the device;
//! addresses and checksums are ours to write.

use mirror_common::{
    abi::{
        Service, Tuple,
        six::{self, BESIDE, Client, Meaning, client, freed, is_alias, meaning},
    },
    flow::{Quote, tcp},
    verdict::Verdict,
};

use crate::{
    lookup,
    maps::{ADDRESSES, ALIASES, CLIENT_ALIASES, CLIENTS, CONFIG, FREE_CLIENTS, SCRATCH, Scratch},
    packet::{self, Header6, Packet, Skb},
};

const NOEXIST: u64 = 1;
/// Offset of TCP's flags behind IPv6's header.
const FLAGS: u32 = Header6::BYTES + 13;

/// Numbers of protocols, and of extension headers (RFC 8200, 4.1).
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Makes an IPv4 packet of an IPv6 one that is ours. An error is the verdict of one that isn't, or that can't be taken.
#[inline(never)]
pub fn take(skb: Skb, scratch: &mut Scratch) -> Result<(), Verdict> {
    if !skb.headers6(&mut scratch.header6) {
        return Err(Verdict::NotIpv4);
    }
    let header = &scratch.header6;
    // SAFETY: the daemon never changes an entry.
    let Some(&daddr) = (unsafe { ALIASES.get(&header.daddr) }) else { return to_client(skb, scratch) };
    if header.next != TCP {
        return Err(other(header, daddr));
    }
    let (sport, dport) = (header.sport, header.dport);
    // SAFETY: as above.
    let written = unsafe { ALIASES.get(&header.saddr) }.copied();
    let saddr = match (lookup::service(daddr, dport), written) {
        (Some(_), Some(saddr)) => saddr,
        (Some(service), None) => of_client(skb, scratch, service)?,
        (None, Some(saddr)) if lookup::is_peer(&Tuple { saddr, daddr, sport, dport }) => saddr,
        (None, _) => return Err(Verdict::NoService),
    };
    let tuple = Tuple { saddr, daddr, sport, dport };
    scratch.aliased = 1;
    if skb.make_four(scratch, &tuple) { Ok(()) } else { Err(Verdict::Malformed) }
}

/// [`take`] of a packet to an address that isn't of the policy's: it is ours where a server whose `nat` is `"keep"` answers a
/// client, or a router says something of a packet that went to such a server.
#[inline(never)]
fn to_client(skb: Skb, scratch: &mut Scratch) -> Result<(), Verdict> {
    let header = &scratch.header6;
    if header.next == ICMPV6 {
        return Err(Verdict::NotTcp);
    }
    // SAFETY: the daemon never changes an entry.
    let written = unsafe { ALIASES.get(&header.saddr) }.copied();
    let Some(saddr) = written.filter(|_| header.next == TCP) else { return Err(Verdict::NotIpv4) };
    let (sport, dport) = (header.sport, header.dport);
    let key = &mut scratch.client6;
    (key.saddr, key.daddr) = (header.daddr, header.saddr);
    (key.sport, key.dport) = (dport, sport);
    // SAFETY: the value is one word.
    let Some(&daddr) = (unsafe { CLIENT_ALIASES.get(&*key) }) else { return Err(Verdict::NotIpv4) };
    let tuple = Tuple { saddr, daddr, sport, dport };
    if lookup::target(&tuple).is_none() {
        // Of a connection that is older than the datapath, or that has just ended.
        return Err(Verdict::NoService);
    }
    scratch.aliased = 1;
    if skb.make_four(scratch, &tuple) { Ok(()) } else { Err(Verdict::Malformed) }
}

/// The verdict of what has no TCP header behind IPv6's, and goes to an address of ours. Extension headers are the kernel's, as
/// IPv4's options are; but a fragment's header (RFC 8200, 4.5) is looked for behind one of them, too.
#[inline(always)]
fn other(header: &Header6, daddr: u32) -> Verdict {
    // An extension header begins with the number of the next one.
    let [second, _] = header.sport.to_ne_bytes();
    match header.next {
        FRAGMENT => fragment(header, daddr),
        HOP_BY_HOP | DESTINATION | ROUTING if second == FRAGMENT => fragment(header, daddr),
        HOP_BY_HOP | DESTINATION => Verdict::Ipv6Options,
        ROUTING => Verdict::Ipv6Routing,
        _ => Verdict::NotTcp,
    }
}

/// The verdict of a fragment to an address of ours.
#[inline(never)]
fn fragment(header: &Header6, daddr: u32) -> Verdict {
    // SAFETY: the daemon never changes an entry.
    let saddr = unsafe { ALIASES.get(&header.saddr) }.copied().unwrap_or(BESIDE);
    let tuple = Tuple { saddr, daddr, sport: 0, dport: 0 };
    if lookup::is_service(daddr) || lookup::is_datagrams_fragment(&tuple) {
        return Verdict::FragmentDropped;
    }
    Verdict::Fragment
}

/// Reads the headers of an IPv6 datagram to an address of ours into `scratch.{header,header6,tuple}`. Its own address is
/// [`BESIDE`] unless it is of the policy's. False: it is none.
#[inline(always)]
pub fn datagram(skb: Skb, scratch: &mut Scratch) -> bool {
    if !packet::load_datagram6(skb, scratch) {
        return false;
    }
    let (header, ports) = (&scratch.header6, &scratch.header);
    // SAFETY: the daemon never changes an entry.
    let Some(&daddr) = (unsafe { ALIASES.get(&header.daddr) }) else { return false };
    // SAFETY: as above.
    let saddr = unsafe { ALIASES.get(&header.saddr) }.copied().unwrap_or(BESIDE);
    scratch.tuple = Tuple { saddr, daddr, sport: ports.sport, dport: ports.dport };
    true
}

/// The alias of the connection whose client sent the packet at hand: its own, or a fresh one. Whose connection is older than the
/// datapath ([`crate::older`]) gets none: the packet is the kernel's as it came.
#[inline(always)]
fn of_client(skb: Skb, scratch: &mut Scratch, service: &Service) -> Result<u32, Verdict> {
    let (header, key) = (&scratch.header6, &mut scratch.client6);
    (key.saddr, key.daddr) = (header.saddr, header.daddr);
    (key.sport, key.dport) = (header.sport, header.dport);
    // SAFETY: the value is one word.
    if let Some(&alias) = unsafe { CLIENT_ALIASES.get(&*key) } {
        // At a server's own address the client's port may be another connection's leg's, which shows its client there.
        let own = service.flags & Service::TRANSPARENT == 0 || is_own(alias, key);
        return if own { Ok(alias) } else { Err(Verdict::PortCollision) };
    }
    if crate::older(service, scratch.now_ns) && !begins(skb) {
        return Err(Verdict::Older);
    }
    let Ok(Some(free)) = FREE_CLIENTS.pop() else { return Err(Verdict::TableFull) };
    let alias = client(free);
    let Meaning::Client(index) = meaning(alias) else { return Err(Verdict::TableFull) };
    let Some(known) = CLIENTS.get_ptr_mut(index) else { return Err(Verdict::TableFull) };
    // SAFETY: a popped element is nobody else's.
    unsafe {
        (*known).client = *key;
        (&raw mut (*known).alias).write_volatile(alias);
    }
    if CLIENT_ALIASES.insert(&*key, &alias, NOEXIST).is_err() {
        // Another packet of the connection came first. This one comes again.
        // SAFETY: as above.
        unsafe { (&raw mut (*known).alias).write_volatile(0) };
        let _ = FREE_CLIENTS.push(free, 0);
        return Err(Verdict::PortCollision);
    }
    scratch.fresh = alias;
    Ok(alias)
}

/// Whether an alias is that of the connection with these ends.
#[inline(never)]
fn is_own(alias: u32, ends: &Client) -> bool {
    let Meaning::Client(index) = meaning(alias) else { return false };
    CLIENTS.get(index).is_some_and(|known| known.client == *ends)
}

/// Where a leg shows its client's own address, the server's packets come to that one: their ends lead to the client's alias.
/// `ports`: of the leg, and of its server (in the upper half), as they lie in a packet. Not 0: done; 0: others have these ends.
///
/// A global function to the verifier, as [`crate::carry::mirror_send`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mirror_show(alias: u32, server: u32, ports: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: per-CPU, bottom halves are off; the callers don't use this part of it.
    let ends = unsafe { &mut (*scratch).client6 };
    let Some(own) = leg_ends(ends, alias, server, ports) else { return 0 };
    u32::from(own || CLIENT_ALIASES.insert(&*ends, &alias, NOEXIST).is_ok())
}

/// The other way round, when the leg is no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mirror_hide(alias: u32, server: u32, ports: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: as above.
    let ends = unsafe { &mut (*scratch).client6 };
    let Some(own) = leg_ends(ends, alias, server, ports) else { return 0 };
    u32::from(!own && CLIENT_ALIASES.remove(&*ends).is_ok())
}

/// The ends of such a leg. Whether they are its connection's own: where the client talks to that server's address, from the
/// port that the leg has.
#[inline(always)]
fn leg_ends(ends: &mut Client, alias: u32, server: u32, ports: u32) -> Option<bool> {
    let (Meaning::Client(index), Meaning::Written(at)) = (meaning(alias), meaning(server)) else {
        return None;
    };
    let known = CLIENTS.get(index)?;
    ends.saddr = known.client.saddr;
    ends.daddr = *ADDRESSES.get(at)?;
    (ends.sport, ends.dport) = (ports as u16, (ports >> 16) as u16);
    Some(known.client == *ends)
}

/// Whether an IPv6 segment begins a connection.
#[inline(always)]
fn begins(skb: Skb) -> bool {
    let mut flags = 0_u8;
    // SAFETY: one byte.
    let loaded = unsafe { skb.load_raw(FLAGS, &raw mut flags, 1) };
    loaded && flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN
}

/// What an ICMPv6 error to one of our addresses says, and the aliases that an answer to the packet in question would have.
/// `None`: it is no error about a TCP packet of a flow, or a datagram to a server.
#[inline(never)]
pub fn quote(skb: Skb, scratch: &mut Scratch) -> Option<(Tuple, Quote)> {
    let quote = packet::quote6(skb, scratch)?;
    let answer = &scratch.client6;
    // SAFETY: the daemon never changes an entry.
    let (from, to) = unsafe { (ALIASES.get(&answer.saddr), ALIASES.get(&answer.daddr)) };
    let (saddr, daddr) = match (from, to) {
        (Some(saddr), Some(daddr)) => (*saddr, *daddr),
        // SAFETY: the value is one word. Of datagrams it finds none, or no exchange.
        (None, Some(daddr)) => (*unsafe { CLIENT_ALIASES.get(answer) }?, *daddr),
        (Some(saddr), None) => {
            let ends =
                Client { saddr: answer.daddr, daddr: answer.saddr, sport: answer.dport, dport: answer.sport };
            // SAFETY: as above.
            (*saddr, *unsafe { CLIENT_ALIASES.get(&ends) }?)
        }
        (None, None) => return None,
    };
    let answer = &scratch.client6;
    Some((Tuple { saddr, daddr, sport: answer.sport, dport: answer.dport }, quote))
}

/// By what the client of a connection is told from others, from whichever port it connects: its address, or what stands for one
/// of IPv6. A global function to the verifier, as [`crate::carry::mirror_send`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mirror_who(addr: u32) -> u32 {
    // A written alias is one address's for good.
    let Meaning::Client(index) = meaning(addr) else { return addr };
    if !is_alias(addr) {
        return addr;
    }
    CLIENTS.get(index).map_or(addr, |known| six::who(&known.client.saddr))
}

/// Takes a client's alias back, when its connection is no more. Other addresses have none.
#[inline(always)]
pub fn release(addr: u32) {
    if is_alias(addr)
        && let Meaning::Client(index) = meaning(addr)
    {
        release_client(addr, index);
    }
}

#[inline(never)]
fn release_client(alias: u32, index: u32) {
    let Some(known) = CLIENTS.get_ptr_mut(index) else { return };
    // SAFETY: an element is its connection's until it is pushed.
    let key = unsafe {
        if (*known).alias != alias {
            return;
        }
        (&raw mut (*known).alias).write_volatile(0);
        &(*known).client
    };
    let _ = CLIENT_ALIASES.remove(key);
    let _ = FREE_CLIENTS.push(freed(alias), 0);
}

/// Whether the packet at hand has aliases for addresses that it didn't get here: they are on no wire, but in the TAP.
#[inline(always)]
pub fn forged<P: Packet>(packet: P, scratch: &Scratch) -> bool {
    let aliases = is_alias(scratch.tuple.saddr) || is_alias(scratch.tuple.daddr);
    aliases && scratch.aliased == 0 && CONFIG.get(0).is_none_or(|config| config.tap != packet.device())
}

/// The addresses of a packet that leaves for `scratch.out`, into `scratch.header6`. False: they stand for nothing (any more).
#[inline(always)]
pub fn resolve(scratch: &mut Scratch) -> bool {
    let (from, to) = (scratch.out.saddr, scratch.out.daddr);
    match meaning(from) {
        Meaning::Written(index) => {
            let Some(saddr) = ADDRESSES.get(index) else { return false };
            scratch.header6.saddr = *saddr;
        }
        // Of a leg that shows its client's own.
        Meaning::Client(index) => {
            let Some(known) = CLIENTS.get(index).filter(|known| known.alias == from) else { return false };
            scratch.header6.saddr = known.client.saddr;
        }
    }
    if to == BESIDE {
        scratch.header6.daddr = scratch.exchange_key.six;
        return true;
    }
    match meaning(to) {
        Meaning::Written(index) => {
            let Some(daddr) = ADDRESSES.get(index) else { return false };
            scratch.header6.daddr = *daddr;
            true
        }
        Meaning::Client(index) => {
            let Some(known) = CLIENTS.get(index) else { return false };
            scratch.header6.daddr = known.client.saddr;
            known.alias == to
        }
    }
}
