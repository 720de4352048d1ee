//! Datagrams of either family, by the addresses that they have outside.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{Icmpv4Slice, Icmpv6Slice, PacketBuilder, SlicedPacket, TransportSlice, UdpHeader};
use lab::net::Host;
use mirror_common::{
    abi::{
        Service, ServiceKey, Tuple, maps,
        six::{self, BESIDE},
        udp::{self, ExchangeKey, Silence},
    },
    switch_word::Side,
};

use crate::{
    datagram::DNS_PORT,
    six::{VIP6, nat6, silent6},
    stage::{Stage, VIP_RAW, silent},
};

/// Hardware addresses of the frames that are put in; nobody looks at them.
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2]);
/// Hosts of the two sides, in their order.
const SERVERS: [Host; 2] = [Host::Primary, Host::Shadow];

/// Where name servers listen.
const DNS: u16 = u16::from_be(DNS_PORT);

/// From where to where a datagram goes.
pub type Ends = (SocketAddr, SocketAddr);

/// The way back.
pub fn back((from, to): Ends) -> Ends {
    (to, from)
}

/// A client's question's ends.
pub fn client(six: bool, port: u16) -> Ends {
    match six {
        true => ((silent6(Host::Client), port).into(), (VIP6, DNS).into()),
        false => (
            (silent(Host::Client), port).into(),
            (std::net::Ipv4Addr::from(VIP_RAW.to_ne_bytes()), DNS).into(),
        ),
    }
}

/// A question's ends towards a side, which leaves from `port`.
pub fn towards(side: usize, six: bool, port: u16) -> Result<Ends> {
    let host = SERVERS[side];
    Ok(match six {
        true => ((nat6(Side::BOTH[side]), port).into(), (silent6(host), DNS).into()),
        false => ((host.nat_pool()[0], port).into(), (silent(host), DNS).into()),
    })
}

/// What the datapath keeps a client's question by.
pub fn key((from, to): Ends, id: u16) -> ExchangeKey {
    let (saddr, six) = match from.ip() {
        IpAddr::V4(four) => (u32::from_ne_bytes(four.octets()), [0; 4]),
        IpAddr::V6(address) => (BESIDE, six::words(address)),
    };
    let daddr = if to.is_ipv6() { six::written(0) } else { VIP_RAW };
    let client = Tuple { saddr, daddr, sport: from.port().to_be(), dport: to.port().to_be() };
    ExchangeKey::new(client, six, id)
}

/// Offset of a datagram's checksum in a frame.
fn checksum_at(frame: &[u8]) -> usize {
    if frame[12..14] == [8, 0] { 40 } else { 60 }
}

/// A frame, its checksum complete.
///
/// # Errors
/// If its ends are of two families, or the payload is too long.
pub fn frame((from, to): Ends, payload: &[u8]) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(MACS.0, MACS.1);
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => bail!("{from} and {to} are of two families"),
    };
    let mut frame = Vec::new();
    builder.udp(from.port(), to.port()).write(&mut frame, payload)?;
    Ok(frame)
}

/// The same without a checksum.
///
/// # Errors
/// As [`frame`].
pub fn frame_without_sum(ends: Ends, payload: &[u8]) -> Result<Vec<u8>> {
    let mut frame = frame(ends, payload)?;
    let at = checksum_at(&frame);
    frame[at..at + 2].fill(0);
    Ok(frame)
}

/// A frame that came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Out {
    /// From where to where.
    pub ends: Ends,
    /// Its payload.
    pub payload: Vec<u8>,
    /// It has a checksum.
    pub summed: bool,
    /// Type of service or traffic class, and time to live or hop limit.
    pub class_and_hops: [u8; 2],
}

impl Out {
    /// Reads a frame.
    ///
    /// # Errors
    /// If it isn't UDP, a length or checksum is wrong, or IPv6's lacks one.
    pub fn parse(frame: &[u8]) -> Result<Self> {
        let sliced = SlicedPacket::from_ethernet(frame).context("no packet came out")?;
        let Some(TransportSlice::Udp(slice)) = &sliced.transport else { bail!("not UDP: {frame:?}") };
        let (header, payload) = (slice.to_header(), slice.payload());
        ensure!(usize::from(header.length) == UdpHeader::LEN + payload.len(), "{header:?}");
        let net = sliced.net.as_ref().context("no IP")?;
        let (ends, sum, class_and_hops): ([IpAddr; 2], _, _) = if let Some(ip) = net.ipv4_ref() {
            let ip = ip.header();
            ensure!(ip.to_header().calc_header_checksum() == ip.header_checksum(), "a wrong IP checksum");
            let sum = header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), payload)?;
            ensure!(ip.dont_fragment() || ip.identification() == 0, "{ip:?}");
            ([ip.source_addr().into(), ip.destination_addr().into()], sum, [frame[15], ip.ttl()])
        } else {
            let ip = net.ipv6_ref().context("neither IPv4 nor IPv6")?.header();
            ensure!(usize::from(ip.payload_length()) + 54 == frame.len(), "{} bytes", frame.len());
            ensure!(header.checksum != 0, "IPv6 without a checksum");
            let sum = header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), payload)?;
            let class_and_hops = [ip.traffic_class(), ip.hop_limit()];
            ([ip.source_addr().into(), ip.destination_addr().into()], sum, class_and_hops)
        };
        let summed = header.checksum != 0;
        ensure!(!summed || sum == header.checksum, "checksum {:#x} instead of {sum:#x}", header.checksum);
        let [from, to] = ends;
        let ends = (SocketAddr::new(from, header.source_port), SocketAddr::new(to, header.destination_port));
        Ok(Self { ends, payload: payload.to_vec(), summed, class_and_hops })
    }
}

