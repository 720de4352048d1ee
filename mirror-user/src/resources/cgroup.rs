//! A control group, v1 or v2, or a host that has some controllers in each.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use procfs::process::Process;

use super::{
    Clock, Counter, Found, Metric, Missing, Reading, Value,
    process::{add_network, read_text},
};
use crate::policy::CgroupPath;

/// Groups below that are searched for a process.
const MOST_GROUPS: usize = 64;
/// Loop devices: what they do, the device below does again.
const LOOP_MAJOR: &str = "7:";

/// A control group of the policy.
#[derive(Clone, Debug)]
pub struct Group {
    path: CgroupPath,
    hierarchies: Hierarchies,
    /// The host's root folder: /proc and /sys are looked at below it.
    root: PathBuf,
}

/// Where the hierarchies are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hierarchies {
    unified: Option<PathBuf>,
    /// v1, by controller.
    legacy: BTreeMap<String, PathBuf>,
}

/// One controller's folder of a group.
enum Folder {
    Legacy(PathBuf),
    Unified(PathBuf),
}

impl Group {
    /// The group that a policy names.
    pub fn new(path: CgroupPath) -> Self {
        Self { path, hierarchies: Hierarchies::find(), root: "/".into() }
    }

    /// What it uses now; `at` in seconds of the monotonic clock.
    pub fn read(&self, at: f64) -> Reading {
        let mut reading = Reading::default();
        reading.set(Metric::Cpu, self.cpu(at));
        reading.set(Metric::Memory, self.memory().map(Value::Gauge));
        let io = self.io(at);
        for (metric, word) in [(Metric::Read, 0), (Metric::Written, 1)] {
            reading.set(metric, io.as_ref().map(|both| both[word].clone()).map_err(|why| *why));
        }
        match self.process() {
            Ok(pid) => add_network(&mut reading, &self.root.join("proc"), pid, at),
            Err(why) => {
                reading.set(Metric::Received, Err(why));
                reading.set(Metric::Sent, Err(why));
            }
        }
        reading
    }

    /// A controller's folder. One that is mounted as v1 can't be in v2's hierarchy.
    fn folder(&self, controller: &str) -> Found<Folder> {
        let below = |mount: &PathBuf| Some(mount.join(self.path.relative())).filter(|path| path.is_dir());
        if let Some(path) = self.hierarchies.legacy.get(controller).and_then(below) {
            return Ok(Folder::Legacy(path));
        }
        self.hierarchies.unified.as_ref().and_then(below).map(Folder::Unified).ok_or(Missing::Gone)
    }

    fn cpu(&self, at: f64) -> Found<Value> {
        let seconds = match self.folder("cpuacct")? {
            Folder::Legacy(path) => number(&read_file(&path, "cpuacct.usage")?)? / 1e9,
            Folder::Unified(path) => field(&read_file(&path, "cpu.stat")?, "usage_usec")? / 1e6,
        };
        let parts = BTreeMap::from([("group".to_owned(), seconds)]);
        Ok(Value::Counter(Counter { at, clock: Clock::Gateway, parts }))
    }

    /// What is charged to the group without the file pages that the kernel would drop first: cAdvisor's working set.
    fn memory(&self) -> Found<f64> {
        let (path, usage, inactive) = match self.folder("memory")? {
            Folder::Legacy(path) => (path, "memory.usage_in_bytes", "total_inactive_file"),
            Folder::Unified(path) => (path, "memory.current", "inactive_file"),
        };
        let used = number(&read_file(&path, usage)?)?;
        let inactive = field(&read_file(&path, "memory.stat")?, inactive)?;
        Ok((used - inactive).max(0.0))
    }

    /// Bytes read and written, by device.
    fn io(&self, at: f64) -> Found<[Value; 2]> {
        let mut parts = [BTreeMap::new(), BTreeMap::new()];
        match self.folder("blkio")? {
            Folder::Legacy(path) => {
                let text = read_file(&path, "blkio.throttle.io_service_bytes_recursive")
                    .or_else(|_| read_file(&path, "blkio.throttle.io_service_bytes"))?;
                for line in text.lines() {
                    let mut words = line.split_whitespace();
                    // The last line is a sum, without a device.
                    let (Some(device), Some(kind), Some(bytes)) = (words.next(), words.next(), words.next())
                    else {
                        continue;
                    };
                    let Some(word) = ["Read", "Write"].iter().position(|known| *known == kind) else {
                        continue;
                    };
                    if !self.is_stacked(device) {
                        parts[word].insert(device.to_owned(), number(bytes)?);
                    }
                }
            }
            Folder::Unified(path) => {
                for line in read_file(&path, "io.stat")?.lines() {
                    let Some((device, fields)) = line.split_once(' ') else { continue };
                    if self.is_stacked(device) {
                        continue;
                    }
                    for (word, name) in ["rbytes=", "wbytes="].iter().enumerate() {
                        let bytes = fields.split(' ').find_map(|field| field.strip_prefix(name));
                        parts[word].insert(device.to_owned(), number(bytes.ok_or(Missing::Malformed)?)?);
                    }
                }
            }
        }
        // A group that has done no I/O yet has no line. It begins at nothing.
        Ok(parts.map(|mut parts| {
            parts.insert("group".to_owned(), 0.0);
            Value::Counter(Counter { at, clock: Clock::Gateway, parts })
        }))
    }

    /// Whether a device (`major:minor`) lies on others that count the same bytes: device mapper, RAID, loop.
    fn is_stacked(&self, device: &str) -> bool {
        let slaves = self.root.join("sys/dev/block").join(device).join("slaves");
        device.starts_with(LOOP_MAJOR)
            || fs::read_dir(slaves).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// A process of the group, or of one right below it.
    fn process(&self) -> Found<u32> {
        let folder = match self.folder("cpuacct")? {
            Folder::Legacy(path) | Folder::Unified(path) => path,
        };
        let first = |folder: &Path| {
            let text = read_file(folder, "cgroup.procs").ok()?;
            text.lines().next()?.parse().ok()
        };
        let below = || {
            let groups = fs::read_dir(&folder).ok()?.flatten().take(MOST_GROUPS);
            groups.map(|entry| entry.path()).find_map(|path| first(&path))
        };
        first(&folder).or_else(below).ok_or(Missing::NotMeasured)
    }
}

impl Hierarchies {
    fn find() -> Self {
        let mut found = Self::default();
        let mounts = Process::myself().and_then(|me| me.mountinfo());
        for mount in mounts.into_iter().flatten() {
            match mount.fs_type.as_str() {
                "cgroup2" => {
                    found.unified.get_or_insert(mount.mount_point);
                }
                "cgroup" => {
                    for option in mount.super_options.keys() {
                        found.legacy.entry(option.clone()).or_insert_with(|| mount.mount_point.clone());
                    }
                }
                _ => {}
            }
        }
        found
    }
}

/// A controller's file. Its folder was there: where the file isn't, the controller doesn't measure that.
fn read_file(folder: &Path, name: &str) -> Found<String> {
    read_text(&folder.join(name))
        .map_err(|why| if why == Missing::Gone && folder.is_dir() { Missing::NotMeasured } else { why })
}

/// A number, alone.
fn number(text: &str) -> Found<f64> {
    text.trim().parse::<u64>().map(|value| value as f64).map_err(|_| Missing::Malformed)
}

/// The number behind a name that begins a line.
fn field(text: &str, name: &str) -> Found<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    number(line.ok_or(Missing::Malformed)?)
}
