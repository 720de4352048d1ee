//! IPv6: packets of ours are translated at the edges, each family's way; all else is the kernel's, untouched.

use std::net::Ipv6Addr;

use anyhow::{Context, Result, ensure};
use etherparse::{IpNumber, PacketBuilder};
use lab::net::Host;
use mirror_common::{
    abi::{
        Service, Tuple,
        six::{self, words},
    },
    flow::tcp,
    switch_word::{Phase, Side, SwitchWord},
    verdict::Verdict,
};
use prog_tests::{
    packet::{Out, Out6, Seg},
    six::{SYN_ACK, VIP6, answer_to, client6, nat6, silent6},
    stage::{Hook, Seen, Stage, TC_OK, TC_REDIRECT, TC_SHOT, on_stage, silent},
    talk::{ANSWER, CLIENT_ISS, READ, SERVER_ISS, syn},
};

mod errors;

fn sent(seen: &Seen, verdict: Verdict) -> Result<&[u8]> {
    ensure!(seen.verdicts == [verdict] && seen.action == TC_REDIRECT, "{seen:?}");
    Ok(&seen.frame)
}

/// What leaves for the primary's server: the leg's port, and the segment.
fn to_primary(frame: &[u8], six: bool) -> Result<(u16, Seg)> {
    if six {
        let Out6 { ends, seg, .. } = Out6::parse(frame)?;
        let expected = (words(nat6(Side::Primary)), words(silent6(Host::Primary)));
        ensure!((ends.saddr, ends.daddr) == expected, "{ends:?}");
        return Ok((ends.sport, seg));
    }
    let Out { tuple, seg, .. } = Out::parse(frame)?;
    ensure!(tuple.daddr == u32::from_ne_bytes(silent(Host::Primary).octets()), "{tuple:?}");
    Ok((tuple.sport, seg))
}

/// What comes from it.
fn from_primary(stage: &Stage, six: bool, port: u16, seg: &Seg) -> Result<Vec<u8>> {
    let end = stage.endpoint(0)?;
    if six {
        let (saddr, daddr) = (words(silent6(Host::Primary)), words(nat6(Side::Primary)));
        return seg.frame6(&six::Client { saddr, daddr, sport: end.port, dport: port });
    }
    seg.frame(Tuple { saddr: end.addr, daddr: end.nat, sport: end.port, dport: port })
}

/// A connection by one leg that is open: a read was answered, the next one is on its way to the primary.
struct Open {
    client: six::Client,
    /// The leg's port.
    port: u16,
    /// The second read, as the client and as the primary's server have it.
    asked: [Seg; 2],
    /// The answer, as both have it.
    answered: [Seg; 2],
}

/// A client's connection, from its SYN on.
fn a_connection(stage: &mut Stage, six: bool) -> Result<Open> {
    let client = client6(stage.client_port());
    let seen = stage.put(2, &syn().frame6(&client)?)?;
    let (port, dialled) = to_primary(sent(&seen, Verdict::SynNew)?, six)?;
    ensure!(dialled.flags == tcp::SYN && dialled.options[..2] == [2, 4], "{dialled:?}");
    let says = Seg::new(SYN_ACK, SERVER_ISS[0], dialled.seq.wrapping_add(1)).options(&[2, 4, 5, 0xa0]);
    let frame = from_primary(stage, six, port, &says)?;
    let seen = stage.put(0, &frame)?;
    let shown = Out6::parse(sent(&seen, Verdict::SynAckShown)?)?;
    ensure!(shown.ends == answer_to(client) && shown.seg.ack == CLIENT_ISS + 1, "{shown:?}");
    let next = Seg::new(tcp::ACK, CLIENT_ISS + 1, shown.seg.seq.wrapping_add(1)).with(READ);
    let mut frame = next.frame6(&client)?;
    // Traffic class 0xb8, expedited forwarding, and a flow label.
    frame[14..18].copy_from_slice(&[0x6b, 0x81, 0x23, 0x45]);
    let seen = stage.put(2, &frame)?;
    let frame = sent(&seen, Verdict::Forwarded)?;
    let (_, asked) = to_primary(frame, six)?;
    ensure!(asked.payload == READ && asked.ack == SERVER_ISS[0] + 1, "{asked:?}");
    let class = if six { Out6::parse(frame)?.class_and_hops[0] } else { frame[15] };
    ensure!(class == 0xb8, "class {class:#x}");
    let answer = Seg::new(tcp::ACK, SERVER_ISS[0] + 1, asked.seq + READ.len() as u32).with(ANSWER);
    let frame = from_primary(stage, six, port, &answer)?;
    let seen = stage.put(0, &frame)?;
    let heard = Out6::parse(sent(&seen, Verdict::Forwarded)?)?;
    ensure!(heard.ends == answer_to(client) && heard.seg.payload == ANSWER, "{heard:?}");
    ensure!(heard.class_and_hops == [0, 64], "{heard:?}");
    let seq = next.seq + READ.len() as u32;
    // The answer is still on its way to the client.
    let next = Seg::new(tcp::ACK, seq, heard.seg.seq).with(READ);
    let seen = stage.put(2, &next.frame6(&client)?)?;
    let (_, asked) = to_primary(sent(&seen, Verdict::Forwarded)?, six)?;
    Ok(Open { client, port, asked: [next, asked], answered: [heard.seg, answer] })
}

