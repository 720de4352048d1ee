//! Commands to a running checker, by datagrams on a unix socket; each is answered.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use thiserror::Error;

/// How long a checker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a command was not carried out.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The socket.
    #[error("the checker's socket {}: {error}", path.display())]
    Socket {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// The checker refused it.
    #[error("the checker refused {command:?}: {answer}")]
    Refused {
        /// The command.
        command: String,
        /// The reason.
        answer: String,
    },
}

/// What a checker can be told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    /// Requests that begin from now on belong to the window of this name.
    Mark(String),
    /// Another pause between answer and request.
    Think(Duration),
    /// Begin no request until [`Command::Resume`]; answered when none is under way any more.
    Pause,
    /// Go on.
    Resume,
    /// Begin no more requests.
    Stop,
}

impl Command {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["mark", name] => Ok(Self::Mark((*name).to_owned())),
            ["think", ms] => {
                let seconds = ms.parse::<f64>().map_err(|error| error.to_string())? / 1e3;
                Duration::try_from_secs_f64(seconds).map(Self::Think).map_err(|error| error.to_string())
            }
            ["pause"] => Ok(Self::Pause),
            ["resume"] => Ok(Self::Resume),
            ["stop"] => Ok(Self::Stop),
            _ => Err("known are: mark NAME, think MS, pause, resume, stop".into()),
        }
    }
}

/// Sends `command` (`mark NAME`, `think MS`, `pause`, `resume`, `stop`) to the checker whose socket is
/// `path`. When this returns, it holds.
///
/// # Errors
/// If no checker answers there, or it refuses.
pub fn send_command(path: &Path, command: &str) -> Result<(), ControlError> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let reply = path.with_extension(format!("{}-{number}", std::process::id()));
    let result = exchange(path, &reply, command);
    // The reply's socket is ours alone; if it can't be removed it is only litter.
    let _ = std::fs::remove_file(&reply);
    match result {
        Ok(answer) if answer == "ok" => Ok(()),
        Ok(answer) => Err(ControlError::Refused { command: command.to_owned(), answer }),
        Err(error) => Err(ControlError::Socket { path: path.to_owned(), error }),
    }
}

fn exchange(path: &Path, reply: &Path, command: &str) -> io::Result<String> {
    let socket = UnixDatagram::bind(reply)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(command.as_bytes(), path)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
