//! ICMP errors where IPv6 is on either side: read, and made anew for the end that is to hear of it, in its family
//! (RFC 7915, 4.2 and 5.2). Of the packet in question they quote the IP header and 8 bytes of TCP or UDP.

use aya_ebpf::helpers::generated::bpf_skb_change_proto;
use mirror_common::{
    abi::{
        six::{Address, is_alias},
        udp::PROTOCOL,
    },
    checksum,
    flow::{LEAST_MTU, Quote},
};

use super::{ETH, Header6, Macs, PROTOCOL_IPV4, Packet, Skb, six::PROTOCOL_IPV6};
use crate::maps::Scratch;

/// Numbers of protocols.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// ICMPv6's types (RFC 4443).
const UNREACHABLE: u8 = 1;
const TOO_LARGE: u8 = 2;
const TIME_EXCEEDED: u8 = 3;
/// By how much IPv6's header is longer than IPv4's.
const LONGER: u16 = 20;
/// Words of Ethernet's header.
const ETH_WORDS: usize = ETH as usize / 2;
/// Words of the longest error: Ethernet, two IPv6 headers, 8 bytes of ICMP, and 8 of TCP or UDP.
pub const WORDS: usize = ETH_WORDS + 20 + 4 + 20 + 4;

/// An error as it lies in a packet, by pairs of bytes.
pub type Words = [u16; WORDS];

/// An ICMPv6 error behind its IPv6 header.
#[repr(C)]
pub struct Icmp6 {
    kind: u8,
    code: u8,
    sum: u16,
    mtu: u32,
    flow: u32,
    payload: u16,
    next: u8,
    hops: u8,
    /// Who sent the packet in question.
    saddr: Address,
    daddr: Address,
    sport: u16,
    dport: u16,
    seq: u32,
}

const _: () = assert!(size_of::<Icmp6>() == 56);

/// What an ICMPv6 error says, in ICMP's types and codes, and into `scratch.client6` the ends of an answer to the packet in
/// question. `scratch.header6` has its headers. `None`: it is no error about a TCP packet or a datagram of the host that it was
/// sent to. Of a datagram, length and checksum stand for the number.
#[inline(always)]
pub fn quote6(skb: Skb, scratch: &mut Scratch) -> Option<Quote> {
    // SAFETY: the buffer is longer.
    let icmp = unsafe {
        let to = (&raw mut scratch.error).cast::<u8>();
        if !skb.load_raw(Header6::BYTES, to, size_of::<Icmp6>() as u32) {
            return None;
        }
        &*to.cast::<Icmp6>()
    };
    let header = &scratch.header6;
    let mut same = true;
    for word in 0..4 {
        same &= icmp.saddr[word] == header.daddr[word];
    }
    let protocol = icmp.next;
    let ports = protocol == 6 || u16::from(protocol) == PROTOCOL;
    if header.next != ICMPV6 || !ports || !same {
        return None;
    }
    let mtu = u32::from_be(icmp.mtu);
    let mtu = if mtu > 0xffff { 0xffff } else { mtu as u16 };
    let (kind, code, mtu) = match (icmp.kind, icmp.code) {
        (UNREACHABLE, 1) => (Quote::UNREACHABLE, 10, 0),
        (UNREACHABLE, 4) => (Quote::UNREACHABLE, 3, 0),
        (UNREACHABLE, _) => (Quote::UNREACHABLE, 1, 0),
        (TOO_LARGE, _) => (Quote::UNREACHABLE, Quote::TOO_LARGE, mtu),
        (TIME_EXCEEDED, code) => (Quote::TIME_EXCEEDED, code, 0),
        _ => return None,
    };
    let answer = &mut scratch.client6;
    (answer.saddr, answer.daddr) = (icmp.daddr, icmp.saddr);
    (answer.sport, answer.dport) = (icmp.dport, icmp.sport);
    Some(Quote { seq: u32::from_be(icmp.seq), kind, code, mtu, protocol })
}

/// Makes the error at hand, which said `scratch.quote`, one for the end at `scratch.out`, which sent the packet in question
/// with `scratch.emit`'s number. False: its family has no such error, or the kernel has no memory.
#[inline(never)]
pub fn make_error(skb: Skb, scratch: &mut Scratch, macs: Macs) -> bool {
    let (from_six, to_six) = (skb.is_ipv6(), is_alias(scratch.out.daddr));
    let protocol = if to_six { PROTOCOL_IPV6 } else { PROTOCOL_IPV4 };
    // SAFETY: the packet's own context.
    if from_six != to_six && unsafe { bpf_skb_change_proto(skb.context().cast(), protocol, 0) } != 0 {
        return false;
    }
    let made = if to_six { six(scratch, from_six) } else { four(scratch, from_six) };
    let bytes = if to_six { 2 * WORDS as u32 } else { 2 * (ETH_WORDS + 28) as u32 };
    if !made || !skb.resize(bytes) {
        return false;
    }
    let words = &mut scratch.error;
    for (to, from) in words.iter_mut().zip(macs) {
        *to = from;
    }
    words[ETH_WORDS - 1] = protocol;
    let from = (&raw const scratch.error).cast::<u8>();
    // SAFETY: the buffer has as many bytes.
    unsafe {
        skb.store(0, from, ETH)
            && if to_six {
                skb.store_summed(ETH, from.add(ETH as usize), 2 * WORDS as u32 - ETH)
            } else {
                skb.store_summed(ETH, from.add(ETH as usize), 56)
            }
    }
}

#[inline(always)]
fn put32(words: &mut Words, at: usize, value: u32) {
    let [a, b, c, d] = value.to_ne_bytes();
    words[at] = u16::from_ne_bytes([a, b]);
    words[at + 1] = u16::from_ne_bytes([c, d]);
}

