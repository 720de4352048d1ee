//! The hosts, the primary, the daemon, and the shadow that is provisioned on the gateway.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Hook, RATE};
use crate::gateway::{APP, Gateway, SHARED_CORES_JUDGE, policy_from_process};
use crate::net::{Host, Lab};
use crate::programs::{ListsServer, binary};
use crate::proof::{Report, Trace, parse_trace};

/// The migration's settings. Times by its own clock.
const MIGRATION: &str = "
[migration]
steps = [10, 25, 50, 100]
dark = \"1m\"
dwell = \"1m\"
cool_down = \"10m\"
retry = \"30s\"
cutover = \"auto\"
standby = \"5m\"
unhealthy = \"2m\"
health = \"/ping\"
";

/// Everything that runs; fields are dropped in their order, behind what was provisioned.
pub(super) struct Stage {
    pub(super) gateway: Gateway,
    _primary: ListsServer,
    pub(super) lab: Lab,
    folder: TempDir,
}

impl Stage {
    /// Builds the lab, starts the primary, and the daemon under a policy that was made from the primary's process.
    ///
    /// # Errors
    /// If something doesn't start.
    pub(super) fn set(hook: Hook) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mirror-demo-").tempdir().context("make a folder")?;
        let lab = Lab::builder().xdp_ready(hook == Hook::Xdp).forwarding(true).up()?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        let (file, trace) = (data.join("lists"), data.join("trace"));
        let (file, trace) = (file.to_string_lossy(), trace.to_string_lossy());
        let mut primary = ListsServer::on(&lab, Host::Primary, &["--file", &file, "--trace", &trace])?;
        let more = format!("hook = \"{}\"\n", if hook == Hook::Xdp { "xdp" } else { "tc" });
        let made = policy_from_process(&lab, primary.process().id(), &more)?;
        // It answers by its name: that is all that an operator changes.
        let named = made.replace("\"--name\", \"primary\"", "\"--name\", \"shadow\"");
        ensure!(named != made, "the server's name isn't in its command:\n{made}");
        let policy = format!("{named}\n{MIGRATION}{SHARED_CORES_JUDGE}");
        std::fs::write(folder.path().join("policy.toml"), &policy)?;
        let rate = RATE.to_string();
        let gateway = Gateway::start_with(&lab, &policy, &[("MIRROR_CLOCK_RATE", &rate)])?;
        Ok(Self { gateway, _primary: primary, lab, folder })
    }

    /// Makes the shadow.
    ///
    /// # Errors
    /// If a step fails.
    pub(super) fn provision(&self) -> Result<Value> {
        let policy = self.folder.path().join("policy.toml");
        self.gateway.ctl(&["provision", APP, "--policy", &policy.to_string_lossy()])
    }

    /// A command of the binary `mirror` about the application.
    ///
    /// # Errors
    /// If it is refused.
    pub(super) fn ask(&self, command: &str) -> Result<Value> {
        self.gateway.ctl(&[command, APP])
    }

    /// What the journal says: where the migration stood, and why.
    ///
    /// # Errors
    /// If the daemon doesn't answer.
    pub(super) fn history(&self) -> Result<Vec<String>> {
        let history = self.gateway.ctl(&["history", APP, "--limit", "1000"])?;
        let entries = history["entries"].as_array().context("a history without entries")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let line =
            |entry: &Value| format!("{:<12} {}", text(&entry["state"]["stage"]), text(&entry["words"]));
        Ok(entries.iter().map(line).collect())
    }

    /// Gives the shadow's reads an ailment; an empty one makes it well.
    ///
    /// # Errors
    /// If it doesn't answer, or doesn't know the ailment.
    pub(super) fn ail(&self, ailment: &str) -> Result<()> {
        let (target, path) = (Host::Shadow.service().into(), format!("/ill?{ailment}"));
        self.lab.host(Host::Gateway).run(|| crate::http_client::put(target, &path, b""))??;
        Ok(())
    }

    /// `kill -9` for the provisioned process.
    ///
    /// # Errors
    /// If it has ended.
    pub(super) fn kill(&self, process: u32) -> Result<()> {
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::KILL).context("kill the shadow")
    }

    /// Where the client writes its journals.
    pub(super) fn journals(&self) -> PathBuf {
        self.folder.path().join("journals")
    }

    /// The client's control socket.
    pub(super) fn control(&self) -> PathBuf {
        self.folder.path().join("client.sock")
    }

    /// Lets a process of its own compare the client's journals with the servers' files, whatever requests have failed.
    ///
    /// # Errors
    /// If it can't look.
    pub(super) fn prove(&self, sides: &[Host]) -> Result<Report> {
        let mut command = Command::new(binary("proof")?);
        command.args(["--json", "--allow-failed", "--journals"]).arg(self.journals());
        for side in sides {
            command.arg(format!("--{side}")).arg(self.data(*side).join("lists"));
        }
        let output = command.output().context("start the proof")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(matches!(output.status.code(), Some(0 | 1)), "the proof: {}", said.trim());
        serde_json::from_slice(&output.stdout).context("read the proof")
    }

    /// The requests that a server has answered, by its own trace.
    ///
    /// # Errors
    /// If it can't be read.
    pub(super) fn trace(&self, side: Host) -> Result<Trace> {
        let text = std::fs::read_to_string(self.data(side).join("trace"))?;
        Ok(parse_trace(&text)?)
    }

    /// Copies the client's journals, the policy and the daemon's log to `target`.
    ///
    /// # Errors
    /// If they can't be copied.
    pub(super) fn keep(&self, target: &Path) -> Result<()> {
        std::fs::create_dir_all(target).with_context(|| format!("make {}", target.display()))?;
        std::fs::write(target.join("gateway.log"), self.gateway.log())?;
        std::fs::copy(self.folder.path().join("policy.toml"), target.join("policy.toml"))?;
        for entry in std::fs::read_dir(self.journals())? {
            let entry = entry?;
            std::fs::copy(entry.path(), target.join(entry.file_name()))?;
        }
        Ok(())
    }

    /// A server's own files: what was provisioned has copies.
    fn data(&self, side: Host) -> PathBuf {
        match side {
            Host::Shadow => self.gateway.folder().join("state").join(APP).join("files/0"),
            Host::Client | Host::Gateway | Host::Primary => self.folder.path().join("data"),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let removed = self.gateway.ctl(&["deprovision", APP, "--force"]);
        if let Err(error) = removed {
            eprintln!("NOT deprovisioned: {error:#}");
        }
    }
}
