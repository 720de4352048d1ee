//! The only module that touches a packet's bytes: headers are copied to scratch, judged there, and written back. What an
//! skb at TC and a frame at XDP do differently is in [`Packet`], and no more than that.

mod error;
mod frame;
mod sack;
mod shift;
mod skb;
mod sum;

use core::{arch::asm, ffi::c_void};

use aya_ebpf::helpers::generated::bpf_loop;
use mirror_common::{
    checksum,
    flow::{Emit, Segment, emit, tcp},
    options,
    verdict::Verdict,
};

pub use error::{quote, rewrite_error};
pub use frame::Frame;
pub use sack::put as put_sack;
pub use skb::Skb;
pub use sum::body;

use crate::maps::{HEADER_BYTES, Scratch};

/// Ethernet header, in bytes.
pub const ETH: u32 = 14;
/// Ethernet, IPv4 without options and TCP without options, in bytes.
pub const HEADERS: u32 = 54;
/// Offset of the TCP checksum.
const TCP_CHECKSUM: u32 = 50;
/// IPv4's number in Ethernet, as it lies in memory.
const PROTOCOL_IPV4: u16 = 0x0800_u16.to_be();

/// A packet at a hook.
pub trait Packet: Copy {
    /// Handshakes, packets longer than the one at hand, and such with a part of its payload are made at this hook.
    const HANDSHAKES: bool;

    /// What helpers take.
    fn context(self) -> *mut c_void;
    /// Index of the device that it came in by.
    fn device(self) -> u32;
    /// Bytes, from the Ethernet header on.
    fn length(self) -> u32;
    /// Whether IPv4 follows the Ethernet header.
    fn is_ipv4(self) -> bool;
    /// Copies `len` bytes from `offset` on. False where the packet is shorter.
    ///
    /// # Safety
    /// `to` has room for `len` bytes; `len` is known to the verifier as 1 or more.
    unsafe fn load_raw(self, offset: u32, to: *mut u8, len: u32) -> bool;
    /// Cuts or stretches it to `len` bytes.
    fn resize(self, len: u32) -> bool;
    /// Writes the headers back: all up to the TCP checksum; the checksum, changed by two differences, of which `pseudo` is
    /// the pseudo-header's; and `rest` bytes behind it (0, 2, 6, 10 or 14).
    fn write(self, header: &mut [u8; HEADER_BYTES], plain: u16, pseudo: u16, rest: u32) -> bool;
    /// Overwrites `len` bytes from `offset` on, and changes the TCP checksum by their difference.
    ///
    /// # Safety
    /// `from` has `len` bytes; `len` is known to the verifier as 1 or more.
    unsafe fn replace(self, offset: u32, from: *mut u8, len: u32, difference: u16) -> bool;

    /// Copies `len` bytes (1 to `MAX`) from `offset` on. False where the packet is shorter.
    ///
    /// # Safety
    /// `to` has room for `MAX` bytes.
    #[inline(always)]
    unsafe fn load<const MAX: u32>(self, offset: u32, to: *mut u8, len: u32) -> bool {
        let len = opaque(len);
        if len == 0 || len > MAX {
            return false;
        }
        // SAFETY: the caller's promise.
        unsafe { self.load_raw(offset, to, len) }
    }
}

