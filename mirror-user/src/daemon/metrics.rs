//! What a scrape asks of the daemon; over the control socket, and over TCP where the policy says so.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::State as Extract,
    http::header::{self, HeaderName},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use mirror_common::switch_word::Side;
use tokio::{net::TcpListener, sync::Semaphore};

use super::{
    Shared,
    serve::{App, Refused, poisoned},
};
use crate::metrics::{Snapshot, decisions::Decisions};

const CONTENT: [(HeaderName, &str); 1] =
    [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];

/// Connections at a time.
const CONNECTIONS: usize = 32;
/// A connection lasts no longer, so that who only holds one makes room.
const LIFE: Duration = Duration::from_secs(60);
/// A pause where the system has no file left.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What a scrape gets.
pub(super) async fn text(Extract(shared): Extract<App>) -> Result<impl IntoResponse, Refused> {
    // Thousands of look-ups: not on the thread that answers everyone.
    let text =
        tokio::task::spawn_blocking(move || snapshot(&shared)?.text().map_err(Refused::from)).await??;
    Ok((CONTENT, text))
}

fn snapshot(shared: &Shared) -> Result<Snapshot, Refused> {
    let mut snapshot = Snapshot {
        app: shared.mover.name.as_str().into(),
        word: shared.mover.words.load(0),
        open_writes: shared.mover.words.open_writes(0),
        lagging: shared.mover.words.lagging(0),
        held: shared.counts.load(),
        ..Snapshot::default()
    };
    {
        let datapath = shared.datapath.lock().map_err(poisoned)?;
        snapshot.packets = datapath.counters()?;
        snapshot.turns = datapath.turns()?;
    }
    snapshot.resources = shared.resources.known();
    snapshot.series_failures = shared.resources.keeper.kept().failures;
    snapshot.forecast = shared.board.last();
    snapshot.decisions = Decisions {
        migration: shared.pilot.status(),
        decided: shared.pilot.decided(),
        ordered: shared.pilot.ordered().is_some(),
        events: shared.events.counts(),
    };
    let state = shared.state.lock().map_err(poisoned)?;
    snapshot.flows = [state.swept.live, state.swept.two_legs, state.swept.unanswered];
    snapshot.legs_lost = state.legs_lost;
    snapshot.not_taken = state.not_taken();
    snapshot.backends = Side::BOTH.map(|side| state.servers(side));
    snapshot.breakers = Side::BOTH.map(|side| {
        let n = side as usize;
        (!state.breakers[n].may_join(), state.trips[n], state.probes[n])
    });
    snapshot.sweeps = (state.sweeps, state.sweep_time.as_secs_f64());
    snapshot.moves = state.moves.iter().map(|((wanted, result), n)| (*wanted, *result, *n)).collect();
    Ok(snapshot)
}

/// Serves `/metrics`, and nothing else, over TCP.
///
/// # Errors
/// When the address can't be had.
pub(super) async fn listen(shared: App, address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address} for metrics (`[metrics]` in the policy)"))?;
    if !address.ip().is_loopback() {
        tracing::warn!("metrics are for everyone who reaches {address}");
    }
    tracing::info!("metrics: http://{address}/metrics");
    let router = Router::new().route("/metrics", get(text)).with_state(Arc::clone(&shared));
    tokio::spawn(accept(listener, router));
    Ok(())
}

/// Answers who connects, [`CONNECTIONS`] at a time: files are the daemon's to open, whoever else may connect.
async fn accept(listener: TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        if room.available_permits() == 0 {
            tracing::warn!("{CONNECTIONS} connections ask for metrics: the next one waits");
        }
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a connection for metrics: {error}");
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A scraper whose connection ends opens another one.
            let _ = tokio::time::timeout(LIFE, connection).await;
            drop(permit);
        });
    }
}