fn a_client_is_served_by_servers_of_either_family(stage: &mut Stage) -> Result<()> {
    for six in [false, true] {
        stage.servers_of_ipv6([six; 2])?;
        a_connection(stage, six).map(drop).with_context(|| format!("servers of IPv6: {six}"))?;
    }
    Ok(())
}

/// One of each: the packet at hand is translated for one, and back for the other.
fn a_packet_for_servers_of_both_families_reaches_each_in_its_own(stage: &mut Stage) -> Result<()> {
    stage.set_word(SwitchWord::initial().with_phase(Phase::Mirroring).with_member(Side::Shadow, true))?;
    for servers6 in [[true, false], [false, true]] {
        stage.servers_of_ipv6(servers6)?;
        let client = client6(stage.client_port());
        let seen = stage.put(2, &syn().frame6(&client)?)?;
        // The last that leaves is the shadow's.
        let frame = sent(&seen, Verdict::SynNew)?;
        let dialled = if servers6[1] {
            let Out6 { ends, seg, .. } = Out6::parse(frame)?;
            ensure!(ends.daddr == words(silent6(Host::Shadow)), "{ends:?}");
            seg
        } else {
            let Out { tuple, seg, .. } = Out::parse(frame)?;
            ensure!(tuple.daddr == u32::from_ne_bytes(silent(Host::Shadow).octets()), "{tuple:?}");
            seg
        };
        ensure!(dialled.flags == tcp::SYN, "{dialled:?}");
    }
    stage.servers_of_ipv6([true; 2])?;
    stage.set_word(SwitchWord::initial())
}

fn untouched(stage: &mut Stage, frame: &[u8], verdict: Verdict) -> Result<()> {
    let seen = stage.put(2, frame)?;
    ensure!(seen.verdicts == [verdict] && seen.action == TC_OK && seen.frame == frame, "{seen:?}");
    Ok(())
}

fn what_is_not_ours_is_the_kernels_as_it_came(stage: &mut Stage) -> Result<()> {
    let free = stage.free_clients()?;
    let client = client6(stage.client_port());
    let elsewhere = six::Client { daddr: words(silent6(Host::Primary)), ..client };
    untouched(stage, &syn().frame6(&six::Client { dport: 9_u16.to_be(), ..client })?, Verdict::NoService)?;
    untouched(stage, &syn().frame6(&elsewhere)?, Verdict::NoService)?;
    let stranger = six::Client { daddr: words("fd00:99::1".parse()?), ..client };
    untouched(stage, &syn().frame6(&stranger)?, Verdict::NotIpv4)?;
    let mut udp = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6(silent6(Host::Client).octets(), VIP6.octets(), 64)
        .udp(53, 8080)
        .write(&mut udp, b"?")?;
    untouched(stage, &udp, Verdict::NotTcp)?;
    ensure!(stage.free_clients()? == free, "an alias was lost");
    Ok(())
}

