//! A screen as a function of what is known.

use std::time::Duration;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Block, Cell, LineGauge, Paragraph, Row, Table, Wrap},
};

use super::keys::Prompt;
use crate::{
    api::{
        AppStatus, ServiceStatus, SideStatus,
        forecast::{ClassForecast, ForecastAnswer},
        migration::MigrationStatus,
        resources::ResourcesAnswer,
    },
    outlook::KEPT_AHEAD,
    output::{clock, shown, span},
    resources::Metric,
};

/// Columns and lines that it needs.
const LEAST: (u16, u16) = (80, 24);
/// Without a newer status for so long, what is shown is old.
const OLD: Duration = Duration::from_millis(2_500);

/// What is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Screen {
    /// The last status; nothing before the first.
    pub(super) app: Option<AppStatus>,
    /// With it.
    pub(super) resources: Option<ResourcesAnswer>,
    /// The last forecast.
    pub(super) forecast: Option<ForecastAnswer>,
    /// Since the last status.
    pub(super) age: Duration,
    /// Why there is no newer one.
    pub(super) trouble: Option<String>,
    /// What the last line is about.
    pub(super) prompt: Prompt,
    /// What became of the last command.
    pub(super) said: String,
}

/// Whether a migration under way moves the traffic by itself.
pub(super) fn steers(app: &AppStatus) -> bool {
    app.migration.as_ref().is_some_and(|migration| !migration.over && migration.paused_by.is_none())
}

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let said = format!(
            "mirror top needs {} x {}, this terminal is {} x {}. q: quit",
            LEAST.0, LEAST.1, area.width, area.height
        );
        frame.render_widget(Paragraph::new(said).wrap(Wrap { trim: true }), area);
        return;
    }
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(0), Constraint::Length(2)]).areas(area);
    frame.render_widget(Paragraph::new(heading(screen)), head);
    match &screen.app {
        Some(app) => draw_app(frame, body, app, screen),
        None => frame.render_widget(Paragraph::new("waiting for the first status …").dim(), body),
    }
    frame.render_widget(Paragraph::new(vec![Line::raw(&screen.said), footer(&screen.prompt)]), foot);
}

fn heading(screen: &Screen) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    if let Some(app) = &screen.app {
        let synced = app.primary.in_sync && app.shadow.in_sync;
        let mut line = vec![
            Span::raw(&app.name).bold(),
            format!("   {}   authority {}   epoch {}   ", app.phase, app.authority, app.epoch).into(),
            if synced { "in sync".green() } else { "OUT OF SYNC".red().bold() },
        ];
        if app.frozen {
            line.push("   FROZEN".yellow());
        }
        lines.push(Line::from(line));
    }
    if let Some(trouble) = &screen.trouble {
        let said = format!("what stands here is {:.0} s old: {trouble}", screen.age.as_secs_f64());
        lines.push(Line::from(said.red().bold()));
    } else if screen.age > OLD {
        lines.push(format!("no answer for {:.0} s", screen.age.as_secs_f64()).yellow().into());
    }
    lines
}

fn footer(prompt: &Prompt) -> Line<'_> {
    match prompt {
        Prompt::Keys => Line::from(
            "w weight  p pause  r resume  c cutover  b rollback  a abort  f finalize  q quit".dim(),
        ),
        Prompt::Weight(text) => {
            format!("share of the reads for the shadow, in percent: {text}_   (Enter, Esc)").yellow().into()
        }
        Prompt::Confirm(command) => format!("{}?   y/n", command.question()).yellow().bold().into(),
    }
}

fn draw_app(frame: &mut Frame<'_>, area: Rect, app: &AppStatus, screen: &Screen) {
    let forecast = screen.forecast.as_ref().map(forecast).unwrap_or_default();
    let migration = app.migration.as_ref().map(migration).unwrap_or_default();
    // Its reason may need a second line; the events have what is left.
    let height = if migration.is_empty() { 0 } else { migration.len() as u16 + 1 };
    let [facts, weight, sides, expected, steps, events] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Length(5),
        Constraint::Length(forecast.len() as u16 + 1),
        Constraint::Length(height),
        Constraint::Min(3),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(self::facts(app)), facts);
    let share = LineGauge::default()
        .ratio((app.weight / 100.0).clamp(0.0, 1.0))
        .label(format!("weight {:>6.2} %", app.weight))
        .filled_symbol("█")
        .unfilled_symbol("░")
        .filled_style(Style::new().fg(Color::Green))
        .unfilled_style(Style::new().dim());
    frame.render_widget(share, weight);
    frame.render_widget(self::sides(app, screen.resources.as_ref()), sides);
    frame.render_widget(Paragraph::new(forecast), expected);
    frame.render_widget(Paragraph::new(migration).wrap(Wrap { trim: false }), steps);
    let block = Block::bordered().title(" events ");
    let room = usize::from(block.inner(events).height);
    let first = app.notices.len().saturating_sub(room);
    let lines: Vec<Line<'_>> = app.notices[first..].iter().map(Line::raw).collect();
    frame.render_widget(Paragraph::new(lines).block(block), events);
}

