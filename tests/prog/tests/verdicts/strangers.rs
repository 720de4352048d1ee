//! Packets without a flow: not ours, not whole, or the first of a connection that can't be.

use anyhow::{Result, ensure};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use lab::net::Host;
use mirror_common::{
    abi::{Entry, Service, Tuple, maps},
    flow::tcp,
    verdict::Verdict,
    weight::mix,
};
use prog_tests::{
    packet::{CWR, ECE, Out, Seg},
    six::client6,
    stage::{FIRST_PORT, Hook, PORT, SECRET, Seen, Stage, TC_OK, TC_REDIRECT, TC_SHOT, VIP_RAW, silent},
    talk::{READ, Talk, client_tuple, syn},
};

use super::Sentence;

pub(crate) const SENTENCES: &[Sentence] = &[
    (Verdict::NotIpv4, "an ARP request is the kernel's", not_ipv4),
    (Verdict::NotTcp, "UDP towards the service's address is the kernel's", not_tcp),
    (Verdict::NoService, "a SYN to a port without a service is the kernel's", no_service),
    (Verdict::Runt, "an IPv4 frame that ends in the TCP header is the kernel's", runt),
    (Verdict::IpOptions, "a segment with IP options is the kernel's", ip_options),
    (Verdict::Ipv6Options, "a segment with IPv6's hop-by-hop options is the kernel's", hop_by_hop),
    (Verdict::Ipv6Routing, "a segment with IPv6's routing header is the kernel's", routing),
    (Verdict::Fragment, "a fragment towards another address is the kernel's", fragment),
    (Verdict::Fragment, "a fragment from a server towards a leg's address is the kernel's", fragment_to_leg),
    (Verdict::FragmentDropped, "a fragment towards the service's address is dropped", fragment_dropped),
    (Verdict::Malformed, "a TCP header of 16 bytes is dropped", short_header),
    (Verdict::Malformed, "a length beyond the frame's end is dropped", long_length),
    (Verdict::Malformed, "a length that ends within the headers is dropped", short_length),
    (Verdict::Malformed, "a SYN whose options end behind the packet is dropped", options_cut_off),
    (Verdict::SynWithoutOptions, "a SYN whose option is longer than the header is dropped", bad_option),
    (Verdict::NoFlow, "an ACK to the service without a connection is reset", no_flow),
    (Verdict::Older, "a segment to the primary's own address without a connection is the kernel's", older),
    (Verdict::ResetUnknownLeg, "a server's segment without a leg is reset", unknown_leg),
    (Verdict::StaleSlot, "an entry of another use of its slot leads nowhere", stale_slot),
    (Verdict::TableFull, "a SYN without a free slot is dropped", table_full),
    (Verdict::PortsFull, "a SYN without a free port is dropped, and its slot given back", ports_full),
    (Verdict::PortCollision, "a SYN whose entry finds no room is dropped", entries_full),
    (Verdict::SynNew, "a port that is taken is passed over", taken_port),
    (Verdict::SynNew, "a SYN becomes the SYN of a leg, without the options that legs can't share", syn_new),
    (Verdict::SynNew, "a leg's first number says nothing of another's", first_numbers),
    (Verdict::SynNew, "a SYN's extensions and data don't reach a leg", extensions),
    (Verdict::SynAgain, "a SYN sent again is the leg's SYN again", syn_again),
];

/// Only where there are two hooks.
pub(crate) const AT_XDP: &[Sentence] =
    &[(Verdict::HandoverFailed, "a step of another version of the hand-over is dropped", another_version)];

fn action(stage: &Stage, seen: &Seen, expected: u32) -> Result<()> {
    ensure!(stage.hook != Hook::Tc || seen.action == expected, "action {}", seen.action);
    Ok(())
}

fn ack_frame(stage: &mut Stage) -> Result<Vec<u8>> {
    let tuple = client_tuple(stage.client_port());
    Seg::new(tcp::ACK, 1, 1).with(b"0123456789").frame(tuple)
}

fn passed(stage: &mut Stage, frame: &[u8]) -> Result<Seen> {
    let seen = stage.put(2, frame)?;
    action(stage, &seen, TC_OK)?;
    Ok(seen)
}

fn dropped(stage: &mut Stage, frame: &[u8]) -> Result<Seen> {
    let seen = stage.put(2, frame)?;
    action(stage, &seen, TC_SHOT)?;
    Ok(seen)
}

