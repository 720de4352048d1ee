//! A packet at TC: only touched through helpers, which bear super-packets and checksums that are left to the device.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
        bpf_adj_room_mode::BPF_ADJ_ROOM_NET,
    },
    helpers::generated::{
        bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};

use mirror_common::checksum;

use super::{Difference, HEADERS, Header, PROTOCOL_IPV4, Packet, TCP_CHECKSUM, opaque, six::PROTOCOL_IPV6};

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

    /// Bytes of payload of each segment that it is cut into when it is sent; 0: it is one.
    #[inline(always)]
    pub fn segment_size(self) -> u32 {
        // SAFETY: the context's own field.
        unsafe { (*self.0).gso_size }
    }

    /// Whether it is cut into segments when it is sent.
    #[inline(always)]
    fn is_super_packet(self) -> bool {
        self.segment_size() != 0
    }

    /// Takes `by` bytes (1 to 4,095) away behind the IPv4 header. A super-packet stays one. After more than
    /// [`mirror_common::flow::emit::LITTLE`] in all a checksum that was left to a device isn't any more, and must be right
    /// (Linux, `skb_postpull_rcsum`).
    #[inline(always)]
    pub(super) fn behead(self, by: u32) -> bool {
        let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
        // SAFETY: nothing points into the packet.
        unsafe { bpf_skb_adjust_room(self.0, -(by as i32), BPF_ADJ_ROOM_NET, flags) == 0 }
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

    /// A sum that a device has made of the whole packet follows its TCP checksum, where that changes with the pseudo-header,
    /// which isn't in the packet. (What changes within the packet comes to nothing, together with a checksum.)
    #[inline(always)]
    fn follow(self, pseudo: u16) {
        // SAFETY: a helper without preconditions. It does nothing where there is no such sum.
        unsafe { bpf_csum_update(self.0, !u32::from(pseudo)) };
    }

    /// Corrects `header.sum` where it may have been left to a device. A difference in the header tells: the kernel changes a
    /// complete checksum by it, and only that.
    #[inline(always)]
    fn correct(self, header: &mut Header, difference: Difference) -> bool {
        let Difference { plain, pseudo, .. } = difference;
        let none = checksum::digest(plain) == 0;
        let (by, flags) = if none { (pseudo, u64::from(BPF_F_PSEUDO_HDR)) } else { (plain, 0) };
        // SAFETY: a helper that looks at the offset by itself.
        if unsafe { bpf_l4_csum_replace(self.0, TCP_CHECKSUM, 0, u64::from(by), flags) } != 0 {
            return false;
        }
        let was = header.sum;
        let (data, end) = self.linear();
        // It reaches beyond the field now: the helper saw to that.
        if data + TCP_CHECKSUM as usize + 2 > end {
            return false;
        }
        // SAFETY: within the packet.
        header.sum = unsafe { ((data + TCP_CHECKSUM as usize) as *const u16).read() };
        if none {
            return true;
        }
        if header.sum == was {
            header.sum = checksum::fold(u64::from(was) + u64::from(pseudo));
        } else {
            header.sum = checksum::update(header.sum, u64::from(pseudo));
            self.follow(pseudo);
        }
        true
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
        // A super-packet would be made one segment, even if nothing changed.
        // SAFETY: nothing points into the packet.
        self.length() == len || unsafe { bpf_skb_change_tail(self.0, len, 0) == 0 }
    }

    #[inline(always)]
    fn write(self, header: &mut Header, difference: Difference, options: u32) -> bool {
        if difference.may_be_left || self.is_super_packet() {
            if !self.correct(header, difference) {
                return false;
            }
        } else {
            let both = u64::from(difference.plain) + u64::from(difference.pseudo);
            header.sum = checksum::update(header.sum, both);
            self.follow(difference.pseudo);
        }
        // SAFETY: `header` has as many bytes; the packet was made as long.
        unsafe {
            let from = header.bytes();
            match options {
                0 => self.store(0, from, HEADERS),
                4 => self.store(0, from, HEADERS + 4),
                8 => self.store(0, from, HEADERS + 8),
                _ => self.store(0, from, HEADERS + 12),
            }
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
