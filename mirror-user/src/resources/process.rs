//! A process and its descendants, from /proc.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use procfs::{ProcError, process::Process};

use super::{Clock, Counter, Found, Metric, Missing, Reading, Value};
use crate::policy::ProcessId;

/// Processes of a tree that are looked at.
const MOST: usize = 4_096;
/// Bytes of a pid file.
const MOST_PID: usize = 32;

/// A process of the policy, with its descendants.
#[derive(Clone, Debug)]
pub struct Tree {
    id: ProcessId,
    /// Usually /proc.
    root: PathBuf,
}

/// Sums over a tree.
///
/// What a process used that has ended and was waited for, its parent has taken over: the kernel adds it to `cutime`,
/// `cstime` and to the parent's I/O. So sums over the tree don't go back when a worker ends.
#[derive(Debug, Default)]
struct Sums {
    cpu: f64,
    memory: f64,
    read: f64,
    written: f64,
    denied: bool,
}

impl Tree {
    /// The processes that a policy names.
    pub fn new(id: ProcessId) -> Self {
        Self { id, root: "/proc".into() }
    }

    /// What they use now; `at` in seconds of the monotonic clock.
    pub fn read(&self, at: f64) -> Reading {
        self.pid().and_then(|pid| self.sum(pid, at)).unwrap_or_else(Reading::missing)
    }

    fn pid(&self) -> Found<u32> {
        match &self.id {
            ProcessId::Number(pid) => Ok(pid.get()),
            ProcessId::File(file) => {
                let text = read_text(file)?;
                let known = (text.len() <= MOST_PID).then(|| text.trim().parse().ok()).flatten();
                known.filter(|pid| *pid > 0).ok_or(Missing::Malformed)
            }
        }
    }

    fn sum(&self, root: u32, at: f64) -> Found<Reading> {
        let first = self.process(root)?.stat().map_err(why)?;
        // A number that another process got meanwhile is another counter.
        let part = format!("{root} since {}", first.starttime);
        let mut sums = Sums::default();
        let (mut waiting, mut seen) = (vec![root], 0);
        while let Some(pid) = waiting.pop() {
            seen += 1;
            if seen > MOST {
                return Err(Missing::TooLarge);
            }
            // One that has just ended: its parent has its sums, or will have them in a moment.
            if let Ok(process) = self.process(pid) {
                sums.add(&process);
                waiting.extend(children(&process));
            }
        }
        let counter = |value| {
            let parts = BTreeMap::from([(part.clone(), value)]);
            Value::Counter(Counter { at, clock: Clock::Gateway, parts })
        };
        let io = |value| if sums.denied { Err(Missing::Denied) } else { Ok(counter(value)) };
        let mut reading = Reading::default();
        reading.set(Metric::Cpu, Ok(counter(sums.cpu)));
        reading.set(Metric::Memory, Ok(Value::Gauge(sums.memory)));
        reading.set(Metric::Read, io(sums.read));
        reading.set(Metric::Written, io(sums.written));
        add_network(&mut reading, &self.root, root, at);
        Ok(reading)
    }

    fn process(&self, pid: u32) -> Found<Process> {
        Process::new_with_root(self.root.join(pid.to_string())).map_err(why)
    }
}

impl Sums {
    fn add(&mut self, process: &Process) {
        let Ok(stat) = process.stat() else { return };
        let ticks = stat.utime + stat.stime + stat.cutime.max(0) as u64 + stat.cstime.max(0) as u64;
        self.cpu += ticks as f64 / procfs::ticks_per_second() as f64;
        self.memory += (stat.rss * procfs::page_size()) as f64;
        match process.io() {
            Ok(io) => {
                self.read += io.read_bytes as f64;
                self.written += io.write_bytes as f64;
            }
            Err(ProcError::PermissionDenied(_)) => self.denied = true,
            Err(_) => {}
        }
    }
}

/// Children that any of a process' threads made.
fn children(process: &Process) -> Vec<u32> {
    let Ok(tasks) = process.tasks() else { return Vec::new() };
    tasks.flatten().filter_map(|task| task.children().ok()).flatten().collect()
}

/// Adds the network of a process' namespace, where it is another one than this process'. The loopback device doesn't count.
pub(super) fn add_network(reading: &mut Reading, proc: &Path, pid: u32, at: f64) {
    let found = network(proc, pid);
    for (metric, received) in [(Metric::Received, true), (Metric::Sent, false)] {
        let value = found.as_ref().map_err(|why| *why).map(|devices| {
            let parts = devices
                .iter()
                .map(|(name, bytes)| (name.clone(), if received { bytes.0 } else { bytes.1 }))
                .collect();
            Value::Counter(Counter { at, clock: Clock::Gateway, parts })
        });
        reading.set(metric, value);
    }
}

/// Bytes received and sent, by device.
fn network(proc: &Path, pid: u32) -> Found<BTreeMap<String, (f64, f64)>> {
    let folder = proc.join(pid.to_string());
    let namespace = |folder: &Path| fs::read_link(folder.join("ns/net"));
    let theirs = namespace(&folder).map_err(|error| of_io(&error))?;
    if namespace(Path::new("/proc/self")).is_ok_and(|mine| mine == theirs) {
        return Err(Missing::SharedNetwork);
    }
    let process = Process::new_with_root(folder).map_err(why)?;
    let devices = process.dev_status().map_err(why)?;
    let counted = devices.into_iter().filter(|(name, _)| name != "lo");
    // Devices that are named anew in the namespace of a container keep their name: it is the part's.
    Ok(counted.map(|(name, d)| (name, (d.recv_bytes as f64, d.sent_bytes as f64))).collect())
}

/// A file's text.
pub(super) fn read_text(path: &Path) -> Found<String> {
    fs::read_to_string(path).map_err(|error| of_io(&error))
}

/// What a failure to read means.
pub(super) fn of_io(error: &std::io::Error) -> Missing {
    match error.kind() {
        ErrorKind::PermissionDenied => Missing::Denied,
        ErrorKind::InvalidData => Missing::Malformed,
        // ENOENT, and ESRCH or ENODEV of a file that was open when its process or group ended.
        _ => Missing::Gone,
    }
}

fn why(error: ProcError) -> Missing {
    match error {
        ProcError::PermissionDenied(_) => Missing::Denied,
        ProcError::Io(error, _) => of_io(&error),
        ProcError::NotFound(_) => Missing::Gone,
        ProcError::Incomplete(_) | ProcError::Other(_) | ProcError::InternalError(_) => Missing::Malformed,
    }
}
