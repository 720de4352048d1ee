//! TCP segments out of a capture.

use std::{fs::File, net::SocketAddrV4, path::Path, time::Duration};

use anyhow::{Context, Result};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_file::pcap::PcapReader;

/// A TCP segment, as a host saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// When, by the capture's clock.
    pub at: Duration,
    /// Who sent it.
    pub from: SocketAddrV4,
    /// Whom it is for.
    pub to: SocketAddrV4,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningless without ACK.
    pub ack: u32,
    /// Flags as they lie in the header: [`mirror_common::flow::tcp`].
    pub flags: u8,
    /// Window field.
    pub window: u16,
    /// The window scale option, on SYN and SYN-ACK.
    pub scale: Option<u8>,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Whether a flag is set.
    pub fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Reads a pcap file; what isn't TCP over IPv4 over Ethernet is left out.
///
/// # Errors
/// If the file can't be read, or a packet of it was cut off by the capture.
pub fn read(path: &Path) -> Result<Vec<Packet>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut reader = PcapReader::new(file).with_context(|| format!("{} is no pcap file", path.display()))?;
    let mut packets = Vec::new();
    while let Some(raw) = reader.next_packet() {
        let raw = raw.with_context(|| format!("a packet of {}", path.display()))?;
        let whole = raw.data.len() as u32 == raw.orig_len;
        if let Some(packet) = parse(raw.timestamp, &raw.data) {
            anyhow::ensure!(whole, "{}: a packet was cut off; capture whole ones", path.display());
            packets.push(packet);
        }
    }
    // Two CPUs write to one capture: what one of them saw a moment earlier may stand behind the other's.
    packets.sort_by_key(|packet| packet.at);
    Ok(packets)
}

fn parse(at: Duration, frame: &[u8]) -> Option<Packet> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (sliced.net, sliced.transport) else {
        return None;
    };
    let header = ip.header();
    let scale = tcp.options_iterator().find_map(|option| match option {
        Ok(etherparse::TcpOptionElement::WindowScale(scale)) => Some(scale),
        _ => None,
    });
    Some(Packet {
        at,
        from: SocketAddrV4::new(header.source_addr(), tcp.source_port()),
        to: SocketAddrV4::new(header.destination_addr(), tcp.destination_port()),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        flags: tcp.slice()[13],
        window: tcp.window_size(),
        scale,
        payload: tcp.payload().to_vec(),
    })
}
