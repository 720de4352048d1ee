//! Failures in words: what went wrong with a step, and what to do.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use mirror_control::driver::{Failure, Step};

/// Lines of an instance's log in a failure.
const LAST_LINES: usize = 10;
/// Bytes of an instance's log that are looked at for them.
const LAST_BYTES: u64 = 4_096;

/// What an instance said last, as it ends a failure of its own.
fn said_last(log: &Path) -> String {
    let log = last_bytes(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    match lines[lines.len().saturating_sub(LAST_LINES)..].join("\n  ") {
        last if last.is_empty() => "it has said nothing".into(),
        last => format!("it said last:\n  {last}"),
    }
}

fn last_bytes(log: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let from = file.metadata()?.len().saturating_sub(LAST_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LAST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What to do about a step that failed, for an instance with this log.
pub(super) fn advice(step: &Step, log: &Path) -> String {
    match step {
        Step::Group(_) => {
            "both controllers must be there, and the limits fit: grep cgroup /proc/mounts".into()
        }
        Step::Namespace(_) | Step::Link(_) | Step::Egress(_) => "see `ip netns` and `ip addr`".into(),
        Step::Copy(copy) | Step::Empty(copy) => {
            format!("make {} readable and room for it, or take it out of the policy", copy.at.display())
        }
        Step::Start(_) => format!("mend [shadow.process] in the policy; {}", said_last(log)),
        Step::Check { .. } => format!(
            "mend [shadow.process] in the policy: does it listen on the shadow's address, may it write where it must \
             (`copy`, `empty`), is `health` right, and `health_deadline` long enough? {}",
            said_last(log)
        ),
    }
}

/// Refuses whoever isn't root.
pub(super) fn need_root() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new("namespaces, control groups and other users' files need root", "run it as root (sudo)"))
}

/// A failure that no step's advice fits.
pub(super) fn failure(error: anyhow::Error) -> Failure {
    Failure::new(format!("{error:#}"), "nothing else was changed; try again when that is mended")
}

/// There is no complete instance.
pub(super) fn absent(app: &str) -> Failure {
    Failure::new(format!("{app} isn't provisioned here"), format!("mirror provision {app}"))
}