/// Puts extension headers of 8 bytes, each empty, before what a frame has behind IPv6's.
fn extended(mut frame: Vec<u8>, headers: &[IpNumber]) -> Vec<u8> {
    for header in headers.iter().rev() {
        let next = std::mem::replace(&mut frame[20], header.0);
        let padding = match *header {
            // Offset and identification: the first of one.
            IpNumber::IPV6_FRAGMENTATION_HEADER => [next, 0, 0, 0, 0, 0, 0, 1],
            // An option of padding (RFC 8200, 4.2); of routing type 4, without segments left.
            IpNumber::IPV6_ROUTE_HEADER => [next, 0, 4, 0, 0, 0, 0, 0],
            _ => [next, 0, 1, 4, 0, 0, 0, 0],
        };
        frame.splice(54..54, padding);
        let bytes = (frame.len() - 54) as u16;
        frame[18..20].copy_from_slice(&bytes.to_be_bytes());
    }
    frame
}

/// T21: the kernel would put it together, and reset a connection that it doesn't know.
fn a_fragment_towards_the_service_is_dropped(stage: &mut Stage) -> Result<()> {
    const FRAGMENT: IpNumber = IpNumber::IPV6_FRAGMENTATION_HEADER;
    let frame = syn().frame6(&client6(stage.client_port()))?;
    for before in [None, Some(IpNumber::IPV6_HEADER_HOP_BY_HOP), Some(IpNumber::IPV6_ROUTE_HEADER)] {
        let headers: Vec<_> = before.into_iter().chain([FRAGMENT]).collect();
        let seen = stage.put(2, &extended(frame.clone(), &headers))?;
        ensure!(seen.verdicts == [Verdict::FragmentDropped] && seen.action == TC_SHOT, "{seen:?}");
    }
    // To a leg's address: a server's, or anybody's. It may be of another one's.
    let ends = six::Client { daddr: words(nat6(Side::Primary)), ..client6(stage.client_port()) };
    untouched(stage, &extended(syn().frame6(&ends)?, &[FRAGMENT]), Verdict::Fragment)
}

/// As IPv4's options.
fn extension_headers_are_the_kernels(stage: &mut Stage) -> Result<()> {
    let client = client6(stage.client_port());
    for (header, verdict) in [
        (IpNumber::IPV6_HEADER_HOP_BY_HOP, Verdict::Ipv6Options),
        (IpNumber::IPV6_DESTINATION_OPTIONS, Verdict::Ipv6Options),
        (IpNumber::IPV6_ROUTE_HEADER, Verdict::Ipv6Routing),
        (IpNumber::AUTHENTICATION_HEADER, Verdict::NotTcp),
    ] {
        let frame = extended(syn().frame6(&client)?, &[header]);
        untouched(stage, &frame, verdict)?;
        // Of another host's nothing is said.
        let elsewhere = six::Client { daddr: words("fd00:99::1".parse()?), ..client };
        untouched(stage, &extended(syn().frame6(&elsewhere)?, &[header]), Verdict::NotIpv4)?;
    }
    Ok(())
}

/// RFC 9293, 3.10.7.1. Its alias lasts no longer than the answer.
fn a_segment_without_a_connection_is_reset_and_its_alias_taken_back(stage: &mut Stage) -> Result<()> {
    let free = stage.free_clients()?;
    for _ in 0..20 {
        let client = client6(stage.client_port());
        let seen = stage.put(2, &Seg::new(tcp::ACK, 1, 77).frame6(&client)?)?;
        let reset = Out6::parse(sent(&seen, Verdict::NoFlow)?)?;
        ensure!(reset.ends == answer_to(client), "{reset:?}");
        ensure!(reset.seg.flags == tcp::RST && reset.seg.seq == 77, "{reset:?}");
        ensure!(stage.free_clients()? == free);
    }
    Ok(())
}

/// Where the service's address is the primary's own. Behind a join they would write to one side alone.
fn a_connection_older_than_the_datapath_is_the_kernels(stage: &mut Stage) -> Result<()> {
    let (free, vip) = (stage.free_clients()?, six::written(0));
    let endpoints = [stage.endpoint(0)?, stage.endpoint(1)?];
    let own = |service: &mut Service| {
        service.endpoints = endpoints;
        service.flags |= Service::TRANSPARENT;
    };
    stage.set_service_at(vip, own)?;
    let client = client6(stage.client_port());
    for flags in [tcp::ACK, tcp::RST, tcp::FIN | tcp::ACK] {
        let frame = Seg::new(flags, 1, 77).with(READ).frame6(&client)?;
        untouched(stage, &frame, Verdict::Older)?;
    }
    stage.set_word(SwitchWord::initial().with_phase(Phase::Mirroring).with_member(Side::Shadow, true))?;
    let seen = stage.put(2, &Seg::new(tcp::ACK, 1, 77).frame6(&client)?)?;
    sent(&seen, Verdict::NoFlow)?;
    stage.set_word(SwitchWord::initial())?;
    let seen = stage.put(2, &syn().frame6(&client)?)?;
    sent(&seen, Verdict::SynNew)?;
    ensure!(stage.free_clients()? == free - 1, "one begins, with an alias of its own");
    stage.servers_of_ipv6([true; 2])
}

