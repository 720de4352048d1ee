//! Who still waits for an answer of one side's: before that side is put out at rest, nobody may.

use std::{net::SocketAddr, path::Path};

use anyhow::Result;
use mirror_common::{
    datagram,
    flow::{Flow, flow_state, leg_state},
    switch_word::Side,
};

use super::{NAMED, each, exchanges};
use crate::alias::Names;

/// Clients that hear a side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Its answers to them aren't sent to their ends.
    pub answers: u64,
    /// They haven't acknowledged all of the answers that it has sent.
    pub unacknowledged: u64,
    /// The first of those that wait for answers.
    pub named: Vec<String>,
}

/// Connections, and questions over UDP, whose clients hear a side that they still expect something of. A connection whose
/// requests can't be told apart isn't among them: it hears one side for life.
///
/// # Errors
/// When the pinned maps can't be read.
pub fn heard(pins: &Path, side: Side) -> Result<Heard> {
    let names = Names::open(pins)?;
    let mut seen = Heard::default();
    each(pins, |flow, _| match expects(&flow, side) {
        Some(true) => seen.take(names.socket(flow.tuple.saddr, flow.tuple.sport)),
        Some(false) => seen.unacknowledged += 1,
        None => {}
    })?;
    exchanges::each(pins, |key, exchange, now_ns| {
        if exchange.heard as u32 == side as u32 && datagram::is_open(&exchange, now_ns) {
            seen.take(exchanges::client(&key, &|addr, port| names.socket(addr, port)));
        }
    })?;
    Ok(seen)
}

impl Heard {
    fn take(&mut self, client: SocketAddr) {
        self.answers += 1;
        if self.named.len() < NAMED {
            self.named.push(client.to_string());
        }
    }
}

/// Whether a client expects an answer of a side's (true), or has one that it hasn't acknowledged (false); `None`: neither.
fn expects(flow: &Flow, side: Side) -> Option<bool> {
    let hears = flow.answerer() as u32 == side as u32 || flow.authority() as u32 == side as u32;
    if !hears || flow.state != flow_state::OPEN || flow.has(Flow::OPAQUE) {
        return None;
    }
    let leg = flow.leg(side);
    let owes = leg.state != leg_state::NONE
        && ((leg.answered.wrapping_sub(flow.turns) as i32) < 0 || leg.in_answer());
    match (owes, flow.client_acked == flow.view_next) {
        (true, _) => Some(true),
        (false, acked) => (!acked).then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use mirror_common::flow::Leg;

    use super::*;

    #[test]
    fn an_answer_is_expected_until_it_is_sent_and_acknowledged() {
        let mut flow =
            Flow { state: flow_state::OPEN, authority: 1, turns: 3, view_next: 9, ..Flow::default() };
        flow.client_acked = 9;
        for leg in &mut flow.legs {
            *leg = Leg { state: leg_state::OPEN, answered: 3, ..Leg::default() };
        }
        let asks = |change: &dyn Fn(&mut Flow)| {
            let mut flow = flow;
            change(&mut flow);
            Side::BOTH.map(|side| expects(&flow, side))
        };
        assert_eq!(asks(&|_| {}), [None; 2]);
        assert_eq!(asks(&|flow| flow.legs[1].answered = 2), [None, Some(true)]);
        assert_eq!(asks(&|flow| flow.legs[0].answered = 2), [None; 2], "nobody hears it");
        assert_eq!(asks(&|flow| flow.legs[1].parse.at = 7), [None, Some(true)], "its end is still to come");
        assert_eq!(asks(&|flow| flow.client_acked = 8), [None, Some(false)]);
        let opaque = |flow: &mut Flow| {
            flow.legs[1].answered = 2;
            flow.set(Flow::OPAQUE, true);
        };
        assert_eq!(asks(&opaque), [None; 2]);
        let given_ahead = |flow: &mut Flow| {
            flow.authority = 0;
            flow.legs[1].answered = 2;
            flow.set(Flow::AHEAD, true);
        };
        assert_eq!(asks(&given_ahead), [None, Some(true)]);
    }
}
