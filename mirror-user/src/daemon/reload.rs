//! The policy is read again, by `mirror reload` or SIGHUP: all that changed is taken, or nothing is.

use std::sync::{Arc, Mutex};

use anyhow::{Result, anyhow};
use axum::{
    Json,
    extract::{ConnectInfo, State as Extract},
};
use tokio::signal::unix::Signal;

use super::{
    Shared,
    pilot::Ask,
    serve::{App, Peer, Refused},
    watch_provisioned,
};
use crate::{
    api::Reloaded,
    events::{Kind, Told},
    policy::reload::{Loaded, Reread},
};

/// The file as it was read the last time. Whoever holds it reloads.
pub(super) struct File(Mutex<Loaded>);

impl File {
    /// The one that the daemon was started with.
    pub(super) fn new(loaded: Loaded) -> Self {
        Self(Mutex::new(loaded))
    }
}

impl Shared {
    /// Reads the policy again, and goes by it; says so, or why not. Returns the tables that have changed.
    ///
    /// # Errors
    /// When it can't be: then all is as before.
    pub(super) fn reload(&self, who: &str) -> Result<Vec<&'static str>> {
        let reloaded = self.take_policy(who);
        let line = match &reloaded {
            Ok(changed) if changed.is_empty() => "policy read again: nothing has changed".to_owned(),
            Ok(changed) => format!("policy read again: [{}] changed, by {who}", changed.join("], [")),
            Err(error) => format!("policy not taken, the one of before goes on: {error:#}"),
        };
        if reloaded.is_err() {
            self.events.tell(Kind::Fault, Told::reason(&line));
        }
        if let Ok(mut state) = self.state.lock() {
            state.say(line);
        }
        reloaded
    }

    fn take_policy(&self, who: &str) -> Result<Vec<&'static str>> {
        let mut file = self.file.0.lock().map_err(|_| anyhow!("poisoned"))?;
        let Reread { mut loaded, changed } = file.again()?;
        if changed.is_empty() {
            return Ok(changed);
        }
        watch_provisioned(&mut loaded.policy, &self.state_folder)?;
        let policy = Arc::new(loaded.policy.clone());
        // What may fail comes first: new receivers, then the migration, whose journal has to have its new plan.
        let receivers = self.events.prepare(&policy.events)?;
        self.pilot.ask(Ask::Reload(Arc::clone(&policy), who.into()))?;
        self.events.tell_to(receivers);
        let poisoned = || anyhow!("poisoned");
        self.state.lock().map_err(|_| poisoned())?.breakers_go_by(&policy.breaker.policy());
        let unanswered_us = policy.migration.unanswered_us();
        self.datapath.lock().map_err(|_| poisoned())?.unanswered_after(unanswered_us);
        *file = loaded;
        Ok(changed)
    }
}

/// Reloads, as the control socket is asked.
pub(super) async fn reload(
    Extract(shared): Extract<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<Json<Reloaded>, Refused> {
    let changed = tokio::task::spawn_blocking(move || shared.reload(&peer.to_string())).await??;
    Ok(Json(Reloaded { changed: changed.into_iter().map(Into::into).collect() }))
}

/// Reloads at each SIGHUP, and lets the file of events be opened anew.
pub(super) async fn at_hang_up(shared: App, mut hang_up: Signal) {
    while hang_up.recv().await.is_some() {
        shared.events.reopen();
        let own = Arc::clone(&shared);
        // It says itself what came of it.
        let _ = tokio::task::spawn_blocking(move || own.reload("SIGHUP")).await;
    }
}
