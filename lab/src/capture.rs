//! Captures by tcpdump, which see what a host's device sees.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::net::{Namespace, Process};

/// How long tcpdump may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// A file that hasn't grown for this long has all that was seen.
const QUIET: Duration = Duration::from_millis(100);
/// The kernel's buffer for captured packets, in KiB.
const BUFFER_KIB: &str = "65536";

/// What to capture.
#[derive(Debug, Clone)]
pub struct CaptureSpec {
    /// The device; `eth0` on every host but the gateway.
    pub device: String,
    /// Bytes kept of each packet: 0 for all.
    pub snaplen: u32,
    /// A filter in pcap's language, for example `tcp port 8080`; empty for all.
    pub filter: String,
}

impl Default for CaptureSpec {
    fn default() -> Self {
        Self { device: "eth0".into(), snaplen: 0, filter: "tcp".into() }
    }
}

/// A running capture; dropped, it ends and its last packets may be missing.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    messages: Receiver<String>,
    path: PathBuf,
}

/// What tcpdump counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    /// Packets in the file.
    pub packets: u64,
    /// Packets that matched, but for which there was no room.
    pub dropped: u64,
}

impl Capture {
    /// Starts tcpdump in `namespace` and returns once it listens.
    ///
    /// # Errors
    /// If tcpdump isn't there, refuses the device or the filter, or doesn't listen within ten seconds.
    pub fn start(namespace: &Namespace, path: &Path, spec: &CaptureSpec) -> Result<Self> {
        let mut command = Command::new("tcpdump");
        // -U and immediate mode: each packet is in the file as soon as it was seen. -Z: the file's directory is ours.
        command.args(["-U", "--immediate-mode", "-n", "-Z", "root", "-B", BUFFER_KIB, "-i", &spec.device]);
        command.args(["-s", &spec.snaplen.to_string(), "-w"]).arg(path).arg(&spec.filter);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut tcpdump = namespace.spawn(&mut command)?;
        let stderr = tcpdump.child().stderr.take().context("tcpdump without a standard error")?;
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut said = String::new();
        loop {
            match messages.recv_timeout(PATIENCE) {
                Ok(line) if line.contains("listening on") => break,
                Ok(line) => said = said + "\n" + &line,
                Err(RecvTimeoutError::Timeout) => bail!("tcpdump doesn't listen:{said}"),
                Err(RecvTimeoutError::Disconnected) => bail!("tcpdump ended:{said}"),
            }
        }
        Ok(Self { tcpdump, messages, path: path.to_owned() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the file has stopped to grow, ends tcpdump and returns its counts.
    ///
    /// Call it when the traffic is over: while packets keep coming it waits, at most ten seconds.
    ///
    /// # Errors
    /// If tcpdump has ended before, or doesn't end.
    pub fn stop(mut self) -> Result<Captured> {
        self.settle()?;
        self.tcpdump.signal(Signal::INT)?;
        self.tcpdump.wait(PATIENCE)?;
        let mut captured = Captured { packets: 0, dropped: 0 };
        for line in self.messages.iter() {
            let count = || line.split_whitespace().next().and_then(|word| word.parse().ok());
            if line.ends_with("captured") {
                captured.packets = count().with_context(|| format!("tcpdump said: {line}"))?;
            } else if line.ends_with("dropped by kernel") {
                captured.dropped = count().with_context(|| format!("tcpdump said: {line}"))?;
            }
        }
        Ok(captured)
    }

    fn settle(&self) -> Result<()> {
        let size = || std::fs::metadata(&self.path).map(|file| file.len());
        let began = Instant::now();
        let (mut last, mut since) = (size()?, Instant::now());
        while since.elapsed() < QUIET && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
            let now = size()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(())
    }
}
