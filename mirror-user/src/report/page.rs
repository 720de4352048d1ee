//! A report as a page: nothing outside of it is needed to read or print it.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use mirror_control::{
    journal::{Entry, What},
    migration::{Plan, Stage},
};

use super::{Report, forecast::forecast, plot};
use crate::{
    api::{AppStatus, SideStatus},
    output::{clock, shown, span},
    resources::Metric,
};

/// Rows of the journal at most: the first and the last ones.
const ROWS: usize = 400;

/// Notices at most: the last ones.
const NOTICES: usize = 100;

const STYLE: &str = "\
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #222 }
h1 { margin-bottom: 0 } h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 600 }
td, th { padding: .2em .6em .2em 0; border-bottom: 1px solid #eee; vertical-align: top }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap } .faint { color: #666 }
.bad { color: #a11 } .good { color: #171 } .p { color: #1f5fa8 } .s { color: #c45a11 }
svg { max-width: 100%; height: auto } pre { white-space: pre-wrap; background: #f6f6f6; padding: 1em }
@media print { body { margin: 0; max-width: none } h2, figure, tr { break-inside: avoid; break-after: auto } }
";

/// The page.
///
/// # Errors
/// When a picture can't be drawn.
pub(super) fn page(report: &Report) -> Result<Markup> {
    let title = format!("{}: report of its migration", report.app);
    Ok(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                p.faint { "Made " (clock(report.made_at_ms)) " by mirror " (report.version) ". All times are UTC." }
                @for missing in &report.missing { p.bad { "Not known: " (missing) } }
                (summary(report))
                (timeline(report)?)
                @if let Some(status) = &report.status { (sides(status)) }
                (evidence(&report.entries))
                (moves(&report.entries))
                (curves(report)?)
                @if let Some(answer) = &report.forecast { (forecast(answer)?) }
                @if let Some(status) = &report.status { (notices(status)) }
                (journal(report))
                @if let Some(plan) = &report.plan { (configuration(plan)?) }
            }
        }
    })
}

fn summary(report: &Report) -> Markup {
    let begun = report.entries.first().and_then(|entry| match &entry.what {
        What::Begun(_, who) => Some((entry.at_ms, who)),
        _ => None,
    });
    // An order beside no migration has the state of none.
    let steps = report.entries.iter().rev().find(|entry| !entry.what.is_beside());
    let last = report.plan.as_ref().and(steps);
    let stage = last.map(|entry| entry.state.stage);
    let good = matches!(stage, Some(Stage::Standby | Stage::Finalized));
    let bad = matches!(stage, Some(Stage::RolledBack | Stage::Aborted | Stage::RollingBack));
    html! {
        h2 { "Result" }
        table {
            @if let Some((at, who)) = begun {
                tr { th { "Begun" } td { (clock(at)) " by " (who) } }
            } @else {
                tr { th { "Begun" } td { "there was no migration by itself" } }
            }
            @if let (Some(last), Some(stage)) = (last, stage) {
                tr {
                    th { "Stands at" }
                    td class=(if good { "good" } else if bad { "bad" } else { "" }) { (stage.name()) ": " (last.words) }
                }
                tr { th { "Since" } td { (clock(last.at_ms)) } }
                tr { th { "Steps back" } td { (last.state.weight.attempts) } }
                tr { th { "Failed joins, cutovers" } td { (last.state.failed_joins) ", " (last.state.failed_cutovers) } }
            }
            @if let Some(status) = &report.status {
                tr { th { "Authority" } td { (status.authority) ", weight " (status.weight) " %" } }
                @for service in status.services.iter().filter(|service| service.name.is_some()) {
                    tr { th { "Service" } td { (service.name.as_deref().unwrap_or_default()) ": " (service.listens.join(", ")) } }
                }
                tr { th { "Compared turns" } td { (status.compared) ", of them with a difference " (status.differing) } }
                tr { th { "Connections" } td { (status.flows) ", with two legs " (status.two_legs) } }
                @if status.in_doubt > 0 { tr { th.bad { "Writes in doubt" } td { (status.in_doubt) } } }
            }
        }
    }
}

