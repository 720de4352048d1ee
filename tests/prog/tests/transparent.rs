//! Where clients talk to the primary's own address: its leg is the connection itself, to the last number.

use anyhow::{Context, Result, ensure};
use mirror_common::{
    abi::{Entry, Service, Tuple, nat},
    flow::tcp,
    switch_word::{Phase, Side, SwitchWord},
    verdict::Verdict,
};
use prog_tests::{
    packet::{Out, Seg},
    stage::{FIRST_PORT, Hook, Seen, Stage, TC_OK, TC_REDIRECT, on_stage},
    talk::{ANSWER, CLIENT_ISS, READ, SERVER_ISS, client_tuple, syn},
};

fn sent(seen: &Seen, verdict: Verdict) -> Result<Out> {
    ensure!(seen.verdicts == [verdict] && seen.action == TC_REDIRECT, "{seen:?}");
    Out::parse(&seen.frame)
}

fn back(tuple: Tuple) -> Tuple {
    Tuple { saddr: tuple.daddr, daddr: tuple.saddr, sport: tuple.dport, dport: tuple.sport }
}

/// A client's end of a connection to the primary's own address.
fn client(stage: &mut Stage) -> Result<Tuple> {
    let end = stage.endpoint(0)?;
    Ok(Tuple { daddr: end.addr, dport: end.port, ..client_tuple(stage.client_port()) })
}

/// Nobody but the hardware addresses notices.
fn what_the_primary_gets_is_what_the_client_sent(stage: &mut Stage) -> Result<()> {
    let tuple = client(stage)?;
    let asks = [
        syn(),
        Seg::new(tcp::ACK, CLIENT_ISS + 1, SERVER_ISS[0] + 1).with(READ),
        Seg::new(tcp::FIN | tcp::ACK, CLIENT_ISS + 1 + READ.len() as u32, SERVER_ISS[0] + 1),
    ];
    let says = [
        Seg::new(tcp::SYN | tcp::ACK, SERVER_ISS[0], CLIENT_ISS + 1).options(&[2, 4, 5, 0xb4]),
        Seg::new(tcp::ACK, SERVER_ISS[0] + 1, CLIENT_ISS + 1 + READ.len() as u32).with(ANSWER),
    ];
    let verdicts = [Verdict::SynNew, Verdict::Forwarded, Verdict::Forwarded];
    let shown = [Verdict::SynAckShown, Verdict::Forwarded];
    for (n, ask) in asks.iter().enumerate() {
        let seen = stage.put(2, &ask.frame(tuple)?)?;
        let out = sent(&seen, verdicts[n]).with_context(|| format!("{ask:?}"))?;
        ensure!((out.tuple, &out.seg) == (tuple, ask), "{out:?} instead of {ask:?}");
        if let Some(say) = says.get(n) {
            let seen = stage.put(0, &say.frame(back(tuple))?)?;
            let out = sent(&seen, shown[n]).with_context(|| format!("{say:?}"))?;
            ensure!((out.tuple, &out.seg) == (back(tuple), say), "{out:?} instead of {say:?}");
        }
    }
    Ok(())
}

fn the_shadow_sees_the_client_too(stage: &mut Stage) -> Result<()> {
    stage.set_word(SwitchWord::initial().with_phase(Phase::Mirroring).with_member(Side::Shadow, true))?;
    let tuple = client(stage)?;
    // The last that leaves is the shadow's.
    let seen = stage.put(2, &syn().frame(tuple)?)?;
    let out = sent(&seen, Verdict::SynNew)?;
    let end = stage.endpoint(1)?;
    ensure!(out.tuple == Tuple { daddr: end.addr, dport: end.port, ..tuple }, "{out:?}");
    stage.set_word(SwitchWord::initial())
}

/// Its sequence numbers are its own then: the client's belong to the port that is taken.
fn where_its_port_is_taken_it_gets_another_one(stage: &mut Stage) -> Result<()> {
    let tuple = client(stage)?;
    stage.set_entry(back(tuple), Entry::new(900, 7, 0))?;
    let seen = stage.put(2, &syn().frame(tuple)?)?;
    let out = sent(&seen, Verdict::SynNew)?;
    ensure!(out.tuple.saddr == tuple.saddr && out.tuple.sport != tuple.sport, "{out:?}");
    let port = u32::from(u16::from_be(out.tuple.sport));
    ensure!((FIRST_PORT..FIRST_PORT + 10_000).contains(&port) && out.seg.seq != CLIENT_ISS, "{out:?}");
    let slot = stage.entry(tuple)?.slot();
    ensure!(stage.flow(slot)?.legs[0].port & nat::CLIENTS == 0);
    Ok(())
}

/// The kernel forwards it; the gateway's start ends no connection. As soon as a shadow is to see each write, none may pass it.
fn what_is_older_than_the_datapath_is_the_kernels_until_there_is_a_shadow(stage: &mut Stage) -> Result<()> {
    let tuple = client(stage)?;
    let segment = Seg::new(tcp::ACK | tcp::PSH, 77, 88).with(READ).frame(tuple)?;
    let seen = stage.put(2, &segment)?;
    ensure!(seen.verdicts == [Verdict::Older] && seen.action == TC_OK && seen.frame == segment, "{seen:?}");
    let answer = Seg::new(tcp::ACK, 88, 77).with(ANSWER).frame(back(tuple))?;
    let seen = stage.put(0, &answer)?;
    ensure!(seen.verdicts == [Verdict::NoService] && seen.frame == answer, "{seen:?}");
    stage.set_word(SwitchWord::initial().with_member(Side::Shadow, true))?;
    let seen = stage.put(2, &segment)?;
    ensure!(sent(&seen, Verdict::NoFlow)?.seg.flags == tcp::RST, "{seen:?}");
    stage.set_word(SwitchWord::initial())
}

#[test]
fn clients_that_talk_to_the_primarys_own_address_notice_nothing() -> Result<()> {
    type Scenario = fn(&mut Stage) -> Result<()>;
    let scenarios: [(&str, Scenario); 4] = [
        ("one leg", what_the_primary_gets_is_what_the_client_sent),
        ("two legs", the_shadow_sees_the_client_too),
        ("a taken port", where_its_port_is_taken_it_gets_another_one),
        ("older", what_is_older_than_the_datapath_is_the_kernels_until_there_is_a_shadow),
    ];
    on_stage(Hook::Tc, |stage| {
        let address = stage.endpoint(0)?.addr;
        stage.set_service_at(address, |service| {
            service.flags |= Service::TRANSPARENT;
            service.endpoints.iter_mut().for_each(|end| end.nat = 0);
        })?;
        scenarios.iter().try_for_each(|(name, scenario)| scenario(stage).with_context(|| name.to_string()))
    })
}
