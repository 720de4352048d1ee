//! The control socket: who may ask, and what is answered.

use std::{array, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Query, Request, State as Extract, connect_info::Connected},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use mirror_common::{
    abi::backend::MAX_BACKENDS,
    switch_word::{Side, SwitchWord},
};
use mirror_control::{
    evidence::Histogram,
    moves::{Move, Refusal, plan},
};
use sd_notify::NotifyState;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

use super::{Shared, again, compare, forecast, metrics, migrate, notify, reload, resources};
use crate::{
    api::{
        AppStatus, Counter, Failure, Flows, FlowsRequest, MoveRequest, Moved, ServiceStatus, SideStatus,
        Status, WeightRequest,
    },
    datapath::{Answers, Pairs, Turns},
    events::{Kind, Told},
    flows,
    moves::Phases,
    policy::{Policy, Service},
    state::State,
    words::monotonic_ns,
};

/// As handlers get it.
pub(super) type App = Arc<Shared>;

/// Bytes that a request may have.
const BODY: usize = 4_096;
/// A request that moves nothing takes no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.uid, self.pid) {
            (Some(uid), Some(pid)) => write!(f, "uid {uid}, process {pid}"),
            _ => write!(f, "somebody"),
        }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self { uid: credentials.map(|c| c.uid()), pid: credentials.and_then(|c| c.pid()) }
    }
}

/// Whether a user may ask: root, or whoever runs the daemon.
fn may_ask(asking: Option<u32>, mine: u32) -> bool {
    asking.is_some_and(|uid| uid == 0 || uid == mine)
}

/// Serves until a signal.
///
/// # Errors
/// When the socket can't be had.
pub(super) fn serve(shared: App, socket: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let listener = listen(socket)?;
        if let Some(metrics) = &shared.mover.policy().metrics {
            metrics::listen(Arc::clone(&shared), metrics.listen).await?;
        }
        let moves = PATIENCE + again::longest(&shared.mover.policy());
        let router = Router::new()
            .route("/status", get(status))
            .route("/flows", get(flows))
            .route("/counters", get(counters))
            .route("/resources", get(resources::resources))
            .route("/forecast", get(forecast::forecast))
            .route("/divergence", get(compare::divergence))
            .route("/metrics", get(metrics::text))
            .route("/weight", post(weight))
            .route("/join", post(join))
            .route("/cutover", post(cutover))
            .route("/cutover/order", post(migrate::order))
            .route("/cutover/cancel", post(migrate::cancel))
            .route("/rollback", post(rollback))
            .route("/migrate", post(migrate::migrate))
            .route("/migration", get(migrate::migration))
            .route("/migration/ask", post(migrate::command))
            .route("/history", get(migrate::history))
            .route("/reload", post(reload::reload))
            .layer(DefaultBodyLimit::max(BODY))
            .layer(middleware::from_fn(move |peer, request, next| guard(peer, request, next, moves)))
            .with_state(Arc::clone(&shared));
        tokio::spawn(reload::at_hang_up(Arc::clone(&shared), signal(SignalKind::hangup())?));
        notify::keep_watchdog(&shared);
        notify::tell(NotifyState::Ready);
        tracing::info!("ready: {}", socket.display());
        let mut term = signal(SignalKind::terminate())?;
        let stop = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            notify::tell(NotifyState::Stopping);
        };
        let service = router.into_make_service_with_connect_info::<Peer>();
        axum::serve(listener, service).with_graceful_shutdown(stop).await?;
        tracing::info!("leaving; what is pinned goes on");
        Ok(())
    })
}

/// The owner's socket. One that a last daemon left behind is replaced; one that answers isn't.
fn listen(socket: &Path) -> Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    }
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        anyhow::bail!("another daemon answers at {}: give this one another --socket", socket.display());
    }
    let _ = fs::remove_file(socket);
    let listener =
        UnixListener::bind(socket).with_context(|| format!("can't listen on {}", socket.display()))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Lets in who may ask, says who moves something, and ends what takes too long.
