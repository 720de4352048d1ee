//! How many bad answers of an ill shadow clients get before it is found: what the statistics promise (docs/STATISTICS.md,
//! `cargo xtask bench decisions`).

use super::Scenario;
use crate::checker::{Entry, Kind};
use crate::net::Host;

/// False alarms a migration that the play's judge allows ([`crate::gateway::SHARED_CORES_JUDGE`]).
const ALPHA: f64 = 1e-6;
/// Share of the compared answers that may differ: the judge's default.
const MAY_DIFFER: f64 = 0.0002;
/// From one look of the daemon to the next, in microseconds of the wall's clock.
const LOOK_US: u64 = 1_000_000;
/// So many times the bound are borne. Twice, as a shadow that falls ill just behind a look is seen whole only at the next
/// but one; twice, as differences of a path count only when they are beyond what the primary does by itself, which takes a look
/// to know; and half as many again, as all hosts share two cores with the daemon.
pub(super) const BORNE: f64 = 6.0;

/// The bound of a scenario, from its requests; 0 where no bad answer is promised.
pub(super) fn bound(scenario: Scenario, entries: &[&Entry]) -> f64 {
    let (Some(bad), Some((percent, _))) = (scenario.bad_share(), scenario.ailment()) else { return 0.0 };
    let weight = percent / 100.0;
    let evidence = match scenario {
        Scenario::Differs => differing(bad) * weight,
        Scenario::Good | Scenario::Slow | Scenario::Errs | Scenario::Dies => erring(bad, weight),
    };
    // The judge looks once a second: what was answered until then is found at once, however much it is.
    bad * (evidence + reads_in_a_look(entries))
}

/// Reads that the shadow answered within a look from its first bad answer on.
fn reads_in_a_look(entries: &[&Entry]) -> f64 {
    let of_shadow = || entries.iter().filter(|entry| entry.server == Host::Shadow.name());
    let end = |entry: &Entry| entry.start_us + entry.latency_us;
    let Some(first) = of_shadow().filter(|entry| entry.failed.is_some()).map(|entry| end(entry)).min() else {
        return 0.0;
    };
    let within = |entry: &&&Entry| entry.kind == Kind::Read && (first..first + LOOK_US).contains(&end(entry));
    of_shadow().filter(within).count() as f64
}

/// Evidence that is enough, shared by three metrics (Wald 1945).
fn enough() -> f64 {
    (3.0 / ALPHA).ln()
}

/// Requests of the shadow that the best test needs where it errs so often, and the primary never, at its share of the
/// requests: both are told from their mixture.
fn erring(bad: f64, share: f64) -> f64 {
    let mixed = share * bad;
    let mine = bad * (bad / mixed).ln() + (1.0 - bad) * ((1.0 - bad) / (1.0 - mixed)).ln();
    let theirs = (1.0 / (1.0 - mixed)).ln();
    enough() / (mine + theirs * (1.0 - share) / share)
}

/// Compared turns that the best test needs where so many differ.
fn differing(bad: f64) -> f64 {
    enough() / (bad * (bad / MAY_DIFFER).ln() + (1.0 - bad) * ((1.0 - bad) / (1.0 - MAY_DIFFER)).ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::SHARED_CORES_JUDGE;

    fn entry(kind: Kind, server: Host, start_us: u64, failed: bool) -> Entry {
        Entry {
            kind,
            id: "1".into(),
            start_us,
            latency_us: 1_000,
            server: server.name().into(),
            window: "-".into(),
            failed: failed.then(|| ("500".into(), false)),
        }
    }

    #[test]
    fn the_bound_is_the_evidence_and_what_a_look_brings() {
        assert!(SHARED_CORES_JUDGE.contains("alpha = 1e-6\n"));
        // By hand: ln(3e6) = 14.91; at a share of ½ 0.072 + 0.163 nats a request, else 1.94 nats a turn.
        assert!((erring(0.3, 0.5) - 63.6).abs() < 1.0, "{}", erring(0.3, 0.5));
        assert!((differing(0.3) - 7.7).abs() < 0.1, "{}", differing(0.3));
        let mut all = vec![entry(Kind::Read, Host::Shadow, 0, true)];
        for number in 0..2_000 {
            // 500 a second for two seconds, and as many that don't count.
            all.push(entry(Kind::Read, Host::Shadow, number * 2_000, false));
            all.push(entry(Kind::Read, Host::Primary, number * 2_000, false));
            all.push(entry(Kind::Write, Host::Shadow, number * 2_000, false));
        }
        let entries: Vec<&Entry> = all.iter().collect();
        let errs = bound(Scenario::Errs, &entries);
        assert!((errs - 0.3 * (501.0 + 63.6)).abs() < 0.5, "{errs}");
        let differs = bound(Scenario::Differs, &entries);
        assert!((differs - 0.3 * (501.0 + 0.77)).abs() < 0.5, "{differs}");
        for scenario in [Scenario::Good, Scenario::Slow, Scenario::Dies] {
            assert_eq!(bound(scenario, &entries), 0.0, "{scenario:?}");
        }
    }
}
