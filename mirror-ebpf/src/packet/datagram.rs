//! Datagrams: Ethernet, IPv4 or IPv6, 8 bytes of UDP (RFC 768), and where there is one, the beginning of a DNS message.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::bpf_l4_csum_replace,
};
use mirror_common::{
    abi::{six::Client, udp::PROTOCOL},
    checksum,
    datagram::{DNS_HEADER, Message},
};

use super::{ETH, Header, Header6, Macs, Packet, Skb, UDP_CHECKSUM, six::LONGER};
use crate::{maps::Scratch, six};

/// Ethernet, IPv4 without options and UDP, in bytes.
const UDP_HEADERS: u32 = 42;
/// UDP's header, in bytes.
const UDP: u16 = 8;
/// Bytes of a DNS message that are read.
const MESSAGE: u32 = 4;
/// Offset of IPv6's addresses, and how many bytes they are; the ports are behind them.
const ADDRESSES: u32 = ETH + 8;
const ADDRESS_BYTES: u32 = 32;

/// By how much its headers are longer than those of IPv4.
#[inline(always)]
fn longer(skb: Skb) -> u32 {
    if skb.is_ipv6() { LONGER } else { 0 }
}

/// Offset of a datagram's payload.
#[inline(always)]
pub fn payload_at(skb: Skb) -> u32 {
    UDP_HEADERS + longer(skb)
}

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

/// Reads the headers of an IPv6 datagram into `scratch.header6`, and UDP's into `scratch.header` as IPv4's would have it. Whether
/// it is one.
#[inline(always)]
pub fn load6(skb: Skb, scratch: &mut Scratch) -> bool {
    if !skb.headers6(&mut scratch.header6) || u16::from(scratch.header6.next) != PROTOCOL {
        return false;
    }
    let total = u32::from(u16::from_be(scratch.header6.payload)) + 20;
    let header = &mut scratch.header;
    header.total = (total as u16).to_be();
    header.fragment = 0;
    // SAFETY: the header has as many bytes from there on.
    unsafe {
        let udp = (&raw mut *header).byte_add(offset_of!(Header, sport)).cast();
        total <= 0xffff && skb.load_raw(Header6::BYTES, udp, UDP.into())
    }
}

/// Reads the DNS message that a datagram's payload may begin with into `scratch.message`; `scratch.payload` has the payload's
/// bytes. False: its lengths contradict each other, or it lacks the checksum that IPv6 asks for (RFC 8200, 8.1).
#[inline(always)]
pub fn message(skb: Skb, scratch: &mut Scratch) -> bool {
    let total = u16::from_be(scratch.header.total);
    let (longer, udp) = (longer(skb), scratch.header.udp());
    let length = u16::from_be(udp.length);
    let unsummed = longer != 0 && udp.sum == 0;
    if unsummed
        || length < UDP
        || total < length.wrapping_add(20)
        || u32::from(total) + longer + ETH > skb.length()
    {
        return false;
    }
    scratch.payload = u32::from(length - UDP);
    scratch.message = Message::NONE;
    let to = (&raw mut scratch.message).cast();
    // SAFETY: a message's beginning is as many bytes.
    if scratch.payload >= DNS_HEADER && unsafe { skb.load_raw(UDP_HEADERS + longer, to, MESSAGE) } {
        scratch.message.id = u16::from_be(scratch.message.id);
        scratch.message.flags = u16::from_be(scratch.message.flags);
    }
    true
}

/// Makes the datagram at hand one of the family of `scratch.out`, if it isn't. False: it can't be one.
#[inline(never)]
pub fn translate(skb: Skb, scratch: &mut Scratch, to_six: bool) -> bool {
    match (skb.is_ipv6(), to_six) {
        (true, false) => load6(skb, scratch) && skb.make_four_datagram(scratch),
        (false, true) => six::resolve(scratch) && load(skb, scratch) && skb.make_six_datagram(scratch),
        (false, false) | (true, true) => true,
    }
}

/// Rewrites the datagram at hand towards `scratch.out`, whose family it is of, and `macs`; all but addresses and ports stays as
/// it is.
///
/// A checksum of zero says that there is none, and stays; one that comes to zero is written as its other zero (RFC 768). What was
/// left to the device holds the pseudo-header's sum alone, and follows that.
#[inline(always)]
pub fn rewrite(skb: Skb, scratch: &mut Scratch, macs: Macs) -> bool {
    if skb.is_ipv6() {
        return rewrite6(skb, scratch, macs);
    }
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
    // SAFETY: within the headers, which were read.
    unsafe { follow(skb, 0, ports, pseudo) && skb.store(0, scratch.header.bytes(), UDP_CHECKSUM) }
}

/// [`rewrite`] of an IPv6 datagram, towards the addresses of `scratch.header6`.
#[inline(always)]
fn rewrite6(skb: Skb, scratch: &mut Scratch, mut macs: Macs) -> bool {
    let was = &mut scratch.client6;
    // SAFETY: addresses and ports lie in a packet as they do there.
    if !unsafe { skb.load_raw(ADDRESSES, (&raw mut *was).cast(), size_of::<Client>() as u32) } {
        return false;
    }
    let (out, becomes) = (scratch.out, &scratch.header6);
    let mut pseudo = 0;
    for word in 0..4 {
        pseudo += checksum::diff32(was.saddr[word], becomes.saddr[word]);
        pseudo += checksum::diff32(was.daddr[word], becomes.daddr[word]);
    }
    let ports = checksum::diff16(was.sport, out.sport) + checksum::diff16(was.dport, out.dport);
    (was.saddr, was.daddr) = (becomes.saddr, becomes.daddr);
    let mut both = [out.sport, out.dport];
    let ends = (&raw const scratch.client6).cast();
    // What a device has summed follows the addresses here, whose change no checksum of IP's makes up for.
    // SAFETY: within the headers, which were read.
    unsafe {
        follow(skb, LONGER, ports, pseudo)
            && skb.store(0, macs.as_mut_ptr().cast(), size_of::<Macs>() as u32)
            && skb.store_summed(ADDRESSES, ends, ADDRESS_BYTES)
            && skb.store(ADDRESSES + ADDRESS_BYTES, both.as_mut_ptr().cast(), 4)
    }
}

/// UDP's checksum, `behind` so many bytes more than IPv4's headers, follows the ports' change and the pseudo-header's.
#[inline(always)]
fn follow(skb: Skb, behind: u32, ports: u64, pseudo: u64) -> bool {
    let (pseudo, ports) = (u64::from(checksum::fold(pseudo)), u64::from(checksum::fold(ports)));
    let (at, mark) = (UDP_CHECKSUM + behind, u64::from(BPF_F_MARK_MANGLED_0));
    // SAFETY: the packet's own context.
    unsafe {
        let context = skb.context().cast();
        let mut failed = bpf_l4_csum_replace(context, at, 0, ports, mark);
        failed |= bpf_l4_csum_replace(context, at, 0, pseudo, mark | u64::from(BPF_F_PSEUDO_HDR));
        failed == 0
    }
}
