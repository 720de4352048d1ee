//! IPv6 addresses as the datapath knows them: by aliases ([`mirror_common::abi::six`]). Here they are given, and read back.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use mirror_common::abi::{
    Turn, maps,
    six::{self, Address, Known, MAX_ADDRESSES, Meaning},
};

/// An element that stands for no address.
const FREE: Address = [0; 4];

/// The aliases that the daemon has written. One that was given once stands for its address as long as the maps are pinned:
/// open connections know it.
#[derive(Clone, Debug)]
pub struct Written(Vec<Address>);

impl Written {
    /// Those of the elements of [`maps::ADDRESSES`].
    pub fn new(elements: Vec<Address>) -> Self {
        Self(elements)
    }

    /// Gives an address an alias, unless it has one.
    ///
    /// # Errors
    /// When there is no room.
    pub fn give(&mut self, address: Ipv6Addr) -> Result<()> {
        let wanted = six::words(address);
        let found = self.0.iter().position(|known| *known == wanted);
        let index = found.or_else(|| self.0.iter().position(|known| *known == FREE));
        let index = index.with_context(|| {
            format!(
                "no room for {address}: {MAX_ADDRESSES} IPv6 addresses were given aliases since `mirror unload`, which \
                 forgets them"
            )
        })?;
        self.0[index] = wanted;
        Ok(())
    }

    /// The elements that stand for an address, with their indices.
    pub fn elements(&self) -> impl Iterator<Item = (u32, Address)> {
        (0..).zip(self.0.iter().copied()).filter(|(_, address)| *address != FREE)
    }

    /// An address as the datapath knows it, in network byte order.
    ///
    /// # Errors
    /// When it is one of IPv6 without an alias.
    pub fn of(&self, address: IpAddr) -> Result<u32> {
        let address = match address {
            IpAddr::V4(four) => return Ok(u32::from_ne_bytes(four.octets())),
            IpAddr::V6(address) => address,
        };
        let wanted = six::words(address);
        let (index, _) = self
            .elements()
            .find(|(_, known)| *known == wanted)
            .with_context(|| format!("{address} has no alias"))?;
        Ok(six::written(index))
    }
}

/// What aliases stand for, read from the pinned arrays.
pub struct Names {
    written: Array<MapData, Address>,
    clients: Array<MapData, Known>,
}

impl Names {
    /// Opens what is pinned.
    ///
    /// # Errors
    /// When there are no such arrays.
    pub fn open(pins: &Path) -> Result<Self> {
        let data = |name: &str| {
            let data = MapData::from_pin(pins.join(name));
            data.map(Map::Array).with_context(|| format!("can't open the pinned map {name}"))
        };
        Ok(Self {
            written: Array::try_from(data(maps::ADDRESSES)?)?,
            clients: Array::try_from(data(maps::CLIENTS)?)?,
        })
    }

    /// Who asked for what was compared.
    pub fn client(&self, turn: &Turn) -> SocketAddr {
        match turn.client {
            six::BESIDE => SocketAddr::new(six::address(turn.six).into(), u16::from_be(turn.port)),
            alias => self.socket(alias, turn.port),
        }
    }

    /// An address and a port, as they lie in a record of the datapath's: what they are outside. A client's alias means what
    /// it does while its connection lasts.
    pub fn socket(&self, addr: u32, port: u16) -> SocketAddr {
        let outside = |meaning| match meaning {
            Meaning::Written(index) => self.written.get(&index, 0).ok(),
            Meaning::Client(index) => {
                let known = self.clients.get(&index, 0).ok().filter(|known| known.alias == addr);
                known.map(|known| known.client.saddr)
            }
        };
        socket(addr, port, outside)
    }
}

/// One that stands for nothing is shown as it is.
fn socket(addr: u32, port: u16, outside: impl FnOnce(Meaning) -> Option<Address>) -> SocketAddr {
    let found = if six::is_alias(addr) { outside(six::meaning(addr)) } else { None };
    let address = match found.filter(|words| *words != FREE) {
        Some(words) => IpAddr::V6(six::address(words)),
        None => IpAddr::V4(Ipv4Addr::from(addr.to_ne_bytes())),
    };
    SocketAddr::new(address, u16::from_be(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// A daemon that starts again reads what the last one has written.
    #[test]
    fn an_alias_that_was_given_stays() {
        let mut first = Written::new(vec![FREE; MAX_ADDRESSES as usize]);
        let names = ["2001:db8::77", "2001:db8:2::2", "2001:db8:2::101"].map(address);
        names.into_iter().try_for_each(|name| first.give(name)).unwrap();
        let aliases: Vec<_> = names.iter().map(|name| first.of((*name).into()).unwrap()).collect();
        assert_eq!(aliases, [0, 1, 2].map(six::written));
        let mut second = Written::new(first.0);
        let later = ["2001:db8:2::101", "2001:db8::78"].map(address);
        later.into_iter().try_for_each(|name| second.give(name)).unwrap();
        for (name, alias) in names.into_iter().zip(aliases) {
            assert_eq!(second.of(name.into()).unwrap(), alias);
        }
        assert_eq!(second.of(later[1].into()).unwrap(), six::written(3));
        assert_eq!(second.elements().count(), 4);
    }

    #[test]
    fn no_address_gets_anothers_alias_when_there_is_no_room() {
        let mut written = Written::new(vec![FREE; 2]);
        written.give(address("2001:db8::1")).unwrap();
        written.give(address("2001:db8::2")).unwrap();
        assert!(written.give(address("2001:db8::3")).unwrap_err().to_string().contains("no room"));
        written.give(address("2001:db8::1")).unwrap();
        assert_eq!(written.of(address("2001:db8::2").into()).unwrap(), six::written(1));
        assert!(written.of(address("2001:db8::3").into()).is_err());
    }

    #[test]
    fn what_lies_in_a_record_is_read_as_it_is_outside() {
        let mut written = Written::new(vec![FREE; 2]);
        let server = address("2001:db8:2::2");
        written.give(server).unwrap();
        let read = |addr| {
            socket(addr, 8_080_u16.to_be(), |meaning| match meaning {
                Meaning::Written(index) => written.0.get(index as usize).copied(),
                Meaning::Client(5) => Some(six::words(address("2001:db8:1::2"))),
                Meaning::Client(_) => None,
            })
            .to_string()
        };
        assert_eq!(read(written.of(server.into()).unwrap()), "[2001:db8:2::2]:8080");
        assert_eq!(read(six::client(5)), "[2001:db8:1::2]:8080");
        assert_eq!(read(u32::from_ne_bytes([10, 0, 1, 2])), "10.0.1.2:8080");
        assert_eq!(read(six::client(6)), "240.0.0.6:8080");
        assert_eq!(read(six::written(1)), "248.0.0.1:8080");
    }
}
