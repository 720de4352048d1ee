//! The machine against a simulated application, with crashes at every step.

use mirror_common::switch_word::{Phase, Side, SwitchWord};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    evidence::{Finding, Metric, Progress},
    moves::{plan as plan_move, weigh},
    precondition::{Precondition, Standing},
};

fn progress() -> Progress {
    Progress { have: 10_000, need: 5_000, evidence: [Some(9.0); 4], threshold: 5.0 }
}

fn worse(gross: bool) -> Verdict {
    let (primary, shadow) = (0.0, 0.01);
    Verdict::Worse(Finding {
        metric: Metric::Errors,
        evidence: 20.0,
        threshold: 7.0,
        primary,
        allowed: primary,
        shadow,
        samples: 900,
        gross,
    })
}

/// Small times, so that much happens.
fn quick() -> Plan {
    let weight = WeightPolicy {
        steps: vec![1_000, 5_000, 10_000],
        dwell_seconds: 2.0,
        dark_seconds: 3.0,
        cool_down_seconds: 4.0,
        max_attempts: 3,
    };
    let moves = MovePolicy {
        attempts: 3,
        retry_seconds: 2.0,
        standby_seconds: 5.0,
        unhealthy_seconds: 2.0,
        availability_first: false,
    };
    Plan { weight, moves, cutover_by_itself: true, ..Plan::default() }
}

/// The application: its word, and what becomes of what the machine asks for.
struct World {
    word: SwitchWord,
    state: State,
    plan: Plan,
    /// Stages that were entered, in order.
    path: Vec<Stage>,
    judged: Option<Verdict>,
    shortfall: Option<Shortfall>,
    healthy: [Option<bool>; 2],
    capacity: [Option<Capacity>; 2],
    unsettled: Option<Result<Unsettled, String>>,
    divergence: Option<Differing>,
    /// Moves fail.
    jammed: bool,
}

impl World {
    fn new(plan: Plan) -> Self {
        let state = State::new(&plan);
        let path = vec![state.stage];
        let judged = Some(Verdict::NoWorse(progress()));
        World {
            word: SwitchWord::initial(),
            state,
            plan,
            path,
            judged,
            shortfall: None,
            healthy: [Some(true); 2],
            capacity: [None, None],
            unsettled: None,
            divergence: None,
            jammed: false,
        }
    }

    /// One event; its actions are carried out unless the daemon dies first. Returns why.
    fn event(&mut self, event: Event, dies: bool) -> Why {
        let before = self.word;
        let (state, actions, why) = step(&self.plan, self.state.clone(), event);
        // What the journal keeps is what comes back.
        self.state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        if self.path.last() != Some(&state.stage) {
            self.path.push(state.stage);
        }
        let worse = matches!(self.judged, Some(Verdict::Worse(_)));
        for action in actions {
            if dies {
                return why;
            }
            match action {
                Action::Weigh(share) => {
                    assert!(!worse || share <= before.weight(), "{share} though it is worse");
                    if let Ok(word) = weigh(self.word, share) {
                        self.word = word;
                    }
                }
                Action::Make(made) => self.make(made),
                Action::Rescue => self.make(Move::Rollback),
                Action::Release => {
                    assert_eq!(self.word.authority(), Side::Shadow);
                    self.word = self.word.with_member(Side::Primary, false);
                }
                Action::TakeIn => {
                    assert!(self.plan.moves.availability_first && self.healthy[1] == Some(false));
                    self.word = plan_move(self.word, Move::Join).unwrap().done;
                }
                Action::BeginStep | Action::NewJudge => {}
            }
        }
        why
    }

    fn make(&mut self, made: Move) {
        if made == Move::Cutover {
            assert_eq!((self.word.weight(), self.word.member(Side::Shadow)), (10_000, true));
        }
        let result = match plan_move(self.word, made) {
            Ok(_) if self.jammed => Err("jammed".to_owned()),
            Ok(planned) => {
                self.word = planned.done;
                Ok(())
            }
            Err(refused) => Err(refused.to_string()),
        };
        self.event(Event::Moved(made, result), false);
    }

    fn seen(&self) -> Seen {
        Seen {
            seconds: 1.0,
            word: self.word,
            verdict: self.judged.clone(),
            shortfall: self.shortfall,
            healthy: self.healthy,
            capacity: self.capacity.clone(),
            unsettled: self.unsettled.clone(),
            divergence: self.divergence,
        }
    }

    fn tick(&mut self) -> Why {
        let seen = self.seen();
        self.event(Event::Tick(Box::new(seen)), false)
    }

