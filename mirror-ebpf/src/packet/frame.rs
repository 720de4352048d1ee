//! A packet at XDP: one buffer, its checksum complete.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_meta, bpf_xdp_adjust_tail, bpf_xdp_load_bytes, bpf_xdp_store_bytes},
    programs::XdpContext,
};
use mirror_common::checksum;

use super::{Difference, HEADERS, Header, PROTOCOL_IPV4, Packet, TCP_CHECKSUM};

/// A frame.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Frame(*mut xdp_md);

impl Frame {
    /// The frame that a program was called for.
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self(context.as_ptr().cast())
    }

    #[inline(always)]
    fn data(self) -> usize {
        // SAFETY: the context's own field.
        unsafe { (&raw const (*self.0).data).read_volatile() as usize }
    }

    #[inline(always)]
    fn end(self) -> usize {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).data_end).read_volatile() as usize }
    }

    #[inline(always)]
    fn meta(self) -> usize {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).data_meta).read_volatile() as usize }
    }

    /// Whether the driver has room for metadata at all: where it hasn't, the metadata "begins" behind the frame's start.
    #[inline(always)]
    pub fn has_metadata(self) -> bool {
        self.meta() <= self.data()
    }

    /// Gives the frame exactly `bytes` of metadata, whatever an earlier hop left.
    #[inline(always)]
    pub fn set_metadata(self, bytes: u32) -> bool {
        let have = self.data().wrapping_sub(self.meta()) as i32;
        let delta = have.wrapping_sub(bytes as i32);
        // SAFETY: nothing points into the frame.
        delta == 0 || unsafe { bpf_xdp_adjust_meta(self.0, delta) == 0 }
    }

    /// What lies between the start of the metadata and the frame's, as addresses.
    #[inline(always)]
    pub fn metadata(self) -> (usize, usize) {
        (self.meta(), self.data())
    }
}

impl Packet for Frame {
    const HANDSHAKES: bool = false;

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn device(self) -> u32 {
        // SAFETY: the context's own field.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn length(self) -> u32 {
        (self.end() - self.data()) as u32
    }

    #[inline(always)]
    fn plain_length(self) -> u32 {
        0
    }

    #[inline(always)]
    fn fits(self, _length: u32) -> bool {
        // Drivers look at it when they send.
        true
    }

    #[inline(always)]
    fn is_ipv4(self) -> bool {
        let (data, end) = (self.data(), self.end());
        if data + 14 > end {
            return false;
        }
        // SAFETY: within the frame.
        unsafe { ((data + 12) as *const u16).read() == PROTOCOL_IPV4 }
    }

    #[inline(always)]
    unsafe fn load_raw(self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe { bpf_xdp_load_bytes(self.0, offset, to.cast(), len) == 0 }
    }

    #[inline(always)]
    fn linear(self) -> (usize, usize) {
        (self.data(), self.end())
    }

    #[inline(always)]
    fn resize(self, len: u32) -> bool {
        let delta = len.wrapping_sub(self.length()) as i32;
        // SAFETY: nothing points into the frame.
        delta == 0 || unsafe { bpf_xdp_adjust_tail(self.0, delta) == 0 }
    }

    #[inline(always)]
    fn write(self, header: &mut Header, difference: Difference, _options: u32) -> bool {
        let both = u64::from(difference.plain) + u64::from(difference.pseudo);
        header.sum = checksum::update(header.sum, both);
        let (data, end) = (self.data(), self.end());
        if data + HEADERS as usize > end {
            // SAFETY: the headers were loaded from there; `header` has as many bytes.
            return unsafe { bpf_xdp_store_bytes(self.0, 0, header.bytes().cast(), HEADERS) == 0 };
        }
        // SAFETY: within the frame, whose headers were read.
        unsafe { header.write(data as *mut u8) };
        true
    }

    #[inline(always)]
    unsafe fn replace(self, offset: u32, from: *mut u8, len: u32, difference: u16) -> bool {
        let mut field = 0_u16;
        // SAFETY: the field has two bytes; the caller's promise.
        unsafe {
            if bpf_xdp_load_bytes(self.0, TCP_CHECKSUM, (&raw mut field).cast(), 2) != 0 {
                return false;
            }
            let mut changed = checksum::update(field, u64::from(difference));
            let failed = bpf_xdp_store_bytes(self.0, TCP_CHECKSUM, (&raw mut changed).cast(), 2);
            failed | bpf_xdp_store_bytes(self.0, offset, from.cast(), len) == 0
        }
    }
}