async fn guard(
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
    moves: Duration,
) -> Response {
    if !may_ask(peer.uid, rustix::process::geteuid().as_raw()) {
        let error = "only root and the daemon's own user may ask".to_owned();
        return (StatusCode::FORBIDDEN, Json(Failure { error })).into_response();
    }
    let path = request.uri().path().to_owned();
    let moving = request.method() == axum::http::Method::POST;
    if moving {
        tracing::info!("{path} asked by {peer}");
    }
    let bound = if moving { moves } else { PATIENCE };
    tokio::time::timeout(bound, next.run(request)).await.unwrap_or_else(|_| {
        let error = format!("{path} took longer than {} s: look at `mirror status`", bound.as_secs());
        (StatusCode::GATEWAY_TIMEOUT, Json(Failure { error })).into_response()
    })
}

/// An error as an answer.
pub(super) struct Refused(anyhow::Error);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::CONFLICT, Json(Failure { error: format!("{:#}", self.0) })).into_response()
    }
}

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// The answer when a thread panicked with the lock in hand.
pub(super) fn poisoned<T>(_: T) -> Refused {
    Refused(anyhow!("an earlier failure left the daemon in doubt; restart it: flows go on"))
}

/// The smallest latency that is at or above a quantile, in microseconds.
fn quantile(buckets: &[u64], q: f64) -> u64 {
    Histogram::from_buckets(buckets).quantile_us(q).unwrap_or(0)
}

fn side_status(turns: &Turns, state: &State, side: Side) -> SideStatus {
    let [reads, writes] = &turns.shown[side as usize];
    let all: Vec<u64> = reads.latency.iter().zip(&writes.latency).map(|(r, w)| r + w).collect();
    let compared: u64 = turns.compared[side as usize].iter().map(Answers::errors).sum();
    let standing = &state.sides[side as usize];
    let breaker = &state.breakers[side as usize];
    SideStatus {
        breaker: breaker.standing().name().into(),
        next_probe: breaker.next_probe(monotonic_ns()).map(|left| left.as_secs_f64()),
        in_sync: standing.in_sync,
        since: monotonic_ns().saturating_sub(standing.since_ns) as f64 / 1e9,
        reason: standing.reason.clone(),
        servers: state.servers(side),
        legs_lost: state.legs_lost[side as usize],
        not_taken: state.not_taken()[side as usize],
        answered: [reads.count(), writes.count()],
        errors: reads.errors() + writes.errors(),
        statuses: array::from_fn(|class| reads.statuses[class] + writes.statuses[class]),
        bytes: [turns.carried.requests[side as usize], turns.carried.answers[side as usize]],
        errors_compared: compared,
        p50_us: quantile(&all, 0.5),
        p99_us: quantile(&all, 0.99),
    }
}

fn service_statuses(policy: &Policy, state: &State) -> Vec<ServiceStatus> {
    let of = |(service, legs): (&Service, &[[u32; MAX_BACKENDS]; 2])| ServiceStatus {
        name: service.name().map(Into::into),
        listens: service.all().map(|listener| listener.to_string()).collect(),
        legs: legs.each_ref().map(|side| side.iter().sum()),
    };
    policy.services().iter().zip(&state.swept.legs).map(of).collect()
}

