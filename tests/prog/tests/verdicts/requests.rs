//! What the client sends on an open connection.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aya::maps::{Array, Map};
use lab::net::Host;
use mirror_common::{
    abi::{App, Service, maps},
    flow::{Flow, leg_state, tcp},
    switch_word::Side,
    verdict::Verdict,
};
use prog_tests::{
    packet::{Out, Seg},
    stage::{Hook, Seen, Stage, TC_REDIRECT, TC_SHOT},
    talk::{READ, SERVER_ISS, Talk, WRITE},
};

use super::{Sentence, all_moved, frozen, joined};

pub(crate) const SENTENCES: &[Sentence] = &[
    (Verdict::Forwarded, "an acknowledgement goes to the authority, in its numbers", forwarded),
    (Verdict::Mirrored, "a request goes to both legs", mirrored),
    (Verdict::TurnedBack, "a segment from before what was shown is answered at once", turned_back),
    (Verdict::TurnedBack, "a stale frame out of the TAP is answered where its client is", from_the_tap),
    (Verdict::Mirrored, "urgent data are passed as they are", urgent),
    (Verdict::Mirrored, "a wrong checksum stays wrong", corrupted),
    (Verdict::Probe, "a keep-alive is sent on, just before what the leg expects", probe),
    (Verdict::HeldFrozen, "a write under a freeze is held, and nothing is counted", held_frozen),
    (Verdict::HeldUnsettled, "a write waits for the side that still answers a read", held_unsettled),
    (Verdict::HeldBehind, "what comes behind a held write is held", held_behind),
    (Verdict::HeldMoved, "what comes behind an unanswered moved read is held", held_moved),
    (Verdict::HeldCapped, "a request beyond the leg's limit waits for its answers", held_capped),
    (Verdict::HeldOrder, "a write waits while the mirror owes another connection's answered one", held_order),
    (
        Verdict::KeptOrder,
        "a read stays with the authority while the mirror owes another connection's answered write",
        kept_order,
    ),
    (Verdict::HeldDialling, "a request goes on; its copy waits for the leg that is dialled", held_dialling),
    (Verdict::DeferredHoldFull, "without a TAP nothing is held", hold_full),
    (Verdict::DeferredOrder, "a request behind a hole comes again", order),
    (Verdict::DeferredRaced, "a reading that another packet overtook is void", raced),
    (
        Verdict::PartForwarded,
        "of a retransmission that a held write was joined to, the known part is sent on",
        part,
    ),
    (Verdict::KeptUnsettled, "a read on a flow that isn't settled is answered as before", kept),
    (Verdict::MirroredAhead, "a read goes to both legs, and is the one's that is behind", ahead),
    (Verdict::AskedAgain, "a read whose leg was lost is asked of the other one", asked_again),
    (Verdict::OutOfWindow, "a segment without an acknowledgement is ignored", no_ack),
    (Verdict::NoLeg, "an acknowledgement whose leg is gone is dropped", no_leg),
    (Verdict::EmitFailed, "a packet without a route is counted as such", no_route),
];

fn open(stage: &mut Stage) -> Result<Talk> {
    stage.set_word(joined())?;
    Talk::open(stage)
}

fn forwarded(stage: &mut Stage) -> Result<Seen> {
    let talk = Talk::open(stage)?;
    let seen = talk.confirm(stage)?;
    if stage.hook == Hook::Tc {
        let (out, flow) = (Out::parse(&seen.frame)?, talk.flow(stage)?);
        ensure!(out.seg.seq == flow.client_next.wrapping_add(flow.legs[0].offset), "{out:?}");
        let back = talk.leg_tuple(stage, Side::Primary)?;
        ensure!((out.tuple.daddr, out.tuple.sport) == (back.saddr, back.dport), "{out:?}");
    }
    Ok(seen)
}

fn mirrored(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let seen = talk.says(stage, READ)?;
    if stage.hook == Hook::Tc {
        // The last one that leaves is the shadow's.
        let (out, flow) = (Out::parse(&seen.frame)?, talk.flow(stage)?);
        ensure!(out.seg.payload == READ, "{out:?}");
        ensure!(out.seg.seq == flow.iss.wrapping_add(1).wrapping_add(flow.legs[1].offset), "{out:?}");
    }
    Ok(seen)
}

