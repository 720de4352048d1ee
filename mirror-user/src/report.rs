//! `mirror report`: what was moved, when, why and on what evidence, as one page for those who have to approve it.
//!
//! A [`Report`] is gathered from the daemon, or from its files where it is down; [`page`] makes a page of it and [`plot`] its
//! pictures: both pure.

mod forecast;
mod page;
mod plot;

use std::{io::Write as _, path::Path, time::SystemTime};

use anyhow::{Context, Result, bail, ensure};
use mirror_common::switch_word::Side;
use mirror_control::{
    journal::{Entry, Journal, What},
    migration::Plan,
};
use serde::Serialize;

use crate::{
    api::{
        AppStatus, Client, Status, forecast::ForecastAnswer, migration::History, resources::ResourcesAnswer,
    },
    apps::{choose, kept},
    journal,
    policy::Name,
    resources::Metric,
    series::{Fold, Grid, KEEP_MINUTES, KEEP_SECONDS, Resolution, Series},
};

/// Lines of the journal that are asked for.
const ENTRIES: usize = 100_000;
/// Cells of a curve.
const CELLS: u64 = 600;

/// What is known of an application's last migration.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The application.
    pub app: String,
    /// When this was gathered, in milliseconds since 1970, UTC.
    pub made_at_ms: u64,
    /// Of the program that gathered it.
    pub version: String,
    /// What the migration decides by.
    pub plan: Option<Plan>,
    /// The journal's lines of it, the oldest first.
    pub entries: Vec<Entry>,
    /// How it stands; nothing where no daemon answers.
    pub status: Option<AppStatus>,
    /// What both sides' servers used.
    pub curves: Vec<Curve>,
    /// What is expected of the load, and how that did; nothing where no daemon answers.
    pub forecast: Option<ForecastAnswer>,
    /// What couldn't be had, and why.
    pub missing: Vec<String>,
}

/// A metric of a side over time.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// `primary` or `shadow`.
    pub side: String,
    /// Which.
    pub metric: Metric,
    /// Begin of the first cell, in seconds since 1970.
    pub from: u64,
    /// Seconds of a cell.
    pub step: u64,
    /// Means; nothing where nothing is known.
    pub values: Vec<Option<f64>>,
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Gathers a report, and writes it: as a page or as JSON, to a file or to standard output. `app`: which application, where
/// there are several.
///
/// # Errors
/// When nothing is known of the application, or the file can't be written.
pub async fn run(
    client: &Client,
    state: &Path,
    app: Option<&str>,
    output: Option<&Path>,
    json: bool,
) -> Result<()> {
    let report = gather(client, state, app).await?;
    let text = if json { serde_json::to_string(&report)? + "\n" } else { page::page(&report)?.into_string() };
    match output {
        Some(path) => std::fs::write(path, text).with_context(|| format!("can't write {}", path.display())),
        None => {
            let app = &report.app;
            let is_page = !json && std::io::IsTerminal::is_terminal(&std::io::stdout());
            ensure!(!is_page, "a page isn't for a terminal: mirror report {app} --output {app}.html");
            Ok(std::io::stdout().write_all(text.as_bytes())?)
        }
    }
}

async fn gather(client: &Client, state: &Path, app: Option<&str>) -> Result<Report> {
    let made_at_ms = now_ms();
    let mut report = Report {
        app: String::new(),
        made_at_ms,
        version: env!("CARGO_PKG_VERSION").into(),
        plan: None,
        entries: Vec::new(),
        status: None,
        curves: Vec::new(),
        forecast: None,
        missing: Vec::new(),
    };
    match client.get::<Status>("/status").await {
        Ok(status) => {
            let app = choose(&status.names(), app)?.to_owned();
            report.status = status.apps.into_iter().find(|found| found.name == app);
            report.app.clone_from(&app);
            let history: History = client.get(&format!("/history?app={app}&limit={ENTRIES}")).await?;
            report.keep(history.entries);
            let path = format!("/resources?app={app}&since={}", report.seconds());
            match client.get::<ResourcesAnswer>(&path).await {
                Ok(resources) => report.curves = curves(resources),
                Err(error) => report.missing.push(format!("resources: {error:#}")),
            }
            match client.get(&format!("/forecast?app={app}")).await {
                Ok(forecast) => report.forecast = Some(forecast),
                Err(error) => report.missing.push(format!("forecast: {error:#}")),
            }
        }
        Err(error) => {
            report.missing.push(format!("how it stands now: {error:#}"));
            report.app = kept(state, app, journal::app_of)
                .context("no daemon answers: --socket FILE, or --state DIR")?;
            report.read(state)?;
        }
    }
    Ok(report)
}