async fn status(Extract(shared): Extract<App>) -> Result<Json<Status>, Refused> {
    let turns = shared.datapath.lock().map_err(poisoned)?.turns()?;
    let mut state = shared.state.lock().map_err(poisoned)?;
    // Under the lock: an older word would tell of a side what isn't so any more.
    let word = shared.mover.words.load(0);
    state.follow(word);
    let app = AppStatus {
        name: shared.mover.name.as_str().into(),
        phase: word.phase().name().into(),
        weight: f64::from(word.weight()) / 100.0,
        authority: word.authority().name().into(),
        epoch: word.epoch(),
        frozen: word.frozen(),
        flows: state.swept.live,
        two_legs: state.swept.two_legs,
        open_writes: shared.mover.words.open_writes(0),
        lagging: shared.mover.words.lagging(0),
        overtaking: turns.pairs[1].overtaking,
        // A mirror that is out of sync is so for those, too.
        in_doubt: if word.member(word.authority().other()) { shared.mover.words.in_doubt(0) } else { 0 },
        held: shared.counts.load(),
        services: service_statuses(&shared.mover.policy(), &state),
        primary: side_status(&turns, &state, Side::Primary),
        shadow: side_status(&turns, &state, Side::Shadow),
        compared: turns.pairs.iter().map(|pairs| pairs.compared).sum(),
        differing: turns.pairs.iter().map(Pairs::differing).sum(),
        notices: state.notices.iter().cloned().collect(),
        migration: shared.pilot.status(),
        ordered: shared.pilot.ordered(),
    };
    let devices = shared.devices.lock().map_err(|_| anyhow!("poisoned"))?.clone();
    Ok(Json(Status { pid: std::process::id(), devices, apps: vec![app] }))
}

async fn flows(
    Extract(shared): Extract<App>,
    Query(ask): Query<FlowsRequest>,
) -> Result<Json<Flows>, Refused> {
    let total = shared.state.lock().map_err(poisoned)?.swept.live;
    let authority = shared.mover.words.load(0).authority();
    let policy = shared.mover.policy();
    let listed = tokio::task::spawn_blocking(move || flows::list(&shared.pins, ask.limit, authority));
    let (mut flows, questions) = listed.await??;
    let listens = |service: &Service, at: &str| service.all().any(|one| one.vip.to_string() == at);
    for flow in flows.iter_mut().filter(|_| policy.has_several()) {
        let service = policy.services().iter().find(|service| listens(service, &flow.service));
        flow.service_name = service.and_then(Service::name).map(Into::into);
    }
    Ok(Json(Flows { total: total + questions, questions, flows }))
}

async fn counters(Extract(shared): Extract<App>) -> Result<Json<Vec<Counter>>, Refused> {
    let counters = shared.datapath.lock().map_err(poisoned)?.counters()?;
    let all = counters.into_iter().map(|(v, count)| Counter {
        name: v.name().into(),
        count,
        help: v.help().into(),
    });
    Ok(Json(all.collect()))
}

/// A refusal with what is known of the side that it is about.
fn explained(shared: &Shared, error: anyhow::Error) -> Refused {
    let side = match error.downcast_ref::<Refusal>() {
        Some(Refusal::OutOfSync(name)) => Side::BOTH.into_iter().find(|side| side.name() == *name),
        _ => None,
    };
    let (Some(side), Ok(state)) = (side, shared.state.lock()) else { return Refused(error) };
    let standing = &state.sides[side as usize];
    let name = shared.mover.name.as_str();
    Refused(anyhow!(
        "the {} is out of sync ({}, {:.0} s ago); first: mirror join {name}",
        side.name(),
        standing.reason,
        monotonic_ns().saturating_sub(standing.since_ns) as f64 / 1e9
    ))
}

pub(super) fn check_name(shared: &Shared, app: &str) -> Result<(), Refused> {
    let mine = shared.mover.name.as_str();
    if app == mine { Ok(()) } else { Err(Refused(anyhow!("no application {app} here; there is {mine}"))) }
}

fn moved(word: SwitchWord, phases: Option<Phases>) -> Json<Moved> {
    Json(Moved {
        phase: word.phase().name().into(),
        authority: word.authority().name().into(),
        weight: f64::from(word.weight()) / 100.0,
        epoch: word.epoch(),
        phases,
        ..Moved::default()
    })
}

