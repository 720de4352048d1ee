//! The lab's own programs, started on its hosts.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::net::{Host, Lab, Namespace, Process, SERVICE_PORT};

/// How long a program may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// The path of one of the workspace's binaries, which lie beside the running one.
///
/// # Errors
/// If it hasn't been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let running = std::env::current_exe().context("ask for the running program's path")?;
    // Tests and benches run in `deps`, one level below.
    let found =
        running.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "there is no {name} beside {}: `cargo build --bins` (with the same profile) makes it",
            running.display()
        )
    })
}

/// A `lists` server; dropped, it is killed.
#[derive(Debug)]
pub struct ListsServer {
    process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl ListsServer {
    /// Starts it in `namespace` and returns once it listens. `options` are those of the program: `--volatile` or
    /// `--file PATH` is needed.
    ///
    /// # Errors
    /// If it wasn't built, or doesn't listen within ten seconds; what it said then stands on standard error.
    pub fn start(namespace: &Namespace, listen: SocketAddr, name: &str, options: &[&str]) -> Result<Self> {
        Self::start_binary(&binary("lists")?, namespace, listen, name, options)
    }

    /// Starts it on `host` of `lab`, where the service is, under the host's name.
    ///
    /// # Errors
    /// As [`ListsServer::start`].
    pub fn on(lab: &Lab, host: Host, options: &[&str]) -> Result<Self> {
        Self::start(&lab.host(host), SocketAddr::from((host.address(), SERVICE_PORT)), host.name(), options)
    }

    fn start_binary(
        program: &std::path::Path,
        namespace: &Namespace,
        listen: SocketAddr,
        name: &str,
        options: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["--listen", &listen.to_string(), "--name", name]).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = namespace.spawn(&mut command)?;
        let stdout = process.child().stdout.take().context("a server without a standard output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // The receiver has gone if the server was too slow: it is killed then.
            let _ = BufReader::new(stdout).read_line(&mut line).map(|_| sender.send(line));
        });
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line.starts_with("listening") => {}
            Ok(line) => bail!("the server {name} ended instead of listening on {listen}: {line:?}"),
            Err(_) => bail!("the server {name} doesn't listen on {listen}"),
        }
        ensure!(process.is_running(), "the server {name} has ended");
        Ok(Self { process, address: listen })
    }

    /// The process, to stop, continue or kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it as `kill -9` does, and waits for its end.
    pub fn kill(self) {
        self.process.kill();
    }
}
