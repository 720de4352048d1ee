//! Two hooks, one core: the same trace leads to the same states and verdicts; and nobody but our own XDP program tells TC
//! what was decided.

use anyhow::{Result, ensure};
use mirror_common::{
    flow::{Flow, tcp},
    switch_word::{Phase, Side, SwitchWord},
    verdict::Verdict,
};
use prog_tests::{
    packet::Seg,
    stage::{Hook, Stage, on_stage},
    talk::{ANSWER, READ, Talk, WRITE, client_tuple},
};

/// Hand-over's mark, of the version that the programs have; the step behind it sends nothing.
fn forged() -> [u8; 200] {
    let mut meta = [0; 200];
    meta[..4].copy_from_slice(&0x6d69_7201_u32.to_ne_bytes());
    meta
}

#[test]
fn metadata_that_a_neighbour_wrote_is_believed_at_neither_hook() -> Result<()> {
    on_stage(Hook::Xdp, |stage| {
        let tuple = client_tuple(stage.client_port());
        let frame = [forged().as_slice(), &Seg::new(tcp::ACK, 1, 2).frame(tuple)?].concat();
        let device = stage.device(2);
        stage.run_live(device, &frame, 200, 1)?;
        let seen = stage.counts()?;
        ensure!(seen == [Verdict::NoFlow], "behind our XDP: {seen:?}");
        stage.forget_device(device)?;
        let seen = stage.pass_live(device, &frame, 200)?;
        ensure!(seen == [Verdict::NoFlow], "without XDP: {seen:?}");
        Ok(())
    })
}

/// What isn't of one run alone: times, and the numbers that are made from them.
fn timeless(mut flow: Flow) -> Flow {
    (flow.last_ms, flow.turn_us, flow.opened_ms) = (0, 0, 0);
    (flow.compared_us, flow.first_us) = (0, 0);
    for leg in &mut flow.legs {
        (leg.offset, leg.dialled_ms, leg.heard_ms, leg.behind_since) = (0, 0, 0, 0);
    }
    flow
}

/// A connection from its SYN to its end, with all that goes wrong on the way; the state behind each packet.
fn trace(stage: &mut Stage) -> Result<Vec<(Vec<Verdict>, Flow)>> {
    let joined = SwitchWord::initial().with_phase(Phase::Mirroring).with_member(Side::Shadow, true);
    stage.set_word(joined)?;
    let (talk, _) = Talk::begin(stage)?;
    let mut states = Vec::new();
    let mut note = |stage: &Stage, verdicts: Vec<Verdict>| -> Result<()> {
        states.push((verdicts, timeless(talk.flow(stage)?)));
        Ok(())
    };
    for side in Side::BOTH {
        let seen = talk.accept(stage, side)?;
        note(stage, seen.verdicts)?;
    }
    for round in 0..12_u32 {
        stage.set_word(joined.with_phase(Phase::Shifting).with_weight(2_500 * (round % 5)))?;
        let request = if round % 3 == 2 { WRITE } else { READ };
        // Early, in two halves, and again.
        let whole = talk.next(stage, tcp::ACK | tcp::PSH)?.with(request);
        let half = Seg { payload: request[..20].to_vec(), ..whole.clone() };
        let mut rest = whole.clone().with(&request[20..]);
        rest.seq = rest.seq.wrapping_add(20);
        let early = rest.clone();
        for seg in [early, half, rest, whole.clone()] {
            let seen = talk.client(stage, &seg)?;
            note(stage, seen.verdicts)?;
        }
        let order = if round % 2 == 0 { Side::BOTH } else { [Side::Shadow, Side::Primary] };
        for side in order {
            // The end of the answer first, then all of it.
            let all = talk.reply(stage, side, tcp::ACK)?.with(ANSWER);
            let mut end = all.clone().with(&ANSWER[30..]);
            end.seq = end.seq.wrapping_add(30);
            for seg in [end, all.clone(), all] {
                let seen = talk.server(stage, side, &seg)?;
                note(stage, seen.verdicts)?;
            }
        }
        let seen = talk.client(stage, &whole)?;
        note(stage, seen.verdicts)?;
        let seen = talk.confirm(stage)?;
        note(stage, seen.verdicts)?;
    }
    let fin = talk.next(stage, tcp::FIN | tcp::ACK)?;
    let seen = talk.client(stage, &fin)?;
    note(stage, seen.verdicts)?;
    for side in Side::BOTH {
        let fin = talk.reply(stage, side, tcp::FIN | tcp::ACK)?;
        let seen = talk.server(stage, side, &fin)?;
        note(stage, seen.verdicts)?;
    }
    let seen = talk.confirm(stage)?;
    note(stage, seen.verdicts)?;
    Ok(states)
}

#[test]
fn the_same_trace_leads_to_the_same_states_at_both_hooks() -> Result<()> {
    let at_tc = on_stage(Hook::Tc, trace)?;
    let at_xdp = on_stage(Hook::Xdp, trace)?;
    ensure!(at_tc.len() == at_xdp.len() && at_tc.len() > 100, "{} packets", at_tc.len());
    for (number, (tc, xdp)) in at_tc.iter().zip(&at_xdp).enumerate() {
        ensure!(tc == xdp, "behind packet {number}: at TC {tc:#?}, at XDP {xdp:#?}");
    }
    let (_, last) = at_tc.last().expect("more than 100");
    ensure!(last.turns == 12 && last.flags & Flow::CLIENT_FIN != 0, "{last:#?}");
    Ok(())
}
