use super::*;
use mirror_common::abi::Tuple;

/// Where all is of IPv4.
fn plain(addr: u32, port: u16) -> SocketAddr {
    SocketAddr::from((addr.to_ne_bytes(), u16::from_be(port)))
}

/// The same, and the shadow has several servers.
const OUTSIDE: Outside<'static> = Outside {
    socket: &plain,
    server: &|flow, side| {
        (side == Side::Shadow).then(|| (u32::from_ne_bytes([10, 0, 3, 2]), flow.tuple.dport))
    },
};

#[test]
fn a_flow_is_described_in_the_clients_terms() {
    let mut flow = Flow {
        tuple: Tuple {
            saddr: u32::from_ne_bytes([10, 0, 1, 2]),
            daddr: u32::from_ne_bytes([10, 77, 1, 1]),
            sport: 40_000_u16.to_be(),
            dport: 8_080_u16.to_be(),
        },
        state: flow_state::OPEN,
        authority: 1,
        flags: Flow::COUNTED,
        client_next: 90,
        turns: 7,
        opened_ms: u32::MAX - 499,
        last_ms: 400,
        ..Flow::default()
    };
    flow.legs[0] = Leg { state: leg_state::OPEN, port: 5_000, answered: 7, acked: 90, ..Leg::default() };
    flow.legs[1] = Leg {
        state: leg_state::DIALLING,
        port: 1 << 16 | 6_000,
        answered: 5,
        acked: 60,
        behind_since: 300,
        ..Leg::default()
    };
    let now = 500_000_000;
    let debts = Side::BOTH.map(|side| debt(&flow, side, side == Side::Primary, now));
    let seen = describe(&flow, &OUTSIDE, now, &debts);
    assert_eq!((seen.client.as_str(), seen.service.as_str()), ("10.0.1.2:40000", "10.77.1.1:8080"));
    assert_eq!((seen.state.as_str(), seen.authority.as_str(), seen.turns), ("open", "shadow", 7));
    assert_eq!((seen.age, seen.idle), (1.0, 0.1), "the clock wraps");
    assert!(seen.writes_open && !seen.held && !seen.opaque);
    let owed = |leg: &LegStatus| (leg.port, leg.owed_bytes, leg.owed_answers, leg.behind_ms);
    assert_eq!(owed(&seen.primary), (5_000, 0, 0, 0));
    assert_eq!((seen.primary.server, seen.shadow.server.as_deref()), (None, Some("10.0.3.2:8080")));
    assert_eq!(seen.shadow.state.as_str(), "dialling");
    assert_eq!(owed(&seen.shadow), (6_000, 30, 2, 200));
}

/// A flow whose shadow owes `bytes` since so many milliseconds of the datapath's clock.
fn indebted(port: u16, bytes: u32, since_ms: u32) -> Flow {
    let tuple = Tuple { sport: port.to_be(), ..Tuple::default() };
    let mut flow = Flow { tuple, state: flow_state::OPEN, client_next: 5, ..Flow::default() };
    let shadow = flow.leg_mut(Side::Shadow);
    (shadow.state, shadow.acked) = (leg_state::OPEN, 5_u32.wrapping_sub(bytes));
    shadow.behind_since = since_ms;
    flow
}

#[test]
fn the_oldest_debt_comes_first_and_of_many_only_so_many_are_kept() {
    let mut worst = Worst::new(3);
    for port in 1..=100 {
        worst.take(indebted(port, 0, 1), Side::Primary, 1_000_000_000);
        assert!(worst.seen.len() <= 6);
    }
    for (port, bytes, since) in [(201, 9, 700), (202, 70_000, 900), (203, 1, 100), (204, 10, 700)] {
        worst.take(indebted(port, bytes, since), Side::Primary, 1_000_000_000);
    }
    let seen: Vec<_> = worst.described(&OUTSIDE).into_iter().map(|flow| (flow.client, flow.shadow)).collect();
    let ages: Vec<_> = seen.iter().map(|(_, shadow)| (shadow.behind_ms, shadow.owed_bytes)).collect();
    assert_eq!(ages, [(900, 1), (300, 10), (300, 9)]);
    assert_eq!(seen[0].0, "0.0.0.0:203", "its numbers wrap");
}

#[test]
fn what_a_move_waits_for_is_said() {
    let mut flow = indebted(40_000, 0, 1);
    flow.set(Flow::COUNTED, true);
    (flow.turns, flow.write_turn, flow.turn_us, flow.last_ms) = (2, 2, 400_000, 2_400);
    (flow.turn_begin, flow.parse.at) = (5_u32.wrapping_sub(100), 55);
    (flow.legs[1].answered, flow.legs[0].state) = (1, leg_state::OPEN);
    let (now, client) = (3_600_000_000, plain(flow.tuple.saddr, flow.tuple.sport));
    assert_eq!(
        waiting(&flow, client, now),
        "0.0.0.0:40000, whose client has sent 100 bytes of a request in 3.2 s and not its end, the last packet 1.2 s ago"
    );
    flow.parse.at = 5;
    assert_eq!(
        waiting(&flow, client, now),
        "0.0.0.0:40000, asked 3.2 s ago and not answered by the primary and the shadow"
    );
}

#[test]
fn the_authoritys_debt_is_as_old_as_its_last_request() {
    let mut flow = Flow { turns: 2, turn_us: 400_000, last_ms: 450, ..Flow::default() };
    flow.legs[0] = Leg { state: leg_state::OPEN, answered: 1, behind_since: 1, ..Leg::default() };
    let age = |flow: &Flow, authority| debt(flow, Side::Primary, authority, 600_000_000).age_ms;
    assert_eq!((age(&flow, true), age(&flow, false)), (200, 599));
    flow.legs[0].answered = 2;
    assert_eq!(age(&flow, true), 0);
    flow.legs[0].state = leg_state::NONE;
    assert_eq!(debt(&flow, Side::Primary, true, 600_000_000), Debt::default());
}
