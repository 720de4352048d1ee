//! The rounds as a table and as JSON: medians, and ratios of two legs to one in the same round.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{Course, Measured, Rounds, Way};
use crate::report::median;

fn of<'a>(all: &'a [Rounds], links: &str, way: Way, course: Course) -> &'a [Measured] {
    let found = all.iter().find(|of| of.links == links && of.way == way && of.course == course);
    found.map_or(&[], |of| of.rounds.as_slice())
}

/// The median of each round's ratio.
fn ratio(all: &[Rounds], links: &str, (way, to): (Way, Way), course: Course) -> f64 {
    let (mine, base) = (of(all, links, way, course), of(all, links, to, course));
    median(mine.iter().zip(base).map(|(mine, base)| mine.mbits / base.mbits).collect())
}

/// Names of the links, in their order.
fn names(all: &[Rounds]) -> Vec<&str> {
    let mut names: Vec<&str> = all.iter().map(|of| of.links.as_str()).collect();
    names.dedup();
    names
}

/// `ratios.loss.LINKS.{upload,download}`, each with its ratio to one leg; and all rounds.
pub(super) fn json(all: &[Rounds]) -> Value {
    let mut loss = Map::new();
    for links in names(all) {
        let to_one_leg = |course| {
            let ratio = ratio(all, links, (Way::TwoLegs, Way::OneLeg), course);
            (ratio * 1_000.0).round() / 1_000.0
        };
        let both = json!({ "upload": to_one_leg(Course::Upload), "download": to_one_leg(Course::Download) });
        loss.insert(links.to_owned(), both);
    }
    json!({ "ratios": { "loss": loss }, "transfers": all })
}

/// Medians in Mbit/s: routed, one leg, two legs; two legs to one, and the sender's timeouts over two; for both courses. A
/// star: the body came whole in each round.
pub(super) fn markdown(all: &[Rounds]) -> String {
    let mut text = String::from(
        "| | up: routed, one leg, two legs | two to one | timeouts \
         | down: routed, one leg, two legs | two to one | cores busy |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
    );
    for links in names(all) {
        let rate = |way, course| {
            let rounds = of(all, links, way, course);
            let star = if rounds.iter().all(|round| round.whole) { "*" } else { "" };
            format!("{:.1}{star}", median(rounds.iter().map(|round| round.mbits).collect()))
        };
        let rates = |course| Way::ALL.map(|way| rate(way, course)).join(", ");
        let two_to_one = |course| ratio(all, links, (Way::TwoLegs, Way::OneLeg), course);
        let two = of(all, links, Way::TwoLegs, Course::Upload);
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "| {links} | {} | {:.2} | {:.0} | {} | {:.2} | {:.1} |",
            rates(Course::Upload),
            two_to_one(Course::Upload),
            median(two.iter().map(|round| round.timeouts as f64).collect()),
            rates(Course::Download),
            two_to_one(Course::Download),
            median(two.iter().map(|round| round.busy_cores).collect()),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(way: Way, mbits: [f64; 3]) -> Rounds {
        let measured = |mbits| Measured { mbits, whole: true, sent_again: 0, timeouts: 0, busy_cores: 1.0 };
        Rounds { links: "a".into(), way, course: Course::Upload, rounds: mbits.map(measured).to_vec() }
    }

    #[test]
    fn two_legs_are_compared_with_one_in_the_same_round() {
        let all = [rounds(Way::OneLeg, [100.0, 10.0, 50.0]), rounds(Way::TwoLegs, [90.0, 9.5, 50.0])];
        assert_eq!(json(&all)["ratios"]["loss"]["a"]["upload"], 0.95);
        assert!(markdown(&all).contains("| 0.0*, 50.0*, 50.0* | 0.95 |"), "{}", markdown(&all));
    }
}