#[inline(always)]
fn sum<const FROM: usize, const TO: usize>(words: &Words) -> u64 {
    words[FROM..TO].iter().map(|word| u64::from(*word)).sum()
}

/// Two numbers of a byte each, as a word lies in memory.
#[inline(always)]
const fn pair(first: u8, second: u8) -> u16 {
    u16::from_ne_bytes([first, second])
}

/// Bytes of the packet in question behind its IP header, as far as is known: of a datagram it is in the first of them (RFC 768).
#[inline(always)]
fn quoted_bytes(scratch: &Scratch) -> u16 {
    if scratch.quote.protocol == 6 { 20 } else { (scratch.emit.seq >> 16) as u16 }
}

/// What is quoted of TCP or UDP.
#[inline(always)]
fn ports<const AT: usize>(scratch: &mut Scratch) {
    let (out, seq) = (scratch.out, scratch.emit.seq);
    scratch.error[AT] = out.dport;
    scratch.error[AT + 1] = out.sport;
    put32(&mut scratch.error, AT + 2, seq.to_be());
}

#[inline(always)]
fn header4<const AT: usize, const END: usize>(
    words: &mut Words,
    addresses: [u32; 2],
    bytes: u16,
    protocol: u8,
) {
    words[AT] = pair(0x45, 0);
    words[AT + 1] = bytes.to_be();
    words[AT + 2] = 0;
    words[AT + 3] = 0x4000_u16.to_be();
    words[AT + 4] = pair(64, protocol);
    words[AT + 5] = 0;
    put32(words, AT + 6, addresses[0]);
    put32(words, AT + 8, addresses[1]);
    words[AT + 5] = !checksum::fold(sum::<AT, END>(words));
}

/// An ICMP error into `scratch.error`.
#[inline(always)]
fn four(scratch: &mut Scratch, from_six: bool) -> bool {
    const IP: usize = ETH_WORDS;
    const MESSAGE: usize = IP + 10;
    const QUOTED: usize = MESSAGE + 4;
    const TCP: usize = QUOTED + 10;
    const END: usize = TCP + 4;
    let (out, quote, quoted) = (scratch.out, scratch.quote, quoted_bytes(scratch));
    header4::<IP, MESSAGE>(&mut scratch.error, [out.saddr, out.daddr], 56, ICMP);
    let (ends, total) = ([out.daddr, out.saddr], quoted.wrapping_add(20));
    header4::<QUOTED, TCP>(&mut scratch.error, ends, total, quote.protocol);
    ports::<TCP>(scratch);
    let mtu = if from_six { quote.mtu.saturating_sub(LONGER) } else { quote.mtu };
    let words = &mut scratch.error;
    words[MESSAGE] = pair(quote.kind, quote.code);
    words[MESSAGE + 1] = 0;
    words[MESSAGE + 2] = 0;
    words[MESSAGE + 3] = mtu.to_be();
    words[MESSAGE + 1] = !checksum::fold(sum::<MESSAGE, END>(words));
    true
}

#[inline(always)]
fn header6<const AT: usize>(scratch: &mut Scratch, turned: bool, bytes: u16, protocol: u8) {
    let (words, ends) = (&mut scratch.error, &scratch.header6);
    words[AT] = pair(0x60, 0);
    words[AT + 1] = 0;
    words[AT + 2] = bytes.to_be();
    words[AT + 3] = pair(protocol, 64);
    for word in 0..4 {
        let (from, to) = (ends.saddr[word], ends.daddr[word]);
        put32(words, AT + 4 + 2 * word, if turned { to } else { from });
        put32(words, AT + 12 + 2 * word, if turned { from } else { to });
    }
}

/// An ICMPv6 error into `scratch.error`.
#[inline(always)]
fn six(scratch: &mut Scratch, from_six: bool) -> bool {
    const IP: usize = ETH_WORDS;
    const MESSAGE: usize = IP + 20;
    const QUOTED: usize = MESSAGE + 4;
    const TCP: usize = QUOTED + 20;
    const BYTES: u16 = 2 * (WORDS - MESSAGE) as u16;
    let quote = scratch.quote;
    let (kind, code) = match (quote.kind, quote.code) {
        (Quote::UNREACHABLE, Quote::TOO_LARGE) => (TOO_LARGE, 0),
        (Quote::UNREACHABLE, 3) => (UNREACHABLE, 4),
        (Quote::UNREACHABLE, 9 | 10 | 13) => (UNREACHABLE, 1),
        (Quote::UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) => (UNREACHABLE, 0),
        (Quote::TIME_EXCEEDED, code) => (TIME_EXCEEDED, code),
        _ => return false,
    };
    let longer = if from_six { quote.mtu } else { quote.mtu.saturating_add(LONGER) };
    let mtu = match kind {
        TOO_LARGE if longer < LEAST_MTU => LEAST_MTU,
        TOO_LARGE => longer,
        _ => 0,
    };
    header6::<IP>(scratch, false, BYTES, ICMPV6);
    header6::<QUOTED>(scratch, true, quoted_bytes(scratch), quote.protocol);
    ports::<TCP>(scratch);
    let words = &mut scratch.error;
    words[MESSAGE] = pair(kind, code);
    words[MESSAGE + 1] = 0;
    words[MESSAGE + 2] = 0;
    words[MESSAGE + 3] = mtu.to_be();
    // The pseudo-header (RFC 8200, 8.1) has the same addresses.
    let pseudo = u64::from(BYTES.to_be()) + u64::from(u16::from(ICMPV6).to_be());
    let all = sum::<{ IP + 4 }, MESSAGE>(words) + sum::<MESSAGE, WORDS>(words) + pseudo;
    words[MESSAGE + 1] = !checksum::fold(all);
    true
}
