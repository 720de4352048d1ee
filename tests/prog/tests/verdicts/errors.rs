//! ICMP errors about packets of a flow.

use anyhow::{Context, Result, ensure};
use etherparse::{Icmpv4Slice, PacketBuilder, SlicedPacket, TransportSlice};
use mirror_common::{
    abi::Tuple,
    flow::{LEAST_MTU, Quote},
    switch_word::Side,
    verdict::Verdict,
};
use prog_tests::{
    packet::Seg,
    stage::{Hook, Seen, Stage, TC_OK, TC_REDIRECT, TC_SHOT},
    talk::{ANSWER, READ, Talk},
};

use super::{Sentence, joined};

pub(crate) const SENTENCES: &[Sentence] = &[
    (
        Verdict::IcmpTranslated,
        "T22: the client hears of the authority's path, in its own numbers",
        of_authority,
    ),
    (
        Verdict::IcmpTranslated,
        "T8: what is too large for the shadow's path is the client's to know",
        too_large,
    ),
    (Verdict::IcmpTranslated, "T22: the authority's server hears of the client's path", of_client),
    (Verdict::IcmpAbsorbed, "T22: the client hears nothing else of the shadow's path", of_shadow),
    (
        Verdict::IcmpAbsorbed,
        "T8: a tunnel that leaves less than 1,280 bytes is no reason to slow down",
        too_small,
    ),
    (
        Verdict::IcmpAbsorbed,
        "T25: an error about a number that isn't under way is forged, or old",
        not_under_way,
    ),
    (Verdict::NotTcp, "an ICMP error about no flow's packet is the kernel's", no_flow),
    (Verdict::NotTcp, "an echo request is the kernel's", echo),
];

/// What a router at 192.0.2.1 says of a packet, of which it quotes `quoted` bytes behind the IP header.
fn error(tuple: Tuple, seg: &Seg, quote: [u8; 2], mtu: u16, quoted: usize) -> Result<Vec<u8>> {
    let about = seg.frame(tuple)?;
    let [high, low] = mtu.to_be_bytes();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([192, 0, 2, 1], tuple.saddr.to_ne_bytes(), 64)
        .icmpv4_raw(quote[0], quote[1], [0, 0, high, low])
        .write(&mut frame, &about[14..34 + quoted])?;
    Ok(frame)
}

/// The addresses of what is sent, from those of what is answered.
fn back(tuple: Tuple) -> Tuple {
    Tuple { saddr: tuple.daddr, daddr: tuple.saddr, sport: tuple.dport, dport: tuple.sport }
}

const HOST_UNREACHABLE: [u8; 2] = [Quote::UNREACHABLE, 1];
const TOO_LARGE: [u8; 2] = [Quote::UNREACHABLE, Quote::TOO_LARGE];

/// A read is on its way to both servers; returns it as a side's server would have got it.
fn read_under_way(stage: &mut Stage, side: Side) -> Result<(Talk, Tuple, Seg)> {
    stage.set_word(joined())?;
    let talk = Talk::open(stage)?;
    let client = talk.next(stage, mirror_common::flow::tcp::ACK)?.with(READ);
    talk.client(stage, &client)?;
    let flow = talk.flow(stage)?;
    let tuple = back(talk.leg_tuple(stage, side)?);
    let sent = Seg { seq: client.seq.wrapping_add(flow.leg(side).offset), ..client };
    Ok((talk, tuple, sent))
}

/// At TC what came out is an error whose sums are right, from and to these, about such a packet.
fn says(stage: &Stage, seen: &Seen, outer: Tuple, quote: [u8; 2], mtu: u16, seq: u32) -> Result<()> {
    if stage.hook != Hook::Tc {
        return Ok(());
    }
    ensure!(seen.action == TC_REDIRECT, "action {}", seen.action);
    let sliced = SlicedPacket::from_ethernet(&seen.frame).context("no packet came out")?;
    let ip = sliced.net.as_ref().and_then(|net| net.ipv4_ref()).context("not IPv4")?.header();
    ensure!(ip.to_header().calc_header_checksum() == ip.header_checksum(), "a wrong IP checksum");
    ensure!(ip.source() == outer.saddr.to_ne_bytes() && ip.destination() == outer.daddr.to_ne_bytes());
    let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else { anyhow::bail!("not ICMP") };
    ensure!(whole(icmp), "a wrong ICMP checksum");
    ensure!([icmp.type_u8(), icmp.code_u8()] == quote, "{} {}", icmp.type_u8(), icmp.code_u8());
    ensure!(icmp.bytes5to8()[2..] == mtu.to_be_bytes(), "{:?}", icmp.bytes5to8());
    let quoted = icmp.payload();
    let of = back(outer);
    let addresses = [of.saddr.to_ne_bytes(), of.daddr.to_ne_bytes()].concat();
    ensure!(quoted[12..20] == addresses, "{quoted:?}");
    let header: u64 =
        quoted[..20].chunks(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    ensure!(mirror_common::checksum::fold(header) == 0xffff, "a wrong checksum of the quoted header");
    let ports = [of.sport.to_ne_bytes(), of.dport.to_ne_bytes()].concat();
    ensure!(quoted[20..24] == ports && quoted[24..28] == seq.to_be_bytes(), "{quoted:?}");
    Ok(())
}

fn whole(icmp: &Icmpv4Slice<'_>) -> bool {
    let bytes = icmp.slice();
    let padded = [bytes, &[0]].concat();
    let words = padded.chunks_exact(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])));
    mirror_common::checksum::fold(words.sum()) == 0xffff
}

