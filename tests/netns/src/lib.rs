//! What the scenarios share: a lab with the gateway and both servers, and clients that run beside a test's own steps.

use std::{
    cell::Cell,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::mpsc::{Receiver, channel},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    checker::{self, Config, Summary, read_journals, send_command},
    gateway::{Gateway, policy},
    lists::Lists,
    net::{Host, Lab, LabBuilder, SERVICE_PORT, Tags, VIP},
    programs::ListsServer,
    proof::{Report, prove},
    wait::wait_for,
};
use serde_json::Value;

pub mod captures;
pub mod tour;

/// Longest time for something that must happen soon.
pub const SOON: Duration = Duration::from_secs(10);

/// The variable that says at which hook all scenarios run: `tc` (if it isn't set) or `xdp`.
pub const HOOK_VARIABLE: &str = "MIRROR_TEST_HOOK";

/// The hook of this run, as a policy names it.
///
/// # Errors
/// If the variable names none.
pub fn hook() -> Result<&'static str> {
    match std::env::var(HOOK_VARIABLE).as_deref() {
        Err(_) | Ok("tc") => Ok("tc"),
        Ok("xdp") => Ok("xdp"),
        Ok(other) => anyhow::bail!("{HOOK_VARIABLE} is `{other}`: tc or xdp"),
    }
}

/// The variable that says which tags the frames of all scenarios bear, on one trunk: `vlan`, `qinq`, or `none` (if it isn't
/// set).
pub const TAGS_VARIABLE: &str = "MIRROR_TEST_TAGS";

/// A lab that is ready for the hook of this run, with this run's tags.
///
/// # Errors
/// If a variable names none.
pub fn lab_builder() -> Result<LabBuilder> {
    let tags = std::env::var(TAGS_VARIABLE).unwrap_or_else(|_| "none".to_owned());
    let tags: Tags = tags.parse().map_err(|error| anyhow::anyhow!("{TAGS_VARIABLE}: {error}"))?;
    Ok(Lab::builder().xdp_ready(hook()? == "xdp").tags(tags).trunk(true))
}

/// Everything that a scenario needs; fields are dropped in their order.
pub struct Scene {
    /// The daemon.
    pub gateway: Gateway,
    /// By side; `None` while a server is dead.
    pub servers: [Option<ListsServer>; 2],
    /// The hosts.
    pub lab: Lab,
}

impl Scene {
    /// A lab, both servers, and the daemon under the default policy.
    ///
    /// # Errors
    /// If something doesn't start.
    pub fn new() -> Result<Self> {
        Self::with("", "", &[])
    }

    /// The same with settings of the application, settings of its shadow, and the shadow server's options.
    ///
    /// # Errors
    /// If something doesn't start.
    pub fn with(more: &str, shadow: &str, options: &[&str]) -> Result<Self> {
        let lab = lab_builder()?.up()?;
        Self::on(lab, more, shadow, options)
    }

    /// The same in a lab that was built otherwise, by way of [`lab_builder`].
    ///
    /// # Errors
    /// If something doesn't start.
    pub fn on(lab: Lab, more: &str, shadow: &str, options: &[&str]) -> Result<Self> {
        Self::under(lab, more, shadow, options, &[])
    }

    /// The same with variables in the daemon's environment.
    ///
    /// # Errors
    /// If something doesn't start.
    pub fn under(
        lab: Lab,
        more: &str,
        shadow: &str,
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let primary = ListsServer::on(&lab, Host::Primary, &["--volatile"])?;
        let second = ListsServer::on(&lab, Host::Shadow, &[&["--volatile"], options].concat())?;
        let policy = policy(&format!("hook = \"{}\"\n{more}", hook()?), shadow)?;
        let gateway = Gateway::start_with(&lab, &policy, variables)?;
        Ok(Self { gateway, servers: [Some(primary), Some(second)], lab })
    }

    /// Joins the shadow.
    ///
    /// # Errors
    /// If the daemon refuses.
    pub fn joined(self) -> Result<Self> {
        self.ctl(&["join", "shop"])?;
        Ok(self)
    }

