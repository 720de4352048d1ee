//! Order across connections: a client that was answered on one may write on another at once, and be faster there on the mirror.

use mirror_common::abi::LAGS;

use super::*;

const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab";

/// A write's step: whether it overtakes.
fn overtakes(step: &Step) -> bool {
    is(step, Verdict::Mirrored);
    step.events & Step::OVERTAKES != 0
}

impl Scene {
    /// Connections of the application that lag, and when one waited.
    fn all(&mut self) -> &mut (u32, u32) {
        self.order.entry(Group::ALL.element()).or_default()
    }

    /// The same of those of a client's.
    fn of_client(&mut self, address: u32) -> &mut (u32, u32) {
        self.order.entry(Group::client(address).element()).or_default()
    }
}

fn ordered() -> Scene {
    let mut scene = Scene::established(true);
    scene.service.flags |= Service::ORDERED;
    scene
}

#[test]
fn a_write_lags_from_the_authoritys_answer_to_the_mirrors() {
    let mut scene = Scene::established(true);
    scene.client(0, WRITE, 0);
    assert_eq!(scene.all().0, 0, "its client waits for it");
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    assert_eq!((scene.all().0, scene.writes), (1, 1));
    scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
    assert_eq!((scene.all().0, scene.writes), (0, 0));
    let mut scene = Scene::established(true);
    scene.client(0, WRITE, 0);
    scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    assert_eq!((scene.all().0, scene.writes), (0, 0), "the mirror was faster");
}

#[test]
fn the_first_byte_of_an_answer_is_enough_and_the_mirrors_last_one_is_needed() {
    let mut scene = Scene::established(true);
    scene.client(0, WRITE, 0);
    scene.server(Side::Primary, 0, &ANSWER[..1], WRITE.len());
    assert_eq!(scene.all().0, 1);
    scene.server(Side::Primary, 1, &ANSWER[1..], WRITE.len());
    let all_but_one = ANSWER.len() - 1;
    scene.server(Side::Shadow, 0, &ANSWER[..all_but_one], WRITE.len());
    assert_eq!(scene.all().0, 1);
    scene.server(Side::Shadow, all_but_one, &ANSWER[all_but_one..], WRITE.len());
    assert_eq!((scene.all().0, scene.writes), (0, 0));
}

#[test]
fn of_writes_sent_ahead_the_first_answered_one_lags() {
    let mut scene = Scene::established(true);
    scene.client(0, WRITE, 0);
    scene.client(WRITE.len(), POST, 0);
    let sent = WRITE.len() + POST.len();
    scene.server(Side::Primary, 0, ANSWER, sent);
    assert_eq!(scene.all().0, 1);
    scene.server(Side::Shadow, 0, ANSWER, sent);
    assert_eq!((scene.all().0, scene.writes), (0, 1), "the mirror has done what was answered");
    scene.server(Side::Primary, ANSWER.len(), ANSWER, sent);
    assert_eq!((scene.all().0, scene.writes), (1, 1));
    scene.server(Side::Shadow, ANSWER.len(), ANSWER, sent);
    assert_eq!((scene.all().0, scene.writes), (0, 0));
}

#[test]
fn a_write_beside_another_connections_lagging_one_is_counted_and_a_read_is_not() {
    let mut scene = Scene::established(true);
    assert!(!overtakes(&scene.client(0, WRITE, 0)));
    let mut scene = Scene::established(true);
    scene.all().0 = 1;
    assert!(overtakes(&scene.client(0, WRITE, 0)));
    let mut scene = Scene::established(true);
    scene.all().0 = 1;
    assert!(!overtakes(&scene.client(0, READ, 0)));
    let mut scene = Scene::established(false);
    scene.all().0 = 1;
    let step = scene.client(0, WRITE, 0);
    is(&step, Verdict::Forwarded);
    assert_eq!(step.events & Step::OVERTAKES, 0, "there is no mirror");
}

#[test]
fn a_connections_own_write_is_in_order_anyway() {
    let mut scene = ordered();
    scene.client(0, WRITE, 0);
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    assert!(!overtakes(&scene.client(WRITE.len(), WRITE, ANSWER.len())), "it is its own that lags");
    assert_eq!(scene.all().0, 1);
    scene.server(Side::Primary, ANSWER.len(), ANSWER, 2 * WRITE.len());
    scene.server(Side::Shadow, 0, &[ANSWER, ANSWER].concat(), 2 * WRITE.len());
    assert_eq!((scene.all().0, scene.writes), (0, 0));
}

