//! One network namespace: entering it, and running programs in it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::Process;

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";

/// A named network namespace.
///
/// Only the network is another one: files, mounts (so `/sys/fs/bpf` too) and processes are those of the caller.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A namespace that exists already, by the name that `ip netns` shows.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// The name that `ip netns exec` takes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Whether the namespace is there.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Runs `work` on a thread of its own that has entered the namespace, and returns what it returned.
    ///
    /// Sockets that `work` opens stay in the namespace, also when they are used elsewhere later. A panic in `work` goes
    /// on in the caller.
    ///
    /// # Errors
    /// If the namespace can't be entered (it has gone, or the caller lacks `CAP_SYS_ADMIN`).
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| -> io::Result<T> {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            match worker.join() {
                Ok(result) => result.with_context(|| format!("enter the network namespace {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts `command` in the namespace; it is killed when the [`Process`] is dropped.
    ///
    /// # Errors
    /// If the namespace can't be entered or the program can't be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Process> {
        let what = describe(command);
        let child =
            self.run(|| command.spawn())?.with_context(|| format!("start {what} in {}", self.name))?;
        Ok(Process::new(child, what))
    }

    /// Runs `command` to its end and returns what it printed, whatever its exit status.
    ///
    /// # Errors
    /// If the namespace can't be entered or the program can't be started.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let what = describe(command);
        self.run(|| command.stdin(Stdio::null()).output())?
            .with_context(|| format!("run {what} in {}", self.name))
    }

    /// Runs `command` to its end and returns its standard output.
    ///
    /// # Errors
    /// As [`Namespace::output`], and if the command fails: the error has its standard error.
    pub fn check(&self, command: &mut Command) -> Result<String> {
        let output = self.output(command)?;
        ensure!(
            output.status.success(),
            "{} in {}: {}: {}{}",
            describe(command),
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim(),
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a line of shell in the namespace and returns its standard output.
    ///
    /// # Errors
    /// As [`Namespace::check`].
    pub fn sh(&self, line: &str) -> Result<String> {
        self.check(Command::new("sh").args(["-ec", line]))
    }

    /// One of the host's TCP counters, by its name in `/proc/net/snmp` or `/proc/net/netstat`.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn tcp_counter(&self, wanted: &str) -> Result<u64> {
        let text = self.sh("cat /proc/net/snmp /proc/net/netstat")?;
        let lines: Vec<&str> = text.lines().collect();
        // Each row of names has one of values below it.
        let found = lines.windows(2).find_map(|rows| {
            let [names, values] = [rows[0], rows[1]].map(str::split_whitespace);
            let tcp = rows[0].starts_with("Tcp");
            names.zip(values).find(|(name, value)| tcp && *name == wanted && value.parse::<u64>().is_ok())
        });
        Ok(found.with_context(|| format!("no counter {wanted}"))?.1.parse()?)
    }

    /// Sets a sysctl below `/proc/sys/net`, for example `ipv4/ip_forward`.
    ///
    /// # Errors
    /// If there is no such setting.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("write {value} to {} in {}", path.display(), self.name))
    }

    /// The processes that live in the namespace.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let output =
            Command::new("ip").args(["netns", "pids", &self.name]).output().context("run `ip netns pids`")?;
        ensure!(output.status.success(), "ip netns pids: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect())
    }

    fn open(&self) -> Result<File> {
        match File::open(self.path()) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("there is no network namespace {}: is the lab up? (`cargo xtask lab up`)", self.name)
            }
            Err(error) => Err(error).with_context(|| format!("open the network namespace {}", self.name)),
        }
    }
}

/// A command as a reader would type it, for errors.
pub(crate) fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}