    /// A command of the binary `mirror`.
    ///
    /// # Errors
    /// If it fails.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Value> {
        self.gateway.ctl(arguments).with_context(|| {
            let log = self.gateway.log();
            let last: Vec<&str> = log.lines().rev().take(8).collect();
            format!("the gateway said, the newest first:\n{}", last.join("\n"))
        })
    }

    /// Starts a server again that was killed, at its old address.
    ///
    /// # Errors
    /// If it doesn't start.
    pub fn restart(&mut self, host: Host) -> Result<()> {
        let side = usize::from(host == Host::Shadow);
        self.servers[side] = None;
        self.servers[side] = Some(ListsServer::on(&self.lab, host, &["--volatile"])?);
        Ok(())
    }

    /// A server's process.
    ///
    /// # Errors
    /// If it was killed.
    pub fn server(&mut self, host: Host) -> Result<&mut ListsServer> {
        self.servers[usize::from(host == Host::Shadow)].as_mut().with_context(|| format!("{host} is dead"))
    }

    /// Connections that a host's servers have accepted so far.
    ///
    /// # Errors
    /// If its kernel's counters can't be read.
    pub fn passive_opens(&self, host: Host) -> Result<u64> {
        self.lab.host(host).tcp_counter("PassiveOpens")
    }

    /// Connections that a host's clients have opened so far.
    ///
    /// # Errors
    /// If its kernel's counters can't be read.
    pub fn active_opens(&self, host: Host) -> Result<u64> {
        self.lab.host(host).tcp_counter("ActiveOpens")
    }

    /// What a server has now.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub fn lists(&self, host: Host) -> Result<Lists> {
        let target = SocketAddr::from(host.service());
        let dump = self.lab.host(Host::Gateway).run(|| lab::http_client::get(target, "/dump"))??;
        lab::lists::parse_dump(&String::from_utf8(dump)?).with_context(|| format!("the dump of {host}"))
    }

    /// Gives a server's reads an ailment; an empty query makes it well.
    ///
    /// # Errors
    /// If it doesn't answer, or doesn't know the ailment.
    pub fn ail(&self, host: Host, query: &str) -> Result<()> {
        let target = SocketAddr::from(host.service());
        let path = format!("/ill?{query}");
        self.lab.host(Host::Gateway).run(|| lab::http_client::put(target, &path, b""))??;
        Ok(())
    }

    /// Whether the lists' contents are the same on both sides.
    ///
    /// # Errors
    /// If a server doesn't answer.
    pub fn states_equal(&self) -> Result<bool> {
        Ok(self.lists(Host::Primary)? == self.lists(Host::Shadow)?)
    }

    /// Compares the clients' journals with both servers' states.
    ///
    /// # Errors
    /// If a request failed, a write isn't where it belongs, or the states differ; or a journal or a server can't be read.
    pub fn proven(&self) -> Result<Report> {
        let sides = [
            ("primary".to_owned(), self.lists(Host::Primary)?),
            ("shadow".to_owned(), self.lists(Host::Shadow)?),
        ];
        let proof = prove(&read_journals(&self.journals())?, &sides);
        ensure!(proof.is_ok(), "{proof:#?}");
        Ok(proof)
    }

    /// Lets a client go on for a second, ends it and proves the whole.
    ///
    /// # Errors
    /// If a request failed, or as [`Scene::proven`].
    pub fn end_proven(&self, client: Running) -> Result<()> {
        client.tick()?;
        all_answered(&client.stop()?)?;
        self.proven().map(drop)
    }

    /// Where clients with the settings of [`Scene::client`] keep their journals.
    pub fn journals(&self) -> PathBuf {
        self.gateway.folder().join("journals")
    }

    /// Waits until the application's status says so.
    ///
    /// # Errors
    /// If it doesn't within ten seconds.
    pub fn wait_status(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let seen = wait_for(what, SOON, || self.gateway.status().is_ok_and(|status| holds(&status)));
        seen.with_context(|| format!("status: {:?}", self.gateway.status()))
    }

    /// The checking client's settings towards the service, with its journals in the gateway's folder.
    pub fn client(&self, connections: usize) -> Config {
        let mut config = Config::new(SocketAddr::from((VIP, SERVICE_PORT)));
        config.connections = connections;
        config.log = Some(self.journals());
        config.control = Some(self.gateway.folder().join("checker.sock"));
        config
    }

    /// Starts the checking client on the client's host; returns once all its connections are open.
    ///
    /// # Errors
    /// If it doesn't get that far.
    pub fn start_client(&self, config: Config) -> Result<Running> {
        let client = self.lab.host(Host::Client);
        let control = config.control.clone();
        let (says, heard) = channel();
        if let Some(folder) = &config.log {
            std::fs::create_dir_all(folder)?;
        }
        let thread = std::thread::spawn(move || {
            client.run(|| {
                checker::run(config, |event| {
                    // Nobody listens any more when the test has failed.
                    let _ = says.send(event.clone());
                })
            })?
        });
        let running = Running { thread, heard, control, answered: Cell::new(0) };
        match running.wait_connected() {
            // It knows best why it has ended.
            Err(error) if running.thread.is_finished() => Err(running.end().err().unwrap_or(error)),
            Err(error) => Err(error),
            Ok(()) => Ok(running),
        }
    }

    /// Runs the checking client to its end.
    ///
    /// # Errors
    /// If it can't run; what has failed of its requests is in the summary.
    pub fn run_client(&self, config: Config) -> Result<Summary> {
        self.start_client(config)?.end()
    }
}

/// A checking client at work.
pub struct Running {
    thread: JoinHandle<Result<Summary>>,
    heard: Receiver<checker::Event>,
    control: Option<PathBuf>,
    answered: Cell<u64>,
}

impl Running {
    fn wait_connected(&self) -> Result<()> {
        loop {
            match self.heard.recv_timeout(SOON) {
                Ok(checker::Event::Connected { .. }) => return Ok(()),
                Ok(_) => {}
                Err(_) => anyhow::bail!("the client doesn't get its connections"),
            }
        }
    }

