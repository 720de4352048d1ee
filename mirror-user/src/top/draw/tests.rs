use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::top::keys::Command;

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

#[test]
fn the_smallest_terminal_has_all_of_it_and_a_smaller_one_is_told() {
    let shown = Screen { app: Some(app()), ..Screen::default() };
    let text = screen(&shown, LEAST);
    for part in ["Shifting", "weight", "25.00 %", "primary", "shadow", "legs 7 / 200", "notice 2", "q quit"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    for size in [(79, 22), (80, 21), (1, 1), (30, 4)] {
        let text = screen(&shown, size);
        assert!(!text.contains("primary"), "{text}");
    }
    assert!(screen(&shown, (79, 22)).contains("needs 80 x 22, this terminal is 79 x 22"));
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
