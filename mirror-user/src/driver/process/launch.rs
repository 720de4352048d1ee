//! The last steps before the program: made by a process of their own, which then becomes it.
#![allow(unsafe_code, reason = "mount_setattr has no wrapper")]

use std::{
    ffi::CString,
    fs::{self, File},
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use mirror_control::driver::{OwnCopy, Program, Start};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{User, getgrouplist},
};
use rustix::{
    mount::{MountPropagationFlags, mount_bind, mount_change},
    process::{Gid, Resource, Rlimit, Uid, setrlimit, setsid},
    thread::{
        CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};

use super::{group::Hierarchies, namespace};

/// The subcommand that calls [`run`].
pub const COMMAND: &str = "launch-instance";

/// Starts the process that becomes the program. It does nothing until it is told what, and ends if it never is: so whoever
/// starts it can write down first that it is there.
///
/// # Errors
/// When it can't be started.
pub(super) fn spawn(launcher: &Path, log: &Path) -> Result<Child> {
    let open = || File::options().create(true).append(true).mode(0o600).open(log);
    let (out, err) = (open(), open());
    let said = || format!("can't write to {}", log.display());
    Command::new(launcher)
        .arg(COMMAND)
        .env_clear()
        .envs(std::env::var_os(FAULT).map(|fault| (FAULT, fault)))
        .stdin(Stdio::piped())
        .stdout(out.with_context(said)?)
        .stderr(err.with_context(said)?)
        .spawn()
        .with_context(|| format!("can't start {}", launcher.display()))
}

/// What tests say faults by.
const FAULT: &str = "MIRROR_FAULT";

/// Reads what to start from standard input, enters its place, and becomes it.
///
/// # Errors
/// When something is refused: the process isn't the program then.
pub fn run() -> Result<()> {
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).context("can't read what to start")?;
    if text.is_empty() {
        bail!("nobody says what to start");
    }
    let start: Start = serde_json::from_slice(&text).context("can't make out what to start")?;
    // A session of its own: what ends the caller's terminal doesn't end it.
    setsid().context("can't begin a session")?;
    Hierarchies::find()?.join(&start.group)?;
    namespace::enter(&start.namespace)?;
    let program = &start.program;
    let user = user(&program.user)?;
    own_files(&start.own)?;
    if let Some(files) = program.open_files {
        let limit = Rlimit { current: Some(files), maximum: Some(files) };
        setrlimit(Resource::Nofile, limit).with_context(|| format!("can't limit open files to {files}"))?;
    }
    become_user(&user)?;
    std::env::set_current_dir(&program.directory)
        .with_context(|| format!("{} can't enter {}", program.user, program.directory.display()))?;
    let error = exec(program);
    Err(error).with_context(|| format!("can't run {}", program.command[0]))
}

fn exec(program: &Program) -> std::io::Error {
    let Ok(null) = File::open("/dev/null") else { return std::io::Error::last_os_error() };
    Command::new(&program.command[0])
        .args(&program.command[1..])
        .env_clear()
        .envs(&program.environment)
        .stdin(null)
        .exec()
}

/// A user by name.
///
/// # Errors
/// When there is none.
pub(super) fn user(name: &str) -> Result<User> {
    let found = User::from_name(name).with_context(|| format!("can't look the user {name} up"))?;
    found.with_context(|| format!("there is no user {name} on this host"))
}

/// Puts its own files in the place of the originals, and makes all else read-only.
fn own_files(own: &[OwnCopy]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("can't have mounts of its own")?;
    // What is unmounted outside later must not be kept here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context("can't detach its mounts")?;
    for copy in own {
        mount_bind(&copy.own, &copy.at)
            .with_context(|| format!("can't put its own {} there", copy.at.display()))?;
    }
    set_read_only(Path::new("/"), true).context("can't make files read-only")?;
    own.iter().try_for_each(|copy| {
        set_read_only(&copy.at, false).with_context(|| format!("can't make {} writable", copy.at.display()))
    })
}

/// Makes the mount at a path read-only with all below it, or that one writable.
fn set_read_only(path: &Path, on: bool) -> Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let change = libc::mount_attr {
        attr_set: if on { libc::MOUNT_ATTR_RDONLY } else { 0 },
        attr_clr: if on { 0 } else { libc::MOUNT_ATTR_RDONLY },
        propagation: 0,
        userns_fd: 0,
    };
    let flags = if on { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path ends in zero and the attributes are as long as is said; both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}

/// Capabilities that a program of root's keeps: over its own files and users, not over the host.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Becomes a user, with its groups, for good.
fn become_user(user: &User) -> Result<()> {
    let name = CString::new(user.name.as_bytes())?;
    let groups =
        getgrouplist(&name, user.gid).with_context(|| format!("can't list the groups of {}", user.name))?;
    let groups: Vec<Gid> = groups.into_iter().map(|group| Gid::from_raw(group.as_raw())).collect();
    let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap")?.trim().parse()?;
    for bit in (0..=last).map(|number| 1_u64 << number) {
        let capability = CapabilitySet::from_bits_retain(bit);
        if !KEPT.contains(capability) {
            remove_capability_from_bounding_set(capability).context("can't drop a capability")?;
        }
    }
    // This process has one thread: what is the thread's is the process's.
    set_thread_groups(&groups).context("can't change groups")?;
    let (uid, gid) = (Uid::from_raw(user.uid.as_raw()), Gid::from_raw(user.gid.as_raw()));
    set_thread_res_gid(gid, gid, gid).context("can't change the group")?;
    set_thread_res_uid(uid, uid, uid).context("can't change the user")?;
    set_no_new_privs(true).context("can't give up new privileges")
}
