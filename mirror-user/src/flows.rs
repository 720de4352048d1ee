//! Single connections, read from the slots of the pinned array. The daemon only ever reads them.

mod exchanges;
mod heard;
mod servers;

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use mirror_common::{
    abi::{BLOCK, maps, nat},
    flow::{Flow, Leg, flow_state, incomplete, leg_state},
    switch_word::Side,
};
use mirror_control::precondition::Unsettled;

pub use self::heard::{Heard, heard};
use self::servers::Servers;
use crate::{
    alias::Names,
    api::{FlowStatus, LegStatus},
    words::monotonic_ns,
};

/// Address and port of a server, as they lie in a map.
type Server = (u32, u16);

/// What a flow's record says, as it is outside.
struct Outside<'a> {
    /// An address and a port.
    socket: &'a dyn Fn(u32, u16) -> SocketAddr,
    /// The server that a side's leg goes to, where the side has several.
    server: &'a dyn Fn(&Flow, Side) -> Option<Server>,
}

/// Copies a value under its lock (`BPF_F_LOCK`), so that no transition is seen half done.
const LOCKED: u64 = 4;

/// Connections that are listed at most, whatever is asked for.
pub const MOST: usize = 10_000;

/// Connections that an aborted or refused move names.
const NAMED: usize = 3;

/// The flows whose oldest debt is the oldest, `limit` and [`MOST`] at most; `authority` answers writes. Every slot that is in
/// use is looked at.
///
/// # Errors
/// When the pinned arrays can't be read.
pub fn list(pins: &Path, limit: usize, authority: Side) -> Result<Vec<FlowStatus>> {
    let mut worst = Worst::new(limit.min(MOST));
    each(pins, |flow, now_ns| worst.take(flow, authority, now_ns))?;
    let (names, servers) = (Names::open(pins)?, Servers::open(pins)?);
    Ok(worst.described(&Outside {
        socket: &|addr, port| names.socket(addr, port),
        server: &|flow, side| servers.of(flow, side),
    }))
}

/// The connections whose write has been open for longer than `within`: the first [`NAMED`] as a person reads them, and how
/// many more there are. `resets`: what the policy does with those that aren't whole.
///
/// # Errors
/// As [`list`].
pub fn unsettled(pins: &Path, within: Duration, resets: bool) -> Result<Unsettled> {
    let names = Names::open(pins)?;
    let mut seen = Unsettled { resets, ..Unsettled::default() };
    each(pins, |flow, now_ns| {
        if flow.has(Flow::COUNTED) && u128::from(turn_age_ms(&flow, now_ns)) >= within.as_millis() {
            if seen.named.len() < NAMED {
                let client = names.socket(flow.tuple.saddr, flow.tuple.sport);
                seen.named.push(waiting(&flow, client, now_ns));
            }
            *(if incomplete(&flow) { &mut seen.incomplete } else { &mut seen.unanswered }) += 1;
        }
    })?;
    let more = (seen.incomplete + seen.unanswered).saturating_sub(NAMED as u64);
    if more > 0 {
        seen.named.push(format!("and {more} more"));
    }
    Ok(seen)
}

/// Calls `take` with each flow in use, and when it was read (nanoseconds of the datapath's clock).
fn each(pins: &Path, mut take: impl FnMut(Flow, u64)) -> Result<()> {
    let flows: Array<_, Flow> = open(pins, maps::FLOWS)?;
    let busy: Array<_, u64> = open(pins, maps::BUSY)?;
    for slot in 0..flows.len() {
        if slot % BLOCK == 0 && busy.get(&(slot / BLOCK), 0)? == 0 {
            continue;
        }
        let flow = flows.get(&slot, LOCKED)?;
        if flow.state != flow_state::FREE {
            take(flow, monotonic_ns());
        }
    }
    Ok(())
}

