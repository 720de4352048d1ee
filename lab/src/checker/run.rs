//! A whole run: connect, work, look again, sum up.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::net::{TcpStream, UnixDatagram};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::connection::{Connection, Shared};
use super::control::Command;
use super::journal::Writer;
use super::stats::Stats;
use super::{Config, Event, Reason, Summary};
use crate::limits::raise_open_files;
use crate::tcp_info;

/// How often what happened is said.
const PULSE: Duration = Duration::from_millis(100);
/// How long connections may take to come to rest in a pause; less than the sender of the command waits.
const QUIET: Duration = Duration::from_secs(8);
/// Pulses between two ticks.
const PULSES: u32 = 10;

/// Runs the checker to its end and tells `say` what happens meanwhile.
///
/// # Errors
/// If the configuration makes no sense, or a journal or the control socket can't be made. A server that fails is no
/// error: the summary counts it.
pub fn run(config: Config, say: impl FnMut(&Event)) -> Result<Summary> {
    ensure!(
        config.requests.is_some() || config.duration.is_some(),
        "say when to end: after requests, or a duration"
    );
    ensure!(config.connections > 0 && config.pipeline > 0, "connections and pipeline are at least 1");
    raise_open_files();
    if let Some(directory) = &config.log {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let shared = Rc::new(Shared {
        stats: RefCell::new(Stats::new()),
        left: Cell::new(config.requests.unwrap_or(u64::MAX)),
        think: Cell::new(config.think),
        stopped: Cell::new(false),
        paused: Cell::new(false),
        resumed: Notify::new(),
        working: Cell::new(0),
        resting: Cell::new(0),
        events: RefCell::default(),
        failures: RefCell::default(),
        config,
    });
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    LocalSet::new().block_on(&runtime, work(shared, say))
}

async fn work(shared: Rc<Shared>, mut say: impl FnMut(&Event)) -> Result<Summary> {
    let control = shared.config.control.clone();
    if let Some(path) = &control {
        let socket = bind(path)?;
        spawn_local(obey(socket, Rc::clone(&shared)));
    }
    let connections = connect_all(&shared).await?;
    let streams: Vec<Rc<TcpStream>> =
        connections.iter().map(|connection| Rc::clone(&connection.stream)).collect();
    let ports =
        streams.iter().filter_map(|stream| Some(stream.local_addr().ok()?.port())).collect::<Vec<_>>();
    say(&Event::Connected { connections: streams.len(), ports: ports.clone() });

    let began = Instant::now();
    let usable = Rc::new(Cell::new(connections.len()));
    let mut tasks = Vec::new();
    for mut connection in connections {
        let (usable, shared) = (Rc::clone(&usable), Rc::clone(&shared));
        shared.working.set(shared.working.get() + 1);
        tasks.push(spawn_local(async move {
            let result = connection.work().await;
            shared.working.set(shared.working.get() - 1);
            if connection.broken {
                usable.set(usable.get() - 1);
            }
            result.map(|()| connection)
        }));
    }
    watch(&shared, &tasks, &streams, &usable, began, &mut say).await;
    let seconds = began.elapsed().as_secs_f64();

    let mut failed_connections = shared.config.connections - streams.len();
    for task in tasks {
        let mut connection = task.await.context("a connection's task")?.context("write a journal")?;
        connection.finish().context("write a journal")?;
        failed_connections += usize::from(connection.broken);
    }
    if let Some(path) = &control {
        let _ = std::fs::remove_file(path);
    }
    for event in shared.events.take() {
        say(&event);
    }
    let stats = shared.stats.borrow();
    let answered = stats.reads + stats.writes;
    let summary = Summary {
        connections: streams.len(),
        failed_connections,
        requests: stats.sent,
        failed_requests: stats.failed,
        failed_mid_answer: stats.failed_mid_answer,
        writes: stats.writes,
        reads: stats.reads,
        seconds,
        requests_per_second: answered as f64 / seconds,
        retransmissions: retransmissions(&streams),
        windows: stats.windows(),
        ports,
        failures: shared.failures.take(),
    };
    say(&Event::Summary(Box::new(summary.clone())));
    Ok(summary)
}

/// Opens all connections, each once.
async fn connect_all(shared: &Rc<Shared>) -> Result<Vec<Connection>> {
    let config = &shared.config;
    let mut attempts = Vec::new();
    for index in 0..config.connections {
        let (target, limit) = (config.target, config.timeout);
        attempts.push(spawn_local(async move { (index, timeout(limit, TcpStream::connect(target)).await) }));
    }
    let mut connections = Vec::new();
    for attempt in attempts {
        let (index, result) = attempt.await.context("a connecting task")?;
        let key = format!("{}.c{index}", config.run);
        let stream = match result {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                shared.say_failure(&key, Reason::Connect, false, error.to_string());
                continue;
            }
            Err(_) => {
                shared.say_failure(&key, Reason::Connect, false, format!("not within {:?}", config.timeout));
                continue;
            }
        };
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let journal = match &config.log {
            Some(directory) => {
                let source = stream.local_addr().context("ask for the source address")?;
                let journal = Writer::create(directory, &key, source);
                Some(journal.with_context(|| format!("make a journal in {}", directory.display()))?)
            }
            None => None,
        };
        connections.push(Connection::new(Rc::clone(shared), index, key, Rc::new(stream), journal));
    }
    Ok(connections)
}

