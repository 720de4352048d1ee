//! What a leg's payload says about answers.

use super::client::make_opaque;
use super::measure::{note_body, note_heads};
use super::{Flow, Leg, Reading, Segment, Step, Switch, Terms};
use crate::seq;
use crate::switch_word::Side;

/// What reading a leg's payload came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Nothing had to be read.
    Nothing,
    /// Taken over.
    Done,
    /// A hole lies before what must be read.
    Hole,
    /// Another packet came first.
    Raced,
    /// Nothing is taken over, while the last turn is given ahead: no answer that can be told apart, or that a server may give.
    /// It comes again.
    Later,
}

/// Takes over what the payload says about answers.
#[inline(always)]
pub(super) fn read<S: Switch>(
    flow: &mut Flow,
    side: Side,
    seg: &Segment,
    terms: &mut Terms<'_, S>,
    step: &mut Step,
) -> Read {
    let data_end = seg.seq.wrapping_add(seg.payload);
    let turns = flow.turns;
    let opaque = flow.has(Flow::OPAQUE);
    let leg = flow.leg_mut(side);
    if opaque || leg.flags & Leg::UNKNOWN != 0 || leg.parse.scanner.until_close() {
        return Read::Nothing;
    }
    let bound = leg.parse.at;
    if flow.has(Flow::COMPARING | Flow::SUMMING) {
        step.measured.turn.clock = terms.switch.writes().begun;
    }
    if !seq::lt(bound, data_end) {
        note_body(flow, side, seg, bound, step);
        return Read::Nothing;
    }
    let ahead = flow.has(Flow::AHEAD);
    let leg = flow.leg_mut(side);
    if seq::lt(bound, seg.seq) {
        return Read::Hole;
    }
    let reading = &seg.reading;
    if reading.flags & Reading::DONE == 0 || reading.before != leg.parse || reading.base != leg.answered {
        return Read::Raced;
    }
    let before = leg.answered;
    let now = before.wrapping_add(reading.answered);
    let unasked = (now.wrapping_sub(turns) as i32) > 0;
    let behind_close = reading.flags & Reading::BEHIND_CLOSE != 0
        || (leg.flags & Leg::CLOSING != 0 && reading.first_status != 0);
    if ahead && (unasked || behind_close || reading.flags & Reading::OPAQUE != 0) {
        return Read::Later;
    }
    leg.parse = reading.after;
    leg.answered = now;
    if reading.flags & Reading::CLOSE != 0 {
        leg.flags |= Leg::CLOSING;
    }
    if unasked {
        // It answers no turn that is to come: a server that says 408 because none comes (RFC 9110, 15.5.9).
        leg.answered = turns;
    }
    if unasked || reading.flags & Reading::OPAQUE != 0 {
        // Or its end can't be known.
        leg.flags |= Leg::UNKNOWN;
        let goes_on = leg.flags & Leg::CLOSING == 0;
        // What nobody hears makes nothing of the connection: where the other one's answer can be told apart, this leg owes its
        // own, and is lost in time.
        let heard = flow.authority as u32 == side as u32;
        let lost = (heard && (!unasked || goes_on)) || (!unasked && flow.has(Flow::RETURNING));
        // What takes up an offer waits for the other leg's word ([`super::offer`]).
        if lost && !flow.has(Flow::OFFERED) {
            make_opaque(flow, terms, step);
        }
    }
    let now = flow.leg(side).answered;
    note_body(flow, side, seg, bound, step);
    note_heads(flow, side, seg, [before, now], step);
    Read::Done
}