/// Both sides' legs of each service, where there are several.
fn by_service(app: &AppStatus) -> String {
    let of = |service: &ServiceStatus| {
        let [primary, shadow] = service.legs;
        format!("{} {primary} and {shadow}", service.name.as_deref().unwrap_or_default())
    };
    match app.services.as_slice() {
        [] | [_] => String::new(),
        services => format!(" ({})", services.iter().map(of).collect::<Vec<_>>().join(", ")),
    }
}

fn facts(app: &AppStatus) -> Vec<Line<'_>> {
    let compared = format!("compared {}   differing {}", app.compared, app.differing);
    let mut second = vec![if app.differing > 0 { compared.red() } else { compared.into() }];
    if app.in_doubt > 0 {
        second.push(format!("   writes in doubt {}", app.in_doubt).red().bold());
    }
    if let Some(ordered) = &app.ordered {
        let what = if ordered.open { "due" } else { "ordered" };
        second.push(format!("   cutover {what} for {}", clock(ordered.order.at_ms)).yellow());
    }
    let held = app.held[0];
    vec![
        format!(
            "legs {} / {}{}   writes open {}   frames held {held}",
            app.two_legs,
            app.flows,
            by_service(app),
            app.open_writes
        )
        .into(),
        Line::from(second),
    ]
}

fn sides<'a>(app: &'a AppStatus, resources: Option<&ResourcesAnswer>) -> Table<'a> {
    let head = ["", "reads", "writes", "p50", "p99", "errors", "lost", "CPU", "memory"];
    let mut rows = vec![Row::new(head).dim()];
    for (name, side) in [("primary", &app.primary), ("shadow", &app.shadow)] {
        let now = |metric: Metric| {
            let sides = resources.map(|resources| resources.sides.as_slice()).unwrap_or_default();
            let metrics = sides.iter().find(|side| side.side == name).map(|side| side.metrics.as_slice());
            let values = metrics.unwrap_or_default().iter().find(|values| values.metric == metric);
            shown(metric, values.and_then(|values| values.now))
        };
        rows.push(Row::new([
            Cell::from(if name == app.authority { name.bold() } else { Span::raw(name) }),
            Cell::from(now(Metric::Reads)),
            Cell::from(now(Metric::Writes)),
            Cell::from(latency(side.p50_us)),
            Cell::from(latency(side.p99_us)),
            Cell::from(side.errors.to_string()),
            Cell::from(side.legs_lost.to_string()),
            Cell::from(now(Metric::Cpu)),
            Cell::from(now(Metric::Memory)),
        ]));
        rows.push(Row::new([Cell::from(""), Cell::from(standing(side)).column_span(8)]));
    }
    let widths = [8, 10, 10, 9, 9, 7, 6, 11, 10].map(Constraint::Max);
    Table::new(rows, widths).column_spacing(1)
}

/// A line a class: what it was asked in the last minute, and is expected to be soon.
fn forecast(answer: &ForecastAnswer) -> Vec<Line<'_>> {
    answer.classes.iter().map(|class| Line::from(Span::raw(expected(class)))).collect()
}

fn expected(class: &ClassForecast) -> String {
    let name = &class.class;
    let now = class.history.last().copied().flatten().map_or("–".into(), |rate| format!("{rate:.1}/s"));
    match (class.missing_minutes, class.path.get(KEPT_AHEAD - 1)) {
        (None, Some([mean, low, high])) => {
            format!("{name:<8} now {now:<11} in 10 min {mean:.1}/s ({low:.1} to {high:.1})")
        }
        (missing, _) => {
            let missing = missing.map(|minutes| format!(", {minutes} more minutes")).unwrap_or_default();
            format!("{name:<8} now {now:<11} in 10 min: too little history{missing}")
        }
    }
}

fn standing(side: &SideStatus) -> Line<'_> {
    let said = format!("for {}: {}", span(side.since), side.reason);
    if side.in_sync { said.dim().into() } else { format!("out of sync {said}").red().into() }
}

fn latency(us: u64) -> String {
    if us == 0 { "–".into() } else { format!("{:.2} ms", us as f64 / 1e3) }
}

fn migration(migration: &MigrationStatus) -> Vec<Line<'_>> {
    let mut stage = vec![Span::raw("migration "), Span::raw(&migration.stage).bold()];
    stage.push(format!(": {}", migration.why).into());
    if let Some(who) = &migration.paused_by {
        stage.push(format!("   PAUSED by {who}").yellow());
    }
    let mut steps = vec![Span::raw("steps ")];
    for step in &migration.steps {
        let shown = format!(" {step}");
        steps.push(if *step == migration.weight { shown.green().bold() } else { shown.dim() });
    }
    steps.push(format!(" %   steps back {}", migration.steps_back).into());
    if let Some(left) = migration.standby_seconds {
        steps.push(format!("   standby {} more", span(left)).into());
    }
    let mut lines = vec![Line::from(stage), Line::from(steps)];
    lines.extend(migration.evidence.iter().map(|finding| Line::from(Span::raw(finding).dim())));
    lines
}

#[cfg(test)]
mod tests;