/// Says what happens until all tasks have ended; ends them when the time is over.
async fn watch<T>(
    shared: &Shared,
    tasks: &[tokio::task::JoinHandle<T>],
    streams: &[Rc<TcpStream>],
    usable: &Cell<usize>,
    began: Instant,
    say: &mut impl FnMut(&Event),
) {
    let mut pulse = tokio::time::interval(PULSE);
    let (mut pulses, mut last) = (0, began);
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        pulse.tick().await;
        if shared.config.duration.is_some_and(|limit| began.elapsed() >= limit) {
            shared.stopped.set(true);
            shared.resume();
        }
        for event in shared.events.take() {
            say(&event);
        }
        pulses += 1;
        if pulses % PULSES == 0 {
            let (seconds, lasted) = (began.elapsed().as_secs_f64(), last.elapsed().as_secs_f64());
            last = Instant::now();
            let resent = retransmissions(streams);
            let tick = shared.stats.borrow_mut().tick(seconds, lasted, usable.get(), resent);
            say(&Event::Tick(tick));
        }
    }
}

/// Sum over the connections, those that broke too.
fn retransmissions(streams: &[Rc<TcpStream>]) -> u64 {
    streams.iter().filter_map(|stream| tcp_info::retransmissions(stream.as_ref()).ok()).map(u64::from).sum()
}

fn bind(path: &Path) -> Result<UnixDatagram> {
    // A socket that a killed run left behind; if it is in use, binding says so.
    if std::os::unix::net::UnixDatagram::unbound().and_then(|socket| socket.connect(path)).is_err() {
        let _ = std::fs::remove_file(path);
    }
    UnixDatagram::bind(path).with_context(|| format!("bind the control socket {}", path.display()))
}

/// Carries out commands as they come.
async fn obey(socket: UnixDatagram, shared: Rc<Shared>) {
    let mut buffer = [0; 512];
    while let Ok((length, sender)) = socket.recv_from(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let answer = match Command::parse(&text) {
            Ok(command) => {
                let answer = carry_out(command, &shared).await;
                shared.events.borrow_mut().push(Event::Command { command: text });
                answer
            }
            Err(error) => error,
        };
        if let Some(path) = sender.as_pathname() {
            // A sender that doesn't wait for its answer doesn't want it.
            let _ = socket.send_to(answer.as_bytes(), path).await;
        }
    }
}

/// Does what a command says and returns its answer.
async fn carry_out(command: Command, shared: &Shared) -> String {
    match command {
        Command::Mark(name) => shared.stats.borrow_mut().mark(&name),
        Command::Think(think) => shared.think.set(think),
        Command::Pause => {
            shared.paused.set(true);
            let quiet = timeout(QUIET, async {
                while shared.resting.get() < shared.working.get() {
                    sleep(Duration::from_millis(1)).await;
                }
            });
            if quiet.await.is_err() {
                let late = shared.working.get() - shared.resting.get();
                return format!("{late} connections still wait for answers after {QUIET:?}");
            }
        }
        Command::Resume => shared.resume(),
        Command::Stop => {
            shared.stopped.set(true);
            shared.resume();
        }
    }
    "ok".to_owned()
}
