//! SACK (RFC 2018) over two legs: what both servers have of the client's bytes is shown to it, and what it has of the
//! authority's bytes to that one.
//!
//! A block that a client is shown lies within what every leg has that owes: its acknowledgement, and its own blocks. Client
//! and server must not be told more: a stack sends what it believes to be there again only after a timeout (RFC 2018, 8:
//! "after a retransmit timeout the data sender SHOULD turn off all of the SACKed bits"; Linux, net/ipv4/tcp_input.c,
//! `tcp_check_sack_reneging`). So:
//! * a leg whose server doesn't permit SACK counts by its acknowledgement alone;
//! * so does one that is being dialled, or is down: it has nothing from its first byte on ([`Leg::acked`]);
//! * a leg that isn't there owes nothing.
//!
//! Where a leg is lost that had more than it acknowledged, its successor lacks what the client was shown. That is the reneging
//! which RFC 2018, 8, allows a receiver: the client still has those bytes, and sends them again, the first of them ("MUST
//! retransmit the segment at the left edge of the window ... whether or not the SACKed bit is on") and then the others.
//!
//! One list of blocks is kept a flow, that of the leg which is ahead: blocks are shown with the acknowledgements of the one
//! behind, and a client adds up what it is shown.

use super::client::{ack_client, showable};
use super::{Flow, Leg, Segment, Step, emit, leg_state};
use crate::seq;
use crate::switch_word::Side;
use crate::verdict::Verdict;

/// Blocks in an option at most: 40 bytes of options hold no more (RFC 2018, 3).
pub const MAX_BLOCKS: usize = 4;

/// Blocks that are kept of the leg that is ahead.
const KEPT: usize = 3;

/// A SACK option: as it came, or what it becomes. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sack {
    /// First number, and the number behind the last, of each block; a duplicate's is the first one (RFC 2883, 4).
    pub blocks: [[u32; 2]; MAX_BLOCKS],
    /// What stands for the blocks, so that two lists can be told apart; its highest bit: the first is a duplicate's.
    pub print: u32,
    /// Where the option begins, in bytes behind the 20 of TCP's header.
    pub at: u8,
    /// Blocks that the packet's option has room for; 0: it has none.
    pub room: u8,
    /// Blocks that it shows; the room that is left becomes NOPs.
    pub count: u8,
    /// Whom they are for: 0, 1 a side's server, 2 the client. Anybody else's option becomes NOPs.
    pub to: u8,
}

/// [`Sack::to`]: the client.
const CLIENT: u8 = 2;
/// In [`Sack::print`].
const DUPLICATE: u32 = 1 << 31;

impl Sack {
    /// Nothing is shown yet, in the room of the option that came.
    #[inline(always)]
    pub(super) fn open(&mut self, came: &Sack) {
        self.at = came.at;
        self.room = came.room;
        self.count = 0;
        self.to = CLIENT;
        self.print = 0;
    }
}

/// Adds a block, where there is room. Returns how many there are.
///
/// This and what calls it are subprograms of their own, whose results are used: what they find in memory is any number to the
/// kernel's verifier, which would else follow each count by itself.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn push(sack: &mut Sack, begin: u32, end: u32) -> u32 {
    if sack.count < sack.room {
        sack.blocks[sack.count as usize & (MAX_BLOCKS - 1)] = [begin, end];
        sack.count += 1;
        let print = (sack.print ^ begin).wrapping_mul(0x9e37_79b1).rotate_left(13) ^ end;
        sack.print = (print & !DUPLICATE) | (sack.print & DUPLICATE);
    }
    u32::from(sack.count)
}

/// Whether both a client and a leg's server permit SACK.
#[inline(always)]
pub(super) fn sacks(flow: &Flow, side: Side) -> bool {
    flow.has(Flow::SACK) && flow.leg(side).flags & Leg::SACK != 0
}

/// Whether there are kept blocks, and they are a side's.
#[inline(always)]
fn keeps(flow: &Flow, side: Side) -> bool {
    flow.has(Flow::KEPT) && flow.has(Flow::KEPT_OF_SHADOW) == (side as u8 == Side::Shadow as u8)
}

/// A leg's blocks mean nothing any more.
#[inline(always)]
pub(super) fn forget(flow: &mut Flow, side: Side) {
    if keeps(flow, side) {
        flow.set(Flow::KEPT, false);
    }
}

/// What the blocks of a leg's segment come to: they are kept, and what the other leg has too is shown in `step.sack`. An
/// acknowledgement goes to the client for those alone, if it hasn't been shown them. Returns the verdict.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn of_leg(flow: &mut Flow, side: Side, seg: &Segment, step: &mut Step) -> u8 {
    let ack = seg.ack.wrapping_sub(flow.leg(side).offset);
    // What is behind the leg's acknowledgement is an older one, that has come late.
    if flow.leg(side).state == leg_state::OPEN && sacks(flow, side) && ack == flow.leg(side).acked {
        if seg.sack.room == 0 {
            forget(flow, side);
        } else {
            let mut count = show(flow, side, seg, step, 0);
            count |= show(flow, side, seg, step, 1);
            count |= show(flow, side, seg, step, 2);
            count |= show(flow, side, seg, step, 3);
            keep(flow, side, seg);
            if count > 0 {
                pass(flow, step);
            }
        }
    }
    step.verdict
}

