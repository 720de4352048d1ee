//! The daemon needs three capabilities, not root: run as nobody with those alone, it does its whole job.

use std::{
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use lab::{
    checker::{self, Config},
    gateway::policy,
    net::{Host, Lab, Namespace, Process, SERVICE_PORT, VIP},
    programs::{ListsServer, binary},
    wait::wait_for,
};
use netns_tests::{SOON, all_answered};
use serde_json::Value;

const NOBODY: u32 = 65_534;
const THREE: &str = "-all,+bpf,+net_admin,+perfmon";

/// A daemon that isn't root's; dropped, all that it pinned is removed.
struct Unprivileged {
    namespace: Namespace,
    folder: tempfile::TempDir,
    pins: PathBuf,
    process: Option<Process>,
}

impl Unprivileged {
    /// What root prepares once, and a unit file or a package would: the folders.
    fn new(lab: &Lab) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mirror-").tempdir()?;
        let pins = Path::new("/sys/fs/bpf").join(lab.name());
        std::fs::create_dir_all(&pins)?;
        // The binary may lie where nobody can't go.
        std::fs::copy(binary("mirror")?, folder.path().join("mirror"))?;
        std::fs::copy(binary("lists")?, folder.path().join("lists"))?;
        let text = policy("", "")?.replace(
            &binary("lists")?.display().to_string(),
            &folder.path().join("lists").display().to_string(),
        );
        std::fs::write(folder.path().join("policy.toml"), text)?;
        let tun = folder.path().join("tun");
        let made = Command::new("mknod")
            .args(["--mode=666".as_ref(), tun.as_os_str()])
            .args(["c", "10", "200"])
            .status()?;
        ensure!(made.success(), "mknod: {made}");
        for path in [folder.path(), &pins] {
            chown(path, Some(NOBODY), Some(NOBODY))?;
        }
        Ok(Self { namespace: lab.host(Host::Gateway), folder, pins, process: None })
    }

    fn command(&self, capabilities: &str, arguments: &[&str]) -> Command {
        // Its own view of the devices: this host's /dev/net/tun may be root's alone, where udev lets everyone open it.
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", "mount --bind \"$0\" /dev/net/tun; exec setpriv \"$@\""]);
        command.arg(self.folder.path().join("tun"));
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]);
        for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
            command.args([set, capabilities]);
        }
        command.arg(self.folder.path().join("mirror"));
        command.arg("--socket").arg(self.folder.path().join("control.sock"));
        command.arg("--pins").arg(&self.pins).arg("--json").args(arguments);
        command
    }

    fn policy(&self) -> String {
        self.folder.path().join("policy.toml").display().to_string()
    }

    fn start(&mut self) -> Result<()> {
        let log = std::fs::File::create(self.folder.path().join("log"))?;
        let mut process = self.namespace.spawn(self.command(THREE, &["run", &self.policy()]).stderr(log))?;
        let serves = wait_for("the daemon to serve", 6 * SOON, || {
            !process.is_running() || self.ctl(&["status"]).is_ok()
        });
        let runs = process.is_running();
        self.process = Some(process);
        let log = std::fs::read_to_string(self.folder.path().join("log"))?;
        ensure!(serves.is_ok() && runs, "it doesn't serve: {log}");
        Ok(())
    }

    fn ctl(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.namespace.check(&mut self.command("-all", arguments))?)?)
    }
}

impl Drop for Unprivileged {
    fn drop(&mut self) {
        self.process = None;
        let mut command = Command::new(self.folder.path().join("mirror"));
        let unloaded = self.namespace.output(command.arg("--pins").arg(&self.pins).arg("unload"));
        if !unloaded.is_ok_and(|output| output.status.success()) {
            eprintln!("NOT unloaded: {}", self.pins.display());
        }
    }
}

#[test]
fn nobody_with_three_capabilities_runs_the_gateway() -> Result<()> {
    let lab = Lab::builder().up()?;
    let _primary = ListsServer::on(&lab, Host::Primary, &["--volatile"])?;
    let _shadow = ListsServer::on(&lab, Host::Shadow, &["--volatile"])?;
    let mut daemon = Unprivileged::new(&lab)?;
    daemon.start()?;
    let pid = daemon.process.as_ref().context("no process")?.id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.contains("CapEff:\t000000c000001000"), "other capabilities: {status}");
    ensure!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "another user: {status}");
    // The client of the control socket needs none at all.
    daemon.ctl(&["join", "shop"])?;
    daemon.ctl(&["weight", "shop", "50"])?;
    let mut config = Config::new(std::net::SocketAddr::from((VIP, SERVICE_PORT)));
    config.connections = 8;
    config.requests = Some(2_000);
    let summary = lab.host(Host::Client).run(|| checker::run(config, |_| {}))??;
    all_answered(&summary)?;
    ensure!(summary.windows[0].servers.contains_key("shadow"), "the shadow answered nothing");
    daemon.ctl(&["cutover", "shop"])?;
    let status = daemon.ctl(&["status"])?;
    ensure!(status["apps"][0]["authority"] == "shadow", "{status}");
    let mut doctor = daemon.command(THREE, &["doctor", &daemon.policy()]);
    let output = lab.host(Host::Gateway).output(&mut doctor)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // It finds its own pins again.
    daemon.process = None;
    daemon.start()?;
    ensure!(daemon.ctl(&["status"])?["apps"][0]["authority"] == "shadow", "it began anew");
    Ok(())
}

#[test]
fn without_them_the_daemon_and_the_doctor_say_what_is_missing() -> Result<()> {
    let lab = Lab::builder().up()?;
    let daemon = Unprivileged::new(&lab)?;
    let mut doctor = daemon.command("-all,+net_admin,+bpf", &["doctor"]);
    let output = lab.host(Host::Gateway).output(&mut doctor)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("without CAP_PERFMON"), "{said}");
    let mut run = daemon.command("-all,+net_admin,+bpf", &["run", &daemon.policy()]);
    let output = lab.host(Host::Gateway).output(&mut run)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("CAP_PERFMON"), "{said}");
    Ok(())
}
