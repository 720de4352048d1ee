//! What a running process says of itself: /proc/PID.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::unistd::{Uid, User};
use procfs::process::{FDPermissions, FDTarget, LimitValue, Process};

use super::Found;

/// Reads what is known of a process.
///
/// # Errors
/// When there is no such process, or it is another user's and the caller isn't root.
pub fn from_pid(pid: u32) -> Result<Found> {
    let number = i32::try_from(pid).with_context(|| format!("{pid} is no process number"))?;
    let process = Process::new(number).with_context(|| format!("there is no process {pid}"))?;
    let denied = || format!("can't look at the process {pid}: it is another user's, and this isn't root's");
    let mut found = Found { source: format!("process {pid}"), ..Found::default() };
    found.command = process.cmdline().with_context(denied)?;
    ensure!(!found.command.is_empty(), "{pid} is a thread of the kernel, or has ended");
    program(&process.exe().with_context(denied)?, &mut found);
    for (name, value) in process.environ().with_context(denied)? {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => drop(found.environment.insert(name, value)),
            (name, _) => found.notes.push(format!("a variable that isn't UTF-8 was left out: {name:?}")),
        }
    }
    if found.environment.contains_key("LISTEN_FDS") {
        found.notes.push("it gets its sockets from its manager; here it must open them itself".into());
    }
    found.directory = Some(process.cwd().with_context(denied)?);
    let status = process.status().with_context(denied)?;
    found.memory_used = status.vmrss.map(|kib| kib << 10);
    found.user = User::from_uid(Uid::from_raw(status.euid))?.map(|user| user.name);
    if let LimitValue::Value(files) = process.limits().with_context(denied)?.max_open_files.soft_limit {
        found.open_files = Some(files);
    }
    let sockets = open_files(&process, &mut found).with_context(denied)?;
    found.listens = listens(&process, &sockets)?;
    own_limits(&process, &mut found);
    Ok(found)
}

/// The program by its absolute path.
fn program(exe: &Path, found: &mut Found) {
    if found.command[0].starts_with('/') {
        return;
    }
    let exe = exe.display().to_string();
    let there = exe.strip_suffix(" (deleted)");
    if there.is_some() {
        found.notes.push(format!("the program was replaced since it started: {exe}"));
    }
    found.command[0] = there.unwrap_or(&exe).to_owned();
}

/// Its standard output and standard error.
const OUTPUTS: [i32; 2] = [1, 2];

/// Notes the files that are open for writing, and returns the sockets' inodes. What it prints goes wherever its starter
/// wanted it, and is no data of its own: the shadow's goes to the instance's log.
fn open_files(process: &Process, found: &mut Found) -> Result<BTreeSet<u64>> {
    let mut sockets = BTreeSet::new();
    for file in process.fd()?.flatten() {
        let writes = file.mode().contains(FDPermissions::WRITE) && !OUTPUTS.contains(&file.fd);
        match file.target {
            FDTarget::Socket(inode) => {
                sockets.insert(inode);
            }
            FDTarget::Path(path) if writes && is_its_own(&path) => found.writes.push(path),
            _ => {}
        }
    }
    Ok(sockets)
}

/// A file on a disk, and not a device, a pipe, or one that is gone.
fn is_its_own(path: &Path) -> bool {
    let system = ["/dev", "/proc", "/sys"].iter().any(|system| path.starts_with(system));
    !system && path.is_file()
}

