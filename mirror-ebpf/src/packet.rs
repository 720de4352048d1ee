//! The only module that touches a packet's bytes: headers are copied to scratch, judged there, and written back. What an
//! skb at TC and a frame at XDP do differently is in [`Packet`], and no more than that.

mod datagram;
mod error;
mod error6;
mod frame;
mod header;
mod header6;
mod sack;
mod shift;
mod six;
mod skb;
mod sum;

use core::{arch::asm, ffi::c_void, hint::cold_path};

use aya_ebpf::helpers::generated::bpf_loop;
use mirror_common::{
    abi::Tuple,
    checksum,
    flow::{Emit, Segment, emit, tcp},
    options,
    verdict::Verdict,
};

pub use datagram::{
    load as load_datagram, load6 as load_datagram6, message, payload_at, rewrite as rewrite_datagram,
    translate as translate_datagram,
};
pub use error::{quote, rewrite_error};
pub use error6::{Words, make_error, quote6};
pub use frame::Frame;
pub use header::{Header, Macs};
pub use header6::Header6;
pub use sack::put as put_sack;
pub use skb::Skb;
pub use sum::{body, pieces};

use crate::maps::Scratch;

/// Ethernet header, in bytes.
pub const ETH: u32 = 14;
/// Ethernet, IPv4 without options and TCP without options, in bytes.
pub const HEADERS: u32 = 54;
/// Offset of the TCP checksum.
const TCP_CHECKSUM: u32 = 50;
/// Offset of the UDP checksum.
const UDP_CHECKSUM: u32 = 40;
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
    /// The same where a device must be able to send it as it is; 0 where that isn't asked at this hook, or for this packet.
    fn plain_length(self) -> u32;
    /// Whether it passes where one of `length` bytes ([`Packet::plain_length`]) did.
    fn fits(self, length: u32) -> bool;
    /// Whether IPv4 follows the Ethernet header.
    fn is_ipv4(self) -> bool;
    /// Copies `len` bytes from `offset` on. False where the packet is shorter.
    ///
    /// # Safety
    /// `to` has room for `len` bytes; `len` is known to the verifier as 1 or more.
    unsafe fn load_raw(self, offset: u32, to: *mut u8, len: u32) -> bool;
    /// Where the part of it that is read in place begins and ends, as addresses. It may be shorter than the packet.
    fn linear(self) -> (usize, usize);
    /// Copies the three headers. False where the packet is shorter.
    #[inline(always)]
    fn headers(self, to: &mut Header) -> bool {
        let (data, end) = self.linear();
        if data + HEADERS as usize > end {
            cold_path();
            // SAFETY: it has room for as many.
            return unsafe { self.load_raw(0, to.bytes(), HEADERS) };
        }
        // SAFETY: within the packet; it has room for as many.
        unsafe { to.read(data as *const u8) };
        true
    }
    /// Cuts or stretches it to `len` bytes.
    fn resize(self, len: u32) -> bool;
    /// Writes the headers back, the TCP checksum changed by what happened to what it sums, and so many bytes of options (0, 4,
    /// 8 or 12).
    fn write(self, header: &mut Header, difference: Difference, options: u32) -> bool;
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

/// What is added to what a TCP checksum sums.
#[derive(Clone, Copy)]
pub struct Difference {
    /// Folded, of header and payload.
    pub plain: u16,
    /// Folded, of the pseudo-header.
    pub pseudo: u16,
    /// The checksum may have been left to a device: then the field has no more than the pseudo-header's sum.
    pub may_be_left: bool,
}

/// Hides a bound from LLVM, which would otherwise drop the check that the verifier needs to see.
#[inline(always)]
pub fn opaque(mut n: u32) -> u32 {
    // SAFETY: moves a register onto itself.
    unsafe { asm!("{0} = {0}", inout(reg) n, options(nomem, nostack, preserves_flags)) };
    n
}

/// Copies the three headers.
#[inline(always)]
fn reload<P: Packet>(packet: P, scratch: &mut Scratch) -> bool {
    let loaded = packet.headers(&mut scratch.header);
    scratch.loaded = loaded as u32;
    loaded
}

