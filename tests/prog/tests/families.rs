//! Datagrams where IPv6 is on any side: each end gets its own family's, and no client takes more than its questions do.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use mirror_common::{
    abi::{Service, six::words},
    switch_word::{Phase, Side, SwitchWord},
    verdict::Verdict,
};
use prog_tests::{
    datagram::{QUERY, UPDATE, answers, asks},
    either::{
        Ends, Out, back, client, frame, frame_without_sum, key, port_unreachable, towards, unreachable_of,
    },
    stage::{Hook, Stage},
    wiretap::{Wiretap, on_tapped_stage},
};

const UDP: u8 = 17;
const ICMP: u8 = 1;
const ID: u16 = 4_711;
const PRIMARY: usize = 0;
const SHADOW: usize = 1;
const CLIENT: usize = 2;
const MIXTURES: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

fn joined() -> SwitchWord {
    SwitchWord::initial().with_phase(Phase::Mirroring).with_member(Side::Shadow, true)
}

/// A stage with both families, whose hosts' datagrams are read.
struct Scene<'a> {
    stage: &'a mut Stage,
    wiretap: &'a Wiretap,
    /// Which servers have IPv6 addresses.
    servers6: [bool; 2],
}

impl Scene<'_> {
    /// Puts a frame in; what the primary, the shadow and the client get of it.
    fn put(&mut self, from: usize, frame: &[u8], expected: Verdict) -> Result<[Vec<Out>; 3]> {
        let seen = self.stage.put(from, frame)?;
        let mut got = self
            .wiretap
            .frames(UDP)?
            .into_iter()
            .map(|frames| frames.iter().map(|frame| Out::parse(frame)).collect::<Result<Vec<_>>>());
        ensure!(seen.verdicts == [expected], "{:?} instead of {expected:?}", seen.verdicts);
        let mut next = || got.next().context("three hosts")?;
        let [client, primary, shadow] = [next()?, next()?, next()?];
        Ok([primary, shadow, client])
    }

    fn between(&mut self, servers6: [bool; 2], flags: u32) -> Result<()> {
        self.servers6 = servers6;
        self.stage.await_nothing()?;
        self.stage.set_datagrams_between(flags, servers6)
    }

    /// Where a question went to, by a side.
    fn sent(&self, ends: Ends, side: usize) -> Result<Ends> {
        towards(side, self.servers6[side], self.stage.exchange(&key(ends, ID))?.ports[side])
    }

    /// A client's question that both sides get, each in its family.
    fn ask(&mut self, ends: Ends, frame: &[u8], message: &[u8]) -> Result<()> {
        let got = self.put(CLIENT, frame, Verdict::DatagramMirrored)?;
        for side in [PRIMARY, SHADOW] {
            let [out] = got[side].as_slice() else { anyhow::bail!("side {side}: {got:?}") };
            ensure!(out.ends == self.sent(ends, side)? && out.payload == message, "{out:?}");
        }
        ensure!(got[CLIENT].is_empty(), "{got:?}");
        Ok(())
    }

    /// A side's answer; what its client gets of it.
    fn answer(&mut self, ends: Ends, side: usize, more: &[u8], expected: Verdict) -> Result<Option<Out>> {
        let says = frame(back(self.sent(ends, side)?), &answers(ID, 0, more))?;
        let [primary, shadow, client] = self.put(side, &says, expected)?;
        ensure!(primary.is_empty() && shadow.is_empty() && client.len() < 2, "{client:?}");
        Ok(client.into_iter().next())
    }

    fn client(&mut self, six: bool) -> Ends {
        client(six, self.stage.client_port())
    }
}