/// T14: what begins below the shown acknowledgement is answered with it, and not sent on.
fn turned_back(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let first = talk.next(stage, tcp::ACK)?.with(READ);
    talk.client(stage, &first)?;
    talk.acks(stage, Side::Primary)?;
    talk.acks(stage, Side::Shadow)?;
    let seen = talk.client(stage, &first)?;
    if stage.hook == Hook::Tc {
        let (out, flow) = (Out::parse(&seen.frame)?, talk.flow(stage)?);
        ensure!(out.seg.flags == tcp::ACK && out.seg.payload.is_empty(), "{out:?}");
        ensure!((out.seg.seq, out.seg.ack) == (flow.view_next, flow.client_next), "{out:?}");
        ensure!(out.tuple.dport == talk.tuple.sport, "{out:?}");
    }
    Ok(seen)
}

/// T40: not back into the TAP, where the daemon would take it for the next held frame.
fn from_the_tap(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let first = talk.next(stage, tcp::ACK)?.with(READ);
    talk.client(stage, &first)?;
    for side in Side::BOTH {
        talk.acks(stage, side)?;
    }
    // The stage's TAP is the shadow's device.
    let seen = stage.put(1, &first.frame(talk.tuple)?)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        let to = out.head[..6].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
        ensure!(to == Host::Client.mac(false) && seen.action == TC_REDIRECT, "{to}: {out:?}");
        ensure!(out.tuple.dport == talk.tuple.sport && out.seg.flags == tcp::ACK, "{out:?}");
    }
    Ok(seen)
}

/// T28: flag and pointer reach both legs.
fn urgent(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let flags = tcp::ACK | tcp::PSH | tcp::URG;
    let seg = Seg { urgent: 3, ..talk.next(stage, flags)?.with(READ) };
    let seen = talk.client(stage, &seg)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!((out.seg.flags, out.seg.urgent) == (flags, 3), "{out:?}");
    }
    Ok(seen)
}

/// T19: what was damaged on its way to the gateway isn't made valid there.
fn corrupted(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let mut frame = talk.next(stage, tcp::ACK)?.with(READ).frame(talk.tuple)?;
    let last = frame.len() - 1;
    frame[last] ^= 0x10;
    let seen = stage.put(2, &frame)?;
    if stage.hook == Hook::Tc {
        let wrong = Out::parse(&seen.frame).err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(wrong.contains("TCP checksum"), "{wrong:?}");
    }
    Ok(seen)
}

fn probe(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let mut seg = talk.next(stage, tcp::ACK)?;
    seg.seq = seg.seq.wrapping_sub(1);
    talk.client(stage, &seg)
}

fn held_frozen(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    stage.set_word(frozen())?;
    let before = talk.flow(stage)?;
    let seen = talk.says(stage, WRITE)?;
    let after = talk.flow(stage)?;
    ensure!(stage.hook != Hook::Tc || seen.action == TC_REDIRECT, "{seen:?}");
    ensure!((after.client_next, after.parse) == (before.client_next, before.parse), "{after:?}");
    ensure!(after.has(Flow::HELD) && !after.has(Flow::COUNTED), "{after:?}");
    Ok(seen)
}

fn held_unsettled(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(all_moved())?;
    let talk = Talk::open(stage)?;
    talk.says(stage, READ)?;
    talk.answers(stage, Side::Shadow, prog_tests::talk::ANSWER)?;
    talk.confirm(stage)?;
    talk.says(stage, WRITE)
}

/// T34: what follows a held write waits behind it.
fn held_behind(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    stage.set_word(frozen())?;
    talk.says(stage, WRITE)?;
    let mut seg = talk.next(stage, tcp::ACK)?.with(READ);
    seg.seq = seg.seq.wrapping_add(WRITE.len() as u32);
    talk.client(stage, &seg)
}

fn held_moved(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(all_moved())?;
    let talk = Talk::open(stage)?;
    talk.says(stage, READ)?;
    talk.says(stage, READ)
}

