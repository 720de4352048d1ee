//! How a migration by itself is shown.

use std::fmt::Write as _;

use mirror_common::switch_word::Side;
use mirror_control::{
    journal::{Entry, What},
    migration::{Capacity, Plan},
    precondition::{Check, Standing},
};

use super::{BAD, DOUBTFUL, FAINT, GOOD, Show, span, styled};
use crate::api::forecast::Scaling;
use crate::api::migration::{History, Migrated, Migrating, MigrationStatus, OrderStatus, Ordered};

/// A line or two of a status.
pub(super) fn show(text: &mut String, migration: &MigrationStatus) {
    let style = match (migration.over, migration.steps_back > 0 || migration.paused_by.is_some()) {
        (true, _) => FAINT,
        (false, true) => DOUBTFUL,
        (false, false) => GOOD,
    };
    let _ = writeln!(text, "  migration {}: {}", styled(style, &migration.stage), migration.why);
}

/// A line of a status.
pub(super) fn show_order(text: &mut String, ordered: &OrderStatus) {
    let order = &ordered.order;
    let what = if ordered.open { "is due" } else { "is ordered" };
    let made = if order.by_migration { "as soon as the migration is ready" } else { "at once" };
    let window = format!("from {} until {}", clock(order.at_ms), clock(order.until_ms));
    let _ = writeln!(text, "  cutover {} {window}, {made}, by {}", styled(DOUBTFUL, what), order.who);
}

/// A line of a cutover's answer.
pub(super) fn show_precondition(text: &mut String, check: &Check) {
    let style = match check.standing {
        Standing::Met => GOOD,
        Standing::NotMet => BAD,
        Standing::NotKnown => DOUBTFUL,
        Standing::NotMeasured => FAINT,
    };
    let standing = styled(style, format!("{:<12}", check.standing.name()));
    let _ = writeln!(text, "  {:<10}  {standing}  {check}", check.precondition.name());
}

impl Show for Ordered {
    fn lines(&self) -> String {
        let mut text = String::new();
        match &self.ordered {
            Some(ordered) => show_order(&mut text, ordered),
            None => text += "no cutover is ordered\n",
        }
        text
    }
}

impl Show for Migrated {
    fn lines(&self) -> String {
        let mut text = String::new();
        let Some(migration) = &self.migration else {
            let _ = writeln!(text, "no migration yet: mirror migrate APP");
            show_scaling(&mut text, &self.scaling);
            return text;
        };
        show(&mut text, migration);
        let steps = migration.steps.iter().map(|step| {
            if *step == migration.weight { styled(GOOD, format!("[{step}]")) } else { step.to_string() }
        });
        let steps: Vec<String> = steps.collect();
        let _ = writeln!(text, "  steps     {} %   steps back {}", steps.join(" "), migration.steps_back);
        for finding in &migration.evidence {
            let _ = writeln!(text, "  evidence  {finding}");
        }
        show_scaling(&mut text, &self.scaling);
        text
    }
}

/// How the shadow is scaled, and whether both sides are large enough.
pub(super) fn show_scaling(text: &mut String, scaling: &Scaling) {
    for (_, _, words) in &scaling.decisions {
        let _ = writeln!(text, "  scaling   {words}");
    }
    if let Some(failure) = &scaling.failure {
        let _ = writeln!(text, "  scaling   {}", styled(BAD, failure));
    }
    for (side, capacity) in Side::BOTH.into_iter().zip(&scaling.capacity) {
        let Some(capacity) = capacity else { continue };
        let style = match capacity {
            Capacity::Enough => GOOD,
            Capacity::Short { .. } => BAD,
            Capacity::Unknown(_) => DOUBTFUL,
        };
        let _ = writeln!(text, "  capacity  {}: {}", side.name(), styled(style, capacity));
    }
}

impl Show for Migrating {
    fn lines(&self) -> String {
        let begun = if self.begun { "begun; it decides by\n" } else { "it would decide by\n" };
        format!("{begun}{}", plan(&self.plan))
    }
}

fn plan(plan: &Plan) -> String {
    let (weight, moves, judge) = (&plan.weight, &plan.moves, &plan.judge);
    let steps: Vec<String> =
        weight.steps.iter().map(|step| format!("{}", f64::from(*step) / 100.0)).collect();
    let cutover =
        if plan.cutover_by_itself { "by itself" } else { "by an operator: mirror cutover APP --when-ready" };
    let stale = match moves.availability_first {
        true => {
            ";\n            from a dead authority also to a primary that is out of sync, and lacks writes"
        }
        false => "",
    };
    format!(
        "  join      at most {} attempts, {} apart\n  \
           compare   for {} before the first read moves\n  \
           steps     {} %, each for {} at least\n  \
           allowed   errors +{} points, latency {}x and {} ms, {} % of the answers differ\n  \
           shown     beyond that less than errors +{} points, p99 {}x, p50 {}x; less than {} % differ\n  \
           alarms    false ones in at most {} % of all migrations\n  \
           back      one step, or all at once where it is gross; then {} of rest; {} times at most\n  \
           cutover   {cutover}\n  \
           standby   {}; back by itself when the shadow is worse, unhealthy for {},\n            \
           or its answers drop below {} % of the usual while requests wait{stale}\n",
        moves.attempts,
        span(moves.retry_seconds),
        span(weight.dark_seconds),
        steps.join(" "),
        span(weight.dwell_seconds),
        points(judge.error_allowance),
        judge.latency_allowance_factor,
        judge.latency_allowance_us / 1e3,
        points(judge.divergence_allowance),
        points(judge.error_margin),
        judge.p99_margin,
        judge.p50_margin,
        points(judge.divergence_margin),
        points(judge.alpha),
        span(weight.cool_down_seconds),
        weight.max_attempts,
        span(moves.standby_seconds),
        span(moves.unhealthy_seconds),
        points(plan.throughput.drop),
    )
}

/// A share in percent, without the dust of binary fractions.
fn points(share: f64) -> f64 {
    (share * 1e8).round() / 1e6
}

impl Show for History {
    fn lines(&self) -> String {
        self.entries.iter().map(line).collect()
    }
}

fn line(entry: &Entry) -> String {
    let what = match &entry.what {
        What::Begun(_, who) => format!("begun by {who}"),
        What::Replanned(_, who) => format!("by another policy from here on, of {who}"),
        What::Decided(actions) if actions.is_empty() => String::new(),
        What::Decided(actions) => format!("{actions:?}"),
        What::Moved | What::Asked(..) | What::Appointment | What::Scaled(..) | What::Breaker(_) => {
            String::new()
        }
    };
    // Such a line has the stage of whatever migration there is, or was.
    let stage = match entry.what {
        What::Scaled(..) => "(scaling)",
        What::Appointment => "(order)",
        What::Breaker(_) => "(breaker)",
        What::Replanned(..) => "(policy)",
        What::Begun(..) | What::Decided(_) | What::Moved | What::Asked(..) => entry.state.stage.name(),
    };
    let style = if entry.words.contains("worse") || entry.words.contains("failed") { BAD } else { FAINT };
    let time = clock(entry.at_ms);
    let mut text = format!("{time}  {stage:<12} {:<50} {}\n", entry.words, styled(style, what));
    if let Some(phases) = &entry.phases {
        let _ = writeln!(text, "{:<22}{:<13}{}", "", "", styled(FAINT, phases));
    }
    text
}

/// Date and time of day, UTC.
pub(crate) fn clock(ms: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
    humantime::format_rfc3339_seconds(at).to_string()
}
