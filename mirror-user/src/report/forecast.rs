//! What is expected of the load, beside what came.

use anyhow::Result;
use maud::{Markup, PreEscaped, html};
use mirror_forecast::tracker::STEP;

use super::plot::{self, Line};
use crate::{
    api::forecast::{ClassForecast, ForecastAnswer, HorizonForecast},
    output::span,
};

/// Minutes of the past and of what is to come that are drawn, at most: six hours each.
const DRAWN: usize = 360;

/// The section; nothing before the first forecast.
///
/// # Errors
/// When a picture can't be drawn.
pub(super) fn forecast(answer: &ForecastAnswer) -> Result<Markup> {
    let (Some(from), Some(age)) = (answer.from, answer.age_seconds) else { return Ok(html! {}) };
    let mut classes = Vec::new();
    for class in &answer.classes {
        classes.push((class, plot::plot(&lines(class, from), |rate| format!("{rate:.1} /s"))?));
    }
    Ok(html! {
        h2 { "Load, and what was expected of it" }
        p.faint {
            "Requests a second. " span.p { "What came" } ", and " span.s { "what was expected" } " of it ten minutes \
             before, and is expected from now on, between the ends of its 90 % interval. Made " (span(age)) " ago."
        }
        @for (class, picture) in classes {
            @if let Some(picture) = picture { figure { figcaption { (class.class) } (PreEscaped(picture)) } }
            @if let Some(missing) = class.missing_minutes {
                p { (class.class) ": too little history, " (missing) " more minutes are needed" }
            } @else {
                (scores(class))
            }
        }
    })
}

/// `from`: begin of the first minute that is forecast, in seconds since 1970.
fn lines(class: &ClassForecast, from: u64) -> Vec<Line> {
    let step = STEP.as_secs();
    let skip = |minutes: usize| minutes.saturating_sub(DRAWN);
    let begin = |minutes: usize| from.saturating_sub((minutes - skip(minutes)) as u64 * step);
    let (history, expected) = (&class.history, &class.expected);
    let to_come = &class.path[..class.path.len().min(DRAWN)];
    // The interval lies below what it is about.
    let mut lines = Vec::new();
    for (of, colour) in [(1, 2), (2, 2), (0, 1)] {
        let past = expected[skip(expected.len())..].iter().map(|point| point.map(|point| point[of]));
        lines.extend(plot::known(begin(expected.len()), step, past, colour));
        lines.extend(plot::known(from, step, to_come.iter().map(|point| Some(point[of])), colour));
    }
    let came = history[skip(history.len())..].iter().copied();
    lines.extend(plot::known(begin(history.len()), step, came, 0));
    lines
}

fn scores(class: &ClassForecast) -> Markup {
    let number = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.2}"));
    let share = |share: Option<f64>| share.map_or("–".into(), |share| format!("{:.0} %", share * 100.0));
    let expected = |horizon: &HorizonForecast| match (horizon.mean, horizon.interval90) {
        (Some(mean), Some([low, high])) => format!("{mean:.1} ({low:.1} to {high:.1})"),
        _ => "too little history".into(),
    };
    html! {
        table {
            tr { th { "In" } th.n { "Expected, 90 % interval" } th.n { "Scored so far" } th.n { "MASE" }
                 th.n { "Within the interval" } th { "By" } }
            @for horizon in &class.horizons {
                tr {
                    td { (span(horizon.seconds as f64)) }
                    td.n { (expected(horizon)) }
                    td.n { (horizon.scored) }
                    td.n { (number(horizon.mase)) }
                    td.n { (share(horizon.coverage90)) }
                    td { (horizon.fell_back_on.as_deref().unwrap_or("all models, weighted")) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_ends_where_what_is_to_come_begins() {
        let class = ClassForecast {
            class: "reads".into(),
            missing_minutes: None,
            history: vec![Some(1.0), None, Some(3.0), Some(4.0)],
            expected: vec![None, None, Some([3.5, 2.0, 5.0]), None],
            path: vec![[6.0, 5.0, 7.0]; 2],
            horizons: Vec::new(),
        };
        let of = |colour: usize| -> Vec<Vec<(f64, f64)>> {
            let all = lines(&class, 60_000).into_iter().filter(|line| line.colour == colour);
            all.map(|line| line.points).collect()
        };
        assert_eq!(of(0), [vec![(59_760.0, 1.0)], vec![(59_880.0, 3.0), (59_940.0, 4.0)]]);
        assert_eq!(of(1), [vec![(59_880.0, 3.5)], vec![(60_000.0, 6.0), (60_060.0, 6.0)]]);
        assert_eq!(of(2).concat().len(), 6, "both ends");
    }
}
