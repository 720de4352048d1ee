//! The gateway itself on the lab's gateway host: the real binary, with pins and a socket of its own.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    net::{Host, Lab, Namespace, Process, SERVICE_PORT, VIP},
    programs::binary,
    wait::wait_for,
};

/// How long the daemon may take to load its programs: minutes in a guest that is run by software.
const PATIENCE: Duration = Duration::from_secs(240);
/// The application in [`policy`].
pub const APP: &str = "shop";
/// The gateway's address on the link to a shadow that was provisioned on it.
pub const PROVISIONED_NAT: &str = "10.0.3.201";

/// A judge for labs whose hosts share two cores: one of two equal servers waits longer for its turn there.
pub const SHARED_CORES_JUDGE: &str = "
[migration.judge]
alpha = 1e-6
history_minutes = 4
latency_allowance_us = 3000
latency_allowance_factor = 3.0
error_margin = 0.01
p99_margin = 10.0
p50_margin = 4.0
";

/// A policy for the lab's addresses, whose join hook copies the lists of the side with authority. `more` stands in front
/// of its tables: settings of the whole application. `shadow` stands in the shadow's table.
///
/// # Errors
/// If the program `lists` wasn't built.
pub fn policy(more: &str, shadow: &str) -> Result<String> {
    let side = |host: Host| (host.service().into(), host.nat_pool()[0].into());
    let service = format!("vip = \"{VIP}:{SERVICE_PORT}\"");
    policy_between(more, &service, [side(Host::Primary), side(Host::Shadow)], shadow)
}

/// The same without a join hook: for servers that have the same data already.
///
/// # Errors
/// As [`policy`].
pub fn policy_without_hook(more: &str, shadow: &str) -> Result<String> {
    let text = policy(more, shadow)?;
    Ok(text.lines().filter(|line| !line.starts_with("join_hook")).collect::<Vec<_>>().join("\n"))
}

/// The same as [`policy`] with a service, and each side's server with the gateway's address towards it, of one's own.
///
/// # Errors
/// As [`policy`].
pub fn policy_between(
    more: &str,
    service: &str,
    sides: [(SocketAddr, IpAddr); 2],
    shadow: &str,
) -> Result<String> {
    let [(primary, primary_nat), (second, second_nat)] = sides;
    Ok(format!(
        "name = \"{APP}\"\n\
         {}\n\
         {more}\n\
         [service]\n{service}\n\
         [primary]\naddress = \"{primary}\"\nnat = \"{primary_nat}\"\n\
         [shadow]\naddress = \"{second}\"\nnat = \"{second_nat}\"\n{shadow}\n",
        join_hook()?,
    ))
}

/// Copies the lists of the side with authority to the other.
fn join_hook() -> Result<String> {
    let copies =
        format!("exec {} copy --from http://$MIRROR_FROM --to http://$MIRROR_TO", binary("lists")?.display());
    Ok(format!("join_hook = [\"sh\", \"-c\", \"{copies}\"]"))
}

/// A policy that `mirror policy init` makes from a running `lists` server: the shadow is to be provisioned on the gateway,
/// at the address of the lab's own. What no process knows is filled in: `more`, settings of the whole application, how
/// the state is copied, and what says that a server is well.
///
/// # Errors
/// If the binary wasn't built, or refuses; or what is to be filled in isn't in its answer.
pub fn policy_from_process(lab: &Lab, pid: u32, more: &str) -> Result<String> {
    let (vip, shadow) = (format!("{VIP}:{SERVICE_PORT}"), Host::Shadow.service().to_string());
    let (pid, nat) = (pid.to_string(), Host::Primary.nat_pool()[0].to_string());
    let mut init = Command::new(binary("mirror")?);
    init.args(["policy", "init", "--from-pid", &pid, "--name", APP, "--vip", &vip, "--primary-nat", &nat]);
    init.args(["--shadow", &shadow, "--shadow-nat", PROVISIONED_NAT, "--cpu", "1", "--memory", "64MiB"]);
    let made = lab.host(Host::Gateway).check(&mut init)?;
    let open =
        [("# join_hook", format!("{}\n{more}", join_hook()?)), ("# health", "health = \"/ping\"".to_owned())];
    let line = |line: &str| {
        let filled = open.iter().find(|(begin, _)| line.starts_with(begin));
        filled.map_or(line, |(_, with)| with).to_owned() + "\n"
    };
    let missing = open.iter().find(|(begin, _)| !made.lines().any(|line| line.starts_with(begin)));
    ensure!(missing.is_none(), "no line {:?} in:\n{made}", missing.map(|(begin, _)| begin));
    Ok(made.lines().map(line).collect())
}

