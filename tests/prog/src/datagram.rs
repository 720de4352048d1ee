//! A service of datagrams on the stage: name servers beside the other service's.

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice, UdpHeader};
use lab::net::Host;
use mirror_common::{
    abi::{
        Service, ServiceKey, Tuple, maps,
        udp::{self, Awaited, Exchange, ExchangeKey, Silence},
    },
    checksum,
};

use crate::stage::{Stage, VIP_RAW, service, silent};

/// Where name servers listen, as it lies in a packet.
pub const DNS_PORT: u16 = 53_u16.to_be();
/// Hardware addresses of the frames that are put in; nobody looks at them.
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2]);
/// Offset of UDP's checksum in a frame.
const CHECKSUM: usize = 40;

/// Opcodes (RFC 1035, 4.1.1; RFC 2136, 1.3).
pub const QUERY: u8 = 0;
/// See [`QUERY`].
pub const UPDATE: u8 = 5;

/// A client's DNS message with an opcode.
pub fn asks(id: u16, opcode: u8) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([opcode << 3, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(b"\x03www\x07example\0\0\x01\0\x01");
    message
}

/// A server's DNS message with a response code, and something behind it.
pub fn answers(id: u16, code: u8, more: &[u8]) -> Vec<u8> {
    let mut message = asks(id, QUERY);
    message[2] |= 0x80;
    message[3] |= code;
    message.extend(more);
    message
}

/// The addresses of a client's datagram from `port`.
pub fn client_tuple(port: u16) -> Tuple {
    let saddr = u32::from_ne_bytes(silent(Host::Client).octets());
    Tuple { saddr, daddr: VIP_RAW, sport: port.to_be(), dport: DNS_PORT }
}

/// The addresses of an answer to it.
pub fn back(tuple: Tuple) -> Tuple {
    Tuple { saddr: tuple.daddr, daddr: tuple.saddr, sport: tuple.dport, dport: tuple.sport }
}

/// A frame, its checksum complete.
///
/// # Errors
/// If the payload is too long.
pub fn frame(tuple: Tuple, payload: &[u8]) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(MACS.0, MACS.1)
        .ipv4(tuple.saddr.to_ne_bytes(), tuple.daddr.to_ne_bytes(), 64)
        .udp(u16::from_be(tuple.sport), u16::from_be(tuple.dport));
    let mut frame = Vec::new();
    builder.write(&mut frame, payload)?;
    Ok(frame)
}

/// The same without a checksum.
///
/// # Errors
/// As [`frame`].
pub fn frame_without_sum(tuple: Tuple, payload: &[u8]) -> Result<Vec<u8>> {
    let mut frame = frame(tuple, payload)?;
    frame[CHECKSUM..CHECKSUM + 2].fill(0);
    Ok(frame)
}

/// What the host that a datagram was sent to says of it: nothing listens there (RFC 792).
///
/// # Errors
/// If it doesn't fit.
pub fn port_unreachable(about: Tuple, payload: &[u8]) -> Result<Vec<u8>> {
    let sent = frame(about, payload)?;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(MACS.0, MACS.1)
        .ipv4(about.daddr.to_ne_bytes(), about.saddr.to_ne_bytes(), 64)
        .icmpv4_raw(3, 3, [0; 4])
        .write(&mut frame, &sent[14..])?;
    Ok(frame)
}

/// The addresses of the datagram that such an error is about, once its sums are found right, and those of the error itself.
///
/// # Errors
/// If it is another message, or a checksum is wrong.
pub fn unreachable_of(frame: &[u8]) -> Result<(Tuple, [u32; 2])> {
    let word = |at: usize| -> Result<u32> {
        Ok(u32::from_ne_bytes(frame.get(at..at + 4).context("too short")?.try_into()?))
    };
    let ports = |at: usize| -> Result<[u16; 2]> {
        let [a, b, c, d] = word(at)?.to_ne_bytes();
        Ok([u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])])
    };
    ensure!(frame.get(34..36) == Some(&[3, 3]), "another message: {frame:?}");
    for (what, bytes) in [("IP's", 14..34), ("ICMP's", 34..frame.len()), ("the quoted IP's", 42..62)] {
        ensure!(checksum::of(frame.get(bytes).context("too short")?) == 0, "{what} checksum is wrong");
    }
    let [sport, dport] = ports(62)?;
    Ok((Tuple { saddr: word(54)?, daddr: word(58)?, sport, dport }, [word(26)?, word(30)?]))
}