fn each_end_gets_its_own_familys(scene: &mut Scene<'_>) -> Result<()> {
    for (servers6, six) in MIXTURES.into_iter().flat_map(|servers| [(servers, false), (servers, true)]) {
        scene.between(servers6, Service::DNS)?;
        for opcode in [QUERY, UPDATE] {
            let (ends, message) = (scene.client(six), asks(ID, opcode));
            let why = || format!("a client of IPv6: {six}, servers of IPv6: {servers6:?}");
            scene.ask(ends, &frame(ends, &message)?, &message).with_context(why)?;
            let nothing = scene.answer(ends, SHADOW, b"no", Verdict::AnswerAbsorbed)?;
            let out = scene.answer(ends, PRIMARY, b"yes", Verdict::AnswerShown)?.with_context(why)?;
            ensure!(nothing.is_none() && out.ends == back(ends), "{out:?}");
            ensure!(out.payload == answers(ID, 0, b"yes") && out.summed, "{out:?}");
            ensure!(scene.stage.awaited()?.is_empty() && scene.stage.exchange(&key(ends, ID)).is_err());
        }
    }
    Ok(())
}

/// RFC 7915, 4.1 and 5.1: class and hop limit are the other family's type of service and time to live.
fn class_and_hops_cross_the_families(scene: &mut Scene<'_>) -> Result<()> {
    for six in [false, true] {
        scene.between([!six; 2], Service::DNS)?;
        let (ends, message) = (scene.client(six), asks(ID, QUERY));
        let mut asked = frame(ends, &message)?;
        match six {
            // Traffic class 0xb8, and a flow label.
            true => asked[14..18].copy_from_slice(&[0x6b, 0x81, 0x23, 0x45]),
            false => {
                asked[15] = 0xb8;
                asked[24..26].fill(0);
                let sum = mirror_common::checksum::of(&asked[14..34]).to_ne_bytes();
                asked[24..26].copy_from_slice(&sum);
            }
        }
        let got = scene.put(CLIENT, &asked, Verdict::DatagramMirrored)?;
        for out in got[..CLIENT].iter().flatten() {
            ensure!(out.class_and_hops == [0xb8, 64], "{out:?}");
        }
    }
    Ok(())
}

/// RFC 7915, 4.5. Where IPv4 has none, IPv6 gets one; whatever a sum comes to, it comes out right.
fn a_checksum_is_made_where_ipv6_asks_for_one(scene: &mut Scene<'_>) -> Result<()> {
    for servers6 in MIXTURES {
        scene.between(servers6, Service::DNS)?;
        let ends = scene.client(false);
        for n in 0..100_u16 {
            let mut message = asks(ID, QUERY);
            message.extend(&(n * 657).to_be_bytes()[usize::from(n & 1)..]);
            let asked = if n < 50 { frame_without_sum(ends, &message)? } else { frame(ends, &message)? };
            let got = scene.put(CLIENT, &asked, Verdict::DatagramMirrored)?;
            // What one side's family has made is the other one's, too.
            let made = n >= 50 || servers6[SHADOW];
            for (side, six) in servers6.into_iter().enumerate() {
                let [out] = got[side].as_slice() else { anyhow::bail!("{n}: {got:?}") };
                ensure!(out.payload == message && out.summed == (six || made), "{n}: {out:?}");
            }
        }
        let says = frame_without_sum(back(scene.sent(ends, PRIMARY)?), &answers(ID, 0, b""))?;
        if !servers6[PRIMARY] {
            let got = scene.put(PRIMARY, &says, Verdict::AnswerShown)?;
            ensure!(got[CLIENT].iter().any(|out| !out.summed), "{got:?}");
        }
    }
    Ok(())
}

/// RFC 8200, 8.1.
fn ipv6_without_a_checksum_is_dropped(scene: &mut Scene<'_>) -> Result<()> {
    scene.between([true; 2], Service::DNS)?;
    let ends = scene.client(true);
    scene.put(CLIENT, &frame_without_sum(ends, &asks(ID, QUERY))?, Verdict::Malformed)?;
    let message = asks(ID, QUERY);
    scene.ask(ends, &frame(ends, &message)?, &message)?;
    let says = frame_without_sum(back(scene.sent(ends, PRIMARY)?), &answers(ID, 0, b""))?;
    let got = scene.put(PRIMARY, &says, Verdict::Malformed)?;
    ensure!(got.iter().all(Vec::is_empty), "{got:?}");
    Ok(())
}

