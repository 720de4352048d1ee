//! Several servers of a side: which one a leg goes to, and that it stays there, at both hooks.

use anyhow::{Context, Result, ensure};
use mirror_common::{
    abi::{Service, Tuple, backend, maps, nat},
    flow::{leg_state, tcp},
    switch_word::{Phase, Side, SwitchWord},
    verdict::Verdict,
};
use prog_tests::{
    packet::{Out, Seg},
    stage::{Hook, PORT, SECRET, Seen, Stage, on_stage},
    talk::{ANSWER, READ, Talk},
};

const SHADOW: Side = Side::Shadow;
/// Two more than server 0: on its host and on another one.
const OTHERS: [(u32, u16); 2] =
    [(u32::from_ne_bytes([10, 0, 3, 50]), 9_001_u16.to_be()), (u32::from_ne_bytes([10, 0, 3, 51]), PORT)];

fn joined() -> SwitchWord {
    SwitchWord::initial().with_phase(Phase::Mirroring).with_member(SHADOW, true)
}

/// The number of the server that the shadow's leg goes to.
fn number(stage: &Stage, talk: &Talk) -> Result<u32> {
    Ok(backend::number(talk.flow(stage)?.leg(SHADOW).port))
}

/// The server that the pure function chooses.
fn expected(talk: &Talk, takes: u32, skip: u32) -> u32 {
    backend::choose(takes, backend::key(SECRET, talk.tuple.saddr, Some(talk.tuple.sport)), skip)
}

/// The last packet that left went to the server that the shadow's leg says.
fn went_to_its_server(stage: &Stage, talk: &Talk, seen: &Seen) -> Result<()> {
    if stage.hook == Hook::Tc {
        let (out, leg) = (Out::parse(&seen.frame)?, talk.leg_tuple(stage, SHADOW)?);
        ensure!((out.tuple.daddr, out.tuple.dport) == (leg.saddr, leg.sport), "{out:?} instead of {leg:?}");
        ensure!((out.tuple.saddr, out.tuple.sport) == (leg.daddr, leg.dport), "{out:?} instead of {leg:?}");
    }
    Ok(())
}

fn talk_with(stage: &mut Stage, number_wanted: u32) -> Result<Talk> {
    for _ in 0..100 {
        let talk = Talk::open(stage)?;
        if number(stage, &talk)? == number_wanted {
            return Ok(talk);
        }
    }
    anyhow::bail!("of 100 connections none went to server {number_wanted}")
}

fn each_gets_its_share_of_new_connections_as_the_hash_says(stage: &mut Stage) -> Result<()> {
    let mut shares = [0; 3];
    for _ in 0..60 {
        let (talk, seen) = Talk::begin(stage)?;
        let chosen = number(stage, &talk)?;
        ensure!(chosen == expected(&talk, 0b111, 0), "server {chosen}");
        went_to_its_server(stage, &talk, &seen)?;
        ensure!(backend::number(talk.flow(stage)?.leg(Side::Primary).port) == 0, "the primary has one");
        shares[chosen as usize] += 1;
    }
    ensure!(shares.iter().all(|share| (8..=40).contains(share)), "{shares:?}");
    Ok(())
}

fn a_leg_keeps_its_server_when_that_takes_no_more(stage: &mut Stage) -> Result<()> {
    for of in 0..3 {
        let talk = talk_with(stage, of)?;
        stage.set_takes(SHADOW, 0b111 & !(1 << of))?;
        let seen = talk.says(stage, READ)?;
        ensure!(seen.verdicts.contains(&Verdict::Mirrored), "{seen:?}");
        went_to_its_server(stage, &talk, &seen)?;
        let seen = talk.answers(stage, SHADOW, &ANSWER[..20])?;
        ensure!(seen.verdicts.contains(&Verdict::Absorbed), "{seen:?}");
        ensure!(number(stage, &talk)? == of);
        for _ in 0..20 {
            let (other, _) = Talk::begin(stage)?;
            ensure!(number(stage, &other)? != of, "server {of} takes none");
        }
        stage.set_takes(SHADOW, 0b111)?;
    }
    Ok(())
}

/// The leg has answered, and is reset.
fn reset(stage: &mut Stage, talk: &Talk) -> Result<Seen> {
    talk.turn(stage, READ)?;
    let seg = talk.reply(stage, SHADOW, tcp::RST | tcp::ACK)?;
    talk.server(stage, SHADOW, &seg)
}

fn a_leg_that_ends_is_dialled_at_its_server_and_gives_its_entry_and_port_back(
    stage: &mut Stage,
) -> Result<()> {
    let talk = talk_with(stage, 2)?;
    let (old, id) = (talk.leg_tuple(stage, SHADOW)?, talk.flow(stage)?.leg(SHADOW).port);
    ensure!(stage.entry(old)?.slot() == talk.slot);
    let seen = reset(stage, &talk)?;
    ensure!(talk.flow(stage)?.leg(SHADOW).state == leg_state::DIALLING, "{seen:?}");
    went_to_its_server(stage, &talk, &seen)?;
    ensure!(number(stage, &talk)? == 2, "it answered, and takes connections");
    ensure!(stage.entry(old).is_err(), "the old entry was left behind");
    let free = stage.drain(maps::PORTS_SHADOW)?;
    stage.refill(maps::PORTS_SHADOW, &free)?;
    ensure!(free.last() == Some(&u32::from(nat::port(id))), "{:?} for {id:#x}", free.last());
    Ok(())
}