/// What a frame that came out is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Out {
    /// Its addresses and ports.
    pub tuple: Tuple,
    /// Its payload.
    pub payload: Vec<u8>,
    /// It has a checksum.
    pub summed: bool,
}

impl Out {
    /// Reads a frame.
    ///
    /// # Errors
    /// If it isn't UDP over IPv4, or a length or checksum is wrong.
    pub fn parse(frame: &[u8]) -> Result<Self> {
        let sliced = SlicedPacket::from_ethernet(frame).context("no packet came out")?;
        let ip = sliced.net.as_ref().and_then(|net| net.ipv4_ref()).context("not IPv4")?.header();
        ensure!(ip.to_header().calc_header_checksum() == ip.header_checksum(), "a wrong IP checksum");
        let Some(TransportSlice::Udp(slice)) = &sliced.transport else { anyhow::bail!("not UDP") };
        let (header, payload) = (slice.to_header(), slice.payload());
        ensure!(usize::from(header.length) == UdpHeader::LEN + payload.len(), "{header:?}");
        let summed = header.checksum != 0;
        let sum = header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), payload)?;
        ensure!(!summed || sum == header.checksum, "checksum {:#x} instead of {sum:#x}", header.checksum);
        let tuple = Tuple {
            saddr: u32::from_ne_bytes(ip.source()),
            daddr: u32::from_ne_bytes(ip.destination()),
            sport: header.source_port.to_be(),
            dport: header.destination_port.to_be(),
        };
        Ok(Self { tuple, payload: payload.to_vec(), summed })
    }
}

