//! Network namespaces by name, as `ip netns` keeps them.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::{
    fs::statfs,
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{moves::fault, network::Network};

/// Where the names are.
const NAMES: &str = "/run/netns";
/// `NSFS_MAGIC`: what a file that stands for a namespace lies on.
const NSFS: u64 = 0x6e73_6673;

/// The file that stands for a namespace.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// Whether the namespace is there, and not just its file.
pub(super) fn exists(name: &str) -> bool {
    statfs(path(name)).is_ok_and(|found| found.f_type as u64 == NSFS)
}

/// Makes a namespace, or finds it made, and sets it up: loopback, IPv4 alone, every port for every user.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn make(name: &str) -> Result<()> {
    if !exists(name) {
        fs::create_dir_all(NAMES).with_context(|| format!("can't make {NAMES}"))?;
        File::create(path(name)).with_context(|| format!("can't make {}", path(name).display()))?;
        fault("provision-namespace-file");
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(mount_bind("/proc/thread-self/ns/net", path(name))?)
        })
        .with_context(|| format!("can't make the network namespace {name}"))?;
    }
    within(name, || {
        let network = Network::open()?;
        let lo = network.device_named("lo")?.context("a namespace without loopback")?;
        network.up(lo.index)?;
        for device in ["all", "default"] {
            set(&format!("ipv6/conf/{device}/disable_ipv6"), "1")?;
        }
        // The primary may have had the capability for low ports: here they are nobody else's.
        set("ipv4/ip_unprivileged_port_start", "0")
    })?
}

/// Sets one of the namespace's own settings; one that this kernel doesn't have needs no setting.
fn set(key: &str, value: &str) -> Result<()> {
    match fs::write(Path::new("/proc/sys/net").join(key), value) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        written => written.with_context(|| format!("can't set net/{key}")),
    }
}

/// Moves the calling thread in.
///
/// # Errors
/// When there is no such namespace.
pub(super) fn enter(name: &str) -> Result<()> {
    let file = open(name)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("can't enter the network namespace {name}"))
}

/// The namespace's file.
///
/// # Errors
/// When there is no such namespace.
pub(super) fn open(name: &str) -> Result<File> {
    File::open(path(name)).with_context(|| format!("there is no network namespace {name}"))
}

/// Does something on a thread that has entered the namespace.
///
/// # Errors
/// When it can't be entered.
pub(super) fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = open(name)?;
    on_own_thread(|| {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(work())
    })
    .with_context(|| format!("can't enter the network namespace {name}"))
}

/// Runs `work` on a thread that ends with it: what it changed of its own namespaces ends too.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let result = std::thread::scope(|scope| scope.spawn(work).join());
    result.map_err(|_| io::Error::other("the thread panicked"))?
}

/// Takes the name away; the namespace goes with its last process. One that isn't there is fine.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn remove(name: &str) -> Result<()> {
    while exists(name) {
        unmount(path(name), UnmountFlags::DETACH)
            .with_context(|| format!("can't unmount {}", path(name).display()))?;
    }
    match fs::remove_file(path(name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("can't remove {}", path(name).display())),
    }
}
