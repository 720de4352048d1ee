//! Migrations by themselves, as the control socket serves them.

use anyhow::anyhow;
use axum::{
    Json,
    extract::{ConnectInfo, Query, State as Extract},
};

use super::{
    pilot::Ask,
    serve::{App, Peer, Refused, check_name},
};
use crate::api::migration::{
    AskRequest, CancelRequest, History, HistoryRequest, MigrateRequest, Migrated, Migrating, OrderRequest,
    Ordered,
};

async fn ask(shared: App, ask: Ask) -> super::pilot::Answer {
    tokio::task::spawn_blocking(move || shared.pilot.ask(ask)).await?
}

/// Begins one, or only says by what it would decide.
pub(super) async fn migrate(
    Extract(shared): Extract<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(body): Json<MigrateRequest>,
) -> Result<Json<Migrating>, Refused> {
    check_name(&shared, &body.app)?;
    let plan = shared.mover.policy().migration.plan().map_err(|what| anyhow!("[migration]: {what}"))?;
    if !body.dry_run {
        ask(shared, Ask::Begin(peer.to_string())).await?;
    }
    Ok(Json(Migrating { begun: !body.dry_run, plan }))
}

/// Pause, resume, abort, cutover, finalize.
pub(super) async fn command(
    Extract(shared): Extract<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(body): Json<AskRequest>,
) -> Result<Json<Migrated>, Refused> {
    check_name(&shared, &body.app)?;
    ask(App::clone(&shared), Ask::Command(body.command, peer.to_string())).await?;
    Ok(Json(migrated(&shared)))
}

fn migrated(shared: &App) -> Migrated {
    Migrated { migration: shared.pilot.status(), scaling: shared.board.scaling() }
}

/// Takes the order of a cutover in a window of time.
pub(super) async fn order(
    Extract(shared): Extract<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(body): Json<OrderRequest>,
) -> Result<Json<Ordered>, Refused> {
    check_name(&shared, &body.app)?;
    ask(App::clone(&shared), Ask::Order(body, peer.to_string())).await?;
    Ok(Json(Ordered { ordered: shared.pilot.ordered() }))
}

/// Ends such an order.
pub(super) async fn cancel(
    Extract(shared): Extract<App>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(body): Json<CancelRequest>,
) -> Result<Json<Ordered>, Refused> {
    check_name(&shared, &body.app)?;
    ask(App::clone(&shared), Ask::Cancel(peer.to_string())).await?;
    Ok(Json(Ordered { ordered: shared.pilot.ordered() }))
}

/// How it stands.
pub(super) async fn migration(Extract(shared): Extract<App>) -> Json<Migrated> {
    Json(migrated(&shared))
}

/// The journal's last lines.
pub(super) async fn history(
    Extract(shared): Extract<App>,
    Query(asked): Query<HistoryRequest>,
) -> Result<Json<History>, Refused> {
    check_name(&shared, &asked.app)?;
    Ok(Json(History { entries: ask(shared, Ask::Tail(asked.limit)).await? }))
}

/// Whether a move that an operator asks for has to go by way of the migration under way: refused where it steers.
pub(super) fn may_move(shared: &App) -> Result<(), Refused> {
    if shared.pilot.steers() {
        let app = shared.mover.name.as_str();
        return Err(Refused::from(anyhow!(
            "a migration by itself is under way: pause it first (mirror pause {app}), end it (mirror abort {app}; behind a \
             cutover that rolls back), or let it make the cutover (mirror cutover {app} --when-ready)"
        )));
    }
    Ok(())
}
