//! Both legs' answers as the kernel compares them, at both hooks: statuses, lengths, and sums of the bodies.

use anyhow::{Context, Result, ensure};
use mirror_common::{
    abi::{Service, Turn},
    checksum,
    flow::{Measured, outcome, pair, tcp},
    protocol::http1::{Target, UNKNOWN_LENGTH},
    switch_word::{Phase, Side, SwitchWord},
};
use prog_tests::{
    packet::Seg,
    stage::{Hook, Stage, on_stage},
    talk::{Talk, WRITE},
};

/// A read with a query, which no prefix has.
const ASK: &[u8] = b"GET /api/users/12?sort=name HTTP/1.1\r\nHost: shop\r\n\r\n";
/// Options that a server may send: a body's sum mustn't have them.
const OPTIONS: &[u8] = &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

/// How a server's segments come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// With whole checksums.
    Plain,
    /// With options.
    Options,
    /// With checksums that are left to a card: the field has the pseudo-header's sum alone.
    Partial,
}

fn bodied(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// Bytes that look like no others.
fn noise(bytes: usize, seed: u32) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        (x >> 8) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// The sum of the addresses, the protocol and the length in the checksum's place, as before a card makes it.
fn leave_to_the_card(frame: &mut [u8]) {
    let bytes = (frame.len() - 34) as u16;
    let pseudo = [&frame[26..34], &[0, 6], &bytes.to_be_bytes()].concat();
    frame[50..52].copy_from_slice(&checksum::sum(&pseudo).to_ne_bytes());
}

/// A side's answer in pieces of so many bytes.
fn answer(stage: &mut Stage, talk: Talk, side: Side, bytes: &[u8], pieces: usize, how: How) -> Result<()> {
    for piece in bytes.chunks(pieces) {
        let options = if how == How::Options { OPTIONS } else { &[] };
        let seg: Seg = talk.reply(stage, side, tcp::ACK | tcp::PSH)?.with(piece).options(options);
        let mut frame = seg.frame(talk.leg_tuple(stage, side)?)?;
        if how == How::Partial {
            leave_to_the_card(&mut frame);
        }
        stage.put(side as usize, &frame)?;
    }
    Ok(())
}

/// A turn with two answers, cut each in its way; what is told of it.
fn turn(
    stage: &mut Stage,
    talk: Talk,
    asked: &[u8],
    answers: [&[u8]; 2],
    cuts: [(usize, How); 2],
) -> Result<Turn> {
    stage.turns()?;
    talk.says(stage, asked)?;
    for side in Side::BOTH {
        let (pieces, how) = cuts[side as usize];
        answer(stage, talk, side, answers[side as usize], pieces, how)?;
    }
    talk.confirm(stage)?;
    let told = stage.turns()?;
    ensure!(told.len() <= 1, "{told:?}");
    told.first().copied().with_context(|| format!("nothing is told: {:?}", talk.flow(stage)))
}

fn open(stage: &mut Stage) -> Result<Talk> {
    stage.set_word(SwitchWord::initial().with_phase(Phase::Mirroring).with_member(Side::Shadow, true))?;
    stage.set_service(|service| service.flags |= Service::CAPTURES | Service::with_segments(2))?;
    Talk::open(stage)
}

/// However bodies are cut, and whoever makes the checksums.
fn equal_bodies(stage: &mut Stage) -> Result<()> {
    let talk = open(stage)?;
    let mut turns = 0;
    for bytes in [0, 1, 7, 600, 1_300, 4_001] {
        let body = noise(bytes, 9);
        let whole = bodied(&body);
        let wanted = checksum::digest(checksum::sum(&body));
        for cuts in [
            [(1_400, How::Plain), (1_399, How::Options)],
            [(47, How::Plain), (1_400, How::Partial)],
            [(whole.len() - bytes, How::Options), (701, How::Partial)],
        ] {
            let told = turn(stage, talk, ASK, [&whole, &whole], cuts)?.compared;
            let seen = (told.outcome, told.digests, told.lengths, told.statuses);
            let expected = (outcome::EQUAL, [wanted; 2], [bytes as u32; 2], [200; 2]);
            ensure!(seen == expected, "{bytes} bytes, {cuts:?}: {told:?}, not {expected:?}");
            turns += 1;
        }
    }
    let pairs = stage.pairs(0)?;
    let counted = [pairs[pair::COMPARED as usize], pairs[pair::EQUAL as usize]];
    ensure!(counted == [turns; 2], "{turns} turns: {pairs:?}");
    Ok(())
}

fn differences(stage: &mut Stage) -> Result<()> {
    let talk = open(stage)?;
    let one = noise(2_000, 1);
    let mut other = one.clone();
    other[1_999] ^= 4;
    let cuts = [(1_000, How::Plain), (1_400, How::Partial)];
    let told = |stage: &mut Stage, asked: &[u8], other: &[u8]| {
        turn(stage, talk, asked, [&bodied(&one), other], cuts).map(|turn| turn.compared)
    };
    let digest = told(stage, ASK, &bodied(&other))?;
    ensure!(digest.outcome == outcome::DIGEST && digest.class == 0, "{digest:?}");
    let target = Target::of(ASK, 2);
    ensure!((digest.target, digest.prefix) == (target.whole, target.prefix), "{digest:?}: {target:?}");
    let text = stage.prefix(digest.prefix)?;
    ensure!(text.as_deref() == Some("GET /api/users"), "{text:?}");
    let length = told(stage, WRITE, &bodied(&one[1..]))?;
    let seen = (length.outcome, length.class, length.lengths);
    ensure!(seen == (outcome::LENGTH, 1, [2_000, 1_999]), "{length:?}");
    let error = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
    let status = told(stage, ASK, error)?;
    ensure!((status.outcome, status.statuses) == (outcome::STATUS, [200, 500]), "{status:?}");
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let unknown = told(stage, ASK, chunked)?;
    ensure!((unknown.outcome, unknown.lengths) == (outcome::UNKNOWN, [2_000, UNKNOWN_LENGTH]), "{unknown:?}");
    let (reads, writes) = (stage.pairs(0)?, stage.pairs(1)?);
    let of = |kind: u32| [reads[kind as usize], writes[kind as usize]];
    let counted = [pair::COMPARED, pair::STATUS_DIFFERS, pair::LENGTH_DIFFERS, pair::DIGEST_DIFFERS].map(of);
    ensure!(counted == [[3, 1], [1, 0], [0, 1], [1, 0]], "{reads:?} {writes:?}");
    for (row, statuses) in [
        (Measured::shown(0, 0), [0, 3, 0, 0, 0]),
        (Measured::shown(0, 1), [0, 1, 0, 0, 0]),
        (Measured::shown(1, 0), [0; 5]),
        (Measured::compared(1, 0), [0, 2, 0, 0, 1]),
        (Measured::compared(1, 1), [0, 1, 0, 0, 0]),
    ] {
        let counted = stage.responses(row)?;
        ensure!(counted == statuses, "row {row}: {counted:?}");
    }
    let asked = (3 * ASK.len() + WRITE.len()) as u64;
    let sum = |answers: &[&[u8]]| answers.iter().map(|answer| answer.len() as u64).sum::<u64>();
    let (first, second, shorter) = (bodied(&one), bodied(&other), bodied(&one[1..]));
    let answered = [4 * first.len() as u64, sum(&[&second, &shorter, error, chunked])];
    let carried = stage.carried()?;
    ensure!(carried == [[asked; 2], answered], "{carried:?}, not {asked} and {answered:?}");
    Ok(())
}

#[test]
fn equal_bodies_are_equal_however_they_are_cut_and_summed_at_tc() -> Result<()> {
    on_stage(Hook::Tc, equal_bodies)
}

#[test]
fn equal_bodies_are_equal_however_they_are_cut_and_summed_at_xdp() -> Result<()> {
    on_stage(Hook::Xdp, equal_bodies)
}

#[test]
fn each_difference_is_counted_and_told_at_tc() -> Result<()> {
    on_stage(Hook::Tc, differences)
}

#[test]
fn each_difference_is_counted_and_told_at_xdp() -> Result<()> {
    on_stage(Hook::Xdp, differences)
}

/// What isn't allowed by the policy isn't kept.
#[test]
fn without_a_policy_for_it_no_text_of_a_request_is_kept() -> Result<()> {
    on_stage(Hook::Tc, |stage| {
        let talk = open(stage)?;
        stage.set_service(|service| service.flags |= Service::with_segments(2))?;
        let told = turn(stage, talk, ASK, [&bodied(b"a"), &bodied(b"b")], [(1_400, How::Plain); 2])?;
        ensure!(told.compared.prefix != 0 && stage.prefix(told.compared.prefix)?.is_none(), "{told:?}");
        Ok(())
    })
}
