//! T22 where IPv6 is on either side: an error is told in the family of the end that is to hear of it.

use anyhow::{Context, Result, ensure};
use etherparse::{Icmpv4Slice, Icmpv6Slice, PacketBuilder, SlicedPacket, TransportSlice};
use lab::net::Host;
use mirror_common::{
    abi::{
        Tuple,
        six::{Client, words},
    },
    flow::Quote,
    verdict::Verdict,
};
use prog_tests::{
    packet::Seg,
    six::{VIP6, answer_to, nat6, silent6},
    stage::{Stage, silent},
};

use super::{Open, a_connection, sent, untouched};
use mirror_common::switch_word::Side;

/// Types of ICMPv6.
const UNREACHABLE: u8 = 1;
const TOO_LARGE: u8 = 2;

/// What a router says of a packet to the sender of it.
fn error6(ends: &Client, seg: &Seg, kind: u8, code: u8, mtu: u32) -> Result<Vec<u8>> {
    let about = seg.frame6(ends)?;
    let to: [u8; 16] = about[22..38].try_into()?;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6("fd00:99::1".parse::<std::net::Ipv6Addr>()?.octets(), to, 64)
        .icmpv6_raw(kind, code, mtu.to_be_bytes())
        .write(&mut frame, &about[14..])?;
    Ok(frame)
}

fn error4(tuple: Tuple, seg: &Seg, kind: u8, code: u8, mtu: u16) -> Result<Vec<u8>> {
    let about = seg.frame(tuple)?;
    let [high, low] = mtu.to_be_bytes();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([192, 0, 2, 1], tuple.saddr.to_ne_bytes(), 64)
        .icmpv4_raw(kind, code, [0, 0, high, low])
        .write(&mut frame, &about[14..])?;
    Ok(frame)
}

/// The frame is an ICMPv6 error to `ends.saddr` about a packet of these ends with this number.
fn says6(frame: &[u8], ends: &Client, said: (u8, u8, u32), seq: u32) -> Result<()> {
    let sliced = SlicedPacket::from_ethernet(frame).context("no packet came out")?;
    let ip = sliced.net.as_ref().and_then(|net| net.ipv6_ref()).context("not IPv6")?.header();
    let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { anyhow::bail!("not ICMPv6") };
    let icmp: &Icmpv6Slice<'_> = icmp;
    ensure!(icmp.is_checksum_valid(ip.source(), ip.destination()), "a wrong checksum");
    ensure!((icmp.type_u8(), icmp.code_u8(), u32::from_be_bytes(icmp.bytes5to8())) == said, "{icmp:?}");
    let about = Seg::new(0, seq, 0).frame6(ends)?;
    let quoted = icmp.payload();
    ensure!(quoted[8..48] == about[22..62], "{quoted:?} instead of {:?}", &about[14..]);
    ensure!(quoted[6] == 6 && ip.destination_addr().octets() == about[22..38], "{quoted:?}");
    Ok(())
}

/// The same of an ICMP error.
fn says4(frame: &[u8], tuple: Tuple, said: (u8, u8, u16), seq: u32) -> Result<()> {
    let sliced = SlicedPacket::from_ethernet(frame).context("no packet came out")?;
    let ip = sliced.net.as_ref().and_then(|net| net.ipv4_ref()).context("not IPv4")?.header();
    ensure!(ip.to_header().calc_header_checksum() == ip.header_checksum(), "a wrong IP checksum");
    let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else { anyhow::bail!("not ICMP") };
    let icmp: &Icmpv4Slice<'_> = icmp;
    let words = icmp.slice().chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])));
    ensure!(mirror_common::checksum::fold(words.sum()) == 0xffff, "a wrong ICMP checksum");
    let [_, _, high, low] = icmp.bytes5to8();
    ensure!((icmp.type_u8(), icmp.code_u8(), u16::from_be_bytes([high, low])) == said, "{icmp:?}");
    let about = Seg::new(0, seq, 0).frame(tuple)?;
    let quoted = icmp.payload();
    ensure!(quoted[12..28] == about[26..42], "{quoted:?} instead of {:?}", &about[14..]);
    ensure!(ip.destination() == tuple.saddr.to_ne_bytes(), "{:?}", ip.destination());
    Ok(())
}

