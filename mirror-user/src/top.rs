//! `mirror top`: where an application stands, each second over the whole terminal, with keys for what can be done about it.
//!
//! [`draw`] makes a screen of a value, [`keys`] a question or a command of a key: both pure. This file has the terminal, the
//! daemon and the signals.

mod draw;
mod keys;

use std::{
    io::IsTerminal as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures::StreamExt as _;
use mirror_control::migration::Command as Asked;
use ratatui::DefaultTerminal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use crate::{
    api::{
        AppStatus, Client, MoveRequest, Moved, Status, WeightRequest,
        forecast::ForecastAnswer,
        migration::{AskRequest, Migrated},
        resources::ResourcesAnswer,
    },
    apps::running,
};
use draw::Screen;
use keys::{Command, Pressed};

/// The daemon is asked this often.
const REFRESH: Duration = Duration::from_secs(1);
/// Forecasts are asked for at every so many looks: they are made once a minute, and long.
const FORECAST_LOOKS: u32 = 10;
/// Seconds that the resources' means are of.
const RESOURCES: u64 = 60;

/// What comes back from the daemon.
enum Told {
    /// It was asked how things are.
    Seen(Result<Box<Seen>, String>),
    /// It was told to do something.
    Done(String),
}

/// How things are.
struct Seen {
    app: AppStatus,
    resources: Option<ResourcesAnswer>,
    /// Nothing where it wasn't asked for.
    forecast: Option<ForecastAnswer>,
}

/// Draws until somebody quits. `app`: which application, where there are several.
///
/// # Errors
/// Without a terminal, without a daemon when it begins, or when there is no such application.
pub async fn run(client: Client, app: Option<&str>) -> Result<()> {
    ensure!(
        std::io::stdout().is_terminal() && std::io::stdin().is_terminal(),
        "top needs a terminal; elsewhere: mirror status --watch"
    );
    // Who mistyped the socket or the name is told at once; who watches sees the daemon go and come back.
    let app = running(&client, app).await?;
    let terminal = ratatui::try_init().context("can't draw on this terminal")?;
    let ended = Top::new(client, app).run(terminal).await;
    ratatui::restore();
    ended
}

struct Top {
    client: Arc<Client>,
    app: String,
    screen: Screen,
    seen_at: Instant,
    asking: bool,
    looks: u32,
    tell: UnboundedSender<Told>,
    told: UnboundedReceiver<Told>,
}

impl Top {
    fn new(client: Client, app: String) -> Self {
        let (tell, told) = unbounded_channel();
        let screen = Screen::default();
        let (client, seen_at) = (Arc::new(client), Instant::now());
        Self { client, app, screen, seen_at, asking: false, looks: 0, tell, told }
    }

    async fn run(mut self, mut terminal: DefaultTerminal) -> Result<()> {
        let mut events = EventStream::new();
        let mut again = tokio::time::interval(REFRESH);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        loop {
            terminal.draw(|frame| draw::draw(frame, &self.screen))?;
            tokio::select! {
                _ = again.tick() => self.look(),
                Some(told) = self.told.recv() => self.take(told),
                event = events.next() => match event {
                    Some(event) => if self.key(&event?) { return Ok(()) },
                    None => return Ok(()),
                },
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = hang_up.recv() => return Ok(()),
            }
        }
    }

    /// Asks the daemon, unless it still owes an answer.
    fn look(&mut self) {
        self.screen.age = self.seen_at.elapsed();
        if std::mem::replace(&mut self.asking, true) {
            return;
        }
        let forecasts = self.looks.is_multiple_of(FORECAST_LOOKS);
        self.looks = self.looks.wrapping_add(1);
        let (client, app, tell) = (Arc::clone(&self.client), self.app.clone(), self.tell.clone());
        tokio::spawn(async move {
            let seen =
                see(&client, &app, forecasts).await.map(Box::new).map_err(|error| format!("{error:#}"));
            // Where nobody listens any more, the screen is gone.
            let _ = tell.send(Told::Seen(seen));
        });
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Seen(seen) => {
                self.asking = false;
                match seen {
                    Ok(seen) => {
                        let Seen { app, resources, forecast } = *seen;
                        (self.screen.app, self.screen.resources) = (Some(app), resources);
                        self.screen.forecast = forecast.or(self.screen.forecast.take());
                        (self.screen.trouble, self.screen.age) = (None, Duration::ZERO);
                        self.seen_at = Instant::now();
                    }
                    Err(error) => self.screen.trouble = Some(error),
                }
            }
            // There is one line for it.
            Told::Done(said) => {
                let lines: Vec<&str> = said.lines().map(str::trim).collect();
                self.screen.said = lines.join(" ");
            }
        }
    }

    /// Takes a key; returns whether it ends the program.
    fn key(&mut self, event: &Event) -> bool {
        let Event::Key(key) = event else { return false };
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let steers = self.screen.app.as_ref().is_some_and(draw::steers);
        match keys::press(&mut self.screen.prompt, *key, steers) {
            Pressed::Quit => return true,
            Pressed::Nothing => {}
            Pressed::Asks => self.screen.said.clear(),
            Pressed::Does(command) => {
                self.screen.said = format!("{} …", command.name());
                let (client, app, tell) = (Arc::clone(&self.client), self.app.clone(), self.tell.clone());
                tokio::spawn(async move {
                    let said = match give(&client, app, command).await {
                        Ok(said) => format!("{}: {said}", command.name()),
                        Err(error) => format!("{}: {error:#}", command.name()),
                    };
                    let _ = tell.send(Told::Done(said));
                });
            }
        }
        false
    }
}

async fn see(client: &Client, app: &str, forecasts: bool) -> Result<Seen> {
    let status = client.get::<Status>("/status").await?;
    let found = status.apps.into_iter().find(|found| found.name == app);
    let found = found.with_context(|| format!("the daemon has no application {app} any more"))?;
    // Without resources or forecasts there is still everything else to see.
    let resources = client.get(&format!("/resources?app={app}&since={RESOURCES}")).await.ok();
    let forecast = if forecasts { client.get(&format!("/forecast?app={app}")).await.ok() } else { None };
    Ok(Seen { app: found, resources, forecast })
}

/// Tells the daemon; returns what stands afterwards.
async fn give(client: &Client, app: String, command: Command) -> Result<String> {
    let asked = match command {
        Command::Weight(percent) => {
            return moved(client, "/weight", &WeightRequest { app, weight: percent }).await;
        }
        Command::CutoverNow | Command::Rollback => {
            let path = if command == Command::CutoverNow { "/cutover" } else { "/rollback" };
            return moved(client, path, &MoveRequest { app, ..MoveRequest::default() }).await;
        }
        Command::Pause => Asked::Pause,
        Command::Resume => Asked::Resume,
        Command::CutoverWhenReady => Asked::Cutover,
        Command::Abort => Asked::Abort,
        Command::Finalize => Asked::Finalize,
    };
    let answer: Migrated = client.post("/migration/ask", &AskRequest { app, command: asked }).await?;
    Ok(answer.migration.map_or_else(|| "done".into(), |migration| migration.why))
}

async fn moved(client: &Client, path: &str, body: &impl serde::Serialize) -> Result<String> {
    let moved: Moved = client.post(path, body).await?;
    Ok(format!("done: authority {}, weight {} %", moved.authority, moved.weight))
}
