//! IPv6 by aliases: inside, each IPv6 address is a 32-bit one of 240.0.0.0/4, which no host has (RFC 1112, 4).
//!
//! A packet of ours is made an IPv4 packet where it comes in, and an IPv6 packet where it leaves; between that, one set of
//! rules, tables and records does for both families, and each end of a connection may have its own.
//!
//! An alias of 240.0.0.0/5 is a client's: one a connection, given and taken back by the datapath. One of 248.0.0.0/5 is
//! written by the daemon, and lasts as long as the maps do: a service's, a server's, our own.

use core::net::Ipv6Addr;

use super::memory;
use crate::weight::mix;

/// An IPv6 address as it lies in a packet.
pub type Address = [u32; 4];

/// An address as it lies in a packet.
pub fn words(address: Ipv6Addr) -> Address {
    let octets = address.octets();
    core::array::from_fn(|word| {
        let at = 4 * word;
        u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    })
}

/// The address that lies so in a packet.
pub fn address(words: Address) -> Ipv6Addr {
    let mut octets = [0; 16];
    for (four, word) in octets.chunks_exact_mut(4).zip(words) {
        four.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets)
}

/// A word by which hosts are told from each other: of two addresses that differ anywhere it is another one, but by chance.
/// The whole address counts, as in nginx's `ip_hash`.
#[inline(always)]
pub const fn who(address: &Address) -> u32 {
    let high = (address[0] as u64) << 32 | address[1] as u64;
    let low = (address[2] as u64) << 32 | address[3] as u64;
    mix(mix(high) ^ low) as u32
}

/// Addresses that the daemon can give an alias: services', servers', our own.
pub const MAX_ADDRESSES: u32 = 256;

/// The first alias.
const FIRST: u32 = 0xf000_0000;
/// The bit of a written alias.
const WRITTEN: u32 = 0x0800_0000;
/// Bits of a client's index: as many as [`super::MAX_FLOWS`] needs.
const INDEX_BITS: u32 = 22;
/// The rest of a client's alias counts how often its index was given: what is still on its way for the last one's connection
/// finds another address.
const TURN: u32 = 1 << INDEX_BITS;

const _: () = assert!(super::MAX_FLOWS <= 1 << INDEX_BITS);

/// The alias of an IPv6 address that stands beside it in a record of datagrams: a client's that asks. No host has it
/// (RFC 919, 7), and no alias that is given is it.
pub const BESIDE: u32 = u32::MAX;

/// Whether an address, in network byte order, is an alias.
#[inline(always)]
pub const fn is_alias(addr: u32) -> bool {
    u32::from_be(addr) >= FIRST
}

/// Whether an address, in network byte order, is a client's alias.
#[inline(always)]
pub const fn is_client(addr: u32) -> bool {
    u32::from_be(addr) & (FIRST | WRITTEN) == FIRST
}

/// The alias of the address that the daemon wrote at an index, in network byte order.
#[inline(always)]
pub const fn written(index: u32) -> u32 {
    (FIRST | WRITTEN | (index & (MAX_ADDRESSES - 1))).to_be()
}

/// The alias of a free client, as it comes out of [`super::maps::FREE_CLIENTS`], in network byte order.
#[inline(always)]
pub const fn client(free: u32) -> u32 {
    (FIRST | (free & (WRITTEN - 1))).to_be()
}

/// What goes back into [`super::maps::FREE_CLIENTS`] when a client's alias isn't used any more.
#[inline(always)]
pub const fn freed(alias: u32) -> u32 {
    (u32::from_be(alias).wrapping_add(TURN)) & (WRITTEN - 1)
}

/// What an alias stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// An element of [`super::maps::ADDRESSES`].
    Written(u32),
    /// An element of [`super::maps::CLIENTS`].
    Client(u32),
}

/// What an alias stands for, but for [`BESIDE`].
#[inline(always)]
pub const fn meaning(alias: u32) -> Meaning {
    let bits = u32::from_be(alias);
    if bits & WRITTEN != 0 {
        Meaning::Written(bits & (MAX_ADDRESSES - 1))
    } else {
        Meaning::Client(bits & (TURN - 1))
    }
}

/// A client's end and the service's, as its packets have them: key of [`super::maps::CLIENT_ALIASES`]. 36 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Client {
    /// Its address.
    pub saddr: Address,
    /// The service's.
    pub daddr: Address,
    /// Its port.
    pub sport: u16,
    /// The service's.
    pub dport: u16,
}

/// Element of [`super::maps::CLIENTS`]: 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Known {
    /// Whose alias it is.
    pub client: Client,
    /// The alias; 0: none, the element is free.
    pub alias: u32,
}

const _: () = assert!(size_of::<Client>() == 36 && size_of::<Known>() == 40);

/// Bytes that one flow of an IPv6 client costs besides: its element, that one's place in the queue of free ones, and its key.
pub const BYTES_A_FLOW: usize =
    size_of::<Known>() + 4 + memory::element(size_of::<Client>(), 4) + memory::BUCKET;

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn read(alias: u32) -> Ipv4Addr {
        Ipv4Addr::from(alias.to_ne_bytes())
    }

    #[test]
    fn aliases_are_of_the_block_that_no_host_has() {
        assert_eq!(read(written(3)), Ipv4Addr::new(248, 0, 0, 3));
        assert_eq!(read(client(3)), Ipv4Addr::new(240, 0, 0, 3));
        for alias in
            [written(0), written(255), client(0), client(super::super::MAX_FLOWS - 1), client(u32::MAX)]
        {
            assert!(is_alias(alias) && alias != BESIDE, "{}", read(alias));
        }
        assert!(is_alias(BESIDE) && !is_client(BESIDE) && !is_client(written(3)));
        for address in ["239.255.255.255", "10.0.0.240", "224.0.0.1", "127.240.0.1"] {
            let address: Ipv4Addr = address.parse().unwrap();
            assert!(!is_alias(u32::from_ne_bytes(address.octets())), "{address}");
        }
    }

    #[test]
    fn an_address_lies_in_a_packet_octet_by_octet() {
        let given = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 0x6789);
        assert_eq!(words(given)[0].to_ne_bytes(), [0x20, 1, 0xd, 0xb8]);
        assert_eq!(words(given)[3].to_ne_bytes(), [0, 5, 0x67, 0x89]);
        assert_eq!(address(words(given)), given);
    }

    #[test]
    fn an_index_comes_back_under_another_alias_each_time() {
        let (mut free, mut seen) = (70_001, std::collections::BTreeSet::new());
        for _ in 0..32 {
            let alias = client(free);
            assert_eq!(meaning(alias), Meaning::Client(70_001));
            assert!(is_client(alias) && seen.insert(alias), "{}", read(alias));
            free = freed(alias);
        }
        assert_eq!(free, 70_001, "all of them were given once");
        assert_eq!(meaning(written(200)), Meaning::Written(200));
    }
}
