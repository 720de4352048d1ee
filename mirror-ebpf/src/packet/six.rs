//! Between the families: an IPv6 packet becomes an IPv4 one of the same TCP segment or datagram, and the other way round
//! (RFC 7915).

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_change_proto},
};
use mirror_common::{
    abi::{Tuple, udp},
    checksum,
};

use super::{ETH, Header, Header6, PROTOCOL_IPV4, Packet, Skb, TCP_CHECKSUM, UDP_CHECKSUM, pieces};
use crate::maps::Scratch;

/// IPv6's number in Ethernet, as it lies in memory.
pub const PROTOCOL_IPV6: u16 = 0x86dd_u16.to_be();
/// Where Ethernet says what follows it.
const ETHER_TYPE: u32 = 12;
/// Bytes of an IPv4 header without options, and of an IPv6 one.
const FOUR: u32 = 20;
const SIX: u32 = Header6::BYTES - ETH;
/// By how much IPv6's header is longer.
pub const LONGER: u32 = SIX - FOUR;
/// Numbers of protocols (RFC 8200, 4.1).
const TCP: u8 = 6;
const UDP: u8 = udp::PROTOCOL as u8;
/// Don't fragment, as it lies in memory: IPv6's routers don't.
const WHOLE: u16 = 0x4000_u16.to_be();

/// A protocol's checksum.
struct Sum {
    /// Its offset.
    at: u32,
    /// What the kernel must know of it.
    flags: u64,
}

impl Sum {
    /// Behind an IPv4 header.
    #[inline(always)]
    const fn of(protocol: u8) -> Self {
        match protocol {
            UDP => Self { at: UDP_CHECKSUM, flags: BPF_F_MARK_MANGLED_0 as u64 },
            _ => Self { at: TCP_CHECKSUM, flags: 0 },
        }
    }
}

impl Skb {
    /// Reads the headers of an IPv6 packet. False: it is none.
    #[inline(always)]
    pub fn headers6(self, to: &mut Header6) -> bool {
        // SAFETY: it has room for as many.
        self.is(PROTOCOL_IPV6) && unsafe { self.load_raw(0, to.bytes(), Header6::WITH_PORTS) }
    }

    /// Makes it an IPv4 packet between the addresses of `tuple`; `scratch.header6` has its headers. False: it can't be one, or
    /// the kernel has no memory.
    #[inline(always)]
    pub fn make_four(self, scratch: &mut Scratch, tuple: &Tuple) -> bool {
        let bytes = u32::from(u16::from_be(scratch.header6.payload));
        bytes >= 20 && self.into_four(scratch, tuple, bytes, TCP)
    }

    /// [`Skb::make_four`] of any protocol, of which `bytes` are behind the header.
    #[inline(always)]
    fn into_four(self, scratch: &mut Scratch, tuple: &Tuple, bytes: u32, protocol: u8) -> bool {
        if bytes + FOUR > 0xffff {
            return false;
        }
        let was = scratch.header6.addresses_sum();
        let header = &mut scratch.header;
        header.ether_type = PROTOCOL_IPV4;
        header.version = Header::PLAIN_IPV4;
        header.service = scratch.header6.class();
        header.total = ((bytes + FOUR) as u16).to_be();
        header.id = 0;
        header.fragment = WHOLE;
        header.ttl = scratch.header6.hops;
        header.protocol = protocol;
        header.saddr = tuple.saddr;
        header.daddr = tuple.daddr;
        header.ip_sum = !checksum::fold(header.ip_words());
        let becomes = checksum::word(tuple.saddr) + checksum::word(tuple.daddr);
        let at = offset_of!(Header, ether_type);
        // SAFETY: the header has as many bytes from there on.
        let from = unsafe { (&raw const *header).byte_add(at).cast::<u8>() };
        let sum = Sum::of(protocol);
        // SAFETY: as above.
        unsafe { self.translate(PROTOCOL_IPV4, from, FOUR, &sum, was, becomes) }
    }

    /// Makes it an IPv6 packet between the addresses of `scratch.header6`; `scratch.header` has its headers. False: it is too
    /// long, or the kernel has no memory.
    #[inline(always)]
    pub fn make_six(self, scratch: &mut Scratch) -> bool {
        let was = checksum::word(scratch.out.saddr) + checksum::word(scratch.out.daddr);
        self.into_six(scratch, TCP, was)
    }

