use super::*;
use mirror_control::breaker::Standing;

fn lost(slot: u32, reason: LossReason) -> Event {
    let kind = EventKind::LegLost as u32;
    Event { at: monotonic_ns(), kind, slot, side: 1, reason: reason as u32, ..Event::default() }
}

fn twenty() -> BreakerPolicy {
    BreakerPolicy { lost_legs: 20, ..BreakerPolicy::default() }
}

fn mirrored() -> (State, SwitchWord) {
    let word = SwitchWord::initial().with_member(Side::Shadow, true);
    (State::new(word, (0, 0), twenty()), word)
}

#[test]
fn many_refusals_at_once_put_the_shadow_out_and_say_why() {
    let (mut state, word) = mirrored();
    for slot in 0..4 {
        state.note(&lost(slot, LossReason::Refused));
    }
    let (next, why) = state.unfit(word, false).unwrap();
    assert_eq!(why, App::RESTARTED);
    assert!(!next.member(Side::Shadow) && next.member(Side::Primary));
    state.follow(next);
    assert!(state.sides[1].reason.contains("4 of 4 legs"), "{}", state.sides[1].reason);
    state.follow(next.with_member(Side::Shadow, true));
    assert_eq!(state.unfit(word, false), None, "a side that has joined again starts anew");
}

/// A mirror's server closes behind as many requests again and again, as it says: it is to get no more on a connection.
#[test]
fn a_limit_of_requests_is_found_where_the_policy_says_none() {
    let (mut state, _) = mirrored();
    let close = || {
        let event = lost(0, LossReason::Closed);
        Event { side: event.side | Event::with_answered(1_000), ..event }
    };
    (0..4).for_each(|_| state.note(&close()));
    assert_eq!(state.limits_found(), [], "the policy says it");
    state.serves(vec![Served::default().with_unknown_limits([false, true])]);
    (0..4).for_each(|_| state.note(&close()));
    let found = FoundLimit { service: 0, side: Side::Shadow, requests: 1_000 };
    assert_eq!((state.limits_found(), state.limits_found()), (vec![found], vec![]));
    state.limited(&found);
    let said = state.notices.back().unwrap();
    assert!(said.starts_with("the shadow closes connections behind 1000 requests"), "{said}");
    assert_eq!(close().answered(), 1_000);
    assert_eq!(Event { side: Event::with_answered(u32::MAX), ..close() }.answered(), 65_535);
}

#[test]
fn connections_that_are_not_taken_are_counted_and_are_no_restart() {
    let (mut state, word) = mirrored();
    for slot in 0..4 {
        state.note(&Event { side: 0, ..lost(slot, LossReason::NotTaken) });
    }
    (0..3).for_each(|_| state.note(&lost(9, LossReason::Refused)));
    let mut silent = lost(8, LossReason::Stalled);
    state.note(&silent);
    assert_eq!(state.not_taken(), [4, 1], "an open leg fell silent");
    silent.reason |= u32::from(LossReason::NEVER_OPEN);
    (0..3).for_each(|_| state.note(&silent));
    state.note(&Event { kind: EventKind::LegOpen as u32, ..lost(9, LossReason::Closed) });
    state.note(&lost(9, LossReason::Refused));
    assert_eq!(state.not_taken(), [4, 3]);
    assert_eq!(state.unfit(word.with_authority(Side::Shadow), false), None, "it has lost no leg");
}

#[test]
fn questions_that_a_side_leaves_unanswered_open_its_breaker_and_are_no_restart() {
    let (mut state, word) = mirrored();
    let unanswered = Event {
        reason: LossReason::Unanswered as u32 | u32::from(LossReason::FAILED),
        ..lost(0, LossReason::Unanswered)
    };
    for n in 0..20 {
        assert_eq!(state.unfit(word, false), None, "after {n}");
        state.note(&unanswered);
    }
    assert_eq!(state.unfit(word, false).map(|(_, why)| why), Some(App::TRIPPED));
    assert_eq!(state.legs_lost, [0, 20]);
}

#[test]
fn an_event_behind_the_word_still_tells_why() {
    let (mut state, word) = mirrored();
    state.follow(word.with_member(Side::Shadow, false));
    let kind = EventKind::OutOfSync as u32;
    state.note(&Event { kind, side: 1, reason: LossReason::Stalled as u32, ..Event::default() });
    assert!(state.sides[1].reason.contains("fell silent"), "{}", state.sides[1].reason);
}

#[test]
fn moves_are_counted_by_how_they_ended() {
    let (mut state, _) = mirrored();
    state.moved(Move::Join, false, &Ok(()));
    state.moved::<()>(Move::Join, false, &Err(Refusal::UnderWay.into()));
    state.moved::<()>(Move::Cutover, false, &Err(anyhow::anyhow!("too late")));
    state.moved::<()>(Move::Cutover, false, &Err(anyhow::anyhow!("too late")));
    let moves: Vec<_> = state.moves.clone().into_iter().collect();
    assert_eq!(moves, [(("cutover", "aborted"), 2), (("join", "done"), 1), (("join", "refused"), 1)]);
    state.moved(Move::Cutover, true, &Ok(()));
    assert_eq!(state.moves.get(&("rehearsal", "done")), Some(&1));
    assert_eq!(state.moves.get(&("cutover", "done")), None, "a rehearsal is no cutover");
}

