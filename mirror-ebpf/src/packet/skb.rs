//! A packet at TC: only touched through helpers, which bear super-packets and checksums that are left to the device.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};

use super::{Header, PROTOCOL_IPV4, Packet, TCP_CHECKSUM, opaque, six::PROTOCOL_IPV6};

/// An skb.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Skb(*mut __sk_buff);

impl Skb {
    /// The packet that a classifier was called for.
    #[inline(always)]
    pub fn new(context: &TcContext) -> Self {
        Self(context.as_ptr().cast())
    }

    /// The packet that a global function is given.
    #[inline(always)]
    pub fn of(context: *mut __sk_buff) -> Self {
        Self(context)
    }

    /// Whether a protocol, as Ethernet numbers it, follows the Ethernet header.
    #[inline(always)]
    pub(super) fn is(self, protocol: u16) -> bool {
        // A VLAN's tag has been taken off here, and stands beside. The frame comes again by the VLAN's own device; sent on from
        // here, it would bear the tag on the way to its server.
        // SAFETY: the context's own fields.
        unsafe { (*self.0).protocol == u32::from(protocol) && (*self.0).vlan_present == 0 }
    }

    /// Whether IPv6 follows the Ethernet header.
    #[inline(always)]
    pub fn is_ipv6(self) -> bool {
        self.is(PROTOCOL_IPV6)
    }

    /// Whether it is cut into segments when it is sent.
    #[inline(always)]
    fn is_super_packet(self) -> bool {
        // SAFETY: the context's own field.
        unsafe { (*self.0).gso_size != 0 }
    }

    /// What lies between the start of the metadata and the packet's, as addresses.
    #[inline(always)]
    pub fn metadata(self) -> (usize, usize) {
        // SAFETY: the context's own fields.
        unsafe { ((*self.0).data_meta as usize, (*self.0).data as usize) }
    }

    /// Writes `len` bytes of `from` at `offset`. False where the packet is shorter.
    ///
    /// # Safety
    /// `from` has `len` bytes.
    #[inline(always)]
    pub unsafe fn store(self, offset: u32, from: *const u8, len: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { bpf_skb_store_bytes(self.0, offset, from.cast(), len, 0) == 0 }
    }

    /// [`Skb::store`] behind the Ethernet header: a sum that a device has made of the packet follows.
    ///
    /// # Safety
    /// `from` has `len` bytes.
    #[inline(always)]
    pub(super) unsafe fn store_summed(self, offset: u32, from: *const u8, len: u32) -> bool {
        let follow = u64::from(BPF_F_RECOMPUTE_CSUM);
        // SAFETY: the caller's promise.
        unsafe { bpf_skb_store_bytes(self.0, offset, from.cast(), len, follow) == 0 }
    }

    /// Overwrites `len` bytes (1 to `MAX`) from `offset` on; the checksum stays. False where the packet is shorter.
    ///
    /// # Safety
    /// `from` has `MAX` bytes.
    #[inline(always)]
    pub unsafe fn store_raw<const MAX: u32>(self, offset: u32, from: *const u8, len: u32) -> bool {
        let len = opaque(len);
        if len == 0 || len > MAX {
            return false;
        }
        // SAFETY: the caller's promise.
        unsafe { self.store(offset, from, len) }
    }
}

impl Packet for Skb {
    const HANDSHAKES: bool = true;

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn device(self) -> u32 {
        // SAFETY: the context's own field.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn length(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn plain_length(self) -> u32 {
        if self.is_super_packet() { 0 } else { self.length() }
    }

    #[inline(always)]
    fn fits(self, length: u32) -> bool {
        self.length() <= length || self.is_super_packet()
    }

    #[inline(always)]
    fn is_ipv4(self) -> bool {
        self.is(PROTOCOL_IPV4)
    }

    #[inline(always)]
    unsafe fn load_raw(self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to.cast(), len) == 0 }
    }

    #[inline(always)]
    fn linear(self) -> (usize, usize) {
        // SAFETY: the context's own fields.
        unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) }
    }

    #[inline(always)]
    fn resize(self, len: u32) -> bool {
        // SAFETY: nothing points into the packet.
        unsafe { bpf_skb_change_tail(self.0, len, 0) == 0 }
    }

    #[inline(always)]
    fn write(self, header: &mut Header, plain: u16, pseudo: u16, rest: u32) -> bool {
        let bytes = header.bytes();
        let pseudo_flag = u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: offsets and lengths lie within the packet, whose headers were loaded; `header` has more bytes.
        unsafe {
            let mut failed = bpf_l4_csum_replace(self.0, TCP_CHECKSUM, 0, u64::from(plain), 0);
            failed |= bpf_l4_csum_replace(self.0, TCP_CHECKSUM, 0, u64::from(pseudo), pseudo_flag);
            failed |= bpf_skb_store_bytes(self.0, 0, bytes.cast(), TCP_CHECKSUM, 0);
            let from = bytes.add(TCP_CHECKSUM as usize + 2).cast();
            let at = TCP_CHECKSUM + 2;
            failed |= match rest {
                0 => 0,
                2 => bpf_skb_store_bytes(self.0, at, from, 2, 0),
                6 => bpf_skb_store_bytes(self.0, at, from, 6, 0),
                10 => bpf_skb_store_bytes(self.0, at, from, 10, 0),
                _ => bpf_skb_store_bytes(self.0, at, from, 14, 0),
            };
            failed == 0
        }
    }

    #[inline(always)]
    unsafe fn replace(self, offset: u32, from: *mut u8, len: u32, difference: u16) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            let failed = bpf_l4_csum_replace(self.0, TCP_CHECKSUM, 0, u64::from(difference), 0);
            failed | bpf_skb_store_bytes(self.0, offset, from.cast(), len, 0) == 0
        }
    }
}
