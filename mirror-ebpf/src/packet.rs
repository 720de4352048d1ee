//! The only module that touches a packet's bytes, and only through helpers: an skb's headers are copied to scratch, judged
//! there, and written back.

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR},
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
};
use mirror_common::{
    checksum,
    flow::{Emit, Segment, emit, tcp},
    verdict::Verdict,
};

use crate::maps::Scratch;

/// Ethernet header, in bytes.
pub const ETH: u32 = 14;
/// Ethernet, IPv4 without options and TCP without options, in bytes.
pub const HEADERS: u32 = 54;
const TCP_CHECKSUM: u32 = 50;
const PROTOCOL_IPV4: u32 = 0x0800_u16.to_be() as u32;

#[inline(always)]
fn be16(bytes: &[u8; 64], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn be32(bytes: &[u8; 64], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// As it lies in memory.
#[inline(always)]
fn ne16(bytes: &[u8; 64], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

/// As it lies in memory.
#[inline(always)]
fn ne32(bytes: &[u8; 64], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline(always)]
fn put16(bytes: &mut [u8; 64], at: usize, value: u16) {
    let raw = value.to_ne_bytes();
    bytes[at] = raw[0];
    bytes[at + 1] = raw[1];
}

#[inline(always)]
fn put32(bytes: &mut [u8; 64], at: usize, value: u32) {
    let raw = value.to_ne_bytes();
    bytes[at] = raw[0];
    bytes[at + 1] = raw[1];
    bytes[at + 2] = raw[2];
    bytes[at + 3] = raw[3];
}

/// Hides a bound from LLVM, which would otherwise drop the check that the verifier needs to see.
#[inline(always)]
pub fn opaque(mut n: u32) -> u32 {
    // SAFETY: moves a register onto itself.
    unsafe { asm!("{0} = {0}", inout(reg) n, options(nomem, nostack, preserves_flags)) };
    n
}

/// Copies `len` bytes (1 to `MAX`) from `offset` on. False where the packet is shorter.
#[inline(always)]
pub fn load<const MAX: u32>(skb: *mut __sk_buff, offset: u32, to: *mut u8, len: u32) -> bool {
    let len = opaque(len);
    if len == 0 || len > MAX {
        return false;
    }
    // SAFETY: `to` has room for `MAX` bytes.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, to.cast(), len) == 0 }
}

/// Copies the three headers anew: after the packet was changed.
#[inline(always)]
fn reload(skb: *mut __sk_buff, scratch: &mut Scratch) -> bool {
    // SAFETY: `header` has room for 64 bytes.
    unsafe { bpf_skb_load_bytes(skb.cast(), 0, (&raw mut scratch.header).cast(), HEADERS) == 0 }
}

/// Reads the headers into `scratch.{header,tuple,seg,tcp_len,options}`. An error is the verdict.
#[inline(never)]
pub fn parse(skb: *mut __sk_buff, scratch: &mut Scratch, now_ns: u64) -> Result<(), Verdict> {
    // SAFETY: the context's own fields.
    let (protocol, length) = unsafe { ((*skb).protocol, (*skb).len) };
    if protocol != PROTOCOL_IPV4 {
        return Err(Verdict::NotIpv4);
    }
    if !reload(skb, scratch) {
        return Err(Verdict::Runt);
    }
    let header = &scratch.header;
    if header[23] != 6 {
        return Err(Verdict::NotTcp);
    }
    if header[14] != 0x45 {
        return Err(Verdict::IpOptions);
    }
    // Offset or "more fragments": only a first fragment has ports, and none is whole.
    if be16(header, 20) & 0x3fff != 0 {
        return Err(Verdict::Fragment);
    }
    let total = u32::from(be16(header, 16));
    let tcp_len = u32::from(header[46] >> 4) * 4;
    if tcp_len < 20 || total < 20 + tcp_len || total + ETH > length {
        return Err(Verdict::Malformed);
    }
    scratch.tuple.saddr = ne32(header, 26);
    scratch.tuple.daddr = ne32(header, 30);
    scratch.tuple.sport = ne16(header, 34);
    scratch.tuple.dport = ne16(header, 36);
    scratch.tcp_len = tcp_len;
    let ms = (now_ns / 1_000_000) as u32;
    let seg = &mut scratch.seg;
    seg.seq = be32(header, 38);
    seg.ack = be32(header, 42);
    seg.flags = header[47];
    seg.window = be16(header, 48);
    seg.payload = total - 20 - tcp_len;
    seg.now_ms = if ms == 0 { 1 } else { ms };
    seg.now_us = (now_ns / 1_000) as u32;
    seg.mss = 0;
    seg.scale = Segment::NO_SCALE;
    seg.pad = 0;
    seg.reading.flags = 0;
    seg.reading.begun = 0;
    if seg.flags & tcp::SYN != 0 && tcp_len > 20 {
        let to = (&raw mut scratch.option_bytes).cast();
        if !load::<40>(skb, HEADERS, to, tcp_len - 20) {
            return Err(Verdict::Malformed);
        }
        options(scratch);
        if scratch.options.valid == 0 {
            return Err(Verdict::SynWithoutOptions);
        }
        scratch.seg.mss = scratch.options.mss;
        scratch.seg.scale = scratch.options.scale;
    }
    Ok(())
}

#[inline(never)]
fn options(scratch: &mut Scratch) {
    scratch.options = mirror_common::options::scan(&scratch.option_bytes, scratch.tcp_len.wrapping_sub(20));
}

/// The sum of the words from 34 to `end` of the header, the checksum field left out.
#[inline(always)]
fn tcp_sum(header: &[u8; 64], options: bool) -> u64 {
    let mut sum = checksum::word(ne32(header, 34))
        + checksum::word(ne32(header, 38))
        + checksum::word(ne32(header, 42));
    sum += checksum::word(ne32(header, 46)) + u64::from(ne16(header, 52));
    if options {
        sum += checksum::word(ne32(header, 54)) + checksum::word(ne32(header, 58));
    }
    sum
}

/// The pseudo-header's sum, for a TCP length in bytes.
#[inline(always)]
fn pseudo_sum(header: &[u8; 64], tcp_bytes: u16) -> u64 {
    checksum::word(ne32(header, 26))
        + checksum::word(ne32(header, 30))
        + u64::from(tcp_bytes.to_be())
        + u64::from(6_u16.to_be())
}

/// Rewrites the packet at hand into what an [`Emit`] asks for, towards `scratch.out`.
///
/// Whether the checksum is complete or was left to the device can't be seen; `bpf_l4_csum_replace` knows: of the two
/// differences it takes the second alone where only the pseudo-header's sum is in the field.
#[inline(always)]
pub fn rewrite(skb: *mut __sk_buff, scratch: &mut Scratch, e: &Emit) -> bool {
    if !reload(skb, scratch) {
        return false;
    }
    let made = e.kind != emit::FORWARD;
    let option_len: u32 = if e.kind != emit::SYN {
        0
    } else if e.scale == Segment::NO_SCALE {
        4
    } else {
        8
    };
    // SAFETY: resizes the packet; nothing points into it.
    if made && unsafe { bpf_skb_change_tail(skb.cast(), HEADERS + option_len, 0) } != 0 {
        return false;
    }
    let out = scratch.out;
    let header = &mut scratch.header;
    let old_len = be16(header, 16).wrapping_sub(20);
    let old_pseudo = pseudo_sum(header, old_len);
    let old_tcp = if made {
        // Header and payload together, out of the field.
        u64::from(!ne16(header, 50)) + u64::from(!checksum::fold(old_pseudo))
    } else {
        tcp_sum(header, false)
    };
    let old_total = ne16(header, 16);
    let mut ip =
        checksum::diff32(ne32(header, 26), out.saddr) + checksum::diff32(ne32(header, 30), out.daddr);
    put32(header, 26, out.saddr);
    put32(header, 30, out.daddr);
    put16(header, 34, out.sport);
    put16(header, 36, out.dport);
    put32(header, 38, e.seq.to_be());
    put32(header, 42, e.ack.to_be());
    put16(header, 48, e.window.to_be());
    let mut new_len = old_len;
    if e.flags != 0 {
        header[47] = e.flags;
    }
    if made {
        new_len = 20 + option_len as u16;
        let total = (20 + new_len).to_be();
        ip += checksum::diff16(old_total, total);
        put16(header, 16, total);
        header[46] = ((20 + option_len as u8) / 4) << 4;
        put16(header, 52, 0);
        put32(header, 54, 0);
        put32(header, 58, 0);
        if option_len > 0 {
            header[54] = 2;
            header[55] = 4;
            put16(header, 56, e.mss.to_be());
        }
        if option_len > 4 {
            header[58] = 1;
            header[59] = 3;
            header[60] = 3;
            header[61] = e.scale;
        }
    }
    put16(header, 24, checksum::update(ne16(header, 24), ip));
    let plain = tcp_sum(header, made) + u64::from(!checksum::fold(old_tcp));
    let pseudo = pseudo_sum(header, new_len) + u64::from(!checksum::fold(old_pseudo));
    write_back(skb, scratch, checksum::fold(plain), checksum::fold(pseudo), option_len)
}

#[inline(always)]
fn write_back(skb: *mut __sk_buff, scratch: &mut Scratch, plain: u16, pseudo: u16, option_len: u32) -> bool {
    let bytes: *mut u8 = (&raw mut scratch.header).cast();
    // SAFETY: offsets and lengths lie within the packet, whose headers were loaded; `header` has 64 bytes.
    unsafe {
        let mut failed = bpf_l4_csum_replace(skb.cast(), TCP_CHECKSUM, 0, u64::from(plain), 0);
        failed |=
            bpf_l4_csum_replace(skb.cast(), TCP_CHECKSUM, 0, u64::from(pseudo), u64::from(BPF_F_PSEUDO_HDR));
        failed |= bpf_skb_store_bytes(skb.cast(), 0, bytes.cast(), TCP_CHECKSUM, 0);
        if option_len > 0 {
            let len = if option_len > 4 { 10 } else { 6 };
            let from = bytes.add(52);
            if len == 10 {
                failed |= bpf_skb_store_bytes(skb.cast(), 52, from.cast(), 10, 0);
            } else {
                failed |= bpf_skb_store_bytes(skb.cast(), 52, from.cast(), 6, 0);
            }
        }
        failed == 0
    }
}

/// Writes the Ethernet addresses.
#[inline(always)]
pub fn address(skb: *mut __sk_buff, dmac: &[u8; 6], smac: &[u8; 6]) -> bool {
    let mut macs = [0_u8; 12];
    for i in 0..6 {
        macs[i] = dmac[i];
        macs[6 + i] = smac[i];
    }
    // SAFETY: the first 12 bytes of a frame.
    unsafe { bpf_skb_store_bytes(skb.cast(), 0, macs.as_ptr().cast(), 12, 0) == 0 }
}
