use std::{fs, os::unix::fs::MetadataExt as _};

use axum::{Router, http::StatusCode, routing::post};
use tokio::net::TcpListener;

use super::{webhook::*, *};
use crate::policy::Webhook;

/// Lines that a file has by the time that there are so many.
fn lines(path: &std::path::Path, n: usize) -> Vec<Event> {
    for _ in 0..100_000_000_u64 {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() >= n && text.ends_with('\n') {
            return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        }
        std::thread::yield_now();
    }
    panic!("no {n} lines in {}", path.display());
}

/// What became of the first receiver's events, once none waits: a line is in the file before it is counted.
fn taken(events: &Events) -> BTreeMap<Outcome, u64> {
    while events.counts()[0].1.queued > 0 {
        std::thread::yield_now();
    }
    events.counts().remove(0).1.by
}

#[test]
fn a_file_has_a_line_each_and_follows_where_it_is_moved_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let policy = policy::Events { file: Some(path.clone()), ..policy::Events::default() };
    let events = Events::start(&policy, "shop").unwrap();
    events.tell(Kind::OutOfSync, Told { side: Some("shadow".into()), ..Told::reason("it was restarted") });
    events.tell(Kind::Fault, Told::reason("the disk is full"));
    let seen = lines(&path, 2);
    assert_eq!((seen[0].number, seen[1].number), (0, 1));
    assert_eq!((seen[0].kind, seen[0].app.as_str()), (Kind::OutOfSync, "shop"));
    assert_eq!(seen[0].what.side.as_deref(), Some("shadow"));
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("grounds"), "what says nothing is left out: {text}");

    fs::rename(&path, folder.path().join("events.jsonl.1")).unwrap();
    events.tell(Kind::Fault, Told::reason("after"));
    assert_eq!(lines(&path, 1)[0].number, 2);
    let before = fs::metadata(&path).unwrap().ino();
    events.reopen();
    events.tell(Kind::Fault, Told::reason("again"));
    assert_eq!(lines(&path, 2).len(), 2);
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);
    assert_eq!(taken(&events), BTreeMap::from([(Outcome::Delivered, 4)]));
}

#[test]
fn what_can_not_be_written_is_counted() {
    let policy = policy::Events { file: Some("/dev/full".into()), ..policy::Events::default() };
    let events = Events::start(&policy, "shop").unwrap();
    events.tell(Kind::Fault, Told::reason("x"));
    assert_eq!(taken(&events), BTreeMap::from([(Outcome::Failed, 1)]));
    let nowhere = policy::Events { file: Some("/nowhere/x".into()), ..policy::Events::default() };
    assert!(Events::start(&nowhere, "shop").unwrap_err().to_string().contains("/nowhere/x"));
}

#[test]
fn a_full_queue_drops_and_counts_and_never_waits() {
    let (sink, _from) = Sink::new(Receiver::File("x".into()));
    for _ in 0..QUEUE + 3 {
        sink.send("x".into());
    }
    let counts = sink.tally.lock().clone();
    assert_eq!((counts.queued, counts.by), (QUEUE as u64, BTreeMap::from([(Outcome::QueueFull, 3)])));
}