fn open<V: aya::Pod>(pins: &Path, name: &str) -> Result<Array<MapData, V>> {
    let data =
        MapData::from_pin(pins.join(name)).with_context(|| format!("can't open the pinned map {name}"))?;
    Ok(Array::try_from(Map::Array(data))?)
}

/// The flows with the oldest debts of those that were seen. It holds twice as many as it is asked for at most.
struct Worst {
    limit: usize,
    /// With when each was seen (nanoseconds of the datapath's clock), and both legs' debts by then.
    flows: Vec<(Flow, u64, [Debt; 2])>,
}

impl Worst {
    fn new(limit: usize) -> Self {
        Self { limit, flows: Vec::new() }
    }

    fn take(&mut self, flow: Flow, authority: Side, now_ns: u64) {
        let debts = Side::BOTH.map(|side| debt(&flow, side, side == authority, now_ns));
        self.flows.push((flow, now_ns, debts));
        if self.flows.len() > 2 * self.limit {
            self.cut();
        }
    }

    /// The oldest debt first, then the largest.
    fn cut(&mut self) {
        self.flows.sort_by_key(|(_, _, debts)| {
            let [age, bytes] = [debts.map(|debt| debt.age_ms), debts.map(|debt| debt.bytes)];
            std::cmp::Reverse((age[0].max(age[1]), bytes[0].max(bytes[1])))
        });
        self.flows.truncate(self.limit);
    }

    fn described(mut self, outside: &Outside<'_>) -> Vec<FlowStatus> {
        self.cut();
        self.flows.iter().map(|(flow, now_ns, debts)| describe(flow, outside, *now_ns, debts)).collect()
    }
}

/// What a leg's server owes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Debt {
    /// Of the client's bytes it hasn't acknowledged so many; its FIN counts as one.
    bytes: u32,
    /// So many requests it hasn't answered to their ends.
    answers: u32,
    /// The oldest of both has been owed for so many milliseconds at least.
    age_ms: u32,
}

fn debt(flow: &Flow, side: Side, is_authority: bool, now_ns: u64) -> Debt {
    let leg = flow.leg(side);
    if leg.state == leg_state::NONE {
        return Debt::default();
    }
    let behind = |of: u32, at: u32| u32::try_from(of.wrapping_sub(at) as i32).unwrap_or(0);
    let (bytes, answers) = (behind(flow.client_next, leg.acked), behind(flow.turns, leg.answered));
    let now_ms = (now_ns / 1_000_000) as u32;
    let age_ms = match (bytes | answers, is_authority) {
        (0, _) => 0,
        // Nobody holds a clock against the authority: since the last request began.
        (_, true) if answers > 0 => turn_age_ms(flow, now_ns),
        (_, false) if leg.behind_since != 0 => now_ms.wrapping_sub(leg.behind_since),
        _ => 0,
    };
    Debt { bytes, answers, age_ms }
}

/// How long ago the last turn began, in milliseconds, at least: its clock wraps after 71 minutes.
fn turn_age_ms(flow: &Flow, now_ns: u64) -> u32 {
    let turn_ms = ((now_ns / 1_000) as u32).wrapping_sub(flow.turn_us) / 1_000;
    turn_ms.max(((now_ns / 1_000_000) as u32).wrapping_sub(flow.last_ms))
}

/// A client's flow whose write is open, and what that waits for.
fn waiting(flow: &Flow, client: SocketAddr, now_ns: u64) -> String {
    let seconds = |ms: u32| f64::from(ms) / 1_000.0;
    let age = seconds(turn_age_ms(flow, now_ns));
    if incomplete(flow) {
        let sent = flow.client_next.wrapping_sub(flow.turn_begin);
        let silent = seconds(((now_ns / 1_000_000) as u32).wrapping_sub(flow.last_ms));
        return format!(
            "{client}, whose client has sent {sent} bytes of a request in {age:.1} s and not its end, the last packet \
             {silent:.1} s ago"
        );
    }
    let owing = Side::BOTH.into_iter().filter(|side| {
        let leg = flow.leg(*side);
        leg.state != leg_state::NONE && (leg.answered.wrapping_sub(flow.write_turn) as i32) < 0
    });
    let owing: Vec<_> = owing.map(Side::name).collect();
    format!("{client}, asked {age:.1} s ago and not answered by the {}", owing.join(" and the "))
}

