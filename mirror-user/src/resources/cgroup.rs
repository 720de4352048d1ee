//! A control group, v1 or v2, or a host that has some controllers in each.

use std::{
    collections::{BTreeMap, VecDeque},
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

    /// A process of the group, or of one below it: in version 2 a group whose controllers its children have holds none itself
    /// (cgroup-v2.rst, "No Internal Process Constraint"), and a slice has slices.
    fn process(&self) -> Found<u32> {
        let (Folder::Legacy(group) | Folder::Unified(group)) = self.folder("cpuacct")?;
        let first = |folder: &Path| {
            let text = read_file(folder, "cgroup.procs").ok()?;
            text.lines().next()?.parse().ok()
        };
        let mut groups = VecDeque::from([group]);
        for _ in 0..MOST_GROUPS {
            let Some(group) = groups.pop_front() else { break };
            if let Some(pid) = first(&group) {
                return Ok(pid);
            }
            let below = fs::read_dir(&group).into_iter().flatten().flatten();
            let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            groups.extend(below.take(MOST_GROUPS).map(|entry| entry.path()));
        }
        Err(Missing::NotMeasured)
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

#[cfg(test)]
mod tests {
    use super::{super::rates::Rates, *};

    /// CPU and memory captured of a group that wrote and read a file of 24 MB (Linux 6.18); I/O as the kernel's
    /// documentation has it.
    const V1_USAGE: &str = "176305904\n";
    const V1_MEMORY: &str = "25899008\n";
    const V1_MEMORY_STAT: &str = "cache 25268224\nrss 258048\ninactive_file 25174016\nactive_file 94208\n\
        total_cache 25268224\ntotal_rss 258048\ntotal_inactive_file 25174016\ntotal_active_file 94208\n";
    const V1_IO: &str = "254:0 Read 25165824\n254:0 Write 25165824\n254:0 Sync 25165824\n254:0 Async 25165824\n\
        254:0 Discard 0\n254:0 Total 50331648\n252:3 Read 25165824\n252:3 Write 25165824\nTotal 100663296\n";
    const V2_CPU: &str = "usage_usec 3183740914\nuser_usec 2788531968\nsystem_usec 395208946\nnice_usec 1178520794\n\
        core_sched.force_idle_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\nnr_bursts 0\nburst_usec 0\n";
    const V2_MEMORY_STAT: &str = "anon 12288000\nfile 4096000\nkernel 819200\ninactive_anon 12288000\nactive_anon 0\n\
        inactive_file 3000000\nactive_file 1096000\n";
    const V2_IO: &str = "254:0 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n\
        252:3 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n\
        7:0 rbytes=77 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n";

    /// A host on whose disk 254:0 lies the device mapper's 252:3, with a group of some files.
    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("sys/dev/block/252:3/slaves/vda")).unwrap();
        fs::create_dir_all(folder.path().join("sys/dev/block/254:0/slaves")).unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn group(root: &Path, legacy: &[&str], unified: bool) -> Group {
        let legacy = legacy.iter().map(|name| ((*name).to_owned(), root.join(name))).collect();
        let hierarchies = Hierarchies { unified: unified.then(|| root.join("unified")), legacy };
        Group { path: path("/shop.service"), hierarchies, root: root.to_owned() }
    }

    fn path(text: &str) -> CgroupPath {
        CgroupPath::parse(text.into()).unwrap()
    }

    fn sum(reading: &Reading, metric: Metric) -> Found<f64> {
        Ok(match reading.get(metric)? {
            Value::Gauge(value) => *value,
            Value::Counter(counter) => counter.parts.values().sum(),
        })
    }

    #[test]
    fn a_group_of_v1_is_read_controller_by_controller() {
        let host = host(&[
            ("cpuacct/shop.service/cpuacct.usage", V1_USAGE),
            ("memory/shop.service/memory.usage_in_bytes", V1_MEMORY),
            ("memory/shop.service/memory.stat", V1_MEMORY_STAT),
            ("blkio/shop.service/blkio.throttle.io_service_bytes_recursive", V1_IO),
        ]);
        let reading = group(host.path(), &["cpuacct", "memory", "blkio"], false).read(1.0);
        assert_eq!(sum(&reading, Metric::Cpu), Ok(0.176_305_904));
        assert_eq!(sum(&reading, Metric::Memory), Ok(25_899_008.0 - 25_174_016.0));
        assert_eq!(sum(&reading, Metric::Read), Ok(25_165_824.0), "the mapped device's bytes are the disk's");
        assert_eq!(sum(&reading, Metric::Written), Ok(25_165_824.0));
        assert_eq!(sum(&reading, Metric::Received), Err(Missing::NotMeasured), "nobody is in it");
    }

    #[test]
    fn a_group_of_v2_is_read_and_a_controller_that_is_off_is_not_measured() {
        let files = [
            ("unified/shop.service/cpu.stat", V2_CPU),
            ("unified/shop.service/memory.current", "17203200\n"),
            ("unified/shop.service/memory.stat", V2_MEMORY_STAT),
            ("unified/shop.service/io.stat", V2_IO),
        ];
        let all = host(&files);
        let reading = group(all.path(), &[], true).read(1.0);
        assert_eq!(sum(&reading, Metric::Cpu), Ok(3_183.740_914));
        assert_eq!(sum(&reading, Metric::Memory), Ok(14_203_200.0));
        assert_eq!(sum(&reading, Metric::Read), Ok(1_459_200.0));
        assert_eq!(sum(&reading, Metric::Written), Ok(314_773_504.0));
        let no_memory = host(&files[..1]);
        let reading = group(no_memory.path(), &[], true).read(1.0);
        assert_eq!(sum(&reading, Metric::Memory), Err(Missing::NotMeasured));
        assert_eq!(sum(&reading, Metric::Cpu), Ok(3_183.740_914));
    }

    #[test]
    fn the_network_of_a_group_of_v2_is_that_of_a_process_in_a_group_below() {
        let devices = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets \
            errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo: 5 1 0 0 \
            0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 700 7 0 0 0 0 0 0 90 3 0 0 0 0 0 0\n";
        let host = host(&[
            ("unified/shop.service/cpu.stat", V2_CPU),
            ("unified/shop.service/cgroup.procs", ""),
            ("unified/shop.service/web.slice/cgroup.procs", ""),
            ("unified/shop.service/web.slice/one.scope/cgroup.procs", "22913\n22955\n"),
            ("proc/22913/net/dev", devices),
            ("proc/22913/ns/user", ""),
        ]);
        std::os::unix::fs::symlink("net:[1]", host.path().join("proc/22913/ns/net")).unwrap();
        let group = group(host.path(), &[], true);
        let reading = group.read(1.0);
        assert_eq!(sum(&reading, Metric::Received), Ok(700.0));
        assert_eq!(sum(&reading, Metric::Sent), Ok(90.0));
        fs::write(host.path().join("unified/shop.service/web.slice/one.scope/cgroup.procs"), "").unwrap();
        assert_eq!(sum(&group.read(2.0), Metric::Sent), Err(Missing::NotMeasured), "nobody is in it");
    }

    #[test]
    fn a_hybrid_host_has_each_controller_where_it_is_mounted() {
        let host = host(&[
            ("memory/shop.service/memory.usage_in_bytes", V1_MEMORY),
            ("memory/shop.service/memory.stat", V1_MEMORY_STAT),
            ("unified/shop.service/cpu.stat", V2_CPU),
        ]);
        let reading = group(host.path(), &["cpuacct", "memory", "blkio"], true).read(1.0);
        assert_eq!(sum(&reading, Metric::Cpu), Ok(3_183.740_914));
        assert_eq!(sum(&reading, Metric::Memory), Ok(724_992.0));
    }

    #[test]
    fn what_is_gone_or_torn_is_named() {
        let host = host(&[
            ("unified/shop.service/cpu.stat", "usage_u"),
            ("unified/shop.service/io.stat", "254:0 rby"),
        ]);
        let reading = group(host.path(), &[], true).read(1.0);
        assert_eq!(sum(&reading, Metric::Cpu), Err(Missing::Malformed));
        assert_eq!(sum(&reading, Metric::Read), Err(Missing::Malformed));
        fs::remove_dir_all(host.path().join("unified/shop.service")).unwrap();
        let reading = group(host.path(), &[], true).read(1.0);
        for metric in Metric::OF_SOURCE {
            assert_eq!(reading.get(metric), Err(Missing::Gone), "{metric:?}");
        }
    }

    #[test]
    fn the_first_bytes_of_a_group_that_did_none_count() {
        let host = host(&[("unified/shop.service/io.stat", "")]);
        let group = group(host.path(), &[], true);
        let mut rates = Rates::default();
        rates.step(&[Metric::Read], &group.read(1.0));
        assert_eq!(rates.step(&[Metric::Read], &group.read(2.0)), [(Metric::Read, Ok(0.0))]);
        let began = "254:0 rbytes=0 wbytes=0 rios=0 wios=0 dbytes=0 dios=0\n";
        fs::write(host.path().join("unified/shop.service/io.stat"), began).unwrap();
        rates.step(&[Metric::Read], &group.read(3.0));
        fs::write(host.path().join("unified/shop.service/io.stat"), began.replace("rbytes=0", "rbytes=50"))
            .unwrap();
        assert_eq!(rates.step(&[Metric::Read], &group.read(4.0)), [(Metric::Read, Ok(50.0))]);
    }

    #[test]
    fn this_hosts_own_hierarchies_are_found() {
        let found = Hierarchies::find();
        let mounted = fs::read_to_string("/proc/self/mounts").unwrap();
        let has = |kind: &str| mounted.lines().any(|line| line.split(' ').nth(2) == Some(kind));
        assert_eq!((found.unified.is_some(), !found.legacy.is_empty()), (has("cgroup2"), has("cgroup")));
    }
}