/// T29: with eight aliases for clients' connections, of which none is taken.
fn clients_are_as_many_as_questions(scene: &mut Scene<'_>) -> Result<()> {
    scene.between([false, true], Service::DNS)?;
    let free = scene.stage.free_clients()?;
    let ((_, port), message) = ((0, scene.stage.client_port()), asks(ID, QUERY));
    let named =
        |n: u16| SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x1000 + n)), port);
    for n in 0..20 {
        let ends = (named(n), client(true, port).1);
        scene.ask(ends, &frame(ends, &message)?, &message).with_context(|| format!("client {n}"))?;
    }
    ensure!(scene.stage.awaited()?.len() == 40 && scene.stage.free_clients()? == free);
    // Of one port and identifier, and each is another's.
    for n in [0, 19, 7] {
        let ends = (named(n), client(true, port).1);
        scene.answer(ends, PRIMARY, b"", Verdict::AnswerShown)?;
        let says = frame(back(towards(PRIMARY, false, 1_024)?), &answers(ID, 0, b""))?;
        scene.put(PRIMARY, &says, Verdict::NotTcp)?;
    }
    Ok(())
}

/// What differs is told with the address of who asked.
fn a_difference_names_its_client(scene: &mut Scene<'_>) -> Result<()> {
    for six in [false, true] {
        scene.between([six, !six], Service::DNS)?;
        scene.stage.turns()?;
        let (ends, message) = (scene.client(six), asks(ID, QUERY));
        scene.ask(ends, &frame(ends, &message)?, &message)?;
        scene.answer(ends, SHADOW, b"ab12", Verdict::AnswerAbsorbed)?;
        scene.answer(ends, PRIMARY, b"ab13", Verdict::AnswerShown)?;
        let turns = scene.stage.turns()?;
        let [turn] = turns.as_slice() else { anyhow::bail!("{turns:?}") };
        let key = key(ends, ID);
        ensure!(
            (turn.client, turn.six, turn.port) == (key.client.saddr, key.six, key.client.sport),
            "{turn:?}"
        );
        let IpAddr::V6(address) = ends.0.ip() else { continue };
        ensure!(turn.six == words(address), "{turn:?}");
        ensure!(turn.compared.digests[0] != turn.compared.digests[1], "{turn:?}");
    }
    Ok(())
}

/// T22.
fn that_nothing_listens_is_told_in_the_clients_family(scene: &mut Scene<'_>) -> Result<()> {
    for (servers6, six) in MIXTURES.into_iter().flat_map(|servers| [(servers, false), (servers, true)]) {
        scene.between(servers6, Service::DNS)?;
        let (ends, message) = (scene.client(six), asks(ID, QUERY));
        scene.ask(ends, &frame(ends, &message)?, &message)?;
        for (side, verdict) in [(PRIMARY, Verdict::IcmpTranslated), (SHADOW, Verdict::IcmpAbsorbed)] {
            let said = port_unreachable(scene.sent(ends, side)?, &message)?;
            let seen = scene.stage.put(side, &said)?;
            ensure!(seen.verdicts == [verdict], "{seen:?}");
            let got = scene.wiretap.frames(ICMP)?;
            let heard: Vec<_> =
                got.iter().flatten().map(|frame| unreachable_of(frame)).collect::<Result<_>>()?;
            let expected = (ends, 8 + message.len() as u16);
            let told = usize::from(verdict == Verdict::IcmpTranslated);
            ensure!(
                heard == [expected][..told],
                "IPv6: {six}, {servers6:?}: {heard:?} instead of {expected:?}"
            );
        }
    }
    Ok(())
}

