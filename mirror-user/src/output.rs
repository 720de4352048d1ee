//! What is printed: JSON where it is asked for, else lines for people, coloured where they are read on a terminal.

mod divergence;
mod flows;
mod forecast;
mod migration;
mod observe;
mod resources;

pub(crate) use migration::clock;
pub(crate) use resources::shown;

use std::{fmt::Write as _, io::Write as _, path::PathBuf};

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use mirror_control::{
    driver::{self, Instance, Limits, Plan, Standing},
    precondition::{self, Check},
};
use serde::Serialize;

use crate::{
    api::{AppStatus, Counter, Moved, Reloaded, SideStatus, Status},
    doctor::{Level, Line},
};

const GOOD: Style = AnsiColor::Green.on_default();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const FAINT: Style = Style::new().dimmed();
/// Notices that `status` shows.
const NOTICES: usize = 5;

/// Something that can be printed for people.
pub trait Show: Serialize {
    /// Lines, each with its end.
    fn lines(&self) -> String;
}

/// Prints it.
///
/// # Errors
/// When standard output is closed.
pub fn print(value: &impl Show, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(value)?);
    } else {
        anstream::print!("{}", value.lines());
    }
    Ok(())
}

/// Prints it over what was printed there before: on a terminal the screen is drawn anew, elsewhere it is appended.
///
/// # Errors
/// When standard output is closed.
pub fn redraw(value: &impl Show, json: bool) -> Result<()> {
    if json || !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return print(value, json);
    }
    let mut out = anstream::stdout().lock();
    // Home, the lines each cleared to its end, then all that is below.
    let lines = value.lines().replace('\n', "\x1b[K\n");
    write!(out, "\x1b[H{lines}\x1b[J")?;
    Ok(out.flush()?)
}

