//! How connections end.

use anyhow::{Result, ensure};
use mirror_common::{
    flow::{flow_state, tcp},
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
