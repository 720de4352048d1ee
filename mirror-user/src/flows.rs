//! Single connections, read from the slots of the pinned array. The daemon only ever reads them.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
};

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use mirror_common::{
    abi::{maps, nat},
    flow::{Flow, Leg, flow_state, leg_state},
    switch_word::Side,
};

use crate::{
    api::{FlowStatus, LegStatus},
    words::monotonic_ns,
};

/// Copies a value under its lock (`BPF_F_LOCK`), so that no transition is seen half done.
const LOCKED: u64 = 4;

/// Flows in the order of their slots, `limit` at most.
///
/// # Errors
/// When the pinned array can't be read.
pub fn list(pins: &Path, limit: usize) -> Result<Vec<FlowStatus>> {
    let data = MapData::from_pin(pins.join(maps::FLOWS)).context("can't open the pinned flows")?;
    let flows: Array<_, Flow> = Array::try_from(Map::Array(data))?;
    let mut found = Vec::new();
    for slot in 0..flows.len() {
        if found.len() >= limit {
            break;
        }
        let flow = flows.get(&slot, LOCKED)?;
        if flow.state != flow_state::FREE {
            found.push(describe(&flow, (monotonic_ns() / 1_000_000) as u32));
        }
    }
    Ok(found)
}

/// A flow as a person reads it. `now_ms` is the datapath's clock.
fn describe(flow: &Flow, now_ms: u32) -> FlowStatus {
    let seconds = |since_ms: u32| f64::from(now_ms.wrapping_sub(since_ms)) / 1_000.0;
    let address = |addr: u32, port: u16| {
        SocketAddrV4::new(Ipv4Addr::from(addr.to_ne_bytes()), u16::from_be(port)).to_string()
    };
    FlowStatus {
        client: address(flow.tuple.saddr, flow.tuple.sport),
        service: address(flow.tuple.daddr, flow.tuple.dport),
        state: match flow.state {
            flow_state::OPENING => "opening",
            flow_state::OPEN => "open",
            _ => "ended",
        }
        .into(),
        authority: flow.authority().name().into(),
        turns: flow.turns,
        writes_open: flow.has(Flow::COUNTED),
        held: flow.has(Flow::HELD),
        opaque: flow.has(Flow::OPAQUE),
        age: seconds(flow.opened_ms),
        idle: seconds(flow.last_ms),
        primary: leg(flow.leg(Side::Primary), now_ms),
        shadow: leg(flow.leg(Side::Shadow), now_ms),
    }
}

fn leg(leg: &Leg, now_ms: u32) -> LegStatus {
    let state = match leg.state {
        leg_state::NONE => "none",
        leg_state::DIALLING => "dialling",
        leg_state::OPEN => "open",
        _ => "down",
    };
    let behind_ms = if leg.behind_since == 0 { 0 } else { now_ms.wrapping_sub(leg.behind_since) };
    LegStatus { state: state.into(), port: nat::port(leg.port), answered: leg.answered, behind_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_common::abi::Tuple;

    #[test]
    fn a_flow_is_described_in_the_clients_terms() {
        let mut flow = Flow {
            tuple: Tuple {
                saddr: u32::from_ne_bytes([10, 0, 1, 2]),
                daddr: u32::from_ne_bytes([10, 77, 1, 1]),
                sport: 40_000_u16.to_be(),
                dport: 8_080_u16.to_be(),
            },
            state: flow_state::OPEN,
            authority: 1,
            flags: Flow::COUNTED,
            turns: 7,
            opened_ms: u32::MAX - 499,
            last_ms: 400,
            ..Flow::default()
        };
        flow.legs[0] = Leg { state: leg_state::OPEN, port: 5_000, answered: 7, ..Leg::default() };
        flow.legs[1] =
            Leg { state: leg_state::DIALLING, port: 1 << 16 | 6_000, behind_since: 300, ..Leg::default() };
        let seen = describe(&flow, 500);
        assert_eq!((seen.client.as_str(), seen.service.as_str()), ("10.0.1.2:40000", "10.77.1.1:8080"));
        assert_eq!((seen.state.as_str(), seen.authority.as_str(), seen.turns), ("open", "shadow", 7));
        assert_eq!((seen.age, seen.idle), (1.0, 0.1), "the clock wraps");
        assert!(seen.writes_open && !seen.held && !seen.opaque);
        assert_eq!((seen.primary.port, seen.primary.behind_ms), (5_000, 0));
        assert_eq!((seen.shadow.state.as_str(), seen.shadow.port), ("dialling", 6_000));
        assert_eq!(seen.shadow.behind_ms, 200);
    }
}
