//! Datagrams as they pass by: which a shadow could have answered, by the datapath's own reading of them.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use mirror_common::{
    abi::Service,
    datagram::{self, DNS_HEADER, Message, TIMEOUT_NS},
    protocol::Class,
};

use super::tally::{Kept, Observed};
use crate::policy::Datagrams;

/// Questions that are followed at once.
const MAX_OPEN: usize = 65_536;
/// A question is unanswered after so long.
const TIMEOUT: Duration = Duration::from_nanos(TIMEOUT_NS);
/// One that is seen again so soon passed two devices: no client asks again before an answer can have come.
const SAME: Duration = Duration::from_millis(5);

/// A client's questions by their identifiers; of a service without those by 0.
type Key = (SocketAddr, u16);

/// Those whose answers are awaited.
#[derive(Debug)]
pub(super) struct Questions {
    service: Service,
    open: HashMap<Key, Instant>,
}

impl Questions {
    pub(super) fn new(datagrams: Datagrams) -> Self {
        let service = Service { flags: datagrams.flags(), ..Service::default() };
        Self { service, open: HashMap::new() }
    }

    /// A client's datagram; `None`: in fragments, so that nobody reads it.
    pub(super) fn ask(
        &mut self,
        client: SocketAddr,
        payload: Option<&[u8]>,
        now: Instant,
        seen: &mut Observed,
    ) {
        let Some(payload) = payload else { return seen.keep(Kept::Fragments, 1) };
        let question = datagram::question(&self.service, message(payload));
        let key = (client, question.id);
        let asked = self.open.get(&key).map(|asked| now.duration_since(*asked));
        if datagram::is_dns(&self.service) && asked.is_some_and(|age| age < SAME) {
            return;
        }
        let waits = asked.is_some_and(|age| age < TIMEOUT);
        match (question.class, waits) {
            (Class::Read, false) => seen.shift(),
            (Class::Read, true) => seen.keep(Kept::AskedAgain, 1),
            (Class::Write | Class::Session, _) => seen.writes(1),
        }
        if asked.is_some() || self.make_room(now, seen) {
            self.open.insert(key, now);
        } else {
            seen.connections.not_followed += 1;
        }
    }

    /// A server's datagram.
    pub(super) fn answer(&mut self, client: SocketAddr, payload: &[u8]) {
        let message = message(payload);
        let id = if datagram::is_dns(&self.service) { message.id } else { 0 };
        if datagram::answers(&self.service, id, message) {
            self.open.remove(&(client, id));
        }
    }

    /// Forgets what isn't answered any more. Of other messages than DNS' nobody knows whether an answer is due.
    pub(super) fn lapse(&mut self, now: Instant, seen: &mut Observed) {
        let before = self.open.len();
        self.open.retain(|_, asked| now.duration_since(*asked) < TIMEOUT);
        if datagram::is_dns(&self.service) {
            seen.unanswered += (before - self.open.len()) as u64;
        }
    }

    fn make_room(&mut self, now: Instant, seen: &mut Observed) -> bool {
        if self.open.len() >= MAX_OPEN {
            self.lapse(now, seen);
        }
        self.open.len() < MAX_OPEN
    }
}

/// As the datapath reads it.
fn message(payload: &[u8]) -> Message {
    match payload {
        [a, b, c, d, ..] if payload.len() >= DNS_HEADER as usize => {
            Message { id: u16::from_be_bytes([*a, *b]), flags: u16::from_be_bytes([*c, *d]) }
        }
        _ => Message::NONE,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 2)), 40_000);
    const QUERY: u16 = 0x0100;
    const UPDATE: u16 = 0x2800;
    const RESPONSE: u16 = 0x8000;

    fn dns(id: u16, flags: u16) -> Vec<u8> {
        [&id.to_be_bytes()[..], &flags.to_be_bytes(), &[0; 8]].concat()
    }

    fn counts(seen: &Observed) -> (u64, u64, u64) {
        let again = seen.kept.get(&Kept::AskedAgain).copied().unwrap_or_default();
        assert_eq!(seen.requests, seen.shiftable + seen.writes + seen.kept.values().sum::<u64>());
        (seen.shiftable, seen.writes, again)
    }

    #[test]
    fn a_query_could_be_shifted_unless_it_is_asked_again_and_an_update_is_a_write() {
        let (mut questions, mut seen) = (Questions::new(Datagrams::Dns), Observed::default());
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        questions.ask(CLIENT, Some(&dns(1, QUERY)), at(0), &mut seen);
        questions.ask(CLIENT, Some(&dns(1, QUERY)), at(1), &mut seen);
        assert_eq!(counts(&seen), (1, 0, 0), "it passed two devices");
        questions.ask(CLIENT, Some(&dns(1, QUERY)), at(1_000), &mut seen);
        questions.ask(CLIENT, Some(&dns(2, QUERY)), at(1_000), &mut seen);
        assert_eq!(counts(&seen), (2, 0, 1));
        questions.answer(CLIENT, &dns(1, QUERY));
        questions.ask(CLIENT, Some(&dns(1, QUERY)), at(1_100), &mut seen);
        assert_eq!(counts(&seen), (2, 0, 2), "what is no response answers nothing");
        questions.answer(CLIENT, &dns(1, RESPONSE));
        questions.ask(CLIENT, Some(&dns(1, QUERY)), at(1_200), &mut seen);
        questions.ask(CLIENT, Some(&dns(3, UPDATE)), at(1_200), &mut seen);
        questions.ask(CLIENT, Some(b"short"), at(1_200), &mut seen);
        questions.ask(CLIENT, None, at(1_200), &mut seen);
        assert_eq!(counts(&seen), (3, 2, 2));
        assert_eq!(seen.kept[&Kept::Fragments], 1);
        questions.lapse(at(6_100), &mut seen);
        assert_eq!(seen.unanswered, 1, "2");
        questions.ask(CLIENT, Some(&dns(2, QUERY)), at(6_100), &mut seen);
        assert_eq!(counts(&seen), (4, 2, 2), "nobody waits any more");
    }

    #[test]
    fn what_has_no_identifiers_is_what_the_policy_says_and_a_client_has_one_at_a_time() {
        let now = Instant::now();
        for (datagrams, expected) in [(Datagrams::Reads, (2, 0, 1)), (Datagrams::Writes, (0, 3, 0))] {
            let (mut questions, mut seen) = (Questions::new(datagrams), Observed::default());
            questions.ask(CLIENT, Some(b"a"), now, &mut seen);
            questions.ask(CLIENT, Some(b"b"), now, &mut seen);
            questions.answer(CLIENT, b"c");
            questions.ask(CLIENT, Some(b"d"), now, &mut seen);
            assert_eq!(counts(&seen), expected);
            questions.lapse(now + TIMEOUT, &mut seen);
            assert_eq!(seen.unanswered, 0, "nobody knows");
        }
    }
}