fn timeline(report: &Report) -> Result<Markup> {
    let Some(plan) = &report.plan else { return Ok(html! {}) };
    let percent = |entry: &Entry| match entry.state.stage {
        Stage::Standby | Stage::Finalized => 100.0,
        _ => f64::from(entry.state.weight.weight(&plan.weight)) / 100.0,
    };
    let changes: Vec<(f64, f64)> =
        report.entries.iter().map(|entry| (entry.at_ms as f64 / 1e3, percent(entry))).collect();
    let line = plot::steps(&changes, report.made_at_ms as f64 / 1e3);
    let picture = plot::plot(&[line], |value| format!("{value:.0} %"))?;
    let mut stages: Vec<&Entry> = Vec::new();
    for entry in &report.entries {
        if stages.last().is_none_or(|last| last.state.stage != entry.state.stage) {
            stages.push(entry);
        }
    }
    Ok(html! {
        h2 { "Stages, and the share of the reads that the shadow answers" }
        @if let Some(picture) = picture {
            figure { figcaption { "share of the reads that the shadow answers" } (PreEscaped(picture)) }
        }
        table {
            tr { th { "From" } th { "Stage" } th { "Why" } }
            @for entry in stages {
                tr { td { (clock(entry.at_ms)) } td { (entry.state.stage.name()) } td { (entry.words) } }
            }
        }
    })
}

fn sides(status: &AppStatus) -> Markup {
    let row = |name: &str, side: &SideStatus| {
        let answered = side.answered[0] + side.answered[1];
        let share = if answered > 0 { side.errors as f64 / answered as f64 * 100.0 } else { 0.0 };
        html! {
            tr {
                td { (name) }
                td.n { (side.answered[0]) } td.n { (side.answered[1]) }
                td.n { (format!("{:.2} ms", side.p50_us as f64 / 1e3)) }
                td.n { (format!("{:.2} ms", side.p99_us as f64 / 1e3)) }
                td.n { (side.errors) (format!(" ({share:.3} %)")) }
                td.n { (side.statuses[3]) }
                td.n { (side.legs_lost) }
                td { @if side.in_sync { span.good { "in sync" } } @else { span.bad { "out of sync" } }
                     " for " (span(side.since)) ": " (side.reason) }
            }
        }
    };
    html! {
        h2 { "What clients were answered" }
        p.faint { "Since the datapath was loaded. Errors are answers of status 500 and above." }
        table {
            tr { th { "Side" } th.n { "Reads" } th.n { "Writes" } th.n { "p50" } th.n { "p99" } th.n { "Errors" } th.n { "4xx" }
                 th.n { "Legs lost" } th { "Standing" } }
            (row("primary", &status.primary))
            (row("shadow", &status.shadow))
        }
    }
}

fn evidence(entries: &[Entry]) -> Markup {
    let with = |entry: &&Entry| entry.why.as_ref().and_then(|why| why.grounds()).is_some();
    html! {
        h2 { "Evidence that was decided by" }
        p.faint { "Natural logarithms. A step forward needs evidence beyond the bound that the shadow is no worse, a step back \
                   evidence beyond it that it is." }
        table {
            tr { th { "At" } th { "Decided" } th.n { "Evidence" } th.n { "Bound" } th.n { "Requests" } }
            @for entry in entries.iter().filter(with) {
                @if let Some(grounds) = entry.why.as_ref().and_then(|why| why.grounds()) {
                    tr {
                        td { (clock(entry.at_ms)) }
                        td { (entry.words) }
                        td.n { @match grounds.evidence { Some(e) => (format!("{e:.1}")), None => "–" } }
                        td.n { (format!("{:.1}", grounds.bound)) }
                        td.n { (grounds.samples) }
                    }
                }
            }
        }
    }
}

