//! The servers of a side that has several: who takes new connections, and since when.

use std::net::SocketAddr;

use mirror_common::{abi::backend::MAX_BACKENDS, switch_word::Side};
use mirror_control::backends::{Health, taking};

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

/// A side's servers; none where it has one alone.
#[derive(Clone, Debug, Default)]
pub struct Backends(pub Vec<Backend>);

impl Backends {
    /// Which take new connections, in their order.
    pub fn taking(&self) -> Vec<bool> {
        taking(&self.0.iter().map(|backend| backend.health).collect::<Vec<_>>())
    }

    /// The same as bits, by their numbers; 0: the side has one server alone.
    pub fn takes(&self) -> u32 {
        let taking = self.0.iter().zip(self.taking()).filter(|(_, takes)| *takes);
        taking.fold(0, |bits, (backend, _)| bits | 1 << backend.number)
    }

    /// Whether the side has a server that is well; nothing where it has one alone, which others ask.
    pub fn any_is_well(&self) -> Option<bool> {
        (!self.0.is_empty()).then(|| self.0.iter().any(|backend| backend.health.is_well()))
    }

    /// As `status` shows them. `legs`: those that are open, by the servers' numbers.
    pub fn status(&self, legs: &[u32; MAX_BACKENDS]) -> Vec<ServerStatus> {
        let one = |(backend, takes): (&Backend, bool)| ServerStatus {
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
    /// A side's servers were checked, in their order. Says what has changed.
    pub fn checked(&mut self, side: Side, well: &[bool]) {
        let backends = &mut self.backends[side as usize];
        let any_was = backends.any_is_well();
        let mut changed = Vec::new();
        for (backend, well) in backends.0.iter_mut().zip(well) {
            if backend.health.checked(*well) {
                backend.since_ns = monotonic_ns();
                changed.push((backend.address, *well));
            }
        }
        let any_is = backends.any_is_well();
        for (address, well) in changed {
            let what = if well { "is well again" } else { "isn't well" };
            self.say_backend(side, format!("{}'s server {address} {what}", side.name()), well);
        }
        if any_was != any_is && any_is == Some(false) {
            let what = format!("none of the {}'s servers is well: each is tried", side.name());
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
        state.backends[1] = Backends(vec![backend(0), backend(3)]);
        state
    }

    #[test]
    fn a_server_that_fails_its_checks_is_said_once_and_takes_no_connections() {
        let mut state = state();
        assert_eq!((state.backends[1].takes(), state.backends[0].takes()), (0b1001, 0));
        let mut checked = |_| {
            state.checked(Side::Shadow, &[true, false]);
            state.backends[1].takes()
        };
        assert_eq!([0; 4].map(&mut checked), [0b1001, 0b1001, 0b1, 0b1]);
        assert_eq!(state.notices, ["shadow's server 10.0.3.5:80 isn't well"]);
        assert_eq!(state.backends[1].any_is_well(), Some(true));
        let mut legs = [0; MAX_BACKENDS];
        (legs[0], legs[1], legs[3]) = (4, 7, 5);
        let shown = state.backends[1].status(&legs);
        let shown: Vec<_> = shown.iter().map(|one| (one.takes, one.connections)).collect();
        assert_eq!(shown, [(true, 4), (false, 5)]);
    }

    #[test]
    fn where_none_is_well_each_is_tried_and_that_is_said() {
        let mut state = state();
        (0..4).for_each(|_| state.checked(Side::Shadow, &[false, false]));
        assert_eq!((state.backends[1].takes(), state.backends[1].any_is_well()), (0b1001, Some(false)));
        let said = state.notices.iter().filter(|line| line.contains("none of the shadow's servers"));
        assert_eq!(said.count(), 1, "{:?}", state.notices);
        assert_eq!(state.backends[0].any_is_well(), None);
        (0..2).for_each(|_| state.checked(Side::Shadow, &[true, false]));
        assert_eq!(state.backends[1].takes(), 0b1, "the one that is well takes all");
    }
}