    /// [`Skb::make_six`] of any protocol; `was`: the sum of the addresses that it has.
    #[inline(always)]
    fn into_six(self, scratch: &mut Scratch, protocol: u8, was: u64) -> bool {
        let header = &mut scratch.header6;
        header.ether_type = PROTOCOL_IPV6;
        header.flow = Header6::flow_of(scratch.header.service);
        header.payload = u16::from_be(scratch.header.total).wrapping_sub(FOUR as u16).to_be();
        header.next = protocol;
        header.hops = scratch.header.ttl;
        let becomes = header.addresses_sum();
        let at = offset_of!(Header6, ether_type);
        // SAFETY: the header has as many bytes from there on.
        let from = unsafe { (&raw const *header).byte_add(at).cast::<u8>() };
        let mut sum = Sum::of(protocol);
        sum.at += LONGER;
        // SAFETY: as above.
        unsafe { self.translate(PROTOCOL_IPV6, from, SIX, &sum, was, becomes) }
    }

    /// Makes an IPv6 datagram an IPv4 one between the addresses of `scratch.out`; `scratch.{header6,header}` have its headers
    /// ([`super::load_datagram6`]). False: as of [`Skb::make_four`].
    #[inline(always)]
    pub fn make_four_datagram(self, scratch: &mut Scratch) -> bool {
        let (out, bytes) = (scratch.out, u32::from(u16::from_be(scratch.header6.payload)));
        self.into_four(scratch, &out, bytes, UDP)
    }

    /// Makes an IPv4 datagram an IPv6 one between the addresses of `scratch.header6`; `scratch.header` has its headers. Where it
    /// had no checksum it gets one: IPv6 has none of its own (RFC 7915, 4.5; RFC 6936). False: as of [`Skb::make_six`].
    #[inline(always)]
    pub fn make_six_datagram(self, scratch: &mut Scratch) -> bool {
        let header = &mut scratch.header;
        let was = checksum::word(header.saddr) + checksum::word(header.daddr);
        let udp = header.udp();
        let (bytes, sum) = (udp.length, udp.sum);
        // No pseudo-header's sum is zero: one that was left to the device isn't meant.
        self.into_six(scratch, UDP, was) && (sum != 0 || self.sum_datagram(scratch, bytes))
    }

    /// Gives an IPv6 datagram without a checksum one; `bytes`: its length, as it lies in its header.
    #[inline(always)]
    fn sum_datagram(self, scratch: &mut Scratch, bytes: u16) -> bool {
        let Some(all) = pieces(self, scratch, Header6::BYTES, u16::from_be(bytes).into()) else {
            return false;
        };
        let pseudo = scratch.header6.addresses_sum() + u64::from(bytes) + u64::from(udp::PROTOCOL.to_be());
        let sum = match !checksum::fold(pseudo + u64::from(all)) {
            0 => 0xffff,
            sum => sum,
        };
        // SAFETY: two bytes.
        unsafe { self.store_summed(UDP_CHECKSUM + LONGER, (&raw const sum).cast(), 2) }
    }

    /// Lets the kernel change the family, and writes Ethernet's type and the new header: `len` bytes of it. `was` and
    /// `becomes`: the addresses' sums, by which the protocol's checksum changes.
    ///
    /// # Safety
    /// `from` has two bytes, and `len` behind them.
    #[inline(always)]
    unsafe fn translate(
        self,
        protocol: u16,
        from: *const u8,
        len: u32,
        sum: &Sum,
        was: u64,
        becomes: u64,
    ) -> bool {
        let difference = checksum::fold(becomes + u64::from(!checksum::fold(was)));
        let context = self.context().cast();
        let flags = sum.flags | u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: the caller's promise.
        unsafe {
            if bpf_skb_change_proto(context, protocol, 0) != 0 {
                return false;
            }
            self.store(ETHER_TYPE, from, 2)
                && self.store_summed(ETH, from.add(2), len)
                && bpf_l4_csum_replace(context, sum.at, 0, u64::from(difference), flags) == 0
        }
    }
}
