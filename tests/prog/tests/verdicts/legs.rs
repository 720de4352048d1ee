//! What a leg's server sends.

use anyhow::{Result, ensure};
use mirror_common::{
    flow::{leg_state, tcp},
    switch_word::{Side, SwitchWord},
    verdict::Verdict,
};
use prog_tests::{
    packet::Out,
    stage::{Hook, Seen, Stage},
    talk::{ANSWER, READ, SERVER_ISS, Talk},
};

use super::{Sentence, all_moved, joined};

pub(crate) const SENTENCES: &[Sentence] = &[
    (Verdict::SynAckShown, "the authority's SYN-ACK is the client's", syn_ack_shown),
    (Verdict::SynAckAbsorbed, "the other's SYN-ACK becomes the ACK", syn_ack_absorbed),
    (Verdict::Forwarded, "the authority's answer is the client's, unchanged", answer),
    (Verdict::Absorbed, "the other's answer is acknowledged, and shown to nobody", absorbed),
    (Verdict::TailForwarded, "of answers in one segment the client gets the one that it waits for", tail),
    (Verdict::TailForwarded, "a long one beside options, by an odd number of bytes", long_tail),
    (Verdict::AbsorbedAck, "an acknowledgement without news is dropped", absorbed_ack),
    (Verdict::Raised, "the slower leg's acknowledgement is what the client is shown", raised),
    (Verdict::BeyondHead, "an answer behind a hole comes again", beyond_head),
    (Verdict::Refused, "a refused leg is gone; the connection isn't", refused),
    (Verdict::LegLost, "a reset leg of a side that isn't in sync is gone", leg_lost),
    (Verdict::Dialled, "a leg that has answered and is reset is dialled at once, from a new port", dialled),
    (Verdict::FailedMidAnswer, "a reset in the middle of a shown answer is the client's", mid_answer),
    (
        Verdict::AckedLate,
        "an answer that nobody hears is acknowledged though its client says nothing",
        acked_late,
    ),
    (Verdict::NoneDue, "a queued packet that isn't needed any more isn't made", none_due),
];

fn syn_ack_shown(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(joined())?;
    let (talk, _) = Talk::begin(stage)?;
    let seen = talk.accept(stage, Side::Primary)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.seg.flags == tcp::SYN | tcp::ACK && out.seg.seq == SERVER_ISS[0], "{out:?}");
        ensure!(out.tuple.dport == talk.tuple.sport && out.tuple.saddr == talk.tuple.daddr, "{out:?}");
    }
    Ok(seen)
}

/// T1: the shadow's SYN-ACK becomes its ACK.
fn syn_ack_absorbed(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(joined())?;
    let (talk, _) = Talk::begin(stage)?;
    let seen = talk.accept(stage, Side::Shadow)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.seg.flags == tcp::ACK && out.seg.ack == SERVER_ISS[1] + 1, "{out:?}");
        ensure!(out.tuple.daddr == stage.endpoint(1)?.addr, "{out:?}");
    }
    Ok(seen)
}

fn open(stage: &mut Stage) -> Result<Talk> {
    stage.set_word(joined())?;
    Talk::open(stage)
}

fn answer(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.says(stage, READ)?;
    let seen = talk.answers(stage, Side::Primary, ANSWER)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.seg.payload == ANSWER && out.seg.seq == SERVER_ISS[0] + 1, "{out:?}");
        // The shadow still owes the request.
        ensure!(out.seg.ack == talk.flow(stage)?.shown && out.tuple.dport == talk.tuple.sport, "{out:?}");
    }
    Ok(seen)
}

fn absorbed(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.says(stage, READ)?;
    let begin = &ANSWER[..20];
    let seen = talk.answers(stage, Side::Shadow, begin)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.seg.payload.is_empty() && out.tuple.daddr == stage.endpoint(1)?.addr, "{out:?}");
        ensure!(out.seg.ack == SERVER_ISS[1] + 1 + begin.len() as u32, "{out:?}");
    }
    Ok(seen)
}

/// The shadow's answer is whole, and the primary's doesn't come.
fn acked_late(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.says(stage, READ)?;
    talk.answers(stage, Side::Shadow, ANSWER)?;
    let entry = stage.entry(talk.tuple)?;
    stage.set_flow(entry.slot(), |flow| {
        let leg = flow.leg_mut(Side::Shadow);
        leg.heard_ms = leg.heard_ms.wrapping_sub(1_000);
    })?;
    talk.is_due(stage, 0)
}