fn older(stage: &mut Stage) -> Result<Seen> {
    stage.set_service(|service| service.flags |= Service::TRANSPARENT)?;
    let frame = ack_frame(stage)?;
    let seen = passed(stage, &frame)?;
    stage.set_service(|_| {})?;
    Ok(seen)
}

fn not_ipv4(stage: &mut Stage) -> Result<Seen> {
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &[2, 0, 0, 0, 9, 1],
        &silent(Host::Client).octets(),
        &[0; 6],
        &Host::Client.gateway_address().octets(),
    )?;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 9, 1], [0xff; 6]).arp(arp).write(&mut frame)?;
    passed(stage, &frame)
}

fn not_tcp(stage: &mut Stage) -> Result<Seen> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(silent(Host::Client).octets(), VIP_RAW.to_ne_bytes(), 64)
        .udp(5_000, 8_080)
        .write(&mut frame, b"a datagram that is long enough")?;
    passed(stage, &frame)
}

fn no_service(stage: &mut Stage) -> Result<Seen> {
    let mut tuple = client_tuple(stage.client_port());
    tuple.dport = 9_999_u16.to_be();
    passed(stage, &syn().frame(tuple)?)
}

fn runt(stage: &mut Stage) -> Result<Seen> {
    let frame = ack_frame(stage)?;
    passed(stage, &frame[..40])
}

fn ip_options(stage: &mut Stage) -> Result<Seen> {
    let mut frame = ack_frame(stage)?;
    frame[14] = 0x46;
    frame.splice(34..34, [1, 1, 1, 1]);
    passed(stage, &frame)
}

/// A SYN to the service's IPv6 address, behind an extension header.
fn extended(stage: &mut Stage, header: u8) -> Result<Seen> {
    stage.name_vip6()?;
    let mut frame = syn().frame6(&client6(stage.client_port()))?;
    let next = std::mem::replace(&mut frame[20], header);
    frame.splice(54..54, [next, 0, 1, 4, 0, 0, 0, 0]);
    frame[19] += 8;
    passed(stage, &frame)
}

fn hop_by_hop(stage: &mut Stage) -> Result<Seen> {
    extended(stage, 0)
}

fn routing(stage: &mut Stage) -> Result<Seen> {
    extended(stage, 43)
}

fn fragment(stage: &mut Stage) -> Result<Seen> {
    let mut tuple = client_tuple(stage.client_port());
    tuple.daddr = u32::from_ne_bytes(silent(Host::Primary).octets());
    let mut frame = Seg::new(tcp::ACK, 1, 1).frame(tuple)?;
    // Offset 8, more to come.
    frame[20..22].copy_from_slice(&[0x20, 1]);
    passed(stage, &frame)
}

/// T21: of a server's fragment nobody knows the leg: it isn't taken for a whole segment, and ends at the gateway's own stack.
fn fragment_to_leg(stage: &mut Stage) -> Result<Seen> {
    let (talk, _) = Talk::begin(stage)?;
    let port = talk.flow(stage)?.legs[0].port;
    let tuple = leg(port);
    let mut frame = Seg::new(tcp::ACK, 1, 1).with(b"0123456789").frame(tuple)?;
    frame[20..22].copy_from_slice(&[0x20, 0]);
    let seen = stage.put(0, &frame)?;
    action(stage, &seen, TC_OK)?;
    Ok(seen)
}

/// T21: never half a write: a fragment towards the service is dropped by name.
fn fragment_dropped(stage: &mut Stage) -> Result<Seen> {
    let mut frame = ack_frame(stage)?;
    // The first one, more to come.
    frame[20..22].copy_from_slice(&[0x20, 0]);
    dropped(stage, &frame)
}

fn short_header(stage: &mut Stage) -> Result<Seen> {
    let mut frame = ack_frame(stage)?;
    frame[46] = 0x40;
    dropped(stage, &frame)
}

fn long_length(stage: &mut Stage) -> Result<Seen> {
    let mut frame = ack_frame(stage)?;
    let length = (frame.len() - 14 + 1) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    dropped(stage, &frame)
}

fn short_length(stage: &mut Stage) -> Result<Seen> {
    let mut frame = ack_frame(stage)?;
    frame[16..18].copy_from_slice(&39_u16.to_be_bytes());
    dropped(stage, &frame)
}

fn options_cut_off(stage: &mut Stage) -> Result<Seen> {
    let tuple = client_tuple(stage.client_port());
    let mut frame = syn().frame(tuple)?;
    frame[46] = 0x80;
    dropped(stage, &frame)
}

