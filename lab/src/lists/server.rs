//! The server: one thread, a task a connection, no more than one `read` and one `write` a request.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use super::spoil::Spoil;
use super::store::Store;
use super::trace::Trace;
use crate::limits::raise_open_files;
use crate::wire::Dice;

mod connection;
mod ill;
mod routes;

/// How a server behaves.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its name, in `X-Server` of each answer.
    pub name: String,
    /// The file of its lists; `None`: a restart loses them.
    pub file: Option<PathBuf>,
    /// Write there when each request came and was answered.
    pub trace: Option<PathBuf>,
    /// Close a connection after this many requests.
    pub max_requests: Option<u64>,
    /// Don't announce such a close by `Connection: close`.
    pub close_silently: bool,
    /// Close a connection that has no request for this long.
    pub idle: Option<Duration>,
    /// Take this long for each answer.
    pub delay: Duration,
    /// And up to this much more.
    pub jitter: Duration,
    /// Close by RST instead of FIN.
    pub reset_on_close: bool,
    /// Let the append of this number go wrong.
    pub spoil: Option<(Spoil, u64)>,
}

impl ServerConfig {
    /// A server that closes nothing by itself, waits for nothing and keeps its lists in memory.
    pub fn new(listen: SocketAddr, name: impl Into<String>) -> Self {
        Self {
            listen,
            name: name.into(),
            file: None,
            trace: None,
            max_requests: None,
            close_silently: false,
            idle: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reset_on_close: false,
            spoil: None,
        }
    }
}

/// What all connections share. One thread has it.
struct Shared {
    config: ServerConfig,
    store: RefCell<Store>,
    /// What was said of the last body that `/sink` had.
    sunk: RefCell<String>,
    trace: Option<RefCell<Trace>>,
    dice: RefCell<Dice>,
    ill: Cell<ill::Ill>,
}

/// Serves until SIGTERM or SIGINT; calls `ready` with the address once it listens.
///
/// # Errors
/// If the file or the address can't be used.
pub fn serve(config: ServerConfig, ready: impl FnOnce(SocketAddr)) -> Result<()> {
    raise_open_files();
    let mut store = match &config.file {
        Some(path) => Store::durable(path)?,
        None => Store::volatile(),
    };
    if let Some((spoil, at)) = config.spoil {
        store.spoil(spoil, at);
    }
    let trace = config
        .trace
        .as_deref()
        .map(|path| Trace::create(path).with_context(|| format!("create {}", path.display())))
        .transpose()?;
    let shared = Rc::new(Shared {
        dice: RefCell::new(Dice(config.listen.port().into())),
        store: RefCell::new(store),
        sunk: RefCell::default(),
        trace: trace.map(RefCell::new),
        ill: Cell::default(),
        config,
    });
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, accept(Rc::clone(&shared), ready))?;
    if let Some(trace) = &shared.trace {
        trace.borrow_mut().flush().context("write the trace")?;
    }
    Ok(())
}

/// The next connection; without a listener there is none.
async fn next_of(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn accept(shared: Rc<Shared>, ready: impl FnOnce(SocketAddr)) -> Result<()> {
    let listener =
        listen(shared.config.listen).with_context(|| format!("listen on {}", shared.config.listen))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut flush = tokio::time::interval(Duration::from_millis(250));
    ready(listener.local_addr()?);
    let mut listener = Some(listener);
    loop {
        tokio::select! {
            accepted = next_of(listener.as_ref()) => match accepted {
                Ok((stream, _)) => {
                    tokio::task::spawn_local(connection::run(stream, Rc::clone(&shared)));
                }
                // The peer has gone again, or descriptors are short: neither ends the server.
                Err(error) => eprintln!("lists: accept: {error}"),
            },
            _ = flush.tick() => {
                if shared.ill.get().deaf {
                    listener = None;
                }
                if let Some(trace) = &shared.trace {
                    trace.borrow_mut().flush().context("write the trace")?;
                }
            }
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted server takes its port back from connections in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}
