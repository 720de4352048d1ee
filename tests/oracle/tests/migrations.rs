//! Migrations of many seeds on the simulated datapath.

use oracle::migrations::{Mutant, Totals, run};

/// C1, C2: no rule is broken, every end is reached, and so is what the rules are about. The long run: `cargo xtask soak --only
/// migrations`.
#[test]
fn no_rule_is_broken_whatever_happens_and_wherever_the_daemon_dies() {
    let mut totals = Totals::default();
    for seed in 0..4_000 {
        let report = run(seed, None, false);
        totals.add(&report);
        if let Some(rule) = &report.broken {
            let trace = run(seed, None, true).trace.join("\n");
            panic!("{trace}\nseed {seed}: {rule}\ncargo run -p oracle --bin migrations -- --seed {seed}");
        }
    }
    println!("{totals}");
    for end in ["Finalized", "RolledBack", "Aborted"] {
        assert!(totals.ends.get(end) > Some(&100), "hardly ever {end}: {totals}");
    }
    assert!(totals.seen().iter().all(|count| *count > 10), "not seen: {totals}");
}

#[test]
fn a_seed_says_all() {
    for seed in 0..20 {
        let (first, second) = (run(seed, None, true), run(seed, None, true));
        assert!(!first.trace.is_empty() && first.trace == second.trace);
    }
}

/// A fault that nobody finds would say that the rules find nothing.
#[test]
fn every_mutant_is_found() {
    for mutant in Mutant::ALL {
        let found = (0..20_000).find_map(|seed| run(seed, Some(mutant), false).broken);
        let rule = found.unwrap_or_else(|| panic!("{mutant:?} isn't found"));
        let first = rule.lines().next().unwrap_or_default();
        println!("{mutant:?}: {first}");
        assert!(mutant.breaks().contains(&first), "{mutant:?} is found by another rule: {rule}");
    }
}
