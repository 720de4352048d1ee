//! Datagrams through the loaded programs: what both sides and the client get, and what is counted of it.

mod unanswered;

use anyhow::{Context, Result, ensure};
use aya::maps::PerCpuArray;
use mirror_common::{
    abi::{
        Service, Tuple, maps,
        udp::{Exchange, ExchangeKey},
    },
    datagram::{IDLE_NS, SERVFAIL, TIMEOUT_NS},
    flow::{Measured, pair},
    protocol::http1::status,
    switch_word::{Phase, Side, SwitchWord},
    verdict::Verdict,
};
use prog_tests::{
    datagram::{
        DNS_PORT, Out, QUERY, UPDATE, answers, asks, back, client_tuple, frame, frame_without_sum,
        port_unreachable, unreachable_of,
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

/// The shadow is in sync.
fn joined() -> SwitchWord {
    SwitchWord::initial().with_phase(Phase::Mirroring).with_member(Side::Shadow, true)
}

/// Every read is the shadow's.
fn all_moved() -> SwitchWord {
    joined().with_phase(Phase::Shifting).with_weight(10_000)
}

/// A stage whose hosts' datagrams are read.
struct Scene<'a> {
    stage: &'a mut Stage,
    wiretap: &'a Wiretap,
}

impl Scene<'_> {
    /// Puts a frame in; what the client, the primary and the shadow get of it.
    fn put(&mut self, from: usize, frame: &[u8], expected: Verdict) -> Result<[Vec<Out>; 3]> {
        let seen = self.stage.put(from, frame)?;
        ensure!(seen.verdicts == [expected], "{:?} instead of {expected:?}", seen.verdicts);
        let mut got = self
            .wiretap
            .frames(UDP)?
            .into_iter()
            .map(|frames| frames.iter().map(|frame| Out::parse(frame)).collect::<Result<Vec<_>>>());
        let mut next = || got.next().context("three hosts")?;
        let [client, primary, shadow] = [next()?, next()?, next()?];
        Ok([primary, shadow, client])
    }

    /// A new client's question. What it is known by, and what both sides get.
    fn ask(&mut self, opcode: u8, expected: Verdict) -> Result<(ExchangeKey, [Vec<Out>; 3])> {
        let client = client_tuple(self.stage.client_port());
        let got = self.put(CLIENT, &frame(client, &asks(ID, opcode))?, expected)?;
        Ok((ExchangeKey::new(client, [0; 4], ID), got))
    }

    /// A side's answer to a question.
    fn answer(
        &mut self,
        key: &ExchangeKey,
        side: usize,
        code: u8,
        more: &[u8],
        expected: Verdict,
    ) -> Result<[Vec<Out>; 3]> {
        let tuple = self.stage.answer_tuple(key, side)?;
        self.put(side, &frame(tuple, &answers(ID, code, more))?, expected)
    }

    fn word(&mut self, word: SwitchWord) -> Result<()> {
        self.stage.set_word(word)
    }
}

/// That one side alone got something, and what.
fn only(got: [Vec<Out>; 3], side: usize) -> Result<Out> {
    for (other, all) in got.iter().enumerate() {
        ensure!(all.len() == usize::from(other == side), "{got:?}");
    }
    got.into_iter().flatten().next().context("nothing")
}

fn nobody(got: &[Vec<Out>; 3]) -> Result<()> {
    ensure!(got.iter().all(Vec::is_empty), "{got:?}");
    Ok(())
}

fn alone_the_primary_is_asked_and_heard(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(SwitchWord::initial())?;
    let (key, got) = scene.ask(UPDATE, Verdict::DatagramForwarded)?;
    let out = only(got, PRIMARY)?;
    let to = scene.stage.answer_tuple(&key, PRIMARY)?;
    ensure!(out.tuple == back(to) && out.payload == asks(ID, UPDATE) && out.summed, "{out:?}");
    ensure!(scene.stage.exchange(&key)?.ports[SHADOW] == 0);
    let out = only(scene.answer(&key, PRIMARY, 0, b"yes", Verdict::AnswerShown)?, CLIENT)?;
    ensure!(out.tuple == back(key.client) && out.payload == answers(ID, 0, b"yes") && out.summed, "{out:?}");
    ensure!(scene.stage.awaited()?.is_empty(), "its port is free");
    Ok(())
}

