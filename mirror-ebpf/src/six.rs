//! IPv6 at the edges of the datapath: a packet of ours is made an IPv4 packet between aliases where it comes in, and an IPv6
//! packet where it leaves for an alias ([`mirror_common::abi::six`]). At TC alone: XDP leaves IPv6 to it.
//!
//! The kernel moves the headers (`bpf_skb_change_proto`), which bears super-packets and checksums that are left to the device;
//! addresses and checksums are ours to write.

use mirror_common::{
    abi::{
        Tuple,
        six::{Address, BESIDE, Meaning, client, freed, is_alias, meaning},
        udp,
    },
    flow::Quote,
    verdict::Verdict,
};

use crate::{
    lookup,
    maps::{ADDRESSES, ALIASES, CLIENT_ALIASES, CLIENTS, CONFIG, FREE_CLIENTS, Scratch},
    packet::{self, Packet, Skb},
};

const NOEXIST: u64 = 1;

/// Numbers of protocols (RFC 8200, 4.1).
const TCP: u8 = 6;
const UDP: u8 = udp::PROTOCOL as u8;
const FRAGMENT: u8 = 44;

/// Makes an IPv4 packet of an IPv6 one that is ours. An error is the verdict of one that isn't, or that can't be taken.
#[inline(never)]
pub fn take(skb: Skb, scratch: &mut Scratch) -> Result<(), Verdict> {
    if !skb.headers6(&mut scratch.header6) {
        return Err(Verdict::NotIpv4);
    }
    let header = &scratch.header6;
    // SAFETY: the daemon never changes an entry.
    let Some(&daddr) = (unsafe { ALIASES.get(&header.daddr) }) else { return Err(Verdict::NotIpv4) };
    if header.next != TCP {
        return Err(match header.next {
            packet::ICMPV6 | UDP => Verdict::NotTcp,
            FRAGMENT if lookup::is_service(daddr) => Verdict::FragmentDropped,
            FRAGMENT if of_datagram(&header.saddr, daddr) => Verdict::FragmentDropped,
            _ => Verdict::NotIpv4,
        });
    }
    let (sport, dport) = (header.sport, header.dport);
    // SAFETY: as above.
    let written = unsafe { ALIASES.get(&header.saddr) }.copied();
    let saddr = match (lookup::service(daddr, dport), written) {
        (Some(_), Some(saddr)) => saddr,
        (Some(_), None) => of_client(scratch)?,
        (None, Some(saddr)) if lookup::is_peer(&Tuple { saddr, daddr, sport, dport }) => saddr,
        (None, _) => return Err(Verdict::NoService),
    };
    let tuple = Tuple { saddr, daddr, sport, dport };
    scratch.aliased = 1;
    if skb.make_four(scratch, &tuple) { Ok(()) } else { Err(Verdict::Malformed) }
}

/// Whether a fragment to an address of ours may be of a datagram.
#[inline(always)]
fn of_datagram(from: &Address, daddr: u32) -> bool {
    // SAFETY: the daemon never changes an entry.
    let saddr = unsafe { ALIASES.get(from) }.copied().unwrap_or(BESIDE);
    lookup::is_datagrams_fragment(&Tuple { saddr, daddr, sport: 0, dport: 0 })
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

/// The alias of the connection whose client sent the packet at hand: its own, or a fresh one.
#[inline(always)]
fn of_client(scratch: &mut Scratch) -> Result<u32, Verdict> {
    let (header, key) = (&scratch.header6, &mut scratch.client6);
    (key.saddr, key.daddr) = (header.saddr, header.daddr);
    (key.sport, key.dport) = (header.sport, header.dport);
    // SAFETY: the value is one word.
    if let Some(&alias) = unsafe { CLIENT_ALIASES.get(&*key) } {
        return Ok(alias);
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

/// What an ICMPv6 error to one of our addresses says, and the aliases that an answer to the packet in question would have.
/// `None`: it is no error about a TCP packet of a flow, or a datagram to a server.
#[inline(never)]
pub fn quote(skb: Skb, scratch: &mut Scratch) -> Option<(Tuple, Quote)> {
    let quote = packet::quote6(skb, scratch)?;
    let answer = &scratch.client6;
    // SAFETY: the daemon never changes an entry.
    let daddr = *unsafe { ALIASES.get(&answer.daddr) }?;
    // SAFETY: as above.
    let written = unsafe { ALIASES.get(&answer.saddr) };
    // SAFETY: as above; a client's is one word. Of datagrams it finds none, or no exchange.
    let saddr = *written.or_else(|| unsafe { CLIENT_ALIASES.get(answer) })?;
    Some((Tuple { saddr, daddr, sport: answer.sport, dport: answer.dport }, quote))
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
    // Only written ones are ever ours to send from.
    let Meaning::Written(index) = meaning(from) else { return false };
    let Some(saddr) = ADDRESSES.get(index) else { return false };
    scratch.header6.saddr = *saddr;
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
