//! Packets by a builder, and what a packet that came out says.

use anyhow::{Context, Result, ensure};
use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TcpHeaderSlice, TransportSlice};
use mirror_common::{
    abi::{
        Tuple,
        six::{self, Client},
    },
    flow::tcp,
};

/// Hardware addresses of the frames that are put in; nobody looks at them.
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2]);

/// Explicit congestion notification: its echo, and that it was heard (RFC 3168, 6.1).
pub const ECE: u8 = 64;
/// See [`ECE`].
pub const CWR: u8 = 128;

/// A TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seg {
    /// [`tcp`] flags.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window field.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options, padded to words.
    pub options: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Seg {
    /// A segment without options and payload, whose window is large.
    pub fn new(flags: u8, seq: u32, ack: u32) -> Self {
        Self { flags, seq, ack, window: 60_000, urgent: 0, options: Vec::new(), payload: Vec::new() }
    }

    /// With a payload.
    #[must_use]
    pub fn with(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With options, as they lie in the header.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// With another window field.
    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// The Ethernet frame, checksums complete.
    ///
    /// # Errors
    /// If the options don't fit.
    pub fn frame(&self, tuple: Tuple) -> Result<Vec<u8>> {
        let builder = PacketBuilder::ethernet2(MACS.0, MACS.1)
            .ipv4(tuple.saddr.to_ne_bytes(), tuple.daddr.to_ne_bytes(), 64)
            .tcp_header(self.header(tuple.sport, tuple.dport)?);
        let mut frame = Vec::new();
        builder.write(&mut frame, &self.payload)?;
        Ok(frame)
    }

    /// The same between IPv6 addresses.
    ///
    /// # Errors
    /// If the options don't fit.
    pub fn frame6(&self, ends: &Client) -> Result<Vec<u8>> {
        let builder = PacketBuilder::ethernet2(MACS.0, MACS.1)
            .ipv6(six::address(ends.saddr).octets(), six::address(ends.daddr).octets(), 64)
            .tcp_header(self.header(ends.sport, ends.dport)?);
        let mut frame = Vec::new();
        builder.write(&mut frame, &self.payload)?;
        Ok(frame)
    }

    /// The header between two ports, in network byte order.
    fn header(&self, sport: u16, dport: u16) -> Result<TcpHeader> {
        let mut header = TcpHeader::new(u16::from_be(sport), u16::from_be(dport), self.seq, self.window);
        header.acknowledgment_number = self.ack;
        header.fin = self.flags & tcp::FIN != 0;
        header.syn = self.flags & tcp::SYN != 0;
        header.rst = self.flags & tcp::RST != 0;
        header.psh = self.flags & tcp::PSH != 0;
        header.ack = self.flags & tcp::ACK != 0;
        header.urg = self.flags & tcp::URG != 0;
        header.ece = self.flags & ECE != 0;
        header.cwr = self.flags & CWR != 0;
        header.urgent_pointer = self.urgent;
        header.set_options_raw(&self.options)?;
        Ok(header)
    }

    /// Reads it out of a packet.
    fn of(header: &TcpHeaderSlice<'_>, payload: &[u8]) -> Self {
        Self {
            flags: header.slice()[13],
            seq: header.sequence_number(),
            ack: header.acknowledgment_number(),
            window: header.window_size(),
            urgent: header.urgent_pointer(),
            options: header.options().to_vec(),
            payload: payload.to_vec(),
        }
    }
}

/// What an IPv6 frame that came out is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Out6 {
    /// Its addresses and ports.
    pub ends: Client,
    /// Traffic class and hop limit.
    pub class_and_hops: [u8; 2],
    /// The segment.
    pub seg: Seg,
}

impl Out6 {
    /// Reads a frame.
    ///
    /// # Errors
    /// If it isn't TCP over IPv6, or a length or checksum is wrong.
    pub fn parse(frame: &[u8]) -> Result<Self> {
        let sliced = SlicedPacket::from_ethernet(frame).context("no packet came out")?;
        let ip = sliced.net.as_ref().and_then(|net| net.ipv6_ref()).context("not IPv6")?.header();
        ensure!(usize::from(ip.payload_length()) + 54 == frame.len(), "{} bytes", frame.len());
        let Some(TransportSlice::Tcp(slice)) = &sliced.transport else { anyhow::bail!("not TCP") };
        let header = TcpHeaderSlice::from_slice(slice.header_slice())?;
        let sum = header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), slice.payload())?;
        ensure!(sum == header.checksum(), "TCP checksum {:#x} instead of {sum:#x}", header.checksum());
        let ends = Client {
            saddr: six::words(ip.source().into()),
            daddr: six::words(ip.destination().into()),
            sport: header.source_port().to_be(),
            dport: header.destination_port().to_be(),
        };
        let class_and_hops = [ip.traffic_class(), ip.hop_limit()];
        Ok(Self { ends, class_and_hops, seg: Seg::of(&header, slice.payload()) })
    }
}

/// What a frame that came out is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Out {
    /// What lies before the IP checksum: hardware addresses; lengths, identification, fragment flags, time to live, protocol.
    pub head: [u8; 24],
    /// Its addresses and ports.
    pub tuple: Tuple,
    /// The segment.
    pub seg: Seg,
}

impl Out {
    /// Reads a frame.
    ///
    /// # Errors
    /// If it isn't TCP over IPv4, or a length or checksum is wrong.
    pub fn parse(frame: &[u8]) -> Result<Self> {
        let sliced = SlicedPacket::from_ethernet(frame).context("no packet came out")?;
        let ip = sliced.net.as_ref().and_then(|net| net.ipv4_ref()).context("not IPv4")?.header();
        ensure!(ip.to_header().calc_header_checksum() == ip.header_checksum(), "a wrong IP checksum");
        let Some(TransportSlice::Tcp(slice)) = &sliced.transport else { anyhow::bail!("not TCP") };
        let header: TcpHeaderSlice<'_> = TcpHeaderSlice::from_slice(slice.header_slice())?;
        let payload = slice.payload();
        let sum = header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), payload)?;
        ensure!(sum == header.checksum(), "TCP checksum {:#x} instead of {sum:#x}", header.checksum());
        let tuple = Tuple {
            saddr: u32::from_ne_bytes(ip.source()),
            daddr: u32::from_ne_bytes(ip.destination()),
            sport: header.source_port().to_be(),
            dport: header.destination_port().to_be(),
        };
        let seg = Seg::of(&header, payload);
        let head = *frame.first_chunk().context("shorter than its headers")?;
        Ok(Self { head, tuple, seg })
    }
}
