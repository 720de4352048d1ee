//! Questions whose answers are awaited: what there is of a service of datagrams instead of connections.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use mirror_common::{
    abi::{
        maps,
        six::{self, BESIDE},
        udp::{Exchange, ExchangeKey},
    },
    datagram::TIMEOUT_NS,
    switch_word::Side,
};

use super::{Debt, Outside};
use crate::{
    api::{FlowStatus, LegStatus},
    words::monotonic_ns,
};

/// A hash that changes while it is read is begun anew where a key was that is gone: no more of it is read than this often as much
/// as it has room for.
const ROUNDS: usize = 2;

/// Calls `take` with each exchange that is kept, and when it was read (nanoseconds of the datapath's clock). Of those that come
/// and go meanwhile one may be missed, or come twice.
pub(super) fn each(pins: &Path, mut take: impl FnMut(ExchangeKey, Exchange, u64)) -> Result<()> {
    let data = MapData::from_pin(pins.join(maps::EXCHANGES)).context("can't open the pinned exchanges")?;
    let room = data.info()?.max_entries() as usize;
    let kept: HashMap<_, ExchangeKey, Exchange> = HashMap::try_from(Map::HashMap(data))?;
    for entry in kept.iter().take(ROUNDS * room) {
        let (key, exchange) = entry?;
        take(key, exchange, monotonic_ns());
    }
    Ok(())
}

/// Who asks. `socket`: an address and a port, as they lie in a record, outside.
pub(super) fn client(key: &ExchangeKey, socket: &dyn Fn(u32, u16) -> SocketAddr) -> SocketAddr {
    match key.client.saddr {
        BESIDE => SocketAddr::new(six::address(key.six).into(), u16::from_be(key.client.sport)),
        addr => socket(addr, key.client.sport),
    }
}

/// How long ago it was asked, in nanoseconds. Another CPU's clock may be ahead.
fn age_ns(exchange: &Exchange, now_ns: u64) -> u64 {
    u64::try_from(now_ns.wrapping_sub(exchange.asked_ns) as i64).unwrap_or(0)
}

/// What a side's server owes: an answer, as long as anybody waits for one.
pub(super) fn debt(exchange: &Exchange, side: Side, now_ns: u64) -> Debt {
    let age = age_ns(exchange, now_ns);
    match exchange.owes(side) && age < TIMEOUT_NS {
        true => {
            Debt { bytes: 0, answers: 1, age_ms: u32::try_from(age / 1_000_000).unwrap_or(u32::MAX).max(1) }
        }
        false => Debt::default(),
    }
}

/// A question as a person reads it, at a time of the datapath's clock.
pub(super) fn describe(
    key: &ExchangeKey,
    exchange: &Exchange,
    outside: &Outside<'_>,
    now_ns: u64,
    debts: &[Debt; 2],
) -> FlowStatus {
    let age = age_ns(exchange, now_ns) as f64 / 1e9;
    let owed = debts.iter().any(|debt| debt.answers > 0);
    let leg = |side: Side| {
        let (answered, debt) = (exchange.answered(side), debts[side as usize]);
        let state = match (exchange.asked(side), answered, debt.answers) {
            (false, ..) => "none",
            (true, 0, 0) => "unanswered",
            (true, 0, _) => "asked",
            (true, ..) => "answered",
        };
        LegStatus {
            state: state.into(),
            port: exchange.ports[side as usize],
            server: None,
            answered,
            owed_bytes: debt.bytes,
            owed_answers: debt.answers,
            behind_ms: debt.age_ms,
        }
    };
    FlowStatus {
        client: client(key, outside.socket).to_string(),
        service: (outside.socket)(key.client.daddr, key.client.dport).to_string(),
        service_name: None,
        protocol: "udp".into(),
        message: (key.id != 0).then_some(key.id),
        state: if owed { "asked" } else { "over" }.into(),
        authority: Side::from_bit(exchange.heard.into()).name().into(),
        turns: 1,
        writes_open: owed && exchange.flags & Exchange::WRITES != 0,
        incomplete: false,
        held: false,
        opaque: false,
        age,
        idle: age,
        primary: leg(Side::Primary),
        shadow: leg(Side::Shadow),
    }
}

#[cfg(test)]
mod tests {
    use mirror_common::abi::Tuple;

    use super::*;

    const ASKED: u64 = 7_000_000_000;

    fn key() -> ExchangeKey {
        let client = Tuple {
            saddr: u32::from_ne_bytes([10, 0, 1, 2]),
            daddr: u32::from_ne_bytes([10, 77, 1, 1]),
            sport: 40_000_u16.to_be(),
            dport: 53_u16.to_be(),
        };
        ExchangeKey::new(client, Default::default(), 4_711)
    }

    fn seen(key: &ExchangeKey, exchange: &Exchange, after_ms: u64) -> FlowStatus {
        let now = ASKED + after_ms * 1_000_000;
        let debts = Side::BOTH.map(|side| debt(exchange, side, now));
        let plain = |addr: u32, port: u16| SocketAddr::from((addr.to_ne_bytes(), u16::from_be(port)));
        describe(key, exchange, &Outside { socket: &plain, server: &|_, _| None }, now, &debts)
    }

    #[test]
    fn a_question_says_who_is_heard_and_who_owes_its_answer() {
        let heard = Side::Shadow as u8;
        let mut exchange = Exchange { asked_ns: ASKED, ports: [5_000, 6_000], heard, ..Exchange::default() };
        exchange.flags = Exchange::WRITES;
        exchange.answers += Exchange::answer_of(Side::Primary);
        let shown = seen(&key(), &exchange, 340);
        assert_eq!((shown.client.as_str(), shown.service.as_str()), ("10.0.1.2:40000", "10.77.1.1:53"));
        assert_eq!((shown.protocol.as_str(), shown.message), ("udp", Some(4_711)));
        assert_eq!((shown.state.as_str(), shown.authority.as_str()), ("asked", "shadow"));
        assert!(shown.writes_open && (shown.age - 0.34).abs() < 1e-9);
        let leg = |leg: &LegStatus| (leg.state.clone(), leg.port, leg.owed_answers, leg.behind_ms);
        assert_eq!(leg(&shown.primary), ("answered".into(), 5_000, 0, 0));
        assert_eq!(leg(&shown.shadow), ("asked".into(), 6_000, 1, 340));
        let shown = seen(&key(), &exchange, 5_000);
        assert_eq!((shown.state.as_str(), shown.writes_open), ("over", false), "nobody waits any more");
        assert_eq!(leg(&shown.shadow), ("unanswered".into(), 6_000, 0, 0));
        exchange.ports[1] = 0;
        assert_eq!(leg(&seen(&key(), &exchange, 1).shadow), ("none".into(), 0, 0, 0));
    }

    #[test]
    fn a_client_of_ipv6_stands_beside_its_key() {
        let address: std::net::Ipv6Addr = "2001:db8:1::2".parse().unwrap();
        let mut key = key();
        (key.client.saddr, key.six, key.id) = (BESIDE, six::words(address), 0);
        let shown = seen(&key, &Exchange { asked_ns: ASKED + 5, ..Exchange::default() }, 0);
        assert_eq!((shown.client.as_str(), shown.message), ("[2001:db8:1::2]:40000", None));
        assert_eq!(shown.age, 0.0, "another CPU's clock is ahead");
    }
}