    fn until(&mut self, stage: Stage) {
        for _ in 0..200 {
            if self.state.stage == stage {
                return;
            }
            self.tick();
        }
        panic!("not {stage:?}: {:?}", self.path);
    }
}

#[test]
fn a_good_shadow_goes_all_the_way() {
    let mut world = World::new(quick());
    world.until(Stage::Finalized);
    let path = [
        Stage::Joining,
        Stage::Mirroring,
        Stage::Shifting,
        Stage::Ready,
        Stage::CuttingOver,
        Stage::Standby,
        Stage::Finalized,
    ];
    assert_eq!(world.path, path);
    assert_eq!((world.word.authority(), world.word.member(Side::Primary)), (Side::Shadow, false));
}

#[test]
fn a_worse_shadow_gets_no_reads_and_stops_after_its_attempts() {
    let mut world = World::new(quick());
    world.until(Stage::Shifting);
    world.judged = Some(worse(true));
    world.tick();
    assert_eq!((world.word.weight(), world.state.stage), (0, Stage::Mirroring));
    for _ in 0..40 {
        world.tick();
    }
    assert!(world.state.weight.stopped);
    world.judged = Some(Verdict::NoWorse(progress()));
    for _ in 0..40 {
        world.tick();
    }
    assert_eq!(world.word.weight(), 0, "an operator has to look first");
    world.event(Event::Asked(Command::Resume, "ann".into()), false);
    world.until(Stage::Standby);
}

#[test]
fn a_shadow_that_falls_out_of_sync_joins_again_and_rests_and_that_is_a_step_back() {
    let mut world = World::new(quick());
    world.until(Stage::Shifting);
    world.word = world.word.out_of_sync(Side::Shadow).unwrap();
    world.tick();
    assert_eq!((world.state.stage, world.state.weight.attempts), (Stage::Joining, 1));
    world.until(Stage::Mirroring);
    world.tick();
    assert_eq!((world.word.member(Side::Shadow), world.word.weight()), (true, 0));
    world.until(Stage::Standby);
}

#[test]
fn a_shadow_that_is_not_well_is_not_joined_before_it_is() {
    let mut world = World::new(quick());
    world.healthy[Side::Shadow as usize] = Some(false);
    for _ in 0..40 {
        assert_eq!(world.tick(), Why::Unwell);
    }
    assert_eq!(
        (world.state.stage, world.state.failed_joins),
        (Stage::Joining, 0),
        "and that is no failed join"
    );
    world.healthy[Side::Shadow as usize] = Some(true);
    world.until(Stage::Mirroring);
}

#[test]
fn without_a_past_to_judge_by_nothing_moves() {
    let mut world = World::new(quick());
    world.judged = None;
    for _ in 0..50 {
        world.tick();
    }
    assert_eq!((world.tick(), world.state.stage), (Why::Learning, Stage::Mirroring));
    assert_eq!(world.word.weight(), 0);
}

#[test]
fn behind_the_cutover_a_dead_or_worse_authority_is_rolled_back_by_itself() {
    for trouble in [Some(worse(true)), None] {
        let mut world = World::new(quick());
        world.until(Stage::Standby);
        match trouble {
            Some(verdict) => world.judged = Some(verdict),
            None => world.healthy[1] = Some(false),
        }
        world.until(Stage::RolledBack);
        assert_eq!((world.word.authority(), world.word.phase()), (Side::Primary, Phase::RolledBack));
    }
}

/// A server that takes connections and answers nothing is healthy, makes no errors, and would never finish its writes.
#[test]
fn an_authority_that_leaves_requests_unanswered_isnt_waited_for() {
    let mut world = World::new(quick());
    world.shortfall = Some(Shortfall { usual: 900.0, answered: 3.0, unanswered: 60.0, seconds: 10.0 });
    world.until(Stage::Standby);
    world.capacity[0] = Some(Capacity::of("cores", 2.5, 2.0));
    world.jammed = true;
    let why = world.tick();
    assert_eq!((why.name(), world.state.stage), ("shortfall".into(), Stage::RollingBack));
    // Those who waited have been sent away, and more come: it doesn't show at every tick.
    world.shortfall = None;
    let (_, actions, _) = step(&world.plan, world.state.clone(), Event::Tick(Box::new(world.seen())));
    assert_eq!(actions, [Action::Rescue]);
    world.jammed = false;
    world.until(Stage::RolledBack);
}

