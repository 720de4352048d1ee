//! Two hooks, one core: the same trace leads to the same verdicts, states and packets; and nobody but our own XDP
//! program tells TC what was decided.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use lab::net::Host;
use mirror_common::{
    abi::nat,
    flow::{Flow, tcp},
    switch_word::{Phase, Side, SwitchWord},
    verdict::Verdict,
};
use prog_tests::{
    packet::{Out, Seg},
    stage::{Hook, Stage, on_stage},
    talk::{ANSWER, READ, Talk, WRITE, blocks, client_tuple},
    wiretap::{Wiretap, on_tapped_stage},
};

/// Hand-over's mark, of the version that the programs have; the step behind it sends nothing.
fn forged() -> [u8; 200] {
    let mut meta = [0; 200];
    meta[..4].copy_from_slice(&0x6d69_7203_u32.to_ne_bytes());
    meta
}

/// T32: the packet is judged as if there were none.
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

/// The device below a VLAN sees the VLAN's frames first. At TC the kernel has taken their tag off by then, but it would be put on
/// again on their way to a server.
#[test]
fn a_vlans_frame_is_left_to_the_vlans_own_device() -> Result<()> {
    on_stage(Hook::Xdp, |stage| {
        let mut frame = Seg::new(tcp::SYN, 1, 0).frame(client_tuple(stage.client_port()))?;
        let device = stage.device(2);
        let untagged = stage.pass_live(device, &frame, 0)?;
        ensure!(untagged == [Verdict::SynNew], "{untagged:?}");
        // 802.1Q: the tag's own type, VLAN 10.
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x0a]);
        let tagged = stage.pass_live(device, &frame, 0)?;
        ensure!(tagged == [Verdict::NotIpv4], "{tagged:?}");
        Ok(())
    })
}

/// Requests of the trace.
const ROUNDS: u32 = 32;
/// Packets that at least reach client, primary and shadow.
const LEAST: [usize; 3] = [100, 100, 100];

/// What is there behind a packet of the trace.
#[derive(Debug, PartialEq)]
struct Behind {
    verdicts: Vec<Verdict>,
    flow: Flow,
    /// What reached client, primary and shadow.
    sent: Vec<Vec<Out>>,
}

/// The offset that each leg was dialled with, by side and port. It is random; what it becomes later isn't.
#[derive(Default)]
struct Dialled(HashMap<(usize, u16), u32>);

impl Dialled {
    /// Takes out what is of one run alone: times, and the numbers that are made from them.
    fn timeless(&mut self, mut behind: Behind) -> Result<Behind> {
        let flow = &mut behind.flow;
        (flow.last_ms, flow.turn_us, flow.opened_ms) = (0, 0, 0);
        (flow.compared_us, flow.answer_us) = (0, [0; 2]);
        flow.set(Flow::QUIET, false);
        for (side, leg) in flow.legs.iter_mut().enumerate() {
            (leg.dialled_ms, leg.heard_ms, leg.behind_since) = (0, 0, 0);
            if leg.port != 0 {
                let first = *self.0.entry((side, nat::port(leg.port))).or_insert(leg.offset);
                leg.offset = leg.offset.wrapping_sub(first);
            }
        }
        for (side, sent) in behind.sent.iter_mut().skip(1).enumerate() {
            for Out { tuple, seg, .. } in sent {
                let first = self.0.get(&(side, u16::from_be(tuple.sport)));
                seg.seq = seg.seq.wrapping_sub(*first.with_context(|| format!("no leg: {tuple:?}"))?);
            }
        }
        Ok(behind)
    }
}

/// A connection from its SYN to its end, with all that goes wrong on the way; what is behind each packet.
fn trace(stage: &mut Stage, wiretap: &Wiretap) -> Result<Vec<Behind>> {
    let joined = SwitchWord::initial().with_phase(Phase::Mirroring).with_member(Side::Shadow, true);
    stage.set_word(joined)?;
    wiretap.read()?;
    let (talk, seen) = Talk::sacking(stage, [true; 2])?;
    let (mut dialled, mut states) = (Dialled::default(), Vec::new());
    let mut note = |stage: &Stage, verdicts: Vec<Verdict>| -> Result<()> {
        let behind = Behind { verdicts, flow: talk.flow(stage)?, sent: wiretap.read()? };
        states.push(dialled.timeless(behind)?);
        Ok(())
    };
    note(stage, seen.into_iter().flat_map(|seen| seen.verdicts).collect())?;
    for round in 0..ROUNDS {
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
        // Blocks of both servers', at every offset of the option; the last says what was said before.
        let nops = (round % 4) as usize;
        for (side, end) in [(Side::Primary, 15), (Side::Shadow, 18), (Side::Primary, 20), (Side::Primary, 20)]
        {
            let seen = talk.reports(stage, side, nops, &[[5, end], [22, 24]])?;
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
        let end = talk.flow(stage)?.view_next;
        let mut holed = talk.next(stage, tcp::ACK)?.options(&blocks(nops, &[[end - 10, end]]));
        holed.ack = end - 20;
        let seen = talk.client(stage, &holed)?;
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
fn the_same_trace_leads_to_the_same_states_and_packets_at_both_hooks() -> Result<()> {
    let at_tc = on_tapped_stage(Hook::Tc, trace)?;
    let at_xdp = on_tapped_stage(Hook::Xdp, trace)?;
    ensure!(at_tc.len() == at_xdp.len() && at_tc.len() > 100, "{} packets", at_tc.len());
    for (number, (tc, xdp)) in at_tc.iter().zip(&at_xdp).enumerate() {
        let (at_tc, at_xdp) = (&tc.sent, &xdp.sent);
        ensure!(at_tc == at_xdp, "behind packet {number}: TC sent {at_tc:#?}, XDP {at_xdp:#?}");
        ensure!(tc == xdp, "behind packet {number}: at TC {tc:#?}, at XDP {xdp:#?}");
    }
    for (at, (host, least)) in Host::ENDS.into_iter().zip(LEAST).enumerate() {
        let sent: usize = at_tc.iter().map(|behind| behind.sent[at].len()).sum();
        println!("{sent} packets to {host}");
        ensure!(sent >= least, "only {sent} packets to {host}");
    }
    let blocks = |host: usize| {
        let sent = at_tc.iter().flat_map(|behind| &behind.sent[host]);
        sent.filter(|out| out.seg.options.iter().find(|byte| **byte != 1) == Some(&5)).count()
    };
    let seen = [0, 1, 2].map(blocks);
    ensure!(seen[0] > 30 && seen[1] + seen[2] > 20, "blocks to client, primary, shadow: {seen:?}");
    let last = &at_tc.last().expect("more than 100").flow;
    ensure!(last.turns == ROUNDS && last.flags & Flow::CLIENT_FIN != 0, "{last:#?}");
    Ok(())
}
