//! Events posted over HTTP, one after the other, each until it is taken or its attempts are used up.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, builderstates::WantsSchemes};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::sync::mpsc::Receiver;

use super::{Line, Outcome, Tally};
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
                Err(Failure::Later(why))
                    if attempt + 1 >= attempts || tally.retired.load(Ordering::SeqCst) =>
                {
                    tracing::error!("{name}: an event is given up after {} attempts: {why}", attempt + 1);
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

/// How it is reached. Who posts in clear needs no certificates on the host.
enum Way {
    Clear(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Way {
    fn tls(by: HttpsConnectorBuilder<WantsSchemes>) -> Self {
        Self::Tls(Client::builder(TokioExecutor::new()).build(by.https_only().enable_http1().build()))
    }
}

/// A connection to a webhook.
pub(super) struct Post {
    way: Way,
    uri: Uri,
    webhook: Webhook,
}

impl Post {
    /// # Errors
    /// When the address is none, or the host has no certificates to check by.
    pub(super) fn new(webhook: &Webhook) -> Result<Self> {
        let uri: Uri = webhook.url.parse()?;
        let way = if uri.scheme_str() == Some("https") {
            let by = HttpsConnectorBuilder::new().with_native_roots();
            let no = || format!("no certificates to check {uri} by: install ca-certificates");
            Way::tls(by.with_context(no)?)
        } else {
            Way::Clear(Client::builder(TokioExecutor::new()).build_http())
        };
        Ok(Self { way, uri, webhook: webhook.clone() })
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
        let answer = match &self.way {
            Way::Clear(client) => client.request(request),
            Way::Tls(client) => client.request(request),
        };
        let answered = tokio::time::timeout(self.webhook.timeout, answer).await;
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
pub(super) fn start(name: String, webhook: &Webhook, from: Receiver<Line>, tally: Arc<Tally>) -> Result<()> {
    let attempts = webhook.max_attempts;
    let post = Post::new(webhook)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name.clone()).spawn(move || {
        runtime.block_on(deliver(from, tally, attempts, &name, async |line| post.post(line).await));
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers requests over TLS by a certificate of `localhost`'s that nobody has signed, until the test ends.
    async fn serve_tls() -> (u16, rustls::pki_types::CertificateDer<'static>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // Who doesn't trust the certificate ends it here.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut bytes = [0; 4_096];
                let n = stream.read(&mut bytes).await.unwrap();
                assert!(bytes[..n].starts_with(b"POST /hook HTTP/1.1"));
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            }
        });
        (port, certificate)
    }

    #[tokio::test]
    async fn over_tls_a_certificate_is_checked() {
        let (port, certificate) = serve_tls().await;
        let url = format!("https://localhost:{port}/hook");
        let webhook: Webhook = toml::from_str(&format!("url = {url:?}")).unwrap();
        let unknown = Post::new(&webhook).unwrap().post("{}".into()).await.unwrap_err();
        assert!(matches!(&unknown, Failure::Later(why) if why.contains("certificate")), "{unknown:?}");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let way = Way::tls(HttpsConnectorBuilder::new().with_tls_config(config));
        let known = Post { way, uri: url.parse().unwrap(), webhook };
        known.post("{}".into()).await.unwrap();
    }

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
