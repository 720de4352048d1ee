//! Services of one application at several addresses: one switch word, and whose a leg is. They share servers, and the address
//! that legs come from: what tells them apart is the leg's port alone.

use anyhow::{Context, Result, ensure};
use mirror_common::{
    abi::{App, EventKind, Service},
    flow::{LossReason, tcp},
    switch_word::{Phase, Side, SwitchWord},
    verdict::Verdict,
};
use prog_tests::{
    packet::Out,
    stage::{Hook, Stage, VIP_RAW, on_stage},
    talk::{ANSWER, READ, Talk, WRITE},
};

const SHADOW: Side = Side::Shadow;
/// The other service's address, ...
const VIP2: u32 = u32::from_ne_bytes([10, 77, 1, 2]);
/// ... and its number.
const NUMBER: u32 = 5;

fn joined() -> SwitchWord {
    SwitchWord::initial().with_phase(Phase::Mirroring).with_member(SHADOW, true)
}

/// A connection of a client's port to each service.
fn pair(stage: &mut Stage) -> Result<[Talk; 2]> {
    let port = stage.client_port();
    let mut open = |addr| Talk::begin_at(stage, addr, port)?.0.opened(stage);
    Ok([open(VIP_RAW)?, open(VIP2)?])
}

fn one_clients_port_talks_to_both_over_the_same_servers(stage: &mut Stage) -> Result<()> {
    let talks = pair(stage)?;
    for side in Side::BOTH {
        let [one, other] = [talks[0].leg_tuple(stage, side)?, talks[1].leg_tuple(stage, side)?];
        ensure!(
            (one.saddr, one.daddr, one.sport) == (other.saddr, other.daddr, other.sport),
            "{one:?} {other:?}"
        );
        ensure!(one.dport != other.dport, "one port for two legs");
    }
    for talk in talks {
        let seen = talk.says(stage, READ)?;
        ensure!(seen.verdicts.contains(&Verdict::Mirrored), "{seen:?}");
        let seen = talk.answers(stage, Side::Primary, ANSWER)?;
        ensure!(seen.verdicts.contains(&Verdict::Forwarded), "{seen:?}");
        if stage.hook == Hook::Tc {
            let out = Out::parse(&seen.frame)?.tuple;
            ensure!((out.saddr, out.daddr) == (talk.tuple.daddr, talk.tuple.saddr), "{out:?}");
            ensure!((out.sport, out.dport) == (talk.tuple.dport, talk.tuple.sport), "{out:?}");
        }
        talk.answers(stage, SHADOW, ANSWER)?;
        talk.confirm(stage)?;
    }
    Ok(())
}

fn a_sweep_counts_each_services_legs_apart(stage: &mut Stage) -> Result<()> {
    let before = stage.sweep()?.legs;
    pair(stage)?;
    let port = stage.client_port();
    let alone = Talk::begin_at(stage, VIP2, port)?.0;
    alone.accept(stage, Side::Primary)?;
    alone.confirm(stage)?;
    let after = stage.sweep()?.legs;
    let more = |service: u32, side: Side| {
        let at = (service as usize, side as usize);
        after[at.0][at.1][0] - before[at.0][at.1][0]
    };
    let legs = [0, NUMBER].map(|service| Side::BOTH.map(|side| more(service, side)));
    ensure!(legs == [[1, 1], [2, 1]], "{legs:?}");
    let all: u32 = after.as_flattened().as_flattened().iter().sum();
    let before: u32 = before.as_flattened().as_flattened().iter().sum();
    ensure!(all == before + 5, "{all} behind {before}");
    Ok(())
}

fn a_write_of_either_is_one_that_a_flip_waits_for(stage: &mut Stage) -> Result<()> {
    let talks = pair(stage)?;
    let frozen = joined().with_frozen(true);
    for talk in &talks {
        stage.set_word(joined())?;
        stage.set_app(App { freeze_deadline: u64::MAX, freeze_epoch: frozen.epoch(), ..App::default() })?;
        talk.says(stage, WRITE)?;
        ensure!(stage.app()?.open_writes == 1, "{:?}", stage.app()?);
        stage.set_word(frozen)?;
        let Some(other) = talks.iter().find(|other| other.slot != talk.slot) else { continue };
        let seen = other.says(stage, WRITE)?;
        ensure!(seen.verdicts.contains(&Verdict::HeldFrozen), "{seen:?}");
        ensure!(stage.app()?.open_writes == 1, "{:?}", stage.app()?);
        for side in Side::BOTH {
            talk.answers(stage, side, ANSWER)?;
        }
        talk.confirm(stage)?;
        ensure!(stage.app()?.open_writes == 0, "{:?}", stage.app()?);
    }
    stage.set_word(joined())
}

fn what_one_owes_puts_the_whole_side_out(stage: &mut Stage) -> Result<()> {
    stage.set_word(joined())?;
    let [one, other] = pair(stage)?;
    other.says(stage, WRITE)?;
    other.answers(stage, Side::Primary, ANSWER)?;
    stage.events()?;
    let rst = other.reply(stage, SHADOW, tcp::RST | tcp::ACK)?;
    other.server(stage, SHADOW, &rst)?;
    ensure!(!stage.word()?.member(SHADOW), "its write is owed");
    let events = stage.events()?;
    for kind in [EventKind::LegLost, EventKind::OutOfSync] {
        let event = events.iter().find(|event| event.kind == kind as u32);
        let event = event.with_context(|| format!("no {kind:?} in {events:?}"))?;
        ensure!(event.service() == NUMBER && event.side & 1 == SHADOW as u32, "{event:?}");
        ensure!(LossReason::number(event.reason) == LossReason::Reset as u32, "{event:?}");
    }
    let seen = one.says(stage, READ)?;
    ensure!(!seen.verdicts.contains(&Verdict::Mirrored), "{seen:?}");
    Ok(())
}

type Scene = (&'static str, fn(&mut Stage) -> Result<()>);

fn plays(hook: Hook) -> Result<()> {
    let scenes: [Scene; 4] = [
        (
            "one client's port talks to both services over the same servers",
            one_clients_port_talks_to_both_over_the_same_servers,
        ),
        ("a sweep counts each service's legs apart", a_sweep_counts_each_services_legs_apart),
        ("a write of either is one that a flip waits for", a_write_of_either_is_one_that_a_flip_waits_for),
        ("what one owes puts the whole side out", what_one_owes_puts_the_whole_side_out),
    ];
    on_stage(hook, |stage| {
        stage.set_word(joined())?;
        stage.set_service_at(VIP2, |service| service.flags |= Service::with_number(NUMBER))?;
        scenes
            .iter()
            .try_for_each(|(name, scene)| scene(stage).with_context(|| format!("{name}, at {hook:?}")))
    })
}

#[test]
fn services_of_one_application_at_both_hooks() -> Result<()> {
    plays(Hook::Tc)?;
    plays(Hook::Xdp)
}