/// H9: where the service's writes are ordered.
#[test]
fn an_ordered_write_waits_while_another_connection_lags_and_nothing_is_counted() {
    let mut scene = ordered();
    scene.all().0 = 1;
    let step = scene.client(0, WRITE, 0);
    is(&step, Verdict::HeldOrder);
    assert_eq!((step.events & Step::OVERTAKES, scene.writes, *scene.all()), (0, 0, (1, scene.now_ms)));
    assert!(scene.flow.has(Flow::HELD) && !scene.flow.has(Flow::COUNTED));
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    let mut scene = ordered();
    scene.all().0 = 1;
    is(&scene.client(0, WRITE, 0), Verdict::HeldOrder);
    scene.all().0 = 0;
    assert!(!overtakes(&scene.client(0, WRITE, 0)));
    assert!(!scene.flow.has(Flow::HELD));
}

#[test]
fn where_the_mirror_is_out_of_sync_nothing_waits_for_it() {
    let mut scene = ordered();
    scene.all().0 = 1;
    is(&scene.client(0, WRITE, 0), Verdict::HeldOrder);
    scene.word = scene.word.out_of_sync(Side::Shadow).unwrap();
    let step = scene.client(0, WRITE, 0);
    is(&step, Verdict::Forwarded);
    assert_eq!(step.events & Step::OVERTAKES, 0);
}

/// Who writes without a pause lags without one: others would wait for ever.
#[test]
fn while_others_wait_a_connection_that_lags_waits_too_and_tells_when_all_have_caught_up() {
    let mut scene = ordered();
    scene.client(0, WRITE, 0);
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    // Another connection's write waits.
    scene.all().1 = scene.now_ms;
    is(&scene.client(WRITE.len(), POST, ANSWER.len()), Verdict::HeldOrder);
    let step = scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
    assert_eq!(step.events & (Step::CAUGHT_UP | Step::WAKE), Step::CAUGHT_UP | Step::WAKE);
    assert_eq!((scene.all().0, scene.writes), (0, 0));
    is(&scene.client(WRITE.len(), POST, ANSWER.len()), Verdict::Mirrored);
    let mut scene = ordered();
    scene.client(0, WRITE, 0);
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    scene.all().1 = scene.now_ms;
    scene.now_ms += 50;
    is(&scene.client(WRITE.len(), POST, ANSWER.len()), Verdict::Mirrored);
}

#[test]
fn nobody_is_told_where_another_connection_still_lags_or_nothing_waits() {
    for order in [(1, 1_000), (0, 0), (0, 900)] {
        let mut scene = ordered();
        *scene.all() = order;
        scene.all().0 = 0;
        scene.client(0, WRITE, 0);
        scene.all().0 = order.0;
        scene.server(Side::Primary, 0, ANSWER, WRITE.len());
        let step = scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
        assert_eq!((step.events & Step::CAUGHT_UP, scene.all().0), (0, order.0), "{order:?}");
    }
}

#[test]
fn a_lost_mirror_lags_no_more() {
    let mut scene = Scene::established(true);
    scene.client(0, WRITE, 0);
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    let (seq, ack) = (SERVER_ISS[1] + 1, LEG_ISS[1] + 1);
    let reset = Segment { seq, ack, flags: tcp::RST, ..scene.segment() };
    scene.server_sends(Side::Shadow, &reset);
    assert!(!scene.word.member(Side::Shadow), "it owed a write");
    assert_eq!((scene.all().0, scene.writes), (0, 0));
}

#[test]
fn a_connection_that_its_client_resets_lags_until_the_mirror_has_answered() {
    let mut scene = Scene::established(true);
    scene.client(0, WRITE, 0);
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    is(&scene.client_says(tcp::RST, WRITE.len(), 0), Verdict::Reset);
    assert_eq!((scene.all().0, scene.writes), (1, 1));
    scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
    assert_eq!((scene.all().0, scene.writes), (0, 0));
    assert!(scene.word.member(Side::Shadow));
}

#[test]
fn a_slot_that_is_freed_lags_no_more() {
    let mut scene = Scene::established(true);
    scene.client(0, WRITE, 0);
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    scene.now_ms += scene.service.idle_ms;
    let due = std::cell::Cell::new(Due::Nothing);
    scene.run(|flow, terms, step| due.set(on_sweep(flow, 0, terms, step)));
    assert_eq!((due.get(), scene.all().0, scene.writes), (Due::Free, 0, 0));
}