fn dropped(stage: &Stage, seen: Seen) -> Result<Seen> {
    ensure!(stage.hook != Hook::Tc || seen.action == TC_SHOT, "action {}", seen.action);
    Ok(seen)
}

fn of_authority(stage: &mut Stage) -> Result<Seen> {
    let (talk, tuple, sent) = read_under_way(stage, Side::Primary)?;
    let seen = stage.put(0, &error(tuple, &sent, HOST_UNREACHABLE, 0, 8)?)?;
    let read = talk.flow(stage)?.client_next.wrapping_sub(READ.len() as u32);
    says(stage, &seen, back(talk.tuple), HOST_UNREACHABLE, 0, read)?;
    // The whole packet may be quoted, too; an odd length tries the sum.
    let seen = stage.put(0, &error(tuple, &sent, HOST_UNREACHABLE, 0, 20 + READ.len() - 1)?)?;
    says(stage, &seen, back(talk.tuple), HOST_UNREACHABLE, 0, read)?;
    Ok(seen)
}

fn too_large(stage: &mut Stage) -> Result<Seen> {
    let (talk, tuple, sent) = read_under_way(stage, Side::Shadow)?;
    let seen = stage.put(1, &error(tuple, &sent, TOO_LARGE, 1_400, 8)?)?;
    let read = talk.flow(stage)?.client_next.wrapping_sub(READ.len() as u32);
    says(stage, &seen, back(talk.tuple), TOO_LARGE, 1_400, read)?;
    Ok(seen)
}

fn of_client(stage: &mut Stage) -> Result<Seen> {
    let (talk, ..) = read_under_way(stage, Side::Primary)?;
    let answer = talk.reply(stage, Side::Primary, mirror_common::flow::tcp::ACK)?.with(ANSWER);
    talk.server(stage, Side::Primary, &answer)?;
    let flow = talk.flow(stage)?;
    let shown = Seg { seq: answer.seq.wrapping_add(flow.delta), ..answer.clone() };
    let seen = stage.put(2, &error(back(talk.tuple), &shown, TOO_LARGE, 1_280, 8)?)?;
    let to_server = back(talk.leg_tuple(stage, Side::Primary)?);
    says(stage, &seen, to_server, TOO_LARGE, 1_280, answer.seq)?;
    Ok(seen)
}

fn of_shadow(stage: &mut Stage) -> Result<Seen> {
    let (_, tuple, sent) = read_under_way(stage, Side::Shadow)?;
    let seen = stage.put(1, &error(tuple, &sent, HOST_UNREACHABLE, 0, 8)?)?;
    dropped(stage, seen)
}

fn too_small(stage: &mut Stage) -> Result<Seen> {
    let (_, tuple, sent) = read_under_way(stage, Side::Shadow)?;
    let seen = stage.put(1, &error(tuple, &sent, TOO_LARGE, LEAST_MTU - 1, 8)?)?;
    dropped(stage, seen)
}

fn not_under_way(stage: &mut Stage) -> Result<Seen> {
    let (_, tuple, sent) = read_under_way(stage, Side::Primary)?;
    let later = Seg { seq: sent.seq.wrapping_add(READ.len() as u32), ..sent };
    let seen = stage.put(0, &error(tuple, &later, HOST_UNREACHABLE, 0, 8)?)?;
    dropped(stage, seen)
}

fn no_flow(stage: &mut Stage) -> Result<Seen> {
    let (_, mut tuple, sent) = read_under_way(stage, Side::Primary)?;
    tuple.sport = 1_u16.to_be();
    let seen = stage.put(0, &error(tuple, &sent, HOST_UNREACHABLE, 0, 8)?)?;
    ensure!(stage.hook != Hook::Tc || seen.action == TC_OK, "action {}", seen.action);
    Ok(seen)
}

fn echo(stage: &mut Stage) -> Result<Seen> {
    let (_, tuple, sent) = read_under_way(stage, Side::Primary)?;
    let seen = stage.put(0, &error(tuple, &sent, [8, 0], 0, 8)?)?;
    ensure!(stage.hook != Hook::Tc || seen.action == TC_OK, "action {}", seen.action);
    Ok(seen)
}