/// C5: no rollback to it.
#[test]
fn a_standby_that_is_out_of_sync_gets_nothing_by_itself() {
    let mut world = World::new(quick());
    world.until(Stage::Standby);
    world.word = world.word.with_member(Side::Primary, false);
    world.healthy[1] = Some(false);
    world.tick();
    assert_eq!((world.tick(), world.state.stage), (Why::NoWayBack, Stage::Standby));
    assert_eq!(world.word.authority(), Side::Shadow);
}

/// C5: unless the policy puts availability first, and then from a dead authority alone, to a primary that is well.
#[test]
fn where_availability_comes_first_a_primary_that_lacks_writes_takes_over_from_the_dead() {
    let moves = MovePolicy { availability_first: true, ..quick().moves };
    let mut world = World::new(Plan { moves, ..quick() });
    world.until(Stage::Standby);
    world.word = world.word.with_member(Side::Primary, false);
    world.judged = Some(worse(true));
    assert_eq!(world.tick(), Why::NoWayBack, "worse isn't dead");
    world.judged = None;
    world.healthy = [Some(false); 2];
    let last = (0..9).map(|_| world.tick()).last();
    assert_eq!(last, Some(Why::NoWayBack), "the primary is no better");
    world.healthy[0] = Some(true);
    assert!(matches!(world.tick(), Why::AvailabilityFirst(_)));
    assert_eq!((world.word.authority(), world.state.stage), (Side::Shadow, Stage::Standby), "not at once");
    world.until(Stage::RolledBack);
    assert_eq!(world.word.authority(), Side::Primary);
}

#[test]
fn a_rollback_that_fails_is_tried_at_every_tick() {
    let mut world = World::new(quick());
    world.until(Stage::Standby);
    world.healthy[1] = Some(false);
    world.jammed = true;
    for _ in 0..9 {
        world.tick();
    }
    assert_eq!(world.state.stage, Stage::RollingBack);
    world.jammed = false;
    world.until(Stage::RolledBack);
}

#[test]
fn joins_that_fail_end_it() {
    let mut world = World::new(quick());
    world.jammed = true;
    world.until(Stage::Aborted);
    assert_eq!(world.state.failed_joins, 3);
}

#[test]
fn an_operator_makes_the_cutover_where_the_plan_says_so() {
    let mut world = World::new(Plan { cutover_by_itself: false, ..quick() });
    world.until(Stage::Ready);
    assert_eq!(world.tick(), Why::AwaitsOperator);
    world.event(Event::Asked(Command::Cutover, "ann".into()), false);
    world.event(Event::Asked(Command::Withdraw, "ann".into()), false);
    assert_eq!(world.tick(), Why::AwaitsOperator, "what was withdrawn isn't made");
    world.event(Event::Asked(Command::Cutover, "ann".into()), false);
    world.until(Stage::Standby);
}

#[test]
fn paused_nothing_goes_forward_and_the_way_back_stays_open() {
    let mut world = World::new(quick());
    world.until(Stage::Shifting);
    world.event(Event::Asked(Command::Pause, "ann".into()), false);
    let weight = world.word.weight();
    for _ in 0..40 {
        world.tick();
    }
    assert_eq!(world.word.weight(), weight);
    world.judged = Some(worse(true));
    world.tick();
    assert_eq!(world.word.weight(), 0);
}

#[test]
fn a_cutover_waits_until_both_sides_carry_what_is_forecast() {
    let short = Some(Capacity::of("cores", 2.5, 2.0));
    let unknown = Some(Capacity::Unknown("4 more samples".into()));
    for side in Side::BOTH {
        for lacking in [&short, &unknown] {
            let mut world = World::new(quick());
            world.capacity = [Some(Capacity::Enough), Some(Capacity::Enough)];
            world.capacity[side as usize] = lacking.clone();
            world.until(Stage::Ready);
            for _ in 0..50 {
                let why = world.tick().to_string();
                assert!(why.starts_with(&format!("the {}'s capacity: ", side.name())), "{why}");
            }
            assert_eq!(world.word.authority(), Side::Primary);
            world.capacity[side as usize] = Some(Capacity::Enough);
            world.until(Stage::Standby);
        }
    }
}