/// What the host that a datagram was sent to says of it: nothing listens there (RFC 792; RFC 4443, 3.1).
///
/// # Errors
/// As [`frame`].
pub fn port_unreachable(about: Ends, payload: &[u8]) -> Result<Vec<u8>> {
    let sent = frame(about, payload)?;
    let builder = PacketBuilder::ethernet2(MACS.0, MACS.1);
    let mut frame = Vec::new();
    match (about.0.ip(), about.1.ip()) {
        (IpAddr::V4(to), IpAddr::V4(from)) => builder
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4_raw(3, 3, [0; 4])
            .write(&mut frame, &sent[14..])?,
        (IpAddr::V6(to), IpAddr::V6(from)) => builder
            .ipv6(from.octets(), to.octets(), 64)
            .icmpv6_raw(1, 4, [0; 4])
            .write(&mut frame, &sent[14..])?,
        _ => bail!("of two families"),
    }
    Ok(frame)
}

/// The ends of the datagram that such an error is about, as it quotes them, and the length that it quotes; once its sums are
/// found right, and itself on its way to the first of them.
///
/// # Errors
/// If it is another message, or a checksum is wrong.
pub fn unreachable_of(frame: &[u8]) -> Result<(Ends, u16)> {
    let sliced = SlicedPacket::from_ethernet(frame).context("no packet came out")?;
    let net = sliced.net.as_ref().context("no IP")?;
    let (to, quoted) = match &sliced.transport {
        Some(TransportSlice::Icmpv4(icmp)) => {
            let (icmp, ip): (&Icmpv4Slice<'_>, _) = (icmp, net.ipv4_ref().context("not IPv4")?.header());
            ensure!(mirror_common::checksum::of(icmp.slice()) == 0, "a wrong ICMP checksum");
            ensure!((icmp.type_u8(), icmp.code_u8()) == (3, 3), "{icmp:?}");
            (IpAddr::from(ip.destination_addr()), icmp.payload())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (icmp, ip): (&Icmpv6Slice<'_>, _) = (icmp, net.ipv6_ref().context("not IPv6")?.header());
            ensure!(icmp.is_checksum_valid(ip.source(), ip.destination()), "a wrong ICMPv6 checksum");
            ensure!((icmp.type_u8(), icmp.code_u8()) == (1, 4), "{icmp:?}");
            (IpAddr::from(ip.destination_addr()), icmp.payload())
        }
        other => bail!("no error: {other:?}"),
    };
    let half = |at: usize| -> Result<u16> {
        Ok(u16::from_be_bytes(quoted.get(at..at + 2).context("too short")?.try_into()?))
    };
    let (ends, udp, protocol): ([IpAddr; 2], _, _) = if quoted[0] >> 4 == 4 {
        let at =
            |at: usize| -> Result<[u8; 4]> { Ok(quoted.get(at..at + 4).context("too short")?.try_into()?) };
        ensure!(mirror_common::checksum::of(&quoted[..20]) == 0, "a wrong sum of the quoted header");
        ensure!(half(2)? == half(24)? + 20, "the quoted length");
        ([at(12)?.into(), at(16)?.into()], 20, quoted[9])
    } else {
        let at =
            |at: usize| -> Result<[u8; 16]> { Ok(quoted.get(at..at + 16).context("too short")?.try_into()?) };
        ensure!(half(4)? == half(44)?, "the quoted length");
        ([at(8)?.into(), at(24)?.into()], 40, quoted[6])
    };
    ensure!(protocol == 17 && ends[0] == to, "{ends:?}, to {to}");
    let ends = (SocketAddr::new(ends[0], half(udp)?), SocketAddr::new(ends[1], half(udp + 2)?));
    Ok((ends, half(udp + 4)?))
}

impl Stage {
    /// Makes services of datagrams at both addresses; which sides' servers have IPv6 addresses. [`Stage::with_ipv6`] comes first.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_datagrams_between(&mut self, flags: u32, servers6: [bool; 2]) -> Result<()> {
        let mut service = crate::stage::service();
        service.flags = Service::SHADOWED | flags;
        for (at, end) in service.endpoints.iter_mut().enumerate() {
            end.port = DNS_PORT;
            if servers6[at] {
                let first = 1 + 2 * at as u32;
                (end.addr, end.nat) = (six::written(first), six::written(first + 1));
            }
            self.insert(maps::PEERS, udp::fragments_of(end.addr, end.nat), 0_u32)?;
        }
        for addr in [VIP_RAW, six::written(0)] {
            self.insert(maps::PEERS, udp::fragments_of(0, addr), 0_u32)?;
            let key = ServiceKey { addr, port: DNS_PORT, protocol: udp::PROTOCOL };
            self.insert(maps::SILENCE, key, Silence::default())?;
            self.insert(maps::SERVICES, key, service)?;
        }
        Ok(())
    }
}
