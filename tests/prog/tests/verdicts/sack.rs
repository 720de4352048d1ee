//! SACK's blocks, in the packets' own options.

use anyhow::{Result, ensure};
use mirror_common::{flow::tcp, switch_word::Side, verdict::Verdict};
use prog_tests::{
    packet::Out,
    stage::{Hook, Seen, Stage},
    talk::{Talk, blocks},
};

use super::{Sentence, joined};

pub(crate) const SENTENCES: &[Sentence] = &[
    (Verdict::SynAckShown, "a client that permits SACK is told that the authority does", permitted),
    (Verdict::SynAckWithoutSack, "the other's SYN-ACK without SACK becomes the ACK, counted", without),
    (
        Verdict::Raised,
        "what both servers have is shown to the client, the rest of the option is NOPs",
        intersection,
    ),
    (Verdict::Forwarded, "the client's blocks are the authority's, in its numbers", of_the_client),
    (Verdict::Mirrored, "of a segment with blocks the authority alone gets them", of_data),
    (Verdict::Malformed, "an option that is longer than the header is dropped", malformed),
];

/// The head of an upload.
const HEAD: &[u8] = b"PUT /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 4000\r\n\r\n";

fn permitted(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(joined())?;
    let (_, seen) = Talk::sacking(stage, [true; 2])?;
    let shown = seen[1].clone();
    if stage.hook == Hook::Tc {
        let out = Out::parse(&shown.frame)?;
        ensure!(out.seg.options == [2, 4, 5, 0xb4, 1, 1, 4, 2], "{out:?}");
    }
    Ok(shown)
}

/// T5: blocks are never shown of what such a leg hasn't acknowledged.
fn without(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(joined())?;
    let (talk, seen) = Talk::sacking(stage, [true, false])?;
    let flow = talk.flow(stage)?;
    talk.says(stage, HEAD)?;
    let told = talk.reports(stage, Side::Primary, 2, &[[10, 20]])?;
    ensure!(told.verdicts == [Verdict::AbsorbedAck], "{:?} {flow:?}", told.verdicts);
    Ok(seen[2].clone())
}

/// T2, T5: at even and odd offsets of the option, for its bytes fall into the other halves of the checksum's words.
fn intersection(stage: &mut Stage) -> Result<Seen> {
    let mut last = Seen::default();
    for nops in 0..4 {
        stage.set_word(joined())?;
        let (talk, _) = Talk::sacking(stage, [true; 2])?;
        talk.says(stage, &[HEAD, &[b'a'; 1_000]].concat())?;
        talk.reports(stage, Side::Primary, nops, &[[100, 200], [300, 400]])?;
        last = talk.reports(stage, Side::Shadow, nops, &[[150, 350], [500, 600]])?;
        let shown = talk.flow(stage)?.shown;
        let mut expected = blocks(nops, &[[shown + 150, shown + 200], [shown + 300, shown + 350]]);
        ensure!(last.verdicts == [Verdict::Raised], "{:?}", last.verdicts);
        if stage.hook == Hook::Tc {
            let out = Out::parse(&last.frame)?;
            ensure!(out.tuple.dport == talk.tuple.sport && out.seg.ack == shown, "{out:?}");
            ensure!(out.seg.options == expected, "{nops}: {:?}, not {expected:?}", out.seg.options);
        }
        // One less, now that the shadow is ahead: the second's room becomes NOPs.
        last = talk.reports(stage, Side::Primary, nops, &[[100, 180], [360, 450]])?;
        let one = blocks(nops, &[[shown + 150, shown + 180]]);
        ensure!(last.verdicts == [Verdict::Raised], "{:?}", last.verdicts);
        expected.fill(1);
        expected[..nops + 10].copy_from_slice(&one[..nops + 10]);
        if stage.hook == Hook::Tc {
            let out = Out::parse(&last.frame)?;
            ensure!(out.seg.options == expected, "{nops}: {:?}, not {expected:?}", out.seg.options);
        }
    }
    Ok(last)
}

/// A connection on which the primary has begun a long answer, and where that begins.
fn answering(stage: &mut Stage) -> Result<(Talk, u32)> {
    stage.set_word(joined())?;
    let (talk, _) = Talk::sacking(stage, [true; 2])?;
    talk.says(stage, HEAD)?;
    let begin = talk.flow(stage)?.view_next;
    let half = [&b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"[..], &[b'b'; 1_000]].concat();
    talk.answers(stage, Side::Primary, &half)?;
    Ok((talk, begin))
}

fn of_the_client(stage: &mut Stage) -> Result<Seen> {
    let (talk, begin) = answering(stage)?;
    let option = blocks(2, &[[begin + 500, begin + 900]]);
    let mut seg = talk.next(stage, tcp::ACK)?.options(&option);
    seg.ack = begin;
    let seen = talk.client(stage, &seg)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.tuple.daddr == stage.endpoint(0)?.addr && out.seg.options == option, "{out:?}");
    }
    Ok(seen)
}

/// T5: the stand-in packet leaves for the shadow last: with NOPs.
fn of_data(stage: &mut Stage) -> Result<Seen> {
    let (talk, begin) = answering(stage)?;
    let option = blocks(2, &[[begin + 500, begin + 900]]);
    let mut seg = talk.next(stage, tcp::ACK)?.options(&option).with(&[b'c'; 100]);
    seg.ack = begin;
    let seen = talk.client(stage, &seg)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.tuple.daddr == stage.endpoint(1)?.addr, "{out:?}");
        ensure!(out.seg.options == [1; 12] && out.seg.payload == [b'c'; 100], "{out:?}");
    }
    Ok(seen)
}

fn malformed(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(joined())?;
    let (talk, _) = Talk::sacking(stage, [true; 2])?;
    let seg = talk.next(stage, tcp::ACK)?.options(&[5, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    talk.client(stage, &seg)
}