fn bad_option(stage: &mut Stage) -> Result<Seen> {
    let tuple = client_tuple(stage.client_port());
    let frame = Seg::new(tcp::SYN, 1, 0).options(&[2, 40, 5, 0xb4]).frame(tuple)?;
    dropped(stage, &frame)
}

fn no_flow(stage: &mut Stage) -> Result<Seen> {
    let tuple = client_tuple(stage.client_port());
    let seen = stage.put(2, &Seg::new(tcp::ACK, 77, 88).frame(tuple)?)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.seg.flags == tcp::RST && out.seg.seq == 88, "{out:?}");
        ensure!(out.tuple.daddr == tuple.saddr && out.tuple.dport == tuple.sport, "{out:?}");
    }
    Ok(seen)
}

fn unknown_leg(stage: &mut Stage) -> Result<Seen> {
    let tuple = Tuple {
        saddr: u32::from_ne_bytes(silent(Host::Primary).octets()),
        daddr: u32::from_ne_bytes(Host::Primary.nat_pool()[0].octets()),
        sport: PORT,
        dport: 1_111_u16.to_be(),
    };
    let seen = stage.put(0, &Seg::new(tcp::ACK, 77, 88).frame(tuple)?)?;
    action(stage, &seen, TC_REDIRECT)?;
    Ok(seen)
}

/// T18: an entry of an earlier use of its slot leads nowhere.
fn stale_slot(stage: &mut Stage) -> Result<Seen> {
    let talk = Talk::open(stage)?;
    let entry = stage.entry(talk.tuple)?;
    stage.set_entry(talk.tuple, Entry::new(entry.slot(), entry.generation() + 1, 2))?;
    talk.confirm(stage)
}

/// T29: a full table refuses the new connection.
fn table_full(stage: &mut Stage) -> Result<Seen> {
    let slots = stage.drain(maps::SLOTS)?;
    let seen = {
        let tuple = client_tuple(stage.client_port());
        dropped(stage, &syn().frame(tuple)?)
    };
    stage.refill(maps::SLOTS, &slots)?;
    seen
}

/// T29: without a port the new connection is refused, and what it took is given back.
fn ports_full(stage: &mut Stage) -> Result<Seen> {
    let ports = stage.drain(maps::PORTS_PRIMARY)?;
    let before = stage.drain(maps::SLOTS)?;
    stage.refill(maps::SLOTS, &before)?;
    let tuple = client_tuple(stage.client_port());
    let seen = dropped(stage, &syn().frame(tuple)?)?;
    stage.refill(maps::PORTS_PRIMARY, &ports)?;
    let mut after = stage.drain(maps::SLOTS)?;
    stage.refill(maps::SLOTS, &after)?;
    after.rotate_right(1);
    ensure!(before == after, "the slot wasn't given back");
    ensure!(stage.entry(tuple).is_err(), "an entry was left behind");
    Ok(seen)
}

fn entries_full(stage: &mut Stage) -> Result<Seen> {
    let mut junk = Vec::new();
    for n in 0.. {
        let tuple = Tuple { saddr: n, daddr: 1, sport: 0, dport: 0 };
        if stage.set_entry(tuple, Entry(0)).is_err() {
            break;
        }
        junk.push(tuple);
    }
    let tuple = client_tuple(stage.client_port());
    let seen = dropped(stage, &syn().frame(tuple)?);
    for tuple in junk {
        stage.remove_entry(tuple)?;
    }
    seen
}

/// The addresses of what comes from the primary on the leg of a port.
fn leg(port: u32) -> Tuple {
    Tuple {
        saddr: u32::from_ne_bytes(silent(Host::Primary).octets()),
        daddr: u32::from_ne_bytes(Host::Primary.nat_pool()[0].octets()),
        sport: PORT,
        dport: (port as u16).to_be(),
    }
}

