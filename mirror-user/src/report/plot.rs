//! Pictures of a report, as SVG.

use anyhow::{Result, anyhow};
use plotters::{
    prelude::{ChartBuilder, IntoDrawingArea as _, SVGBackend},
    series::LineSeries,
    style::RGBColor,
};

use super::Curve;

const SIZE: (u32, u32) = (900, 220);
/// Of lines, by number: primary, shadow; what came, what was expected; an interval's ends.
const COLOURS: [RGBColor; 3] =
    [RGBColor(0x1f, 0x5f, 0xa8), RGBColor(0xc4, 0x5a, 0x11), RGBColor(0xe3, 0xb8, 0x8c)];

/// A line: points of seconds since 1970 and a value. Where it is interrupted it is several.
pub(super) struct Line {
    pub(super) colour: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// The parts of a curve that are known.
pub(super) fn lines(curve: &Curve, colour: usize) -> Vec<Line> {
    known(curve.from, curve.step, curve.values.iter().copied(), colour)
}

/// The same of values: the first one's time in seconds since 1970, and the seconds from each to the next.
pub(super) fn known(
    from: u64,
    step: u64,
    values: impl Iterator<Item = Option<f64>>,
    colour: usize,
) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut open = false;
    for (cell, value) in values.enumerate() {
        let at = (from + cell as u64 * step) as f64;
        match (value.filter(|value| value.is_finite()), open) {
            (Some(value), true) => {
                if let Some(line) = lines.last_mut() {
                    line.points.push((at, value));
                }
            }
            (Some(value), false) => lines.push(Line { colour, points: vec![(at, value)] }),
            (None, _) => {}
        }
        open = value.is_some_and(f64::is_finite);
    }
    lines
}

/// A share that changes by steps, up to `end`.
pub(super) fn steps(changes: &[(f64, f64)], end: f64) -> Line {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (at, value) in changes {
        if let Some((_, before)) = points.last().copied() {
            points.push((*at, before));
        }
        points.push((*at, *value));
    }
    if let Some((at, last)) = points.last().copied() {
        points.push((end.max(at), last));
    }
    Line { colour: 0, points }
}

/// Date and time of day, UTC.
fn time(seconds: f64) -> String {
    let stamp = jiff::Timestamp::from_second(seconds as i64);
    stamp.map_or_else(|_| String::new(), |stamp| stamp.strftime("%d. %H:%M:%S").to_string())
}

/// A picture of lines; nothing where there is nothing to see.
///
/// # Errors
/// Never in practice: it is drawn into memory.
pub(super) fn plot(lines: &[Line], unit: impl Fn(f64) -> String) -> Result<Option<String>> {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let bound = |of: fn(&(f64, f64)) -> f64, pick: fn(f64, f64) -> f64| points().map(of).reduce(pick);
    let (Some(begin), Some(end), Some(most)) =
        (bound(|p| p.0, f64::min), bound(|p| p.0, f64::max), bound(|p| p.1, f64::max))
    else {
        return Ok(None);
    };
    let most = if most > 0.0 { most * 1.05 } else { 1.0 };
    let mut text = String::new();
    {
        let failed = |error: &dyn std::fmt::Display| anyhow!("a picture can't be drawn: {error}");
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(6)
            .x_label_area_size(24)
            .y_label_area_size(84)
            .build_cartesian_2d(begin..end.max(begin + 1.0), 0.0..most)
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .x_labels(6)
            .y_labels(4)
            .x_label_formatter(&|at| time(*at))
            .y_label_formatter(&|value| unit(*value))
            .draw()
            .map_err(|error| failed(&error))?;
        for line in lines {
            let series = LineSeries::new(line.points.iter().copied(), &COLOURS[line.colour % COLOURS.len()]);
            chart.draw_series(series).map_err(|error| failed(&error))?;
        }
        root.present().map_err(|error| failed(&error))?;
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Metric;

    #[test]
    fn what_is_not_known_interrupts_a_line() {
        let values = vec![Some(1.0), Some(2.0), None, Some(f64::NAN), Some(3.0)];
        let curve = Curve { side: "primary".into(), metric: Metric::Cpu, from: 100, step: 10, values };
        let points: Vec<_> = lines(&curve, 0).into_iter().map(|line| line.points).collect();
        assert_eq!(points, [vec![(100.0, 1.0), (110.0, 2.0)], vec![(140.0, 3.0)]]);
    }

    #[test]
    fn a_share_stays_until_it_changes() {
        let line = steps(&[(0.0, 0.0), (10.0, 5.0)], 20.0);
        assert_eq!(line.points, [(0.0, 0.0), (10.0, 0.0), (10.0, 5.0), (20.0, 5.0)]);
    }

    #[test]
    fn a_picture_is_one_svg_and_nothing_is_none() {
        let line = Line { colour: 1, points: vec![(0.0, 1.0), (5.0, 2.0)] };
        let text = plot(&[line], |value| format!("{value}")).unwrap().unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        assert!(text.contains("#C45A11"), "{text}");
        assert!(plot(&[], |value| format!("{value}")).unwrap().is_none());
    }
}