fn curves(resources: ResourcesAnswer) -> Vec<Curve> {
    let of_side = |side: crate::api::resources::SideResources| {
        side.metrics.into_iter().map(move |values| Curve {
            side: side.side.clone(),
            metric: values.metric,
            from: values.from,
            step: values.step,
            values: values.series,
        })
    };
    resources.sides.into_iter().flat_map(of_side).collect()
}

impl Report {
    /// Takes the last migration's lines; where there was none, what there is.
    fn keep(&mut self, mut entries: Vec<Entry>) {
        let begun = entries.iter().rposition(|entry| matches!(entry.what, What::Begun(..)));
        entries.drain(..begun.unwrap_or(0));
        // The one that holds now, where the policy was changed under way.
        self.plan = begun.and_then(|_| {
            entries.iter().rev().find_map(|entry| match &entry.what {
                What::Begun(plan, _) | What::Replanned(plan, _) => Some(plan.as_ref().clone()),
                _ => None,
            })
        });
        self.entries = entries;
    }

    /// Seconds from the migration's begin until now, as far as samples are kept; an hour where there was none.
    fn seconds(&self) -> u64 {
        let begun = self.entries.first().map(|entry| entry.at_ms);
        let seconds = begun.map_or(3_600, |begun| self.made_at_ms.saturating_sub(begun) / 1_000);
        seconds.clamp(60, KEEP_MINUTES)
    }

    /// Reads the files of a daemon that is down.
    fn read(&mut self, folder: &Path) -> Result<()> {
        let app = self.app.clone();
        if let Err(what) = Name::try_from(app.clone()) {
            bail!("`{app}` is no application: {what}");
        }
        let path = journal::path_of(folder, &app);
        let bytes = std::fs::read(&path).with_context(|| {
            format!("no daemon answers, and there is no {}: --socket FILE, or --state DIR", path.display())
        })?;
        self.keep(Journal::read(&bytes).with_context(|| path.display().to_string())?.entries);
        let path = folder.join(format!("{app}.series"));
        // Opening makes it where it isn't there.
        let series = if path.exists() {
            Series::open(&path).map_err(|failure| failure.help())
        } else {
            Err("no file")
        };
        match series {
            Ok(series) => self.curves = self.kept(&series),
            Err(why) => self.missing.push(format!("resources: {}: {why}", path.display())),
        }
        Ok(())
    }

    fn kept(&self, series: &Series) -> Vec<Curve> {
        let seconds = self.seconds();
        let (resolution, least) =
            if seconds <= KEEP_SECONDS { (Resolution::Second, 1) } else { (Resolution::Minute, 60) };
        let step = seconds.div_ceil(CELLS).next_multiple_of(least);
        let from = (self.made_at_ms / 1_000).saturating_sub(seconds) / step * step;
        let grid = Grid { from, step, cells: seconds.div_ceil(step) as usize + 1 };
        let all = Side::BOTH.into_iter().flat_map(|side| Metric::ALL.map(|metric| (side, metric)));
        all.map(|(side, metric)| Curve {
            side: side.name().into(),
            metric,
            from,
            step,
            values: series.read((side, metric), resolution, Fold::Mean, grid).unwrap_or_default(),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests;