/// T25: who knows a leg's first number knows no other leg's, nor the same one's under another secret (RFC 6528): they are as
/// far apart as chance has it, and not by the clock, which makes 2^18 numbers a second.
fn first_numbers(stage: &mut Stage) -> Result<Seen> {
    let ports = stage.drain(maps::PORTS_PRIMARY)?;
    let mut last = Seen::default();
    let mut numbers = Vec::new();
    for (port, secret) in [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (0, 3), (0, 4)] {
        stage.set_config(|config| config.secret = mix(secret))?;
        stage.refill(maps::PORTS_PRIMARY, &ports[port..=port])?;
        last = Talk::begin(stage)?.1;
        stage.remove_entry(leg(ports[port]))?;
        if stage.hook == Hook::Tc {
            numbers.push(Out::parse(&last.frame)?.seg.seq);
        }
    }
    for (n, number) in numbers.iter().enumerate() {
        for other in &numbers[..n] {
            let apart = (number.wrapping_sub(*other) as i32).unsigned_abs();
            ensure!(apart > 1 << 20, "{apart} between two of {numbers:?}");
        }
    }
    stage.set_config(|config| config.secret = SECRET)?;
    stage.refill(maps::PORTS_PRIMARY, &ports[4..])?;
    Ok(last)
}

/// T29: a taken port is passed over.
fn taken_port(stage: &mut Stage) -> Result<Seen> {
    let ports = stage.drain(maps::PORTS_PRIMARY)?;
    stage.refill(maps::PORTS_PRIMARY, &ports)?;
    let taken = leg(ports[0]);
    stage.set_entry(taken, Entry(0))?;
    let (talk, seen) = Talk::begin(stage)?;
    ensure!(talk.flow(stage)?.legs[0].port == ports[1], "not the next free port");
    stage.remove_entry(taken)?;
    Ok(seen)
}

/// T5, T6: SACK-permitted is offered to a leg, timestamps aren't.
fn syn_new(stage: &mut Stage) -> Result<Seen> {
    let tuple = client_tuple(stage.client_port());
    // MSS 1460, SACK permitted, timestamps, a NOP, scale 7.
    let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    let seen = stage.put(2, &Seg::new(tcp::SYN, 5, 0).options(&options).frame(tuple)?)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.seg.options == [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7], "{:?}", out.seg.options);
        ensure!(out.seg.flags == tcp::SYN && out.tuple.dport == PORT, "{out:?}");
        ensure!(u32::from(u16::from_be(out.tuple.sport)) >= FIRST_PORT, "{out:?}");
    }
    Ok(seen)
}

/// T23, T24: neither congestion notification nor Fast Open, multipath TCP, MD5 or TCP-AO are offered to a leg, and data in a
/// SYN comes again behind the handshake.
fn extensions(stage: &mut Stage) -> Result<Seen> {
    let mut last = Seen::default();
    let md5 = [&[19, 18][..], &[7; 16], &[1, 1]].concat();
    let ao = [&[29, 16, 1, 1][..], &[7; 12]].concat();
    for option in [&[34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1][..], &[30, 4, 1, 1], &md5, &ao] {
        let tuple = client_tuple(stage.client_port());
        let options = [&[2, 4, 5, 0xb4][..], option].concat();
        let syn = Seg::new(tcp::SYN | ECE | CWR, 5, 0).options(&options).with(READ);
        last = stage.put(2, &syn.frame(tuple)?)?;
        if stage.hook == Hook::Tc {
            let out = Out::parse(&last.frame)?;
            ensure!(out.seg.options == [2, 4, 5, 0xb4] && out.seg.flags == tcp::SYN, "{out:?}");
            ensure!(out.seg.payload.is_empty(), "{out:?}");
        }
        let flow = stage.flow(stage.entry(tuple)?.slot())?;
        ensure!(flow.client_next == 6, "{flow:?}");
    }
    Ok(last)
}

fn syn_again(stage: &mut Stage) -> Result<Seen> {
    let (talk, first) = Talk::begin(stage)?;
    let again = talk.client(stage, &syn())?;
    if stage.hook == Hook::Tc {
        let (first, again) = (Out::parse(&first.frame)?, Out::parse(&again.frame)?);
        ensure!(first.tuple == again.tuple && first.seg.seq == again.seg.seq, "{first:?} {again:?}");
    }
    Ok(again)
}

/// The mark of the hand-over with a version that no program has.
fn marked() -> [u8; 200] {
    let mut meta = [0; 200];
    meta[..4].copy_from_slice(&0x6d69_72ff_u32.to_ne_bytes());
    meta
}

/// T32: a step of another version of the programs is dropped.
fn another_version(stage: &mut Stage) -> Result<Seen> {
    let frame = [marked().as_slice(), &ack_frame(stage)?].concat();
    let verdicts = stage.pass_live(stage.device(2), &frame, 200)?;
    Ok(Seen { verdicts, ..Seen::default() })
}
