//! Clients that ask and update, each on a socket of its own, and count who answered.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Answer, Ask, LONGEST, Mark, Records, is_timeout, send};
use crate::net::Namespace;

/// Questions that a client has under way at once.
const AT_ONCE: u16 = 4;
/// A client's pause behind a round: nothing but the authority's answers holds it back, and a mirror that shares two cores with
/// all others must keep up.
const PAUSE: Duration = Duration::from_millis(2);
/// Clients are answered within so long, whatever else is on.
const SOON: Duration = Duration::from_secs(30);
/// One question of so many is an update.
const UPDATES: u32 = 5;

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where they ask.
    pub target: SocketAddr,
    /// How many there are.
    pub clients: usize,
    /// They also change their names' addresses.
    pub updates: bool,
    /// A question is lost after so long.
    pub patience: Duration,
}

/// Who answered what in a window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Queries, by who answered.
    pub queries: BTreeMap<Mark, u64>,
    /// Updates, by who answered.
    pub updates: BTreeMap<Mark, u64>,
    /// What wasn't answered.
    pub lost: u64,
}

impl Window {
    /// The share of the queries that a server answered.
    pub fn share(&self, mark: Mark) -> f64 {
        let all: u64 = self.queries.values().sum();
        self.queries.get(&mark).copied().unwrap_or(0) as f64 / all.max(1) as f64
    }

    fn add(&mut self, other: Self) {
        for (mine, its) in [(&mut self.queries, other.queries), (&mut self.updates, other.updates)] {
            for (mark, count) in its {
                *mine.entry(mark).or_default() += count;
            }
        }
        self.lost += other.lost;
    }
}

/// What all clients have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By the window in which it was asked.
    pub windows: Vec<Window>,
    /// The last answered update of each name.
    pub updated: Records,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    window: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    answered: Vec<Arc<AtomicUsize>>,
    threads: Vec<JoinHandle<Result<Seen>>>,
}

/// One client.
struct Client {
    socket: UdpSocket,
    name: String,
    plan: Plan,
    asked: u32,
    window: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    seen: Seen,
}

impl Load {
    /// Starts clients in `namespace`.
    ///
    /// # Errors
    /// If there are no sockets to be had.
    pub fn start(namespace: &Namespace, plan: Plan) -> Result<Self> {
        let mut load =
            Self { window: Arc::default(), ends: Arc::default(), answered: vec![], threads: vec![] };
        for n in 0..plan.clients {
            let here: SocketAddr = match plan.target {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = namespace.run(|| UdpSocket::bind(here))??;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            let answered = Arc::<AtomicUsize>::default();
            load.answered.push(Arc::clone(&answered));
            let client = Client {
                socket,
                name: format!("c{n}.{}.example", if plan.target.is_ipv4() { "four" } else { "six" }),
                plan,
                asked: 0,
                window: Arc::clone(&load.window),
                ends: Arc::clone(&load.ends),
                answered,
                seen: Seen::default(),
            };
            load.threads.push(std::thread::spawn(move || client.run()));
        }
        Ok(load)
    }

    /// What is asked from now on is in another window: its number.
    pub fn turn(&self) -> usize {
        self.window.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The same, and returns once each client has been answered so many rounds of questions in it.
    ///
    /// # Errors
    /// If a client isn't answered any more.
    pub fn next_window(&self, rounds: usize) -> Result<usize> {
        let window = self.turn();
        let goals: Vec<_> =
            self.answered.iter().map(|answered| answered.load(Ordering::SeqCst) + rounds).collect();
        crate::wait::wait_for("every client to be answered", SOON, || {
            goals.iter().zip(&self.answered).all(|(goal, answered)| answered.load(Ordering::SeqCst) >= *goal)
        })?;
        Ok(window)
    }

    /// Ends the clients; what they have seen.
    ///
    /// # Errors
    /// If one got an answer to what it hadn't asked, or its socket failed.
    pub fn stop(self) -> Result<Seen> {
        self.ends.store(true, Ordering::SeqCst);
        let mut all = Seen::default();
        for thread in self.threads {
            let seen = thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            all.windows.resize_with(all.windows.len().max(seen.windows.len()), Window::default);
            all.windows.iter_mut().zip(seen.windows).for_each(|(all, seen)| all.add(seen));
            all.updated.extend(seen.updated);
        }
        Ok(all)
    }
}

impl Client {
    fn run(mut self) -> Result<Seen> {
        while !self.ends.load(Ordering::SeqCst) {
            self.round()?;
            self.answered.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(PAUSE); // not synchronisation: how often they ask
        }
        Ok(self.seen)
    }

    /// Asks several questions at once, and waits for their answers. Of a name there is one update under way at most.
    fn round(&mut self) -> Result<()> {
        let now = self.window.load(Ordering::SeqCst);
        let mut open = BTreeMap::new();
        for n in 0..AT_ONCE {
            self.asked += 1;
            let becomes = (n == 0 && self.plan.updates && self.asked.is_multiple_of(UPDATES))
                .then(|| Ipv4Addr::from_bits(0x0a00_0000 | self.asked));
            let id = self.asked as u16;
            let ask = Ask { id, name: self.name.clone(), becomes };
            send(&self.socket, &ask.bytes(), self.plan.target)?;
            open.insert(id, ask);
        }
        self.seen.windows.resize_with((now + 1).max(self.seen.windows.len()), Window::default);
        let since = Instant::now();
        let mut buffer = [0; LONGEST];
        while !open.is_empty() && since.elapsed() < self.plan.patience {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    ensure!(from == self.plan.target, "an answer from {from}");
                    let answer = Answer::parse(&buffer[..length]).context("no answer")?;
                    let ask = open.remove(&answer.id).with_context(|| format!("not asked: {answer:?}"))?;
                    self.count(now, &ask, &answer)?;
                }
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(window) = self.seen.windows.get_mut(now) {
            window.lost += open.len() as u64;
        }
        Ok(())
    }

    fn count(&mut self, window: usize, ask: &Ask, answer: &Answer) -> Result<()> {
        ensure!(answer.name == ask.name, "{answer:?} to {ask:?}");
        let window = self.seen.windows.get_mut(window).context("a window")?;
        let counts = match ask.becomes {
            Some(address) => {
                self.seen.updated.insert(ask.name.clone(), address);
                &mut window.updates
            }
            None => &mut window.queries,
        };
        *counts.entry(answer.mark).or_default() += 1;
        Ok(())
    }
}
