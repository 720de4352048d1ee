//! Migrations by themselves, as a person types them.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use mirror_control::migration::Command;

use crate::{
    api::{
        Client,
        migration::{AskRequest, History, MigrateRequest, Migrated, Migrating},
    },
    apps,
    output::print,
};

/// What can be typed.
#[derive(Subcommand)]
pub(super) enum Task {
    /// Begin a migration by itself: join, compare, shift step by step, cut over, stand by
    ///
    /// Each step is taken on evidence, and taken back on evidence; the policy's section [migration] has the steps, times and
    /// bounds. It ends at Finalized, RolledBack or Aborted.
    #[command(
        after_help = "Example:\n  mirror migrate shop --dry-run\n  mirror migrate shop && mirror status --watch"
    )]
    Migrate {
        /// The application
        app: String,
        /// Only print the plan that would be decided by
        #[arg(long)]
        dry_run: bool,
    },
    /// Let the migration take no step forward; steps back are still taken
    #[command(after_help = "Example:\n  mirror pause shop")]
    Pause {
        /// The application
        app: String,
    },
    /// Let a paused or stopped migration go on
    #[command(after_help = "Example:\n  mirror resume shop")]
    Resume {
        /// The application
        app: String,
    },
    /// End the migration: all reads to the primary; behind a cutover, roll back
    #[command(after_help = "Example:\n  mirror abort shop")]
    Abort {
        /// The application
        app: String,
    },
    /// End the standby: the primary is mirrored no more
    #[command(after_help = "Example:\n  mirror finalize shop")]
    Finalize {
        /// The application
        app: String,
    },
    /// Say where the migration stands, and why
    #[command(after_help = "Example:\n  mirror why")]
    Why {
        /// The application; it may be left out where there is one alone
        app: Option<String>,
    },
    /// Show what was decided, when and why
    #[command(after_help = "Example:\n  mirror history --limit 20\n  mirror history --follow")]
    History {
        /// The application; it may be left out where there is one alone
        app: Option<String>,
        /// Lines at most
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
        /// Go on with what comes
        #[arg(long, short)]
        follow: bool,
    },
}

/// Asks the daemon.
///
/// # Errors
/// When it can't be reached, or refuses.
pub(super) async fn talk(client: &Client, task: &Task, json: bool) -> Result<()> {
    let command = match task {
        Task::Migrate { app, dry_run } => {
            let body = MigrateRequest { app: app.clone(), dry_run: *dry_run };
            return print(&client.post::<Migrating>("/migrate", &body).await?, json);
        }
        Task::Why { app } => {
            apps::running(client, app.as_deref()).await?;
            return print(&client.get::<Migrated>("/migration").await?, json);
        }
        Task::History { app, limit, follow } => {
            let app = apps::running(client, app.as_deref()).await?;
            return history(client, &app, *limit, *follow, json).await;
        }
        Task::Pause { app } => (app, Command::Pause),
        Task::Resume { app } => (app, Command::Resume),
        Task::Abort { app } => (app, Command::Abort),
        Task::Finalize { app } => (app, Command::Finalize),
    };
    ask(client, command.0, command.1, json).await
}

/// Entries that are looked for again: no more are written in a second.
const NEW: usize = 100;

async fn history(client: &Client, app: &str, limit: usize, follow: bool, json: bool) -> Result<()> {
    let last = async |limit: usize| client.get::<History>(&format!("/history?app={app}&limit={limit}")).await;
    let mut history = last(limit).await?;
    let mut next = history.entries.last().map_or(0, |entry| entry.number + 1);
    print(&history, json)?;
    if !follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Who follows sees the daemon go and come back.
        let Ok(found) = last(NEW).await else { continue };
        history = found;
        history.entries.retain(|entry| entry.number >= next);
        if let Some(entry) = history.entries.last() {
            next = entry.number + 1;
            print(&history, json)?;
        }
    }
}

/// Asks something of the migration under way.
///
/// # Errors
/// When there is none.
pub(super) async fn ask(client: &Client, app: &str, command: Command, json: bool) -> Result<()> {
    let body = AskRequest { app: app.into(), command };
    print(&client.post::<Migrated>("/migration/ask", &body).await?, json)
}
