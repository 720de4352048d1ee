//! What holds of every packet that a transition lets leave, whichever it was: [`Scene::run`] asks it of each.

use mirror_common::flow::{Leg, flow_state};

use super::*;

/// What a leg's server may be told that it has reached: the one that is heard by the client, the other by us.
fn reached(flow: &Flow, side: Side) -> u32 {
    let told = flow.client_acked.wrapping_sub(flow.delta);
    if flow.hears(side) { seq::max(told, flow.shown_from) } else { flow.leg(side).rcv_nxt }
}

/// What a window field says that is told to a leg's server: the client's own, by the scale that the server goes by.
fn told_window(flow: &Flow, side: Side) -> u16 {
    let bytes = u64::from(flow.client_window) << flow.client_scale();
    (bytes >> flow.leg(side).told).min(0xffff) as u16
}

/// What the client is shown of the room that is left.
fn shown_window(flow: &Flow) -> u16 {
    let room = flow.shown_edge.wrapping_sub(flow.shown) as i32;
    (room.max(0) as u32 >> flow.shown_scale()).min(0xffff) as u16
}

/// A packet to a leg's server: it comes from the leg's port, in its numbers, and acknowledges what its server was told.
fn to_leg(flows: [&Flow; 2], side: Side, packet: &Emit) {
    let [before, after] = flows;
    let living: Vec<(&Flow, &Leg)> =
        flows.map(|flow| (flow, flow.leg(side))).into_iter().filter(|(_, leg)| leg.port != 0).collect();
    assert!(living.iter().any(|(_, leg)| leg.port == packet.port), "{side:?}: {packet:?}");
    match packet.kind {
        emit::SYN => {
            let leg = after.leg(side);
            assert_eq!((packet.flags, packet.ack), (tcp::SYN, 0));
            assert_eq!(packet.seq, leg.acked.wrapping_add(leg.offset).wrapping_sub(1));
            assert_eq!((packet.window, packet.scale), (after.client_window, leg.told));
        }
        // What belongs to no living leg: in the sender's own numbers.
        emit::BARE if packet.flags == tcp::RST => {}
        emit::BARE | emit::FORWARD | emit::CUT => {
            let acks = |flow: &Flow| packet.ack == reached(flow, side);
            // A leg that is lost behind its own segment has forgotten what it was told.
            let forgotten = before.leg(side).state != after.leg(side).state
                && seq::le(before.leg(side).rcv_nxt, packet.ack);
            assert!(acks(before) || acks(after) || forgotten, "{side:?}: {packet:?}, {before:?}, {after:?}");
            let reset = packet.flags & tcp::RST != 0;
            assert!(packet.kind != emit::BARE || packet.flags == tcp::ACK | if reset { tcp::RST } else { 0 });
            let own = after.answerer() == side && !after.has(Flow::RETURNING);
            let windows = [told_window(after, side), 0xffff, 0];
            let right =
                if reset { packet.window == windows[2] } else { packet.window == windows[usize::from(!own)] };
            // Where the answerer changes in this very step, the packet may have been made before.
            assert!(
                right
                    || before.answerer() != after.answerer()
                    || before.has(Flow::RETURNING) != after.has(Flow::RETURNING)
            );
        }
        _ => panic!("{packet:?}"),
    }
}

/// A packet to the client: in its view, and acknowledging what both legs have.
fn to_client(after: &Flow, packet: &Emit) {
    match packet.kind {
        emit::SYN => {
            assert_eq!((packet.flags, packet.ack), (tcp::SYN | tcp::ACK, after.iss.wrapping_add(1)));
            assert_eq!(packet.seq, after.view_next.wrapping_sub(1));
            assert_eq!((packet.port, packet.permits_sack != 0), (0, after.has(Flow::SACK)));
            let scale = if packet.scale == Segment::NO_SCALE { 0 } else { packet.scale };
            assert_eq!(scale, after.shown_scale());
        }
        emit::BARE if packet.flags & tcp::RST != 0 => {}
        emit::BARE | emit::FORWARD | emit::CUT => {
            assert_eq!((packet.ack, packet.window), (after.shown, shown_window(after)), "{packet:?}");
            assert!(packet.kind != emit::BARE || (packet.flags, packet.seq) == (tcp::ACK, after.view_next));
        }
        _ => panic!("{packet:?}"),
    }
}

/// What is taken as seen is sent on in the same step: whoever sent it would repeat it only after a timeout.
fn goes_on(before: &Flow, after: &Flow, step: &Step) {
    if before.state != flow_state::OPEN || after.state != flow_state::OPEN {
        return;
    }
    if seq::lt(before.view_next, after.view_next) {
        assert!(step.to_client.carries(), "the client's: {step:?}");
    }
    for side in Side::BOTH {
        let lacks =
            after.leg(side).state == leg_state::OPEN && seq::lt(after.leg(side).acked, after.client_next);
        if seq::lt(before.client_next, after.client_next) && lacks {
            assert!(step.to_leg[side as usize].carries() || step.hold_copy != 0, "{side:?}'s: {step:?}");
        }
    }
}

/// What leaves in a step is what its receiver can make sense of.
pub(super) fn make_sense(before: &Flow, after: &Flow, step: &Step) {
    goes_on(before, after, step);
    for side in Side::BOTH {
        let packet = &step.to_leg[side as usize];
        if packet.kind != emit::NONE {
            to_leg([before, after], side, packet);
        }
    }
    if step.to_client.kind != emit::NONE && after.state != flow_state::FREE {
        to_client(after, &step.to_client);
    }
}
