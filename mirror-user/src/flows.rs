//! Single connections, read from the slots of the pinned array. The daemon only ever reads them.

mod exchanges;
mod heard;
mod servers;

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use mirror_common::{
    abi::{
        BLOCK, maps, nat,
        udp::{Exchange, ExchangeKey},
    },
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

/// The flows, and the questions over UDP, whose oldest debt is the oldest, `limit` and [`MOST`] at most, and how many questions
/// there are; `authority` answers writes. Every slot that is in use is looked at.
///
/// # Errors
/// When the pinned maps can't be read.
pub fn list(pins: &Path, limit: usize, authority: Side) -> Result<(Vec<FlowStatus>, u32)> {
    let (mut worst, mut questions) = (Worst::new(limit.min(MOST)), 0);
    each(pins, |flow, now_ns| worst.take(flow, authority, now_ns))?;
    exchanges::each(pins, |key, exchange, now_ns| {
        questions += 1;
        worst.ask(key, exchange, now_ns);
    })?;
    let (names, servers) = (Names::open(pins)?, Servers::open(pins)?);
    let described = worst.described(&Outside {
        socket: &|addr, port| names.socket(addr, port),
        server: &|flow, side| servers.of(flow, side),
    });
    Ok((described, questions))
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

/// What may be listed, as it was seen, and when (nanoseconds of the datapath's clock); with both sides' debts by then.
enum Seen {
    /// A connection.
    Flow(Box<Flow>, u64, [Debt; 2]),
    /// A question.
    Exchange(ExchangeKey, Exchange, u64, [Debt; 2]),
}

impl Seen {
    fn debts(&self) -> &[Debt; 2] {
        match self {
            Self::Flow(_, _, debts) | Self::Exchange(.., debts) => debts,
        }
    }
}

/// Those with the oldest debts of what was seen. It holds twice as many as it is asked for at most.
struct Worst {
    limit: usize,
    seen: Vec<Seen>,
}

impl Worst {
    fn new(limit: usize) -> Self {
        Self { limit, seen: Vec::new() }
    }

    fn take(&mut self, flow: Flow, authority: Side, now_ns: u64) {
        let debts = Side::BOTH.map(|side| debt(&flow, side, side == authority, now_ns));
        self.keep(Seen::Flow(Box::new(flow), now_ns, debts));
    }

    fn ask(&mut self, key: ExchangeKey, exchange: Exchange, now_ns: u64) {
        let debts = Side::BOTH.map(|side| exchanges::debt(&exchange, side, now_ns));
        self.keep(Seen::Exchange(key, exchange, now_ns, debts));
    }

    fn keep(&mut self, seen: Seen) {
        self.seen.push(seen);
        if self.seen.len() > 2 * self.limit {
            self.cut();
        }
    }

    /// The oldest debt first, then the largest.
    fn cut(&mut self) {
        self.seen.sort_by_key(|seen| {
            let debts = seen.debts();
            let [age, bytes] = [debts.map(|debt| debt.age_ms), debts.map(|debt| debt.bytes)];
            std::cmp::Reverse((age[0].max(age[1]), bytes[0].max(bytes[1])))
        });
        self.seen.truncate(self.limit);
    }

    fn described(mut self, outside: &Outside<'_>) -> Vec<FlowStatus> {
        self.cut();
        let describe = |seen: &Seen| match seen {
            Seen::Flow(flow, now_ns, debts) => describe(flow, outside, *now_ns, debts),
            Seen::Exchange(key, exchange, now_ns, debts) => {
                exchanges::describe(key, exchange, outside, *now_ns, debts)
            }
        };
        self.seen.iter().map(describe).collect()
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
        protocol: "tcp".into(),
        message: None,
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
mod tests;
