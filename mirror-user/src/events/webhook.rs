//! Events posted over HTTP, one after the other, each until it is taken or its attempts are used up.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use axum::http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::sync::mpsc::Receiver;

use super::{Line, Outcome, Sink, Tally, sink};
use crate::policy::Webhook;

/// The longest pause between two attempts.
const LONGEST: Duration = Duration::from_secs(60);

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may work later.
    Later(String),
    /// It won't.
    Never(String),
}

/// The pause behind an attempt, counted from 0: 1 s, doubled each time.
pub(super) fn pause(attempt: u32) -> Duration {
    Duration::from_secs(1 << attempt.min(6)).min(LONGEST)
}

/// Delivers what comes, in order, by `post`.
pub(super) async fn deliver(
    mut from: Receiver<Line>,
    tally: Arc<Tally>,
    attempts: u32,
    name: &str,
    post: impl AsyncFn(Line) -> Result<(), Failure>,
) {
    while let Some(line) = from.recv().await {
        let mut attempt = 0;
        let outcome = loop {
            match post(Arc::clone(&line)).await {
                Ok(()) => break Outcome::Delivered,
                Err(Failure::Never(why)) => {
                    tracing::error!("{name}: an event is refused: {why}");
                    break Outcome::Rejected;
                }
                Err(Failure::Later(why)) if attempt + 1 >= attempts => {
                    tracing::error!("{name}: an event is given up after {attempts} attempts: {why}");
                    break Outcome::Failed;
                }
                Err(Failure::Later(why)) => {
                    tracing::debug!("{name}: {why}");
                    tally.lock().retries += 1;
                    tokio::time::sleep(pause(attempt)).await;
                    attempt += 1;
                }
            }
        };
        tally.ended(outcome);
    }
}

/// An answer's meaning: another attempt helps where the server is at fault, or asks for it.
fn judge(status: StatusCode) -> Result<(), Failure> {
    let again = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    match status {
        status if status.is_success() => Ok(()),
        status if again || status.is_server_error() => Err(Failure::Later(format!("status {status}"))),
        status => Err(Failure::Never(format!("status {status}"))),
    }
}

/// A connection to a webhook.
pub(super) struct Post {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    webhook: Webhook,
}

impl Post {
    /// # Errors
    /// When the address is none, or the host has no certificates to check by.
    pub(super) fn new(webhook: &Webhook) -> Result<Self> {
        let connector =
            HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, uri: webhook.url.parse()?, webhook: webhook.clone() })
    }

    /// One attempt.
    ///
    /// # Errors
    /// When it isn't taken.
    pub(super) async fn post(&self, line: Line) -> Result<(), Failure> {
        let later = |why: String| Failure::Later(format!("{}: {why}", self.webhook.url));
        let mut request = Request::post(&self.uri).header(header::CONTENT_TYPE, "application/json");
        if let Some(file) = &self.webhook.token_file {
            request = request.header(header::AUTHORIZATION, bearer(file).map_err(later)?);
        }
        let body = Full::new(Bytes::copy_from_slice(line.as_bytes()));
        let request = request.body(body).map_err(|error| later(error.to_string()))?;
        let answered = tokio::time::timeout(self.webhook.timeout, self.client.request(request)).await;
        let answer = answered.map_err(|_| later("no answer in time".into()))?;
        // The causes say what was wrong with the connection, or its certificate.
        let answer = answer.map_err(|error| later(format!("{:#}", anyhow::Error::from(error))))?;
        judge(answer.status())
    }
}

fn bearer(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(format!("Bearer {}", text.lines().next().unwrap_or_default().trim()))
}

/// Begins to deliver, in a thread of its own.
///
/// # Errors
/// When the host lacks what it takes.
pub(super) fn start(index: usize, webhook: &Webhook) -> Result<Sink> {
    let name = format!("webhook-{index}");
    let (sink, from) = sink(name.clone());
    let (tally, attempts) = (Arc::clone(&sink.tally), webhook.max_attempts);
    let post = Post::new(webhook)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name.clone()).spawn(move || {
        runtime.block_on(deliver(from, tally, attempts, &name, async |line| post.post(line).await));
    })?;
    Ok(sink)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses: Vec<u64> = (0..9).map(|attempt| pause(attempt).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause(u32::MAX), LONGEST);
    }

    #[test]
    fn what_another_attempt_would_not_change_is_not_tried_again() {
        for (status, taken, again) in
            [(200, true, false), (204, true, false), (301, false, false), (401, false, false)]
                .into_iter()
                .chain([(408, false, true), (429, false, true), (500, false, true), (503, false, true)])
        {
            let judged = judge(StatusCode::from_u16(status).unwrap());
            assert_eq!(judged.is_ok(), taken, "{status}");
            assert_eq!(matches!(judged, Err(Failure::Later(_))), again, "{status}");
        }
    }
}