/// A flow as a person reads it, at a time of the datapath's clock.
fn describe(flow: &Flow, outside: &Outside<'_>, now_ns: u64, debts: &[Debt; 2]) -> FlowStatus {
    let now_ms = (now_ns / 1_000_000) as u32;
    let seconds = |since_ms: u32| f64::from(now_ms.wrapping_sub(since_ms)) / 1_000.0;
    let server =
        |side| (outside.server)(flow, side).map(|(addr, port)| (outside.socket)(addr, port).to_string());
    FlowStatus {
        client: (outside.socket)(flow.tuple.saddr, flow.tuple.sport).to_string(),
        service: (outside.socket)(flow.tuple.daddr, flow.tuple.dport).to_string(),
        service_name: None,
        state: match flow.state {
            flow_state::OPENING => "opening",
            flow_state::OPEN => "open",
            _ => "ended",
        }
        .into(),
        authority: flow.authority().name().into(),
        turns: flow.turns,
        writes_open: flow.has(Flow::COUNTED),
        incomplete: incomplete(flow),
        held: flow.has(Flow::HELD),
        opaque: flow.has(Flow::OPAQUE),
        age: seconds(flow.opened_ms),
        idle: seconds(flow.last_ms),
        primary: leg(flow.leg(Side::Primary), debts[0], server(Side::Primary)),
        shadow: leg(flow.leg(Side::Shadow), debts[1], server(Side::Shadow)),
    }
}

