//! How forecasts are shown: history, forecast and interval drawn, a table of horizons, and what the sides need for it.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Style as Look},
    symbols::Marker,
    text::Line,
    widgets::{Axis, Chart, Dataset, GraphType, Widget as _},
};

use super::{DOUBTFUL, FAINT, Show, migration::show_scaling, resources::shown, span, styled};
use crate::api::forecast::{ClassForecast, ForecastAnswer, HorizonForecast, Need};

/// Columns and rows of a drawing.
const WIDTH: u16 = 100;
const HEIGHT: u16 = 14;
/// Minutes that are drawn of the past and of what is to come, at most.
const DRAWN: usize = 240;
/// A forecast that is older is doubtful, in seconds.
const OLD: f64 = 180.0;
/// Where nothing is known.
const NONE: &str = "–";

impl Show for ForecastAnswer {
    fn lines(&self) -> String {
        let mut text = String::new();
        match self.age_seconds {
            Some(age) => {
                let style = if age > OLD { DOUBTFUL } else { FAINT };
                let made = format!("made {} ago, in {:.2} s", span(age), self.took_seconds.unwrap_or(0.0));
                let _ = writeln!(text, "{}   {}", self.name, styled(style, made));
            }
            None => {
                let why = "no forecast yet: the first minutes are being measured, or nothing is kept on disk";
                let _ = writeln!(text, "{}   {}", self.name, styled(DOUBTFUL, why));
            }
        }
        for class in &self.classes {
            show_class(&mut text, class);
        }
        for side in &self.demand {
            let known = side.needs.iter().any(|need| need.now.is_some() || need.hour.is_some());
            let missing = side.needs.iter().filter_map(|need| need.missing_samples).min();
            match (known, missing) {
                (false, Some(missing)) => {
                    let why = format!("not known yet: {missing} more minutes with requests and resources");
                    let _ = writeln!(text, "{:<9} needs {}", side.side, styled(DOUBTFUL, why));
                }
                _ => show_needs(&mut text, &side.side, &side.needs),
            }
        }
        show_scaling(&mut text, &self.scaling);
        text
    }
}

fn show_class(text: &mut String, class: &ClassForecast) {
    let _ = writeln!(text, "\n{}", styled(Style::new().bold(), format!("{} a second", class.class)));
    if let Some(missing) = class.missing_minutes {
        let _ =
            writeln!(text, "  {}", styled(DOUBTFUL, format!("too little history: {missing} more minutes")));
        return;
    }
    text.push_str(&draw(class));
    let head = format!(
        "  {:>7} {:>11} {:>23} {:>7} {:>6} {:>7}  by",
        "in", "expected", "90 % interval", "scored", "MASE", "within"
    );
    let _ = writeln!(text, "{}", styled(FAINT, head));
    for horizon in &class.horizons {
        let _ = writeln!(text, "{}", row(horizon));
    }
}

fn row(horizon: &HorizonForecast) -> String {
    let ahead = span(horizon.seconds as f64);
    let (Some(mean), Some([low, high])) = (horizon.mean, horizon.interval90) else {
        return format!("  {ahead:>7} {}", styled(FAINT, "too little history"));
    };
    let number = |value: Option<f64>, digits| value.map_or(NONE.into(), |value| format!("{value:.digits$}"));
    let within = number(horizon.coverage90.map(|share| share * 100.0), 0);
    let within = if horizon.coverage90.is_some() { within + " %" } else { within };
    format!(
        "  {ahead:>7} {mean:>11.1} {:>23} {:>7} {:>6} {within:>7}  {}",
        format!("{low:.1} to {high:.1}"),
        horizon.scored,
        number(horizon.mase, 2),
        horizon.fell_back_on.as_deref().unwrap_or("all models, weighted"),
    )
}

fn show_needs(text: &mut String, side: &str, needs: &[Need]) {
    let head =
        format!("{side:<9} {:>28} {:>28} {:>28}", "NEEDS NOW (95 %)", "WITHIN AN HOUR", "WITHIN A DAY");
    let _ = writeln!(text, "\n{head}");
    for need in needs {
        let pair = |pair: Option<[f64; 2]>| match pair {
            Some([expected, high]) => {
                let high = shown(need.metric, Some(high));
                format!("{} ({high})", shown(need.metric, Some(expected)))
            }
            None => NONE.to_owned(),
        };
        let missing = need.missing_samples.map(|missing| format!("   not known yet: {missing} more minutes"));
        let _ = writeln!(
            text,
            "{:<9} {:>28} {:>28} {:>28}{}",
            need.metric.name(),
            pair(need.now),
            pair(need.hour),
            pair(need.day),
            styled(FAINT, missing.unwrap_or_default())
        );
    }
}

