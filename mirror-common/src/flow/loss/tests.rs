//! When a leg is late.

use super::*;

/// A flow whose shadow owes a byte that the primary has acknowledged, since `behind_since`.
fn behind(behind_since: u32) -> Flow {
    let mut flow = Flow { client_next: 10, state: flow_state::OPEN, ..Flow::default() };
    for side in Side::BOTH {
        let leg = flow.leg_mut(side);
        leg.state = leg_state::OPEN;
        leg.acked = 10;
    }
    let shadow = flow.leg_mut(Side::Shadow);
    (shadow.acked, shadow.mark, shadow.behind_since) = (9, 10, behind_since);
    flow
}

/// T4, C8: a clock that another CPU read later is no time gone by.
#[test]
fn a_leg_is_late_when_its_budget_is_over_and_not_by_another_cpus_later_clock() {
    assert!(late(&mut behind(1_000), Side::Shadow, 1_500, 500));
    assert!(!late(&mut behind(1_001), Side::Shadow, 1_500, 500));
    assert!(!late(&mut behind(1_501), Side::Shadow, 1_500, 500));
}

/// T36: the shadow answers, and has been silent for the stall budget.
fn silent() -> Flow {
    let mut flow = behind(0);
    (flow.authority, flow.client_window, flow.turns) = (Side::Shadow as u8, 1, 1);
    for leg in &mut flow.legs {
        (leg.acked, leg.mark, leg.answered, leg.heard_ms) = (10, 0, 1, 1_000);
    }
    flow
}

/// It is late where the client waits for anything of it, and could take it.
#[test]
fn an_answering_leg_is_late_when_it_is_silent_and_its_client_waits() {
    let late = |change: &dyn Fn(&mut Flow), now_ms| {
        let mut flow = silent();
        change(&mut flow);
        late(&mut flow, Side::Shadow, now_ms, 500)
    };
    let waits: [&dyn Fn(&mut Flow); 3] =
        [&|flow| flow.view_next = 1, &|flow| flow.legs[1].answered = 0, &|flow| flow.legs[1].parse.at = 1];
    assert!(!late(&|_| {}, 1_500), "nothing is owed");
    for wait in waits {
        assert!(late(wait, 1_500) && !late(wait, 1_499));
        let shut = |flow: &mut Flow| {
            wait(flow);
            flow.client_window = 0;
        };
        assert!(!late(&shut, 1_500), "its client takes nothing");
    }
    let opaque = |flow: &mut Flow| {
        flow.set(Flow::OPAQUE, true);
        flow.legs[1].answered = 0;
    };
    assert!(!late(&opaque, 1_500), "what can't be told apart isn't counted");
}

/// An answer that nobody hears: by the other leg's, where that is under way, too, this one isn't late.
#[test]
fn a_mirror_in_the_middle_of_an_answer_is_late_unless_the_other_one_is_there_too() {
    let mut flow = Flow { authority: Side::Primary as u8, ..silent() };
    flow.legs[1].parse.at = 1;
    assert!(late(&mut flow.clone(), Side::Shadow, 1_500, 500));
    flow.legs[0].parse.at = 1;
    assert!(!late(&mut flow, Side::Shadow, 1_500, 500));
}

/// What the other one has closed without an answer is owed all the same; who is no farther back is at no fault.
#[test]
fn a_leg_is_behind_by_its_own_fault() {
    let mut flow = Flow { authority: Side::Primary as u8, ..silent() };
    for leg in &mut flow.legs {
        leg.answered = 0;
    }
    assert!(!late(&mut flow, Side::Shadow, 2_000, 500) && flow.legs[1].behind_since == 0, "both owe it");
    flow.legs[0].flags = Leg::FIN;
    assert!(!late(&mut flow, Side::Shadow, 2_000, 500), "the clock begins");
    assert_eq!((flow.legs[1].behind_since, flow.legs[1].mark_turn), (2_000, 1));
    assert!(late(&mut flow, Side::Shadow, 2_500, 500));
    let mut both = behind(1_000);
    both.legs[0].acked = 9;
    assert!(!late(&mut both, Side::Shadow, 1_500, 500), "the primary is as far back");
}

/// An answer that goes on when the other leg's is over: the shadow's, which nobody hears.
fn dragging() -> Flow {
    let mut flow = Flow { authority: Side::Primary as u8, ..silent() };
    let shadow = flow.leg_mut(Side::Shadow);
    (shadow.sent_max, shadow.parse.at, shadow.mark_turn) = (100, 200, 1);
    flow
}

/// Whether it is lost at a time in milliseconds; its server is heard all the while.
fn drags_at(flow: &mut Flow, now_ms: u32) -> bool {
    flow.leg_mut(Side::Shadow).heard_ms = now_ms;
    late(flow, Side::Shadow, now_ms, 500)
}

/// Its clock begins when it is first seen so, whatever turn was marked before, and with each answer anew: a mirror of which
/// every answer takes nine seconds keeps up.
#[test]
fn an_answer_that_nobody_hears_has_its_time_from_the_others_end_on() {
    let mut flow = dragging();
    assert!(!drags_at(&mut flow, 50_000), "the clock begins");
    assert!(!drags_at(&mut flow, 59_999));
    assert!(drags_at(&mut flow, 60_000));
    let mut next = dragging();
    drags_at(&mut next, 50_000);
    for leg in &mut next.legs {
        leg.answered = 2;
    }
    next.turns = 2;
    assert!(!drags_at(&mut next, 59_999) && !drags_at(&mut next, 69_998));
    assert!(drags_at(&mut next, 69_999));
}

/// One that the client hears, or waits for, may take as long as it does; and of what can't be told apart no end is known.
#[test]
fn an_answer_that_is_waited_for_has_no_time() {
    let lost = |change: &dyn Fn(&mut Flow)| {
        let mut flow = dragging();
        change(&mut flow);
        drags_at(&mut flow, 50_000);
        drags_at(&mut flow, 60_000)
    };
    assert!(lost(&|_| {}));
    assert!(!lost(&|flow| flow.authority = Side::Shadow as u8), "the client hears it");
    assert!(!lost(&|flow| flow.set(Flow::RETURNING, true)), "the client waits for it");
    assert!(!lost(&|flow| flow.set(Flow::OPAQUE, true)));
}
