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

#[cfg(test)]
mod tests {
    use std::{
        num::NonZeroU32,
        os::unix::fs::symlink,
        process::{Command, Stdio},
    };

    use super::{super::rates::Rates, *};

    /// Captured: a process of Python, its child that has used a quarter of a second, and the first one after it has waited
    /// for the child's end.
    const PARENT: &str = "22913 (python3) R 22910 22910 1680 0 -1 4194304 3732 6544 0 0 2 1 3 1 20 0 1 0 309267 16961536 3401 \
        18446744073709551615 94330139181056 94330139181397 140732721888528 0 0 0 0 16781312 2 0 0 0 17 1 0 0 0 0 0 \
        94330139192752 94330139193368 94330327769088 140732721895678 140732721895724 140732721895724 140732721897423 0\n";
    const CHILD: &str = "22955 (python3) S 22913 22910 1680 0 -1 4194368 224 0 0 0 25 0 0 0 20 0 1 0 309292 16961536 2436 \
        18446744073709551615 94330139181056 94330139181397 140732721888528 0 0 0 0 16781312 2 1 0 0 17 1 0 0 0 0 0 \
        94330139192752 94330139193368 94330327769088 140732721895678 140732721895724 140732721895724 140732721897423 0\n";
    const PARENT_ALONE: &str = "22913 (python3) R 22910 22910 1680 0 -1 4194304 3761 6768 0 0 2 2 29 1 20 0 1 0 309267 16961536 \
        3401 18446744073709551615 94330139181056 94330139181397 140732721888528 0 0 0 0 16781312 2 0 0 0 17 1 0 0 0 0 0 \
        94330139192752 94330139193368 94330327769088 140732721895678 140732721895724 140732721895724 140732721897423 0\n";
    const IO: &str = "rchar: 1687643\nwchar: 3002033\nsyscr: 676\nsyscw: 36\nread_bytes: 0\nwrite_bytes: 3026944\n\
        cancelled_write_bytes: 0\n";
    const DEVICES: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets \
        errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo: 7645763   \
        40056    0    0    0     0          0         0  7645763   40056    0    0    0     0       0          0\n  eth0: \
        1140987306   40174    0    0    0     0          0         0  2474269   27337    0    0    0     0       0          0\n";

    /// A /proc of the parent with its child.
    fn proc() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("22913/stat", PARENT);
        write("22913/io", IO);
        write("22913/net/dev", DEVICES);
        write("22913/task/22913/children", "22955 ");
        write("22955/stat", CHILD);
        write("22955/io", &IO.replace("3026944", "0"));
        write("22955/task/22955/children", "");
        fs::create_dir(folder.path().join("22913/ns")).unwrap();
        symlink("net:[1]", folder.path().join("22913/ns/net")).unwrap();
        folder
    }

    fn tree(root: &Path, id: ProcessId) -> Tree {
        Tree { id, root: root.to_owned() }
    }

    fn number(pid: u32) -> ProcessId {
        ProcessId::Number(NonZeroU32::new(pid).unwrap())
    }

    fn sum(reading: &Reading, metric: Metric) -> Found<f64> {
        Ok(match reading.get(metric)? {
            Value::Gauge(value) => *value,
            Value::Counter(counter) => counter.parts.values().sum(),
        })
    }

    #[test]
    fn a_process_counts_with_its_children_and_goes_on_when_one_ends() {
        let folder = proc();
        let tree = tree(folder.path(), number(22913));
        let mut rates = Rates::default();
        let before = tree.read(1.0);
        let ticks = procfs::ticks_per_second() as f64;
        assert_eq!(sum(&before, Metric::Cpu), Ok((7.0 + 25.0) / ticks));
        assert_eq!(sum(&before, Metric::Memory), Ok(((3_401 + 2_436) * procfs::page_size()) as f64));
        assert_eq!(sum(&before, Metric::Written), Ok(3_026_944.0));
        rates.step(&Metric::OF_SOURCE, &before);
        fs::remove_dir_all(folder.path().join("22955")).unwrap();
        fs::write(folder.path().join("22913/stat"), PARENT_ALONE).unwrap();
        let after = rates.step(&[Metric::Cpu], &tree.read(2.0));
        assert!(after[0].1.is_ok_and(|cores| (cores - 2.0 / ticks).abs() < 1e-9), "{after:?}");
    }

    #[test]
    fn the_network_is_the_namespaces_without_the_loopback() {
        let folder = proc();
        let reading = tree(folder.path(), number(22913)).read(1.0);
        assert_eq!(sum(&reading, Metric::Received), Ok(1_140_987_306.0));
        assert_eq!(sum(&reading, Metric::Sent), Ok(2_474_269.0));
    }

    #[test]
    fn another_process_under_the_same_number_is_a_restart() {
        let folder = proc();
        let tree = tree(folder.path(), number(22913));
        let mut rates = Rates::default();
        rates.step(&Metric::OF_SOURCE, &tree.read(1.0));
        fs::write(folder.path().join("22913/stat"), PARENT.replace("309267", "999999")).unwrap();
        let after = rates.step(&[Metric::Cpu, Metric::Written], &tree.read(2.0));
        assert_eq!(after, [(Metric::Cpu, Err(Missing::Reset)), (Metric::Written, Err(Missing::Reset))]);
    }

    #[test]
    fn what_is_gone_or_makes_no_sense_is_named() {
        let folder = proc();
        let read = |id| tree(folder.path(), id).read(1.0);
        assert_eq!(read(number(7)), Reading::missing(Missing::Gone));
        let file = folder.path().join("shop.pid");
        let named = ProcessId::File(file.clone());
        assert_eq!(read(named.clone()), Reading::missing(Missing::Gone));
        for nonsense in ["", "shop", "-1", "0", "22913 22914", &"1".repeat(100)] {
            fs::write(&file, nonsense).unwrap();
            assert_eq!(read(named.clone()), Reading::missing(Missing::Malformed), "{nonsense:?}");
        }
        fs::write(&file, "22913\n").unwrap();
        assert!(sum(&read(named), Metric::Cpu).is_ok());
        fs::write(folder.path().join("22913/stat"), "22913 (python3").unwrap();
        assert_eq!(read(number(22913)), Reading::missing(Missing::Malformed));
    }

    #[test]
    fn a_real_process_is_read_and_is_gone_when_it_has_ended() {
        let mut child =
            Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        let tree = Tree::new(number(child.id()));
        let mut rates = Rates::default();
        let started = std::time::Instant::now();
        let at = || started.elapsed().as_secs_f64();
        rates.step(&Metric::OF_SOURCE, &tree.read(at()));
        // It does nothing else than using its CPU: some ticks must come.
        let cpu = loop {
            match rates.step(&[Metric::Cpu, Metric::Memory, Metric::Received], &tree.read(at())).as_slice() {
                [(_, Ok(cpu)), (_, Ok(memory)), (_, received)] if *cpu > 0.0 => {
                    assert!(*memory > 0.0);
                    assert_eq!(*received, Err(Missing::SharedNetwork));
                    break *cpu;
                }
                _ => std::thread::yield_now(),
            }
            assert!(at() < 60.0, "a busy process uses no CPU");
        };
        assert!(cpu > 0.0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(tree.read(at()), Reading::missing(Missing::Gone));
    }
}