fn held_capped(stage: &mut Stage) -> Result<Seen> {
    stage.set_service(|service| service.endpoints[1].max_requests = 2)?;
    let talk = open(stage)?;
    for _ in 0..2 {
        talk.says(stage, READ)?;
        talk.answers(stage, Side::Primary, prog_tests::talk::ANSWER)?;
    }
    talk.says(stage, READ)
}

/// H9: of a service whose writes are ordered.
fn held_order(stage: &mut Stage) -> Result<Seen> {
    // What other scenes have left unanswered lags, too.
    stage.set_app(App::default())?;
    stage.set_service(|service| service.flags |= Service::ORDERED)?;
    let (one, other) = (open(stage)?, open(stage)?);
    one.says(stage, WRITE)?;
    one.answers(stage, Side::Primary, prog_tests::talk::ANSWER)?;
    ensure!(one.flow(stage)?.has(Flow::LAGS), "answered on one side");
    let seen = other.says(stage, WRITE)?;
    ensure!(other.flow(stage)?.has(Flow::HELD) && !other.flow(stage)?.has(Flow::COUNTED), "held");
    one.answers(stage, Side::Shadow, prog_tests::talk::ANSWER)?;
    ensure!(!one.flow(stage)?.has(Flow::LAGS), "answered on both");
    let after = other.says(stage, WRITE)?;
    ensure!(after.verdicts.contains(&Verdict::Mirrored), "{after:?}");
    Ok(seen)
}

/// H8: of a service whose requests are ordered.
fn kept_order(stage: &mut Stage) -> Result<Seen> {
    stage.set_app(App::default())?;
    stage.set_service(|service| service.flags |= Service::ORDERED)?;
    let (one, other) = (open(stage)?, open(stage)?);
    one.says(stage, WRITE)?;
    one.answers(stage, Side::Primary, prog_tests::talk::ANSWER)?;
    stage.set_word(joined().with_weight(10_000))?;
    let seen = other.says(stage, READ)?;
    ensure!(other.flow(stage)?.authority() == Side::Primary, "the primary answers");
    one.answers(stage, Side::Shadow, prog_tests::talk::ANSWER)?;
    Ok(seen)
}

/// T1: data that comes before the shadow's SYN-ACK goes on; its copy is held for that leg.
fn held_dialling(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(joined())?;
    let (talk, _) = Talk::begin(stage)?;
    talk.accept(stage, Side::Primary)?;
    talk.confirm(stage)?;
    let seen = talk.says(stage, READ)?;
    ensure!(talk.flow(stage)?.legs[1].state == leg_state::DIALLING, "dialled");
    Ok(seen)
}

fn hold_full(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    stage.set_word(frozen())?;
    let tap = stage.device(1);
    stage.set_config(|config| config.tap = 0)?;
    let seen = talk.says(stage, WRITE)?;
    stage.set_config(|config| config.tap = tap)?;
    ensure!(stage.hook != Hook::Tc || seen.action == TC_SHOT, "{seen:?}");
    Ok(seen)
}

/// T17: a request behind a hole comes again.
fn order(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let mut seg = talk.next(stage, tcp::ACK)?.with(READ);
    seg.seq = seg.seq.wrapping_add(10);
    talk.client(stage, &seg)
}

/// T18: a held write is read anew each time, and changes nothing: meanwhile another thread changes what was read before.
fn raced(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    stage.set_word(frozen())?;
    let frame = talk.next(stage, tcp::ACK)?.with(WRITE).frame(talk.tuple)?;
    let mut flow = talk.flow(stage)?;
    let mut other: Array<_, Flow> = Array::try_from(Map::Array(stage.another(maps::FLOWS)?))?;
    let done = AtomicBool::new(false);
    let slot = talk.slot;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                flow.completed = flow.completed.wrapping_add(1);
                if other.set(slot, flow, 0).is_err() {
                    break;
                }
            }
        });
        // On few processors with much else to do, the two seldom run at the same time.
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut seen = race(stage, &frame);
        while seen.as_ref().is_ok_and(|seen| !seen.verdicts.contains(&Verdict::DeferredRaced))
            && Instant::now() < deadline
        {
            seen = race(stage, &frame);
        }
        done.store(true, Ordering::Relaxed);
        seen
    })
}