fn moves(entries: &[Entry]) -> Markup {
    let us = |us: f64| format!("{us:.1} µs");
    let slowest = |us: Option<f64>| us.map_or("–".into(), |us| format!("{:.1} ms", us / 1e3));
    let timed: Vec<_> = entries.iter().filter_map(|entry| Some((entry, entry.phases?))).collect();
    html! {
        @if !timed.is_empty() {
            h2 { "Moves" }
            p.faint { "The slowest requests are of those answered within the move, or within 100 ms behind it." }
            table {
                tr { th { "At" } th { "What" } th.n { "Freeze" } th.n { "Drain" } th.n { "Hook" } th.n { "Flip" }
                     th.n { "Frozen in all" } th.n { "Slowest read, write" } }
                @for (entry, phases) in timed {
                    tr {
                        td { (clock(entry.at_ms)) } td { (entry.words) }
                        td.n { (us(phases.freeze_us)) } td.n { (us(phases.drain_us)) } td.n { (us(phases.hook_us)) }
                        td.n { (us(phases.flip_us)) } td.n { (us(phases.frozen_us)) }
                        td.n { (slowest(phases.slowest_us[0])) ", " (slowest(phases.slowest_us[1])) }
                    }
                }
            }
        }
    }
}

fn curves(report: &Report) -> Result<Markup> {
    let mut figures = Vec::new();
    for metric in Metric::ALL {
        let of_metric = |curve: &&super::Curve| curve.metric == metric;
        let lines: Vec<plot::Line> = report
            .curves
            .iter()
            .filter(of_metric)
            .flat_map(|curve| plot::lines(curve, usize::from(curve.side == "shadow")))
            .collect();
        if let Some(picture) = plot::plot(&lines, |value| shown(metric, Some(value)))? {
            figures.push((metric.name(), picture));
        }
    }
    Ok(html! {
        @if !figures.is_empty() {
            h2 { "Requests and resources" }
            p { span.p { "primary" } " and " span.s { "shadow" } }
            @for (name, picture) in figures { figure { figcaption { (name) } (PreEscaped(picture)) } }
        }
    })
}

fn notices(status: &AppStatus) -> Markup {
    let first = status.notices.len().saturating_sub(NOTICES);
    html! {
        h2 { "What happened since the daemon started" }
        p.faint { "The last " (status.notices.len() - first) " of " (status.notices.len()) " notices, moves by hand among them." }
        ul { @for notice in &status.notices[first..] { li { (notice) } } }
    }
}

fn journal(report: &Report) -> Markup {
    let entries = &report.entries;
    let left_out = entries.len().saturating_sub(ROWS);
    let shown = entries.iter().take(ROWS / 2).chain(entries.iter().skip((ROWS / 2).max(left_out + ROWS / 2)));
    html! {
        h2 { "Journal" }
        @if left_out > 0 { p.faint { (left_out) " lines in the middle are left out." } }
        table {
            tr { th.n { "Line" } th { "At" } th { "Stage" } th { "Why" } th { "What was done" } }
            @for entry in shown {
                tr {
                    td.n { (entry.number) }
                    td { (clock(entry.at_ms)) }
                    td { @if report.plan.is_some() { (entry.state.stage.name()) } }
                    td { (entry.words) }
                    td.faint {
                        @match &entry.what {
                            What::Begun(_, who) => { "begun by " (who) }
                            What::Replanned(_, who) => { "by another policy from here on, of " (who) }
                            What::Decided(actions) => {
                                @if !actions.is_empty() { (format!("{actions:?}")) }
                            }
                            What::Moved | What::Asked(..) | What::Appointment | What::Scaled(..) | What::Breaker(_) => {}
                        }
                    }
                }
            }
        }
    }
}

fn configuration(plan: &Plan) -> Result<Markup> {
    let text = serde_json::to_string_pretty(plan)?;
    Ok(html! {
        h2 { "What it decided by" }
        pre { (text) }
    })
}
