//! The hosts, the two servers and the daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{Fault, Hook};
use crate::gateway::{APP, Gateway, policy};
use crate::net::{Host, Lab};
use crate::programs::{ListsServer, binary};
use crate::proof::Report;

/// The append of the shadow's that a planted fault spoils: well behind the join, where the load is at work.
const SPOILED: &str = "500";

/// The stall budget: client, gateway and both servers share this machine's cores, perhaps with others, and a server that
/// only waits for its turn must not count as a dead one.
const STALL: Duration = Duration::from_secs(2);

/// How long a copy of the lists rests under a join that is flipped early: writes come meanwhile.
const COPY_MS: u32 = 100;

/// What the shadow's server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shadow {
    /// It serves.
    Serves,
    /// It was stopped by a signal.
    Stopped,
    /// It was killed.
    Dead,
}

/// Everything that runs; fields are dropped in their order.
pub(super) struct Stage {
    pub(super) gateway: Gateway,
    primary: ListsServer,
    shadow: Option<ListsServer>,
    stopped: bool,
    pub(super) lab: Lab,
    folder: TempDir,
    lives: u32,
}

impl Stage {
    /// Builds the lab and starts both servers and the daemon.
    ///
    /// # Errors
    /// If something doesn't start.
    pub(super) fn set(hook: Hook, fault: Option<Fault>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mirror-demo-").tempdir().context("make a folder")?;
        let lab = Lab::builder().xdp_ready(hook == Hook::Xdp).up()?;
        let primary = start(&lab, folder.path(), Host::Primary, 1, &[])?;
        let spoil = match fault {
            Some(Fault::DropClone) => &["--spoil", "drop", "--spoil-at", SPOILED][..],
            Some(Fault::DoubleClone) => &["--spoil", "double", "--spoil-at", SPOILED],
            Some(Fault::SwapClones) => &["--spoil", "swap", "--spoil-at", SPOILED],
            Some(Fault::FlipEarly) | None => &[],
        };
        let shadow = start(&lab, folder.path(), Host::Shadow, 1, spoil)?;
        let early = [("MIRROR_FAULT", "flip-early")];
        let variables = if fault == Some(Fault::FlipEarly) { &early[..] } else { &[] };
        let name = if hook == Hook::Xdp { "xdp" } else { "tc" };
        let more = format!("hook = \"{name}\"\nstall = \"{}ms\"\n", STALL.as_millis());
        let mut policy = policy(&more, "")?;
        if fault == Some(Fault::FlipEarly) {
            let to = "--to http://$MIRROR_TO";
            ensure!(policy.contains(to), "the join hook isn't the lab's copy any more");
            policy = policy.replace(to, &format!("{to} --pause-ms {COPY_MS}"));
        }
        let gateway = Gateway::start_with(&lab, &policy, variables)?;
        Ok(Self { gateway, primary, shadow: Some(shadow), stopped: false, lab, folder, lives: 1 })
    }

    /// A command of the binary `mirror` about the application, as in `mirror weight shop 25`.
    ///
    /// # Errors
    /// If it is refused, or the daemon is dead.
    pub(super) fn ask(&self, command: &str, more: &[&str]) -> Result<Value> {
        self.gateway.ctl(&[&[command, APP], more].concat())
    }

    /// What the shadow's server is doing.
    pub(super) fn shadow(&self) -> Shadow {
        match (&self.shadow, self.stopped) {
            (None, _) => Shadow::Dead,
            (Some(_), true) => Shadow::Stopped,
            (Some(_), false) => Shadow::Serves,
        }
    }

    /// `kill -9`.
    pub(super) fn kill_shadow(&mut self) {
        if let Some(server) = self.shadow.take() {
            server.kill();
        }
        self.stopped = false;
    }

    /// Starts the shadow's server again, with the state in its own file.
    ///
    /// # Errors
    /// If it doesn't start.
    pub(super) fn start_shadow(&mut self) -> Result<()> {
        self.kill_shadow();
        self.lives += 1;
        self.shadow = Some(start(&self.lab, self.folder.path(), Host::Shadow, self.lives, &[])?);
        Ok(())
    }

    /// Stops the shadow's server as SIGSTOP does, or lets it go on.
    ///
    /// # Errors
    /// If it is dead.
    pub(super) fn stop_or_continue_shadow(&mut self) -> Result<()> {
        let server = self.shadow.as_mut().context("the shadow is dead; k starts it again")?;
        server.process().signal(if self.stopped { Signal::CONT } else { Signal::STOP })?;
        self.stopped = !self.stopped;
        Ok(())
    }

    /// Where the client writes its journals.
    pub(super) fn journals(&self) -> PathBuf {
        self.folder.path().join("journals")
    }

    /// The client's control socket.
    pub(super) fn control(&self) -> PathBuf {
        self.folder.path().join("client.sock")
    }

    /// Lets a process of its own compare the client's journals with the servers' files.
    ///
    /// # Errors
    /// If it can't look.
    pub(super) fn prove(&self) -> Result<Report> {
        let folder = self.folder.path();
        let mut command = std::process::Command::new(binary("proof")?);
        command.arg("--json").arg("--journals").arg(self.journals());
        for host in [Host::Primary, Host::Shadow] {
            command.arg(format!("--{host}")).arg(file(folder, host));
        }
        // The shadow's first life: the steps with a weight lie in it.
        command.arg("--traces").args([Host::Primary, Host::Shadow].map(|host| trace(folder, host, 1)));
        let output = command.output().context("start the proof")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(matches!(output.status.code(), Some(0 | 1)), "the proof: {}", said.trim());
        let report: Report = serde_json::from_slice(&output.stdout).context("read the proof")?;
        ensure!(output.status.success() == report.is_ok(), "the proof contradicts itself: {report:?}");
        Ok(report)
    }

    /// Copies journals, traces and the servers' files to `target`.
    ///
    /// # Errors
    /// If they can't be copied.
    pub(super) fn keep(&self, target: &Path) -> Result<()> {
        std::fs::create_dir_all(target).with_context(|| format!("make {}", target.display()))?;
        std::fs::write(target.join("gateway.log"), self.gateway.log())?;
        for command in ["status", "counters"] {
            // A dead daemon has nothing to say.
            let said =
                self.gateway.ctl(&[command]).map_or_else(|error| error.to_string(), |said| said.to_string());
            std::fs::write(target.join(command).with_extension("json"), said)?;
        }
        for folder in [self.folder.path().to_owned(), self.journals()] {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    std::fs::copy(entry.path(), target.join(entry.file_name()))?;
                }
            }
        }
        Ok(())
    }

    /// Whether the primary's server still runs: nothing in the play ends it.
    pub(super) fn primary_runs(&mut self) -> bool {
        self.primary.process().is_running()
    }
}

fn file(folder: &Path, host: Host) -> PathBuf {
    folder.join(format!("{host}.lists"))
}

fn trace(folder: &Path, host: Host, life: u32) -> PathBuf {
    folder.join(format!("{host}-{life}.trace"))
}

/// Starts a server with a file and a trace of its own.
fn start(lab: &Lab, folder: &Path, host: Host, life: u32, more: &[&str]) -> Result<ListsServer> {
    let (file, trace) = (file(folder, host), trace(folder, host, life));
    let (file, trace) = (file.to_string_lossy(), trace.to_string_lossy());
    ListsServer::on(lab, host, &[&["--file", &file, "--trace", &trace], more].concat())
}