fn leg(leg: &Leg, debt: Debt, server: Option<String>) -> LegStatus {
    let state = match leg.state {
        leg_state::NONE => "none",
        leg_state::DIALLING => "dialling",
        leg_state::OPEN => "open",
        _ => "down",
    };
    LegStatus {
        state: state.into(),
        port: nat::port(leg.port),
        server,
        answered: leg.answered,
        owed_bytes: debt.bytes,
        owed_answers: debt.answers,
        behind_ms: debt.age_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_common::abi::Tuple;

    /// Where all is of IPv4.
    fn plain(addr: u32, port: u16) -> SocketAddr {
        SocketAddr::from((addr.to_ne_bytes(), u16::from_be(port)))
    }

    /// The same, and the shadow has several servers.
    const OUTSIDE: Outside<'static> = Outside {
        socket: &plain,
        server: &|flow, side| {
            (side == Side::Shadow).then(|| (u32::from_ne_bytes([10, 0, 3, 2]), flow.tuple.dport))
        },
    };

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
            client_next: 90,
            turns: 7,
            opened_ms: u32::MAX - 499,
            last_ms: 400,
            ..Flow::default()
        };
        flow.legs[0] = Leg { state: leg_state::OPEN, port: 5_000, answered: 7, acked: 90, ..Leg::default() };
        flow.legs[1] = Leg {
            state: leg_state::DIALLING,
            port: 1 << 16 | 6_000,
            answered: 5,
            acked: 60,
            behind_since: 300,
            ..Leg::default()
        };
        let now = 500_000_000;
        let debts = Side::BOTH.map(|side| debt(&flow, side, side == Side::Primary, now));
        let seen = describe(&flow, &OUTSIDE, now, &debts);
        assert_eq!((seen.client.as_str(), seen.service.as_str()), ("10.0.1.2:40000", "10.77.1.1:8080"));
        assert_eq!((seen.state.as_str(), seen.authority.as_str(), seen.turns), ("open", "shadow", 7));
        assert_eq!((seen.age, seen.idle), (1.0, 0.1), "the clock wraps");
        assert!(seen.writes_open && !seen.held && !seen.opaque);
        let owed = |leg: &LegStatus| (leg.port, leg.owed_bytes, leg.owed_answers, leg.behind_ms);
        assert_eq!(owed(&seen.primary), (5_000, 0, 0, 0));
        assert_eq!((seen.primary.server, seen.shadow.server.as_deref()), (None, Some("10.0.3.2:8080")));
        assert_eq!(seen.shadow.state.as_str(), "dialling");
        assert_eq!(owed(&seen.shadow), (6_000, 30, 2, 200));
    }

    /// A flow whose shadow owes `bytes` since so many milliseconds of the datapath's clock.
    fn indebted(port: u16, bytes: u32, since_ms: u32) -> Flow {
        let tuple = Tuple { sport: port.to_be(), ..Tuple::default() };
        let mut flow = Flow { tuple, state: flow_state::OPEN, client_next: 5, ..Flow::default() };
        let shadow = flow.leg_mut(Side::Shadow);
        (shadow.state, shadow.acked) = (leg_state::OPEN, 5_u32.wrapping_sub(bytes));
        shadow.behind_since = since_ms;
        flow
    }

    #[test]
    fn the_oldest_debt_comes_first_and_of_many_only_so_many_are_kept() {
        let mut worst = Worst::new(3);
        for port in 1..=100 {
            worst.take(indebted(port, 0, 1), Side::Primary, 1_000_000_000);
            assert!(worst.flows.len() <= 6);
        }
        for (port, bytes, since) in [(201, 9, 700), (202, 70_000, 900), (203, 1, 100), (204, 10, 700)] {
            worst.take(indebted(port, bytes, since), Side::Primary, 1_000_000_000);
        }
        let seen: Vec<_> =
            worst.described(&OUTSIDE).into_iter().map(|flow| (flow.client, flow.shadow)).collect();
        let ages: Vec<_> = seen.iter().map(|(_, shadow)| (shadow.behind_ms, shadow.owed_bytes)).collect();
        assert_eq!(ages, [(900, 1), (300, 10), (300, 9)]);
        assert_eq!(seen[0].0, "0.0.0.0:203", "its numbers wrap");
    }

    #[test]
    fn what_a_move_waits_for_is_said() {
        let mut flow = indebted(40_000, 0, 1);
        flow.set(Flow::COUNTED, true);
        (flow.turns, flow.write_turn, flow.turn_us, flow.last_ms) = (2, 2, 400_000, 2_400);
        (flow.turn_begin, flow.parse.at) = (5_u32.wrapping_sub(100), 55);
        (flow.legs[1].answered, flow.legs[0].state) = (1, leg_state::OPEN);
        let (now, client) = (3_600_000_000, plain(flow.tuple.saddr, flow.tuple.sport));
        assert_eq!(
            waiting(&flow, client, now),
            "0.0.0.0:40000, whose client has sent 100 bytes of a request in 3.2 s and not its end, the last packet 1.2 s ago"
        );
        flow.parse.at = 5;
        assert_eq!(
            waiting(&flow, client, now),
            "0.0.0.0:40000, asked 3.2 s ago and not answered by the primary and the shadow"
        );
    }

    #[test]
    fn the_authoritys_debt_is_as_old_as_its_last_request() {
        let mut flow = Flow { turns: 2, turn_us: 400_000, last_ms: 450, ..Flow::default() };
        flow.legs[0] = Leg { state: leg_state::OPEN, answered: 1, behind_since: 1, ..Leg::default() };
        let age = |flow: &Flow, authority| debt(flow, Side::Primary, authority, 600_000_000).age_ms;
        assert_eq!((age(&flow, true), age(&flow, false)), (200, 599));
        flow.legs[0].answered = 2;
        assert_eq!(age(&flow, true), 0);
        flow.legs[0].state = leg_state::NONE;
        assert_eq!(debt(&flow, Side::Primary, true, 600_000_000), Debt::default());
    }
}
