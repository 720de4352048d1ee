//! The weight controller: which share of the reads the shadow answers next, and why.
//!
//! ```text
//!            no worse, dwelt             no worse, dwelt
//!   Dark ───────────────────► Step 1 … n ───────────────► Step n + 1 … last
//!    ▲                          │  worse: back by one, or to 0 where it is gross
//!    │ cooled down, tried again ▼
//!   Cooling ◄───────────────────┘ ──── attempts used up ──► Stopped (an operator resumes)
//! ```
//! Dark is weight 0 with compared turns. The weight only rises on evidence; time alone never raises it.

use std::fmt;

use mirror_common::weight::ALL;
use serde::{Deserialize, Serialize};

use crate::evidence::{Finding, Progress, Verdict};

/// Steps, times and limits. Weights are basis points: 10,000 is all reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightPolicy {
    /// Weights, rising.
    pub steps: Vec<u32>,
    /// Least time at a step.
    pub dwell_seconds: f64,
    /// Least time of comparing before the first read moves.
    pub dark_seconds: f64,
    /// After a step back the weight isn't raised for so long.
    pub cool_down_seconds: f64,
    /// Steps back that are made before an operator has to look.
    pub max_attempts: u32,
}

impl Default for WeightPolicy {
    fn default() -> Self {
        Self {
            steps: vec![100, 500, 1_000, 2_000, 3_500, 5_000, 7_500, 9_500, ALL],
            dwell_seconds: 600.0,
            dark_seconds: 1_200.0,
            cool_down_seconds: 1_800.0,
            max_attempts: 3,
        }
    }
}

/// Why a policy makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WeightPolicyError {
    /// No step at all.
    #[error("steps is empty: name at least one weight")]
    NoSteps,
    /// Out of range, or not above the one before.
    #[error("step {index} is {weight}: weights rise, from 1 to 10000 (basis points)")]
    Step {
        /// Which, from 0.
        index: usize,
        /// What it is.
        weight: u32,
    },
    /// Not a time.
    #[error("{name} is {seconds}: a time is 0 or more, and at most 30 days")]
    Time {
        /// The field.
        name: &'static str,
        /// What it is.
        seconds: f64,
    },
    /// No attempt at all.
    #[error("max_attempts is 0: it is 1 or more")]
    NoAttempts,
}

impl WeightPolicy {
    /// Checks every number.
    ///
    /// # Errors
    /// The first one that makes no sense.
    pub fn validate(&self) -> Result<(), WeightPolicyError> {
        if self.steps.is_empty() {
            return Err(WeightPolicyError::NoSteps);
        }
        let mut before = 0;
        for (index, &weight) in self.steps.iter().enumerate() {
            if weight <= before || weight > ALL {
                return Err(WeightPolicyError::Step { index, weight });
            }
            before = weight;
        }
        let times = [
            ("dwell_seconds", self.dwell_seconds),
            ("dark_seconds", self.dark_seconds),
            ("cool_down_seconds", self.cool_down_seconds),
        ];
        for (name, seconds) in times {
            if !(0.0..=30.0 * 86_400.0).contains(&seconds) {
                return Err(WeightPolicyError::Time { name, seconds });
            }
        }
        if self.max_attempts == 0 { Err(WeightPolicyError::NoAttempts) } else { Ok(()) }
    }

    fn weight(&self, step: Option<usize>) -> u32 {
        step.and_then(|step| self.steps.get(step)).copied().unwrap_or(0)
    }
}

/// What the controller remembers. Kept in the journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WeightState {
    /// Index of the step; nothing is dark: weight 0.
    pub step: Option<usize>,
    /// Seconds at this step.
    pub dwelt_seconds: f64,
    /// Seconds until the weight may rise again.
    pub cooling_seconds: f64,
    /// Steps back so far.
    pub attempts: u32,
    /// Attempts are used up.
    pub stopped: bool,
    /// Who paused it.
    pub paused_by: Option<String>,
}

impl WeightState {
    /// The weight, in basis points.
    pub fn weight(&self, policy: &WeightPolicy) -> u32 {
        policy.weight(self.step)
    }

    /// No step up until [`Self::resume`]. A step back is still made.
    pub fn pause(&mut self, who: &str) {
        self.paused_by = Some(who.to_owned());
    }

    /// The shadow fell out of sync: to 0, which is a step back as any other.
    pub fn fell_out(&mut self, policy: &WeightPolicy) {
        self.attempts += 1;
        self.stopped |= self.attempts >= policy.max_attempts;
        self.step = None;
        self.dwelt_seconds = 0.0;
        self.cooling_seconds = policy.cool_down_seconds;
    }

    /// Ends a pause; and where attempts were used up, grants them anew.
    pub fn resume(&mut self) {
        self.paused_by = None;
        if std::mem::take(&mut self.stopped) {
            self.attempts = 0;
            self.cooling_seconds = 0.0;
        }
    }
}

/// What is to be done with the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It stays.
    Hold,
    /// One step up.
    Up,
    /// One step back.
    Back,
    /// To 0.
    ToZero,
}

/// What is to be done with the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judging {
    /// Nothing.
    Continue,
    /// [`crate::evidence::Judge::begin_step`].
    BeginStep,
    /// A new judge: the next attempt is judged by itself.
    Restart,
}

