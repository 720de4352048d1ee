//! Keys: each command is asked back before it is given.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What can be commanded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Command {
    /// Share of the reads, in percent.
    Weight(f64),
    Pause,
    Resume,
    CutoverNow,
    CutoverWhenReady,
    Rollback,
    Abort,
    Finalize,
}

impl Command {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Weight(_) => "weight",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::CutoverNow | Self::CutoverWhenReady => "cutover",
            Self::Rollback => "rollback",
            Self::Abort => "abort",
            Self::Finalize => "finalize",
        }
    }

    /// What is asked back.
    pub(super) fn question(self) -> String {
        match self {
            Self::Weight(percent) => format!("give the shadow {percent} % of the reads"),
            Self::Pause => "let the migration take no step forward".into(),
            Self::Resume => "let the migration go on".into(),
            Self::CutoverNow => "give the shadow the authority and all reads, now".into(),
            Self::CutoverWhenReady => "let the migration make the cutover as soon as it is ready".into(),
            Self::Rollback => "give the primary the authority and all reads back".into(),
            Self::Abort => "end the migration: all reads to the primary; behind a cutover, roll back".into(),
            Self::Finalize => "end the standby: the primary is mirrored no more".into(),
        }
    }
}

/// What the last line is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Prompt {
    /// Which keys there are.
    #[default]
    Keys,
    /// A weight is typed.
    Weight(String),
    /// A command is asked back.
    Confirm(Command),
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pressed {
    /// It means nothing here.
    Nothing,
    /// The prompt changed.
    Asks,
    /// Give the command.
    Does(Command),
    Quit,
}

/// Characters of a weight: `99.99`.
const DIGITS: usize = 5;

/// Takes a key. `steers`: a migration is under way, and would make the cutover.
pub(super) fn press(prompt: &mut Prompt, key: KeyEvent, steers: bool) -> Pressed {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Pressed::Quit;
    }
    match (&mut *prompt, key.code) {
        (Prompt::Keys, KeyCode::Char('q')) => Pressed::Quit,
        (Prompt::Keys, KeyCode::Char('w')) => {
            *prompt = Prompt::Weight(String::new());
            Pressed::Asks
        }
        (Prompt::Keys, KeyCode::Char(letter)) => {
            let command = match letter {
                'p' => Command::Pause,
                'r' => Command::Resume,
                'c' if steers => Command::CutoverWhenReady,
                'c' => Command::CutoverNow,
                'b' => Command::Rollback,
                'a' => Command::Abort,
                'f' => Command::Finalize,
                _ => return Pressed::Nothing,
            };
            *prompt = Prompt::Confirm(command);
            Pressed::Asks
        }
        (Prompt::Weight(text), KeyCode::Char(digit))
            if (digit.is_ascii_digit() || digit == '.') && text.len() < DIGITS =>
        {
            text.push(digit);
            Pressed::Asks
        }
        (Prompt::Weight(text), KeyCode::Backspace) => {
            text.pop();
            Pressed::Asks
        }
        (Prompt::Weight(text), KeyCode::Enter) => {
            let percent = text.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
            let Some(percent) = percent else { return Pressed::Nothing };
            *prompt = Prompt::Confirm(Command::Weight(percent));
            Pressed::Asks
        }
        (Prompt::Confirm(command), KeyCode::Char('y')) => {
            let command = *command;
            *prompt = Prompt::Keys;
            Pressed::Does(command)
        }
        (Prompt::Weight(_), KeyCode::Esc) | (Prompt::Confirm(_), _) => {
            *prompt = Prompt::Keys;
            Pressed::Asks
        }
        _ => Pressed::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types each character (`\n`: Enter, `\x1b`: Esc); returns what became of the last one.
    fn type_in(prompt: &mut Prompt, text: &str, steers: bool) -> Pressed {
        let code = |letter| match letter {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            letter => KeyCode::Char(letter),
        };
        let press = |letter| press(prompt, KeyEvent::new(code(letter), KeyModifiers::NONE), steers);
        text.chars().map(press).last().unwrap_or(Pressed::Nothing)
    }

    #[test]
    fn nothing_is_done_without_a_yes() {
        for (key, command) in [
            ("p", Command::Pause),
            ("r", Command::Resume),
            ("c", Command::CutoverNow),
            ("b", Command::Rollback),
            ("a", Command::Abort),
            ("f", Command::Finalize),
            ("w25.5\n", Command::Weight(25.5)),
        ] {
            let mut prompt = Prompt::default();
            assert_eq!(type_in(&mut prompt, key, false), Pressed::Asks, "{key}");
            assert_eq!(prompt, Prompt::Confirm(command));
            assert_eq!(type_in(&mut prompt, "y", false), Pressed::Does(command));
            assert_eq!(prompt, Prompt::Keys);
            type_in(&mut prompt, key, false);
            assert_eq!(type_in(&mut prompt, "n", false), Pressed::Asks, "{key}");
            assert_eq!(prompt, Prompt::Keys);
        }
    }

    #[test]
    fn a_weight_is_a_share_and_can_be_corrected() {
        let mut prompt = Prompt::default();
        assert_eq!(type_in(&mut prompt, "w250\n", false), Pressed::Nothing, "there is no 250 %");
        assert_eq!(type_in(&mut prompt, "\x08\n", false), Pressed::Asks);
        assert_eq!(prompt, Prompt::Confirm(Command::Weight(25.0)));
        let mut prompt = Prompt::default();
        assert_eq!(type_in(&mut prompt, "w\n", false), Pressed::Nothing, "none is typed yet");
        assert_eq!(type_in(&mut prompt, "q", false), Pressed::Nothing, "no digit");
        type_in(&mut prompt, "\x1b", false);
        assert_eq!(type_in(&mut prompt, "q", false), Pressed::Quit);
    }

    #[test]
    fn a_migration_under_way_makes_the_cutover_itself() {
        let mut prompt = Prompt::default();
        type_in(&mut prompt, "c", true);
        assert_eq!(prompt, Prompt::Confirm(Command::CutoverWhenReady));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(press(&mut prompt, interrupt, true), Pressed::Quit);
    }
}
