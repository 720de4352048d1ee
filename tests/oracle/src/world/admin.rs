//! What an operator, the daemon and misfortune do to the world: moves, weights, faults.

use mirror_common::{
    flow::{flow_state, leg_state, sweep},
    switch_word::{Side, SwitchWord},
};
use mirror_control::moves::{Move, Plan, plan, weigh};

use super::packet::leg_tuple;
use super::server::Mood;
use super::{Event, World};

/// A freeze's deadline, in microseconds.
const FREEZE: u64 = 750_000;
/// Between two looks of a daemon that waits, in microseconds.
const LOOK: u64 = 100;

/// What happened, for a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sides taken in.
    pub joins: u64,
    /// Authority to the shadow.
    pub cutovers: u64,
    /// And back.
    pub rollbacks: u64,
    /// Moves that came to nothing.
    pub aborted: u64,
    /// Of them: by a deadline that the datapath kept.
    pub thawed: u64,
    /// Weights.
    pub weights: u64,
    /// Killed, stopped, silent, refusing or slow servers.
    pub faults: u64,
    /// Sides that fell out of sync.
    pub out_of_sync: u64,
    /// Of them: where the bytes of the flow's legs show no write that was owed (looked at where no head is split).
    pub unowed: u64,
}

impl Counts {
    /// Takes another world's in.
    pub fn add(&mut self, other: &Counts) {
        self.joins += other.joins;
        self.cutovers += other.cutovers;
        self.rollbacks += other.rollbacks;
        self.aborted += other.aborted;
        self.thawed += other.thawed;
        self.weights += other.weights;
        self.faults += other.faults;
        self.out_of_sync += other.out_of_sync;
        self.unowed += other.unowed;
    }
}

struct Moving {
    wanted: Move,
    plan: Plan,
    frozen: SwitchWord,
    deadline: u64,
    /// The join hook is at work until then.
    hook: Option<u64>,
    /// When what waits for its client is ended.
    break_off: Option<u64>,
}

/// The state of all that.
#[derive(Default)]
pub struct Admin {
    moving: Option<Moving>,
    /// The side that misbehaves, and until when.
    fault: Option<(Side, u64)>,
    /// What happened.
    pub counts: Counts,
}

/// The world begins: mostly with both sides in sync.
pub fn begin(world: &mut World) {
    if world.rng.u32(..4) > 0 {
        let word = world.gateway.application.word;
        if let Ok(plan) = plan(word, Move::Join) {
            let _ = world.gateway.application.swap(word, plan.done, world.now);
        }
    }
    habits(world);
    if world.settings.moves || world.settings.faults {
        world.push(world.now + 1_000, Event::Admin);
    }
}

/// A mirror may close connections as it likes; an authority's close would be the client's.
fn habits(world: &mut World) {
    let authority = world.gateway.application.word.authority();
    let (closes, idle) = (world.settings.shadow_closes, world.settings.shadow_idle);
    let free = authority == Side::Primary && world.admin.moving.is_none();
    let mood = &mut world.servers[1].mood;
    mood.closes = if free { closes } else { 0 };
    mood.idle = if free { idle } else { 0 };
}

/// Something happens.
pub fn act(world: &mut World) {
    let gap = [2_000, 20_000, 200_000][world.rng.usize(..3)];
    let next = world.now + world.rng.u64(100..gap);
    world.push(next, Event::Admin);
    if let Some((_, until)) = world.admin.fault
        && world.now >= until
    {
        end_fault(world);
    }
    if world.calm {
        return;
    }
    let word = world.gateway.application.word;
    let other = word.authority().other();
    if world.admin.moving.is_some() {
        return;
    }
    match world.rng.u32(..8) {
        0..3 if world.settings.moves && word.member(other) => {
            let weight = [0, 2_500, 5_000, 10_000][world.rng.usize(..4)];
            if let Ok(next) = weigh(word, weight) {
                let _ = world.gateway.application.swap(word, next, world.now);
                world.admin.counts.weights += 1;
                world.note(|_| format!("weight {weight}"));
            }
        }
        3 if world.settings.faults && world.admin.fault.is_none() => misbehave(world, other),
        4 if world.settings.moves
            && word.member(other)
            && world.admin.fault.is_none()
            && healthy(world, other) =>
        {
            start(world, if other == Side::Shadow { Move::Cutover } else { Move::Rollback });
        }
        5 if !word.member(other) && world.admin.fault.is_none() => start(world, Move::Join),
        _ => {}
    }
}

/// Whether each leg that the gateway takes for open is so at its server: else what the side owes for its past would be
/// taken for the move's fault.
fn healthy(world: &World, side: Side) -> bool {
    world.gateway.flows.iter().all(|flow| {
        let leg = flow.leg(side);
        if !matches!(flow.state, flow_state::OPENING | flow_state::OPEN) || leg.state != leg_state::OPEN {
            return true;
        }
        world.servers[side as usize].lives(&leg_tuple(side, leg.port))
    })
}