/// Where it listens; IPv6's "all" as IPv4's, which it is as a rule, too.
fn listens(process: &Process, sockets: &BTreeSet<u64>) -> Result<Vec<SocketAddr>> {
    let mut entries = process.tcp().context("can't list its sockets")?;
    // A kernel without IPv6 has no such file.
    entries.extend(process.tcp6().unwrap_or_default());
    let all = |address: SocketAddr| match address.ip().is_unspecified() {
        true => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()),
        false => address,
    };
    let mut found: Vec<SocketAddr> = entries
        .iter()
        .filter(|entry| entry.state == procfs::net::TcpState::Listen && sockets.contains(&entry.inode))
        .map(|entry| all(entry.local_address))
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// The limits of the control group that it is in itself, where it has some: version 2, or version 1's controllers.
fn own_limits(process: &Process, found: &mut Found) {
    let Ok(groups) = process.cgroups() else { return };
    let Ok(mounts) = process.mountinfo() else { return };
    for group in groups {
        let mount = mounts.0.iter().find(|mount| match mount.fs_type.as_str() {
            "cgroup2" => group.controllers.iter().all(String::is_empty),
            "cgroup" => group
                .controllers
                .iter()
                .any(|name| !name.is_empty() && mount.super_options.contains_key(name)),
            _ => false,
        });
        let Some(mount) = mount else { continue };
        let below = group.pathname.trim_start_matches('/');
        let folder: PathBuf = mount.mount_point.join(below);
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let memory = read("memory.max").or_else(|| read("memory.limit_in_bytes"));
        found.memory_bytes = found.memory_bytes.or(memory.as_deref().and_then(memory_limit));
        let cpu = read("cpu.max").or_else(|| {
            Some(format!("{} {}", read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim()))
        });
        found.cpu_millicores = found.cpu_millicores.or(cpu.as_deref().and_then(cpu_limit));
    }
}

/// A limit in bytes; `max`, and version 1's number near 2^63, are none.
fn memory_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

/// `QUOTA PERIOD` as thousandths of a core; `max`, and version 1's -1, are no limit.
fn cpu_limit(text: &str) -> Option<u32> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    u32::try_from((quota * 1_000).checked_div(period)?).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv6Addr, TcpListener},
        process::Command,
    };

    use super::*;

    #[test]
    fn a_process_is_read_as_it_was_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::File::create(folder.path().join(name)).unwrap();
        let mut child = Command::new("sleep")
            .args(["300", "0.5"])
            .env_clear()
            .env("SHOP", "a b=c")
            .current_dir(folder.path())
            .stdin(file("data"))
            .stdout(file("log"))
            .stderr(file("errors"))
            .spawn()
            .unwrap();
        // Spawning returns after exec: what is read is the program's.
        let found = from_pid(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Path::new(&found.command[0]).is_absolute(), "{:?}", found.command);
        assert_eq!(found.command[1..], ["300", "0.5"]);
        assert_eq!(found.environment.into_iter().collect::<Vec<_>>(), [("SHOP".into(), "a b=c".into())]);
        let canonical = folder.path().canonicalize().unwrap();
        assert_eq!(found.directory, Some(canonical.clone()));
        assert_eq!(found.writes, [canonical.join("data")], "what it prints is no data of its own");
        assert!(found.user.is_some() && found.open_files.is_some() && found.memory_used.is_some());
    }

    #[test]
    fn listening_sockets_are_found() {
        let any: [IpAddr; 3] =
            [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()];
        let listeners = any.map(|ip| TcpListener::bind((ip, 0)).unwrap());
        let found = from_pid(std::process::id()).unwrap();
        let all = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        for (listener, ip) in listeners.iter().zip([any[0], any[1], all]) {
            let port = listener.local_addr().unwrap().port();
            assert!(found.listens.contains(&SocketAddr::new(ip, port)), "{ip}: {:?}", found.listens);
        }
        assert!(from_pid(u32::MAX).is_err());
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!(memory_limit("max\n"), None);
        assert_eq!(memory_limit("9223372036854771712\n"), None);
        assert_eq!(memory_limit("67108864\n"), Some(64 << 20));
        assert_eq!(cpu_limit("max 100000"), None);
        assert_eq!(cpu_limit("-1 100000"), None);
        assert_eq!(cpu_limit("150000 100000\n"), Some(1_500));
        assert_eq!(cpu_limit("1 0"), None);
    }
}