async fn weight(
    Extract(shared): Extract<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(body): Json<WeightRequest>,
) -> Result<Json<Moved>, Refused> {
    check_name(&shared, &body.app)?;
    if !(0.0..=100.0).contains(&body.weight) {
        return Err(Refused(anyhow!("{} is no weight: a share of the reads, 0 to 100", body.weight)));
    }
    migrate::may_move(&shared)?;
    let word = shared
        .mover
        .weigh((body.weight * 100.0).round() as u32)
        .map_err(|error| explained(&shared, error))?;
    let told = Told { who: Some(peer.to_string()), weight: Some(body.weight), ..Told::reason("asked") };
    shared.events.tell(Kind::Weight, told);
    Ok(moved(word, None))
}

async fn make(shared: App, peer: Peer, body: MoveRequest, wanted: Move) -> Result<Json<Moved>, Refused> {
    check_name(&shared, &body.app)?;
    if body.rehearse && wanted != Move::Cutover {
        return Err(Refused(anyhow!("only a cutover is rehearsed")));
    }
    if body.again && (wanted != Move::Join || body.dry_run) {
        return Err(Refused(anyhow!("only a join is made again, and that has no dry run")));
    }
    if wanted != Move::Cutover && !body.despite.is_empty() {
        return Err(Refused(anyhow!("only a cutover has preconditions")));
    }
    if !body.dry_run {
        migrate::may_move(&shared)?;
    }
    tokio::task::spawn_blocking(move || {
        let made = make_now(&shared, &peer.to_string(), &body, wanted);
        made.map(Json).map_err(|error| explained(&shared, error))
    })
    .await?
}

fn make_now(shared: &Shared, who: &str, body: &MoveRequest, wanted: Move) -> Result<Moved> {
    let cutover = wanted == Move::Cutover;
    let preconditions = if cutover { shared.preconditions() } else { Vec::new() };
    let mut refused = None;
    let (word, phases) = if body.dry_run {
        let planned = plan(shared.mover.words.load(0), wanted)?;
        refused = shared.grant(&preconditions, &body.despite).err().map(|refused| refused.to_string());
        (planned.done, None)
    } else {
        let phases = match wanted {
            Move::Cutover if body.rehearse => shared.rehearse(who)?,
            Move::Cutover => shared.cut_over(who, &preconditions, &body.despite)?,
            Move::Join if body.again => shared.join_again(who)?,
            Move::Join | Move::Rollback => shared.make(wanted, who)?,
        };
        (shared.mover.words.load(0), Some(phases))
    };
    let Json(answer) = moved(word, phases);
    Ok(Moved { rehearsed: body.rehearse, dry_run: body.dry_run, preconditions, refused, ..answer })
}

async fn join(
    Extract(shared): Extract<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(body): Json<MoveRequest>,
) -> Result<Json<Moved>, Refused> {
    make(shared, peer, body, Move::Join).await
}

async fn cutover(
    Extract(shared): Extract<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(body): Json<MoveRequest>,
) -> Result<Json<Moved>, Refused> {
    make(shared, peer, body, Move::Cutover).await
}

async fn rollback(
    Extract(shared): Extract<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(body): Json<MoveRequest>,
) -> Result<Json<Moved>, Refused> {
    make(shared, peer, body, Move::Rollback).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_common::hist;

    #[test]
    fn root_and_the_owner_may_ask_and_nobody_else() {
        assert!(may_ask(Some(0), 998) && may_ask(Some(998), 998));
        assert!(!may_ask(Some(1_000), 998) && !may_ask(None, 0));
    }

    #[test]
    fn quantiles_are_the_lowest_of_their_bucket() {
        let mut buckets = vec![0; hist::BUCKETS];
        assert_eq!(quantile(&buckets, 0.5), 0);
        buckets[hist::bucket(100) as usize] = 99;
        buckets[hist::bucket(9_000) as usize] = 1;
        assert_eq!(quantile(&buckets, 0.5), hist::lowest(hist::bucket(100)));
        assert_eq!(quantile(&buckets, 1.0), hist::lowest(hist::bucket(9_000)));
    }
}