/// H8: what a client was told of it finds, on whichever connection it looks.
#[test]
fn a_read_beside_a_lagging_write_stays_with_the_authority() {
    let mut scene = ordered();
    scene.word = scene.word.with_weight(10_000);
    scene.all().0 = 1;
    is(&scene.client(0, READ, 0), Verdict::KeptOrder);
    assert_eq!(scene.flow.authority(), Side::Primary);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    scene.all().0 = 0;
    is(&scene.client(READ.len(), READ, ANSWER.len()), Verdict::Mirrored);
    assert_eq!(scene.flow.authority(), Side::Shadow, "nothing lags any more");
}

/// One whose connection the mirror answers, and that can't change that yet, waits.
#[test]
fn a_read_that_can_not_go_back_to_the_authority_yet_waits_until_it_can() {
    let mut scene = ordered();
    scene.word = scene.word.with_weight(10_000);
    scene.client(0, READ, 0);
    scene.server(Side::Shadow, 0, ANSWER, READ.len());
    scene.all().0 = 1;
    is(&scene.client(READ.len(), READ, ANSWER.len()), Verdict::HeldUnsettled);
    assert_eq!(scene.all().1, 0, "no write waits");
    scene.server(Side::Primary, 0, ANSWER, READ.len());
    is(&scene.client(READ.len(), READ, ANSWER.len()), Verdict::KeptOrder);
    assert_eq!(scene.flow.authority(), Side::Primary);
}

#[test]
fn a_client_waits_for_its_own_connections_alone() {
    let mut scene = ordered();
    scene.service.flags |= Service::ORDERED_BY_CLIENT;
    scene.word = scene.word.with_weight(10_000);
    scene.flow.who = 7;
    scene.all().0 = 1;
    scene.of_client(8).0 = 1;
    is(&scene.client(0, READ, 0), Verdict::Mirrored);
    assert_eq!(scene.flow.authority(), Side::Shadow);
    for side in Side::BOTH {
        scene.server(side, 0, ANSWER, READ.len());
    }
    scene.of_client(7).0 = 1;
    is(&scene.client(READ.len(), READ, ANSWER.len()), Verdict::KeptOrder);
    for side in Side::BOTH {
        scene.server(side, ANSWER.len(), ANSWER, 2 * READ.len());
    }
    is(&scene.client(2 * READ.len(), WRITE, 2 * ANSWER.len()), Verdict::HeldOrder);
    assert_eq!((scene.all().1, scene.of_client(7).1), (0, scene.now_ms));
}

#[test]
fn a_connection_lags_among_its_clients_and_among_all() {
    let mut scene = ordered();
    scene.flow.who = 7;
    scene.client(0, WRITE, 0);
    scene.server(Side::Primary, 0, ANSWER, WRITE.len());
    assert_eq!((scene.all().0, scene.of_client(7).0), (1, 1));
    scene.server(Side::Shadow, 0, ANSWER, WRITE.len());
    assert_eq!((scene.all().0, scene.of_client(7).0), (0, 0));
    assert_ne!(Group::client(7).element(), Group::client(8).element());
}

/// The map has an element for all, and a power of two of them for the clients; a client's number is never that of all.
#[test]
fn each_group_has_an_element_and_clients_of_one_network_are_spread() {
    assert_eq!(Group::ALL.element(), 0);
    let network: Vec<usize> = (0..256).map(|n| Group::client(n << 24 | 0x0a).element()).collect();
    assert!(network.iter().all(|element| *element < LAGS as usize && element % 2 == 1));
    assert!((0..256).all(|address| Group::client(address).element() % 2 == 1));
    let mut distinct = network.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() >= 100, "{} elements for 256 clients", distinct.len());
}

/// Of two counts a group takes its own, whatever the other one is.
#[test]
fn a_group_picks_its_own_count() {
    for (client, all) in [(0, 5), (3, 0), (3, 5), (u64::MAX, 1), (1, u64::MAX)] {
        assert_eq!((Group::client(7).pick(client, all), Group::ALL.pick(client, all)), (client, all));
    }
}

/// A mirror that is a turn ahead, and in the middle of that answer, owes the client's eyes nothing.
#[test]
fn a_mirror_that_is_ahead_of_the_authority_does_not_lag() {
    let mut scene = Scene::established(true);
    scene.client(0, WRITE, 0);
    scene.client(WRITE.len(), POST, 0);
    let sent = WRITE.len() + POST.len();
    let more = [ANSWER, &ANSWER[..ANSWER.len() - 1]].concat();
    scene.server(Side::Shadow, 0, &more, sent);
    scene.server(Side::Primary, 0, ANSWER, sent);
    assert_eq!((scene.all().0, scene.writes), (0, 1));
}