/// A running daemon; dropped, it is killed, and all that it pinned is removed.
#[derive(Debug)]
pub struct Gateway {
    namespace: Namespace,
    process: Option<Process>,
    folder: TempDir,
    pins: PathBuf,
}

impl Gateway {
    /// Starts it on the lab's gateway and returns once it serves.
    ///
    /// # Errors
    /// If it wasn't built, or ends, or doesn't serve within four minutes: the error has what it said.
    pub fn start(lab: &Lab, policy: &str) -> Result<Self> {
        Self::start_with(lab, policy, &[])
    }

    /// The same with variables in its environment.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn start_with(lab: &Lab, policy: &str, variables: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mirror-").tempdir().context("make a folder")?;
        std::fs::write(folder.path().join("policy.toml"), policy).context("write the policy")?;
        let pins = Path::new("/sys/fs/bpf").join(lab.name());
        let mut gateway = Self { namespace: lab.host(Host::Gateway), process: None, folder, pins };
        gateway.run(variables)?;
        Ok(gateway)
    }

    /// Starts the daemon again, after [`Gateway::kill`] or its own end: it finds what is pinned.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn run(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        let policy = self.folder.path().join("policy.toml");
        let log = std::fs::File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.command(&["run"]);
        command.arg(policy).envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut process = self.namespace.spawn(&mut command)?;
        // A last daemon's socket may lie there: only one that answers counts.
        let pid = u64::from(process.id());
        let serves = wait_for("the daemon to serve", PATIENCE, || {
            !process.is_running()
                || self.ctl(&["status"]).is_ok_and(|status| status["pid"].as_u64() == Some(pid))
        });
        let runs = process.is_running();
        self.process = Some(process);
        ensure!(serves.is_ok() && runs, "the gateway doesn't serve; it said:\n{}", self.log());
        Ok(())
    }

    /// The binary, with this daemon's socket and pins; to be run in any namespace.
    pub fn command(&self, arguments: &[&str]) -> Command {
        // A missing binary is named when the command is started.
        let mut command = Command::new(binary("mirror").unwrap_or_else(|_| "mirror".into()));
        command.arg("--socket").arg(self.socket()).arg("--pins").arg(&self.pins);
        command.arg("--state").arg(self.folder.path().join("state")).args(arguments);
        command
    }

    /// Runs a command of the binary with `--json` and returns what it printed.
    ///
    /// # Errors
    /// If it fails: the error has its standard error.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.namespace.check(self.command(&["--json"]).args(arguments))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// The application in `status --json`.
    ///
    /// # Errors
    /// If the daemon doesn't answer.
    pub fn status(&self) -> Result<Value> {
        Ok(self.ctl(&["status"])?["apps"][0].clone())
    }

    /// What became of packets: a verdict's count.
    ///
    /// # Errors
    /// If the daemon doesn't answer, or has no such verdict.
    pub fn count(&self, verdict: &str) -> Result<u64> {
        let counters = self.ctl(&["counters"])?;
        let counter = counters.as_array().and_then(|all| all.iter().find(|c| c["name"] == verdict));
        counter.and_then(|c| c["count"].as_u64()).with_context(|| format!("there is no verdict {verdict}"))
    }

    /// The daemon's process, to signal it or to wait for its end.
    ///
    /// # Errors
    /// If it was killed.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the daemon was killed")
    }

    /// `kill -9`; what is pinned goes on.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Ends it by SIGTERM; what is pinned goes on.
    ///
    /// # Errors
    /// If it doesn't end within ten seconds.
    pub fn stop(&mut self) -> Result<()> {
        let process = self.process()?;
        process.signal(Signal::TERM)?;
        process.wait(Duration::from_secs(10))?;
        self.process = None;
        Ok(())
    }

    /// What the daemon has said so far, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// A folder of this gateway's own, removed with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// Where it pins.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the gateway said:\n{}", self.log());
        }
        self.kill();
        let unloaded = self.namespace.output(&mut self.command(&["unload"]));
        if !unloaded.is_ok_and(|output| output.status.success()) {
            eprintln!("NOT unloaded: {}", self.pins.display());
        }
    }
}
