//! What is printed: JSON where it is asked for, else lines for people, coloured where they are read on a terminal.

mod divergence;
mod flows;
mod forecast;
mod migration;
mod observe;
mod resources;
mod status;

pub(crate) use migration::clock;
pub(crate) use resources::shown;

use std::{fmt::Write as _, io::Write as _, net::SocketAddr, path::PathBuf};

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use mirror_common::switch_word::Side;
use mirror_control::{
    driver::{self, Instance, Limits, Plan, Standing},
    precondition::{self, Check},
};
use serde::Serialize;

use crate::{
    api::{Counter, Moved, Reloaded},
    doctor::{Level, Line},
    policy::{Policy, Service},
};

const GOOD: Style = AnsiColor::Green.on_default();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const FAINT: Style = Style::new().dimmed();

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
    /// What clients talk to, in the policy's order.
    pub services: Vec<HeldService>,
}

/// One service in [`Holds`].
#[derive(Serialize)]
pub struct HeldService {
    /// What it is called, where it is called anything.
    pub name: Option<String>,
    /// Its addresses and ports.
    pub listens: Vec<String>,
    /// The primary's servers, and the shadow's.
    pub servers: [Vec<SocketAddr>; 2],
}

impl Holds {
    /// Of a policy that was read.
    pub fn new(policy: &Policy) -> Self {
        let service = |service: &Service| HeldService {
            name: service.name().map(Into::into),
            listens: service.all().map(|listener| listener.to_string()).collect(),
            servers: Side::BOTH
                .map(|side| service.side(side).map(|end| end.servers().to_vec()).unwrap_or_default()),
        };
        let services = policy.services().iter().map(service).collect();
        Self { name: policy.name.as_str().into(), holds: true, services }
    }
}

impl Show for Holds {
    fn lines(&self) -> String {
        let mut text = format!("{} holds\n", self.name);
        let list =
            |servers: &[SocketAddr]| servers.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" ");
        for service in self.services.iter().filter(|_| self.services.len() > 1) {
            let [primary, shadow] = service.servers.each_ref().map(|servers| list(servers));
            let (name, listens) = (service.name.as_deref().unwrap_or_default(), service.listens.join(" "));
            let _ = writeln!(text, "  {name:<8} {listens}   primary {primary}   shadow {shadow}");
        }
        text
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

    /// Without its colours.
    pub(super) fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
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
