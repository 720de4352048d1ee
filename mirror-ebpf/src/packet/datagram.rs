//! Datagrams: Ethernet, IPv4 and 8 bytes of UDP (RFC 768), and where there is one, the beginning of a DNS message.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::bpf_l4_csum_replace,
};
use mirror_common::{
    abi::udp::PROTOCOL,
    checksum,
    datagram::{DNS_HEADER, Message},
};

use super::{ETH, Header, Macs, Packet, Skb};
use crate::maps::Scratch;

/// Ethernet, IPv4 without options and UDP, in bytes.
pub const UDP_HEADERS: u32 = 42;
/// Offset of UDP's checksum, behind all that is rewritten.
const CHECKSUM: u32 = 40;
/// UDP's header, in bytes.
const UDP: u16 = 8;
/// Bytes of a DNS message that are read.
const MESSAGE: u32 = 4;

/// Reads the headers of an IPv4 datagram without options into `scratch.header` and `scratch.tuple`. Whether it is one. Of a
/// fragment no port is one.
#[inline(always)]
pub fn load(skb: Skb, scratch: &mut Scratch) -> bool {
    // SAFETY: the header has room for more.
    let loaded = skb.is_ipv4() && unsafe { skb.load_raw(0, scratch.header.bytes(), UDP_HEADERS) };
    let header = &scratch.header;
    if !loaded || u16::from(header.protocol) != PROTOCOL || header.version != Header::PLAIN_IPV4 {
        return false;
    }
    let tuple = &mut scratch.tuple;
    (tuple.saddr, tuple.daddr) = (header.saddr, header.daddr);
    (tuple.sport, tuple.dport) = (header.sport, header.dport);
    true
}

/// Reads the DNS message that a datagram's payload may begin with into `scratch.message`; `scratch.payload` has the payload's
/// bytes. False: its lengths contradict each other.
#[inline(always)]
pub fn message(skb: Skb, scratch: &mut Scratch) -> bool {
    let total = u16::from_be(scratch.header.total);
    let length = u16::from_be(scratch.header.udp().length);
    if length < UDP || total < length.wrapping_add(20) || u32::from(total) + ETH > skb.length() {
        return false;
    }
    scratch.payload = u32::from(length - UDP);
    scratch.message = Message::NONE;
    let to = (&raw mut scratch.message).cast();
    // SAFETY: a message's beginning is as many bytes.
    if scratch.payload >= DNS_HEADER && unsafe { skb.load_raw(UDP_HEADERS, to, MESSAGE) } {
        scratch.message.id = u16::from_be(scratch.message.id);
        scratch.message.flags = u16::from_be(scratch.message.flags);
    }
    true
}

/// Rewrites the datagram at hand towards `scratch.out` and `macs`; all but addresses and ports stays as it is.
///
/// A checksum of zero says that there is none, and stays; one that comes to zero is written as its other zero (RFC 768). What was
/// left to the device holds the pseudo-header's sum alone, and follows that.
#[inline(always)]
pub fn rewrite(skb: Skb, scratch: &mut Scratch, macs: Macs) -> bool {
    if !load(skb, scratch) {
        return false;
    }
    let out = scratch.out;
    let header = &mut scratch.header;
    let pseudo = checksum::diff32(header.saddr, out.saddr) + checksum::diff32(header.daddr, out.daddr);
    let ports = checksum::diff16(header.sport, out.sport) + checksum::diff16(header.dport, out.dport);
    header.ip_sum = checksum::update(header.ip_sum, pseudo);
    header.macs = macs;
    (header.saddr, header.daddr) = (out.saddr, out.daddr);
    (header.sport, header.dport) = (out.sport, out.dport);
    let (pseudo, ports) = (u64::from(checksum::fold(pseudo)), u64::from(checksum::fold(ports)));
    let mark = u64::from(BPF_F_MARK_MANGLED_0);
    // SAFETY: within the headers, which were read.
    unsafe {
        let context = skb.context().cast();
        let mut failed = bpf_l4_csum_replace(context, CHECKSUM, 0, ports, mark);
        failed |= bpf_l4_csum_replace(context, CHECKSUM, 0, pseudo, mark | u64::from(BPF_F_PSEUDO_HDR));
        failed == 0 && skb.store(0, scratch.header.bytes(), CHECKSUM)
    }
}
