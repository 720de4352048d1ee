//! Where events go: the policy's section `[events]`.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::duration;

/// Webhooks at most: each has a thread and a queue.
const WEBHOOKS: usize = 8;

/// Who is told of each decision, phase, fault, fall out of sync and move, as one JSON object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// A line each is appended to it; opened anew when it was moved away, or on SIGHUP.
    pub file: Option<PathBuf>,
    /// An HTTP POST each, in their order; 8 at most.
    pub webhooks: Vec<Webhook>,
}

/// An address that events are posted to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `https://` or `http://`; certificates are checked by the host's own.
    pub url: String,
    /// A file whose first line is sent as a bearer token; read at each attempt.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// An answer that takes longer is none.
    #[serde(default = "patience", deserialize_with = "duration")]
    pub timeout: Duration,
    /// Attempts at an event, 1 s apart, then 2, 4 … 60 s; then it is dropped, and counted.
    #[serde(default = "attempts")]
    pub max_attempts: u32,
}

fn patience() -> Duration {
    Duration::from_secs(5)
}

fn attempts() -> u32 {
    10
}

impl Events {
    /// What doesn't hold, if anything.
    pub(super) fn fault(&self) -> Option<String> {
        if self.webhooks.len() > WEBHOOKS {
            return Some(format!("{} webhooks: {WEBHOOKS} at most", self.webhooks.len()));
        }
        self.webhooks.iter().find_map(Webhook::fault)
    }
}

impl Webhook {
    fn fault(&self) -> Option<String> {
        let parsed = self.url.parse::<axum::http::Uri>().ok();
        let holds = parsed.as_ref().is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|to| !to.host().is_empty() && !to.as_str().contains('@'))
        });
        if !holds {
            return Some(format!("`{}` is no address to post to: https://host/path", self.url));
        }
        (self.max_attempts == 0).then(|| "max_attempts is 0: it is 1 or more".into())
    }
}
