//! How connections end.

use anyhow::{Result, ensure};
use mirror_common::{
    flow::{Flow, flow_state, leg_state, sweep, tcp},
    switch_word::Side,
    verdict::Verdict,
};
use prog_tests::{
    packet::Out,
    stage::{Hook, Seen, Stage},
    talk::{READ, Talk, syn},
};

use super::{Sentence, joined};

pub(crate) const SENTENCES: &[Sentence] = &[
    (Verdict::Reset, "the client's reset is both legs'", reset),
    (
        Verdict::Reset,
        "a request that isn't whole is reset at both, and no write is open any more",
        reset_within,
    ),
    (Verdict::BrokenOff, "a move ends what its client hasn't sent whole", broken_off),
    (Verdict::HalfOpen, "where room is scarce, who never ends its handshake makes some", half_open),
    (Verdict::ResetStale, "a segment behind a reset is reset", reset_stale),
    (Verdict::FinAbsorbed, "the other leg's FIN behind the client's is acknowledged", fin_absorbed),
    (Verdict::Mirrored, "the client's FIN goes to both", fin),
    (Verdict::SynNew, "a SYN on a connection that has ended makes a new one", port_reuse),
];

fn open(stage: &mut Stage) -> Result<Talk> {
    stage.set_word(joined())?;
    Talk::open(stage)
}

fn reset(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let seg = talk.next(stage, tcp::RST | tcp::ACK)?;
    let seen = talk.client(stage, &seg)?;
    ensure!(talk.flow(stage)?.state == flow_state::ENDED, "still open");
    Ok(seen)
}

/// The begin of an upload.
const UPLOAD: &[u8] = b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000\r\n\r\nabc";

/// T42: nobody waits for the rest of it.
fn reset_within(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.says(stage, UPLOAD)?;
    ensure!(talk.flow(stage)?.has(Flow::COUNTED), "not counted");
    let seg = talk.next(stage, tcp::RST | tcp::ACK)?;
    let seen = talk.client(stage, &seg)?;
    let flow = talk.flow(stage)?;
    ensure!(!flow.has(Flow::COUNTED) && flow.legs.iter().all(|leg| leg.state == leg_state::NONE), "{flow:?}");
    Ok(seen)
}

fn broken_off(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.says(stage, UPLOAD)?;
    let seen = talk.is_due(stage, sweep::BREAK_OFF)?;
    ensure!(!talk.flow(stage)?.has(Flow::COUNTED), "still waited for");
    Ok(seen)
}

/// T26: both legs hear of it, and the client, who may be somebody else, doesn't.
fn half_open(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(joined())?;
    let (talk, _) = Talk::begin(stage)?;
    Side::BOTH.into_iter().try_for_each(|side| talk.accept(stage, side).map(drop))?;
    // Its server was heard a second ago.
    stage.set_flow(talk.slot, |flow| {
        let leg = flow.leg_mut(flow.authority());
        leg.heard_ms = leg.heard_ms.wrapping_sub(1_000);
    })?;
    let seen = talk.is_due(stage, sweep::CROWDED)?;
    ensure!(talk.flow(stage)?.state == flow_state::ENDED, "still open");
    Ok(seen)
}

fn reset_stale(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let seg = talk.next(stage, tcp::RST | tcp::ACK)?;
    talk.client(stage, &seg)?;
    let seg = talk.next(stage, tcp::ACK)?.with(READ);
    let seen = talk.client(stage, &seg)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.seg.flags == tcp::RST && out.tuple.dport == talk.tuple.sport, "{out:?}");
    }
    Ok(seen)
}

fn fin(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let seg = talk.next(stage, tcp::FIN | tcp::ACK)?;
    let seen = talk.client(stage, &seg)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.seg.flags == tcp::FIN | tcp::ACK, "{out:?}");
    }
    Ok(seen)
}

fn fin_absorbed(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let seg = talk.next(stage, tcp::FIN | tcp::ACK)?;
    talk.client(stage, &seg)?;
    let seg = talk.reply(stage, Side::Shadow, tcp::FIN | tcp::ACK)?;
    talk.server(stage, Side::Shadow, &seg)
}

fn port_reuse(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let seg = talk.next(stage, tcp::RST | tcp::ACK)?;
    talk.client(stage, &seg)?;
    let old = stage.entry(talk.tuple)?;
    let seen = talk.client(stage, &syn())?;
    ensure!(stage.entry(talk.tuple)? != old, "the same use of the same slot");
    Ok(seen)
}
