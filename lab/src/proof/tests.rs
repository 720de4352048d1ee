//! Planted faults, each found and named.

use super::*;
use crate::checker::Entry;

const KEYS: [&str; 2] = ["r.c0", "r.c1"];

fn entry(kind: Kind, id: String, number: u64) -> Entry {
    let (server, window) = ("primary".to_owned(), "w50".to_owned());
    Entry { kind, id, start_us: number * 1000, latency_us: 100, server, window, failed: None }
}

/// Two connections; each writes with its odd requests and reads with its even ones.
fn journals() -> Vec<Journal> {
    let requests = |key: &str| {
        let kind = |number| if number % 2 == 1 { Kind::Write } else { Kind::Read };
        (1..=10).map(|number| entry(kind(number), format!("{key}-{number}"), number)).collect()
    };
    KEYS.map(|key| Journal { key: key.into(), source: "10.0.1.2:4000".into(), entries: requests(key) }).into()
}

fn lists() -> Lists {
    KEYS.map(|key| (key.to_owned(), [1, 3, 5, 7, 9].map(|number| format!("{key}-{number}")).to_vec())).into()
}

fn prove_with(shadow: Lists) -> Report {
    prove(&journals(), &[("primary".into(), lists()), ("shadow".into(), shadow)])
}

#[test]
fn equal_and_complete_states_are_proven() {
    let report = prove_with(lists());
    assert!(report.is_ok(), "{report:?}");
    assert_eq!((report.requests, report.writes, report.states_equal), (20, 10, Some(true)));
    assert_eq!(
        report.line(),
        "proof: 20 requests, 0 failed; 10 writes: 0 lost, 0 doubled, 0 out of order, 0 foreign on primary and shadow; \
         both states equal"
    );
}

#[test]
fn a_lost_write_is_found() {
    let mut shadow = lists();
    shadow.get_mut("r.c1").unwrap().remove(2);
    let report = prove_with(shadow);
    assert_eq!((report.lost_writes, report.sides["primary"].lost_writes), (1, 0));
    assert_eq!(
        report.faults[0],
        "lost: shadow doesn't have r.c1-5, write 2 of list r.c1, which was answered"
    );
    assert_eq!(report.states_equal, Some(false));
    assert!(!report.is_ok());
}

#[test]
fn a_write_lost_on_both_sides_is_found_though_the_states_are_equal() {
    let mut both = lists();
    both.remove("r.c0");
    let report = prove(&journals(), &[("primary".into(), both.clone()), ("shadow".into(), both)]);
    assert_eq!((report.lost_writes, report.states_equal), (10, Some(true)));
    assert!(!report.is_ok());
}

#[test]
fn a_doubled_write_is_found() {
    let mut shadow = lists();
    shadow.get_mut("r.c0").unwrap().insert(3, "r.c0-3".into());
    let report = prove_with(shadow);
    assert_eq!((report.doubled_writes, report.misordered_writes, report.lost_writes), (1, 0, 0));
    assert_eq!(report.faults[0], "doubled: shadow has r.c0-3 again at place 3 of list r.c0");
    assert!(!report.is_ok());
}

#[test]
fn two_swapped_writes_are_found() {
    let mut shadow = lists();
    shadow.get_mut("r.c0").unwrap().swap(1, 2);
    let report = prove_with(shadow);
    assert_eq!((report.misordered_writes, report.doubled_writes, report.lost_writes), (1, 0, 0));
    assert_eq!(report.faults[0], "misordered: shadow has r.c0-3, write 1 of list r.c0, behind write 2");
    assert!(!report.is_ok());
}

#[test]
fn a_write_in_another_clients_list_is_found() {
    let mut shadow = lists();
    shadow.get_mut("r.c0").unwrap().push("r.c1-9".into());
    let report = prove_with(shadow);
    assert_eq!(report.foreign_writes, 1);
    assert!(!report.is_ok());
}

#[test]
fn lists_that_no_journal_knows_must_be_equal_too() {
    let mut shadow = lists();
    shadow.insert("other".into(), vec!["x".into()]);
    let report = prove_with(shadow);
    assert_eq!(report.faults, ["states differ: list other, place 0: primary has its end, shadow has x"]);
    assert!(!report.is_ok());
}

#[test]
fn an_unanswered_write_may_be_there_or_not_but_on_both_sides() {
    let mut journals = journals();
    journals[0].entries[8].failed = Some(("reset".into(), true));
    let mut without = lists();
    without.get_mut("r.c0").unwrap().pop();
    let prove = |one: &Lists, other: &Lists| {
        prove(&journals, &[("primary".into(), one.clone()), ("shadow".into(), other.clone())])
    };
    for (one, other, equal) in
        [(&without, &without, true), (&lists(), &lists(), true), (&without, &lists(), false)]
    {
        let report = prove(one, other);
        assert_eq!((report.state_is_ok(), report.lost_writes), (equal, 0));
        assert_eq!((report.failed_requests, report.failed_mid_answer, report.unanswered_writes), (1, 1, 1));
        assert!(!report.is_ok(), "a failed request is a failure");
    }
}

#[test]
fn nothing_proves_nothing() {
    assert!(!prove(&[], &[("primary".into(), lists())]).is_ok());
}

#[test]
fn reads_are_settled_when_both_servers_had_finished_the_last_request() {
    let mut journals = journals();
    journals.truncate(1);
    let answered = |late: &str| -> String {
        let lines = (1..=10).map(|number| {
            let id = format!("r.c0-{number}");
            // In time, or after the next request was sent.
            let at = if id == late { number * 1000 + 1001 } else { number * 1000 + 700 };
            format!("{id} {} {at}\n", number * 1000)
        });
        lines.collect()
    };
    let traces = [parse_trace(&answered("")).unwrap(), parse_trace(&answered("r.c0-3")).unwrap()];
    let settled = settled_reads(&journals, &traces);
    let window = &settled.windows["w50"];
    assert_eq!((window.reads["primary"], window.settled["primary"]), (5, 4));
    assert_eq!((window.unsettled, window.unclear), (1, 0));
    // A request that one server hasn't noted can't be judged.
    let settled = settled_reads(&journals, &[traces[0].clone(), Default::default()]);
    assert_eq!(settled.windows["w50"].unclear, 5);
}