fn misbehave(world: &mut World, side: Side) {
    let until = world.now + world.rng.u64(1_000..2_000_000);
    let kind = world.rng.u32(..6);
    let server = &mut world.servers[side as usize];
    let mut to = Vec::new();
    let mut mood = server.mood;
    match kind {
        0 => server.restart(false, &mut to),
        1 => {
            server.restart(false, &mut to);
            mood.refuses = true;
        }
        2 => mood.silent = true,
        3 => mood.stopped = true,
        4 => mood.slow = 700_000,
        _ => server.restart(true, &mut to),
    }
    server.mood = mood;
    world.admin.fault = Some((side, until));
    world.admin.counts.faults += 1;
    world.note(|_| format!("the {} misbehaves: {kind}, {mood:?}", side.name()));
    world.after_server(side as usize, to);
}

/// Who misbehaved behaves.
pub fn end_fault(world: &mut World) {
    let Some((side, _)) = world.admin.fault.take() else { return };
    let server = &mut world.servers[side as usize];
    server.mood = Mood::default();
    habits(world);
    world.note(|_| format!("the {} behaves again", side.name()));
    let mut to = Vec::new();
    world.servers[side as usize].tick(world.now, &world.settings, &mut world.rng, &mut to);
    world.after_server(side as usize, to);
}

fn start(world: &mut World, wanted: Move) {
    let word = world.gateway.application.word;
    let Ok(planned) = plan(word, wanted) else { return };
    let deadline = world.now + if wanted == Move::Join { 10_000_000 } else { FREEZE };
    let app = &mut world.gateway.application.app;
    app.freeze_deadline = deadline * 1_000;
    app.freeze_epoch = word.epoch().wrapping_add(1);
    app.thaw_state = planned.thawed.state();
    let Some(frozen) = world.gateway.application.swap(word, planned.frozen, world.now) else { return };
    world.note(|_| format!("{wanted:?}: frozen"));
    let half = world.now + (deadline - world.now) / 2;
    let break_off = Some(half).filter(|_| world.settings.breaks_off);
    world.admin.moving = Some(Moving { wanted, plan: planned, frozen, deadline, hook: None, break_off });
    habits(world);
    world.push(world.now, Event::Move);
}

/// A daemon that waits looks again.
pub fn go_on(world: &mut World) {
    let Some(mut moving) = world.admin.moving.take() else { return };
    let sleepy = world.rng.u32(..2_000) == 0;
    let again = world.now + if sleepy { FREEZE } else { LOOK };
    let other = moving.frozen.authority().other();
    if moving.break_off.take_if(|at| *at <= world.now).is_some() {
        world.sweep(sweep::BREAK_OFF);
    }
    let drained = world.gateway.application.app.open_writes == 0;
    let late = world.now >= moving.deadline;
    if moving.hook.is_none() && !drained && !late {
        world.admin.moving = Some(moving);
        world.push(again, Event::Move);
        return;
    }
    if moving.wanted == Move::Join && drained && moving.hook.is_none() {
        let at = world.now + world.rng.u64(..20_000);
        moving.hook = Some(at);
        world.admin.moving = Some(moving);
        world.push(at, Event::Move);
        return;
    }
    let mut done = None;
    if moving.hook.is_some() {
        // A server with the other's state, begun anew.
        let from = &world.servers[other.other() as usize];
        let (lists, log) = (from.lists.clone(), from.log.clone());
        let silently = world.rng.bool();
        let mut to = Vec::new();
        (world.servers[other as usize].lists, world.servers[other as usize].log) = (lists, log);
        world.servers[other as usize].restart(silently, &mut to);
        world.after_server(other as usize, to);
    }
    if drained || moving.hook.is_some() {
        done = world.gateway.application.swap(moving.frozen, moving.plan.done, world.now);
    }
    let counts = &mut world.admin.counts;
    match (&done, moving.wanted) {
        (Some(_), Move::Join) => counts.joins += 1,
        (Some(_), Move::Cutover) => counts.cutovers += 1,
        (Some(_), Move::Rollback) => counts.rollbacks += 1,
        (None, _) => {
            counts.aborted += 1;
            let _ = world.gateway.application.swap(moving.frozen, moving.plan.thawed, world.now);
        }
    }
    counts.thawed = world.gateway.application.thawed;
    world.note(|_| format!("{:?}: {done:?}", moving.wanted));
    if done.is_some() {
        let (a, b) = (&world.servers[0].lists, &world.servers[1].lists);
        if let Some(key) = a.keys().chain(b.keys()).find(|key| a.get(key) != b.get(key)) {
            let (a, b) = (a.get(key).map(|(_, ids)| ids), b.get(key).map(|(_, ids)| ids));
            let wanted = moving.wanted;
            let rule =
                format!("{wanted:?} with no open write, and the list {key} is {a:?} here, {b:?} there");
            world.violate(rule);
        }
    }
    habits(world);
    world.holder.thaw();
    world.schedule_hold(world.now + 20);
}

/// A side fell out of sync.
pub fn fell_out(world: &mut World, side: Side, slot: Option<u32>) {
    world.admin.counts.out_of_sync += 1;
    world.note(|_| format!("the {} is out of sync", side.name()));
    // A request whose head is split counts as a write until it is known: only where none is can this be told.
    let whole = world.settings.pieces == 1 && world.settings.pipeline == 1 && world.settings.mss[0] >= 536;
    if let Some(slot) = slot
        && whole
        && !world.judge.may_owe(slot)
    {
        world.admin.counts.unowed += 1;
        world.note(|_| "and no write was owed".into());
    }
}