fn race(stage: &mut Stage, frame: &[u8]) -> Result<Seen> {
    match stage.hook {
        Hook::Tc => drop(stage.run_tc("mirror_tc", stage.device(2), frame, 20_000)?),
        Hook::Xdp => drop(stage.run_live(stage.device(2), frame, 0, 2_000)?),
    }
    Ok(Seen { verdicts: stage.counts()?, ..Seen::default() })
}

/// T34: the client's kernel joins what wasn't acknowledged with what is held behind it.
fn part(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    // Of odd length, and longer than what is summed at once.
    let mut first = b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 702\r\n\r\n".to_vec();
    first.extend((0..702_u32).map(|n| n as u8));
    ensure!(first.len() % 2 == 1, "{}", first.len());
    talk.says(stage, &first)?;
    let flow = talk.flow(stage)?;
    stage.set_word(frozen())?;
    let joined = [first.as_slice(), WRITE].concat();
    let mut seg = talk.next(stage, tcp::ACK)?.with(&joined);
    seg.seq = flow.iss.wrapping_add(1);
    let seen = talk.client(stage, &seg)?;
    if stage.hook == Hook::Tc {
        let out = Out::parse(&seen.frame)?;
        ensure!(out.seg.payload == first, "{out:?}");
        ensure!(out.seg.flags == tcp::ACK | tcp::PSH, "{out:?}");
        ensure!(out.seg.seq == seg.seq.wrapping_add(flow.legs[1].offset), "{out:?}");
    }
    Ok(seen)
}

fn kept(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.says(stage, READ)?;
    stage.set_word(all_moved())?;
    talk.says(stage, READ)
}

/// T37: the shadow owes an answer, and the next one's is the client's.
fn ahead(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    talk.says(stage, READ)?;
    talk.answers(stage, Side::Primary, prog_tests::talk::ANSWER)?;
    stage.set_word(all_moved())?;
    let seen = talk.says(stage, READ)?;
    let flow = talk.flow(stage)?;
    ensure!(flow.has(Flow::AHEAD) && flow.answerer() == Side::Shadow, "{flow:?}");
    if stage.hook == Hook::Tc {
        // The last one that leaves is the shadow's.
        let out = Out::parse(&seen.frame)?;
        ensure!(out.seg.payload == READ && out.tuple.daddr == stage.endpoint(1)?.addr, "{out:?}");
        ensure!(out.seg.ack == SERVER_ISS[1] + 1, "{out:?}");
    }
    Ok(seen)
}

fn asked_again(stage: &mut Stage) -> Result<Seen> {
    stage.set_word(all_moved())?;
    let talk = Talk::open(stage)?;
    let read = talk.next(stage, tcp::ACK)?.with(READ);
    talk.client(stage, &read)?;
    talk.answers(stage, Side::Primary, prog_tests::talk::ANSWER)?;
    let reset = talk.reply(stage, Side::Shadow, tcp::RST | tcp::ACK)?;
    talk.server(stage, Side::Shadow, &reset)?;
    let seen = talk.client(stage, &read)?;
    if stage.hook == Hook::Tc {
        let (out, flow) = (Out::parse(&seen.frame)?, talk.flow(stage)?);
        ensure!(out.seg.payload == READ && out.tuple.daddr == stage.endpoint(0)?.addr, "{out:?}");
        ensure!(out.seg.seq == read.seq.wrapping_add(flow.legs[0].offset), "{out:?}");
    }
    Ok(seen)
}

fn no_ack(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    let seg = Seg { flags: tcp::PSH, ..talk.next(stage, tcp::PSH)?.with(READ) };
    talk.client(stage, &seg)
}

fn no_leg(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    stage.set_flow(talk.slot, |flow| flow.legs[0].state = leg_state::NONE)?;
    talk.confirm(stage)
}

fn no_route(stage: &mut Stage) -> Result<Seen> {
    let talk = open(stage)?;
    stage.set_service(|service| service.endpoints[0].addr = u32::from_ne_bytes([203, 0, 113, 1]))?;
    talk.confirm(stage)
}
