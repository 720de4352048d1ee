//! Control groups with limits on processor time and memory, in hierarchies of either version.
//!
//! Plain files instead of `cgroups-rs`: this needs five files of each version, and that crate brings the whole OCI resource
//! model, D-Bus and systemd with it.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mirror_control::driver::{Group, Limits};
use procfs::process::MountInfos;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::moves::fault;

/// The span that a share of processor time is given for, in microseconds.
const PERIOD_US: u64 = 100_000;
/// How long killed processes may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where groups are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hierarchies {
    /// One a controller.
    V1 {
        /// Processor time.
        cpu: PathBuf,
        /// Memory.
        memory: PathBuf,
    },
    /// One for all.
    V2(PathBuf),
}

impl Hierarchies {
    /// Those of this host.
    ///
    /// # Errors
    /// When a controller is mounted nowhere.
    pub(super) fn find() -> Result<Self> {
        let mounts = procfs::process::Process::myself()?.mountinfo()?;
        let controllers =
            |root: &Path| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        Self::among(&mounts, controllers)
    }

    /// The second version where it has both controllers, else the first.
    fn among(mounts: &MountInfos, controllers: impl Fn(&Path) -> String) -> Result<Self> {
        let v2 = mounts.0.iter().filter(|mount| mount.fs_type == "cgroup2").find(|mount| {
            let found = controllers(&mount.mount_point);
            ["cpu", "memory"].iter().all(|wanted| found.split_whitespace().any(|name| name == *wanted))
        });
        if let Some(mount) = v2 {
            return Ok(Self::V2(mount.mount_point.clone()));
        }
        let v1 = |controller: &str| {
            let mut mounts = mounts.0.iter().filter(|mount| mount.fs_type == "cgroup");
            let found = mounts.find(|mount| mount.super_options.contains_key(controller));
            found.map(|mount| mount.mount_point.clone()).with_context(|| {
                format!("the controller `{controller}` is mounted neither as version 2 nor as version 1")
            })
        };
        Ok(Self::V1 { cpu: v1("cpu")?, memory: v1("memory")? })
    }

    fn roots(&self) -> Vec<&Path> {
        match self {
            Self::V1 { cpu, memory } if cpu == memory => vec![cpu],
            Self::V1 { cpu, memory } => vec![cpu, memory],
            Self::V2(root) => vec![root],
        }
    }