    /// Waits for the next second's count of answered requests.
    ///
    /// # Errors
    /// If the client has ended, or hangs.
    pub fn tick(&self) -> Result<checker::Tick> {
        // Those that have come before don't tell of what the caller has just done.
        while self.heard.try_recv().is_ok() {}
        loop {
            if let checker::Event::Tick(tick) = self.heard.recv_timeout(SOON).context("no tick")? {
                return Ok(tick);
            }
        }
    }

    /// Begins a window of the summary.
    ///
    /// # Errors
    /// If the client has ended.
    pub fn mark(&self, name: &str) -> Result<()> {
        self.command(&format!("mark {name}"))
    }

    /// Requests answered so far, as of the last whole second.
    ///
    /// # Errors
    /// If the client has ended.
    pub fn answered(&self) -> Result<u64> {
        let mut answered = self.answered.get();
        for event in self.heard.try_iter() {
            match event {
                checker::Event::Tick(tick) => answered = tick.requests,
                checker::Event::Summary(summary) => answered = summary.requests,
                checker::Event::Connected { .. }
                | checker::Event::Command { .. }
                | checker::Event::Failure { .. } => {}
            }
        }
        self.answered.set(answered);
        ensure!(!self.thread.is_finished(), "the client has ended, with {answered} requests");
        Ok(answered)
    }

    /// Begins no request until [`Running::resume`]; when this returns none is under way.
    ///
    /// # Errors
    /// If the client has ended, or hangs.
    pub fn pause(&self) -> Result<()> {
        self.command("pause")
    }

    /// Goes on.
    ///
    /// # Errors
    /// If the client has ended.
    pub fn resume(&self) -> Result<()> {
        self.command("resume")
    }

    /// Tells it to end, waits for it and returns what it counted.
    ///
    /// # Errors
    /// If it couldn't run.
    pub fn stop(self) -> Result<Summary> {
        // It may have ended by itself.
        let _ = self.command("stop");
        self.end()
    }

    /// Waits for its own end.
    ///
    /// # Errors
    /// If it couldn't run.
    pub fn end(self) -> Result<Summary> {
        self.thread.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
    }

    fn command(&self, text: &str) -> Result<()> {
        let control = self.control.as_ref().context("the client has no control socket")?;
        Ok(send_command(control, text)?)
    }
}

/// A connection from a host, each write on which is a segment of its own.
///
/// # Errors
/// If nobody accepts it.
pub fn connect(lab: &Lab, from: Host, to: SocketAddr) -> Result<TcpStream> {
    let stream = lab.host(from).run(|| TcpStream::connect(to))??;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Fails with all that is known, unless every request had its right answer.
///
/// # Errors
/// If one hadn't.
pub fn all_answered(summary: &Summary) -> Result<()> {
    ensure!(summary.is_ok(), "{summary:#?}");
    Ok(())
}

/// Fails unless in each window of this name most reads were answered by this server.
///
/// # Errors
/// If one weren't, or there is no such window.
pub fn mostly_answered_by(summary: &Summary, windows: &[(&str, Host)]) -> Result<()> {
    for (name, host) in windows {
        let window = summary.windows.iter().find(|window| window.name == *name).context("no window")?;
        let share = window.servers.get(host.name()).map_or(0.0, |server| server.read_share);
        ensure!(share > 0.5, "{name}: the {host} answered {share} of the reads: {summary:#?}");
    }
    Ok(())
}

/// Which share of the reads of a window the shadow answered.
///
/// # Errors
/// If there is no such window.
pub fn share(summary: &Summary, window: &str) -> Result<f64> {
    let window = summary.windows.iter().find(|one| one.name == window).context("no such window")?;
    let of = |name: &str| window.servers.get(name).map_or(0.0, |server| server.reads.count as f64);
    Ok(of("shadow") / (of("shadow") + of("primary")).max(1.0))
}

/// How often something is done: `short` in a test, `long` where `MIRROR_SOAK` is set.
pub fn rounds(short: u32, long: u32) -> u32 {
    if std::env::var_os("MIRROR_SOAK").is_some() { long } else { short }
}

/// Linux' least retransmission timeout, in microseconds.
const LEAST_TIMEOUT_US: u64 = 200_000;

/// Fails if the clients' kernels sent anything again, while no request took as long as the least retransmission timeout:
/// on a machine that is too busy to answer in that time, it says nothing.
///
/// Loss probes don't count: with two segments under way Linux says the last one again when twice the round trip has gone by
/// without an acknowledgement (RFC 8985, 7.2), and that comes with the slower server.
///
/// # Errors
/// If there was a retransmission.
pub fn nothing_sent_again(lab: &Lab, summary: &Summary) -> Result<()> {
    let slowest = summary.windows.iter().map(|window| window.slowest.us).max().unwrap_or_default();
    let probes = lab.host(Host::Client).tcp_counter("TCPLossProbes")?;
    ensure!(
        summary.retransmissions <= probes || slowest >= LEAST_TIMEOUT_US,
        "{} retransmissions, {probes} loss probes, and the slowest request took {slowest} µs",
        summary.retransmissions
    );
    Ok(())
}