/// The past left of the present, what is forecast right of it.
fn draw(class: &ClassForecast) -> String {
    let past = &class.history[class.history.len().saturating_sub(DRAWN)..];
    let to_come = &class.path[..class.path.len().min(DRAWN)];
    let minute = |index: usize| index as f64 + 1.0;
    let history: Vec<(f64, f64)> = past
        .iter()
        .enumerate()
        .filter_map(|(index, value)| Some((minute(index) - past.len() as f64, (*value)?)))
        .collect();
    let line = |of: usize| -> Vec<(f64, f64)> {
        to_come.iter().enumerate().map(|(index, point)| (minute(index), point[of])).collect()
    };
    let (mean, low, high) = (line(0), line(1), line(2));
    let most = history.iter().chain(&high).map(|(_, value)| *value).fold(1.0, f64::max) * 1.05;
    let set = |data, colour, kind| {
        Dataset::default()
            .data(data)
            .marker(Marker::Braille)
            .graph_type(kind)
            .style(Look::default().fg(colour))
    };
    let (left, right) = (-(past.len() as f64), to_come.len() as f64);
    let labels = [format!("-{}", span(-left * 60.0)), "now".into(), format!("+{}", span(right * 60.0))];
    let times = if left == -right { labels.to_vec() } else { vec![labels[0].clone(), labels[2].clone()] };
    let chart = Chart::new(vec![
        set(&low, Color::Yellow, GraphType::Scatter),
        set(&high, Color::Yellow, GraphType::Scatter),
        set(&mean, Color::Green, GraphType::Line),
        set(&history, Color::Cyan, GraphType::Scatter),
    ])
    .x_axis(Axis::default().bounds([left, right]).labels(times.into_iter().map(Line::from)))
    .y_axis(
        Axis::default()
            .bounds([0.0, most])
            .labels([0.0, most / 2.0, most].map(|value| Line::from(format!("{value:.0}")))),
    );
    let area = Rect::new(0, 0, WIDTH, HEIGHT);
    let mut buffer = Buffer::empty(area);
    chart.render(area, &mut buffer);
    as_text(&buffer)
}

/// A drawing as lines, with the colours of this module.
fn as_text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for row in 0..buffer.area.height {
        let mut line = String::new();
        for column in 0..buffer.area.width {
            let Some(cell) = buffer.cell((column, row)) else { continue };
            let colour = match cell.fg {
                Color::Yellow => Some(AnsiColor::Yellow),
                Color::Green => Some(AnsiColor::Green),
                Color::Cyan => Some(AnsiColor::Cyan),
                _ => None,
            };
            match colour.filter(|_| cell.symbol() != " ") {
                Some(colour) => line.push_str(&styled(colour.on_default(), cell.symbol())),
                None => line.push_str(cell.symbol()),
            }
        }
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use mirror_control::migration::Capacity;

    use super::*;
    use crate::{
        api::forecast::{Scaling, SideDemand},
        resources::Metric,
    };

    fn answer() -> ForecastAnswer {
        let horizon = |seconds, known: bool| HorizonForecast {
            seconds,
            mean: known.then_some(120.5),
            interval90: known.then_some([100.0, 140.0]),
            fell_back_on: (seconds == 60).then(|| "last value".into()),
            scored: u64::from(known) * 12,
            mase: known.then_some(0.873),
            pinball: None,
            coverage90: known.then_some(0.917),
        };
        let class = |class: &str, missing_minutes: Option<usize>| ClassForecast {
            class: class.into(),
            missing_minutes,
            history: (0..60).map(|minute| (minute % 7 != 0).then(|| 100.0 + f64::from(minute))).collect(),
            expected: Vec::new(),
            path: (0..60).map(|_| [120.0, 100.0, 140.0]).collect(),
            horizons: vec![horizon(60, true), horizon(86_400, false)],
        };
        let need = |metric, now| Need { metric, missing_samples: None, now, hour: now, day: None };
        let missing = Need { missing_samples: Some(7), ..need(Metric::Cpu, None) };
        ForecastAnswer {
            name: "shop".into(),
            age_seconds: Some(12.0),
            took_seconds: Some(0.251),
            from: Some(0),
            classes: vec![class("reads", None), class("writes", Some(4))],
            demand: vec![
                SideDemand { side: "primary".into(), needs: vec![missing] },
                SideDemand { side: "shadow".into(), needs: vec![need(Metric::Cpu, Some([1.5, 2.25]))] },
            ],
            scaling: Scaling {
                failure: Some("shop isn't provisioned here".into()),
                capacity: [None, Some(Capacity::of("cores", 2.25, 2.0))],
                ..Scaling::default()
            },
        }
    }

    #[test]
    fn it_reads_like_this() {
        let text = anstream::adapter::strip_str(&answer().lines()).to_string();
        let drawn: Vec<&str> =
            text.lines().filter(|line| line.contains(['⠁', '⡀', '⣀', '⠉', '⠤', '⠒', '⢀', '⠈'])).collect();
        assert!(drawn.len() >= 5, "nothing is drawn:\n{text}");
        assert!(text.contains("-60 min") || text.contains("-1 h"), "{text}");
        for line in [
            "shop   made 12 s ago, in 0.25 s",
            "reads a second",
            "     60 s       120.5          100.0 to 140.0      12   0.87    92 %  last value",
            "too little history: 4 more minutes",
            "primary   needs not known yet: 7 more minutes with requests and resources",
            "cpu            1.50 cores (2.25 cores)      1.50 cores (2.25 cores)                            –",
            "  scaling   shop isn't provisioned here",
            "  capacity  shadow: too small for what is forecast: 2.25 cores needed, 2.00 there",
        ] {
            assert!(text.contains(line), "no `{line}` in\n{text}");
        }
        assert!(text.contains("too little history\n"), "the horizon that isn't reached:\n{text}");
    }

    #[test]
    fn before_the_first_forecast_that_is_said() {
        let empty = ForecastAnswer { age_seconds: None, classes: Vec::new(), demand: Vec::new(), ..answer() };
        assert!(empty.lines().contains("no forecast yet"));
    }
}
