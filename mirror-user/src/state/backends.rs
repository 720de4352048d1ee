//! The application's services, and each side's servers of each: who takes new connections, and since when.

use std::net::SocketAddr;

use mirror_common::{abi::backend::MAX_BACKENDS, switch_word::Side};
use mirror_control::{
    backends::{Health, taking},
    request_limit::RequestLimit,
    restart::Losses,
};

use super::State;
use crate::{
    api::ServerStatus,
    events::{Kind, Told},
    words::monotonic_ns,
};

/// One server.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Where it is.
    pub address: SocketAddr,
    /// How its checks have come out.
    pub health: Health,
    /// Its number in its pool ([`mirror_common::abi::backend`]).
    pub number: u32,
    /// Since when that is so, in nanoseconds of the monotonic clock.
    pub since_ns: u64,
}

/// How many requests a side's servers of a service answer on one connection, as they have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundLimit {
    /// The service's number.
    pub service: u32,
    /// Whose servers.
    pub side: Side,
    /// The limit.
    pub requests: u32,
}

/// One service. An application's are in the policy's order: that is their number in the datapath.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// What it is called, where it is called anything.
    pub name: Option<String>,
    /// By side: its servers, where there is more than one to be told apart.
    pub backends: [Backends; 2],
    /// By side: legs that were lost.
    pub losses: [Losses; 2],
    /// By side: how many requests its servers answer on a connection, where the policy doesn't say it.
    pub limits: [Option<RequestLimit>; 2],
}

impl Served {
    /// One whose legs go to so many ports.
    pub fn new(name: Option<&str>, backends: [Backends; 2], ports: usize) -> Self {
        let losses = [Losses::of(ports), Losses::of(ports)];
        Self { name: name.map(Into::into), backends, losses, limits: [None; 2] }
    }

    /// The same whose servers' limits of requests are found out, by side.
    #[must_use]
    pub fn with_unknown_limits(self, unknown: [bool; 2]) -> Self {
        Self { limits: unknown.map(|unknown| unknown.then(RequestLimit::default)), ..self }
    }

    /// Of which service something is, in words: nothing, or ` of api`.
    pub(super) fn of(&self) -> String {
        self.name.as_ref().map(|name| format!(" of {name}")).unwrap_or_default()
    }
}

/// A side's servers of a service; none where it is the only one.
#[derive(Clone, Debug, Default)]
pub struct Backends(pub Vec<Backend>);

impl Backends {
    /// Which take new connections, in their order.
    pub fn taking(&self) -> Vec<bool> {
        taking(&self.0.iter().map(|backend| backend.health).collect::<Vec<_>>())
    }

    /// The same as bits, by their numbers; 0: there is one server alone.
    pub fn takes(&self) -> u32 {
        let taking = self.0.iter().zip(self.taking()).filter(|(_, takes)| *takes);
        taking.fold(0, |bits, (backend, _)| bits | 1 << backend.number)
    }

    /// Whether there is a server that is well; nothing where others ask.
    pub fn any_is_well(&self) -> Option<bool> {
        (!self.0.is_empty()).then(|| self.0.iter().any(|backend| backend.health.is_well()))
    }

    /// They were checked, in their order. Gives those for which that has changed something, and whether they are well now.
    pub fn checked(&mut self, well: &[bool]) -> Vec<(SocketAddr, bool)> {
        let mut changed = Vec::new();
        for (backend, well) in self.0.iter_mut().zip(well) {
            if backend.health.checked(*well) {
                backend.since_ns = monotonic_ns();
                changed.push((backend.address, *well));
            }
        }
        changed
    }

    /// As `status` shows them. `legs`: those that are open, by the servers' numbers.
    fn status(&self, service: &Option<String>, legs: &[u32; MAX_BACKENDS]) -> Vec<ServerStatus> {
        let one = |(backend, takes): (&Backend, bool)| ServerStatus {
            service: service.clone(),
            address: backend.address,
            well: backend.health.is_well(),
            takes,
            since: monotonic_ns().saturating_sub(backend.since_ns) as f64 / 1e9,
            connections: legs.get(backend.number as usize).copied().unwrap_or(0),
        };
        self.0.iter().zip(self.taking()).map(one).collect()
    }
}