fn styled(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

impl Show for Status {
    fn lines(&self) -> String {
        let mut text = String::new();
        for app in &self.apps {
            show_app(&mut text, app);
        }
        let _ = writeln!(text, "{}", styled(FAINT, self.devices.join("   ")));
        text
    }
}

fn show_app(text: &mut String, app: &AppStatus) {
    let sync = if app.primary.in_sync && app.shadow.in_sync {
        styled(GOOD, "in sync")
    } else {
        styled(BAD, "OUT OF SYNC")
    };
    let frozen = if app.frozen { styled(DOUBTFUL, "   FROZEN") } else { String::new() };
    let _ = writeln!(
        text,
        "{:<10} {} {} %   authority {}   legs {} / {}   {sync}{frozen}   writes open {}   held {}",
        app.name, app.phase, app.weight, app.authority, app.two_legs, app.flows, app.open_writes, app.held[0]
    );
    for (name, side) in [("primary", &app.primary), ("shadow", &app.shadow)] {
        show_side(text, name, side, &app.name);
    }
    if app.in_doubt > 0 {
        let doubt = format!(
            "{} writes in doubt: the authority lost their connections, the other side does them",
            app.in_doubt
        );
        let _ = writeln!(text, "  {}", styled(BAD, doubt));
    }
    if app.overtaking > 0 {
        let order = format!(
            "{} writes may have overtaken another connection's on the mirror ({} connections lag now)",
            app.overtaking, app.lagging
        );
        let _ = writeln!(text, "  {}", styled(FAINT, order));
    }
    if app.compared > 0 {
        let differing = format!(
            "{} turns compared: {} differ; errors {} and {}",
            app.compared, app.differing, app.primary.errors_compared, app.shadow.errors_compared
        );
        let _ = writeln!(text, "  {}", styled(if app.differing > 0 { BAD } else { FAINT }, differing));
    }
    if let Some(ordered) = &app.ordered {
        migration::show_order(text, ordered);
    }
    if let Some(status) = &app.migration {
        migration::show(text, status);
    }
    let first = app.notices.len().saturating_sub(NOTICES);
    for notice in &app.notices[first..] {
        let _ = writeln!(text, "  {}", styled(FAINT, notice));
    }
}

fn show_side(text: &mut String, name: &str, side: &SideStatus, app: &str) {
    let sync = if side.in_sync { styled(GOOD, "in sync    ") } else { styled(BAD, "out of sync") };
    let not_taken = match side.not_taken {
        0 => String::new(),
        count => styled(BAD, format!("; {count} connections not taken")),
    };
    let _ = writeln!(
        text,
        "  {name:<8} {sync}   reads {:>9}   writes {:>9}   p50 {:>7.2} ms   p99 {:>7.2} ms   errors {}   legs lost {}",
        side.answered[0],
        side.answered[1],
        side.p50_us as f64 / 1e3,
        side.p99_us as f64 / 1e3,
        side.errors,
        side.legs_lost,
    );
    let breaker = match (side.breaker.as_str(), side.next_probe) {
        ("open", Some(seconds)) => format!("; breaker open: asked again in {}", span(seconds)),
        ("half-open", _) => format!("; well again: mirror join {app}"),
        _ => String::new(),
    };
    let reason = format!("for {}: {}{breaker}", span(side.since), side.reason);
    let _ = writeln!(text, "  {:<8} {}{not_taken}", "", styled(FAINT, reason));
    if side.bytes != [0; 2] {
        let _ = writeln!(text, "  {:<8} {}", "", styled(FAINT, answers(side)));
    }
    for server in &side.servers {
        let well = if server.well { styled(GOOD, "well") } else { styled(BAD, "not well") };
        let standing = match (server.well, server.takes) {
            (true, _) => String::new(),
            (false, true) => "; tried all the same: none is well".into(),
            (false, false) => "; gets no new connections".into(),
        };
        let since = format!("for {}{standing}", span(server.since));
        let connections = format!("{} connections", server.connections);
        let _ = writeln!(
            text,
            "  {:<8} {}   {connections}   {well} {}",
            "",
            server.address,
            styled(FAINT, since)
        );
    }
}

/// Answers by the class of their status, where there are any, and payload.
fn answers(side: &SideStatus) -> String {
    let of_class = |(first, count): (usize, &u64)| (*count > 0).then(|| format!("{first}xx {count}   "));
    let statuses: String = (1..).zip(&side.statuses).filter_map(of_class).collect();
    let [requests, answers] = side.bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
    format!("{statuses}requests {requests:.1} MiB   answers {answers:.1} MiB")
}

/// A time in the largest unit that fits.
pub(crate) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

impl Show for Reloaded {
    fn lines(&self) -> String {
        match self.changed.as_slice() {
            [] => "nothing has changed\n".into(),
            changed => format!("goes by the new [{}] now\n", changed.join("], [")),
        }
    }
}

/// What `check` found.
#[derive(Serialize)]
pub struct Holds {
    /// The application's name.
    pub name: String,
    /// Always: what doesn't is an error.
    pub holds: bool,
}

impl Show for Holds {
    fn lines(&self) -> String {
        format!("{} holds\n", self.name)
    }
}

/// What `unload` did.
#[derive(Serialize)]
pub struct Removed {
    /// Pins.
    pub removed: usize,
    /// Where they were.
    pub pins: PathBuf,
    /// Servers whose hardware addresses the kernel keeps no more.
    pub neighbours: usize,
}

impl Show for Removed {
    fn lines(&self) -> String {
        let Self { removed, pins, neighbours } = self;
        format!(
            "removed {removed} pins from {}; {neighbours} neighbours aren't kept any more\n",
            pins.display()
        )
    }
}

/// What `provision --dry-run` prints: the plan itself.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Planned(pub Plan);

impl Show for Planned {
    fn lines(&self) -> String {
        self.0.steps.iter().enumerate().map(|(n, step)| format!("{:>2}  {step}\n", n + 1)).collect()
    }
}

/// What `provision` did.
#[derive(Serialize)]
pub struct Provisioned {
    /// Its steps; people have read them by then.
    pub steps: Vec<driver::Done>,
    /// What there is now.
    pub instance: Instance,
}

impl Show for Provisioned {
    fn lines(&self) -> String {
        self.instance.lines()
    }
}

/// What `instance` shows.
#[derive(Serialize)]
pub struct Described {
    /// What there is.
    #[serde(flatten)]
    pub instance: Instance,
    /// It says so itself.
    pub healthy: bool,
    /// Why not.
    pub unhealthy: Option<String>,
}

impl Show for Described {
    fn lines(&self) -> String {
        let health = match &self.unhealthy {
            None => styled(GOOD, "healthy"),
            Some(why) => styled(BAD, format!("not healthy: {why}")),
        };
        format!("{}  {health}\n", self.instance.lines())
    }
}

impl Show for Instance {
    fn lines(&self) -> String {
        let standing = match self.standing {
            Standing::Running => styled(GOOD, "runs"),
            Standing::Stopped => styled(BAD, "has ended"),
            Standing::Unfinished => styled(DOUBTFUL, "is unfinished"),
        };
        let pid = self.pid.map_or(String::new(), |pid| format!(" as process {pid}"));
        let limits = self.limits.map_or("no limits".into(), |limits| limits.to_string());
        format!("{} {standing}{pid} at {}   {limits}   log {}\n", self.app, self.address, self.log)
    }
}

impl Show for Limits {
    fn lines(&self) -> String {
        format!("{self}\n")
    }
}

/// What `deprovision` did.
#[derive(Serialize)]
pub struct Deprovisioned {
    /// The application.
    pub app: String,
    /// Whether there was anything.
    pub found: bool,
    /// Its steps; people have read them by then.
    pub steps: Vec<driver::Done>,
}

impl Show for Deprovisioned {
    fn lines(&self) -> String {
        let what = if self.found { "nothing is left of it" } else { "there was nothing" };
        format!("{}: {what}\n", self.app)
    }
}

impl Show for Moved {
    fn lines(&self) -> String {
        let mut text = format!(
            "{}  authority {}  weight {} %  epoch {}\n",
            self.phase, self.authority, self.weight, self.epoch
        );
        if self.rehearsed {
            text.insert_str(0, "rehearsed, nothing moved: ");
        }
        if self.dry_run {
            text.insert_str(0, "it would stand so: ");
        }
        if let Some(p) = &self.phases {
            let _ = writeln!(text, "{p}");
        }
        let only_asked = self.dry_run || self.rehearsed;
        let shown = |check: &&Check| only_asked || check.standing != precondition::Standing::Met;
        for check in self.preconditions.iter().filter(shown) {
            migration::show_precondition(&mut text, check);
        }
        text
    }
}

impl Show for Vec<Counter> {
    fn lines(&self) -> String {
        let line =
            |counter: &Counter| format!("{:>14}  {:<20} {}\n", counter.count, counter.name, counter.help);
        self.iter().map(line).collect()
    }
}

impl Show for Vec<Line> {
    fn lines(&self) -> String {
        let mut text = String::new();
        for line in self {
            let mark = match line.level {
                Level::Ok => styled(GOOD, "ok     "),
                Level::Warning => styled(DOUBTFUL, "warning"),
                Level::Failure => styled(BAD, "FAILURE"),
            };
            let _ = writeln!(text, "{mark}  {:<26} {}", line.check, line.found);
            if let Some(advice) = &line.advice {
                let _ = writeln!(text, "{:<36}→ {advice}", "");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ServerStatus;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn side(in_sync: bool, reason: &str) -> SideStatus {
        SideStatus {
            in_sync,
            since: 300.0,
            reason: reason.into(),
            breaker: if in_sync { "closed" } else { "open" }.into(),
            next_probe: (!in_sync).then_some(8.0),
            servers: Vec::new(),
            legs_lost: 3,
            not_taken: if in_sync { 0 } else { 5 },
            answered: [1_200, 34],
            errors: 1,
            statuses: if in_sync { [0, 1_200, 0, 33, 1] } else { [0; 5] },
            bytes: if in_sync { [1 << 20, 5 << 19] } else { [0; 2] },
            errors_compared: 2,
            p50_us: 310,
            p99_us: 920,
        }
    }

    fn server(host: u8, well: bool, takes: bool) -> ServerStatus {
        ServerStatus {
            address: ([10, 0, 3, host], 80).into(),
            well,
            takes,
            since: 60.0,
            connections: u32::from(host),
        }
    }

    #[test]
    fn a_status_reads_like_this() {
        let app = AppStatus {
            name: "shop".into(),
            phase: "Idle".into(),
            weight: 0.0,
            authority: "primary".into(),
            epoch: 4,
            frozen: true,
            flows: 200,
            two_legs: 7,
            open_writes: 2,
            lagging: 1,
            overtaking: 12,
            in_doubt: 0,
            held: [1, 9, 0],
            primary: side(true, "found in sync"),
            shadow: SideStatus {
                servers: vec![server(2, true, true), server(3, false, false), server(4, false, true)],
                ..side(false, "it was restarted")
            },
            compared: 900,
            differing: 3,
            migration: None,
            ordered: None,
            notices: (0..9).map(|n| format!("notice {n}")).collect(),
        };
        let text = plain(&Status { pid: 1, devices: vec!["eth0: TC".into()], apps: vec![app] }.lines());
        let expected = "\
shop       Idle 0 %   authority primary   legs 7 / 200   OUT OF SYNC   FROZEN   writes open 2   held 1
  primary  in sync       reads      1200   writes        34   p50    0.31 ms   p99    0.92 ms   errors 1   legs lost 3
           for 5 min: found in sync
           2xx 1200   4xx 33   5xx 1   requests 1.0 MiB   answers 2.5 MiB
  shadow   out of sync   reads      1200   writes        34   p50    0.31 ms   p99    0.92 ms   errors 1   legs lost 3
           for 5 min: it was restarted; breaker open: asked again in 8 s; 5 connections not taken
           10.0.3.2:80   2 connections   well for 60 s
           10.0.3.3:80   3 connections   not well for 60 s; gets no new connections
           10.0.3.4:80   4 connections   not well for 60 s; tried all the same: none is well
  12 writes may have overtaken another connection's on the mirror (1 connections lag now)
  900 turns compared: 3 differ; errors 2 and 2
  notice 4
  notice 5
  notice 6
  notice 7
  notice 8
eth0: TC
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_dry_run_shows_each_precondition_and_a_cutover_only_what_was_not_met() {
        let check = |standing, says: &str| Check {
            precondition: precondition::Precondition::Weight,
            standing,
            says: says.into(),
        };
        let checks =
            vec![check(precondition::Standing::Met, "good"), check(precondition::Standing::NotMet, "bad")];
        let moved = Moved {
            phase: "Standby".into(),
            authority: "shadow".into(),
            weight: 100.0,
            preconditions: checks,
            ..Moved::default()
        };
        let line = "Standby  authority shadow  weight 100 %  epoch 0\n";
        let bad = "  weight      not met       bad\n";
        assert_eq!(plain(&moved.lines()), format!("{line}{bad}"));
        let dry = Moved { dry_run: true, ..moved };
        assert_eq!(
            plain(&dry.lines()),
            format!("it would stand so: {line}  weight      met           good\n{bad}")
        );
    }

    #[test]
    fn what_to_type_stands_below_what_was_found() {
        let lines = vec![
            Line { check: "a".into(), level: Level::Ok, found: "fine".into(), advice: None },
            Line {
                check: "b".into(),
                level: Level::Failure,
                found: "off".into(),
                advice: Some("turn on".into()),
            },
        ];
        let expected = format!("ok       {:<26} fine\nFAILURE  {:<26} off\n{:<36}→ turn on\n", "a", "b", "");
        assert_eq!(plain(&lines.lines()), expected);
    }

    #[test]
    fn spans_have_one_unit() {
        let spans = [0.4, 119.0, 120.0, 7_200.0, 172_800.0].map(span);
        assert_eq!(spans, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
    }
}