/// T29.
fn without_a_free_alias_a_new_connection_is_refused(stage: &mut Stage) -> Result<()> {
    stage.servers_of_ipv6([true; 2])?;
    for left in (0..stage.free_clients()?).rev() {
        a_connection(stage, true)?;
        ensure!(stage.free_clients()? == left);
    }
    let one_more = client6(stage.client_port());
    let seen = stage.put(2, &syn().frame6(&one_more)?)?;
    ensure!(seen.verdicts == [Verdict::TableFull] && seen.action == TC_SHOT, "{seen:?}");
    Ok(())
}

/// T25: no wire has such addresses.
fn aliases_that_come_in_by_a_wire_are_not_believed(stage: &mut Stage) -> Result<()> {
    let vip = six::written(0);
    for saddr in [six::client(0), six::written(1), u32::from_ne_bytes([10, 0, 1, 50])] {
        let tuple = Tuple { saddr, daddr: vip, sport: 30_001_u16.to_be(), dport: 8080_u16.to_be() };
        let frame = Seg::new(tcp::ACK, CLIENT_ISS + 1, 1).frame(tuple)?;
        untouched(stage, &frame, Verdict::NoService)?;
    }
    Ok(())
}

/// By the client's address, not by its connection's alias.
#[test]
fn all_connections_of_a_client_go_to_one_server() -> Result<()> {
    const OTHERS: [(u32, u16); 2] = [
        (u32::from_ne_bytes([10, 0, 2, 51]), 8080_u16.to_be()),
        (u32::from_ne_bytes([10, 0, 2, 52]), 8080_u16.to_be()),
    ];
    on_stage(Hook::Tc, |stage| {
        stage.with_ipv6()?;
        stage.servers_of_ipv6([false; 2])?;
        stage.set_backends(Side::Primary, &OTHERS, 0)?;
        let endpoints = [stage.endpoint(0)?, stage.endpoint(1)?];
        stage.set_service_at(six::written(0), |service| {
            service.endpoints = endpoints;
            service.flags |= Service::POOLED | Service::BY_CLIENT;
        })?;
        let mut servers = std::collections::BTreeSet::new();
        // As many as there are aliases.
        for host in 0..4 {
            let saddr = words(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x1000 + host));
            let mut its = std::collections::BTreeSet::new();
            for _ in 0..2 {
                let client = six::Client { saddr, ..client6(stage.client_port()) };
                let seen = stage.put(2, &syn().frame6(&client)?)?;
                its.insert(Out::parse(sent(&seen, Verdict::SynNew)?)?.tuple.daddr);
            }
            ensure!(its.len() == 1, "host {host} went to {its:?}");
            servers.extend(its);
        }
        ensure!(servers.len() > 1, "all hosts went to {servers:?}");
        Ok(())
    })
}

#[test]
fn ipv6_is_translated_where_it_is_ours() -> Result<()> {
    type Scenario = fn(&mut Stage) -> Result<()>;
    let scenarios: [(&str, Scenario); 10] = [
        ("either family", a_client_is_served_by_servers_of_either_family),
        ("both families", a_packet_for_servers_of_both_families_reaches_each_in_its_own),
        ("not ours", what_is_not_ours_is_the_kernels_as_it_came),
        ("fragments", a_fragment_towards_the_service_is_dropped),
        ("extension headers", extension_headers_are_the_kernels),
        ("no connection", a_segment_without_a_connection_is_reset_and_its_alias_taken_back),
        ("forged", aliases_that_come_in_by_a_wire_are_not_believed),
        ("errors", errors::reach_the_end_that_can_do_something),
        ("older", a_connection_older_than_the_datapath_is_the_kernels),
        ("no alias", without_a_free_alias_a_new_connection_is_refused),
    ];
    on_stage(Hook::Tc, |stage| {
        stage.with_ipv6()?;
        scenarios.iter().try_for_each(|(name, scenario)| scenario(stage).with_context(|| name.to_string()))
    })
}
