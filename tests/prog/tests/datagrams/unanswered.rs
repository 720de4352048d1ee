//! Answers that don't come, and what is kept of questions.

use super::*;

/// Counts of a row of [`Measured`]: answers, and errors.
fn counted(scene: &Scene<'_>, row: u32) -> Result<[u64; 2]> {
    let latency: PerCpuArray<_, u64> = scene.stage.per_cpu(maps::LATENCY)?;
    let statuses: PerCpuArray<_, u64> = scene.stage.per_cpu(maps::RESPONSES)?;
    let errors = row * status::CLASSES as u32 + status::SERVER_ERRORS;
    let buckets = mirror_common::hist::BUCKETS as u32;
    let sum = |at: u32| -> Result<u64> { Ok(latency.get(&at, 0)?.iter().sum()) };
    let answers = (row * buckets..(row + 1) * buckets).map(sum).sum::<Result<u64>>()?;
    Ok([answers, statuses.get(&errors, 0)?.iter().sum()])
}

pub(super) fn an_unanswered_query_is_an_error_of_the_side_that_was_to_answer(
    scene: &mut Scene<'_>,
) -> Result<()> {
    scene.word(all_moved())?;
    let row = Measured::shown(Side::Shadow as u32, 0);
    let before = counted(scene, row)?;
    let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
    scene.answer(&key, PRIMARY, 0, b"", Verdict::AnswerAbsorbed)?;
    scene.stage.age(TIMEOUT_NS - 1_000_000_000)?;
    scene.stage.lapse()?;
    ensure!(counted(scene, row)? == before && scene.stage.awaited()?.len() == 1, "not yet");
    scene.stage.age(1_000_000_000)?;
    scene.stage.lapse()?;
    ensure!(counted(scene, row)? == before.map(|count| count + 1), "{before:?}");
    ensure!(scene.stage.awaited()?.is_empty() && scene.stage.word()?.member(Side::Shadow));
    Ok(())
}

/// P1: the other side has the write too, or is out of sync.
pub(super) fn an_update_that_the_mirror_leaves_unanswered_puts_it_out(scene: &mut Scene<'_>) -> Result<()> {
    let stall = u64::from(scene.stage.stall_ms()?) * 1_000_000;
    for (answers, remains) in
        [(&[PRIMARY, SHADOW][..], true), (&[SHADOW], true), (&[], true), (&[PRIMARY], false)]
    {
        scene.word(all_moved())?;
        let (key, _) = scene.ask(UPDATE, Verdict::DatagramMirrored)?;
        for side in answers {
            let verdict = if *side == PRIMARY { Verdict::AnswerShown } else { Verdict::AnswerAbsorbed };
            scene.answer(&key, *side, 0, b"", verdict)?;
        }
        scene.stage.lapse()?;
        ensure!(scene.stage.word()?.member(Side::Shadow), "{answers:?}: not yet");
        scene.stage.age(stall)?;
        scene.stage.lapse()?;
        let word = scene.stage.word()?;
        ensure!(word.member(Side::Shadow) == remains, "{answers:?}: {word:?}");
        ensure!(remains || word.weight() == 0, "its reads are the authority's");
        scene.stage.await_nothing()?;
    }
    Ok(())
}

/// Whether the side has done it nobody knows: the record is gone.
pub(super) fn an_update_whose_record_is_lost_puts_the_mirror_out(scene: &mut Scene<'_>) -> Result<()> {
    for (opcode, remains) in [(QUERY, true), (UPDATE, false)] {
        scene.word(joined())?;
        let (key, _) = scene.ask(opcode, Verdict::DatagramMirrored)?;
        scene.stage.evict(&key)?;
        scene.stage.age(TIMEOUT_NS)?;
        scene.stage.lapse()?;
        ensure!(scene.stage.word()?.member(Side::Shadow) == remains, "opcode {opcode}");
    }
    Ok(())
}

/// What is kept of a question is gone with the last answer, or with the last that doesn't come: however many were asked, there
/// is room for the next one.
pub(super) fn nothing_is_kept_of_what_is_over(scene: &mut Scene<'_>) -> Result<()> {
    for opcode in [QUERY, UPDATE] {
        scene.word(joined())?;
        let (key, _) = scene.ask(opcode, Verdict::DatagramMirrored)?;
        scene.answer(&key, PRIMARY, 0, b"", Verdict::AnswerShown)?;
        ensure!(scene.stage.exchange(&key).is_ok(), "the shadow's answer is compared with it");
        scene.answer(&key, SHADOW, 0, b"", Verdict::AnswerAbsorbed)?;
        ensure!(scene.stage.exchange(&key).is_err(), "both have answered");
    }
    scene.word(SwitchWord::initial())?;
    let (key, _) = scene.ask(QUERY, Verdict::DatagramForwarded)?;
    scene.answer(&key, PRIMARY, 0, b"", Verdict::AnswerShown)?;
    ensure!(scene.stage.exchange(&key).is_err(), "the one that was asked has answered");
    for answered in [true, false] {
        scene.word(joined())?;
        let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
        if answered {
            scene.answer(&key, PRIMARY, 0, b"", Verdict::AnswerShown)?;
        }
        scene.stage.age(TIMEOUT_NS)?;
        scene.stage.lapse()?;
        ensure!(scene.stage.exchange(&key).is_err(), "nobody waits for the shadow any more");
    }
    Ok(())
}

/// What a race leaves behind is found, and nothing that somebody waits for.
pub(super) fn what_nobody_waits_for_is_forgotten(scene: &mut Scene<'_>) -> Result<()> {
    scene.word(joined())?;
    let (key, _) = scene.ask(QUERY, Verdict::DatagramMirrored)?;
    let old = |exchange: &mut Exchange| exchange.asked_ns -= TIMEOUT_NS;
    scene.stage.set_exchange(&key, old)?;
    scene.stage.forget()?;
    ensure!(scene.stage.exchange(&key).is_ok(), "both are awaited");
    scene.answer(&key, PRIMARY, 0, b"", Verdict::AnswerShown)?;
    scene.stage.forget()?;
    ensure!(scene.stage.exchange(&key).is_ok(), "the shadow is awaited");
    scene.stage.await_nothing()?;
    scene.stage.set_exchange(&key, |exchange| exchange.asked_ns += TIMEOUT_NS)?;
    scene.stage.forget()?;
    ensure!(scene.stage.exchange(&key).is_ok(), "it may be in the making");
    scene.stage.set_exchange(&key, old)?;
    scene.stage.forget()?;
    ensure!(scene.stage.exchange(&key).is_err(), "nobody is awaited");
    Ok(())
}
