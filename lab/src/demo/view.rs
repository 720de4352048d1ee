//! What a person sees: in a terminal three lines that stay, with what happens above them; else lines alone.

use std::time::{Duration, Instant};

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::checker::Tick;

/// Steps of a bar: tenths of a percent.
const WHOLE: u64 = 1000;
const KEYS: &str = "k kill or restart the shadow   s stop or continue it   9 kill the daemon   Ctrl-C end";

/// Where it is shown.
pub(super) struct View {
    began: Instant,
    live: Option<Live>,
}

struct Live {
    all: MultiProgress,
    head: ProgressBar,
    sides: [(&'static str, ProgressBar); 2],
    keys: ProgressBar,
}

impl View {
    /// Lines that stay, if `live`.
    pub(super) fn new(live: bool) -> Self {
        Self { began: Instant::now(), live: live.then(Live::new) }
    }

    /// Says that something happened.
    pub(super) fn say(&self, line: &str) {
        let line = format!("{:6.1} s  {line}", self.began.elapsed().as_secs_f64());
        match &self.live {
            // A terminal that has gone needs no lines.
            Some(live) => drop(live.all.println(line)),
            None => println!("{line}"),
        }
    }

    /// Shows how things stand: the client's last second, and the daemon's status if it answers.
    pub(super) fn show(&self, tick: &Tick, status: Option<&Value>) {
        let Some(live) = &self.live else { return };
        live.head.set_message(head(tick, status));
        for (name, bar) in &live.sides {
            let server = tick.servers.get(*name).filter(|server| server.reads.count > 0);
            let share = server.map_or(0.0, |server| server.read_share);
            bar.set_position((share * WHOLE as f64).round() as u64);
            let latency = server.map_or_else(String::new, |server| {
                let ms = |us: u64| us as f64 / 1e3;
                format!("p50 {:.2} ms   p99 {:.2} ms", ms(server.reads.p50_us), ms(server.reads.p99_us))
            });
            let lost = status.and_then(|status| status[*name]["legs_lost"].as_u64()).unwrap_or(0);
            bar.set_message(format!("{:5.1} % of reads   {latency:30}   legs lost {lost}", share * 100.0));
        }
    }

    /// Ends what stays, so that more can be printed below.
    pub(super) fn end(&self) {
        if let Some(live) = &self.live {
            for bar in live.sides.iter().map(|(_, bar)| bar).chain([&live.head, &live.keys]) {
                bar.finish_and_clear();
            }
        }
    }
}

/// The line about the application.
fn head(tick: &Tick, status: Option<&Value>) -> String {
    let state = match status {
        None => "the daemon is dead; flows go on".to_owned(),
        Some(status) => {
            let in_sync = ["primary", "shadow"].iter().all(|side| status[side]["in_sync"] == true);
            format!(
                "{} {} %   authority {}   legs {} / {}   {}",
                status["phase"].as_str().unwrap_or("?"),
                status["weight"],
                status["authority"].as_str().unwrap_or("?"),
                status["two_legs"],
                status["flows"],
                if in_sync { "in sync" } else { "OUT OF SYNC" }
            )
        }
    };
    let rate = HumanCount(tick.requests_per_second.round() as u64);
    format!("{}   {state}   {rate} req/s   {} failed", crate::gateway::APP, tick.failed)
}

impl Live {
    fn new() -> Self {
        let all = MultiProgress::new();
        let line = |template: &str| {
            let bar = all.add(ProgressBar::new(WHOLE));
            bar.set_style(style(template));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        };
        let head = line("\n{wide_msg}");
        let side = |name| {
            let bar = line("{prefix:8} {bar:20.cyan/blue} {wide_msg}");
            bar.set_prefix(name);
            (name, bar)
        };
        let sides = [side("primary"), side("shadow")];
        let keys = line("{wide_msg:.dim}");
        keys.set_message(KEYS);
        Self { head, sides, keys, all }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates stand above; a wrong one shows as the default.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("█▓░")
}
