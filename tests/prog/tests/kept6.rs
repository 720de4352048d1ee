//! Servers of IPv6 that see their clients' own addresses (`nat = "keep"`): behind the service's address, and where that is the
//! primary's own.

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use lab::net::Host;
use mirror_common::{
    abi::six::{self, Client, words},
    flow::{flow_state, tcp},
    switch_word::{Phase, Side, SwitchWord},
    verdict::Verdict,
};
use prog_tests::{
    packet::{Out6, Seg},
    six::{SYN_ACK, answer_to, client6, silent6},
    stage::{FIRST_PORT, FLOWS, Hook, PORT, Seen, Stage, TC_OK, TC_REDIRECT, on_stage},
    talk::{ANSWER, CLIENT_ISS, READ, SERVER_ISS, syn},
};

fn sent(seen: &Seen, verdict: Verdict) -> Result<Out6> {
    ensure!(seen.verdicts == [verdict] && seen.action == TC_REDIRECT, "{seen:?}");
    Out6::parse(&seen.frame)
}

/// A client's end of a connection to the primary's own address, ...
fn to_own(client: Client) -> Client {
    Client { daddr: words(silent6(Host::Primary)), dport: PORT, ..client }
}

fn shadows(client: Client) -> Client {
    Client { daddr: words(silent6(Host::Shadow)), ..client }
}

/// A connection by one leg, with a request and an answer; its leg's ends.
fn talk(stage: &mut Stage, client: Client) -> Result<Client> {
    let out = sent(&stage.put(2, &syn().frame6(&client)?)?, Verdict::SynNew)?;
    let leg = out.ends;
    let says = Seg::new(SYN_ACK, SERVER_ISS[0], out.seg.seq + 1).options(&[2, 4, 5, 0xa0]);
    let shown = sent(&stage.put(0, &says.frame6(&answer_to(leg))?)?, Verdict::SynAckShown)?;
    ensure!(shown.ends == answer_to(client) && shown.seg.ack == CLIENT_ISS + 1, "{shown:?}");
    let asks = Seg::new(tcp::ACK, CLIENT_ISS + 1, shown.seg.seq + 1).with(READ);
    let asked = sent(&stage.put(2, &asks.frame6(&client)?)?, Verdict::Forwarded)?;
    ensure!(asked.ends == leg && asked.seg.payload == READ, "{asked:?}");
    let says = Seg::new(tcp::ACK, SERVER_ISS[0] + 1, asked.seg.seq + READ.len() as u32).with(ANSWER);
    let heard = sent(&stage.put(0, &says.frame6(&answer_to(leg))?)?, Verdict::Forwarded)?;
    ensure!(heard.ends == answer_to(client) && heard.seg.payload == ANSWER, "{heard:?}");
    Ok(leg)
}

/// Longer than an ended connection lingers.
const LONG_MS: u32 = 3_600_000;

/// The client resets it, and it is forgotten.
fn end(stage: &mut Stage, client: Client) -> Result<()> {
    let reset = Seg::new(tcp::RST, CLIENT_ISS + 1 + READ.len() as u32, 0);
    let seen = stage.put(2, &reset.frame6(&client)?)?;
    ensure!(seen.verdicts == [Verdict::Reset], "{seen:?}");
    for slot in 0..FLOWS {
        if stage.flow(slot)?.state == flow_state::ENDED {
            stage.set_flow(slot, |flow| flow.last_ms = flow.last_ms.wrapping_sub(LONG_MS))?;
        }
    }
    stage.sweep().map(drop)
}

fn the_server_sees_its_client(stage: &mut Stage) -> Result<()> {
    let free = stage.free_clients()?;
    let client = client6(stage.client_port());
    for (client, ends) in [(client, 2), (to_own(client), 1)] {
        let leg = talk(stage, client)?;
        ensure!(leg == to_own(client), "{leg:?} of {client:?}");
        ensure!((stage.known_ends()?, stage.free_clients()?) == (ends, free - 1));
        end(stage, client)?;
        ensure!((stage.known_ends()?, stage.free_clients()?) == (0, free), "{} ends", stage.known_ends()?);
    }
    Ok(())
}

/// To its last number: the client talks to the primary's own address, and none is shifted.
fn of_a_connection_to_the_primarys_own_address_no_byte_changes(stage: &mut Stage) -> Result<()> {
    let client = to_own(client6(stage.client_port()));
    let out = sent(&stage.put(2, &syn().frame6(&client)?)?, Verdict::SynNew)?;
    ensure!((out.ends, out.seg) == (client, syn()), "another SYN");
    let says = Seg::new(SYN_ACK, SERVER_ISS[0], CLIENT_ISS + 1).options(&[2, 4, 5, 0xa0]);
    let out = sent(&stage.put(0, &says.frame6(&answer_to(client))?)?, Verdict::SynAckShown)?;
    ensure!((out.ends, out.seg) == (answer_to(client), says), "another SYN-ACK");
    let asks = Seg::new(tcp::ACK, CLIENT_ISS + 1, SERVER_ISS[0] + 1).with(READ);
    let out = sent(&stage.put(2, &asks.frame6(&client)?)?, Verdict::Forwarded)?;
    ensure!((out.ends, out.seg) == (client, asks), "another segment");
    end(stage, client)
}