/// Lets an acknowledgement go to the client with its blocks.
#[inline(always)]
fn pass(flow: &mut Flow, step: &mut Step) {
    let print = step.sack.print;
    let absorbed = step.verdict == Verdict::AbsorbedAck as u8;
    if absorbed && print & DUPLICATE == 0 && print == flow.shown_sack {
        return;
    }
    if absorbed {
        ack_client(flow, step);
        step.end(Verdict::Raised);
    }
    if step.verdict == Verdict::Raised as u8 {
        // The packet at hand has the room for the blocks; what is made anew has none.
        step.to_client.kind = emit::FORWARD;
    }
    if step.to_client.kind == emit::FORWARD {
        flow.shown_sack = print;
    }
}

/// Shows what of the n-th block of a leg's both legs have. A duplicate's, of bytes that the client was shown as acknowledged
/// (RFC 2883, 4), is shown if the client sent them: it must learn that it needn't have.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn show(flow: &Flow, side: Side, seg: &Segment, step: &mut Step, n: u32) -> u32 {
    let offset = flow.leg(side).offset;
    let block = seg.sack.blocks[n as usize & (MAX_BLOCKS - 1)];
    let (begin, end) = (block[0].wrapping_sub(offset), block[1].wrapping_sub(offset));
    if n >= u32::from(seg.sack.room) || !seq::lt(begin, end) {
        return u32::from(step.sack.count);
    }
    if seq::le(end, flow.shown) {
        if n > 0 || !seq::lt(flow.iss, begin) {
            return u32::from(step.sack.count);
        }
        step.sack.print |= DUPLICATE;
        return push(&mut step.sack, begin, end);
    }
    let end = seq::min(end, showable(flow));
    let other = flow.leg(side.other());
    let alone = cfg!(feature = "plant-sack-of-authority") && flow.authority as u32 == side as u32;
    if other.state == leg_state::NONE || alone {
        return part(flow, begin, end, step);
    }
    let mut count = part(flow, begin, seq::min(end, other.acked), step);
    if other.state == leg_state::OPEN && keeps(flow, side.other()) {
        for kept in &flow.kept {
            count |= part(flow, seq::max(begin, kept[0]), seq::min(end, kept[1]), step);
        }
    }
    count
}

/// Shows a part of a block, if there is anything of it above the shown acknowledgement.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn part(flow: &Flow, begin: u32, end: u32, step: &mut Step) -> u32 {
    // One that began at the acknowledgement would be a contradiction: the byte there is missing somewhere.
    if !seq::lt(flow.shown, begin) || !seq::lt(begin, end) {
        return u32::from(step.sack.count);
    }
    push(&mut step.sack, begin, end)
}

/// Keeps the first of a leg's blocks, unless the other one's reach further.
#[inline(always)]
fn keep(flow: &mut Flow, side: Side, seg: &Segment) {
    if keeps(flow, side.other()) {
        let top = furthest(flow, side, seg);
        let other = flow.leg(side.other()).acked;
        for n in 0..KEPT {
            let [begin, end] = flow.kept[n];
            if begin != end && seq::lt(other, end) && seq::le(top, end) {
                return;
            }
        }
    }
    flow.set(Flow::KEPT, true);
    flow.set(Flow::KEPT_OF_SHADOW, side as u8 == Side::Shadow as u8);
    for n in 0..KEPT {
        flow.kept[n] = of_its_own(flow, side, seg, n);
    }
}

/// The n-th block of a leg's, in the client's numbers; an empty one where that says nothing beyond its acknowledgement.
#[inline(always)]
fn of_its_own(flow: &Flow, side: Side, seg: &Segment, n: usize) -> [u32; 2] {
    let leg = flow.leg(side);
    let [begin, end] = seg.sack.blocks[n];
    let (begin, end) = (begin.wrapping_sub(leg.offset), end.wrapping_sub(leg.offset));
    let valid = seq::lt(leg.acked, begin) && seq::lt(begin, end) && seq::le(end, flow.client_next);
    if n < seg.sack.room as usize && valid { [begin, end] } else { [0; 2] }
}

/// How far a leg's blocks reach.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn furthest(flow: &Flow, side: Side, seg: &Segment) -> u32 {
    let mut top = flow.leg(side).acked;
    for n in 0..KEPT {
        let [begin, end] = of_its_own(flow, side, seg, n);
        if begin != end {
            top = seq::max(top, end);
        }
    }
    top
}

/// What the client's blocks come to: they are about the authority's bytes, and shown to that one alone, in its numbers.
/// Returns the verdict.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn of_client(flow: &Flow, seg: &Segment, step: &mut Step) -> u8 {
    let side = flow.authority();
    let current = seg.ack == flow.client_acked && flow.hears(side);
    if current && sacks(flow, side) && flow.leg(side).state == leg_state::OPEN {
        let mut count = translate(flow, side, seg, step, 0);
        count |= translate(flow, side, seg, step, 1);
        count |= translate(flow, side, seg, step, 2);
        count |= translate(flow, side, seg, step, 3);
        if count > 0 {
            step.sack.to = side as u8;
        }
    }
    step.verdict
}

/// The client's n-th block in the authority's numbers. What lies before the first one that it was shown was another leg's.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn translate(flow: &Flow, side: Side, seg: &Segment, step: &mut Step, n: u32) -> u32 {
    let block = seg.sack.blocks[n as usize & (MAX_BLOCKS - 1)];
    let (begin, end) = (block[0].wrapping_sub(flow.delta), block[1].wrapping_sub(flow.delta));
    let sent = flow.leg(side).sent_max;
    let strange = seq::lt(begin, flow.shown_from) || !seq::lt(begin, end) || seq::lt(sent, end);
    if n >= u32::from(seg.sack.room) || strange {
        return u32::from(step.sack.count);
    }
    push(&mut step.sack, begin, end)
}