/// Reads the headers, and a SYN's options, into `scratch.{header,tuple,seg,tcp_len,options}`. An error is the verdict; with one
/// of TCP's own, the tuple's addresses are known.
#[inline(always)]
pub fn parse<P: Packet>(packet: P, scratch: &mut Scratch) -> Result<(), Verdict> {
    if !packet.is_ipv4() {
        return Err(Verdict::NotIpv4);
    }
    if !reload(packet, scratch) {
        return Err(Verdict::Runt);
    }
    let header = &scratch.header;
    scratch.tuple.saddr = header.saddr;
    scratch.tuple.daddr = header.daddr;
    if crate::six::forged(packet, scratch) {
        cold_path();
        return Err(Verdict::NoService);
    }
    let header = &scratch.header;
    if header.protocol != 6 {
        return Err(Verdict::NotTcp);
    }
    if header.version != Header::PLAIN_IPV4 {
        cold_path();
        return Err(Verdict::IpOptions);
    }
    // Only a first fragment has ports, and none is whole.
    if header.is_fragment() {
        cold_path();
        return Err(Verdict::Fragment);
    }
    let total = u32::from(u16::from_be(header.total));
    let tcp_len = header.tcp_len();
    if tcp_len < 20 || total < 20 + tcp_len || total + ETH > packet.length() {
        cold_path();
        return Err(Verdict::Malformed);
    }
    scratch.tuple.sport = header.sport;
    scratch.tuple.dport = header.dport;
    scratch.tcp_len = tcp_len;
    let seg = &mut scratch.seg;
    seg.seq = u32::from_be(header.seq);
    seg.ack = u32::from_be(header.ack);
    seg.flags = header.flags;
    seg.window = u16::from_be(header.window);
    seg.payload = total - 20 - tcp_len;
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
    cold_path();
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

/// Bytes behind the three headers without options that stay of a packet that is cut: TCP's options, and what is kept of the
/// payload.
#[inline(always)]
fn behind_headers(header: &Header, payload: u32) -> u32 {
    let options = header.tcp_len().wrapping_sub(20) & 0x3f;
    options + payload
}

/// Makes what stays of the payload of a packet that is to be cut follow its headers, and sums it with the options into
/// `scratch.cut_sum`. A `tail` reaches to the packet's end, and leaves a super-packet one; it loses its options. False where the
/// packet is shorter.
#[inline(never)]
pub fn keep(skb: Skb, scratch: &mut Scratch, skip: u32, payload: u32, tail: bool) -> bool {
    if !reload(skb, scratch) {
        return false;
    }
    let options = behind_headers(&scratch.header, 0);
    let kept = match (tail, skip) {
        (true, _) => behead(skb, scratch, options + skip),
        (_, 0) => true,
        _ => shift::shift(skb, scratch, HEADERS + options, skip, payload),
    };
    let sum = if kept {
        sum::pieces(skb, scratch, HEADERS, behind_headers(&scratch.header, payload))
    } else {
        None
    };
    scratch.cut_sum = u32::from(sum.unwrap_or(0));
    sum.is_some()
}

/// Takes `by` bytes away behind the headers at hand, of which options are the first.
#[inline(always)]
fn behead(skb: Skb, scratch: &mut Scratch, by: u32) -> bool {
    if !shift::behead(skb, by) {
        return false;
    }
    let header = &mut scratch.header;
    let total = u16::from_be(header.total).wrapping_sub(by as u16).to_be();
    header.ip_sum = checksum::update(header.ip_sum, checksum::diff16(header.total, total));
    header.total = total;
    header.offset = (20 / 4) << 4;
    // SAFETY: the headers have as many bytes.
    unsafe { skb.store(0, header.bytes(), HEADERS) }
}

/// The options of a SYN that we make, each padded by NOPs to a word. What isn't sent is zero.
#[inline(always)]
fn syn_options(e: &Emit) -> [u32; 3] {
    let [high, low] = e.mss.to_be_bytes();
    let mss = u32::from_ne_bytes([2, 4, high, low]);
    let scale = if e.scale == Segment::NO_SCALE { 0 } else { u32::from_ne_bytes([1, 3, 3, e.scale]) };
    match e.permits_sack {
        0 => [mss, scale, 0],
        _ => [mss, u32::from_ne_bytes([1, 1, 4, 2]), scale],
    }
}

/// Rewrites the packet at hand into what `scratch.emit` asks for, towards `scratch.out` and `macs`.
///
/// Whether an skb's checksum is complete or was left to the device can't be seen. But where it was left, the field has the sum of
/// the pseudo-header, with the length or without; the few complete ones that come to the same are told apart by
/// [`Packet::write`], which then takes the second difference alone.
#[inline(always)]
pub fn rewrite<P: Packet>(packet: P, scratch: &mut Scratch, macs: Macs) -> bool {
    if scratch.loaded == 0 {
        cold_path();
        if !packet.is_ipv4() || !reload(packet, scratch) {
            return false;
        }
    }
    scratch.loaded = 0;
    let e = scratch.emit;
    let cut = P::HANDSHAKES && e.kind == emit::CUT;
    let made = !cut && e.kind != emit::FORWARD;
    let options: u32 = if !P::HANDSHAKES || e.kind != emit::SYN {
        0
    } else {
        4 + if e.permits_sack != 0 { 4 } else { 0 } + if e.scale == Segment::NO_SCALE { 0 } else { 4 }
    };
    let kept = if cut { behind_headers(&scratch.header, u32::from(e.mss)) } else { options };
    if (made || cut) && !packet.resize(HEADERS + kept) {
        return false;
    }
    let out = scratch.out;
    if !made && !cut {
        let difference = forwarded(&mut scratch.header, &e, &out, macs);
        return packet.write(&mut scratch.header, difference, options);
    }
    let cut_sum = if cut { scratch.cut_sum } else { 0 };
    let header = &mut scratch.header;
    let old_len = u16::from_be(header.total).wrapping_sub(20);
    let old_pseudo = header.pseudo_sum(old_len);
    // Header and payload together, out of the field.
    let old_tcp = u64::from(!header.sum) + u64::from(!checksum::fold(old_pseudo));
    let Difference { may_be_left, .. } = forwarded(header, &e, &out, macs);
    let new_len = 20 + kept as u16;
    let total = (20 + new_len).to_be();
    header.ip_sum = checksum::update(header.ip_sum, checksum::diff16(header.total, total));
    header.total = total;
    let mut options_sum = 0;
    if made {
        header.offset = ((20 + options as u8) / 4) << 4;
        header.urgent = 0;
        header.options = [0; 3];
        if options > 0 {
            header.options = syn_options(&e);
            options_sum = header.options_sum();
        }
    }
    let plain = header.tcp_sum() + options_sum + u64::from(cut_sum) + u64::from(!checksum::fold(old_tcp));
    let pseudo = header.pseudo_sum(new_len) + u64::from(!checksum::fold(old_pseudo));
    let (plain, pseudo) = (checksum::fold(plain), checksum::fold(pseudo));
    packet.write(&mut scratch.header, Difference { plain, pseudo, may_be_left }, options)
}

/// Makes of the headers at hand those of the same packet towards `out` and `macs`, with the numbers of `e`.
#[inline(always)]
fn forwarded(header: &mut Header, e: &Emit, out: &Tuple, macs: Macs) -> Difference {
    let may_be_left = header.may_be_left();
    let pseudo = checksum::diff32(header.saddr, out.saddr) + checksum::diff32(header.daddr, out.daddr);
    header.ip_sum = checksum::update(header.ip_sum, pseudo);
    header.macs = macs;
    header.saddr = out.saddr;
    header.daddr = out.daddr;
    let (seq, ack, window) = (e.seq.to_be(), e.ack.to_be(), e.window.to_be());
    let mut plain = checksum::diff16(header.sport, out.sport)
        + checksum::diff16(header.dport, out.dport)
        + checksum::diff32(header.seq, seq)
        + checksum::diff32(header.ack, ack)
        + checksum::diff16(header.window, window);
    header.sport = out.sport;
    header.dport = out.dport;
    header.seq = seq;
    header.ack = ack;
    header.window = window;
    if e.flags != 0 {
        let [was, becomes] = [header.flags, e.flags].map(|flags| u16::from_ne_bytes([0, flags]));
        plain += checksum::diff16(was, becomes);
        header.flags = e.flags;
    }
    Difference { plain: checksum::fold(plain), pseudo: checksum::fold(pseudo), may_be_left }
}
