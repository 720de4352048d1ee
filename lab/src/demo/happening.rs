//! What can happen while the play runs.

use std::sync::mpsc::Sender;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::checker::Tick;
use crate::load::LoadResult;

/// One of them.
#[derive(Debug)]
pub(super) enum Happening {
    /// The client's last second.
    Tick(Tick),
    /// A request of the client has failed.
    Failure(String),
    /// The load tool has ended.
    Load(Result<LoadResult>),
    /// A key was pressed.
    Key(u8),
    /// A signal: end.
    Interrupt,
}

/// Makes SIGINT, SIGTERM and SIGHUP happenings, so that everything is taken down.
pub(super) fn catch_signals(sender: Sender<Happening>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [mut interrupt, mut terminate, mut hangup] = {
        let _context = runtime.enter();
        let [one, two, three] = kinds.map(signal);
        [one?, two?, three?]
    };
    let wait = move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                if sender.send(Happening::Interrupt).is_err() {
                    return;
                }
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("start a thread")?;
    Ok(())
}
