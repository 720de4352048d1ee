//! ICMP errors: Ethernet, IPv4 and 8 bytes of ICMP, then the packet that they are about: its IPv4 header and the first 8
//! bytes of TCP at least (RFC 792). Read into `scratch.header` and, from byte 54 on, `scratch.option_bytes`.

use mirror_common::{
    abi::{Tuple, udp::PROTOCOL},
    checksum,
    flow::Quote,
};

use super::{HEADERS, Header, Macs, Packet, Skb, reload};
use crate::maps::Scratch;

/// Bytes of the quoted packet that are read behind [`HEADERS`]: its addresses, ports and sequence number.
const QUOTED: u32 = 16;

#[inline(always)]
fn load(skb: Skb, scratch: &mut Scratch) -> bool {
    let to = (&raw mut scratch.option_bytes).cast();
    // SAFETY: `option_bytes` has room for 40.
    reload(skb, scratch) && unsafe { skb.load_raw(HEADERS, to, QUOTED) }
}

/// The four bytes at `at` of the quoted part, as they lie in memory.
#[inline(always)]
fn quoted32(scratch: &Scratch, at: usize) -> u32 {
    let b = &scratch.option_bytes;
    u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// What an ICMP error says, and the addresses that an answer to the packet in question would have. `None`: it is no error
/// about a TCP packet or a datagram of the host that it was sent to. Of a datagram, length and checksum stand for the number.
#[inline(always)]
pub fn quote(skb: Skb, scratch: &mut Scratch) -> Option<(Tuple, Quote)> {
    if !load(skb, scratch) {
        return None;
    }
    let (from, to) = (quoted32(scratch, 0), quoted32(scratch, 4));
    let header = &mut scratch.header;
    let whole = header.version == Header::PLAIN_IPV4 && !header.is_fragment();
    let ours = header.protocol == 1 && from == header.daddr;
    let icmp = header.icmp();
    let (kind, code, mtu) = (icmp.kind, icmp.code, u16::from_be(icmp.mtu));
    let error = kind == Quote::UNREACHABLE || kind == Quote::TIME_EXCEEDED || kind == Quote::PARAMETER;
    // The first part of a packet, without IP options.
    let first = u16::from_be(icmp.fragment) & 0x1fff == 0;
    let protocol = icmp.protocol;
    let ports = protocol == 6 || u16::from(protocol) == PROTOCOL;
    if !ours || !whole || !error || icmp.version != Header::PLAIN_IPV4 || !first || !ports {
        return None;
    }
    let ports = quoted32(scratch, 8).to_ne_bytes();
    let sport = u16::from_ne_bytes([ports[0], ports[1]]);
    let dport = u16::from_ne_bytes([ports[2], ports[3]]);
    let seq = u32::from_be(quoted32(scratch, 12));
    let answer = Tuple { saddr: to, daddr: from, sport: dport, dport: sport };
    Some((answer, Quote { seq, kind, code, mtu, protocol }))
}

/// Rewrites the error at hand for the end at `scratch.out`, which sent the packet in question with `scratch.emit`'s number.
///
/// The ICMP checksum follows ports and number alone: the quoted header's own checksum makes up for its addresses. What may be
/// quoted of TCP behind the number stays as it is; nobody looks at it.
#[inline(always)]
pub fn rewrite_error(skb: Skb, scratch: &mut Scratch, macs: Macs) -> bool {
    if !load(skb, scratch) {
        return false;
    }
    let (out, seq) = (scratch.out, scratch.emit.seq);
    let (from, to) = (quoted32(scratch, 0), quoted32(scratch, 4));
    let (ports, old_seq) = (quoted32(scratch, 8), quoted32(scratch, 12));
    let (s, d) = (out.dport.to_ne_bytes(), out.sport.to_ne_bytes());
    let new_ports = u32::from_ne_bytes([s[0], s[1], d[0], d[1]]);
    let header = &mut scratch.header;
    let ip = checksum::diff32(header.saddr, out.saddr) + checksum::diff32(header.daddr, out.daddr);
    header.ip_sum = checksum::update(header.ip_sum, ip);
    header.macs = macs;
    header.saddr = out.saddr;
    header.daddr = out.daddr;
    let icmp = header.icmp();
    let quoted_ip = checksum::diff32(from, out.daddr) + checksum::diff32(to, out.saddr);
    icmp.ip_sum = checksum::update(icmp.ip_sum, quoted_ip);
    let rest = checksum::diff32(ports, new_ports) + checksum::diff32(old_seq, seq.to_be());
    icmp.sum = checksum::update(icmp.sum, rest);
    let quoted = &mut scratch.option_bytes;
    quoted[..4].copy_from_slice(&out.daddr.to_ne_bytes());
    quoted[4..8].copy_from_slice(&out.saddr.to_ne_bytes());
    quoted[8..12].copy_from_slice(&new_ports.to_ne_bytes());
    quoted[12..16].copy_from_slice(&seq.to_be_bytes());
    let quoted = (&raw const scratch.option_bytes).cast();
    // SAFETY: both have as many bytes.
    unsafe { skb.store(0, scratch.header.bytes(), HEADERS) && skb.store(HEADERS, quoted, QUOTED) }
}
