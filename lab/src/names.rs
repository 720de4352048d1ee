//! A name server with dynamic updates, and clients of it: as much of DNS (RFC 1035, RFC 2136) as a gateway for datagrams must
//! know.
//!
//! Every answer bears its server's [`Mark`] as its record's time to live, so that a client sees who answered.

pub mod load;
mod message;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};

pub use message::{Answer, Ask};

use crate::net::Namespace;

/// Where name servers listen.
pub const PORT: u16 = 53;
/// A server looks so often whether it is to end.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of datagrams that wait for a server whose thread must wait for a core: what finds no room is lost.
const ROOM: usize = 8 << 20;
/// Longest message without extensions (RFC 1035, 2.3.4).
const LONGEST: usize = 512;

/// What tells one server's answers from another's.
pub type Mark = u32;
/// What a server knows: addresses by name.
pub type Records = BTreeMap<String, Ipv4Addr>;

/// A name server in a thread of this process; dropped, it is killed: its host's kernel refuses datagrams.
#[derive(Debug)]
pub struct NameServer {
    records: Arc<Mutex<Records>>,
    ends: Arc<AtomicBool>,
    silent: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl NameServer {
    /// Starts it at an address of `namespace`.
    ///
    /// # Errors
    /// If it can't listen there.
    pub fn start(namespace: &Namespace, address: impl Into<IpAddr>, mark: Mark) -> Result<Self> {
        let listen = SocketAddr::new(address.into(), PORT);
        let socket =
            namespace.run(|| UdpSocket::bind(listen))?.with_context(|| format!("listen on {listen}"))?;
        socket.set_read_timeout(Some(LOOK))?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, ROOM)
            .context("have more room than any program may")?;
        let mut server =
            Self { records: Arc::default(), ends: Arc::default(), silent: Arc::default(), thread: None };
        let (records, ends) = (Arc::clone(&server.records), Arc::clone(&server.ends));
        let silent = Arc::clone(&server.silent);
        server.thread = Some(std::thread::spawn(move || serve(&socket, mark, &records, &ends, &silent)));
        Ok(server)
    }

    /// What it knows now.
    pub fn records(&self) -> Records {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Teaches it what another one knows.
    pub fn learn(&self, records: Records) {
        *self.records.lock().unwrap_or_else(PoisonError::into_inner) = records;
    }

    /// From now on it takes datagrams, and answers none.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => eprintln!("a name server ended before: {error}"),
            Some(Err(_)) => eprintln!("a name server panicked"),
            Some(Ok(Ok(()))) | None => {}
        }
    }
}

fn serve(
    socket: &UdpSocket,
    mark: Mark,
    records: &Mutex<Records>,
    ends: &AtomicBool,
    silent: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = [0; LONGEST];
    while !ends.load(Ordering::Relaxed) {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if is_timeout(&error) => continue,
            Err(error) => return Err(error),
        };
        let Some(ask) = Ask::parse(&buffer[..length]) else { continue };
        if silent.load(Ordering::Relaxed) {
            continue;
        }
        let known = {
            let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(address) = ask.becomes {
                records.insert(ask.name.clone(), address);
            }
            records.get(&ask.name).copied()
        };
        send(socket, &Answer::to(&ask, known, mark).bytes(), from)?;
    }
    Ok(())
}

/// Sends a datagram. What the way refuses is lost as any other.
fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    match socket.send_to(bytes, to) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