impl State {
    /// A side's servers, as `status` shows them.
    pub fn servers(&self, side: Side) -> Vec<ServerStatus> {
        let of = |(served, legs): (&Served, &[[u32; MAX_BACKENDS]; 2])| {
            served.backends[side as usize].status(&served.name, &legs[side as usize])
        };
        self.served.iter().zip(&self.swept.legs).flat_map(of).collect()
    }

    /// Of each service that has several servers on a side whether one is well.
    pub fn any_are_well(&self, side: Side) -> impl Iterator<Item = bool> {
        let several = self.served.iter().map(move |served| &served.backends[side as usize]);
        several.filter(|backends| backends.0.len() > 1).filter_map(Backends::any_is_well)
    }

    /// By service: which of a side's servers take new connections, as bits by their numbers.
    pub(super) fn takes(&self, side: Side) -> Vec<u32> {
        self.served.iter().map(|served| served.backends[side as usize].takes()).collect()
    }

    /// A side's servers of a service, by its number, were checked, in their order. Says what has changed.
    pub fn checked(&mut self, service: usize, side: Side, well: &[bool]) {
        let Some(served) = self.served.get_mut(service) else { return };
        let of = served.of();
        let backends = &mut served.backends[side as usize];
        let any_was = backends.any_is_well();
        let changed = backends.checked(well);
        let any_is = backends.any_is_well();
        let alone = backends.0.len() == 1;
        for (address, well) in changed {
            let what = if well { "is well again" } else { "isn't well" };
            self.say_backend(side, format!("{}'s server {address}{of} {what}", side.name()), well);
        }
        if any_was != any_is && any_is == Some(false) && !alone {
            let what = format!("none of the {}'s servers{of} is well: each is tried", side.name());
            self.say_backend(side, what, false);
        }
    }

    fn say_backend(&mut self, side: Side, line: String, well: bool) {
        let cause = Some(if well { "well" } else { "unwell" }.to_owned());
        let told = Told { cause, side: Some(side.name().into()), ..Told::reason(&line) };
        self.events.tell(Kind::Server, told);
        self.say(line);
    }
}

#[cfg(test)]
mod tests {
    use mirror_common::{
        abi::{App, Event, EventKind},
        flow::LossReason,
        switch_word::SwitchWord,
    };
    use mirror_control::breaker::BreakerPolicy;

    use super::*;

    fn refused(slot: u32, number: u32) -> Event {
        let (kind, reason) = (EventKind::LegLost as u32, LossReason::Refused as u32);
        Event { at: monotonic_ns(), kind, slot, side: 1 | number << 8, reason, ..Event::default() }
    }

    #[test]
    fn one_server_that_loses_its_legs_is_no_restart_of_its_side_and_all_of_them_are() {
        let mut state = state();
        let word = SwitchWord::initial().with_member(Side::Shadow, true);
        state.follow(word);
        (0..4).for_each(|slot| state.note(&refused(slot, 3)));
        assert_eq!(state.unfit(word, false), None, "server 0 goes on");
        state.note(&refused(4, 0));
        assert_eq!(state.unfit(word, false).map(|(_, reason)| reason), Some(App::RESTARTED));
    }

    fn state() -> State {
        let mut state = State::new(SwitchWord::initial(), (0, 0), BreakerPolicy::default());
        let backend = |number: u32| Backend {
            address: SocketAddr::from(([10, 0, 3, 2 + number as u8], 80)),
            health: Health::found(true),
            number,
            since_ns: 0,
        };
        let backends = [Backends::default(), Backends(vec![backend(0), backend(3)])];
        state.serves(vec![Served::new(None, backends, 1)]);
        state
    }

    fn takes(state: &State) -> [u32; 2] {
        Side::BOTH.map(|side| state.takes(side)[0])
    }

    fn any_is_well(state: &State, side: Side) -> Option<bool> {
        state.any_are_well(side).next()
    }