#[test]
fn another_policy_tells_others_and_who_is_in_both_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let webhook: Webhook = toml::from_str("url = \"http://127.0.0.1:1/\"\nmax_attempts = 10\n").unwrap();
    let both = policy::Events { file: Some(path("a")), webhooks: vec![webhook.clone()] };
    let events = Events::start(&both, "shop").unwrap();
    events.tell(Kind::Fault, Told::reason("zero"));
    lines(&path("a"), 1);
    let nowhere = policy::Events { file: Some("/nowhere/x".into()), ..both.clone() };
    assert!(events.prepare(&nowhere).is_err(), "nothing has changed");

    let alone = policy::Events { webhooks: Vec::new(), ..both };
    let retired = Arc::clone(&events.0.as_ref().unwrap().lock().sinks[1].tally);
    events.tell_to(events.prepare(&alone).unwrap());
    events.tell(Kind::Fault, Told::reason("one"));
    assert_eq!(lines(&path("a"), 2)[1].number, 1, "the file's thread is the one of before");
    assert_eq!(events.counts().len(), 1);
    assert_eq!(taken(&events)[&Outcome::Delivered], 2, "and counts on");
    assert!(retired.retired.load(Ordering::SeqCst));

    let other = policy::Events { file: Some(path("b")), ..alone };
    events.tell_to(events.prepare(&other).unwrap());
    events.tell(Kind::Fault, Told::reason("two"));
    assert_eq!((lines(&path("b"), 1)[0].number, lines(&path("a"), 2).len()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_retired_webhook_is_tried_once() {
    let (sink, from) = Sink::new(Receiver::File("x".into()));
    (0..3).for_each(|_| sink.send("x".into()));
    let tally = Arc::clone(&sink.tally);
    tally.retired.store(true, Ordering::SeqCst);
    drop(sink);
    deliver(from, Arc::clone(&tally), 10, "webhook-0", async |_| Err(Failure::Later("down".into()))).await;
    let counts = tally.lock().clone();
    assert_eq!((counts.retries, counts.by), (0, BTreeMap::from([(Outcome::Failed, 3)])));
}

/// Delivers numbers to a receiver that fails as `fails` says (attempts so far); what it got, and the counts.
async fn delivered(
    events: u64,
    attempts: u32,
    fails: impl Fn(usize) -> Result<(), Failure>,
) -> (Vec<String>, Counts) {
    let (sink, from) = Sink::new(Receiver::File("x".into()));
    for number in 0..events {
        sink.send(number.to_string().into());
    }
    let tally = Arc::clone(&sink.tally);
    drop(sink);
    let got = Mutex::new(Vec::new());
    deliver(from, Arc::clone(&tally), attempts, "webhook-0", async |line| {
        let mut got = got.lock().unwrap();
        got.push(line.to_string());
        fails(got.len())
    })
    .await;
    let counts = tally.lock().clone();
    (got.into_inner().unwrap(), counts)
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_before_the_next_event() {
    let later = |n| if n <= 2 { Err(Failure::Later("down".into())) } else { Ok(()) };
    let begun = tokio::time::Instant::now();
    let (got, counts) = delivered(3, 10, later).await;
    assert_eq!(got, ["0", "0", "0", "1", "2"]);
    assert_eq!((counts.retries, counts.queued), (2, 0));
    assert_eq!(counts.by, BTreeMap::from([(Outcome::Delivered, 3)]));
    assert_eq!(begun.elapsed().as_secs(), 3, "1 s and 2 s");
}

#[tokio::test(start_paused = true)]
async fn attempts_have_an_end_and_a_refusal_has_one() {
    let (got, counts) = delivered(2, 3, |_| Err(Failure::Later("down".into()))).await;
    assert_eq!(got, ["0", "0", "0", "1", "1", "1"]);
    assert_eq!(counts.by, BTreeMap::from([(Outcome::Failed, 2)]));
    let (got, counts) = delivered(2, 3, |_| Err(Failure::Never("401".into()))).await;
    assert_eq!((got.len(), counts.by), (2, BTreeMap::from([(Outcome::Rejected, 2)])));
}

#[tokio::test]
async fn a_webhook_gets_json_and_a_token_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "secret\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (got, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let router = Router::new().route(
        "/hook",
        post(async move |headers: axum::http::HeaderMap, body: String| {
            got.send((headers["authorization"].clone(), headers["content-type"].clone(), body)).unwrap();
            StatusCode::NO_CONTENT
        }),
    );
    tokio::spawn(async move { axum::serve(listener, router).await });
    let webhook = |url: String| -> Webhook {
        toml::from_str(&format!("url = {url:?}\ntoken_file = {token:?}\n")).unwrap()
    };
    let hook = Post::new(&webhook(format!("http://{address}/hook"))).unwrap();
    hook.post("{\"number\":0}\n".into()).await.unwrap();
    let (token, kind, body) = seen.recv().await.unwrap();
    assert_eq!((token.to_str().unwrap(), kind.to_str().unwrap()), ("Bearer secret", "application/json"));
    assert_eq!(body, "{\"number\":0}\n");
    let missing = Post::new(&webhook(format!("http://{address}/other"))).unwrap();
    assert!(matches!(missing.post("{}".into()).await, Err(Failure::Never(_))), "404");
    // What speaks no TLS isn't taken for one that does.
    let tls = Post::new(&webhook(format!("https://{address}/hook"))).unwrap();
    assert!(matches!(tls.post("{}".into()).await, Err(Failure::Later(_))));
    assert!(seen.try_recv().is_err());
}