#[test]
fn a_cutover_waits_for_what_stands_still_and_for_answers_that_differ_and_says_so() {
    let still = Ok(Unsettled { unanswered: 1, named: vec!["10.0.1.2:99".into()], ..Unsettled::default() });
    let mut world = World::new(quick());
    world.unsettled = Some(still);
    world.until(Stage::Ready);
    for _ in 0..50 {
        let why = world.tick();
        assert!(why.to_string().ends_with("10.0.1.2:99"), "{why}");
        assert_eq!(why.name(), "settled");
    }
    world.unsettled = Some(Ok(Unsettled::default()));
    for (differ, standing) in [(0, Standing::NotKnown), (9, Standing::NotMet)] {
        world.divergence = Some(Differing { differ, compared: 1_000, bound: 0.001 });
        let why = world.tick();
        let Why::Precondition(check) = &why else { panic!("{why}") };
        assert_eq!((check.precondition, check.standing), (Precondition::Divergence, standing), "{check}");
    }
    assert_eq!(world.word.authority(), Side::Primary);
    world.divergence = Some(Differing { differ: 0, compared: 10_000, bound: 0.001 });
    world.until(Stage::Standby);
}

#[test]
fn what_is_worse_is_not_left_for_a_primary_that_is_too_small_and_what_is_dead_is() {
    let mut world = World::new(quick());
    world.until(Stage::Standby);
    world.capacity[Side::Primary as usize] = Some(Capacity::of("cores", 2.5, 2.0));
    world.judged = Some(worse(true));
    assert!(matches!(world.tick(), Why::Capacity(side, _) if side == "primary"));
    assert_eq!(world.state.stage, Stage::Standby);
    world.judged = None;
    world.healthy[Side::Shadow as usize] = Some(false);
    world.until(Stage::RolledBack);
}

#[test]
fn of_two_resources_the_one_in_the_way_is_told() {
    let (enough, short) = (Capacity::of("cores", 2.0, 2.0), Capacity::of("MiB", 9.0, 8.0));
    let unknown = Capacity::Unknown("no source".into());
    assert_eq!(enough.clone().and(short.clone()), short);
    assert_eq!(short.clone().and(enough.clone()), short);
    assert_eq!(unknown.clone().and(short.clone()), short);
    assert_eq!(enough.and(unknown.clone()), unknown);
    assert_eq!(short.to_string(), "too small for what is forecast: 9.00 MiB needed, 8.00 there");
}

/// Whatever happens in whatever order, and wherever the daemon dies: a share is only ever a member's, and the end is an end.
#[test]
fn no_order_of_events_and_crashes_breaks_a_rule() {
    let mut ends = std::collections::BTreeMap::new();
    for seed in 0..if cfg!(debug_assertions) { 2_000 } else { 1_000_000 } {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut world = World::new(Plan { cutover_by_itself: dice.random_bool(0.7), ..quick() });
        for _ in 0..120 {
            chance(&mut world, &mut dice);
            let seen = world.seen();
            world.event(Event::Tick(Box::new(seen)), dice.random_bool(0.1));
            let word = world.word;
            assert!(word.member(word.authority()), "seed {seed}: {:?}", world.path);
            assert!(word.weight() == 0 || word.member(Side::Shadow), "seed {seed}: {:?}", world.path);
            assert!(word.weight() == 10_000 || word.member(Side::Primary), "seed {seed}: {:?}", world.path);
        }
        let stage = world.state.stage;
        let left = [Stage::Finalized, Stage::Standby, Stage::RollingBack].contains(&stage);
        assert!(!stage.is_over() || left == (world.word.authority() == Side::Shadow), "seed {seed}");
        *ends.entry(format!("{stage:?}")).or_insert(0) += 1;
    }
    for end in ["Finalized", "RolledBack", "Aborted"] {
        assert!(ends.contains_key(end), "never {end}: {ends:?}");
    }
}

fn chance(world: &mut World, dice: &mut StdRng) {
    match dice.random_range(0..40) {
        0 => world.judged = Some(worse(dice.random_bool(0.5))),
        1..=4 => world.judged = Some(Verdict::NoWorse(progress())),
        5 => world.judged = Some(Verdict::LowTraffic(progress())),
        6 => world.judged = None,
        7 => {
            let mirror = world.word.authority().other();
            world.word = world.word.out_of_sync(mirror).unwrap_or(world.word);
        }
        8 => world.healthy[usize::from(dice.random_bool(0.5))] = Some(false),
        9 | 10 => world.healthy = [Some(true); 2],
        11 => world.jammed = true,
        12..=14 => world.jammed = false,
        15 => {
            let all =
                [Command::Pause, Command::Abort, Command::Cutover, Command::Withdraw, Command::Finalize];
            let command = all[dice.random_range(0..all.len())];
            world.event(Event::Asked(command, "ann".into()), dice.random_bool(0.1));
        }
        16 | 17 => {
            world.event(Event::Asked(Command::Resume, "ann".into()), false);
        }
        _ => {}
    }
}
