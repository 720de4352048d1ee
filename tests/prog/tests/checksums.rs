//! Whether a checksum is complete or was left to a device is told by its value, and where that doesn't tell, by the kernel.
//! What is left to a device shows in the scenarios of `tests/netns`, whose hosts leave all of theirs; here is what only looks so.

use anyhow::{Context, Result, ensure};
use mirror_common::{abi::Tuple, checksum, flow::tcp, switch_word::SwitchWord, verdict::Verdict};
use prog_tests::{
    packet::{Out, Seg},
    stage::{Hook, Stage, TC_REDIRECT, on_stage},
    talk::{READ, Talk},
};

/// Where a frame's TCP checksum lies.
const FIELD: std::ops::Range<usize> = 50..52;

/// The sum of the pseudo-header, of a TCP length in bytes.
fn pseudo(tuple: &Tuple, length: usize) -> Result<u16> {
    let length = u16::try_from(length)?;
    let sum = checksum::word(tuple.saddr) + checksum::word(tuple.daddr);
    Ok(checksum::fold(sum + u64::from(length.to_be()) + u64::from(6_u16.to_be())))
}

fn field(frame: &[u8]) -> Result<u16> {
    Ok(u16::from_ne_bytes(frame.get(FIELD).context("a short frame")?.try_into()?))
}

/// The segment's frame, its urgent pointer (which says nothing without its flag) such that the complete checksum is `wanted`.
fn frame_with(seg: &Seg, tuple: Tuple, wanted: u16) -> Result<Vec<u8>> {
    let now = field(&seg.frame(tuple)?)?;
    let mut seg = seg.clone();
    seg.urgent = u16::from_be(checksum::fold(u64::from(now) + u64::from(!wanted)));
    let frame = seg.frame(tuple)?;
    ensure!(field(&frame)? == wanted, "{:#x} instead of {wanted:#x}", field(&frame)?);
    Ok(frame)
}

/// A complete checksum that is what a device would find where one was left to it, the length in it or not.
fn a_complete_checksum_that_looks_as_if_it_was_left_stays_complete(stage: &mut Stage) -> Result<()> {
    stage.set_word(SwitchWord::initial())?;
    for has_length in [true, false] {
        for payload in [&b""[..], READ] {
            let talk = Talk::open(stage)?;
            let seg = talk.next(stage, tcp::ACK)?.with(payload);
            let length = if has_length { 20 + payload.len() } else { 0 };
            let frame = frame_with(&seg, talk.tuple, pseudo(&talk.tuple, length)?)?;
            let seen = stage.put(2, &frame)?;
            ensure!(seen.action == TC_REDIRECT, "{seen:?}");
            // Every checksum of it is looked at.
            let out = Out::parse(&seen.frame)?;
            ensure!(out.seg.payload == payload, "{out:?}");
        }
    }
    Ok(())
}

/// The same of a packet that will be cut into segments.
fn so_does_that_of_a_super_packet(stage: &mut Stage) -> Result<()> {
    let talk = Talk::open(stage)?;
    let seg = talk.next(stage, tcp::ACK)?.with(&[READ, &[b'x'; 3_000]].concat());
    let (action, frame) = stage.run_super("mirror_tc", stage.device(2), &seg.frame(talk.tuple)?, 1_448)?;
    ensure!(action == TC_REDIRECT && stage.counts()?.contains(&Verdict::Forwarded), "{action}");
    Out::parse(&frame)?;
    Ok(())
}

/// T19: by its value, and where that doesn't tell, by what the kernel makes of it.
#[test]
fn a_checksum_is_corrected_as_what_it_is() -> Result<()> {
    on_stage(Hook::Tc, |stage| {
        a_complete_checksum_that_looks_as_if_it_was_left_stays_complete(stage)?;
        so_does_that_of_a_super_packet(stage)
    })
}
