//! Every verdict is reached by a packet through the loaded program, and read from its counter; at both hooks.
//!
//! A sentence is a verdict, what happens, and a scene that says it. A verdict without a sentence fails the test.

mod datagrams;
mod ends;
mod errors;
mod legs;
mod requests;
mod sack;
mod strangers;

use anyhow::{Context, Result, ensure};
use mirror_common::{
    switch_word::{Phase, Side, SwitchWord},
    verdict::Verdict,
};
use prog_tests::stage::{Hook, Seen, Stage, on_stage};

/// A verdict, the sentence, and the scene that ends in it.
type Sentence = (Verdict, &'static str, fn(&mut Stage) -> Result<Seen>);

/// The shadow is in sync and gets every request.
fn joined() -> SwitchWord {
    SwitchWord::initial().with_phase(Phase::Mirroring).with_member(Side::Shadow, true)
}

/// Every read is the shadow's.
fn all_moved() -> SwitchWord {
    joined().with_phase(Phase::Shifting).with_weight(10_000)
}

/// No write begins; the deadline that stands in the application's words is of another epoch.
fn frozen() -> SwitchWord {
    joined().next(joined().with_frozen(true).state())
}

fn sentences(hook: Hook) -> Vec<Sentence> {
    let mut all = [
        strangers::SENTENCES,
        requests::SENTENCES,
        legs::SENTENCES,
        ends::SENTENCES,
        errors::SENTENCES,
        sack::SENTENCES,
        datagrams::SENTENCES,
    ]
    .concat();
    if hook == Hook::Xdp {
        all.extend(strangers::AT_XDP);
    }
    all
}

/// Runs each sentence on a stage as it was at first; returns the verdicts that came.
fn play(hook: Hook) -> Result<Vec<Verdict>> {
    on_stage(hook, |stage| {
        let mut reached = Vec::new();
        let mut wrong = Vec::new();
        for (verdict, sentence, scene) in sentences(hook) {
            stage.set_word(SwitchWord::initial())?;
            stage.set_service(|_| {})?;
            let said = scene(stage).with_context(|| format!("{verdict:?}: {sentence}"));
            match said {
                Ok(seen) if seen.verdicts.contains(&verdict) => reached.push(verdict),
                Ok(seen) => wrong.push(format!("{verdict:?}: {sentence}: but {:?}", seen.verdicts)),
                Err(error) => wrong.push(format!("{error:#}")),
            }
        }
        ensure!(wrong.is_empty(), "at {hook:?}:\n{}", wrong.join("\n"));
        Ok(reached)
    })
}

#[test]
fn every_verdict_is_reached_by_a_packet_at_both_hooks() -> Result<()> {
    let at_tc = play(Hook::Tc)?;
    let at_xdp = play(Hook::Xdp)?;
    for verdict in Verdict::ALL {
        ensure!(at_xdp.contains(verdict), "no sentence leads to {verdict:?}");
        // What is handed over between the hooks, a lone TC doesn't see.
        ensure!(at_tc.contains(verdict) || *verdict == Verdict::HandoverFailed, "{verdict:?} not at TC");
    }
    Ok(())
}
