//! What is said of a world from the outside: by its clients, and by its servers' lists at the end.

use std::collections::BTreeSet;

use mirror_common::{
    abi::Tuple,
    flow::{Flow, flow_state},
    switch_word::Side,
};

use super::{
    World,
    client::Told,
    order::{self, Write},
    packet::CLIENTS,
};

impl World {
    /// All has been answered: who is in sync has each write exactly once, in order.
    pub(super) fn settle(&mut self) {
        // What is known to nobody but a client that has vanished, and that is lost on its way, no server gives up.
        let waits = |flow: &&Flow| {
            let vanished = || {
                let client = &self.clients[(flow.tuple.saddr - CLIENTS) as usize];
                client.has_vanished(flow.tuple.sport)
            };
            // Of one that its client broke off behind a hole in its chunks nobody knows whether it was whole.
            let whole = !flow.parse.scanner.until_close();
            flow.state != flow_state::FREE && flow.has(Flow::COUNTED) && whole && !vanished()
        };
        let open = self.gateway.flows.iter().filter(waits).count();
        if open != 0 {
            self.violate(format!("{open} writes are counted as open when all are answered"));
        }
        let lagging = self.gateway.application.lags[0].lagging;
        if lagging != 0 {
            self.violate(format!("{lagging} connections are counted as lagging when all is answered"));
        }
        let word = self.gateway.application.word;
        for side in Side::BOTH {
            if word.member(side)
                && let Some(rule) = self.list_is_wrong(side).or_else(|| self.order_is_wrong(side))
            {
                self.violate(rule);
            }
        }
    }

    /// Two writes of any connections that a side did in another order than the one that a client may rely on.
    fn order_is_wrong(&self, side: Side) -> Option<String> {
        if !self.settings.ordered {
            return None;
        }
        let (first, second) = order::overtaken(&self.writes, &self.servers[side as usize].log)?;
        let name = side.name();
        Some(format!(
            "the {name} has done {second:?} before {first:?}, which was answered before that was asked"
        ))
    }

    /// A list of a side that isn't what the clients were told.
    fn list_is_wrong(&self, side: Side) -> Option<String> {
        let none = Vec::new();
        let lists = &self.servers[side as usize].lists;
        let authority = &self.servers[self.gateway.application.word.authority() as usize].lists;
        let mut keys: BTreeSet<u64> = lists.keys().copied().collect();
        keys.extend(self.clients.iter().flat_map(|client| client.appended.keys().copied()));
        keys.into_iter().find_map(|key| {
            let client = &self.clients[(key >> 16) as usize];
            let has = lists.get(&key).map_or(&none, |(_, ids)| ids);
            let owed = client.appended.get(&key).unwrap_or(&none);
            let more = client.unsure.get(&key).unwrap_or(&none);
            // What a broken connection left may have been done; if so, on both sides.
            let same = authority.get(&key).map_or(&none, |(_, ids)| ids) == has;
            let right = has.strip_prefix(&owed[..]).is_some_and(|rest| more.starts_with(rest)) && same;
            let name = side.name();
            (!right).then(|| format!("the {name} is in sync, and its list {key} is {has:?}, not {owed:?}"))
        })
    }

    /// Judges what a client says.
    pub(super) fn hear(&mut self, told: Told) {
        let application = &self.gateway.application;
        match told {
            Told::Answered { side, append: Some(append), since } => {
                self.writes.push(Write { append, asked: since, answered: self.now });
                if application.flipped <= since && side != application.word.authority() {
                    self.violate(format!(
                        "a write was answered by the {}, which isn't the authority",
                        side.name()
                    ));
                }
            }
            Told::Answered { side, append: None, since } => {
                if !application.word.member(side) && application.member_until[side as usize] < since {
                    self.violate(format!("a read was answered by the {}, which is out of sync", side.name()));
                }
            }
            Told::Failed { tuple, how, lost, writes, asked } => {
                self.failed(&tuple, how, lost, &writes, asked)
            }
            Told::Wrong(rule) => self.violate(rule),
        }
    }

    fn failed(&mut self, tuple: &Tuple, how: &str, lost: usize, writes: &[u64], asked: u64) {
        if self.mid_answer.remove(&(tuple.saddr, tuple.sport)) && how == "reset" {
            self.failed_mid_answer += 1;
            return;
        }
        // A request that met the close of an idle connection: so would any server's client without a gateway (RFC 9112, 9.6).
        if self.idled.remove(&(tuple.saddr, tuple.sport)) && how == "closed" {
            return;
        }
        // Requests sent ahead behind an answer that announces the close: their client sends them again, and may, for nobody
        // does them, which `settle` sees to (RFC 9112, 9.6). The gateway keeps that from the client where it knows the server's
        // limit; not where the turn began while its server still had the authority, whose close is the client's.
        let unforeseen = !self.settings.limit_known || asked <= self.gateway.application.flipped;
        if how == "closed as announced" && unforeseen {
            return;
        }
        let port = u16::from_be(tuple.sport);
        let client = tuple.saddr;
        self.violate(format!("client{client}'s {port} was {how} with {lost} unanswered, writes {writes:?}"));
    }
}