#[inline(always)]
fn be16(bytes: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn be32(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// As it lies in memory.
#[inline(always)]
fn ne16(bytes: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

/// As it lies in memory.
#[inline(always)]
fn ne32(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline(always)]
fn put16(bytes: &mut [u8; HEADER_BYTES], at: usize, value: u16) {
    let raw = value.to_ne_bytes();
    bytes[at] = raw[0];
    bytes[at + 1] = raw[1];
}

#[inline(always)]
fn put32(bytes: &mut [u8; HEADER_BYTES], at: usize, value: u32) {
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

/// Copies the three headers anew: after the packet was changed.
#[inline(always)]
fn reload<P: Packet>(packet: P, scratch: &mut Scratch) -> bool {
    // SAFETY: `header` has room for 64 bytes.
    unsafe { packet.load_raw(0, (&raw mut scratch.header).cast(), HEADERS) }
}

/// Reads the headers, and a SYN's options, into `scratch.{header,tuple,seg,tcp_len,options}`. An error is the verdict; with one
/// of TCP's own, the tuple's addresses are known.
#[inline(never)]
pub fn parse<P: Packet>(packet: P, scratch: &mut Scratch, now_ns: u64) -> Result<(), Verdict> {
    if !packet.is_ipv4() {
        return Err(Verdict::NotIpv4);
    }
    if !reload(packet, scratch) {
        return Err(Verdict::Runt);
    }
    let header = &scratch.header;
    scratch.tuple.saddr = ne32(header, 26);
    scratch.tuple.daddr = ne32(header, 30);
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
    if tcp_len < 20 || total < 20 + tcp_len || total + ETH > packet.length() {
        return Err(Verdict::Malformed);
    }
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
    seg.permits_sack = 0;
    seg.sack.room = 0;
    seg.reading.flags = 0;
    seg.reading.begun = 0;
    seg.reading.summed = 0;
    if !P::HANDSHAKES || !seg.is(tcp::SYN) || tcp_len == 20 {
        return Ok(());
    }
    if !options(packet, scratch)? {
        return Err(Verdict::SynWithoutOptions);
    }
    scratch.seg.mss = scratch.options.mss;
    scratch.seg.scale = scratch.options.scale;
    scratch.seg.permits_sack = scratch.options.permits_sack;
    Ok(())
}

unsafe extern "C" fn option_step(_index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` hands on what `options` gave it, which outlives the loop.
    let scratch = unsafe { &mut **context.cast::<*mut Scratch>() };
    !scratch.options.step(&scratch.option_bytes) as i64
}

/// Reads the options into `scratch.options`. False: they contradict themselves.
#[inline(never)]
fn options<P: Packet>(packet: P, scratch: &mut Scratch) -> Result<bool, Verdict> {
    let len = scratch.tcp_len - 20;
    let to = (&raw mut scratch.option_bytes).cast();
    // SAFETY: there is room for 40 bytes.
    if !unsafe { packet.load::<40>(HEADERS, to, len) } {
        return Err(Verdict::Malformed);
    }
    scratch.options.begin(len);
    let mut context: *mut Scratch = scratch;
    // SAFETY: the callback and its context outlive the call.
    unsafe { bpf_loop(options::MAX as u32, option_step as *mut c_void, (&raw mut context).cast(), 0) };
    Ok(scratch.options.valid != 0)
}

/// Reads SACK's blocks of a flow's segment into `scratch.seg.sack`. Other packets' options aren't ours to judge.
#[inline(always)]
pub fn blocks<P: Packet>(packet: P, scratch: &mut Scratch) -> Result<(), Verdict> {
    if scratch.tcp_len == 20 || scratch.seg.is(tcp::SYN) {
        return Ok(());
    }
    let valid = options(packet, scratch)?;
    if !valid || (scratch.options.blocks != 0 && !sack::read(packet, scratch)) {
        return Err(Verdict::Malformed);
    }
    Ok(())
}

/// The sum of the words from 34 to `end` of the header, the checksum field left out.
#[inline(always)]
fn tcp_sum(header: &[u8; HEADER_BYTES], options: bool) -> u64 {
    let mut sum = checksum::word(ne32(header, 34))
        + checksum::word(ne32(header, 38))
        + checksum::word(ne32(header, 42));
    sum += checksum::word(ne32(header, 46)) + u64::from(ne16(header, 52));
    if options {
        sum += checksum::word(ne32(header, 54)) + checksum::word(ne32(header, 58));
        sum += checksum::word(ne32(header, 62));
    }
    sum
}

/// The pseudo-header's sum, for a TCP length in bytes.
#[inline(always)]
fn pseudo_sum(header: &[u8; HEADER_BYTES], tcp_bytes: u16) -> u64 {
    checksum::word(ne32(header, 26))
        + checksum::word(ne32(header, 30))
        + u64::from(tcp_bytes.to_be())
        + u64::from(6_u16.to_be())
}

/// Bytes behind the three headers without options that stay of a packet that is cut: TCP's options, and what is kept of the
/// payload.
#[inline(always)]
fn behind_headers(header: &[u8; HEADER_BYTES], payload: u32) -> u32 {
    let options = (u32::from(header[46] >> 4) * 4).wrapping_sub(20) & 0x3f;
    options + payload
}

/// Moves what stays of the payload of a packet that is to be cut to its beginning, and sums it with the options into
/// `scratch.cut_sum`. False where the packet is shorter than that.
#[inline(never)]
pub fn keep(skb: Skb, scratch: &mut Scratch, skip: u32, payload: u32) -> bool {
    if !reload(skb, scratch) {
        return false;
    }
    let kept = behind_headers(&scratch.header, payload);
    let at = HEADERS + behind_headers(&scratch.header, 0);
    if skip > 0 && !shift::shift(skb, scratch, at, skip, payload) {
        return false;
    }
    match sum::pieces(skb, scratch, HEADERS, kept) {
        Some(sum) => {
            scratch.cut_sum = u32::from(sum);
            true
        }
        None => false,
    }
}

/// The Ethernet addresses of a packet that leaves.
#[derive(Clone, Copy)]
pub struct Macs {
    pub to: [u8; 6],
    pub from: [u8; 6],
}

/// Writes the options of a SYN that we make, each padded by NOPs to a word.
#[inline(always)]
fn syn_options(header: &mut [u8; HEADER_BYTES], e: &Emit) {
    header[54..56].copy_from_slice(&[2, 4]);
    put16(header, 56, e.mss.to_be());
    let scale = [1, 3, 3, e.scale];
    let scales = e.scale != Segment::NO_SCALE;
    if e.permits_sack != 0 {
        header[58..62].copy_from_slice(&[1, 1, 4, 2]);
        if scales {
            header[62..66].copy_from_slice(&scale);
        }
    } else if scales {
        header[58..62].copy_from_slice(&scale);
    }
}

/// Rewrites the packet at hand into what `scratch.emit` asks for, towards `scratch.out` and `macs`.
///
/// Whether an skb's checksum is complete or was left to the device can't be seen; [`Packet::write`] knows: of the two
/// differences it takes the second alone where only the pseudo-header's sum is in the field.
#[inline(always)]
pub fn rewrite<P: Packet>(packet: P, scratch: &mut Scratch, macs: Macs) -> bool {
    if !reload(packet, scratch) {
        return false;
    }
    let e = scratch.emit;
    let cut = P::HANDSHAKES && e.kind == emit::CUT;
    let made = !cut && e.kind != emit::FORWARD;
    let option_len: u32 = if !P::HANDSHAKES || e.kind != emit::SYN {
        0
    } else {
        4 + if e.permits_sack != 0 { 4 } else { 0 } + if e.scale == Segment::NO_SCALE { 0 } else { 4 }
    };
    let kept = if cut { behind_headers(&scratch.header, u32::from(e.mss)) } else { option_len };
    if (made || cut) && !packet.resize(HEADERS + kept) {
        return false;
    }
    let out = scratch.out;
    let cut_sum = if cut { scratch.cut_sum } else { 0 };
    let header = &mut scratch.header;
    let old_len = be16(header, 16).wrapping_sub(20);
    let old_pseudo = pseudo_sum(header, old_len);
    let old_tcp = if made || cut {
        // Header and payload together, out of the field.
        u64::from(!ne16(header, 50)) + u64::from(!checksum::fold(old_pseudo))
    } else {
        tcp_sum(header, false)
    };
    let old_total = ne16(header, 16);
    let mut ip =
        checksum::diff32(ne32(header, 26), out.saddr) + checksum::diff32(ne32(header, 30), out.daddr);
    header[..6].copy_from_slice(&macs.to);
    header[6..12].copy_from_slice(&macs.from);
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
    if made || cut {
        new_len = 20 + kept as u16;
        let total = (20 + new_len).to_be();
        ip += checksum::diff16(old_total, total);
        put16(header, 16, total);
    }
    if made {
        header[46] = ((20 + option_len as u8) / 4) << 4;
        put16(header, 52, 0);
        put32(header, 54, 0);
        put32(header, 58, 0);
        put32(header, 62, 0);
        if option_len > 0 {
            syn_options(header, &e);
        }
    }
    put16(header, 24, checksum::update(ne16(header, 24), ip));
    let plain = tcp_sum(header, made) + u64::from(cut_sum) + u64::from(!checksum::fold(old_tcp));
    let pseudo = pseudo_sum(header, new_len) + u64::from(!checksum::fold(old_pseudo));
    let rest = if made { 2 + option_len } else { 0 };
    packet.write(&mut scratch.header, checksum::fold(plain), checksum::fold(pseudo), rest)
}