fn both_are_asked_and_the_primary_is_heard(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(joined())?;
    for opcode in [QUERY, UPDATE] {
        let (key, got) = scene.ask(opcode, Verdict::DatagramMirrored)?;
        for side in [PRIMARY, SHADOW] {
            let to = scene.stage.answer_tuple(&key, side)?;
            let [out] = got[side].as_slice() else { anyhow::bail!("{got:?}") };
            ensure!(out.tuple == back(to) && out.payload == asks(ID, opcode) && out.summed, "{out:?}");
        }
        nobody(&scene.answer(&key, SHADOW, 0, b"no", Verdict::AnswerAbsorbed)?)?;
        let out = only(scene.answer(&key, PRIMARY, 0, b"yes", Verdict::AnswerShown)?, CLIENT)?;
        ensure!(out.payload == answers(ID, 0, b"yes"), "{out:?}");
    }
    Ok(())
}

fn a_moved_query_is_the_shadows_and_an_update_is_not(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(all_moved())?;
    let (read, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
    nobody(&scene.answer(&read, PRIMARY, 0, b"no", Verdict::AnswerAbsorbed)?)?;
    only(scene.answer(&read, SHADOW, 0, b"yes", Verdict::AnswerShown)?, CLIENT)?;
    let (write, _) = scene.ask(UPDATE, Verdict::DatagramMirrored)?;
    nobody(&scene.answer(&write, SHADOW, 0, b"no", Verdict::AnswerAbsorbed)?)?;
    only(scene.answer(&write, PRIMARY, 0, b"yes", Verdict::AnswerShown)?, CLIENT)?;
    Ok(())
}

/// A flip is for questions that come behind it.
fn an_answer_under_way_is_heard_behind_a_flip(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(joined())?;
    let (before, _) = scene.ask(UPDATE, Verdict::DatagramMirrored)?;
    scene.word(all_moved().with_phase(Phase::Standby).with_authority(Side::Shadow))?;
    let (behind, _) = scene.ask(UPDATE, Verdict::DatagramMirrored)?;
    nobody(&scene.answer(&behind, PRIMARY, 0, b"no", Verdict::AnswerAbsorbed)?)?;
    only(scene.answer(&behind, SHADOW, 0, b"yes", Verdict::AnswerShown)?, CLIENT)?;
    nobody(&scene.answer(&before, SHADOW, 0, b"no", Verdict::AnswerAbsorbed)?)?;
    only(scene.answer(&before, PRIMARY, 0, b"yes", Verdict::AnswerShown)?, CLIENT)?;
    Ok(())
}

fn who_asks_again_is_answered_by_the_authority(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(all_moved())?;
    let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
    let again = frame(key.client, &asks(ID, QUERY))?;
    let before = scene.stage.exchange(&key)?.ports;
    scene.put(CLIENT, &again, Verdict::DatagramMirrored)?;
    ensure!(scene.stage.exchange(&key)?.ports == before, "from where it was asked before");
    nobody(&scene.answer(&key, SHADOW, 0, b"late", Verdict::AnswerAbsorbed)?)?;
    only(scene.answer(&key, PRIMARY, 0, b"yes", Verdict::AnswerShown)?, CLIENT)?;
    Ok(())
}

/// P2: until it answers again.
fn a_silent_side_is_asked_and_not_heard(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(all_moved())?;
    let stall = u64::from(scene.stage.stall_ms()?) * 1_000_000;
    scene.ask(QUERY, Verdict::DatagramMirrored)?;
    scene.stage.silent_for(SHADOW, stall)?;
    let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
    only(scene.answer(&key, PRIMARY, 0, b"yes", Verdict::AnswerShown)?, CLIENT)?;
    nobody(&scene.answer(&key, SHADOW, 0, b"late", Verdict::AnswerAbsorbed)?)?;
    let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
    only(scene.answer(&key, SHADOW, 0, b"yes", Verdict::AnswerShown)?, CLIENT)?;
    Ok(())
}

/// P1: what it answers is of before it fell out.
fn a_side_out_of_sync_is_not_heard_any_more(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(all_moved())?;
    let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
    scene.word(SwitchWord::initial())?;
    nobody(&scene.answer(&key, SHADOW, 0, b"late", Verdict::AnswerAbsorbed)?)
}

fn no_checksum_stays_none(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(joined())?;
    let client = client_tuple(scene.stage.client_port());
    let key = ExchangeKey::new(client, [0; 4], ID);
    let got = scene.put(CLIENT, &frame_without_sum(client, &asks(ID, QUERY))?, Verdict::DatagramMirrored)?;
    ensure!(got[..CLIENT].iter().flatten().count() == 2, "{got:?}");
    ensure!(got.iter().flatten().all(|out| !out.summed), "{got:?}");
    let tuple = scene.stage.answer_tuple(&key, PRIMARY)?;
    let answer = frame_without_sum(tuple, &answers(ID, 0, b""))?;
    ensure!(!only(scene.put(PRIMARY, &answer, Verdict::AnswerShown)?, CLIENT)?.summed);
    Ok(())
}

/// Whatever the sum comes to, by a payload that makes it so; zero is written as its other zero.
fn every_checksum_comes_out_right(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(joined())?;
    let client = client_tuple(scene.stage.client_port());
    for n in 0..300_u16 {
        let mut message = asks(ID, QUERY);
        message.extend((n * 219).to_be_bytes());
        let got = scene.put(CLIENT, &frame(client, &message)?, Verdict::DatagramMirrored)?;
        ensure!(got.iter().flatten().filter(|out| out.summed).count() == 2, "{n}: {got:?}");
    }
    Ok(())
}

fn what_is_no_answer_reaches_nobody(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(joined())?;
    let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
    let from = scene.stage.answer_tuple(&key, PRIMARY)?;
    let stranger = Tuple { saddr: key.client.saddr, ..from };
    let elsewhere = Tuple { dport: from.dport ^ 1, ..from };
    for tuple in [stranger, elsewhere] {
        nobody(&scene.put(PRIMARY, &frame(tuple, &answers(ID, 0, b""))?, Verdict::NotTcp)?)?;
    }
    let other = answers(ID ^ 1, 0, b"");
    for payload in [other.as_slice(), &asks(ID, QUERY), b"short"] {
        nobody(&scene.put(PRIMARY, &frame(from, payload)?, Verdict::AnswerStale)?)?;
    }
    only(scene.answer(&key, PRIMARY, 0, b"yes", Verdict::AnswerShown)?, CLIENT)?;
    Ok(())
}

/// Each half must name the other.
fn half_an_exchange_answers_nobody(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(joined())?;
    let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
    let tuple = scene.stage.answer_tuple(&key, PRIMARY)?;
    let answer = frame(tuple, &answers(ID, 0, b""))?;
    scene.stage.set_exchange(&key, |exchange| exchange.ports[PRIMARY] ^= 1)?;
    nobody(&scene.put(PRIMARY, &answer, Verdict::AnswerStale)?)?;
    scene.stage.evict(&key)?;
    nobody(&scene.put(PRIMARY, &answer, Verdict::AnswerStale)?)?;
    scene.stage.age(TIMEOUT_NS)?;
    scene.stage.lapse()?;
    ensure!(scene.stage.awaited()?.is_empty(), "{:?}", scene.stage.awaited()?);
    Ok(())
}

fn fragments_reach_nobody(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(joined())?;
    let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
    let from = scene.stage.answer_tuple(&key, PRIMARY)?;
    for (side, tuple) in [(CLIENT, key.client), (PRIMARY, from)] {
        // The first of several, and the last.
        for fragment in [0x2000_u16, 0x00b9] {
            let mut frame = frame(tuple, &answers(ID, 0, &[7; 600]))?;
            frame[20..22].copy_from_slice(&fragment.to_be_bytes());
            nobody(&scene.put(side, &frame, Verdict::FragmentDropped)?)?;
        }
    }
    Ok(())
}

/// T22: the client hears of the authority's server, in its own addresses, and of no other.
fn that_nothing_listens_the_authoritys_client_hears(scene: &mut Scene<'_>) -> Result<()> {
    for (word, side, verdict) in [
        (joined(), PRIMARY, Verdict::IcmpTranslated),
        (joined(), SHADOW, Verdict::IcmpAbsorbed),
        (all_moved(), PRIMARY, Verdict::IcmpAbsorbed),
        (all_moved(), SHADOW, Verdict::IcmpAbsorbed),
    ] {
        scene.word(word)?;
        let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
        let sent = back(scene.stage.answer_tuple(&key, side)?);
        let said = port_unreachable(sent, &asks(ID, QUERY))?;
        let seen = scene.stage.put(side, &said)?;
        ensure!(seen.verdicts == [verdict], "{seen:?}");
        let got = scene.wiretap.frames(ICMP)?;
        let heard: Vec<_> = got.iter().flatten().map(|frame| unreachable_of(frame)).collect::<Result<_>>()?;
        let expected = (key.client, [key.client.daddr, key.client.saddr]);
        ensure!(heard == [expected][..usize::from(verdict == Verdict::IcmpTranslated)], "{heard:?}");
        scene.stage.await_nothing()?;
        let seen = scene.stage.put(side, &said)?;
        ensure!(seen.verdicts == [Verdict::NotTcp], "{seen:?}");
        scene.wiretap.frames(ICMP)?;
    }
    Ok(())
}

fn what_both_answered_is_compared(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(joined())?;
    let mut last = scene.stage.pairs(0)?;
    scene.stage.turns()?;
    /// Response codes, what stands behind them, and what is counted.
    type Case = ([u8; 2], [&'static [u8]; 2], u32);
    let cases: [Case; 5] = [
        ([0, 0], [b"same", b"same"], pair::EQUAL),
        // As a name server turns its addresses around.
        ([0, 0], [b"ab12", b"12ab"], pair::EQUAL),
        ([0, 0], [b"ab12", b"ab13"], pair::DIGEST_DIFFERS),
        ([0, 0], [b"short", b"longer"], pair::LENGTH_DIFFERS),
        ([0, SERVFAIL], [b"", b""], pair::SHADOW_ERRED),
    ];
    for (codes, more, kind) in cases {
        let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
        scene.answer(&key, SHADOW, codes[SHADOW], more[SHADOW], Verdict::AnswerAbsorbed)?;
        scene.answer(&key, PRIMARY, codes[PRIMARY], more[PRIMARY], Verdict::AnswerShown)?;
        let now = scene.stage.pairs(0)?;
        for count in [pair::COMPARED, kind] {
            ensure!(now[count as usize] == last[count as usize] + 1, "{more:?}: {last:?}, then {now:?}");
        }
        last = now;
        let turns = scene.stage.turns()?;
        let [turn] = turns.as_slice() else { anyhow::bail!("{turns:?}") };
        ensure!(turn.client == key.client.saddr && turn.compared.statuses == codes.map(u16::from));
    }
    Ok(())
}

/// Ports of a service without identifiers stay its client's, and more than one answer is its.
fn without_identifiers_a_client_keeps_its_ports(scene: &mut Scene<'_>) -> Result<()> {
    scene.stage.set_datagrams(Service::WRITES)?;
    scene.word(joined())?;
    let client = client_tuple(scene.stage.client_port());
    let key = ExchangeKey::new(client, [0; 4], 0);
    let line = frame(client, b"<13>x")?;
    scene.put(CLIENT, &line, Verdict::DatagramMirrored)?;
    let ports = scene.stage.exchange(&key)?.ports;
    let tuple = scene.stage.answer_tuple(&key, PRIMARY)?;
    for word in [b"one", b"two"] {
        let out = only(scene.put(PRIMARY, &frame(tuple, word)?, Verdict::AnswerShown)?, CLIENT)?;
        ensure!(out.tuple == back(client) && out.payload == word, "{out:?}");
    }
    let got = scene.put(CLIENT, &line, Verdict::DatagramMirrored)?;
    ensure!(got[SHADOW].len() == 1 && scene.stage.exchange(&key)?.ports == ports);
    scene.stage.age(IDLE_NS - TIMEOUT_NS)?;
    scene.stage.lapse()?;
    ensure!(scene.stage.awaited()?.len() == 2, "{:?}", scene.stage.awaited()?);
    scene.stage.age(TIMEOUT_NS)?;
    scene.stage.lapse()?;
    ensure!(scene.stage.awaited()?.is_empty(), "{:?}", scene.stage.awaited()?);
    ensure!(scene.stage.exchange(&key).is_err(), "{:?}", scene.stage.exchange(&key)?);
    Ok(())
}

fn ports_say_nothing_of_each_other(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(SwitchWord::initial())?;
    let mut ports = Vec::new();
    for _ in 0..24 {
        let (key, got) = scene.ask(QUERY, Verdict::DatagramForwarded)?;
        let out = only(got, PRIMARY)?;
        ensure!(out.tuple.dport == DNS_PORT);
        ports.push(scene.stage.exchange(&key)?.ports[PRIMARY]);
        scene.answer(&key, PRIMARY, 0, b"", Verdict::AnswerShown)?;
    }
    let near = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 64).count();
    ensure!(near < 3 && ports.iter().all(|port| *port >= 1_024), "{ports:?}");
    Ok(())
}

#[test]
fn both_sides_get_datagrams_and_the_client_one_sides_answers() -> Result<()> {
    type Scenario = fn(&mut Scene<'_>) -> Result<()>;
    let scenarios: [(&str, Scenario); 21] = [
        ("alone", alone_the_primary_is_asked_and_heard),
        ("both", both_are_asked_and_the_primary_is_heard),
        ("moved", a_moved_query_is_the_shadows_and_an_update_is_not),
        ("flip", an_answer_under_way_is_heard_behind_a_flip),
        ("again", who_asks_again_is_answered_by_the_authority),
        ("silent", a_silent_side_is_asked_and_not_heard),
        ("out of sync", a_side_out_of_sync_is_not_heard_any_more),
        ("no checksum", no_checksum_stays_none),
        ("checksums", every_checksum_comes_out_right),
        ("no answer", what_is_no_answer_reaches_nobody),
        ("halves", half_an_exchange_answers_nobody),
        ("fragments", fragments_reach_nobody),
        ("nothing listens", that_nothing_listens_the_authoritys_client_hears),
        ("compared", what_both_answered_is_compared),
        ("unanswered", unanswered::an_unanswered_query_is_an_error_of_the_side_that_was_to_answer),
        ("owed", unanswered::an_update_that_the_mirror_leaves_unanswered_puts_it_out),
        ("lost", unanswered::an_update_whose_record_is_lost_puts_the_mirror_out),
        ("over", unanswered::nothing_is_kept_of_what_is_over),
        ("forgotten", unanswered::what_nobody_waits_for_is_forgotten),
        ("without identifiers", without_identifiers_a_client_keeps_its_ports),
        ("ports", ports_say_nothing_of_each_other),
    ];
    on_tapped_stage(Hook::Tc, |stage, wiretap| {
        let mut wrong = Vec::new();
        for (name, scenario) in scenarios {
            stage.set_datagrams(Service::DNS)?;
            stage.await_nothing()?;
            if let Err(error) = scenario(&mut Scene { stage, wiretap }) {
                wrong.push(format!("{name}: {error:#}"));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    })
}
