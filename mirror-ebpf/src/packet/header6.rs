//! Ethernet and IPv6 header, and what of TCP's a look-up needs.

use mirror_common::{abi::six::Address, checksum};

use super::Macs;

/// Ethernet header, IPv6 header and TCP's ports, each field as it lies in memory; two bytes before the first make words of
/// the fields that are words.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header6 {
    pad: u16,
    pub macs: Macs,
    pub ether_type: u16,
    /// Version, traffic class and flow label (RFC 8200, 3).
    pub flow: u32,
    /// Bytes behind this header.
    pub payload: u16,
    /// Number of the next header's protocol.
    pub next: u8,
    pub hops: u8,
    pub saddr: Address,
    pub daddr: Address,
    pub sport: u16,
    pub dport: u16,
}

impl Header6 {
    /// Bytes of Ethernet and IPv6.
    pub const BYTES: u32 = 54;
    /// The same, and the ports.
    pub const WITH_PORTS: u32 = 58;

    /// Where the packet's first byte is copied to.
    #[inline(always)]
    pub fn bytes(&mut self) -> *mut u8 {
        let first = core::mem::offset_of!(Header6, macs);
        // SAFETY: within the header.
        unsafe { (&raw mut *self).cast::<u8>().add(first) }
    }

    /// The traffic class, IPv4's type of service.
    #[inline(always)]
    pub fn class(&self) -> u8 {
        (u32::from_be(self.flow) >> 20) as u8
    }

    /// Version 6 with a traffic class, and no flow label.
    #[inline(always)]
    pub fn flow_of(class: u8) -> u32 {
        ((6 << 28) | (u32::from(class) << 20)).to_be()
    }

    /// What the addresses add to the pseudo-header's sum. Length and protocol add as much as they do with IPv4 (RFC 8200, 8.1).
    #[inline(always)]
    pub fn addresses_sum(&self) -> u64 {
        let mut sum = 0;
        for word in 0..4 {
            sum += checksum::word(self.saddr[word]) + checksum::word(self.daddr[word]);
        }
        sum
    }
}

const _: () = assert!(core::mem::offset_of!(Header6, sport) == 2 + Header6::BYTES as usize);
const _: () = assert!(size_of::<Header6>() == 2 + Header6::WITH_PORTS as usize);