/// The next read's answer is the shadow's, which sends it in one segment with the one before; with options.
fn tail_of(stage: &mut Stage, before: &[u8], answer: &[u8], options: &[u8]) -> Result<Seen> {
    let talk = open(stage)?;
    talk.says(stage, READ)?;
    talk.answers(stage, Side::Primary, ANSWER)?;
    stage.set_word(all_moved())?;
    talk.says(stage, READ)?;
    let bytes = [before, answer].concat();
    let seg = talk.reply(stage, Side::Shadow, tcp::ACK | tcp::PSH)?.options(options).with(&bytes);
    let seen = talk.server(stage, Side::Shadow, &seg)?;
    if stage.hook == Hook::Tc {
        let (out, flow) = (Out::parse(&seen.frame)?, talk.flow(stage)?);
        ensure!(out.seg.payload == answer, "{out:?}");
        ensure!(out.seg.seq == SERVER_ISS[0] + 1 + ANSWER.len() as u32, "{out:?}");
        ensure!(out.seg.flags == tcp::ACK | tcp::PSH && out.seg.ack == flow.shown, "{out:?}");
        ensure!(out.tuple.dport == talk.tuple.sport && flow.authority() == Side::Shadow, "{out:?}");
    }
    Ok(seen)
}

/// T37: answers that wait for one another come together.
fn tail(stage: &mut Stage) -> Result<Seen> {
    tail_of(stage, ANSWER, ANSWER, &[])
}

/// More than is moved at once; a timestamp that nobody asked for stays where it is.
fn long_tail(stage: &mut Stage) -> Result<Seen> {
    let before = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nodd";
    ensure!(before.len() % 2 == 1, "an even number of bytes");
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1203\r\n\r\n".to_vec();
    answer.extend((0..1_203_u32).map(|n| n as u8));
    tail_of(stage, before, &answer, &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])
}

/// T2: an acknowledgement without news isn't shown: it would look like a duplicate.
fn absorbed_ack(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.acks(stage, Side::Shadow)
}

/// T3: the slower leg's acknowledgement becomes one for the client.
fn raised(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.says(stage, READ)?;
    talk.acks(stage, Side::Primary)?;
    let shown = talk.flow(stage)?.shown;
    let seen = talk.acks(stage, Side::Shadow)?;
    ensure!(talk.flow(stage)?.shown == shown.wrapping_add(READ.len() as u32), "not the least of both");
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.tuple.dport == talk.tuple.sport && out.seg.ack == talk.flow(stage)?.shown, "{out:?}");
    }
    Ok(seen)
}

/// T41: nothing is shown past a head that hasn't been read.
fn beyond_head(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.says(stage, READ)?;
    let mut seg = talk.reply(stage, Side::Primary, tcp::ACK)?.with(&ANSWER[10..]);
    seg.seq = seg.seq.wrapping_add(10);
    talk.server(stage, Side::Primary, &seg)
}

fn refused(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(joined())?;
    let (talk, _) = Talk::begin(stage)?;
    talk.accept(stage, Side::Primary)?;
    let mut seg = talk.reply(stage, Side::Shadow, tcp::RST | tcp::ACK)?;
    seg.seq = 0;
    let seen = talk.server(stage, Side::Shadow, &seg)?;
    ensure!(talk.flow(stage)?.legs[0].state == leg_state::OPEN, "the primary's leg is gone too");
    Ok(seen)
}

fn leg_lost(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    stage.set_word(SwitchWord::initial())?;
    let seg = talk.reply(stage, Side::Shadow, tcp::RST | tcp::ACK)?;
    talk.server(stage, Side::Shadow, &seg)
}

fn dialled(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.turn(stage, READ)?;
    let old = talk.leg_tuple(stage, Side::Shadow)?;
    let seg = talk.reply(stage, Side::Shadow, tcp::RST | tcp::ACK)?;
    let seen = talk.server(stage, Side::Shadow, &seg)?;
    let leg = talk.flow(stage)?.legs[1];
    ensure!(leg.state == leg_state::DIALLING, "{leg:?}");
    ensure!(talk.leg_tuple(stage, Side::Shadow)? != old, "the same port again");
    ensure!(stage.entry(old).is_err(), "the old port's entry was left behind");
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.seg.flags == tcp::SYN && out.tuple.daddr == stage.endpoint(1)?.addr, "{out:?}");
    }
    Ok(seen)
}

/// T36: in the middle of an answer no packet cures it: the client is reset, counted.
fn mid_answer(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(all_moved())?;
    let talk = Talk::open(stage)?;
    talk.says(stage, READ)?;
    talk.answers(stage, Side::Shadow, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")?;
    let seg = talk.reply(stage, Side::Shadow, tcp::RST | tcp::ACK)?;
    talk.server(stage, Side::Shadow, &seg)
}

fn none_due(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.is_due(stage, 0)
}