fn where_its_server_takes_no_more_it_is_dialled_at_another(stage: &mut Stage) -> Result<()> {
    let talk = talk_with(stage, 1)?;
    stage.set_takes(SHADOW, 0b101)?;
    let seen = reset(stage, &talk)?;
    let chosen = number(stage, &talk)?;
    ensure!(chosen == expected(&talk, 0b101, 0) && chosen != 1, "server {chosen}");
    went_to_its_server(stage, &talk, &seen)?;
    let seen = talk.accept(stage, SHADOW)?;
    ensure!(talk.flow(stage)?.leg(SHADOW).state == leg_state::OPEN, "{seen:?}");
    stage.set_takes(SHADOW, 0b111)
}

/// Whoever refuses is asked again when the others have refused, too.
fn a_leg_that_is_refused_is_dialled_at_the_next_one(stage: &mut Stage) -> Result<()> {
    let (talk, _) = Talk::begin(stage)?;
    talk.accept(stage, Side::Primary)?;
    talk.confirm(stage)?;
    let mut asked = Vec::new();
    for skip in 0..4 {
        let chosen = number(stage, &talk)?;
        ensure!(chosen == expected(&talk, 0b111, skip), "server {chosen} behind {asked:?}");
        asked.push(chosen);
        let old = talk.leg_tuple(stage, SHADOW)?;
        let leg = *talk.flow(stage)?.leg(SHADOW);
        let seg = Seg::new(tcp::RST | tcp::ACK, 0, leg.acked.wrapping_add(leg.offset));
        let seen = talk.server(stage, SHADOW, &seg)?;
        ensure!(seen.verdicts.contains(&Verdict::Refused), "{seen:?}");
        stage.set_flow(talk.slot, |flow| {
            let leg = flow.leg_mut(SHADOW);
            leg.dialled_ms = leg.dialled_ms.wrapping_sub(1_000);
        })?;
        let seen = talk.says(stage, READ)?;
        ensure!(talk.flow(stage)?.leg(SHADOW).state == leg_state::DIALLING, "{seen:?}");
        ensure!(stage.entry(old).is_err(), "the old entry was left behind");
    }
    ensure!(asked[0] == asked[3] && asked[0] != asked[1] && asked[1] != asked[2], "{asked:?}");
    Ok(())
}

fn a_segment_without_a_leg_is_reset_whichever_server_it_is_from(stage: &mut Stage) -> Result<()> {
    for of in 0..3 {
        let (saddr, sport) = stage.backend(SHADOW, of)?;
        let daddr = stage.endpoint(1)?.nat;
        let tuple = Tuple { saddr, daddr, sport, dport: 1_025_u16.to_be() };
        let seen = stage.put(1, &Seg::new(tcp::ACK, 1, 1).frame(tuple)?)?;
        ensure!(seen.verdicts == [Verdict::ResetUnknownLeg], "server {of}: {seen:?}");
    }
    Ok(())
}

fn by_client_all_connections_of_an_address_go_to_one_server(stage: &mut Stage) -> Result<()> {
    stage.set_backends(SHADOW, &OTHERS, Service::BY_CLIENT)?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (talk, _) = Talk::begin(stage)?;
        seen.insert(number(stage, &talk)?);
        let key = backend::key(SECRET, talk.tuple.saddr, None);
        ensure!(seen.contains(&backend::choose(0b111, key, 0)), "{seen:?}");
    }
    ensure!(seen.len() == 1, "{seen:?}");
    stage.set_backends(SHADOW, &OTHERS, 0)
}

fn plays(hook: Hook) -> Result<()> {
    type Scene = fn(&mut Stage) -> Result<()>;
    let scenes: [(&str, Scene); 7] = [
        ("shares", each_gets_its_share_of_new_connections_as_the_hash_says),
        ("a leg keeps its server", a_leg_keeps_its_server_when_that_takes_no_more),
        ("dialled anew", a_leg_that_ends_is_dialled_at_its_server_and_gives_its_entry_and_port_back),
        ("dialled elsewhere", where_its_server_takes_no_more_it_is_dialled_at_another),
        ("refused", a_leg_that_is_refused_is_dialled_at_the_next_one),
        ("strangers", a_segment_without_a_leg_is_reset_whichever_server_it_is_from),
        ("by client", by_client_all_connections_of_an_address_go_to_one_server),
    ];
    // XDP leaves connections that begin to TC: what it does itself is carrying.
    let scenes = if hook == Hook::Xdp { &scenes[1..3] } else { &scenes };
    on_stage(hook, |stage| {
        stage.set_word(joined())?;
        stage.set_backends(SHADOW, &OTHERS, 0)?;
        scenes
            .iter()
            .try_for_each(|(name, scene)| scene(stage).with_context(|| format!("{name}, at {hook:?}")))
    })
}

#[test]
fn a_side_of_several_servers_at_both_hooks() -> Result<()> {
    plays(Hook::Tc)?;
    plays(Hook::Xdp)
}
