//! How the migrations ended: one object for programs, a line each for people.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use indicatif::HumanCount;
use serde::Serialize;
use serde_json::Value;

use super::bound::{BORNE, bound};
use super::stage::Stage;
use super::{CONNECTIONS, Scenario};
use crate::checker::{Entry, read_journals};
use crate::net::Host;
use crate::proof::Report;

/// All of them.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// One for each scenario, in the order in which they were played.
    pub outcomes: Vec<Ended>,
    /// What was forecast while the good one went on, and how it was scored as time went by: the answer of `mirror forecast`.
    pub forecast_vs_actual: Value,
}

impl Outcome {
    /// Whether each ended as it should.
    pub fn is_ok(&self) -> bool {
        !self.outcomes.is_empty() && self.outcomes.iter().all(|ended| ended.faults.is_empty())
    }
}

/// How one ended.
#[derive(Debug, Serialize)]
pub struct Ended {
    /// What befell the shadow.
    pub scenario: &'static str,
    /// The last stage that it should have.
    pub expected: &'static str,
    /// The last stage that it has.
    pub ended: String,
    /// The side that has the authority then.
    pub authority: String,
    /// From the first request on.
    pub seconds: f64,
    /// Requests of the client.
    pub requests: u64,
    /// Of those, the ones without the right answer.
    pub failed_requests: u64,
    /// Of the failed ones, those that the ill shadow answered itself.
    pub failed_by_shadow: u64,
    /// What the statistics promise of those: with so many at this fault and rate the judge could be sure.
    pub bound: f64,
    /// Of the failed ones, those that were under way on an authority that died.
    pub failed_under_way: u64,
    /// Writes that were answered.
    pub writes: u64,
    /// Answered writes that a side doesn't have.
    pub lost_writes: u64,
    /// Writes that a side has more than once.
    pub doubled_writes: u64,
    /// Writes in another place than where the client wrote them.
    pub misordered_writes: u64,
    /// Answers of the primary's, as the client saw them, that the primary's own log doesn't have.
    pub unconfirmed: u64,
    /// What the migration said: where it stood, and why.
    pub reasons: Vec<String>,
    /// What is wrong, in words.
    pub faults: Vec<String>,
}

impl Ended {
    /// Puts the servers' files, the clients' journals and the daemon's status together.
    ///
    /// # Errors
    /// If they can't be read.
    pub(super) fn of(
        scenario: Scenario,
        took: Duration,
        status: &Value,
        report: &Report,
        stage: &Stage,
        reasons: &[String],
    ) -> Result<Self> {
        let journals = read_journals(&stage.journals())?;
        let entries: Vec<&Entry> = journals.iter().flat_map(|journal| &journal.entries).collect();
        let primary = stage.trace(Host::Primary)?;
        let failed_by = |server: &str| {
            let of = |entry: &&&Entry| entry.failed.is_some() && entry.server == server;
            entries.iter().filter(of).count() as u64
        };
        let unconfirmed = entries
            .iter()
            .filter(|entry| entry.server == Host::Primary.name() && !primary.contains_key(&entry.id))
            .count();
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let mut ended = Self {
            scenario: scenario.name(),
            expected: scenario.ends(),
            ended: text(&status["migration"]["stage"]),
            authority: text(&status["authority"]),
            seconds: took.as_secs_f64(),
            requests: report.requests,
            failed_requests: report.failed_requests,
            failed_by_shadow: failed_by(Host::Shadow.name()),
            bound: bound(scenario, &entries),
            failed_under_way: failed_by("-"),
            writes: report.writes,
            lost_writes: report.lost_writes,
            doubled_writes: report.doubled_writes,
            misordered_writes: report.misordered_writes,
            unconfirmed: unconfirmed as u64,
            reasons: reasons.to_vec(),
            // What failed is counted above.
            faults: if report.state_is_ok() { Vec::new() } else { report.faults.clone() },
        };
        let wrong = ended.wrong(scenario, report);
        ended.faults.extend(wrong);
        Ok(ended)
    }

    /// What isn't as the scenario has it.
    fn wrong(&self, scenario: Scenario, report: &Report) -> Vec<String> {
        let under_way = if scenario == Scenario::Dies { CONNECTIONS as u64 } else { 0 };
        let authority = if scenario == Scenario::Good { Host::Shadow } else { Host::Primary };
        let others = self.failed_requests - self.failed_by_shadow - self.failed_under_way;
        let ill = matches!(scenario, Scenario::Errs | Scenario::Differs);
        let checks = [
            (self.ended != self.expected, format!("it ended as {}, not as {}", self.ended, self.expected)),
            (self.authority != authority.name(), format!("the {} has the authority", self.authority)),
            (!report.state_is_ok(), "the lists aren't right".to_owned()),
            (self.requests == 0 || self.writes == 0, "nothing was asked".to_owned()),
            (others > 0, format!("{others} requests failed that the primary answered")),
            (
                self.failed_by_shadow as f64 > BORNE * self.bound,
                format!(
                    "{} answers of the shadow failed; the statistics promise {:.0}, and {BORNE} times that are borne",
                    self.failed_by_shadow, self.bound
                ),
            ),
            (self.failed_under_way > under_way, format!("{} requests had no answer", self.failed_under_way)),
            (ill && self.failed_by_shadow == 0, "the ill shadow answered nothing".to_owned()),
            (self.unconfirmed > 0, format!("{} answers aren't in the primary's log", self.unconfirmed)),
        ];
        checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, words)| words).collect()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} after {:.0} s, authority {}; {} requests, {} failed ({} answered by the shadow, {} under way when it died); \
             {} writes: {} lost, {} doubled, {} out of order",
            self.ended,
            self.seconds,
            self.authority,
            HumanCount(self.requests),
            HumanCount(self.failed_requests),
            HumanCount(self.failed_by_shadow),
            HumanCount(self.failed_under_way),
            HumanCount(self.writes),
            HumanCount(self.lost_writes),
            HumanCount(self.doubled_writes),
            HumanCount(self.misordered_writes),
        )?;
        for fault in &self.faults {
            write!(f, "\n        WRONG: {fault}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ended in &self.outcomes {
            writeln!(f, "{:<8} {ended}", ended.scenario)?;
        }
        let wrong = self.outcomes.iter().filter(|ended| !ended.faults.is_empty()).count();
        match wrong {
            0 => write!(f, "each migration ended as it should"),
            wrong => write!(f, "{wrong} of {} migrations did NOT end as they should", self.outcomes.len()),
        }
    }
}