fn the_shadow_sees_it_too(stage: &mut Stage) -> Result<()> {
    stage.set_word(SwitchWord::initial().with_phase(Phase::Mirroring).with_member(Side::Shadow, true))?;
    for client in [client6(stage.client_port()), to_own(client6(stage.client_port()))] {
        // The last that leaves is the shadow's.
        let out = sent(&stage.put(2, &syn().frame6(&client)?)?, Verdict::SynNew)?;
        ensure!(out.ends == shadows(client), "{out:?}");
        let says = Seg::new(SYN_ACK, SERVER_ISS[1], out.seg.seq + 1).options(&[2, 4, 5, 0xa0]);
        let seen = stage.put(1, &says.frame6(&answer_to(out.ends))?)?;
        ensure!(sent(&seen, Verdict::SynAckAbsorbed)?.ends == shadows(client), "{seen:?}");
    }
    stage.set_word(SwitchWord::initial())
}

/// One connection of a client's port to a server at a time, whichever address it came by: another leg has a port of the
/// gateway's, and the client's own next connection waits.
fn ends_that_are_taken_are_not_given_twice(stage: &mut Stage) -> Result<()> {
    let port = stage.client_port();
    let (named, own) = (client6(port), to_own(client6(port)));
    ensure!(talk(stage, named)? == own);
    let seen = stage.put(2, &syn().frame6(&own)?)?;
    ensure!(seen.verdicts == [Verdict::PortCollision], "{seen:?}");
    end(stage, named)?;
    ensure!(talk(stage, own)? == own);
    let leg = talk(stage, named)?;
    let gateways = u32::from(u16::from_be(leg.sport));
    ensure!((leg.saddr, leg.daddr) == (own.saddr, own.daddr), "{leg:?}");
    ensure!((FIRST_PORT..FIRST_PORT + 10_000).contains(&gateways), "{leg:?}");
    end(stage, named)?;
    end(stage, own)?;
    ensure!(stage.known_ends()? == 0);
    Ok(())
}

/// T22: that a packet is too large for the way to such a server is told to its client, which knows the service's address.
fn what_a_router_says_reaches_the_client(stage: &mut Stage) -> Result<()> {
    let client = client6(stage.client_port());
    let leg = talk(stage, client)?;
    let next =
        Seg::new(tcp::ACK, CLIENT_ISS + 1 + READ.len() as u32, SERVER_ISS[0] + 1 + ANSWER.len() as u32);
    let asks = next.with(READ);
    let asked = sent(&stage.put(2, &asks.frame6(&client)?)?, Verdict::Forwarded)?;
    let about = asked.seg.frame6(&leg)?;
    let mut error = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6("fd00:99::1".parse::<std::net::Ipv6Addr>()?.octets(), six::address(leg.saddr).octets(), 64)
        .icmpv6_raw(2, 0, 1_300_u32.to_be_bytes())
        .write(&mut error, &about[14..])?;
    let seen = stage.put(0, &error)?;
    ensure!(seen.verdicts == [Verdict::IcmpTranslated] && seen.action == TC_REDIRECT, "{seen:?}");
    // Behind Ethernet, IPv6 and 8 bytes of ICMP: the addresses of the packet in question, and its ports.
    ensure!(seen.frame[62 + 8..62 + 44] == asks.frame6(&client)?[22..58], "{seen:?}");
    // What isn't about a flow's packet is the kernel's.
    let mut other = error.clone();
    other[14 + 40 + 8 + 40] ^= 1;
    let seen = stage.put(0, &other)?;
    ensure!(seen.verdicts == [Verdict::NotTcp] && seen.action == TC_OK && seen.frame == other, "{seen:?}");
    end(stage, client)
}

fn what_a_server_says_of_no_connection_is_the_kernels(stage: &mut Stage) -> Result<()> {
    let client = to_own(client6(stage.client_port()));
    let says = Seg::new(tcp::ACK, 88, 77).with(ANSWER).frame6(&answer_to(client))?;
    let seen = stage.put(0, &says)?;
    ensure!(seen.verdicts == [Verdict::NotIpv4] && seen.action == TC_OK && seen.frame == says, "{seen:?}");
    Ok(())
}

#[test]
fn servers_of_ipv6_see_their_clients_addresses() -> Result<()> {
    type Scenario = fn(&mut Stage) -> Result<()>;
    let scenarios: [(&str, Scenario); 6] = [
        ("one leg", the_server_sees_its_client),
        ("its own address", of_a_connection_to_the_primarys_own_address_no_byte_changes),
        ("taken ends", ends_that_are_taken_are_not_given_twice),
        ("errors", what_a_router_says_reaches_the_client),
        ("no connection", what_a_server_says_of_no_connection_is_the_kernels),
        ("two legs", the_shadow_sees_it_too),
    ];
    on_stage(Hook::Tc, |stage| {
        stage.with_ipv6()?;
        stage.keep_ipv6()?;
        scenarios.iter().try_for_each(|(name, scenario)| scenario(stage).with_context(|| name.to_string()))
    })
}
