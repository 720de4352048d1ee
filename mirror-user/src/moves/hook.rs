//! The join hook. It copies to a side that others take for level as soon as the move is made: so it is killed with all that it
//! has started, and written down, for a daemon after this one to end what was left.

use std::{
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::{fs::DirBuilderExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mirror_common::switch_word::Side;
use mirror_control::moves::Saw;
use rustix::process::{Pid, Signal, kill_process_group};

use super::{fault, planted};
use crate::{
    driver::process::Mark,
    policy::{Endpoint, Policy},
};

/// How long a killed hook may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A hook that runs.
pub(super) struct Hook {
    child: Child,
    started: Instant,
    /// Where it is written down.
    place: PathBuf,
}

impl Hook {
    /// Starts the policy's hook, in a process group of its own, and writes it down.
    ///
    /// # Errors
    /// When it can't be started, or not be written down: then it is killed again.
    pub(super) fn start(policy: &Policy, from: Side, place: &Path) -> Result<Self> {
        let servers = servers(policy, from)?;
        let (program, arguments) = policy.join_hook.split_first().context("an empty join hook")?;
        let child = Command::new(program)
            .args(arguments)
            .envs(servers)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't start the join hook {program}"))?;
        let mut hook = Self { child, started: Instant::now(), place: place.to_owned() };
        if let Err(error) = hook.write_down() {
            hook.kill();
            return Err(error);
        }
        fault("hook-started");
        Ok(hook)
    }

    /// Of one that has ended already there is nothing to write down.
    fn write_down(&mut self) -> Result<()> {
        let mark = match Mark::of(self.child.id()) {
            Err(_) if self.child.try_wait()?.is_some() => return Ok(()),
            mark => serde_json::to_vec(&mark?)?,
        };
        let folder = self.place.parent().context("a folder for what is kept")?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| fs::write(&self.place, mark))
            .with_context(|| format!("can't write {}", self.place.display()))
    }

    /// Looks whether it has ended, after a pause.
    pub(super) fn look(&mut self) -> Saw {
        if planted("flip-early") {
            return Saw::HookEnded(Ok(()));
        }
        match self.child.try_wait() {
            Ok(None) => {
                std::thread::sleep(Duration::from_micros(500));
                Saw::HookRuns
            }
            Ok(Some(status)) if status.success() => Saw::HookEnded(Ok(())),
            Ok(Some(status)) => Saw::HookEnded(Err(format!("the join hook failed ({status})"))),
            Err(error) => Saw::HookEnded(Err(format!("the join hook can't be waited for: {error}"))),
        }
    }

    /// Kills it and what it has started.
    pub(super) fn kill(&mut self) {
        kill_group(self.child.id());
        let _ = self.child.wait();
    }

    /// For how long it has run, in microseconds.
    pub(super) fn us(&self) -> f64 {
        super::us(self.started)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // What stays there is of a process that has ended, which the next daemon sees.
        let _ = fs::remove_file(&self.place);
    }
}

/// What a hook is told: the first server of each side, which is the first service's, and of each service that has a name.
fn servers(policy: &Policy, from: Side) -> Result<Vec<(String, String)>> {
    let mut told = Vec::new();
    for (n, service) in policy.services().iter().enumerate() {
        let first = |side: Side| service.side(side).map(Endpoint::first);
        let [from, to] = [from, from.other()].map(first);
        let (from, to) = from.zip(to).context("the policy names no shadow")?;
        let named = service.variable().map(|name| format!("_{name}"));
        for end in (n == 0).then(String::new).into_iter().chain(named) {
            told.extend([
                (format!("MIRROR_FROM{end}"), from.to_string()),
                (format!("MIRROR_TO{end}"), to.to_string()),
            ]);
        }
    }
    Ok(told)
}

/// A leader's group has its number. It may have ended by itself.
fn kill_group(leader: u32) {
    if let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Ends a hook that a daemon left behind which is no more. False: there was none.
///
/// # Errors
/// When it doesn't end, or what was written down can't be read.
pub(super) fn end_left(place: &Path) -> Result<bool> {
    let bytes = match fs::read(place) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", place.display())),
    };
    // Torn by a crash: it was being written when its daemon died.
    let mark = serde_json::from_slice::<Mark>(&bytes).ok();
    let left = mark.filter(Mark::runs);
    if let Some(mark) = &left {
        kill_group(mark.pid);
        let deadline = Instant::now() + PATIENCE;
        while mark.runs() {
            ensure!(Instant::now() < deadline, "the killed join hook {} doesn't end", mark.pid);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    fs::remove_file(place).with_context(|| format!("can't remove {}", place.display()))?;
    Ok(left.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_that_was_left_is_ended_with_what_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("shop.hook");
        let mut child = Command::new("sh");
        child.args(["-c", "sleep 600 & echo $!; wait"]).stdout(Stdio::piped()).process_group(0);
        let mut child = child.spawn().unwrap();
        let mut started = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut started)
            .unwrap();
        let grandchild = Mark::of(started.trim().parse().unwrap()).unwrap();
        fs::write(&place, serde_json::to_vec(&Mark::of(child.id()).unwrap()).unwrap()).unwrap();
        assert!(end_left(&place).unwrap());
        assert!(!child.wait().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        while grandchild.runs() {
            assert!(Instant::now() < deadline, "what it has started goes on");
            std::thread::yield_now();
        }
        assert!(!end_left(&place).unwrap());
    }

    #[test]
    fn one_that_has_ended_before_it_is_written_down_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let place = folder.path().join("shop.hook");
        let mut hook = Hook { child, started: Instant::now(), place: place.clone() };
        hook.write_down().unwrap();
        assert!(!place.exists());
        assert!(matches!(hook.look(), Saw::HookEnded(Ok(()))));
    }

    #[test]
    fn a_torn_or_an_old_note_is_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("shop.hook");
        fs::write(&place, "{\"pid\":").unwrap();
        assert!(!end_left(&place).unwrap());
        assert!(!place.exists());
    }

    #[test]
    fn each_service_tells_its_first_servers_and_the_first_one_without_its_name_too() {
        let told = |text: &str, from| {
            let policy = Policy::parse("x.toml", text).unwrap();
            let told = servers(&policy, from).unwrap();
            told.into_iter().map(|(name, at)| format!("{name}={at}")).collect::<Vec<_>>().join(" ")
        };
        let services = include_str!("../../../policies/services.toml");
        assert_eq!(
            told(services, Side::Primary),
            "MIRROR_FROM=10.0.2.2:8080 MIRROR_TO=10.0.3.2:8080 \
             MIRROR_FROM_WEB=10.0.2.2:8080 MIRROR_TO_WEB=10.0.3.2:8080 \
             MIRROR_FROM_API=10.0.2.3:9000 MIRROR_TO_API=10.0.3.3:9000"
        );
        let one = include_str!("../../../policies/http.toml");
        assert_eq!(told(one, Side::Shadow), "MIRROR_FROM=10.0.3.2:8080 MIRROR_TO=10.0.2.2:8080");
    }
}
