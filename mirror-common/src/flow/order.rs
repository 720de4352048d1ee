//! Order across connections. Within one, TCP keeps it. But a client that was answered on one connection may ask on another at
//! once: its write may be faster there on the mirror than the first one, and its read may be answered by the mirror, which hasn't
//! done what the client was told of.
//!
//! So it is counted which connections *lag*: their clients have seen answers that the mirror still owes. What begins beside one
//! may overtake it; where order is kept, a write waits, and a read stays with the authority. Nothing is told apart by what is
//! written: it is an upper bound, by client or over the whole application ([`Group`]).
//!
//! Why nothing slips through: a connection is counted as lagging under its lock, before the packet leaves that shows its client
//! the first byte of the answer. What was asked for because of that byte comes later than that packet by whatever way,
//! so that it finds the count raised, until the mirror has answered as much. One whose first byte was here before needs no
//! order: nobody could know of the answer when it was sent. (A freeze must find *every* write, which is why it takes a count
//! before the word is read; here one that reads the count too early is one that began too early to be ordered.)

use super::terms::Group;
use super::{Flow, Step, Switch, Terms, flow_state, leg_state};
use crate::abi::Service;
use crate::seq;

/// What waited within this is taken to wait still, in milliseconds: held frames are tried again every 20 ms.
const WAITS_MS: u32 = 50;

/// Whether the client has seen something of an answer that the mirror hasn't given to its end, while a write is counted.
#[inline(always)]
fn lags(flow: &Flow) -> bool {
    let (authority, mirror) = (flow.leg(flow.authority()), flow.leg(flow.authority().other()));
    // Turns of whose answers the client may have seen a byte: the last one, where its head or its chunks are under way.
    let seen = authority.answered.wrapping_add(u32::from(!authority.parse.scanner.is_boundary()));
    let ahead = mirror.answered.wrapping_sub(seen) as i32;
    let whole = mirror.state != leg_state::OPEN || ahead > 0 || !mirror.in_answer();
    flow.has(Flow::COUNTED) && mirror.state != leg_state::NONE && (ahead < 0 || !whole)
}

/// The connections of a flow's client, and those among which its requests keep their order.
#[inline(always)]
fn groups(flow: &Flow, service: &Service) -> [Group; 2] {
    let client = Group::client(flow.who);
    [client, Group::of(service, client)]
}

/// Counts the connection as lagging, or no more. A subprogram of its own, for its many callers.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn note_lag<S: Switch>(flow: &mut Flow, terms: &mut Terms<'_, S>, step: &mut Step) -> u8 {
    let lagged = flow.has(Flow::LAGS);
    // Behind its end a connection shows its client no answer.
    let lags = (lagged || flow.state == flow_state::OPEN) && lags(flow);
    flow.set(Flow::LAGS, lags);
    let [client, group] = groups(flow, terms.service);
    if lags && !lagged {
        terms.switch.begin_lag(client);
    }
    if lagged && !lags && terms.switch.end_lag(client, group) && someone_waits(group, terms) {
        step.events |= Step::CAUGHT_UP;
    }
    step.events
}

/// [`order`]: a write that another connection's may be overtaken by on the mirror.
pub(super) const OVERTAKES: u8 = 1;
/// [`order`]: a read that the authority must answer.
pub(super) const STAYS: u8 = 2;
/// [`order`]: a write that must wait.
pub(super) const WAITS: u8 = 3;

/// What the order over connections asks of a request that begins now, in `step.order`; 0: nothing. `mirrored`: there is a mirror.
/// A subprogram of its own, as its caller's frame is large; and by a record: numbers that were returned the kernel's verifier
/// would follow one by one.
///
/// While others wait, a connection that lags waits, too, though its own writes can't overtake one another: one that writes
/// without a pause would lag for ever, and they would never begin.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn order<S: Switch>(
    flow: &Flow,
    writes: bool,
    mirrored: bool,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) {
    let [_, group] = groups(flow, terms.service);
    let lags = flow.has(Flow::LAGS);
    let beside = mirrored && terms.switch.lagging(group) > u32::from(lags);
    let kept = terms.service.flags & Service::ORDERED != 0 && !cfg!(feature = "plant-order-ignored");
    if beside && writes && kept {
        terms.switch.wait(group, terms.now_ms);
    }
    step.order = match (writes, kept) {
        (true, true) if beside || (lags && someone_waits(group, terms)) => WAITS,
        (true, false) if beside => OVERTAKES,
        (false, true) if beside => STAYS,
        _ => 0,
    };
}

/// Whether a request waits for its order in a group, or did a moment ago.
#[inline(always)]
fn someone_waits<S: Switch>(group: Group, terms: &mut Terms<'_, S>) -> bool {
    let waited_ms = terms.switch.waited_ms(group);
    waited_ms != 0 && seq::since(terms.now_ms, waited_ms) < WAITS_MS
}
