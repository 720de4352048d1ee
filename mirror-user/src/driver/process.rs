//! The driver `process`: the shadow is a process on the gateway's host, in a network namespace and a control group of its own,
//! with its own copies of the primary's files.
//!
//! It needs root; but not to change the limits, which are handed to the daemon's user. Before each step the record on disk
//! says what may be there after it, so that whoever comes after a crash completes or removes it.

mod failure;
mod files;
mod group;
mod health;
pub mod launch;
mod link;
mod namespace;
mod plan;
mod record;

use std::{
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mirror_control::driver::{
    Done, Driver, Failure, Group, Instance, Limits, Plan, Standing, Start, Step, Wanted,
};

pub(crate) use self::record::Mark;
use self::{
    failure::{absent, advice, failure, need_root},
    group::Hierarchies,
    record::{Folder, Record},
};
use crate::moves::fault;

/// The driver's name.
const NAME: &str = "process";
/// What lets the owner of the state folder scale.
const HAND_OVER: &str = "as root, it hands the limits to the owner of the state folder: mirror provision";
/// How long a killed process may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file that has the number of an instance's first process, in a state folder.
pub fn pid_file(state: &Path, app: &str) -> PathBuf {
    state.join(app).join(record::PID_FILE)
}

/// Makes instances on this host. Its calls block, and begin runtimes of their own: not for a runtime's own threads.
#[derive(Clone, Debug)]
pub struct ProcessDriver {
    state: PathBuf,
    launcher: PathBuf,
}

impl ProcessDriver {
    /// A driver that keeps its records in `state`, and starts instances by the binary `launcher`, which must know
    /// [`launch::COMMAND`].
    ///
    /// # Errors
    /// When there is no working directory that `state` is relative to.
    pub fn new(state: &Path, launcher: PathBuf) -> Result<Self> {
        let state = std::path::absolute(state).with_context(|| format!("can't find {}", state.display()))?;
        Ok(Self { state, launcher })
    }

    /// Does a step. What is there already is left.
    fn carry_out(&self, step: &Step, folder: &Folder, record: &mut Record, number: usize) -> Result<()> {
        let done = number < record.done;
        match step {
            Step::Group(group) => Hierarchies::find()?.make(group),
            Step::Namespace(name) => namespace::make(name),
            Step::Link(link) => link::make(link),
            Step::Egress(egress) => link::let_out(egress),
            // The instance may have written to its own files since.
            Step::Copy(_) | Step::Empty(_) if done => Ok(()),
            Step::Copy(copy) => files::copy(&copy.at, &copy.own),
            Step::Empty(copy) => files::empty(&copy.at, &copy.own),
            Step::Start(start) => self.start(start, folder, record),
            Step::Check { address, check, deadline_ms } => {
                let process = record.process.as_ref().context("nothing was started")?;
                health::wait(*address, check, Duration::from_millis(*deadline_ms), process)
            }
        }
    }

    /// Starts the program, after the end of whatever a crash has left of it.
    fn start(&self, start: &Start, folder: &Folder, record: &mut Record) -> Result<()> {
        end(record)?;
        let mut child = launch::spawn(&self.launcher, &start.log)?;
        fault("provision-start-unknown");
        // It waits for its orders, and ends without them: now it is written down, then it gets them.
        record.process = Some(Mark::of(child.id())?);
        folder.write(record)?;
        fault("provision-start-waiting");
        let mut orders = child.stdin.take().context("no way to tell it what to start")?;
        orders.write_all(&serde_json::to_vec(start)?).context("it doesn't take its orders")
    }

    /// Carries out all steps of a record.
    fn run(&self, folder: &Folder, record: &mut Record, said: &mut dyn FnMut(&Done)) -> Result<(), Failure> {
        let steps = record.plan.steps.clone();
        for (number, step) in steps.iter().enumerate() {
            let done = timed(step.to_string(), said, || {
                self.carry_out(step, folder, record, number)?;
                fault(&format!("provision-{}-done", step.name()));
                record.done = record.done.max(number + 1);
                record.complete |= number + 1 == steps.len();
                folder.write(record)
            });
            done.map_err(|error| {
                Failure::new(format!("{step}: {error:#}"), advice(step, &self.log(&record.plan.app)))
            })?;
            fault(&format!("provision-{}-noted", step.name()));
        }
        Ok(())
    }

    /// Removes everything that a record speaks of; each part may be gone already.
    fn undo(folder: &Folder, mut record: Record, said: &mut dyn FnMut(&Done)) -> Result<()> {
        // Its files will be gone too: whoever goes on after a crash begins anew.
        (record.complete, record.done) = (false, 0);
        folder.write(&record)?;
        fault("deprovision-begun");
        timed("process ended".into(), said, || end(&mut record))?;
        fault("deprovision-ended");
        for step in record.plan.steps.iter().rev() {
            match step {
                Step::Group(group) => {
                    let what = format!("control group {} removed", group.name);
                    timed(what, said, || Hierarchies::find()?.remove(&group.name))?;
                }
                Step::Namespace(name) => {
                    timed(format!("network namespace {name} removed"), said, || namespace::remove(name))?;
                }
                Step::Link(link) => {
                    timed(format!("link {} removed", link.device), said, || link::remove(&link.device))?;
                }
                // These go with the namespace and the folder.
                Step::Egress(_) | Step::Copy(_) | Step::Empty(_) | Step::Start(_) | Step::Check { .. } => {
                    continue;
                }
            }
            fault(&format!("deprovision-{}-removed", step.name()));
        }
        timed("files removed".into(), said, || {
            folder.remove_files()?;
            fault("deprovision-files-removed");
            folder.remove().map(drop)
        })
    }

    fn instance(&self, record: &Record) -> Result<Instance> {
        let runs = record.process.as_ref().filter(|process| process.runs());
        let standing = match (record.complete, runs) {
            (false, _) => Standing::Unfinished,
            (true, None) => Standing::Stopped,
            (true, Some(_)) => Standing::Running,
        };
        let group = record.plan.group();
        let limits = group.map(|group| Hierarchies::find()?.limits(&group.name)).transpose()?.flatten();
        Ok(Instance {
            app: record.plan.app.clone(),
            driver: NAME.into(),
            address: record.plan.address,
            standing,
            pid: runs.map(|process| process.pid),
            limits,
            log: self.log(&record.plan.app).display().to_string(),
        })
    }

    /// Hands the instance's limits to the owner of the state folder, who is the daemon's user: it scales without being root.
    fn delegate(&self, folder: &Folder, record: &Record) -> Result<()> {
        let owner = std::fs::metadata(&self.state)?;
        if owner.uid() == 0 {
            return Ok(());
        }
        folder.show_to(owner.gid())?;
        let group = record.plan.group().context("a plan without a group")?;
        Hierarchies::find()?.delegate(&group.name, owner.uid())
    }

    /// What is remembered, for whoever may only look.
    fn read(&self, app: &str) -> Result<Option<Record>, Failure> {
        record::read(&self.state.join(app)).map_err(|error| {
            if rustix::process::geteuid().is_root() {
                return failure(error);
            }
            Failure::new(format!("{error:#}"), format!("{HAND_OVER} {app}"))
        })
    }

    /// Refuses whoever was handed no limits of an instance: root needs none.
    fn may_scale(&self, app: &str) -> Result<(), Failure> {
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let record = self.read(app)?;
        let name = record.as_ref().and_then(|record| record.plan.group()).map(|group| &group.name);
        let Some(name) = name else { return Err(absent(app)) };
        match Hierarchies::find().map_err(failure)?.denied(name) {
            None => Ok(()),
            Some(file) => {
                let what = format!("this user may not write to {}", file.display());
                Err(Failure::new(what, format!("{HAND_OVER} {app}")))
            }
        }
    }

    /// The application that is `named`, or the only one that is provisioned here.
    ///
    /// # Errors
    /// When there is none, or there are several; then they are named.
    pub fn choose(&self, named: Option<&str>) -> Result<String> {
        crate::apps::kept(&self.state, named, record::app_of)
    }

    fn log(&self, app: &str) -> PathBuf {
        self.state.join(app).join("log")
    }
}

/// Does something, and says what and how long it took when it is done.
fn timed(what: String, said: &mut dyn FnMut(&Done), work: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    work()?;
    said(&Done { what, ms: started.elapsed().as_secs_f64() * 1e3 });
    Ok(())
}

/// Ends what runs of a record: its first process wherever that got to, and all in its group.
fn end(record: &mut Record) -> Result<()> {
    if let Some(process) = record.process.take() {
        process.kill();
        let deadline = Instant::now() + PATIENCE;
        while process.runs() {
            ensure!(Instant::now() < deadline, "the killed process {} doesn't end", process.pid);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    match record.plan.group() {
        Some(group) => Hierarchies::find()?.kill(&group.name),
        None => Ok(()),
    }
}

/// Gives an instance other limits, all or none, and returns those that it has then.
fn resize(folder: &Folder, record: &mut Record, limits: Limits) -> Result<Limits> {
    let name = record.plan.group().context("a plan without a group")?.name.clone();
    let hierarchies = Hierarchies::find()?;
    let before = hierarchies.limits(&name)?.context("its control group is gone")?;
    let resized = hierarchies.set(&Group { name: name.clone(), limits }).and_then(|()| {
        fault("scale-set");
        if !rustix::process::geteuid().is_root() {
            // The record is root's, who starts programs by it.
            return Ok(());
        }
        // A start after a crash gets the same size.
        record.plan = record.plan.clone().with_limits(limits);
        folder.write(record)
    });
    if let Err(error) = resized {
        hierarchies.set(&Group { name, limits: before })?;
        return Err(error);
    }
    fault("scale-noted");
    hierarchies.limits(&name)?.context("its control group is gone")
}

/// Looks whether a plan can be had on this host, as far as that can be seen before.
fn look(wanted: &Wanted, planned: &Plan) -> Result<()> {
    Hierarchies::find()?;
    launch::user(&wanted.program.user)?;
    let program = Path::new(&wanted.program.command[0]);
    let runs = program.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    ensure!(runs, "{} is no program on this host", program.display());
    for place in wanted.copies.iter().chain(&wanted.empty).chain([&wanted.program.directory]) {
        ensure!(place.exists(), "there is no {} on this host", place.display());
    }
    for step in &planned.steps {
        let Step::Link(link) = step else { continue };
        match link::holder(link.gateway)? {
            Some(device) if device != link.device => {
                bail!(
                    "{} is an address of {device}; the link to the shadow needs one of its own",
                    link.gateway
                )
            }
            _ => {}
        }
    }
    Ok(())
}

impl Driver for ProcessDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn lead_time(&self) -> Duration {
        // Writing two numbers.
        Duration::from_secs(1)
    }

    fn plan(&self, wanted: &Wanted) -> Result<Plan, Failure> {
        let planned = plan::plan(wanted, &self.state);
        look(wanted, &planned)
            .map_err(|error| Failure::new(format!("{error:#}"), "mend the policy, or this host"))?;
        Ok(planned)
    }

    fn provision(&self, plan: &Plan, said: &mut dyn FnMut(&Done)) -> Result<Instance, Failure> {
        need_root()?;
        let app = &plan.app;
        let folder = Folder::lock(&self.state, app).map_err(failure)?;
        let fresh = Record { plan: plan.clone(), done: 0, complete: false, process: None };
        let mut record = match folder.read().map_err(failure)? {
            None => fresh,
            Some(found) if found.plan.makes_the_same(plan) => found,
            Some(found) if !found.complete => {
                Self::undo(&folder, found, said).map_err(failure)?;
                fresh
            }
            Some(_) => {
                let what = format!("{app} is provisioned already, by another plan");
                return Err(Failure::new(what, format!("mirror deprovision {app}, then again")));
            }
        };
        let kept = record.complete;
        if kept && record.process.as_ref().is_some_and(Mark::runs) {
            said(&Done { what: format!("{app} is provisioned already, and runs"), ms: 0.0 });
            self.delegate(&folder, &record).map_err(failure)?;
            return self.instance(&record).map_err(failure);
        }
        folder.write(&record).map_err(failure)?;
        fault("provision-begun");
        if let Err(failed) = self.run(&folder, &mut record, said) {
            let Failure { what, advice } = failed;
            if kept {
                return Err(Failure::new(format!("{what}; its files are kept"), advice));
            }
            return Err(match Self::undo(&folder, record, &mut |_| {}) {
                Ok(()) => Failure::new(format!("{what}; nothing is left of it"), advice),
                Err(error) => {
                    let what = format!("{what}; and not all was removed: {error:#}");
                    Failure::new(what, format!("mirror deprovision {app}"))
                }
            });
        }
        self.delegate(&folder, &record).map_err(failure)?;
        self.instance(&record).map_err(failure)
    }

    fn scale(&self, app: &str, limits: Limits) -> Result<Limits, Failure> {
        self.may_scale(app)?;
        let folder = Folder::lock(&self.state, app).map_err(failure)?;
        let record = folder.read().map_err(failure)?.filter(|record| record.complete);
        let Some(mut record) = record else { return Err(absent(app)) };
        resize(&folder, &mut record, limits)
            .map_err(|error| Failure::new(format!("{error:#}"), "the limits are as before"))
    }

    fn describe(&self, app: &str) -> Result<Option<Instance>, Failure> {
        let record = self.read(app)?;
        record.map(|record| self.instance(&record)).transpose().map_err(failure)
    }

    fn healthy(&self, app: &str) -> Result<(), Failure> {
        let record = record::read(&self.state.join(app)).map_err(failure)?;
        let Some(record) = record.filter(|record| record.complete) else { return Err(absent(app)) };
        if !record.process.as_ref().is_some_and(Mark::runs) {
            let what = format!("the process of {app} has ended");
            return Err(Failure::new(
                what,
                format!("mirror provision {app} starts it again, with its own files"),
            ));
        }
        for step in &record.plan.steps {
            if let Step::Check { address, check, .. } = step {
                health::ask(*address, check).map_err(|error| {
                    Failure::new(format!("{error:#}"), format!("see {}", self.log(app).display()))
                })?;
            }
        }
        Ok(())
    }

    fn destroy(&self, app: &str, said: &mut dyn FnMut(&Done)) -> Result<bool, Failure> {
        need_root()?;
        let folder = Folder::lock(&self.state, app).map_err(failure)?;
        let removed = match folder.read().map_err(failure)? {
            Some(record) => Self::undo(&folder, record, said).map(|()| true),
            // Before the first record, and after the last, there is nothing else.
            None => folder.remove(),
        };
        removed.map_err(|error| Failure::new(format!("{error:#}"), "what is left is known: try again"))
    }
}
