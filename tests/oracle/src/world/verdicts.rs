//! What is said of a world from the outside: by its clients, and by its servers' lists at the end.

use mirror_common::{abi::Tuple, switch_word::Side};

use super::{World, client::Told};

impl World {
    /// All has been answered: who is in sync has each write exactly once, in order.
    pub(super) fn settle(&mut self) {
        let open = self.gateway.application.app.open_writes;
        if open != 0 {
            self.violate(format!("{open} writes are counted as open when all are answered"));
        }
        let word = self.gateway.application.word;
        for side in Side::BOTH {
            if !word.member(side) {
                continue;
            }
            for n in 0..self.clients.len() {
                let client = &self.clients[n];
                let has = self.servers[side as usize].lists.get(&client.key).map(|(_, ids)| ids.clone());
                let has = has.unwrap_or_default();
                if has != client.appended {
                    let first = has.iter().zip(&client.appended).position(|(a, b)| a != b);
                    let first = first.unwrap_or_else(|| has.len().min(client.appended.len()));
                    let rule = format!(
                        "the {} is in sync, and its list {} differs from entry {first} on: {:?}, not {:?}",
                        side.name(),
                        client.key,
                        has.get(first..).map(|ids| &ids[..ids.len().min(3)]),
                        client.appended.get(first..).map(|ids| &ids[..ids.len().min(3)])
                    );
                    self.violate(rule);
                }
            }
        }
    }

    /// Judges what a client says.
    pub(super) fn hear(&mut self, told: Told) {
        let application = &self.gateway.application;
        match told {
            Told::Answered { side, write: true, since } => {
                if application.flipped <= since && side != application.word.authority() {
                    self.violate(format!(
                        "a write was answered by the {}, which isn't the authority",
                        side.name()
                    ));
                }
            }
            Told::Answered { side, write: false, since } => {
                if !application.word.member(side) && application.member_until[side as usize] < since {
                    self.violate(format!("a read was answered by the {}, which is out of sync", side.name()));
                }
            }
            Told::Failed { tuple, how, lost, writes } => self.failed(&tuple, how, lost, writes),
            Told::Wrong(rule) => self.violate(rule),
        }
    }

    fn failed(&mut self, tuple: &Tuple, how: &str, lost: usize, writes: bool) {
        let mid_answer = self.mid_answer.remove(&(tuple.saddr, tuple.sport));
        if mid_answer && how == "reset" && !writes && lost == 1 {
            self.failed_mid_answer += 1;
            return;
        }
        let kind = if writes { "writes among them" } else { "all reads" };
        let port = u16::from_be(tuple.sport);
        self.violate(format!(
            "client{}'s connection from {port} was {how} with {lost} unanswered, {kind}",
            tuple.saddr
        ));
    }
}
