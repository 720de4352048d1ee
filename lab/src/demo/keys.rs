//! Single keys from the terminal.

use std::io::{IsTerminal, Read, stdin, stdout};
use std::sync::mpsc::Sender;

use anyhow::{Context, Result};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::happening::Happening;

/// While it lives, keys come without Enter and without an echo; signals from the keyboard stay signals.
pub(super) struct Keys {
    before: Termios,
}

impl Keys {
    /// Listens, if there is a terminal to listen to and to draw on.
    ///
    /// # Errors
    /// If the terminal refuses.
    pub(super) fn listen(sender: Sender<Happening>) -> Result<Option<Self>> {
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin()).context("ask for the terminal's settings")?;
        let mut single = before.clone();
        single.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Now, &single).context("set the terminal")?;
        let listen = move || {
            for key in stdin().lock().bytes().map_while(Result::ok) {
                if sender.send(Happening::Key(key)).is_err() {
                    return;
                }
            }
        };
        let keys = Self { before };
        std::thread::Builder::new().name("keys".into()).spawn(listen).context("start a thread")?;
        Ok(Some(keys))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that has gone needs no settings.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}