#[test]
fn closes_at_idle_are_no_restart_and_the_authority_never_falls_out() {
    let (mut state, word) = mirrored();
    for slot in 0..100 {
        state.note(&lost(slot, LossReason::Closed));
        state.note(&lost(slot, LossReason::Stalled));
    }
    assert_eq!(state.unfit(word, false), None);
    for slot in 0..100 {
        state.note(&lost(slot, LossReason::Refused));
    }
    assert_eq!(state.unfit(word.with_authority(Side::Shadow), false), None);
}

fn failed(slot: u32, side: Side) -> Event {
    let event = lost(slot, LossReason::Reset);
    Event { side: side as u32, reason: event.reason | u32::from(LossReason::FAILED), ..event }
}

#[test]
fn a_mirror_that_loses_leg_after_leg_is_put_out_on_either_side_and_says_why() {
    for mirror in Side::BOTH {
        let word = SwitchWord::initial().with_member(Side::Shadow, true).with_authority(mirror.other());
        let mut state = State::new(word, (0, 0), twenty());
        for _ in 0..19 {
            state.note(&failed(7, mirror));
        }
        assert_eq!(state.unfit(word, true), None, "19 of 20");
        state.note(&failed(7, mirror));
        let (next, reason) = state.unfit(word, true).unwrap();
        assert_eq!((next.member(mirror), next.authority(), reason), (false, mirror.other(), App::TRIPPED));
        state.put_out(mirror, reason);
        state.follow(next);
        let standing = &state.sides[mirror as usize];
        assert!(standing.reason.contains("20 within 10 s"), "{}", standing.reason);
        assert_eq!(state.trips[mirror as usize], 1);
        assert_eq!(state.breakers[mirror as usize].standing(), Standing::Open);
        assert_eq!(state.breakers[mirror.other() as usize].standing(), Standing::Closed);
        // What comes of its last legs counts for nothing.
        state.note(&failed(7, mirror));
        state.probed(mirror, true);
        assert_eq!(state.breakers[mirror as usize].standing(), Standing::HalfOpen);
        state.follow(next.with_member(mirror, true));
        assert_eq!(state.unfit(word, true), None);
    }
}

#[test]
fn legs_that_end_well_open_no_breaker_and_nor_does_the_authority() {
    let (mut state, word) = mirrored();
    for slot in 0..100 {
        state.note(&lost(slot, LossReason::Closed));
        state.note(&failed(slot, Side::Primary));
    }
    assert_eq!(state.unfit(word, true), None);
}

#[test]
fn a_daemon_that_comes_back_knows_who_fell_out_and_who_was_let_go() {
    let alone = SwitchWord::initial();
    let found = |at, reason| State::new(alone, (at, reason), twenty()).breakers;
    assert_eq!(found(5, App::TRIPPED)[1].standing(), Standing::Open);
    for on_purpose in [App::RELEASED, App::REJOINING] {
        assert_eq!(found(5, on_purpose)[1].standing(), Standing::Closed);
    }
    assert_eq!(found(0, 0)[1].standing(), Standing::Closed, "it has never joined");
    assert_eq!(found(5, App::TRIPPED)[0].standing(), Standing::Closed);
    let (mut state, word) = mirrored();
    let over = word.with_authority(Side::Shadow);
    state.released(over.out_of_sync(Side::Primary).unwrap());
    assert_eq!(state.breakers[0].standing(), Standing::Closed);
    assert!(state.sides[0].reason.contains("no more"), "{}", state.sides[0].reason);
}

#[test]
fn what_is_put_out_to_be_joined_again_opens_no_breaker_and_what_falls_out_meanwhile_does() {
    let (mut state, word) = mirrored();
    let out = word.out_of_sync(Side::Shadow).unwrap();
    state.puts_out(App::REJOINING);
    state.follow(out);
    assert_eq!(
        (state.sides[1].reason.as_str(), state.sides[1].in_sync),
        ("put out to be joined again", false)
    );
    assert_eq!(state.breakers[1].standing(), Standing::Closed);
    state.follow(word);
    state.puts_out(App::REJOINING);
    state.keeps();
    let kind = EventKind::OutOfSync as u32;
    state.note(&Event { kind, side: 1, reason: LossReason::Stalled as u32, ..Event::default() });
    state.keeps();
    state.follow(out);
    assert!(state.sides[1].reason.contains("fell silent"), "{}", state.sides[1].reason);
    assert_eq!(state.breakers[1].standing(), Standing::Open);
}
