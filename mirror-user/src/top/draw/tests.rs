use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{api::forecast::Scaling, top::keys::Command};

fn app() -> AppStatus {
    serde_json::from_str(include_str!("status.json")).unwrap()
}

/// What a terminal of this size shows.
fn screen(screen: &Screen, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, screen)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
}

#[test]
fn a_screen_reads_like_this() {
    let shown = Screen { app: Some(app()), ..Screen::default() };
    assert_eq!(screen(&shown, (100, 24)), include_str!("screen.txt"));
}

/// Even where it has evidence of everything, and both classes are forecast.
#[test]
fn what_is_expected_of_the_load_stands_below_the_sides() {
    let class = |class: &str, missing_minutes: Option<usize>| ClassForecast {
        class: class.into(),
        missing_minutes,
        history: vec![None, Some(98.25)],
        expected: Vec::new(),
        path: if missing_minutes.is_some() { Vec::new() } else { vec![[120.5, 100.0, 140.0]; 60] },
        horizons: Vec::new(),
    };
    let forecast = Some(ForecastAnswer {
        name: "shop".into(),
        age_seconds: Some(3.0),
        took_seconds: None,
        from: None,
        classes: vec![class("reads", None), class("writes", Some(4))],
        demand: Vec::new(),
        scaling: Scaling::default(),
    });
    let mut app = app();
    let evidence = &mut app.migration.as_mut().unwrap().evidence;
    evidence.extend([String::from("p99 as good"), String::from("0 % differ")]);
    let text = screen(&Screen { app: Some(app), forecast, ..Screen::default() }, LEAST);
    for line in [
        "reads    now 98.2/s      in 10 min 120.5/s (100.0 to 140.0)",
        "writes   now 98.2/s      in 10 min: too little history, 4 more minutes",
        "0 % differ",
        "notice 2",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
}

#[test]
fn the_smallest_terminal_has_all_of_it_and_a_smaller_one_is_told() {
    let shown = Screen { app: Some(app()), ..Screen::default() };
    let text = screen(&shown, LEAST);
    for part in ["Shifting", "weight", "25.00 %", "primary", "shadow", "legs 7 / 200", "notice 2", "q quit"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    for size in [(79, 24), (80, 23), (1, 1), (30, 4)] {
        let text = screen(&shown, size);
        assert!(!text.contains("primary"), "{text}");
    }
    assert!(screen(&shown, (79, 24)).contains("needs 80 x 24, this terminal is 79 x 24"));
}

#[test]
fn a_dead_daemon_is_said_above_what_was_last_known() {
    let trouble = Some("no daemon answers".to_owned());
    let age = Duration::from_secs(7);
    let text = screen(&Screen { app: Some(app()), trouble, age, ..Screen::default() }, (100, 24));
    assert!(text.contains("what stands here is 7 s old: no daemon answers"), "{text}");
    assert!(text.contains("Shifting"), "{text}");
    let silent = screen(&Screen { app: Some(app()), age, ..Screen::default() }, (100, 24));
    assert!(silent.contains("no answer for 7 s"), "{silent}");
}

#[test]
fn a_question_says_what_would_be_done() {
    let prompt = Prompt::Confirm(Command::Weight(25.0));
    let text = screen(&Screen { prompt, ..Screen::default() }, (100, 24));
    assert!(text.contains("give the shadow 25 % of the reads?   y/n"), "{text}");
}