impl Stage {
    /// Makes the service of datagrams; `flags`: [`Service::DNS`] or [`Service::WRITES`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_datagrams(&mut self, flags: u32) -> Result<()> {
        let mut service = service();
        service.flags = Service::SHADOWED | flags;
        service.endpoints.iter_mut().for_each(|end| end.port = DNS_PORT);
        self.insert(maps::PEERS, udp::fragments_of(0, VIP_RAW), 0_u32)?;
        for end in service.endpoints {
            self.insert(maps::PEERS, udp::fragments_of(end.addr, end.nat), 0_u32)?;
        }
        let key = ServiceKey { addr: VIP_RAW, port: DNS_PORT, protocol: udp::PROTOCOL };
        self.insert(maps::SILENCE, key, Silence::default())?;
        self.insert(maps::SERVICES, key, service)
    }

    /// Lets a side have been silent for so long, in nanoseconds, if it owes an answer.
    ///
    /// # Errors
    /// If there is no service of datagrams.
    pub fn silent_for(&mut self, side: usize, ns: u64) -> Result<()> {
        let key = ServiceKey { addr: VIP_RAW, port: DNS_PORT, protocol: udp::PROTOCOL };
        let map = self.bpf.map(maps::SILENCE).context(maps::SILENCE)?;
        let mut silence = HashMap::<_, ServiceKey, Silence>::try_from(map)?.get(&key, 0)?;
        silence.since_ns[side] = silence.since_ns[side].saturating_sub(ns);
        self.insert(maps::SILENCE, key, silence)
    }

    /// The answer of a side (0, 1) to what it was sent: its addresses.
    ///
    /// # Errors
    /// If that side wasn't asked.
    pub fn answer_tuple(&self, key: &ExchangeKey, side: usize) -> Result<Tuple> {
        let end = self.endpoint(side)?;
        let port = self.exchange(key)?.ports[side];
        ensure!(port != 0, "side {side} wasn't asked");
        Ok(Tuple { saddr: end.addr, daddr: end.nat, sport: DNS_PORT, dport: port.to_be() })
    }

    /// An exchange.
    ///
    /// # Errors
    /// If there is none.
    pub fn exchange(&self, key: &ExchangeKey) -> Result<Exchange> {
        let map = self.bpf.map(maps::EXCHANGES).context(maps::EXCHANGES)?;
        Ok(HashMap::<_, ExchangeKey, Exchange>::try_from(map)?.get(key, 0)?)
    }

    /// Changes an exchange, as no daemon would.
    ///
    /// # Errors
    /// If there is none.
    pub fn set_exchange(&mut self, key: &ExchangeKey, change: impl FnOnce(&mut Exchange)) -> Result<()> {
        let mut exchange = self.exchange(key)?;
        change(&mut exchange);
        self.insert(maps::EXCHANGES, *key, exchange)
    }

    /// Takes an exchange away, as nothing but a race would.
    ///
    /// # Errors
    /// If there is none.
    pub fn evict(&mut self, key: &ExchangeKey) -> Result<()> {
        let map = self.bpf.map_mut(maps::EXCHANGES).context(maps::EXCHANGES)?;
        Ok(HashMap::<_, ExchangeKey, Exchange>::try_from(map)?.remove(key)?)
    }

    /// The service's stall budget, in milliseconds.
    ///
    /// # Errors
    /// If there is no service of datagrams.
    pub fn stall_ms(&self) -> Result<u32> {
        let map = self.bpf.map(maps::SERVICES).context(maps::SERVICES)?;
        let key = ServiceKey { addr: VIP_RAW, port: DNS_PORT, protocol: udp::PROTOCOL };
        Ok(HashMap::<_, ServiceKey, Service>::try_from(map)?.get(&key, 0)?.stall_ms)
    }

    /// A map of counts by CPU.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn per_cpu(&self, name: &str) -> Result<PerCpuArray<&MapData, u64>> {
        Ok(PerCpuArray::try_from(self.bpf.map(name).with_context(|| name.to_owned())?)?)
    }

    /// The answers that are awaited.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn awaited(&self) -> Result<Vec<(Tuple, Awaited)>> {
        let map = self.bpf.map(maps::AWAITED).context(maps::AWAITED)?;
        Ok(HashMap::<_, Tuple, Awaited>::try_from(map)?.iter().collect::<Result<_, _>>()?)
    }

    /// Makes everything that is under way older, in nanoseconds.
    ///
    /// # Errors
    /// If the maps can't be changed.
    pub fn age(&mut self, by: u64) -> Result<()> {
        for (tuple, mut awaited) in self.awaited()? {
            awaited.last_ns = awaited.last_ns.saturating_sub(by);
            self.insert(maps::AWAITED, tuple, awaited)?;
            if self.exchange(&awaited.key).is_ok() {
                self.set_exchange(&awaited.key, |exchange| {
                    exchange.asked_ns = exchange.asked_ns.saturating_sub(by);
                })?;
            }
        }
        Ok(())
    }

    /// Awaits nothing any more.
    ///
    /// # Errors
    /// If the map can't be changed.
    pub fn await_nothing(&mut self) -> Result<()> {
        for (tuple, _) in self.awaited()? {
            let map = self.bpf.map_mut(maps::AWAITED).context(maps::AWAITED)?;
            HashMap::<_, Tuple, Awaited>::try_from(map)?.remove(&tuple)?;
        }
        Ok(())
    }

    /// Looks for answers that don't come.
    ///
    /// # Errors
    /// If the kernel refuses the program.
    pub fn lapse(&mut self) -> Result<()> {
        self.visit("mirror_lapse")
    }

    /// Forgets exchanges that nobody waits for.
    ///
    /// # Errors
    /// If the kernel refuses the program.
    pub fn forget(&mut self) -> Result<()> {
        self.visit("mirror_forget")
    }

    fn visit(&mut self, name: &'static str) -> Result<()> {
        let program: &mut Xdp = self.bpf.program_mut(name).context(name)?.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        program.test_run(TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::default() })?;
        Ok(())
    }
}