/// Why. Displayed for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The judge found the shadow worse.
    Worse(Finding),
    /// Shown to be no worse, and the dwell time is over.
    NoWorse(Progress),
    /// Shown to be no worse, at the last step.
    LastStep,
    /// The dwell time isn't over: seconds left.
    Dwelling(f64),
    /// After a step back: seconds left.
    CoolingDown(f64),
    /// Too few requests to show anything.
    LowTraffic(Progress),
    /// Neither is shown.
    Undecided(Progress),
    /// By whom.
    Paused(String),
    /// After so many attempts.
    Stopped(u32),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worse(finding) => write!(f, "the judge: the shadow is worse: {finding}"),
            Self::NoWorse(p) => write!(f, "the judge: no worse, shown by {} requests", p.have),
            Self::LastStep => write!(f, "no worse at the last step"),
            Self::Dwelling(left) => write!(f, "{left:.0} s of the dwell time are left"),
            Self::CoolingDown(left) => write!(f, "{left:.0} s of the time after a step back are left"),
            Self::LowTraffic(p) => {
                write!(f, "low traffic: {} requests of the shadow, about {} are needed", p.have, p.need)
            }
            Self::Undecided(p) => {
                let (what, least) = p.least();
                write!(
                    f,
                    "{what} not shown yet to be no worse, by {} requests (evidence {least:.1}, bound {:.1})",
                    p.have, p.threshold
                )
            }
            Self::Paused(who) => write!(f, "paused by {who}"),
            Self::Stopped(attempts) => {
                write!(f, "stopped after {attempts} steps back: an operator has to resume")
            }
        }
    }
}

/// What to do next, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// What happens to the weight.
    pub change: Change,
    /// The weight from now on, in basis points.
    pub weight: u32,
    /// What happens to the evidence.
    pub judging: Judging,
    /// Why.
    pub reason: Reason,
}

/// One tick of so many seconds, with the judge's verdict after it.
pub fn step(
    policy: &WeightPolicy,
    mut state: WeightState,
    seconds: f64,
    verdict: Verdict,
) -> (WeightState, Action) {
    state.dwelt_seconds += seconds;
    state.cooling_seconds = (state.cooling_seconds - seconds).max(0.0);
    let (change, judging, reason) = match verdict {
        Verdict::Worse(finding) => fall(policy, &mut state, finding),
        Verdict::NoWorse(progress) => rise(policy, &mut state, progress),
        Verdict::LowTraffic(progress) => hold(policy, &state, Reason::LowTraffic(progress)),
        Verdict::Undecided(progress) => hold(policy, &state, Reason::Undecided(progress)),
    };
    let weight = state.weight(policy);
    (state, Action { change, weight, judging, reason })
}

/// Back by one, or to 0 where it is gross or the attempts are used up.
fn fall(policy: &WeightPolicy, state: &mut WeightState, finding: Finding) -> (Change, Judging, Reason) {
    if state.stopped {
        return (Change::Hold, Judging::Continue, Reason::Stopped(state.attempts));
    }
    state.attempts += 1;
    state.stopped = state.attempts >= policy.max_attempts;
    let before = state.step;
    state.step = before.filter(|_| !finding.gross && !state.stopped).and_then(|step| step.checked_sub(1));
    state.dwelt_seconds = 0.0;
    state.cooling_seconds = policy.cool_down_seconds;
    let change = match (before, state.step) {
        (None, _) => Change::Hold,
        (Some(_), None) => Change::ToZero,
        (Some(_), Some(_)) => Change::Back,
    };
    (change, Judging::Restart, Reason::Worse(finding))
}

fn rise(policy: &WeightPolicy, state: &mut WeightState, progress: Progress) -> (Change, Judging, Reason) {
    let next = state.step.map_or(0, |step| step + 1);
    if let Some(why) = obstacle(policy, state) {
        return (Change::Hold, Judging::Continue, why);
    }
    if next >= policy.steps.len() {
        return (Change::Hold, Judging::Continue, Reason::LastStep);
    }
    state.step = Some(next);
    state.dwelt_seconds = 0.0;
    (Change::Up, Judging::BeginStep, Reason::NoWorse(progress))
}

fn hold(policy: &WeightPolicy, state: &WeightState, otherwise: Reason) -> (Change, Judging, Reason) {
    (Change::Hold, Judging::Continue, obstacle(policy, state).unwrap_or(otherwise))
}

/// What keeps the weight from rising whatever the evidence says.
fn obstacle(policy: &WeightPolicy, state: &WeightState) -> Option<Reason> {
    let dwell = if state.step.is_none() { policy.dark_seconds } else { policy.dwell_seconds };
    if state.stopped {
        Some(Reason::Stopped(state.attempts))
    } else if let Some(who) = &state.paused_by {
        Some(Reason::Paused(who.clone()))
    } else if state.cooling_seconds > 0.0 {
        Some(Reason::CoolingDown(state.cooling_seconds))
    } else {
        (state.dwelt_seconds < dwell).then_some(Reason::Dwelling(dwell - state.dwelt_seconds))
    }
}

#[cfg(test)]
mod tests;
