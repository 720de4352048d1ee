//! A child process that doesn't outlive its owner.

use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_for_some;

/// A running program; dropped, it is killed and reaped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
}

impl Process {
    pub(crate) fn new(child: Child, what: String) -> Self {
        Self { child, what }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The standard library's handle, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal: `Signal::STOP`, `Signal::CONT`, `Signal::KILL` ...
    ///
    /// # Errors
    /// If the process has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        ensure!(self.is_running(), "{} has ended already", self.what);
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("send {signal:?} to {}", self.what))
    }

    /// Waits for the end, at most for `deadline`.
    ///
    /// # Errors
    /// If it is still running then.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.what);
        let status = wait_for_some(&what, deadline, || self.child.try_wait().transpose())?;
        status.with_context(|| what)
    }

    /// Kills it (SIGKILL) and reaps it.
    pub fn kill(mut self) {
        self.end();
    }

    /// Leaves it running: the caller takes care of its end.
    pub fn leave(self) -> u32 {
        let id = self.id();
        std::mem::forget(self);
        id
    }

    fn end(&mut self) {
        // Both fail only for a process that has ended and was reaped, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