/// T21.
fn fragments_of_ipv6_reach_nobody(scene: &mut Scene<'_>) -> Result<()> {
    const FRAGMENT: u8 = 44;
    scene.between([true; 2], Service::DNS)?;
    let (ends, message) = (scene.client(true), asks(ID, QUERY));
    scene.ask(ends, &frame(ends, &message)?, &message)?;
    let answer = back(scene.sent(ends, PRIMARY)?);
    for (from, ends) in [(CLIENT, ends), (PRIMARY, answer)] {
        let mut fragment = frame(ends, &answers(ID, 0, &[7; 100]))?;
        fragment[20] = FRAGMENT;
        let got = scene.put(from, &fragment, Verdict::FragmentDropped)?;
        ensure!(got.iter().all(Vec::is_empty), "{got:?}");
    }
    Ok(())
}

/// IPv6's header is the longer one: what fills a link doesn't fit through it any more, and the other side gets it all the same.
fn what_gets_too_large_is_not_sent(scene: &mut Scene<'_>) -> Result<()> {
    scene.between([false, true], Service::DNS)?;
    // IPv4's header and UDP's leave 1,472 bytes of 1,500, IPv6's and UDP's 1,452.
    for (bytes, fits) in [(1_452, true), (1_472, false)] {
        let ends = scene.client(false);
        let mut message = asks(ID, QUERY);
        message.resize(bytes, 7);
        let seen = scene.stage.put(CLIENT, &frame(ends, &message)?)?;
        let failed = [Verdict::EmitFailed, Verdict::DatagramMirrored];
        ensure!(seen.verdicts == failed[usize::from(fits)..], "{bytes}: {seen:?}");
        let got: Vec<_> = scene.wiretap.frames(UDP)?.iter().map(Vec::len).collect();
        ensure!(got == [0, 1, usize::from(fits)], "{bytes}: {got:?}");
    }
    Ok(())
}

/// Without identifiers a client of IPv6 keeps its ports, as any does.
fn a_client_without_identifiers_keeps_its_ports(scene: &mut Scene<'_>) -> Result<()> {
    scene.between([true, false], Service::WRITES)?;
    let ends = scene.client(true);
    let line = frame(ends, b"<13>x")?;
    scene.put(CLIENT, &line, Verdict::DatagramMirrored)?;
    let ports = scene.stage.exchange(&key(ends, 0))?.ports;
    for word in [b"one", b"two"] {
        let says = frame(back(towards(PRIMARY, true, ports[PRIMARY])?), word)?;
        let got = scene.put(PRIMARY, &says, Verdict::AnswerShown)?;
        ensure!(got[CLIENT].iter().any(|out| out.ends == back(ends) && out.payload == word), "{got:?}");
    }
    scene.put(CLIENT, &line, Verdict::DatagramMirrored)?;
    ensure!(scene.stage.exchange(&key(ends, 0))?.ports == ports);
    Ok(())
}

#[test]
fn datagrams_of_any_mixture_of_families() -> Result<()> {
    type Scenario = fn(&mut Scene<'_>) -> Result<()>;
    let scenarios: [(&str, Scenario); 10] = [
        ("each end", each_end_gets_its_own_familys),
        ("class and hops", class_and_hops_cross_the_families),
        ("checksums", a_checksum_is_made_where_ipv6_asks_for_one),
        ("no checksum", ipv6_without_a_checksum_is_dropped),
        ("many clients", clients_are_as_many_as_questions),
        ("compared", a_difference_names_its_client),
        ("nothing listens", that_nothing_listens_is_told_in_the_clients_family),
        ("fragments", fragments_of_ipv6_reach_nobody),
        ("too large", what_gets_too_large_is_not_sent),
        ("without identifiers", a_client_without_identifiers_keeps_its_ports),
    ];
    on_tapped_stage(Hook::Tc, |stage, wiretap| {
        stage.with_ipv6()?;
        let mut wrong = Vec::new();
        for (name, scenario) in scenarios {
            stage.set_word(joined())?;
            let mut scene = Scene { stage, wiretap, servers6: [false; 2] };
            if let Err(error) = scenario(&mut scene) {
                wrong.push(format!("{name}: {error:#}"));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    })
}
