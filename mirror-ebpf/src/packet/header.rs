//! The headers of a packet as they lie in it, each field where a word may be.

use core::arch::asm;

use mirror_common::checksum;

/// Hardware addresses of a packet that leaves: its receiver's and ours, as they lie in memory.
pub type Macs = [u16; 6];

/// Ethernet, IPv4 and TCP header, and room for the options of a SYN that we make. Two bytes before the first make words of the
/// fields that are words: the target reads any other byte by byte. Every field as it lies in memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header {
    pad: u16,
    pub macs: Macs,
    pub ether_type: u16,
    /// Version, and length in words.
    pub version: u8,
    pub service: u8,
    pub total: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub ip_sum: u16,
    pub saddr: u32,
    pub daddr: u32,
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    /// Length in words, in the upper half.
    pub offset: u8,
    pub flags: u8,
    pub window: u16,
    pub sum: u16,
    pub urgent: u16,
    pub options: [u32; 3],
}

/// What stands in place of TCP's header in an ICMP error: its own, and the quoted IPv4 header up to its checksum.
#[repr(C)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub sum: u16,
    unused: u16,
    pub mtu: u16,
    pub version: u8,
    service: u8,
    total: u16,
    id: u16,
    pub fragment: u16,
    ttl: u8,
    pub protocol: u8,
    pub ip_sum: u16,
}

/// What stands in place of TCP's header behind the ports in a datagram (RFC 768).
#[repr(C)]
pub struct Udp {
    /// Header and payload, in bytes.
    pub length: u16,
    /// 0: there is none.
    pub sum: u16,
}

const _: () = assert!(core::mem::offset_of!(Header, options) == 2 + super::HEADERS as usize);
const _: () =
    assert!(core::mem::offset_of!(Header, sport) + size_of::<Icmp>() == 2 + super::HEADERS as usize);

/// Copies a word of so many bits that lies at an offset of both. It may be read and written there. A packet begins at an even
/// address, and no more is known of it: the compiler would go byte by byte, where any machine that we run on goes by words.
macro_rules! copy {
    ($name:ident, $type:literal) => {
        #[inline(always)]
        unsafe fn $name<const AT: usize>(from: *const u8, to: *mut u8) {
            let mut _word: u64;
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    concat!("{word} = *(", $type, " *)({from} + {at})"),
                    concat!("*(", $type, " *)({to} + {at}) = {word}"),
                    word = out(reg) _word,
                    from = in(reg) from,
                    to = in(reg) to,
                    at = const AT,
                    options(nostack, preserves_flags)
                );
            }
        }
    };
}

copy!(copy64, "u64");
copy!(copy32, "u32");
copy!(copy16, "u16");

impl Header {
    /// [`Header::version`] of IPv4 without options.
    pub const PLAIN_IPV4: u8 = 0x45;

    /// Where the packet's first byte is copied to.
    #[inline(always)]
    pub fn bytes(&mut self) -> *mut u8 {
        let first = core::mem::offset_of!(Header, macs);
        // SAFETY: within the header.
        unsafe { (&raw mut *self).cast::<u8>().add(first) }
    }

    /// Reads three headers. No load reaches over the edge of a field that is looked at by itself: that would have to wait for the
    /// store.
    ///
    /// # Safety
    /// So many bytes may be read.
    #[inline(always)]
    pub unsafe fn read(&mut self, from: *const u8) {
        let to = self.bytes();
        // SAFETY: the caller's promise; both have as many bytes.
        unsafe {
            copy64::<0>(from, to);
            copy32::<8>(from, to);
            copy16::<12>(from, to);
            copy64::<14>(from, to);
            copy32::<22>(from, to);
            copy64::<26>(from, to);
            copy32::<34>(from, to);
            copy64::<38>(from, to);
            copy64::<46>(from, to);
        }
    }

    /// Writes of three headers what [`super::rewrite`] changes.
    ///
    /// # Safety
    /// So many bytes may be written, and lie there already.
    #[inline(always)]
    pub unsafe fn write(&mut self, to: *mut u8) {
        let from = self.bytes().cast_const();
        // SAFETY: as above.
        unsafe {
            copy64::<0>(from, to);
            copy32::<8>(from, to);
            copy16::<16>(from, to);
            copy16::<24>(from, to);
            copy32::<26>(from, to);
            copy32::<30>(from, to);
            copy16::<34>(from, to);
            copy16::<36>(from, to);
            copy32::<38>(from, to);
            copy32::<42>(from, to);
            copy16::<46>(from, to);
            copy16::<48>(from, to);
            copy16::<50>(from, to);
            copy16::<52>(from, to);
        }
    }

    /// Whether it has an offset, or more fragments follow.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        u16::from_be(self.fragment) & 0x3fff != 0
    }

    /// Length of the TCP header, in bytes.
    #[inline(always)]
    pub fn tcp_len(&self) -> u32 {
        u32::from(self.offset >> 4) * 4
    }

    /// The sum of TCP's header without options, the checksum field left out.
    #[inline(always)]
    pub fn tcp_sum(&self) -> u64 {
        let offset = u16::from_ne_bytes([self.offset, self.flags]);
        u64::from(self.sport)
            + u64::from(self.dport)
            + checksum::word(self.seq)
            + checksum::word(self.ack)
            + u64::from(offset)
            + u64::from(self.window)
            + u64::from(self.urgent)
    }

    /// The sum of IPv4's header, the checksum field left out.
    #[inline(always)]
    pub fn ip_words(&self) -> u64 {
        u64::from(u16::from_ne_bytes([self.version, self.service]))
            + u64::from(self.total)
            + u64::from(self.id)
            + u64::from(self.fragment)
            + u64::from(u16::from_ne_bytes([self.ttl, self.protocol]))
            + checksum::word(self.saddr)
            + checksum::word(self.daddr)
    }

    /// The sum of the options.
    #[inline(always)]
    pub fn options_sum(&self) -> u64 {
        checksum::word(self.options[0]) + checksum::word(self.options[1]) + checksum::word(self.options[2])
    }

    /// The pseudo-header's sum, for a TCP length in bytes.
    #[inline(always)]
    pub fn pseudo_sum(&self, tcp_bytes: u16) -> u64 {
        checksum::word(self.saddr)
            + checksum::word(self.daddr)
            + u64::from(tcp_bytes.to_be())
            + u64::from(6_u16.to_be())
    }

    /// Whether TCP's checksum may have been left to a device. Then the field has the pseudo-header's sum, or the same without the
    /// length.
    #[inline(always)]
    pub fn may_be_left(&self) -> bool {
        let length = u16::from_be(self.total).wrapping_sub(20);
        let field = checksum::digest(self.sum);
        field == checksum::digest(checksum::fold(self.pseudo_sum(length)))
            || field == checksum::digest(checksum::fold(self.pseudo_sum(0)))
    }

    /// The same bytes behind the ports of a datagram.
    #[inline(always)]
    pub fn udp(&mut self) -> &mut Udp {
        // SAFETY: as many bytes, of integers alone, and no stricter in their alignment.
        unsafe { &mut *(&raw mut *self).byte_add(core::mem::offset_of!(Header, seq)).cast::<Udp>() }
    }

    /// The same bytes in an ICMP error.
    #[inline(always)]
    pub fn icmp(&mut self) -> &mut Icmp {
        // SAFETY: as many bytes, of integers alone, and no stricter in their alignment.
        unsafe { &mut *(&raw mut *self).byte_add(core::mem::offset_of!(Header, sport)).cast::<Icmp>() }
    }
}