/// What went to the primary's server, by the family that it has.
fn leg_six(open: &Open, stage: &Stage) -> Result<Client> {
    let (saddr, daddr) = (words(nat6(Side::Primary)), words(silent6(Host::Primary)));
    Ok(Client { saddr, daddr, sport: open.port, dport: stage.endpoint(0)?.port })
}

fn leg_four(open: &Open, stage: &Stage) -> Result<Tuple> {
    let end = stage.endpoint(0)?;
    Ok(Tuple { saddr: end.nat, daddr: end.addr, sport: open.port, dport: end.port })
}

pub(crate) fn reach_the_end_that_can_do_something(stage: &mut Stage) -> Result<()> {
    stage.servers_of_ipv6([true; 2])?;
    let open = a_connection(stage, true)?;
    let ([asked, asked_leg], [heard, heard_leg]) = (&open.asked, &open.answered);
    let leg = leg_six(&open, stage)?;
    // Of the server's path, for the client.
    let frame = error6(&leg, asked_leg, TOO_LARGE, 0, 1_400)?;
    let seen = stage.put(0, &frame)?;
    let frame = sent(&seen, Verdict::IcmpTranslated)?;
    says6(frame, &open.client, (TOO_LARGE, 0, 1_400), asked.seq)?;
    // Of the client's path, for the server.
    let to_client = answer_to(open.client);
    let too_large = error6(&to_client, heard, TOO_LARGE, 0, 1_380)?;
    let seen = stage.put(2, &too_large)?;
    let frame = sent(&seen, Verdict::IcmpTranslated)?;
    says6(frame, &answer_to(leg), (TOO_LARGE, 0, 1_380), heard_leg.seq)?;
    // Forged, or old.
    let old = Seg { seq: heard.seq - 100_000, ..heard.clone() };
    let seen = stage.put(2, &error6(&to_client, &old, TOO_LARGE, 0, 1_280)?)?;
    ensure!(seen.verdicts == [Verdict::IcmpAbsorbed], "{seen:?}");
    // Not about a flow's packet.
    let other = Client { dport: 9_u16.to_be(), ..to_client };
    untouched(stage, &error6(&other, heard, TOO_LARGE, 0, 1_280)?, Verdict::NotTcp)?;
    let mut echo = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(silent6(Host::Client).octets(), VIP6.octets(), 64)
        .icmpv6_echo_request(1, 2)
        .write(&mut echo, &[7; 80])?;
    untouched(stage, &echo, Verdict::NotTcp)?;
    across_the_families(stage)
}

/// The header is 20 bytes longer with IPv6.
fn across_the_families(stage: &mut Stage) -> Result<()> {
    stage.servers_of_ipv6([false; 2])?;
    let open = a_connection(stage, false)?;
    let ([asked, asked_leg], [heard, heard_leg]) = (&open.asked, &open.answered);
    let leg = leg_four(&open, stage)?;
    for (said, becomes) in [
        ((Quote::UNREACHABLE, Quote::TOO_LARGE, 1_400), (TOO_LARGE, 0, 1_420)),
        ((Quote::UNREACHABLE, Quote::TOO_LARGE, 0), (TOO_LARGE, 0, 1_280)),
        ((Quote::UNREACHABLE, 3, 0), (UNREACHABLE, 4, 0)),
        ((Quote::UNREACHABLE, 1, 0), (UNREACHABLE, 0, 0)),
    ] {
        let seen = stage.put(0, &error4(leg, asked_leg, said.0, said.1, said.2)?)?;
        let frame = sent(&seen, Verdict::IcmpTranslated)?;
        says6(frame, &open.client, becomes, asked.seq).with_context(|| format!("{said:?}"))?;
    }
    let back = Tuple { saddr: leg.daddr, daddr: leg.saddr, sport: leg.dport, dport: leg.sport };
    ensure!(back.saddr == u32::from_ne_bytes(silent(Host::Primary).octets()));
    for (said, becomes) in [
        ((TOO_LARGE, 0, 1_400), (Quote::UNREACHABLE, Quote::TOO_LARGE, 1_380)),
        ((UNREACHABLE, 1, 0), (Quote::UNREACHABLE, 10, 0)),
    ] {
        let frame = error6(&answer_to(open.client), heard, said.0, said.1, said.2)?;
        let seen = stage.put(2, &frame)?;
        let frame = sent(&seen, Verdict::IcmpTranslated)?;
        says4(frame, back, becomes, heard_leg.seq).with_context(|| format!("{said:?}"))?;
    }
    Ok(())
}