    /// Makes a group, or finds it made, and sets its limits.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn make(&self, group: &Group) -> Result<()> {
        if let Self::V2(root) = self {
            write(&root.join("cgroup.subtree_control"), "+cpu +memory")?;
        }
        for root in self.roots() {
            match fs::create_dir(root.join(&group.name)) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => made.with_context(|| format!("can't make {}", root.join(&group.name).display()))?,
            }
            // With two hierarchies only one has the group here; without limits it is in either case.
            fault("provision-group-bare");
        }
        self.set(group)
    }

    /// Sets a group's limits.
    ///
    /// # Errors
    /// When the kernel refuses, or the group uses more memory than it would have.
    pub(super) fn set(&self, group: &Group) -> Result<()> {
        let Limits { cpu_millicores, memory_bytes } = group.limits;
        let quota_us = u64::from(cpu_millicores) * PERIOD_US / 1_000;
        let used = self.memory_used(&group.name)?;
        ensure!(used <= memory_bytes, "it uses {used} bytes of memory now, more than {memory_bytes}");
        match self {
            Self::V1 { cpu, memory } => {
                write(&memory.join(&group.name).join("memory.limit_in_bytes"), &memory_bytes.to_string())?;
                fault("scale-half");
                let cpu = cpu.join(&group.name);
                write(&cpu.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                write(&cpu.join("cpu.cfs_quota_us"), &quota_us.to_string())
            }
            Self::V2(root) => {
                let folder = root.join(&group.name);
                write(&folder.join("memory.max"), &memory_bytes.to_string())?;
                fault("scale-half");
                write(&folder.join("cpu.max"), &format!("{quota_us} {PERIOD_US}"))
            }
        }
    }

    /// The limits that a group has, read back; `None` without the group, or without a limit.
    ///
    /// # Errors
    /// When what the kernel says can't be read.
    pub(super) fn limits(&self, name: &str) -> Result<Option<Limits>> {
        let (cpu, memory) = match self {
            Self::V1 { cpu, memory } => {
                let cpu = cpu.join(name);
                let quota = read(&cpu.join("cpu.cfs_quota_us"))?;
                let period = read(&cpu.join("cpu.cfs_period_us"))?;
                let both = quota.zip(period).map(|(quota, period)| format!("{quota} {period}"));
                (both, read(&memory.join(name).join("memory.limit_in_bytes"))?)
            }
            Self::V2(root) => {
                (read(&root.join(name).join("cpu.max"))?, read(&root.join(name).join("memory.max"))?)
            }
        };
        let Some((cpu, memory)) = cpu.zip(memory) else { return Ok(None) };
        let Some((Ok(quota), Ok(period))) =
            cpu.split_once(' ').map(|(quota, period)| (quota.parse::<u64>(), period.parse::<u64>()))
        else {
            // `max` and -1: no limit.
            return Ok(None);
        };
        let Ok(memory_bytes) = memory.parse() else { return Ok(None) };
        ensure!(period > 0, "a period of no length: {cpu}");
        let cpu_millicores = u32::try_from(quota * 1_000 / period).context("a quota beyond all cores")?;
        Ok(Some(Limits { cpu_millicores, memory_bytes }))
    }

    /// The files that a group's limits are written to.
    fn limit_files(&self, name: &str) -> Vec<PathBuf> {
        match self {
            Self::V1 { cpu, memory } => vec![
                cpu.join(name).join("cpu.cfs_period_us"),
                cpu.join(name).join("cpu.cfs_quota_us"),
                memory.join(name).join("memory.limit_in_bytes"),
            ],
            Self::V2(root) => vec![root.join(name).join("cpu.max"), root.join(name).join("memory.max")],
        }
    }

    /// Lets a user set a group's limits: the files of these alone, so that it can neither move processes nor make groups
    /// (delegation, as the kernel's cgroup-v2.rst has it, of less than a whole group).
    ///
    /// # Errors
    /// When there is no such group, or the kernel refuses.
    pub(super) fn delegate(&self, name: &str, user: u32) -> Result<()> {
        self.limit_files(name).iter().try_for_each(|file| {
            std::os::unix::fs::chown(file, Some(user), None)
                .with_context(|| format!("can't give {} away", file.display()))
        })
    }

    /// A file of a group's limits that this process may not write to.
    pub(super) fn denied(&self, name: &str) -> Option<PathBuf> {
        let writable = |file: &PathBuf| fs::OpenOptions::new().write(true).open(file).is_ok();
        self.limit_files(name).into_iter().find(|file| !writable(file))
    }

    fn memory_used(&self, name: &str) -> Result<u64> {
        let file = match self {
            Self::V1 { memory, .. } => memory.join(name).join("memory.usage_in_bytes"),
            Self::V2(root) => root.join(name).join("memory.current"),
        };
        let used = read(&file)?.with_context(|| format!("there is no {}", file.display()))?;
        used.parse().with_context(|| format!("no number in {}: {used}", file.display()))
    }

    /// Moves the calling process in.
    ///
    /// # Errors
    /// When there is no such group.
    pub(super) fn join(&self, name: &str) -> Result<()> {
        // 0: whoever writes.
        self.roots().iter().try_for_each(|root| write(&root.join(name).join("cgroup.procs"), "0"))
    }

    fn members(&self, name: &str) -> Result<Vec<Pid>> {
        let mut members = Vec::new();
        for root in self.roots() {
            let text = read(&root.join(name).join("cgroup.procs"))?.unwrap_or_default();
            members.extend(text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)));
        }
        members.sort_unstable_by_key(|pid| pid.as_raw_pid());
        members.dedup();
        Ok(members)
    }

    /// Kills all members, and returns when there are none.
    ///
    /// # Errors
    /// When they don't end within ten seconds.
    pub(super) fn kill(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let members = self.members(name)?;
            if members.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "killed processes of the group {name} don't end: {members:?}");
            // A handle first, then whether it is (still) a member's: a number that was used again is never killed.
            let handles: Vec<_> =
                members.iter().map(|pid| (pid, pidfd_open(*pid, PidfdFlags::empty()))).collect();
            let still = self.members(name)?;
            for (pid, handle) in handles {
                if let (Ok(handle), true) = (handle, still.contains(pid)) {
                    // It may have ended by itself.
                    let _ = pidfd_send_signal(&handle, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills all members and removes the group; one that isn't there is fine.
    ///
    /// # Errors
    /// When members don't end, or the kernel refuses.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        self.kill(name)?;
        let deadline = Instant::now() + PATIENCE;
        for folder in self.roots().iter().map(|root| root.join(name)) {
            loop {
                match fs::remove_dir(&folder) {
                    Ok(()) => break,
                    Err(error) if error.kind() == ErrorKind::NotFound => break,
                    // A member that has ended may not have left yet.
                    Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    Err(error) => bail!("can't remove {}: {error}", folder.display()),
                }
            }
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("can't write {text} to {}", path.display()))
}

/// A file's content; `None` without the file.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use procfs::FromRead as _;

    use super::*;

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
31 20 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 20 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn mounts() -> MountInfos {
        MountInfos::from_read(HYBRID.as_bytes()).unwrap()
    }

    #[test]
    fn the_second_version_is_used_where_it_has_both_controllers() {
        let v1 = Hierarchies::among(&mounts(), |_| "hugetlb\n".into()).unwrap();
        let memory = "/sys/fs/cgroup/memory".into();
        assert_eq!(v1, Hierarchies::V1 { cpu: "/sys/fs/cgroup/cpu,cpuacct".into(), memory });
        let v2 = Hierarchies::among(&mounts(), |_| "cpuset cpu io memory pids\n".into()).unwrap();
        assert_eq!(v2, Hierarchies::V2("/sys/fs/cgroup/unified".into()));
        let cut = HYBRID.lines().next().unwrap();
        let lacking = MountInfos::from_read(cut.as_bytes()).unwrap();
        let error = Hierarchies::among(&lacking, |_| "cpu".into()).unwrap_err();
        assert!(error.to_string().contains("`memory`"), "{error}");
    }

    #[test]
    fn all_members_of_a_group_of_v2_are_killed_before_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let v2 = Hierarchies::V2(folder.path().to_owned());
        let procs = folder.path().join("g/cgroup.procs");
        fs::create_dir(folder.path().join("g")).unwrap();
        let mut members: Vec<_> =
            (0..2).map(|_| std::process::Command::new("sleep").arg("600").spawn().unwrap()).collect();
        let listed: String = members.iter().map(|member| format!("{}\n", member.id())).collect();
        fs::write(&procs, listed).unwrap();
        // The kernel takes them off the list.
        let kernel = std::thread::spawn(move || {
            let ends = members.iter_mut().map(|member| member.wait().unwrap()).collect::<Vec<_>>();
            fs::remove_file(procs).unwrap();
            ends
        });
        v2.remove("g").unwrap();
        let ends = kernel.join().unwrap();
        assert!(
            ends.iter().all(|end| std::os::unix::process::ExitStatusExt::signal(end) == Some(9)),
            "{ends:?}"
        );
        assert!(!folder.path().join("g").exists());
        v2.remove("g").unwrap();
    }

    /// Folders of plain files stand for the hierarchies: what is written is what the kernel would read.
    #[test]
    fn limits_are_written_and_read_back_in_either_version() {
        let folder = tempfile::tempdir().unwrap();
        let (cpu, memory) = (folder.path().join("cpu"), folder.path().join("memory"));
        for root in [&cpu, &memory] {
            fs::create_dir_all(root.join("g")).unwrap();
        }
        fs::write(memory.join("g/memory.usage_in_bytes"), "4096\n").unwrap();
        fs::write(memory.join("g/memory.current"), "4096\n").unwrap();
        let limits = Limits { cpu_millicores: 250, memory_bytes: 64 << 20 };
        let group = Group { name: "g".into(), limits };
        let v1 = Hierarchies::V1 { cpu: cpu.clone(), memory: memory.clone() };
        assert_eq!(v1.limits("g").unwrap(), None);
        v1.make(&group).unwrap();
        assert_eq!(fs::read_to_string(cpu.join("g/cpu.cfs_quota_us")).unwrap(), "25000");
        assert_eq!(v1.limits("g").unwrap(), Some(limits));
        let v2 = Hierarchies::V2(memory.clone());
        v2.make(&group).unwrap();
        assert_eq!(fs::read_to_string(memory.join("cgroup.subtree_control")).unwrap(), "+cpu +memory");
        assert_eq!(fs::read_to_string(memory.join("g/memory.max")).unwrap(), (64 << 20).to_string());
        assert_eq!(fs::read_to_string(memory.join("g/cpu.max")).unwrap(), "25000 100000");
        assert_eq!(v2.limits("g").unwrap(), Some(limits));
        fs::write(memory.join("g/cpu.max"), "max 100000").unwrap();
        assert_eq!(v2.limits("g").unwrap(), None, "no limit is no number");
        let me = rustix::process::geteuid().as_raw();
        for either in [&v1, &v2] {
            either.delegate("g", me).unwrap();
            assert_eq!(either.denied("g"), None);
            assert!(either.delegate("none", me).is_err() && either.denied("none").is_some());
        }
        v2.join("g").unwrap();
        assert_eq!(fs::read_to_string(memory.join("g/cgroup.procs")).unwrap(), "0", "whoever writes");
        assert!(!cpu.join("cgroup.subtree_control").exists(), "one hierarchy for all");
        let small = Group { limits: Limits { memory_bytes: 4_095, ..limits }, ..group };
        assert!(v2.set(&small).unwrap_err().to_string().contains("uses 4096 bytes"));
    }
}
