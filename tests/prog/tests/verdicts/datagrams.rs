//! What becomes of datagrams.

use anyhow::{Result, bail, ensure};
use mirror_common::{
    abi::{Service, udp::ExchangeKey},
    verdict::Verdict,
};
use prog_tests::{
    datagram::{QUERY, UPDATE, answers, asks, client_tuple, frame},
    stage::{Seen, Stage},
};

use super::{Sentence, frozen, joined};

pub(crate) const SENTENCES: &[Sentence] = &[
    (Verdict::DatagramForwarded, "a query goes to the one side that is in sync", forwarded),
    (Verdict::DatagramMirrored, "a query goes to both sides", mirrored),
    (Verdict::DatagramUnmirrored, "a query without a port towards the other side goes to one", unmirrored),
    (Verdict::DatagramPortsFull, "a query without a port is dropped", ports_full),
    (Verdict::AnswerShown, "the answer of the side that is heard is the client's", shown),
    (Verdict::AnswerAbsorbed, "the other side's answer is nobody's", absorbed),
    (Verdict::AnswerStale, "an answer to something else is nobody's", stale),
    (Verdict::HeldFrozen, "an update waits while writes are frozen", held),
    (Verdict::Malformed, "a length beyond the datagram's end is dropped", long_length),
    (Verdict::FragmentDropped, "a fragment of a datagram towards the service is dropped", fragment),
];

const ID: u16 = 77;

fn ask(stage: &mut Stage, opcode: u8) -> Result<(ExchangeKey, Seen)> {
    stage.set_datagrams(Service::DNS)?;
    let client = client_tuple(stage.client_port());
    let seen = stage.put(2, &frame(client, &asks(ID, opcode))?)?;
    Ok((ExchangeKey::new(client, [0; 4], ID), seen))
}

fn forwarded(stage: &mut Stage) -> Result<Seen> {
    Ok(ask(stage, QUERY)?.1)
}

fn mirrored(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(joined())?;
    Ok(ask(stage, QUERY)?.1)
}

/// Asks until there is no port any more.
fn exhaust(stage: &mut Stage) -> Result<Seen> {
    for _ in 0..1_000 {
        let (_, seen) = ask(stage, QUERY)?;
        if seen.verdicts != [Verdict::DatagramForwarded] {
            return Ok(seen);
        }
    }
    bail!("a thousand questions found ports")
}

fn ports_full(stage: &mut Stage) -> Result<Seen> {
    let seen = exhaust(stage);
    stage.await_nothing()?;
    seen
}

fn unmirrored(stage: &mut Stage) -> Result<Seen> {
    let (key, _) = ask(stage, QUERY)?;
    let tuple = stage.answer_tuple(&key, 0)?;
    exhaust(stage)?;
    stage.put(0, &frame(tuple, &answers(ID, 0, b""))?)?;
    stage.set_word(joined())?;
    let (_, seen) = ask(stage, QUERY)?;
    stage.await_nothing()?;
    Ok(seen)
}

fn answered_by(stage: &mut Stage, side: usize, id: u16) -> Result<Seen> {
    stage.set_word(joined())?;
    let (key, _) = ask(stage, QUERY)?;
    let tuple = stage.answer_tuple(&key, side)?;
    stage.put(side, &frame(tuple, &answers(id, 0, b""))?)
}

fn shown(stage: &mut Stage) -> Result<Seen> {
    answered_by(stage, 0, ID)
}

fn absorbed(stage: &mut Stage) -> Result<Seen> {
    answered_by(stage, 1, ID)
}

fn stale(stage: &mut Stage) -> Result<Seen> {
    answered_by(stage, 0, ID + 1)
}

fn held(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(frozen())?;
    let (_, read) = ask(stage, QUERY)?;
    ensure!(read.verdicts == [Verdict::DatagramMirrored], "a query doesn't wait: {read:?}");
    Ok(ask(stage, UPDATE)?.1)
}

fn put_changed(stage: &mut Stage, change: fn(&mut Vec<u8>)) -> Result<Seen> {
    stage.set_datagrams(Service::DNS)?;
    let mut frame = frame(client_tuple(stage.client_port()), &asks(ID, QUERY))?;
    change(&mut frame);
    stage.put(2, &frame)
}

fn long_length(stage: &mut Stage) -> Result<Seen> {
    put_changed(stage, |frame| frame[39] += 1)
}

fn fragment(stage: &mut Stage) -> Result<Seen> {
    // The third of three.
    put_changed(stage, |frame| frame[20..22].copy_from_slice(&370_u16.to_be_bytes()))
}
