//! A checking client that runs beside its caller.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::{Config, Event, Summary, run, send_command};
use crate::net::Namespace;

/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A checking client on a thread of its own.
#[derive(Debug)]
pub struct Background {
    thread: JoinHandle<Result<Summary>>,
    control: PathBuf,
}

impl Background {
    /// Starts it in `namespace`, and returns once its connections are open. `say` hears what happens from then on. The
    /// configuration must name a control socket.
    ///
    /// # Errors
    /// If it doesn't get its connections.
    pub fn start(
        namespace: &Namespace,
        config: Config,
        mut say: impl FnMut(&Event) + Send + 'static,
    ) -> Result<Self> {
        let namespace = namespace.clone();
        let control = config.control.clone().context("a client without a control socket")?;
        let wanted = config.connections;
        let (opened, heard) = channel();
        let thread = std::thread::Builder::new().name("checker".into()).spawn(move || {
            namespace.run(|| {
                run(config, |event| match event {
                    Event::Connected { connections, .. } => {
                        // Nobody waits any more if it took too long.
                        let _ = opened.send(*connections);
                    }
                    event => say(event),
                })
            })?
        })?;
        let client = Self { thread, control };
        match wait_opened(&heard) {
            Ok(connections) if connections == wanted => Ok(client),
            Ok(connections) => bail!("the client got {connections} of {wanted} connections"),
            Err(error) if client.thread.is_finished() => Err(client.end().err().unwrap_or(error)),
            Err(error) => Err(error),
        }
    }

    /// Tells it something, as [`send_command`] does.
    ///
    /// # Errors
    /// If it has ended, or refuses.
    pub fn command(&self, text: &str) -> Result<()> {
        Ok(send_command(&self.control, text)?)
    }

    /// Tells it to end, waits for that and returns what it counted.
    ///
    /// # Errors
    /// If it couldn't run.
    pub fn stop(self) -> Result<Summary> {
        // It may have ended by itself.
        let _ = self.command("stop");
        self.end()
    }

    /// Waits for its own end.
    ///
    /// # Errors
    /// If it couldn't run.
    pub fn end(self) -> Result<Summary> {
        self.thread.join().map_err(|_| anyhow!("the client panicked"))?
    }
}

fn wait_opened(heard: &Receiver<usize>) -> Result<usize> {
    heard.recv_timeout(PATIENCE).context("the client doesn't get its connections")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::read_journals;
    use crate::lists::{ServerConfig, serve};

    #[test]
    fn a_paused_client_has_written_its_journals_and_goes_on_when_told() {
        let (listens, address) = channel();
        // The test's process ends it.
        std::thread::spawn(move || {
            serve(ServerConfig::new("127.0.0.1:0".parse().unwrap(), "primary"), |at| {
                listens.send(at).unwrap()
            })
        });
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(address.recv_timeout(PATIENCE).unwrap());
        config.connections = 3;
        config.requests = Some(20_000);
        config.log = Some(folder.path().join("journals"));
        config.control = Some(folder.path().join("socket"));
        let (control, journals) = (config.control.clone().unwrap(), config.log.clone().unwrap());
        let client = std::thread::spawn(|| run(config, |_| ()));
        crate::wait::wait_for("the client to listen", PATIENCE, || control.exists()).unwrap();
        let count = || -> usize {
            read_journals(&journals).unwrap().iter().map(|journal| journal.entries.len()).sum()
        };
        for _ in 0..3 {
            send_command(&control, "pause").unwrap();
            // Whole lines only, or reading them fails; and nothing is added any more.
            let paused = count();
            send_command(&control, "mark here").unwrap();
            assert_eq!(count(), paused);
            assert!(paused < 20_000);
            send_command(&control, "resume").unwrap();
        }
        let summary = client.join().unwrap().unwrap();
        assert!(summary.is_ok() && summary.requests == 20_000 && count() == 20_000, "{summary:?}");
    }
}
