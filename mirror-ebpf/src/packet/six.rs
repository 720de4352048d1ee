//! Between the families: an IPv6 packet becomes an IPv4 one of the same TCP segment, and the other way round.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::BPF_F_PSEUDO_HDR,
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_change_proto},
};
use mirror_common::{abi::Tuple, checksum};

use super::{ETH, Header, Header6, PROTOCOL_IPV4, Packet, Skb, TCP_CHECKSUM};
use crate::maps::Scratch;

/// IPv6's number in Ethernet, as it lies in memory.
pub const PROTOCOL_IPV6: u16 = 0x86dd_u16.to_be();
/// Where Ethernet says what follows it.
const ETHER_TYPE: u32 = 12;
/// Bytes of an IPv4 header without options, and of an IPv6 one.
const FOUR: u32 = 20;
const SIX: u32 = Header6::BYTES - ETH;
/// Don't fragment, as it lies in memory: IPv6's routers don't.
const WHOLE: u16 = 0x4000_u16.to_be();

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
        if bytes < 20 || bytes + FOUR > 0xffff {
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
        header.protocol = 6;
        header.saddr = tuple.saddr;
        header.daddr = tuple.daddr;
        header.ip_sum = !checksum::fold(header.ip_words());
        let becomes = checksum::word(tuple.saddr) + checksum::word(tuple.daddr);
        let at = offset_of!(Header, ether_type);
        // SAFETY: the header has as many bytes from there on.
        let from = unsafe { (&raw const *header).byte_add(at).cast::<u8>() };
        // SAFETY: as above.
        unsafe { self.translate(PROTOCOL_IPV4, from, FOUR, TCP_CHECKSUM, was, becomes) }
    }

    /// Makes it an IPv6 packet between the addresses of `scratch.header6`; `scratch.header` has its headers. False: it is too
    /// long, or the kernel has no memory.
    #[inline(always)]
    pub fn make_six(self, scratch: &mut Scratch) -> bool {
        let header = &mut scratch.header6;
        header.ether_type = PROTOCOL_IPV6;
        header.flow = Header6::flow_of(scratch.header.service);
        header.payload = u16::from_be(scratch.header.total).wrapping_sub(FOUR as u16).to_be();
        header.next = 6;
        header.hops = scratch.header.ttl;
        let was = checksum::word(scratch.out.saddr) + checksum::word(scratch.out.daddr);
        let becomes = header.addresses_sum();
        let at = offset_of!(Header6, ether_type);
        // SAFETY: the header has as many bytes from there on.
        let from = unsafe { (&raw const *header).byte_add(at).cast::<u8>() };
        // SAFETY: as above.
        unsafe { self.translate(PROTOCOL_IPV6, from, SIX, TCP_CHECKSUM + SIX - FOUR, was, becomes) }
    }

    /// Lets the kernel change the family, and writes Ethernet's type and the new header: `len` bytes of it. `was` and
    /// `becomes`: the addresses' sums, by which TCP's checksum at `checksum_at` changes.
    ///
    /// # Safety
    /// `from` has two bytes, and `len` behind them.
    #[inline(always)]
    unsafe fn translate(
        self,
        protocol: u16,
        from: *const u8,
        len: u32,
        checksum_at: u32,
        was: u64,
        becomes: u64,
    ) -> bool {
        let difference = checksum::fold(becomes + u64::from(!checksum::fold(was)));
        let context = self.context().cast();
        let pseudo = u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: the caller's promise.
        unsafe {
            if bpf_skb_change_proto(context, protocol, 0) != 0 {
                return false;
            }
            self.store(ETHER_TYPE, from, 2)
                && self.store_summed(ETH, from.add(2), len)
                && bpf_l4_csum_replace(context, checksum_at, 0, u64::from(difference), pseudo) == 0
        }
    }
}