    #[test]
    fn a_server_that_fails_its_checks_is_said_once_and_takes_no_connections() {
        let mut state = state();
        assert_eq!(takes(&state), [0, 0b1001]);
        let mut checked = |_| {
            state.checked(0, Side::Shadow, &[true, false]);
            takes(&state)[1]
        };
        assert_eq!([0; 4].map(&mut checked), [0b1001, 0b1001, 0b1, 0b1]);
        assert_eq!(state.notices, ["shadow's server 10.0.3.5:80 isn't well"]);
        assert_eq!(any_is_well(&state, Side::Shadow), Some(true));
        let legs = &mut state.swept.legs[0][1];
        (legs[0], legs[1], legs[3]) = (4, 7, 5);
        let shown = state.servers(Side::Shadow);
        let shown: Vec<_> = shown.iter().map(|one| (one.takes, one.connections)).collect();
        assert_eq!(shown, [(true, 4), (false, 5)]);
    }

    #[test]
    fn where_none_is_well_each_is_tried_and_that_is_said() {
        let mut state = state();
        (0..4).for_each(|_| state.checked(0, Side::Shadow, &[false, false]));
        assert_eq!((takes(&state)[1], any_is_well(&state, Side::Shadow)), (0b1001, Some(false)));
        let said = state.notices.iter().filter(|line| line.contains("none of the shadow's servers"));
        assert_eq!(said.count(), 1, "{:?}", state.notices);
        assert_eq!(any_is_well(&state, Side::Primary), None);
        (0..2).for_each(|_| state.checked(0, Side::Shadow, &[true, false]));
        assert_eq!(takes(&state)[1], 0b1, "the one that is well takes all");
    }

    /// Two services with two servers each, whose numbers are the same.
    fn two() -> State {
        let mut state = state();
        let backends = || [Backends::default(), state.served[0].backends[1].clone()];
        let served = ["web", "api"].map(|name| Served::new(Some(name), backends(), 1));
        state.serves(served.into());
        state
    }

    fn of_service(event: Event, service: u32) -> Event {
        Event { side: event.side | service << 12, ..event }
    }

    #[test]
    fn legs_that_a_service_loses_are_not_taken_for_anothers() {
        let mut state = two();
        let word = SwitchWord::initial().with_member(Side::Shadow, true);
        state.follow(word);
        // Each service loses all legs of one of its two servers.
        (0..4).for_each(|slot| state.note(&of_service(refused(slot, 3), 0)));
        (4..8).for_each(|slot| state.note(&of_service(refused(slot, 0), 1)));
        assert_eq!(state.unfit(word, false), None, "a server of each goes on");
        state.note(&of_service(refused(8, 3), 1));
        let (next, reason) = state.unfit(word, false).unwrap();
        assert_eq!((reason, next.member(Side::Shadow)), (App::RESTARTED, false));
        state.follow(next);
        let said = &state.sides[1].reason;
        assert!(said.contains("5 of 5 legs of api"), "{said}");
    }

    #[test]
    fn many_legs_of_another_service_hide_no_restart() {
        let mut state = two();
        let word = SwitchWord::initial().with_member(Side::Shadow, true);
        state.follow(word);
        let mut swept = crate::datapath::Swept::default();
        (swept.legs[0][1][0], swept.legs[1][1][0]) = (1_000, 2);
        state.swept(swept, std::time::Duration::ZERO);
        (0..2).for_each(|slot| state.note(&of_service(refused(slot, 0), 1)));
        assert_eq!(state.unfit(word, false), None, "its other server may go on");
        state.note(&of_service(refused(0, 3), 1));
        assert_eq!(state.unfit(word, false).map(|(_, reason)| reason), Some(App::RESTARTED));
    }

    #[test]
    fn a_services_servers_are_checked_and_said_apart_from_anothers() {
        let mut state = two();
        (0..3).for_each(|_| state.checked(1, Side::Shadow, &[false, false]));
        assert_eq!(state.takes(Side::Shadow), [0b1001, 0b1001]);
        assert_eq!(state.any_are_well(Side::Shadow).collect::<Vec<_>>(), [true, false]);
        let last = state.notices.back().unwrap();
        assert_eq!(last, "none of the shadow's servers of api is well: each is tried");
        let shown: Vec<_> =
            state.servers(Side::Shadow).into_iter().map(|one| (one.service, one.well)).collect();
        let of = |name: &str, well| (Some(name.to_owned()), well);
        assert_eq!(shown, [of("web", true), of("web", true), of("api", false), of("api", false)]);
    }
}
